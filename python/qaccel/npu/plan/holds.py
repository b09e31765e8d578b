"""Where LOADW holds back: while a layer or cascade waits for maps from DRAM, the channel is theirs.

LOADW goes on with later layers as far as queues and weight buffer let it, and takes turns with LOAD all the while. What the layer
in work waits for then comes half as fast, for weights that nobody needs yet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...machine.hw import HwConfig
from ...machine.layer_cost import LayerWork, LoadwOrder, block_cycles, engine_cycles
from .ahead import Unit


@dataclass(frozen=True)
class Hold:
    """LOADW goes on with other weights behind the first map that a layer or cascade loads from DRAM, or behind the last one.

    ``step``: its first layer.
    """

    step: int
    behind_last: bool

    @property
    def place(self) -> Literal["first", "last"]:
        """Of the load that LOADW waits for."""
        return "last" if self.behind_last else "first"


def find_holds(
    units: Sequence[Unit], fed: Collection[int], weight_bytes: Sequence[int], hw: HwConfig
) -> tuple[Hold, ...]:
    """Where LOADW holds back, so that all units together are quicker.

    ``fed``: which units, by number, read maps from DRAM; ``weight_bytes``: what each takes of the weight buffer.
    """
    works = _spread([unit.work for unit in units], hw)
    found, ends = list[Hold](), dict[int, int]()
    order = LoadwOrder(works, weight_bytes, hw)
    waits = order.waits({})
    if sum(engine_cycles(work, hw).loadw for work in works) > sum(engine_cycles(work, hw).compute for work in works):
        return ()  # LOADW has no time to wait
    for position in sorted(fed):
        work, busy = units[position].work, engine_cycles(units[position].work, hw)
        tiles = max(1, work.tiles)
        first, last = work.first_bytes // hw.dram_bytes_per_cycle, busy.compute // tiles
        begin = min(busy.load, 2 * block_cycles(0, hw) + first)  # records, then the first map
        late = max(0, begin - busy.loadw // max(1, work.weight_loads))  # `LoadwOrder` knows of weights alone
        ahead = _bytes_ahead(units, position, weight_bytes, hw) // hw.dram_bytes_per_cycle
        # What LOADW takes of the channel delays the first tile, or the last one where loads take longest.
        delays = min(first, ahead), min(work.load_beats, ahead)
        before = max(begin + delays[0] + busy.compute, busy.load + delays[1] + last)
        options = []
        for behind_last, own in ((False, min(max(0, work.load_beats - first), ahead)), (True, 0)):
            after = max(begin + busy.compute, busy.load + own + last)
            end = last - (after - begin - busy.compute) - late if behind_last else busy.compute - late
            then = order.waits(ends | {position: end})
            saved = before - after - (then - waits)
            options.append((saved, behind_last, end, then))
        saved, behind_last, end, then = max(options, key=lambda option: option[0])
        if saved > 0:
            found.append(Hold(units[position].first, behind_last))
            ends[position], waits = end, then
    return tuple(found)


def _spread(works: Sequence[LayerWork], hw: HwConfig) -> list[LayerWork]:
    """As if what else comes through the DRAM channel came with the weights, in proportion."""
    fetched = sum(work.weight_bytes for work in works)
    through = sum(engine_cycles(work, hw).dram for work in works) * hw.dram_bytes_per_cycle
    return [replace(work, weight_bytes=work.weight_bytes * through // max(1, fetched)) for work in works]


def _bytes_ahead(units: Sequence[Unit], position: int, weight_bytes: Sequence[int], hw: HwConfig) -> int:
    """Bytes of streams that LOADW can fetch for units behind a ``position`` before it is done."""
    room, found = hw.weight_buffer_bytes - weight_bytes[position], 0
    for unit, size in zip(units[position + 1 :], weight_bytes[position + 1 :], strict=True):
        room -= size
        if room < 0:
            break
        found += unit.work.weight_bytes
    return found
