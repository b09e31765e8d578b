"""Weight streams fetched ahead: into SRAM that is free before a layer that waits for DRAM, while layers before it compute.

The layer then decodes them from there. As it does, it refills what it has emptied, so that the DRAM channel is never idle while the
decoder works; where few streams have room, the others come from DRAM as before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ...machine.hw import HwConfig
from ...machine.layer_cost import LayerWork, engine_cycles, sram_stream_cycles, weight_waits
from ..extents import align
from ..layers import LayerGraph
from .ahead import SHARERS, Records, Unit
from .place import Block, Taken, gaps
from .tiles.tiling import Tiling, weight_buffer_bytes, weight_tile_count

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
    buffered = buffered_bytes(graph, tilings, units)
    waits = weight_waits([unit.work for unit in units], buffered, hw)
    channel = _Channel(
        [_spare_bytes(unit.work, hw) if unit.own_loads(merged) <= 1 else 0 for unit in units],
        [cycles * hw.dram_bytes_per_cycle for cycles in waits.loadw],
    )
    found = []
    for position in sorted(range(len(units)), key=lambda each: -waits.compute[each]):
        unit, wait = units[position], waits.compute[position]
        loads, count = unit.work.weight_loads, weight_tile_count(graph.layers[unit.first], tilings[unit.first])
        if unit.first != unit.last or not 0 < loads == count:
            continue  # streams that are fetched again and again would not come from a stock
        refilled = unit.own_loads(merged) == 0 and _wanted(unit.work, wait, True, hw) >= REFILLED
        wanted, offers = _wanted(unit.work, wait, refilled, hw), channel.offers(position)
        stock = _stock(position, wanted, refilled, units, offers, taken, hw)
        if stock is None:
            continue
        channel.use(offers, sum(size for _, _, size in stock.pieces))
        taken += [(Block(("stock", unit.first), size, step, unit.last), addr) for step, addr, size in stock.pieces]
        found.append(stock)
    return tuple(sorted(found, key=lambda stock: stock.layer))


def buffered_bytes(graph: LayerGraph, tilings: Sequence[Tiling], units: Sequence[Unit]) -> list[int]:
    """What the weights of each unit take of the weight buffer."""
    return [sum(weight_buffer_bytes(graph.layers[i], tilings[i]) for i in range(u.first, u.last + 1)) for u in units]


def stock_blocks(stocks: Sequence[Stock]) -> list[tuple[Block, int]]:
    """What stocks take of SRAM, each from when it is filled until its layer is done, with addresses."""
    return [
        (Block(("stock", stock.layer, n), size, step, stock.layer), addr)
        for stock in stocks
        for n, (step, addr, size) in enumerate(stock.pieces)
    ]


def stocked_streams(stock: Stock, work: LayerWork) -> int:
    """How many of the streams of a layer that does this ``work`` its stock holds at a time."""
    return sum(size // _stream_bytes(work) for _, _, size in stock.pieces)


def _stream_bytes(work: LayerWork) -> int:
    """Room that is kept for each stream."""
    return align(-(-work.weight_bytes * (UNEVEN + 1) // (work.weight_loads * UNEVEN)))


def _spare_bytes(work: LayerWork, hw: HwConfig) -> int:
    """Bytes that can be fetched for others while a unit computes, in turn with its own transfers."""
    busy = engine_cycles(work, hw)
    return max(0, busy.compute - max(busy.dram, busy.load, busy.store)) // SHARERS * hw.dram_bytes_per_cycle


@dataclass(frozen=True)
class _Channel:
    """By unit: bytes that the DRAM channel has to spare, and those that it could transfer while LOADW waits for room.

    What is fetched ahead delays LOADW, which makes up for it by waiting less before the stock is needed.
    """

    spare: list[int]
    idle: list[int]

    def offers(self, position: int) -> list[int]:
        """Bytes that each unit before a ``position`` can fetch for it, as late as possible."""
        found, credit = [0] * position, 0
        for unit in reversed(range(position)):
            credit += self.idle[unit]
            found[unit] = min(self.spare[unit], credit)
            credit -= found[unit]
        return found

    def use(self, offers: Sequence[int], size: int) -> None:
        """Take so many bytes of what was offered."""
        for left, most in ((self.spare, offers), (self.idle, self.idle)):
            rest = size
            for unit in reversed(range(len(offers))):
                used = min(most[unit], rest)
                left[unit], rest = left[unit] - used, rest - used


def _wanted(work: LayerWork, wait: int, refilled: bool, hw: HwConfig) -> int:
    """How many streams must be there at the begin, so that a layer does not ``wait`` for its weights any more."""
    busy, count = engine_cycles(work, hw), work.weight_loads
    from_sram, from_dram = sram_stream_cycles(work, hw), max(busy.dram, busy.loadw)
    least = max(busy.compute, busy.load, busy.store, from_sram)
    avoided = min(from_dram - least, wait)
    if avoided <= hw.dram_latency_cycles:  # less is not worth an instruction
        return 0
    # Without refilling, the decoder takes one stream after the other, from wherever it comes.
    saved = from_dram if refilled else from_dram - from_sram
    return min(count, -(-count * avoided // saved))


def _stock(
    position: int, wanted: int, refilled: bool, units: Sequence[Unit], offers: Sequence[int], taken: Taken, hw: HwConfig
) -> Stock | None:
    """A stock of at most so many streams for a unit, fetched as late as SRAM and the channel have room for; None if not even one
    stream has."""
    unit = units[position]
    stream = _stream_bytes(unit.work)
    earliest, spare = position, 0
    while earliest > 0 and spare < ENOUGH * wanted * stream:
        earliest -= 1
        spare += offers[earliest]

    def has_room(begin: int) -> bool:
        return any(size >= stream for _, size in gaps(units[begin].first, unit.last, taken, hw.sram_bytes))

    # The earlier the begin, the more lives until the unit is done, and the less is free.
    begin = bisect_left(range(position), True, lo=earliest, key=has_room)
    spare = 0
    blocks: list[tuple[Block, int]] = []
    for before in range(begin, position):
        spare += offers[before]
        if min(wanted, spare // stream) == 0:
            continue
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
