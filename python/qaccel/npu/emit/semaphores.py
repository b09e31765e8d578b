"""Semaphores from data hazards: the least tokens that order every pair of conflicting instructions on different engines.

Instructions come in an order that is right when executed one after the other. For each one, the last conflicting
instruction of every other engine is found; if it is not ordered before it already (through its own engine's order and earlier
tokens, tracked as vector clocks), one token goes from there to here. Tokens of one engine pair are produced and taken in
the same order, so one semaphore a pair is enough.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ...machine.hw import HwConfig
from ...machine.isa import Instruction, isa, replace
from ..access import Access, accesses, run, with_forwarding
from ..extents import ALIGN_BYTES
from ..touches import FIRST, Box, box_of, last_touches


def _coarse(access: Access) -> list[Access]:
    """The bytes of an access as one run, or one run a row where rows lie far apart. Sometimes too careful."""
    begin, end = access.hull()
    if access.rows == 1 or 2 * access.row_bytes >= access.row_stride:
        return [run(access.memory, access.write, begin, end - begin, access.what)]
    starts = (begin + row * access.row_stride for row in range(access.rows))
    return [run(access.memory, access.write, start, access.row_bytes, access.what) for start in starts]


def semaphore_id(producer: int, consumer: int, engines: int) -> int:
    """Number of the semaphore from one engine to another (both by position in the ISA's list), from 1 on."""
    return 1 + producer * (engines - 1) + consumer - (consumer > producer)


def insert_semaphores(
    instructions: Sequence[Instruction], hw: HwConfig, dram_data_bytes: int, held: Sequence[tuple[int, int]] = ()
) -> list[Instruction]:
    """The same instructions with waits and signals. DRAM from ``dram_data_bytes`` on is constant and has no hazards.

    ``held``: (instruction, an earlier one of another engine) that waits for it for other reasons.
    """
    names = list(isa().engines)
    engines = len(names)
    engine_of = [names.index(instruction.engine) for instruction in instructions]
    needed = _latest_conflicts(instructions, engine_of, engines, hw, dram_data_bytes)
    for index, earlier in held:
        needed[index][engine_of[earlier]] = max(needed[index][engine_of[earlier]], FIRST + earlier)
    clocks: list[list[int]] = []  # by instruction: of each engine, the mark up to which all is done before
    engine_clock = [[0] * engines for _ in names]
    waits: list[list[int]] = [[] for _ in instructions]
    signals: list[list[int]] = [[] for _ in instructions]
    pairs: defaultdict[int, list[tuple[int, int]]] = defaultdict(
        list
    )  # by semaphore: who signals and who waits, both in order
    for index, engine in enumerate(engine_of):
        clock = engine_clock[engine]
        latest = needed[index]
        for producer in sorted(range(engines), key=lambda each: -latest[each]):
            if producer != engine and latest[producer] > clock[producer]:
                source = latest[producer] - FIRST
                number = semaphore_id(producer, engine, engines)
                signals[source].append(number)
                waits[index].append(number)
                pairs[number].append((source, index))
                clock = [max(pair) for pair in zip(clock, clocks[source], strict=True)]
        clock = [*clock[:engine], FIRST + index, *clock[engine + 1 :]]
        engine_clock[engine] = clock
        clocks.append(clock)
    for number, ordered in pairs.items():
        _merge_tokens(number, ordered, waits, signals)
    result = []
    for instruction, wait, signal in zip(instructions, waits, signals, strict=True):
        fields = {f"wait{i}": number for i, number in enumerate(wait)} | {
            f"signal{i}": number for i, number in enumerate(signal)
        }
        result.append(replace(instruction, **fields) if fields else instruction)
    return result


def _merge_tokens(
    number: int, pairs: Sequence[tuple[int, int]], waits: list[list[int]], signals: list[list[int]]
) -> None:
    """Take tokens away where more would lie on a semaphore than it holds: who waits first then waits for who signals last.

    Both engines work in order, so that all between are ordered by that, too; what waits longer is late anyway.
    """
    maximum = isa().semaphore_maximum
    pending: list[tuple[int, int]] = []
    for source, consumer in pairs:
        pending = [*(pair for pair in pending if pair[1] > source), (source, consumer)]
        if len(pending) > maximum:
            for merged, _ in pending[:-1]:
                signals[merged].remove(number)
            for _, merged in pending[1:]:
                waits[merged].remove(number)
            pending = [(source, pending[0][1])]


def _latest_conflicts(
    instructions: Sequence[Instruction], engine_of: Sequence[int], engines: int, hw: HwConfig, dram_data_bytes: int
) -> list[list[int]]:
    """Marks [instructions][engines]: the latest instruction of each engine that wrote what this one touches, or read what it
    writes."""
    boxes: list[Box] = []
    for index, (instruction, before) in enumerate(with_forwarding(instructions)):
        for access in accesses(instruction, hw, before):
            if access.memory != "dram" or access.start < dram_data_bytes:
                boxes += [box_of(part, FIRST + index, engine_of[index]) for part in _coarse(access)]
    last = last_touches(boxes, (hw.sram_bytes, hw.weight_buffer_bytes, dram_data_bytes), engines, ALIGN_BYTES)
    reader = np.array([box[0] for box in boxes], np.int64) - FIRST
    needed = np.zeros((len(instructions), engines), np.int64)
    written = last.writers >= FIRST
    writers = last.writers[written]
    by = np.array(engine_of, np.int64)[writers - FIRST]
    np.maximum.at(needed, (reader[last.access_of[written]], by), writers)
    np.maximum.at(needed, reader, last.readers)
    listed: list[list[int]] = needed.tolist()
    return listed
