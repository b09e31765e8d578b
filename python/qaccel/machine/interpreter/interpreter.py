"""A slow, plain interpreter of programs, written from the ISA manual alone: what the simulator is held against.

It shares nothing with the simulator, the planner and the costs but how instructions are decoded and what a config says.

Engines are queues of instructions; of all that could go on at a moment, a seeded generator picks one. A program whose
result depends on anything but its semaphores therefore gives different results for different seeds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from ...errors import QaccelError
from ..hw import HwConfig
from ..isa import Instruction, decode, isa
from . import semantics
from .memory import Access, MachineError, Memory
from .state import State


def run(
    hw: HwConfig,
    program: bytes,
    dram: np.ndarray,
    *,
    initialised: Sequence[tuple[int, int]],
    read_only: Sequence[tuple[int, int]] = (),
    seed: int | None = None,
    executed: Callable[[int, list[Access]], None] | None = None,
) -> None:
    """Run a program on DRAM (uint8 [size], changed in place).

    Without a ``seed``, what can go on does so in the order of the engines. ``executed`` is called after each instruction with its
    index and what it read and wrote. Raises MachineError for what the manual calls an error.
    """
    Machine(hw, program, dram, initialised, read_only, seed, executed).run()


def check_semaphores(program: list[Instruction]) -> None:
    """The rules on semaphore names that need no execution (manual, "machine")."""
    producer: dict[int, str] = {}
    consumer: dict[int, str] = {}
    for index, ins in enumerate(program):
        waits = [n for n in (ins["wait0"], ins["wait1"], ins["wait2"]) if n]
        signals = [n for n in (ins["signal0"], ins["signal1"], ins["signal2"]) if n]
        if len(set(waits)) < len(waits) or len(set(signals)) < len(signals):
            raise MachineError(index, "a semaphore is named twice")
        if set(waits) & set(signals):
            raise MachineError(index, "waits for and signals the same semaphore")
        for numbers, owner in ((waits, consumer), (signals, producer)):
            for number in numbers:
                if owner.setdefault(number, ins.engine) != ins.engine:
                    raise MachineError(index, f"semaphore {number} belongs to {owner[number]}, not to {ins.engine}")


class Machine:
    """State, queues and semaphores of one run."""

    def __init__(
        self,
        hw: HwConfig,
        program: bytes,
        dram: np.ndarray,
        initialised: Sequence[tuple[int, int]],
        read_only: Sequence[tuple[int, int]],
        seed: int | None,
        executed: Callable[[int, list[Access]], None] | None,
    ) -> None:
        self.hw = hw
        self.executed = executed
        self.log: list[Access] = []
        try:
            self.program = decode(program)
        except QaccelError as error:
            raise MachineError(None, str(error)) from None
        self.state = State(
            hw,
            Memory("DRAM", dram, self.log, initialised, read_only),
            Memory("SRAM", np.zeros(hw.sram_bytes, np.uint8), self.log),
            Memory("weight buffer", np.zeros(hw.weight_buffer_bytes, np.uint8), self.log),
        )
        self.rng = None if seed is None else np.random.default_rng(seed)
        self.tokens = dict.fromkeys(range(1, isa().semaphore_count + 1), 0)
        self.dispatched = 0
        self.queues: dict[str, deque[int]] = {engine: deque() for engine in isa().engines}
        # Engines that still hold an executed instruction because a semaphore is full: (index, signals left).
        self.held: dict[str, tuple[int, list[int]]] = {}

    def run(self) -> None:
        check_semaphores(self.program)
        while True:
            moves = self._moves()
            if not moves:
                break
            self._move(moves[0] if self.rng is None else moves[self.rng.integers(len(moves))])
        self._check_end()

    def _moves(self) -> list[str]:
        """What could happen next: "dispatch", or the name of an engine."""
        moves = [engine for engine in self.queues if self._can_go_on(engine)]
        if self.dispatched < len(self.program):
            queue = self.queues[self.program[self.dispatched].engine]
            if len(queue) < self.hw.queue_entries:
                moves.append("dispatch")
        return moves

    def _can_go_on(self, engine: str) -> bool:
        if engine in self.held:
            return any(self.tokens[number] < isa().semaphore_maximum for number in self.held[engine][1])
        if not self.queues[engine]:
            return False
        ins = self.program[self.queues[engine][0]]
        return all(self.tokens[number] for number in (ins["wait0"], ins["wait1"], ins["wait2"]) if number)

    def _move(self, move: str) -> None:
        if move == "dispatch":
            self.queues[self.program[self.dispatched].engine].append(self.dispatched)
            self.dispatched += 1
            return
        if move not in self.held:
            index = self.queues[move].popleft()
            ins = self.program[index]
            for number in (ins["wait0"], ins["wait1"], ins["wait2"]):
                if number:
                    self.tokens[number] -= 1
            try:
                semantics.execute(self.state, ins)
            except semantics.Fault as fault:
                raise MachineError(index, str(fault)) from None
            if self.executed is not None:
                self.executed(index, list(self.log))
            self.log.clear()
            self.held[move] = index, [n for n in (ins["signal0"], ins["signal1"], ins["signal2"]) if n]
        index, signals = self.held.pop(move)
        left = []
        for number in signals:
            if self.tokens[number] < isa().semaphore_maximum:
                self.tokens[number] += 1
            else:
                left.append(number)
        if left:
            self.held[move] = index, left

    def _check_end(self) -> None:
        stuck = [queue[0] for queue in self.queues.values() if queue] + [index for index, _ in self.held.values()]
        if stuck:
            raise MachineError(min(stuck), "deadlock: it waits for a token, or for room for one, that never comes")
        full = [number for number, count in self.tokens.items() if count]
        if full:
            raise MachineError(None, f"semaphore {full[0]} holds {self.tokens[full[0]]} tokens at the end")
        if self.state.accumulators is not None:
            raise MachineError(None, "accumulators are open at the end")
