"""Who wrote and read each byte, and what is ordered before what: the checker's proof of races, intent and semaphores."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...machine.isa import Instruction, isa
from ..access import Access
from ..touches import FIRST, INITIAL, NEVER, Box, LastTouches, box_of, last_touches


def touched_bytes(data: np.ndarray, access: Access) -> np.ndarray:
    """[rows, pixels, run_bytes] view of the bytes of an access within one memory's array [size]."""
    if access.rows == access.pixels == 1:
        return data[access.start : access.start + access.run_bytes].reshape(1, 1, -1)
    item = data.strides[0]
    shape = access.rows, access.pixels, access.run_bytes
    return as_strided(data[access.start :], shape, (access.row_stride * item, access.pixel_stride * item, item))


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
        self.tokens: list[deque[list[int]]] = [deque() for _ in range(spec.semaphore_count + 1)]
        self.ends: list[list[str | None]] = [[None, None] for _ in range(spec.semaphore_count + 1)]
        self.clocks = [[0] * len(self.engines) for _ in self.engines]

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

    def start(self, ins: Instruction, engine: int, index: int) -> list[int]:
        """Take the waits; gives the clock that holds while the instruction runs."""
        waits, signals = ins.waits, ins.signals
        if len(waits) + len(signals) > 1:
            self._distinct(waits, signals)
        clock = list(self.clocks[engine])
        for number in waits:
            self._claim(number, 1, ins.engine)
            if not self.tokens[number]:
                raise TokenError(f"waits for semaphore {number}, which holds no token in program order: a deadlock")
            clock = [max(pair) for pair in zip(clock, self.tokens[number].popleft(), strict=True)]
        clock[engine] = FIRST + index
        self.clocks[engine] = clock
        return clock

    def complete(self, ins: Instruction, engine: int) -> None:
        """Give the signals."""
        for number in ins.signals:
            self._claim(number, 0, ins.engine)
            if len(self.tokens[number]) == self.maximum:
                raise TokenError(
                    f"signals semaphore {number}, which holds its maximum of {self.maximum} tokens already"
                )
            self.tokens[number].append(self.clocks[engine])

    def leftover(self) -> str | None:
        """The first semaphore that is not empty, or None."""
        for number, held in enumerate(self.tokens):
            if held:
                return f"semaphore {number} holds {len(held)} tokens at the end of the program, must be 0"
        return None


@dataclass(frozen=True)
class Hazard:
    """What is wrong with an access of instruction ``index``."""

    index: int
    text: str


class Hazards:
    """The accesses of a program, in program order; ``first`` proves them all, or gives the earliest that is wrong."""

    def __init__(self, sizes_bytes: Sequence[int], initialised: Sequence[tuple[int, int]], engines: int) -> None:
        """``sizes_bytes`` in the order of ``touches.MEMORIES``; ``initialised``: byte ranges of DRAM."""
        self._sizes, self._engines = tuple(sizes_bytes), engines
        self._boxes: list[Box] = []
        self._accesses: list[Access] = []
        self._clocks: list[list[int]] = []
        self._engine_of: list[int] = []
        for begin, end in initialised:
            if begin < end:
                access = Access("dram", True, begin, 1, 0, 1, 0, end - begin)
                self._boxes.append(box_of(access, INITIAL, 0))
                self._accesses.append(access)
        self._initial = len(self._boxes)

    def add(self, engine: int, touched: Sequence[Access], in_place: Sequence[bool], clock: list[int]) -> None:
        """The next instruction. ``in_place``: which of its reads it may write over; ``clock``: by engine, the mark up to which all
        is done before it."""
        mark = FIRST + len(self._clocks)
        self._boxes += [box_of(access, mark, engine, keeps) for access, keeps in zip(touched, in_place, strict=True)]
        self._accesses += touched
        self._clocks.append(clock)
        self._engine_of.append(engine)

    def first(self, read_only: np.ndarray, intent: Mapping[int, frozenset[int]] | None) -> Hazard | None:
        """The hazard of the earliest instruction, or None. ``read_only`` bool [bytes of DRAM]; ``intent``: by instruction, those
        whose data it must read."""
        last = last_touches(self._boxes, self._sizes, self._engines)
        marks = np.array([box[0] for box in self._boxes], np.int64)
        writes = np.array([access.write for access in self._accesses], bool)
        suspects = self._suspects(last, marks, writes, intent)
        for number in np.flatnonzero(writes & (marks >= FIRST)):
            access = self._accesses[number]
            if access.memory == "dram" and touched_bytes(read_only, access.merged()).any():
                suspects.append(int(number))
        if not suspects:
            return None
        # Reads of an instruction come before its writes, as they are listed.
        return self._explain(min(suspects, key=lambda each: (marks[each], writes[each], each)), last, read_only, intent)

    def _suspects(
        self, last: LastTouches, marks: np.ndarray, writes: np.ndarray, intent: Mapping[int, frozenset[int]] | None
    ) -> list[int]:
        """Accesses with a hazard, but for writes to what is read-only."""
        clocks = np.array(self._clocks, np.int64).reshape(-1, self._engines)
        engine_of = np.array([0] * FIRST + self._engine_of, np.int64)
        kept = last.access_of >= self._initial
        access_of, writers = last.access_of[kept], last.writers[kept]
        reader = marks[access_of] - FIRST
        late = (writers >= FIRST) & (writers > clocks[reader, engine_of[writers]])
        never = (writers == NEVER) & ~writes[access_of]
        found = set(access_of[late | never].tolist())
        if intent is not None:
            span = len(engine_of)
            listed = [(index, FIRST + writer) for index, data in intent.items() for writer in data]
            wanted = np.sort(
                np.array([*listed, (span, 0)], np.int64) @ np.array([span, 1])
            )  # the last one is of nobody
            told = np.zeros(len(self._clocks), bool)
            told[[index for index, data in intent.items() if data and index < len(told)]] = True
            pairs = reader * span + writers
            right = (wanted[np.searchsorted(wanted, pairs)] == pairs) | (~told[reader] & (writers == INITIAL))
            found.update(access_of[~right & ~writes[access_of]].tolist())
        own = np.arange(len(marks)) >= self._initial
        written = np.flatnonzero(writes & own)
        index = marks[written] - FIRST
        readers = last.readers[written]
        over = (readers > clocks[index]) | (readers == marks[written][:, None])
        found.update(written[over.any(axis=1)].tolist())
        return sorted(found)

    def _explain(
        self, number: int, last: LastTouches, read_only: np.ndarray, intent: Mapping[int, frozenset[int]] | None
    ) -> Hazard:
        """What is wrong with an access that has a hazard."""
        access, index = self._accesses[number], self._boxes[number][0] - FIRST
        clock, engine = self._clocks[index], self._engine_of[index]
        marks = last.writers[last.access_of == number].tolist()
        if access.write:
            if access.memory == "dram" and touched_bytes(read_only, access.merged()).any():
                return Hazard(index, f"writes {place(access)}, of which some bytes are read-only")
        elif marks[0] == NEVER:
            return Hazard(index, f"reads {access.what} in {place(access)}, of which some bytes were never written")
        for mark in marks:
            if mark >= FIRST and mark > clock[self._engine_of[mark - FIRST]]:
                return Hazard(index, _race(access, mark, "were written"))
        if access.write:
            for other, mark in enumerate(last.readers[number].tolist()):
                if other == engine and mark == FIRST + index:
                    return Hazard(index, f"writes {access.what} over its own operands in {place(access)}")
                if mark > clock[other]:
                    return Hazard(index, _race(access, mark, "were read"))
        assert intent is not None and not access.write
        wanted = sorted(intent.get(index, ()))
        wrong = next(mark for mark in marks if (mark - FIRST not in wanted if wanted else mark != INITIAL))
        whose = "DRAM's initial contents" if wrong == INITIAL else f"what instruction {wrong - FIRST} wrote"
        meant = f"that of instruction {', '.join(map(str, wanted))}" if wanted else "DRAM's initial contents"
        return Hazard(index, f"reads {access.what} in {place(access)} and finds {whose}, not {meant}")


def place(access: Access) -> str:
    """Memory and byte range, for messages."""
    begin, end = access.hull()
    return f"{access.memory} bytes {begin} to {end - 1}"


def _race(access: Access, mark: int, done: str) -> str:
    return (
        f"accesses {access.what} in {place(access)}, which {done} by instruction {mark - FIRST}: "
        "no semaphore orders the two, a race"
    )
