"""What is fetched before the layer that needs it, into SRAM that the plan leaves free.

Parameter records and tables: those of layers that follow each other lie side by side in DRAM and come by one LOAD, where the layers
before hide it, and stay until the last of them has used its own. Layers without such a place load theirs as they come. Nothing that
the plan has placed moves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ...machine.hw import HwConfig
from ...machine.isa import isa
from ...machine.layer_cost import LayerWork, block_cycles, engine_cycles, layer_cycles, together
from ...machine.timeline import Phase, Turn
from ..extents import Span, align
from ..layers import AnyLayer, ConvLayer, DepthwiseLayer, LayerGraph, table_of
from .place import Block, Taken, lowest
from .stripes import Cascade
from .tiles.tiling import Tiling, record_tiles, weight_buffer_bytes, weight_tile_count

OWN = ("param", "table")  # kinds of blocks that merged records take the place of
# Weight streams come through the DRAM channel as well, in turn with loads, which then take so many times as long.
SHARERS = 2
PART = 16  # of SRAM: what records that come together take at the most
EARLIEST = 7  # a block may keep its place free for 2 ** (EARLIEST - 1) layers before it is loaded


@dataclass(frozen=True)
class Records:
    """Parameter records and tables of some layers at ``addr``, each layer's from its offset on, loaded behind the layer or cascade
    that begins with ``step``."""

    step: int
    addr: int
    size_bytes: int
    offsets: Mapping[int, int]


@dataclass(frozen=True)
class Unit:
    """Layers that run together, a cascade or one alone. ``record_loads``: how many of its loads are of records, by layer;
    ``first_records``: how many of those of its first layer come before anything is computed."""

    first: int
    last: int
    work: LayerWork
    record_loads: tuple[int, ...]
    first_records: int

    def own_loads(self, merged: Collection[int]) -> int:
        """Its loads without those of records that are ``merged`` with others, by layer."""
        return self.work.loads - sum(n for step, n in enumerate(self.record_loads, self.first) if step in merged)

    def own_work(self, merged: Collection[int]) -> LayerWork:
        """Its work without the loads of records that are ``merged`` with others."""
        loads = self.own_loads(merged)
        first_loads = self.work.first_loads - (self.first_records if self.first in merged else 0)
        return replace(self.work, loads=loads, first_loads=first_loads, load_beats=self.work.load_beats if loads else 0)


def units_of(graph: LayerGraph, tilings: Sequence[Tiling], cascades: Sequence[Cascade]) -> list[Unit]:
    """The units of a plan, in order."""
    whole = {cascade.first: cascade for cascade in cascades}
    units, step = [], 0
    while step < len(tilings):
        last, work = (whole[step].last, whole[step].work) if step in whole else (step, tilings[step].work)
        loads = tuple(_record_loads(graph.layers[i], graph, tilings[i]) for i in range(step, last + 1))
        first_records = (tilings[step].param_slot_bytes > 0) + (tilings[step].table_bytes > 0)
        units.append(Unit(step, last, work, loads, first_records))
        step = last + 1
    return units


def turns_of(
    graph: LayerGraph, tilings: Sequence[Tiling], cascades: Sequence[Cascade], units: Sequence[Unit]
) -> list[Turn]:
    """The units of a plan in their turns, as if nothing was fetched ahead or held back; cascades layer by layer."""
    layers, phased = list(zip(graph.layers, tilings, strict=True)), {cascade.first: cascade for cascade in cascades}
    sizes, counts = ([size(*each) for each in layers] for size in (weight_buffer_bytes, weight_tile_count))
    turns = []
    for unit in units:
        steps = slice(unit.first, unit.last + 1)
        turn = Turn(work=unit.work, weight_bytes=sum(sizes[steps]), weight_tiles=sum(counts[steps]))
        if unit.first in phased:
            cascade = phased[unit.first]
            phases = tuple(
                Phase(
                    work=together(works), weight_bytes=sizes[step], weight_tiles=counts[step],
                    places=tilings[step].out_slots, rows=tuple(stripe[step - unit.first][1] for stripe in cascade.stripes),
                )
                for step, works in enumerate(cascade.phases, unit.first)
            )  # fmt: skip
            turn = replace(turn, phases=phases)
        turns.append(turn)
    return turns


def _record_loads(layer: AnyLayer, graph: LayerGraph, tiling: Tiling) -> int:
    return record_tiles(layer, graph, tiling) + (tiling.table_bytes > 0)


def record_bytes(layer: AnyLayer) -> int:
    """Bytes of a layer's parameter records and of its table behind them."""
    records = len(layer.params.bias) if isinstance(layer, ConvLayer | DepthwiseLayer) else 0
    return records * isa().params_bytes + len(table_of(layer))


def merge_records(
    graph: LayerGraph, units: Sequence[Unit], taken: Taken, hw: HwConfig
) -> tuple[tuple[Records, ...], Taken]:
    """The records that are fetched ahead; ``taken``: what has a place already, before and after."""
    wanted = [(step, size) for step, size in enumerate(map(record_bytes, graph.layers)) if size]
    search = _Search(units, taken, hw)
    begin = 0
    while begin < len(wanted):
        group, end = None, begin + 1
        while end <= len(wanted) and (longer := search.group(wanted[begin:end])):
            group, end = longer, end + 1
        if group is not None:
            search.take(*group)
        begin = max(end - 1, begin + 1)
    return tuple(search.found), search.taken


class _Search:
    """Groups of records found so far, and what they leave of SRAM and of the LOAD engine's time."""

    def __init__(self, units: Sequence[Unit], taken: Taken, hw: HwConfig) -> None:
        self.units, self.hw = units, hw
        self.taken = list(taken)
        self.found: list[Records] = []
        self.merged: set[int] = set()
        self.unit_of = {step: i for i, unit in enumerate(units) for step in range(unit.first, unit.last + 1)}

    def group(self, layers: Sequence[Span]) -> tuple[Records, Block] | None:
        """Records of these layers, (number, bytes), together; None where their load is not hidden, or has no room."""
        offsets, size = {}, 0
        for step, size_bytes in layers:
            offsets[step], size = size, size + size_bytes
        begin = self._begin(self.unit_of[min(offsets)], block_cycles(size, self.hw))
        if begin is None or PART * size > self.hw.sram_bytes:
            return None
        step, last = self.units[begin].first, self.units[self.unit_of[max(offsets)]].last
        others = [each for each in self.taken if not _replaced(each[0], offsets)]
        # Where nothing has lain for long, the load waits for nothing.
        for early in sorted({0, *(max(0, step - (1 << n)) for n in range(EARLIEST)), step}):
            block = Block(("records", min(offsets)), align(size), early, last)
            addr = lowest(block, others, self.hw.sram_bytes)
            if addr is not None:
                return Records(step, addr, size, offsets), block
        return None

    def take(self, records: Records, block: Block) -> None:
        self.found.append(records)
        self.merged |= set(records.offsets)
        self.taken = [each for each in self.taken if not _replaced(each[0], records.offsets)]
        self.taken.append((replace(block, first=records.step), records.addr))

    def _begin(self, first: int, cycles: int) -> int | None:
        """The latest unit behind whose last load there is time for a load of so many cycles before another unit begins; None if
        there is none. Other loads may not come to stand behind it, nor those of records of earlier layers."""
        left = SHARERS * cycles
        least = max((self.unit_of[records.step] for records in self.found), default=0)
        for begin in reversed(range(least, first)):
            unit = self.units[begin]
            loads = unit.own_loads(self.merged)
            busy = engine_cycles(unit.work, self.hw)
            idle = layer_cycles(unit.work, self.hw) - max(busy.dram, busy.load if loads else 0)
            left -= max(0, idle) // max(loads, 1)
            if left <= 0:
                return begin
            if loads:
                return None
        return None


def _replaced(block: Block, layers: Mapping[int, int]) -> bool:
    """Whether a block holds parameters or the table of one of these layers."""
    return block.key[0] in OWN and block.key[1] in layers
