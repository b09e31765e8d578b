"""The static checker: proves of a program, from its instructions and constants alone, that the machine runs it rightly.

It never knows who chose the plan. What it proves:

- fields, sizes and ranges are legal, tables and parameter records too (``legal.py``, ``bounds.py``);
- no deadlock, each semaphore with one producer and one consumer, all empty at the end (``hazards.Order``);
- no race: whatever two engines both access, one of them writing, is ordered by tokens (vector clocks over every byte);
- nothing is read before it is written, nothing read-only is written, no output overlaps what it is computed from;
- each instruction sees the data of the instructions that the planner meant (``intent``): live ranges do not overlap;
- no accumulator can overflow, whatever the inputs, from the actual weights and biases.

Since there is no race, every execution gives what program order gives, so each property is proven in program order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import CompilerFault, QaccelError
from ...machine.artefact import Artefact
from ...machine.hw import HwConfig
from ...machine.isa import Instruction, decode
from ..access import Access, accesses
from ..layers import channel_bytes
from .bounds import Accumulators, Constants
from .hazards import FIRST, INITIAL, NEVER, Order, Shadow, TokenError, touched_bytes
from .legal import first_fault

Intent = Iterable[tuple[int, Iterable[int]]]


@dataclass(frozen=True)
class DramMap:
    """``image`` uint8 [size] at the start; byte ranges (begin, end) that are defined then, and that are read-only."""

    image: np.ndarray
    initialised: tuple[tuple[int, int], ...]
    read_only: tuple[tuple[int, int], ...]


def check_program(artefact: Artefact, intent: Intent | None = None) -> None:
    """Check an artefact. Raises CompilerFault with the instruction, its op and layer, the value and the limit."""
    image = np.zeros(artefact.dram_bytes, np.uint8)
    constant = []
    for addr, data in ((artefact.constants_addr, artefact.constants), (artefact.program_addr, artefact.program)):
        if addr + len(data) > artefact.dram_bytes:
            raise CompilerFault(
                f"program check: DRAM bytes {addr} to {addr + len(data)} leave {artefact.dram_bytes} bytes of DRAM"
            )
        image[addr : addr + len(data)] = np.frombuffer(data, np.uint8)
        constant.append((addr, addr + len(data)))
    inputs = [(slot.dram_addr, slot.dram_addr + slot.dram_bytes) for slot in artefact.inputs]
    memory = DramMap(image, (*constant, *inputs), tuple(constant))
    check_instructions(decode(artefact.program), artefact.hw, memory, artefact.layers, intent)


def check_instructions(
    instructions: Sequence[Instruction],
    hw: HwConfig,
    memory: DramMap,
    layers: Sequence[str] = (),
    intent: Intent | None = None,
) -> None:
    """Check decoded instructions.

    ``intent``: (reading instruction, the instructions whose data it must see); an instruction that is not listed must
    read nothing but DRAM's initial contents. Without it, whose data are read is not checked. Raises CompilerFault.
    """
    checker = _Checker(hw, memory, None if intent is None else {reader: frozenset(data) for reader, data in intent})
    for index, ins in enumerate(instructions):
        try:
            checker.step(index, ins)
        except (QaccelError, TokenError) as error:
            layer = layers[ins["layer"]] if ins["layer"] < len(layers) else ins["layer"]
            raise CompilerFault(
                f"program check: instruction {index} ({ins.op}, layer {layer}): {error.args[0]}"
            ) from None
    leftover = checker.order.leftover()
    if leftover or checker.accumulators.open:
        raise CompilerFault(f"program check: end of the program: {leftover or 'accumulators are still open'}")


class _Checker:
    def __init__(self, hw: HwConfig, memory: DramMap, intent: dict[int, frozenset[int]] | None) -> None:
        self.hw, self.intent = hw, intent
        self.order = Order()
        size = memory.image.size
        sizes = {"sram": hw.sram_bytes, "weights": hw.weight_buffer_bytes, "dram": size}
        self.shadows = {name: Shadow(count, len(self.order.engines)) for name, count in sizes.items()}
        self.read_only = np.zeros(size, bool)
        for begin, end in memory.initialised:
            self.shadows["dram"].writer[begin:end] = INITIAL
        for begin, end in memory.read_only:
            self.read_only[begin:end] = True
        self.constants = Constants(hw, memory.image, self.read_only)
        self.accumulators = Accumulators(hw)
        self.dram_bytes = size
        self._engine_of = np.zeros(2 * FIRST, np.int8)  # by mark; grows with the program

    def step(self, index: int, ins: Instruction) -> None:
        fault = first_fault(ins, self.hw, self.dram_bytes)
        if fault:
            raise CompilerFault(fault)
        clock = self.order.start(ins, index)
        engine = self.order.engines.index(ins.engine)
        if index + FIRST >= self._engine_of.size:
            self._engine_of = np.concatenate([self._engine_of, np.zeros_like(self._engine_of)])
        self._engine_of[FIRST + index] = engine
        touched = accesses(ins, self.hw)
        for access in touched:
            if not access.write:
                self._check_read(index, access, clock)
                if not _in_place(ins, access):
                    self.shadows[access.memory].record(access, engine, index)
        for access in touched:
            if access.write:
                self._check_write(index, access, clock, engine)
        for access in touched:
            self.shadows[access.memory].record(access, engine, index)
        self.constants.step(ins, self.hw)
        if ins.op == "TABLE":
            self.constants.check_table(ins)
        self.accumulators.step(ins, self.constants)
        self.order.complete(ins)

    def _check_read(self, index: int, access: Access, clock: np.ndarray) -> None:
        marks = self.shadows[access.memory].writers(access)
        if marks[0] == NEVER:
            raise CompilerFault(f"reads {access.what} in {_place(access)}, of which some bytes were never written")
        self._ordered(marks, access, clock, "were written")
        if self.intent is None:
            return
        wanted = {FIRST + writer for writer in self.intent.get(index, ())} or {INITIAL}
        for mark in marks.tolist():
            if mark not in wanted:
                whose = "DRAM's initial contents" if mark == INITIAL else f"what instruction {mark - FIRST} wrote"
                meant = ", ".join(str(writer - FIRST) for writer in sorted(wanted) if writer != INITIAL)
                meant = f"that of instruction {meant}" if meant else "DRAM's initial contents"
                raise CompilerFault(f"reads {access.what} in {_place(access)} and finds {whose}, not {meant}")

    def _check_write(self, index: int, access: Access, clock: np.ndarray, engine: int) -> None:
        shadow = self.shadows[access.memory]
        if access.memory == "dram" and touched_bytes(self.read_only, access.merged()).any():
            raise CompilerFault(f"writes {_place(access)}, of which some bytes are read-only")
        self._ordered(shadow.writers(access), access, clock, "were written")
        for other in range(len(self.order.engines)):
            mark = shadow.last_reader(other, access)
            if other == engine and mark == FIRST + index:
                raise CompilerFault(f"writes {access.what} over its own operands in {_place(access)}")
            self._ordered(np.array([mark]), access, clock, "were read")

    def _ordered(self, marks: np.ndarray, access: Access, clock: np.ndarray, done: str) -> None:
        late = marks[(marks >= FIRST) & (marks > clock[self._engine_of[marks]])]
        if late.size:
            raise CompilerFault(
                f"accesses {access.what} in {_place(access)}, which {done} by instruction {int(late[0]) - FIRST}: "
                "no semaphore orders the two, a race"
            )


def _place(access: Access) -> str:
    begin, end = access.hull()
    return f"{access.memory} bytes {begin} to {end - 1}"


def _in_place(ins: Instruction, access: Access) -> bool:
    """Whether the operand may be overwritten by the output: an element-wise operand of the same view and width."""
    prefix = {"input": "in", "second operand": "b"}.get(access.what)
    if ins.op != "ELTWISE" or prefix is None or access.run_bytes != channel_bytes(ins["channels"], ins["out_bits"]):
        return False
    # The stride between rows, or pixels, that are only one means nothing.
    names = ("addr", "bits", *(("row_stride",) if ins["h"] > 1 else ()), *(("pixel_stride",) if ins["w"] > 1 else ()))
    return all(ins[f"{prefix}_{name}"] == ins[f"out_{name}"] for name in names)
