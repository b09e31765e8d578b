"""Semaphores from data hazards: the least tokens that order every pair of conflicting instructions on different engines.

Instructions come in an order that is right when executed one after the other. For each one, the last conflicting
instruction of every other engine is found; if it is not ordered before it already (through its own engine's order and earlier
tokens, tracked as vector clocks), one token goes from there to here. Tokens of one engine pair are produced and taken in
the same order, so one semaphore a pair is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...machine.hw import HwConfig
from ...machine.isa import Instruction, isa, replace
from ..access import Access, accesses
from ..extents import ALIGN_BYTES


class _Shadow:
    """Last writer and last reader (index + 1) of every granule of one memory, by engine. Coarse, so sometimes too careful."""

    def __init__(self, size_bytes: int, engines: int) -> None:
        granules = -(-size_bytes // ALIGN_BYTES)
        self.last = {True: np.zeros((engines, granules), np.int32), False: np.zeros((engines, granules), np.int32)}

    @staticmethod
    def _slices(access: Access) -> list[slice]:
        row_bytes = (access.pixels - 1) * access.pixel_stride + access.run_bytes
        if access.rows == 1 or 2 * row_bytes >= access.row_stride:
            end = access.start + (access.rows - 1) * access.row_stride + row_bytes
            return [slice(access.start // ALIGN_BYTES, (end - 1) // ALIGN_BYTES + 1)]
        starts = (access.start + row * access.row_stride for row in range(access.rows))
        return [slice(start // ALIGN_BYTES, (start + row_bytes - 1) // ALIGN_BYTES + 1) for start in starts]

    def conflicts(self, access: Access, needed: np.ndarray) -> None:
        for part in self._slices(access):
            np.maximum(needed, self.last[True][:, part].max(axis=1), out=needed)
            if access.write:
                np.maximum(needed, self.last[False][:, part].max(axis=1), out=needed)

    def record(self, access: Access, engine: int, index: int) -> None:
        for part in self._slices(access):
            self.last[access.write][engine, part] = index + 1


def semaphore_id(producer: int, consumer: int, engines: int) -> int:
    """Number of the semaphore from one engine to another (both by position in the ISA's list), from 1 on."""
    return 1 + producer * (engines - 1) + consumer - (consumer > producer)


def insert_semaphores(instructions: Sequence[Instruction], hw: HwConfig, dram_data_bytes: int) -> list[Instruction]:
    """The same instructions with waits and signals. DRAM from ``dram_data_bytes`` on is constant and has no hazards."""
    names = list(isa().engines)
    engines = len(names)
    shadows = {
        "sram": _Shadow(hw.sram_bytes, engines),
        "weights": _Shadow(hw.weight_buffer_bytes, engines),
        "dram": _Shadow(max(dram_data_bytes, 1), engines),
    }
    clocks = np.zeros((len(instructions), engines), np.int64)
    engine_clock = np.zeros((engines, engines), np.int64)
    waits: list[list[int]] = [[] for _ in instructions]
    signals: list[list[int]] = [[] for _ in instructions]
    for index, instruction in enumerate(instructions):
        engine = names.index(instruction.engine)
        touched = [
            a
            for a in accesses(instruction, hw)
            if a.memory in shadows and (a.memory != "dram" or a.start < dram_data_bytes)
        ]
        needed = np.zeros(engines, np.int32)
        for access in touched:
            shadows[access.memory].conflicts(access, needed)
        clock = engine_clock[engine]
        for producer in np.argsort(-needed):
            if producer != engine and needed[producer] > clock[producer]:
                source = int(needed[producer]) - 1
                number = semaphore_id(int(producer), engine, engines)
                signals[source].append(number)
                waits[index].append(number)
                np.maximum(clock, clocks[source], out=clock)
        clock[engine] = index + 1
        clocks[index] = clock
        for access in touched:
            shadows[access.memory].record(access, engine, index)
    result = []
    for instruction, wait, signal in zip(instructions, waits, signals, strict=True):
        fields = {f"wait{i}": number for i, number in enumerate(wait)} | {
            f"signal{i}": number for i, number in enumerate(signal)
        }
        result.append(replace(instruction, **fields) if fields else instruction)
    return result
