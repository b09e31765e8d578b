"""The plan of a subgraph: cascades, tiles, which feature maps stay in SRAM, and where every SRAM block and DRAM tensor lies.

Maps that pass between layers stay in SRAM while they fit beside the working blocks of every layer during which they live; the
largest of those in the way is sent to DRAM. Where that happens, ``choose.py`` looks for cascades that do with less. Blocks are
placed first-fit, largest first, by lifetime; what belongs to a cascade lives as long as the cascade. What is free then serves what
is fetched ahead of the layers that need it (``ahead.py``, ``stock.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UserError
from ...machine.hw import HwConfig
from ..extents import align
from ..layers import LayerGraph
from .ahead import Records, Unit, merge_records, units_of
from .cascade import Planner
from .choose import SHARE, choose
from .holds import Hold, find_holds
from .place import Block, Places, place
from .stock import Stock, buffered_bytes, stock_blocks, stock_streams
from .stripes import Cascade, ring_bytes
from .tiles.tiling import Tiling

DRAM_ALIGN_BYTES = 64


@dataclass(frozen=True)
class LayerBlocks:
    """SRAM addresses of a layer's working blocks: slots of each input, of the output, of its own parameters; its own table."""

    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    params: tuple[int, ...]
    table: int


@dataclass(frozen=True)
class Allocation:
    """``sram_addr`` of maps that lie there whole, ``ring_addr`` of rings by first layer of the cascade and map, ``dram_addr`` of
    maps that do not lie in SRAM alone: the subgraph's inputs and outputs, and what has no room. ``records`` and ``stocks``: what is
    fetched ahead; ``holds``: where LOADW waits. ``sram``: every block with its address.

    Layers that are in no cascade run one after the other, each as a whole.
    """

    tilings: tuple[Tiling, ...]
    blocks: tuple[LayerBlocks, ...]
    cascades: tuple[Cascade, ...]
    sram_addr: dict[int, int]
    ring_addr: dict[tuple[int, int], int]
    dram_addr: dict[int, int]
    dram_bytes: int
    records: tuple[Records, ...]
    stocks: tuple[Stock, ...]
    holds: tuple[Hold, ...]
    sram: tuple[tuple[Block, int], ...]


def allocate(graph: LayerGraph, hw: HwConfig) -> Allocation:
    """Raises UserError naming a layer that fits in no way."""
    planner = Planner(graph, hw)
    state = _State(graph, planner, _lifetimes(graph))
    state.plan()
    choice = choose(graph, hw, planner, state.lifetimes, frozenset(state.resident))
    if choice.cascades:
        state = _State(graph, planner, state.lifetimes, set(choice.resident), dict(choice.cascades))
    while True:
        tilings, cascades = state.plan()
        living = state.living()
        blocks = _working_blocks(graph, tilings, cascades)
        blocks += [Block(("map", i), align(graph.maps[i].total_bytes), *living[i]) for i in sorted(state.resident)]
        placed, failed = place(blocks, hw.sram_bytes)
        if failed is None:
            break
        # Fragmentation: first make the working blocks of that moment smaller, then send a map to DRAM.
        state.make_room(failed)
    units = units_of(graph, tilings, cascades)
    records, taken = merge_records(graph, units, [(block, placed[block.key]) for block in blocks], hw)
    stocks = stock_streams(graph, tilings, units, records, taken, hw)
    fed = [i for i, unit in enumerate(units) if _reads_dram(graph, unit, tilings, cascades)]
    holds = find_holds(units, fed, buffered_bytes(graph, tilings, units), hw)
    merged = {step for each in records for step in each.offsets}
    elsewhere = state.resident | {m for c in cascades for m in c.inside(graph) if state.only_in(m, c)}
    dram_addr, dram_bytes = _dram(graph, elsewhere)
    return Allocation(
        tilings=tuple(tilings),
        blocks=tuple(_layer_blocks(step, tiling, placed, step in merged) for step, tiling in enumerate(tilings)),
        cascades=tuple(cascades),
        sram_addr={index: placed["map", index] for index in state.resident},
        ring_addr={(c.first, r.map): placed["ring", c.first, r.map] for c in cascades for r in c.rings},
        dram_addr=dram_addr,
        dram_bytes=dram_bytes,
        records=records,
        stocks=stocks,
        holds=holds,
        sram=(*taken, *stock_blocks(stocks)),
    )


def _reads_dram(graph: LayerGraph, unit: Unit, tilings: Sequence[Tiling], cascades: Sequence[Cascade]) -> bool:
    """Whether a layer or cascade loads maps from DRAM."""
    for cascade in cascades:
        if cascade.first == unit.first:
            return any(ring.map not in cascade.inside(graph) for ring in cascade.rings)
    return any(tilings[unit.first].in_slot_bytes)


def _lifetimes(graph: LayerGraph) -> dict[int, tuple[int, int]]:
    """First and last layer during which each map made and used inside the subgraph must exist."""
    made = {layer.output: step for step, layer in enumerate(graph.layers)}
    last = {index: step for step, layer in enumerate(graph.layers) for index in layer.inputs}
    return {index: (step, max(step, last[index])) for index, step in made.items() if index in last}


class _State:
    """Which maps are ``resident`` and which layers cascade, while a fit is looked for; ``spans``: last layer by first."""

    def __init__(
        self, graph: LayerGraph, planner: Planner, lifetimes: dict[int, tuple[int, int]],
        resident: set[int] | None = None, spans: dict[int, int] | None = None,
    ) -> None:  # fmt: skip
        self.graph, self.planner, self.lifetimes = graph, planner, lifetimes
        fitting = {i for i in lifetimes if align(graph.maps[i].total_bytes) <= planner.hw.sram_bytes}
        self.resident = fitting if resident is None else resident
        self.spans = spans or {}
        self._shrink = [1.0] * len(graph.layers)

    def living(self) -> dict[int, tuple[int, int]]:
        """Lifetimes, those of maps that a cascade makes or reads as long as the cascade."""
        begin, end = list(range(len(self.graph.layers))), list(range(len(self.graph.layers)))
        for first, last in self.spans.items():
            for step in range(first, last + 1):
                begin[step], end[step] = first, last
        return {index: (begin[first], end[last]) for index, (first, last) in self.lifetimes.items()}

    def only_in(self, index: int, cascade: Cascade) -> bool:
        """Whether nobody but the cascade needs a map that it makes."""
        return index not in self.graph.outputs and self.lifetimes[index][1] <= cascade.last

    def plan(self) -> tuple[list[Tiling], list[Cascade]]:
        """Tile every layer beside the maps that live then, sending maps to DRAM until each fits."""
        step = 0
        tilings: list[Tiling] = []
        cascades: list[Cascade] = []
        while step < len(self.graph.layers):
            living, last = self.living(), self.spans.get(step, step)
            live = frozenset(i for i in self.resident if living[i][0] <= last and step <= living[i][1])
            budget = self.planner.hw.sram_bytes - sum(align(self.graph.maps[i].total_bytes) for i in live)
            budget = int(budget * self._shrink[step])
            if step in self.spans:
                cascade = self.planner.cascade(step, last, live, budget)
                if cascade is None:
                    self._dissolve(step)
                else:
                    cascades.append(cascade)
                    tilings += cascade.tilings
                    step = last + 1
                continue
            tiling = self.planner.whole(step, live, budget)
            if tiling is not None:
                tilings.append(tiling)
                step += 1
                continue
            # Earlier layers that touch the map sent away need another tiling.
            step = min(step, living[self._spill(step)][0])
            del tilings[step:]
            cascades = [cascade for cascade in cascades if cascade.last < step]
        return tilings, cascades

    def make_room(self, failed: Block) -> None:
        """Let cascades in the way of a block have less SRAM, or the layer; in the end without cascade or maps beside it."""
        in_the_way = [c for c, last in self.spans.items() if c <= failed.last and failed.first <= last]
        roomy = [first for first in in_the_way if self._shrink[first] > 0.5]
        if roomy:
            self._shrink[max(roomy, key=lambda first: self._shrink[first])] *= 0.9
        elif in_the_way:
            self._dissolve(in_the_way[0])
        elif failed.key[0] == "map" and SHARE * failed.size_bytes < self.planner.hw.sram_bytes:
            self.resident.remove(int(failed.key[1]))  # it costs less than what its room would
        else:
            # What has its place early may lack room in both layers.
            steps = (failed.first,) if failed.key[0] == "map" else (failed.first, failed.last)
            large = [step for step in steps if self._shrink[step] > 0.3]
            if large:
                self._shrink[max(large, key=lambda step: self._shrink[step])] *= 0.75
            else:
                self._spill(failed.first)

    def _dissolve(self, first: int) -> None:
        """Run the layers of a cascade each as a whole."""
        del self.spans[first]
        self._shrink[first] = 1.0

    def _spill(self, step: int) -> int:
        """Send the largest map that lives then to DRAM; gives it."""
        living = self.living()
        live = [i for i in self.resident if living[i][0] <= step <= living[i][1]]
        if not live:
            raise _too_small(self.graph, step, self.planner.hw)
        gone = max(live, key=lambda i: (self.graph.maps[i].total_bytes, i))
        self.resident.remove(gone)
        return gone


def _too_small(graph: LayerGraph, step: int, hw: HwConfig) -> UserError:
    layer = graph.layers[step]
    return UserError(
        f"{layer.name} ({layer.op}): no tiling fits {hw.name} (sram_bytes {hw.sram_bytes}, weight_buffer_bytes "
        f"{hw.weight_buffer_bytes}, line_buffer_bytes {hw.line_buffer_bytes}); use a config with more"
    )


def _working_blocks(graph: LayerGraph, tilings: Sequence[Tiling], cascades: Sequence[Cascade]) -> list[Block]:
    spans = {step: (c.first, c.last) for c in cascades for step in range(c.first, c.last + 1)}
    blocks = [
        Block(("ring", c.first, ring.map), ring_bytes(ring, graph), c.first, c.last)
        for c in cascades
        for ring in c.rings
    ]
    for step, t in enumerate(tilings):
        first, last = spans.get(step, (step, step))
        sizes: list[tuple[tuple[str | int, ...], int]] = [
            *((("in", step, i, slot), b) for i, b in enumerate(t.in_slot_bytes) for slot in range(t.in_slots)),
            *((("out", step, slot), t.out_slot_bytes) for slot in range(t.out_slots)),
            *((("param", step, slot), t.param_slot_bytes) for slot in range(t.param_slots)),
            (("table", step), t.table_bytes),
        ]
        # Parameters get their place one layer early, so that they can be fetched while the layer before computes.
        begin = {"param": max(first - 1, 0), "table": max(first - 1, 0)}
        blocks += [Block(key, align(size), begin.get(str(key[0]), first), last) for key, size in sizes if size]
    return blocks


def _layer_blocks(step: int, tiling: Tiling, placed: Places, merged: bool) -> LayerBlocks:
    """Where a layer's blocks lie; ``merged``: its parameters and table come with those of others."""
    own_params = tiling.param_slot_bytes and not merged
    return LayerBlocks(
        inputs=tuple(
            tuple(placed["in", step, i, slot] for slot in range(tiling.in_slots)) if size else ()
            for i, size in enumerate(tiling.in_slot_bytes)
        ),
        output=tuple(placed["out", step, slot] for slot in range(tiling.out_slots)) if tiling.out_slot_bytes else (),
        params=tuple(placed["param", step, slot] for slot in range(tiling.param_slots)) if own_params else (),
        table=placed.get(("table", step), 0),
    )


def _dram(graph: LayerGraph, elsewhere: set[int]) -> tuple[dict[int, int], int]:
    """Addresses and total: inputs, outputs, scratch. Scratch is not reused, so that every tensor can be inspected."""
    order = list(dict.fromkeys([*graph.inputs, *graph.outputs]))
    order += [layer.output for layer in graph.layers if layer.output not in {*elsewhere, *order}]
    addresses, end = {}, 0
    for index in order:
        addresses[index] = end
        end += -(-graph.maps[index].total_bytes // DRAM_ALIGN_BYTES) * DRAM_ALIGN_BYTES
    return addresses, end
