"""Weight streams fetched ahead: into SRAM that is free before a layer that waits for DRAM, while layers before it compute.

The layer then decodes them from there. As it does, it refills what it has emptied, so that the DRAM channel is never idle while the
decoder works; where few streams have room, the others come from DRAM as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...machine.hw import HwConfig
from ...machine.layer_cost import LayerWork, engine_cycles, sram_stream_cycles
from ..extents import align
from ..layers import LayerGraph
from .ahead import SHARERS, Records, Unit
from .place import Block, Taken, gaps
from .tiling import Tiling, weight_buffer_bytes, weight_tile_count

UNEVEN = 32  # a stream may be larger than the mean by a part in so many
ENOUGH = 4  # how many times its bytes the channel must have to spare from the begin of a stock on, since SRAM may be full at first
GUARD = 1
REFILLED = 4  # streams that have room at the least where a stock is refilled: it takes turns with the decoder


@dataclass(frozen=True)
class Stock:
    """SRAM in which streams of a ``layer`` wait. ``refilled``: what is decoded makes room for more.

    ``pieces``: (step, address, bytes), each from when the layer or cascade that begins with the step is in work. It is filled then.
    """

    layer: int
    pieces: tuple[tuple[int, int, int], ...]
    refilled: bool


def stock_streams(
    graph: LayerGraph, tilings: Sequence[Tiling], units: Sequence[Unit], records: Sequence[Records], taken: Taken,
    hw: HwConfig,
) -> tuple[Stock, ...]:  # fmt: skip
    """What is fetched of which layers, in their order. ``taken``: what has a place already."""
    taken = list(taken)
    merged = {step for each in records for step in each.offsets}
    left = [_spare_bytes(unit.work, hw) if unit.own_loads(merged) <= 1 else 0 for unit in units]
    found = []
    for position, unit in enumerate(units):
        loads, count = unit.work.weight_loads, weight_tile_count(graph.layers[unit.first], tilings[unit.first])
        if unit.first != unit.last or not 0 < loads == count:
            continue  # streams that are fetched again and again would not come from a stock
        refilled = unit.own_loads(merged) == 0 and _wanted(unit.work, True, hw) >= REFILLED
        wanted = _wanted(unit.work, refilled, hw)
        if wanted * weight_buffer_bytes(graph.layers[unit.first], tilings[unit.first]) < GUARD * hw.weight_buffer_bytes * count:
            continue  # the weight buffer takes as much ahead
        stock = _stock(position, wanted, refilled, units, left, taken, hw)
        if stock is None:
            continue
        rest = sum(size for _, _, size in stock.pieces)
        for before in reversed(range(position)):
            used = min(left[before], rest)
            left[before], rest = left[before] - used, rest - used
        taken += [(Block(("stock", unit.first), size, step, unit.last), addr) for step, addr, size in stock.pieces]
        found.append(stock)
    return tuple(found)


def _spare_bytes(work: LayerWork, hw: HwConfig) -> int:
    """Bytes that can be fetched for others while a unit computes, in turn with its own transfers."""
    busy = engine_cycles(work, hw)
    return max(0, busy.compute - max(busy.dram, busy.load, busy.store)) // SHARERS * hw.dram_bytes_per_cycle


def _wanted(work: LayerWork, refilled: bool, hw: HwConfig) -> int:
    """How many streams must be there at the begin, so that a layer does not wait for the DRAM channel."""
    busy, count = engine_cycles(work, hw), work.weight_loads
    from_sram, from_dram = sram_stream_cycles(work, hw), max(busy.dram, busy.loadw)
    least = max(busy.compute, busy.load, busy.store, from_sram)
    if from_dram <= least:
        return 0
    # Without refilling, the decoder takes one stream after the other, from wherever it comes.
    saved = from_dram if refilled else from_dram - from_sram
    return min(count, -(-count * (from_dram - least) // saved))


def _stock(
    position: int, wanted: int, refilled: bool, units: Sequence[Unit], left: Sequence[int], taken: Taken, hw: HwConfig
) -> Stock | None:
    """A stock of at most so many streams for a unit, fetched as late as SRAM and the channel have room for; None if not even one
    stream has."""
    unit = units[position]
    stream = align(-(-unit.work.weight_bytes * (UNEVEN + 1) // (unit.work.weight_loads * UNEVEN)))
    begin, spare = position, 0
    while begin > 0 and spare < ENOUGH * wanted * stream:
        if max((size for _, size in gaps(units[begin - 1].first, unit.last, taken, hw.sram_bytes)), default=0) < stream:
            break
        begin -= 1
        spare += left[begin]
    spare = 0
    blocks: list[tuple[Block, int]] = []
    for before in range(begin, position):
        spare += left[before]
        step = units[before].first
        for addr, size in sorted(gaps(step, unit.last, [*taken, *blocks], hw.sram_bytes), key=lambda gap: -gap[1]):
            count = min(wanted, spare // stream, size // stream)
            if count:
                blocks.append((Block(("stock", step), count * stream, step, unit.last), addr))
                wanted, spare = wanted - count, spare - count * stream
    if not blocks:
        return None
    pieces = tuple((block.first, addr, block.size_bytes) for block, addr in blocks)
    return Stock(unit.first, pieces, refilled and sum(size for _, _, size in pieces) >= REFILLED * stream)
