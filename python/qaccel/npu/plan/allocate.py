"""The plan of a subgraph: cascades, tiles, which feature maps stay in SRAM, and where every SRAM block and DRAM tensor lies.

Maps that pass between layers stay in SRAM while they fit beside the working blocks of every layer during which they live; the
largest of those in the way is sent to DRAM. Where that happens, ``choose.py`` looks for cascades that do with less. Blocks are
placed first-fit, largest first, by lifetime, and by search (``pack.py``) where that fails; what belongs to a cascade lives as long
as the cascade. What is free then serves what is fetched ahead of the layers that need it (``ahead.py``, ``stock.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ...errors import UserError
from ...machine.hw import HwConfig
from ...machine.layer_cost import weight_waits
from ...machine.timeline import network_cycles
from ..extents import align
from ..layers import LayerGraph
from .ahead import Records, Unit, merge_records, turns_of, units_of
from .cascade import Planner
from .choose import SHARE, choose
from .holds import Hold, find_holds
from .pack import pack
from .place import Block, Places, Taken, place
from .schedule.given import check_given_places, given_holds, given_records, given_stocks
from .schedule.wishes import NOTHING, Wishes
from .stock import Stock, buffered_bytes, stock_blocks, stock_streams
from .stripes import Cascade, map_name, ring_bytes
from .tiles.tile import given_sizes
from .tiles.tiling import Tiling

DRAM_ALIGN_BYTES = 64
FINEST = 4  # parts of layers whose weights may be ahead that are tried one by one
STEPS_AT_ONCE, STEPS = 4_000, 20_000  # of the search for places where first fit finds none: a second or two in all


@dataclass(frozen=True)
class LayerBlocks:
    """SRAM addresses of a layer's working blocks: slots of each input, of the output, of its own parameters; its own table; what
    lies between two steps of a pool."""

    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    params: tuple[int, ...]
    table: int
    between: int


@dataclass(frozen=True)
class Allocation:
    """``sram_addr`` of maps that lie there whole, ``ring_addr`` of rings by first layer of the cascade and map, ``dram_addr`` of
    maps that do not lie in SRAM alone: the subgraph's inputs and outputs, and what has no room. ``records`` and ``stocks``: what is
    fetched ahead; ``holds``: where LOADW waits. ``sram``: every block with its address. ``sram_bytes``: of all SRAM,
    what was planned for. ``lost_cascades``: whether one that was chosen found no place among the others.

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
    sram_bytes: int
    lost_cascades: bool


def allocate(graph: LayerGraph, hw: HwConfig, wishes: Wishes = NOTHING) -> Allocation:
    """``wishes``: what a schedule asks for. Raises UserError naming a layer that fits in no way, or not as it is asked for."""
    planner = Planner(graph, hw, wishes)
    state = _State(graph, planner, _lifetimes(graph))
    if wishes.cascades is None:
        state.plan()
        choice = choose(graph, hw, planner, state.lifetimes, frozenset(state.resident))
        if choice.cascades:
            state = _State(graph, planner, state.lifetimes, set(choice.resident), dict(choice.cascades))
    planner.ahead = _weights_ahead(graph, state, hw)
    given: Places = {("map", index): addr for index, addr in wishes.addresses.items()}
    steps = STEPS
    while True:
        tilings, cascades = state.plan()
        living = state.living()
        blocks = _working_blocks(graph, tilings, cascades, state.late)
        blocks += [Block(("map", i), align(graph.maps[i].total_bytes), *living[i]) for i in sorted(state.resident)]
        check_given_places(wishes, blocks, given, graph)
        placed, failed = place(blocks, hw.sram_bytes, given)
        if failed is None:
            break
        if steps > 0 and not given:
            packing = pack(blocks, hw.sram_bytes, min(steps, STEPS_AT_ONCE))
            steps -= packing.steps
            if packing.places is not None:
                placed = packing.places
                break
        # Fragmentation: first make the working blocks of that moment smaller, then send a map to DRAM.
        state.make_room(failed)
    units = units_of(graph, tilings, cascades)
    taken: Taken = [(block, placed[block.key]) for block in blocks]
    if wishes.records is None:
        records, taken = merge_records(graph, units, taken, hw)
    else:
        records, taken = given_records(wishes, wishes.records, graph, units, taken, hw)
    if wishes.stocks is None:
        stocks = stock_streams(graph, tilings, units, records, taken, hw)
    else:
        stocks = given_stocks(wishes, graph, tilings, units, taken, hw)
    fed = [i for i, unit in enumerate(units) if _reads_dram(graph, unit, tilings, cascades)]
    if wishes.holds is None:
        holds = find_holds(units, fed, buffered_bytes(graph, tilings, units), hw)
    else:
        holds = given_holds(wishes, units, fed)
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
        sram_bytes=hw.sram_bytes,
        lost_cascades=state.lost_cascades,
    )


def _weights_ahead(graph: LayerGraph, state: _State, hw: HwConfig) -> frozenset[int]:
    """Layers whose first weights are there before their turn, so that they need not be cut to begin early: those that then do not
    wait for them, and with which the network is quicker. Where it is not with all, halves of them are tried."""

    def follow(ahead: frozenset[int]) -> tuple[list[Unit], Sequence[int], int]:
        state.planner.ahead = ahead
        tilings, cascades = state.plan()
        units = units_of(graph, tilings, cascades)
        sizes = buffered_bytes(graph, tilings, units)
        fed = [i for i, unit in enumerate(units) if _reads_dram(graph, unit, tilings, cascades)]
        held = {hold.step: hold.place for hold in find_holds(units, fed, sizes, hw)}
        alone = turns_of(graph, tilings, cascades, units)
        turns = [replace(turn, held=held.get(unit.first)) for unit, turn in zip(units, alone, strict=True)]
        return units, weight_waits([unit.work for unit in units], sizes, hw).compute, network_cycles(turns, hw)

    found, (units, _, best) = frozenset[int](), follow(frozenset())
    steps = [unit.first for unit in units[1:] if unit.first == unit.last and unit.work.weight_loads > 1]
    parts = [steps]
    while parts:
        tried, late = found.union(parts[0]), frozenset[int]()
        while True:
            units, waits, cycles = follow(tried)
            late = (tried - found) & {unit.first for unit, wait in zip(units, waits, strict=True) if wait}
            if not late:
                break
            tried -= late
        part = parts.pop(0)
        if cycles < best:
            found, best = tried, cycles
        elif len(steps) <= len(part) * FINEST and len(part) > 1:
            parts += [part[: len(part) // 2], part[len(part) // 2 :]]
    return found


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
        self.graph, self.planner, self.lifetimes, self.wishes = graph, planner, lifetimes, planner.wishes
        fitting = {i for i in lifetimes if align(graph.maps[i].total_bytes) <= planner.hw.sram_bytes}
        self.resident = fitting - self.wishes.sent if resident is None else resident
        self._given = self.wishes.cascades or {}
        self.spans = spans or {first: wish.last for first, wish in self._given.items()}
        self._shrink = [1.0] * len(graph.layers)
        self._firm: set[int] = set()  # layers that do not fit less than all SRAM
        self.lost_cascades = False
        self.late: set[int] = set()  # layers whose parameters and table have no place before their turn

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
                if cascade is not None:
                    cascades.append(cascade)
                    tilings += cascade.tilings
                    step = last + 1
                    continue
                if step not in self._given:
                    self._dissolve(step)
                    continue
            elif (tiling := self.planner.whole(step, live, budget)) is not None:
                tilings.append(tiling)
                step += 1
                continue
            if self._shrink[step] < 1 and not self._movable(step):
                self._shrink[step] = 1.0
                self._firm.add(step)
                continue
            # Earlier layers that touch the map sent away need another tiling.
            step = min(step, living[self._spill(step)][0])
            del tilings[step:]
            cascades = [cascade for cascade in cascades if cascade.last < step]
        return tilings, cascades

    def make_room(self, failed: Block) -> None:
        """Let cascades in the way of a block have less SRAM, or the layer; in the end without cascade or maps beside it."""
        spans = ((c, last) for c, last in self.spans.items() if c not in self._given)
        in_the_way = [c for c, last in spans if c <= failed.last and failed.first <= last]
        roomy = [first for first in in_the_way if self._shrink[first] > 0.5]
        if roomy:
            self._shrink[max(roomy, key=lambda first: self._shrink[first])] *= 0.9
        elif in_the_way:
            self._dissolve(in_the_way[0])
        elif self._is_small(failed):
            self.resident.remove(int(failed.key[1]))  # it costs less than what its room would
        else:
            # What has its place early may lack room in both layers.
            steps = (failed.first,) if failed.key[0] == "map" else (failed.first, failed.last)
            firm = self._firm.union(self.wishes.tiles)
            large = [step for step in steps if self._shrink[step] > 0.3 and step not in firm]
            if large:
                self._shrink[max(large, key=lambda step: self._shrink[step])] *= 0.75
            elif any(map(self._movable, steps)):
                self._spill(next(filter(self._movable, steps)))
            else:
                self._keep_late(failed)

    def _keep_late(self, failed: Block) -> None:
        """Give parameters and tables that come before their turn, in the way of a block or the block itself, their places later."""
        turns = {step: first for first, last in self.spans.items() for step in range(first, last + 1)}
        begins = (turns.get(step, step) for step in range(len(self.graph.layers)))
        early = {step for step, begin in enumerate(begins) if failed.first < begin <= failed.last + 1} - self.late
        if not early:
            raise self._no_room(failed.first, self._living_at(failed.first))
        self.late |= early

    def _is_small(self, failed: Block) -> bool:
        """Whether a block is a map that may go, and takes little."""
        if failed.key[0] != "map" or failed.key[1] in self.wishes.kept:
            return False
        return SHARE * failed.size_bytes < self.planner.hw.sram_bytes

    def _dissolve(self, first: int) -> None:
        """Run the layers of a cascade each as a whole."""
        del self.spans[first]
        self._shrink[first] = 1.0
        self.lost_cascades = True

    def _living_at(self, step: int) -> list[int]:
        """Maps in SRAM that live then."""
        living = self.living()
        return [i for i in self.resident if living[i][0] <= step <= living[i][1]]

    def _movable(self, step: int) -> list[int]:
        """Those of them that may go to DRAM."""
        return [i for i in self._living_at(step) if i not in self.wishes.kept]

    def _spill(self, step: int) -> int:
        """Send the largest map that lives then to DRAM; gives it."""
        live = self._movable(step)
        if not live:
            raise self._no_room(step, self._living_at(step))
        gone = max(live, key=lambda i: (self.graph.maps[i].total_bytes, i))
        self.resident.remove(gone)
        return gone

    def _no_room(self, step: int, kept: Sequence[int]) -> UserError:
        """For a layer that does not fit beside the maps that are ``kept`` for the schedule's sake, or not as it asks."""
        layer, hw = self.graph.layers[step], self.planner.hw
        if not kept and step not in self.wishes.tiles and self.wishes.cascades is None:
            return _too_small(self.graph, step, hw)
        what, more = "no tile of it fits", "let a cascade have it, leave cascades out"
        if step in self._given:
            what, more = (
                f"the cascade to {self.graph.layers[self._given[step].last].name} does not fit",
                "give fewer rows",
            )
        elif step in self.wishes.tiles:
            what, more = (
                f"a tile with {given_sizes(self.wishes.tiles[step])} does not fit",
                "give fewer rows or channels",
            )
        size = sum(align(self.graph.maps[i].total_bytes) for i in kept)
        beside = f" beside {', '.join(map_name(self.graph, i) for i in sorted(kept))} with {size} B" if kept else ""
        return self.wishes.refused(
            layer.name,
            f"{what} {hw.sram_bytes} B of SRAM{beside}; {more}, or say output_in_sram: false of a map",
        )


def _too_small(graph: LayerGraph, step: int, hw: HwConfig) -> UserError:
    layer = graph.layers[step]
    return UserError(
        f"{layer.name} ({layer.op}): no tiling fits {hw.name} (sram_bytes {hw.sram_bytes}, weight_buffer_bytes "
        f"{hw.weight_buffer_bytes}, line_buffer_bytes {hw.line_buffer_bytes}); use a config with more"
    )


def _working_blocks(
    graph: LayerGraph, tilings: Sequence[Tiling], cascades: Sequence[Cascade], late: Collection[int]
) -> list[Block]:
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
            (("between", step), t.between_bytes),
        ]
        # Parameters get their place one layer early, so that they can be fetched while the layer before computes.
        early = first if step in late else max(first - 1, 0)
        begin = {"param": early, "table": early}
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
        between=placed.get(("between", step), 0),
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
