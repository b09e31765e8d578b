"""Who wrote and read each byte, and what is ordered before what: the checker's model of memories and semaphores."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...machine.isa import Instruction, isa
from ..access import Access

NEVER, INITIAL, FIRST = 0, 1, 2  # marks of a byte: instruction i is FIRST + i


def touched_bytes(data: np.ndarray, access: Access) -> np.ndarray:
    """[rows, pixels, run_bytes] view of the bytes of an access within one memory's array [size]."""
    item = data.strides[0]
    shape = access.rows, access.pixels, access.run_bytes
    return as_strided(data[access.start :], shape, (access.row_stride * item, access.pixel_stride * item, item))


def distinct(marks: np.ndarray) -> np.ndarray:
    """Sorted distinct values of an array that is mostly long runs of one value."""
    flat = marks.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.unique(np.concatenate([flat[:1], flat[changes + 1]]))


class Shadow:
    """Marks of the last writer of each byte, and of each engine's last reader. All writes to a byte are ordered."""

    def __init__(self, size_bytes: int, engines: int) -> None:
        self.writer = np.zeros(size_bytes, np.int32)
        self.readers = [np.zeros(size_bytes, np.int32) for _ in range(engines)]

    def writers(self, access: Access) -> np.ndarray:
        """Distinct marks of the last writers of the bytes."""
        return distinct(touched_bytes(self.writer, access.merged()))

    def last_reader(self, engine: int, access: Access) -> int:
        """Greatest mark among that engine's last readers of the bytes."""
        return int(touched_bytes(self.readers[engine], access.merged()).max())

    def record(self, access: Access, engine: int, index: int) -> None:
        """Instruction ``index`` reads or writes the bytes."""
        target = self.writer if access.write else self.readers[engine]
        touched_bytes(target, access.merged())[...] = FIRST + index


class TokenError(Exception):
    """A semaphore rule that the program breaks."""


class Order:
    """Semaphores in program order, with vector clocks: per engine, the marks known to have happened before.

    Program order is executable: each wait finds its token and no semaphore ever holds more than its maximum. Then no
    execution can stop, however long the queues. Take the earliest instruction, in program order, that never completes.
    All before it complete, so it is dispatched and comes to the head of its queue. Its tokens were produced by
    instructions before it, and only earlier instructions of its own engine can have taken any. When it is done, a
    semaphore that it signals has received just what program order had put there and lost at least as much, so it is
    not full. Hence the instruction completes.
    """

    def __init__(self) -> None:
        spec = isa()
        self.engines = list(spec.engines)
        self.maximum = spec.semaphore_maximum
        self.tokens: list[deque[np.ndarray]] = [deque() for _ in range(spec.semaphore_count + 1)]
        self.ends: list[list[str | None]] = [[None, None] for _ in range(spec.semaphore_count + 1)]
        self.clocks = np.zeros((len(self.engines), len(self.engines)), np.int64)

    def _claim(self, number: int, side: int, engine: str) -> None:
        owner = self.ends[number][side]
        if owner is None:
            self.ends[number][side] = engine
        elif owner != engine:
            role = ("produced", "consumed")[side]
            raise TokenError(f"semaphore {number} is {role} by {owner} and by {engine}, each side must be one engine")

    @staticmethod
    def _distinct(waits: Sequence[int], signals: Sequence[int]) -> None:
        if len(set(waits)) != len(waits) or len(set(signals)) != len(signals):
            raise TokenError(f"names a semaphore twice (waits {list(waits)}, signals {list(signals)})")
        if set(waits) & set(signals):
            raise TokenError(f"waits for and signals semaphore {min(set(waits) & set(signals))}")

    def start(self, ins: Instruction, index: int) -> np.ndarray:
        """Take the waits; gives the clock that holds while the instruction runs (a copy is not made)."""
        self._distinct(ins.waits, ins.signals)
        engine = self.engines.index(ins.engine)
        clock = self.clocks[engine]
        for number in ins.waits:
            self._claim(number, 1, ins.engine)
            if not self.tokens[number]:
                raise TokenError(f"waits for semaphore {number}, which holds no token in program order: a deadlock")
            np.maximum(clock, self.tokens[number].popleft(), out=clock)
        clock[engine] = FIRST + index
        return clock

    def complete(self, ins: Instruction) -> None:
        """Give the signals."""
        clock = self.clocks[self.engines.index(ins.engine)]
        for number in ins.signals:
            self._claim(number, 0, ins.engine)
            if len(self.tokens[number]) == self.maximum:
                raise TokenError(
                    f"signals semaphore {number}, which holds its maximum of {self.maximum} tokens already"
                )
            self.tokens[number].append(clock.copy())

    def leftover(self) -> str | None:
        """The first semaphore that is not empty, or None."""
        for number, held in enumerate(self.tokens):
            if held:
                return f"semaphore {number} holds {len(held)} tokens at the end of the program, must be 0"
        return None
