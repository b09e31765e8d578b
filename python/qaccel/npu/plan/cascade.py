"""Planning one cascade: how many rows a stripe has, how large its rings are, how its layers are cut.

Larger stripes need fewer instructions, larger rings fewer copies of halos; both take SRAM. What fits is compared by ``cost.py``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from operator import neg

import numpy as np

from ...machine import cost
from ...machine.hw import HwConfig
from ...machine.layer_cost import LayerWork, block_cycles, engine_cycles, layer_cycles, together
from ..extents import RowsRead, all_rows_read, halvings, in_steps, input_rows, rows_read, window_of
from ..layers import AnyLayer, ConvLayer, DepthwiseLayer, FeatureMap, LayerGraph, PoolLayer
from .schedule.wishes import NOTHING, CascadeWish, Wishes
from .stripes import Cascade, Ring, as_stripes, cut_ring, cut_stripes, has_stripes, map_name, ring_bytes
from .tiles.tile import KnownTilings, plan_layer, plan_stripe
from .tiles.tiling import AS_USUAL, Tiling, record_tiles, weight_buffer_bytes

LARGEST_TRIED = 3  # heights of stripes, of those that fit
OUTPUT_SHARE = 8  # what a stripe stores has two places where that takes this part of SRAM at most
PARTS_TRIED = (2, 3, 4)  # of the largest height


class Planner:
    """Plans layers and cascades of one subgraph, and remembers what it has planned."""

    def __init__(self, graph: LayerGraph, hw: HwConfig, wishes: Wishes = NOTHING) -> None:
        """``wishes``: what a schedule says of tiles and cascades."""
        self.graph, self.hw, self.wishes = graph, hw, wishes
        self.ahead: frozenset[int] = frozenset()  # layers whose first weights are there before their turn
        self._last_readers = {index: step for step, layer in enumerate(graph.layers) for index in layer.inputs}
        self._known: KnownTilings = {}
        self._cascades: dict[tuple[int, int, frozenset[int], int], Cascade | None] = {}
        self._tilings: dict[tuple[int, int, bool], Tiling | None] = {}
        self._cuts: dict[tuple[int, int, int], tuple[np.ndarray, dict[int, Ring]]] = {}  # rings by map
        self._reads: dict[tuple[int, int], RowsRead] = {}
        self._works: dict[tuple[int, tuple[tuple[int, int], ...], bool, bool], LayerWork] = {}

    def whole(self, step: int, resident: frozenset[int], budget_bytes: int) -> Tiling | None:
        """How a layer is cut that runs as a whole: `plan_layer`."""
        layer, choice = self.graph.layers[step], self.wishes.tile(step)
        return plan_layer(
            layer, self.graph.maps, self.hw, resident, budget_bytes, self._known, choice, step in self.ahead
        )

    def cascade(self, first: int, last: int, resident: frozenset[int], budget_bytes: int) -> Cascade | None:
        """The quickest cascade of these layers that fits beside the ``resident`` maps, or None.

        ``resident``: maps that are in SRAM as a whole, inputs and outputs of the cascade among them.
        """
        layers = self.graph.layers[first : last + 1]
        resident &= {index for layer in layers for index in (*layer.inputs, layer.output)}
        key = first, last, resident, budget_bytes
        if key not in self._cascades:
            self._cascades[key] = self._cascade(first, last, resident, budget_bytes)
        return self._cascades[key]

    def _cascade(self, first: int, last: int, resident: frozenset[int], budget_bytes: int) -> Cascade | None:
        heights = _heights(self.graph.maps[self.graph.layers[last].output].h)
        wish = self.wishes.cascade(first)
        if wish.rows is not None:
            heights = [wish.rows]
        # Rings grow with the stripes: the first that fits is looked for by halving.
        fits = partial(self._rings_fit, first, last, resident=resident, budget_bytes=budget_bytes)
        begin = bisect_left(heights, True, key=fits)

        def planned(tried: Iterable[int]) -> Iterator[tuple[LayerWork, Callable[[], Cascade]]]:
            found = (self._with_rows(first, last, rows, resident, budget_bytes) for rows in tried)
            return (option for option in found if option is not None)

        options = list(islice(planned(heights[begin:]), LARGEST_TRIED))
        # Of less rows the next ones have room beside them. With weights, more stripes cost more than the estimate says.
        if any(work.exposed_loads and not work.weight_loads for work, _ in options):
            parts = {bisect_left(heights, -heights[begin] / part, key=neg) for part in PARTS_TRIED}
            options += planned(heights[number] for number in sorted(parts) if begin < number < len(heights))
        best = min(options, key=lambda option: layer_cycles(option[0], self.hw), default=None)
        return None if best is None else best[1]()

    def _cut(self, first: int, last: int, rows: int, resident: frozenset[int]) -> tuple[np.ndarray, list[Ring]]:
        """Stripes of so many rows, as `cut_stripes` gives them, and the smallest rings."""
        key = first, last, rows
        if key not in self._cuts:
            self._cuts[key] = cut_stripes(self.graph, first, last, rows, self._rows_read), {}
        made, known = self._cuts[key]
        layers = self.graph.layers[first : last + 1]
        used = {index for layer in layers for index in (*layer.inputs, layer.output)} - {layers[-1].output}
        rings = []
        for index in sorted(used - resident):
            if self.graph.maps[index].data is None:
                if index not in known:
                    known[index] = cut_ring(self.graph, first, made, index, self._rows_read)
                rings.append(known[index])
        return made, rings

    def _rows_read(self, step: int, which: int) -> RowsRead:
        """What of an input of a layer is read."""
        key = step, which
        if key not in self._reads:
            self._reads[key] = all_rows_read(self.graph.layers[step], which, self.graph.maps)
        return self._reads[key]

    def _rings_fit(self, first: int, last: int, rows: int, resident: frozenset[int], budget_bytes: int) -> bool:
        return sum(ring_bytes(ring, self.graph) for ring in self._cut(first, last, rows, resident)[1]) <= budget_bytes

    @cached_property
    def joined(self) -> tuple[bool, ...]:
        """By layer: whether it may be in a cascade together with others."""
        whole = self.wishes.tiles if self.wishes.cascades is None else ()  # a tile that is given is none of a stripe
        return tuple(
            step not in whole and has_stripes(layer, self.graph) for step, layer in enumerate(self.graph.layers)
        )

    def _with_rows(
        self, first: int, last: int, rows: int, resident: frozenset[int], budget_bytes: int
    ) -> tuple[LayerWork, Callable[[], Cascade]] | None:
        """What a cascade with stripes of so many rows does, and what makes it; None if it does not fit."""
        graph = self.graph
        made, rings = self._cut(first, last, rows, resident)
        layers = graph.layers[first : last + 1]
        inside = {layer.output for layer in layers[:-1]}
        in_sram = resident | {ring.map for ring in rings}
        heights = [Counter(column) for column in np.diff(made, axis=0).T.tolist()]
        opening_rows = int(made[1, 0])
        found = [self._tallest(first + i, max(heights[i]), in_sram) for i in range(len(layers))]
        tilings = [tiling for tiling in found if tiling is not None]
        if len(tilings) < len(layers):
            return None
        *before, end = [_keeping_records(each, graph, tiling) for each, tiling in zip(layers, tilings, strict=True)]
        # To store one stripe while the next is made; nothing else decides it, so that a schedule need not say it.
        twice = OUTPUT_SHARE * end.out_slot_bytes <= self.hw.sram_bytes
        cut = (*before, replace(end, out_slots=2) if twice else end)
        wish = self.wishes.cascade(first)
        held = sum(weight_buffer_bytes(layer, tiling) for layer, tiling in zip(layers, cut, strict=True))
        self._check(first, opening_rows, rings, held)
        stay = held <= self.hw.weight_buffer_bytes if wish.stay is None else wish.stay
        spare = budget_bytes - sum(ring_bytes(ring, graph) for ring in rings) - sum(t.working_bytes for t in cut)
        if spare < 0:
            return None
        rings = self._widened(rings, inside, spare, wish, last)
        if sum(ring_bytes(ring, graph) for ring in rings) + sum(t.working_bytes for t in cut) > budget_bytes:
            return None
        works = [self._layer_work(first + i, heights[i], in_sram, stay, tilings[i]) for i in range(len(layers))]
        stored = {index for index in inside - resident if self._needed_after(index, last)}
        moves = [self._ring_work(ring, inside, stored, last) for ring in rings]
        work = together([*works, *moves])
        fed = [ring for ring in rings if ring.map in layers[0].inputs and ring.map not in inside]
        # As if it did not open in parts: that alone is no reason for another cascade.
        fed_bytes = sum(ring.ends[0] * graph.maps[ring.map].row_bytes for ring in fed)
        work = replace(
            work, first_bytes=works[0].first_bytes + fed_bytes, last_bytes=works[-1].last_bytes,
            first_loads=works[0].first_loads + len(fed), rounds=len(made) - 1 if fed else 0,
            weight_passes=len(made) - 1 if stay else 1,
        )  # fmt: skip

        def make() -> Cascade:
            opening = self._opening(first, opening_rows, fed, in_sram, wish) if stay else opening_rows
            phases = [[each] for each in works]
            for ring, moved in zip(rings, moves, strict=True):
                phases[self._keeper(ring.map, first)].append(moved)
            weights = held if stay else 0
            return Cascade(
                first, as_stripes(made), tuple(rings), cut, weights, opening, work, tuple(map(tuple, phases))
            )

        return work, make

    def _check(self, first: int, rows: int, rings: Sequence[Ring], held_bytes: int) -> None:
        """Raises UserError where what is given of a cascade cannot be. ``rows``: of the first layer in the first stripe;
        ``rings``: the smallest; ``held_bytes``: what all weights take of their buffer."""
        wish, name = self.wishes.cascade(first), self.graph.layers[first].name
        where = f"the cascade to {self.graph.layers[wish.last].name}"
        if wish.stay and held_bytes > self.hw.weight_buffer_bytes:
            raise self.wishes.refused(
                name, f"{where}: its weights take {held_bytes} B of the weight buffer, which has {self.hw.weight_buffer_bytes}; "
                "say weights_stay: false",
            )  # fmt: skip
        if wish.opening is not None and not (
            1 <= wish.opening <= rows and (wish.opening == rows or wish.stay is not False)
        ):
            raise self.wishes.refused(
                name, f"{where}: opening_rows {wish.opening}; the first layer makes {rows} rows in the first stripe, all at "
                "once where weights do not stay",
            )  # fmt: skip
        for ring in rings:
            if wish.rings is not None and wish.rings.get(ring.map, ring.rows) < ring.rows:
                raise self.wishes.refused(
                    name, f"{where}: the ring of {map_name(self.graph, ring.map)!r} needs {ring.rows} rows; it has "
                    f"{wish.rings[ring.map]}",
                )  # fmt: skip

    def _opening(self, first: int, rows: int, fed: Sequence[Ring], in_sram: frozenset[int], wish: CascadeWish) -> int:
        """How many of the first ``rows`` a cascade's first layer makes at a time.

        Fewer need fewer rows of their inputs to begin with, and take more instructions.
        """
        if wish.opening is not None:
            return min(wish.opening, rows)
        if not fed:
            return rows
        found = []
        for height in halvings(rows):
            heights = Counter(count for _, count in in_steps(rows, height))
            tallest = self._tiling(first, max(heights), in_sram)
            if tallest is not None and all(self._tiling(first, count, in_sram) is not None for count in heights):
                compute = engine_cycles(self._layer_work(first, heights, in_sram, True, tallest), self.hw).compute
                found.append((compute + cost.bytes_beats(self._fed_bytes(first, height, fed), self.hw), -height))
        return -min(found)[1]

    def _fed_bytes(self, first: int, rows: int, fed: Sequence[Ring]) -> int:
        """Bytes from DRAM under the first rows of a cascade's first layer."""
        layer, maps = self.graph.layers[first], self.graph.maps
        rows_of = {source: sum(rows_read(layer, which, maps, 0, rows)) for which, source in enumerate(layer.inputs)}
        return sum(rows_of[ring.map] * maps[ring.map].row_bytes for ring in fed)

    def _tiling(self, step: int, rows: int, in_sram: frozenset[int]) -> Tiling | None:
        layer = self.graph.layers[step]
        key = step, rows, layer.output in in_sram
        if key not in self._tilings:
            self._tilings[key] = plan_stripe(*_stripe_of(layer, self.graph.maps, rows), self.hw, in_sram)
        return self._tilings[key]

    def _tallest(self, step: int, rows: int, in_sram: frozenset[int]) -> Tiling | None:
        """The tiling that a layer has in a cascade, of its tallest stripe."""
        choice = self.wishes.tile(step)
        if choice == AS_USUAL:
            return self._tiling(step, rows, in_sram)
        return plan_stripe(*_stripe_of(self.graph.layers[step], self.graph.maps, rows), self.hw, in_sram, choice)

    def _layer_work(
        self, step: int, heights: Counter[int], in_sram: frozenset[int], weights_stay: bool, tallest: Tiling
    ) -> LayerWork:
        """What one layer does in all stripes; ``heights``: how many stripes have how many rows of it."""
        key = step, tuple(heights.items()), self.graph.layers[step].output in in_sram, weights_stay
        if self.wishes.tile(step) != AS_USUAL:
            return self._stripes_work(step, heights, in_sram, weights_stay, tallest)
        if key not in self._works:
            self._works[key] = self._stripes_work(step, heights, in_sram, weights_stay, tallest)
        return self._works[key]

    def _stripes_work(
        self, step: int, heights: Counter[int], in_sram: frozenset[int], weights_stay: bool, tallest: Tiling
    ) -> LayerWork:
        layer, works = self.graph.layers[step], []
        for rows, count in heights.items():
            tiling = tallest if rows == max(heights) else self._tiling(step, rows, in_sram) if rows else None
            if tiling is None or not rows:
                continue
            once = tiling.work
            weights = 0 if weights_stay else count
            works.append(
                replace(
                    once,
                    computes=tuple((work, times * count) for work, times in once.computes),
                    loads=0,
                    load_beats=0,
                    weight_loads=once.weight_loads * weights,
                    weight_bytes=once.weight_bytes * weights,
                    decode_cycles=once.decode_cycles * weights,
                    stores=once.stores * count,
                    store_beats=once.store_beats * count,
                )
            )
        records = tallest.param_slot_bytes * record_tiles(layer, self.graph, tallest) + tallest.table_bytes
        once = replace(
            tallest.work,
            computes=(),
            loads=record_tiles(layer, self.graph, tallest) + (tallest.table_bytes > 0),
            load_beats=cost.bytes_beats(records, self.hw),
            stores=0,
            store_beats=0,
        )
        if not weights_stay:
            once = replace(once, weight_loads=0, weight_bytes=0, decode_cycles=0)
        ends = {name: getattr(tallest.work, name) for name in ("first_bytes", "first_loads", "last_bytes")}
        return replace(together([*works, once]), **ends)

    def _needed_after(self, index: int, last: int) -> bool:
        """Whether a map is an output, or a layer behind ``last`` reads it."""
        return index in self.graph.outputs or self._last_readers.get(index, -1) > last

    def _keeper(self, index: int, first: int) -> int:
        """Which layer from ``first`` on comes behind the copies and loads of a ring: the one that makes its map, or reads it."""
        layers = self.graph.layers[first:]
        made = (position for position, layer in enumerate(layers) if index == layer.output)
        return next(made, next(position for position, layer in enumerate(layers) if index in layer.inputs))

    def _ring_work(self, ring: Ring, inside: set[int], stored: set[int], last: int) -> LayerWork:
        """Copies of halos, the loads of what comes from DRAM, and the stores of what is made and ``stored``."""
        row_map, fed = self.graph.maps[ring.map], ring.map not in inside
        copies = Counter(copy_work(row_map, rows) for _, _, rows in ring.shifts() if rows)
        steps = [end - begin for begin, end in zip((0, *ring.ends), ring.ends, strict=False) if end > begin]
        beats, waiting = self._rows_beats(ring, steps), self._exposed(ring, last) if fed else []
        stores = ring.map in stored
        return LayerWork(
            computes=tuple(copies.items()), loads=len(steps) if fed else 0, load_beats=beats if fed else 0, weight_loads=0,
            weight_bytes=0, decode_cycles=0, stores=len(steps) if stores else 0, store_beats=beats if stores else 0,
            first_bytes=0, last_bytes=0, exposed_loads=len(waiting), exposed_beats=self._rows_beats(ring, waiting),
        )  # fmt: skip

    def _rows_beats(self, ring: Ring, steps: Sequence[int]) -> int:
        """Beats of transfers of so many rows each."""
        row_bytes = self.graph.maps[ring.map].row_bytes
        return sum(count * cost.bytes_beats(rows * row_bytes, self.hw) for rows, count in Counter(steps).items())

    def _exposed(self, ring: Ring, last: int) -> list[int]:
        """Rows of each load into a ring that COMPUTE waits for: that of a stripe whose place is free so late, where no layer of the
        stripe before is left that could be made meanwhile."""
        copies_alone = ring.map not in self.graph.layers[last].inputs
        return [
            ring.ends[stripe] - ring.ends[stripe - 1]
            for stripe, behind_copies in ring.late_stripes()
            if behind_copies or not copies_alone
        ]

    def _widened(
        self, rings: list[Ring], inside: set[int], spare_bytes: int, wish: CascadeWish, last: int
    ) -> list[Ring]:
        """With more rows where that saves most cycles for its bytes; before that, those that are loaded get rows to load into."""
        result = list(rings)
        if wish.rings is not None:
            return [replace(ring, rows=wish.rings.get(ring.map, ring.rows)) for ring in result]
        for position, ring in enumerate(result):
            if ring.map not in inside:
                wider = self._wider(ring)
                more = ring_bytes(wider, self.graph) - ring_bytes(ring, self.graph)
                if more <= spare_bytes:
                    result[position], spare_bytes = wider, spare_bytes - more
        cycles = [self._ring_cycles(ring, ring.map not in inside, last) for ring in result]
        options = [self._widening(*each, inside, last) for each in zip(result, cycles, strict=True)]
        while True:
            fitting = [
                ((cycles[position] - wider_cycles) / more, position)
                for position, (_, more, wider_cycles) in enumerate(options)
                if 0 < more <= spare_bytes and wider_cycles < cycles[position]
            ]
            if not fitting:
                return result
            _, position = max(fitting)
            result[position], more, cycles[position] = options[position]
            spare_bytes -= more
            options[position] = self._widening(result[position], cycles[position], inside, last)

    def _widening(self, ring: Ring, cycles: int, inside: set[int], last: int) -> tuple[Ring, int, int]:
        """A ring with more rows than one that takes so many ``cycles``, the bytes of these, and the cycles that it takes."""
        wider = self._wider(ring) if cycles else ring
        more = ring_bytes(wider, self.graph) - ring_bytes(ring, self.graph)
        return wider, more, self._ring_cycles(wider, ring.map not in inside, last) if more else cycles

    def _wider(self, ring: Ring) -> Ring:
        """With rows for another stripe, or for more if it is large; never more than the map has."""
        longest = max(end - begin for begin, end in zip((0, *ring.ends), ring.ends, strict=False))
        more = -(-max(ring.rows // 4, longest) // longest) * longest
        return replace(ring, rows=min(ring.rows + more, self.graph.maps[ring.map].h))

    def _ring_cycles(self, ring: Ring, fed: bool, last: int) -> int:
        """Cycles of copies to the front, and those that COMPUTE waits for loads where it is ``fed`` from DRAM."""
        counts = Counter(rows for _, _, rows in ring.shifts() if rows)
        copies = sum(
            count * cost.work_cycles(copy_work(self.graph.maps[ring.map], rows), self.hw)
            for rows, count in counts.items()
        )
        waiting = self._exposed(ring, last) if fed else []
        return copies + sum(block_cycles(rows * self.graph.maps[ring.map].row_bytes, self.hw) for rows in waiting)


def copy_work(row_map: FeatureMap, rows: int) -> cost.CopyWork:
    """The copy of some rows of a map to the front of its ring: bytes, whatever they mean."""
    return cost.CopyWork(h=rows, w=row_map.w, channels=row_map.pixel_bytes, in_bits=8, out_bits=8)


def _heights(rows: int) -> list[int]:
    """Rows of a stripe to try, from half of them down."""
    return sorted({-(-rows // count) for count in range(2, rows + 1)}, reverse=True)


def _stripe_of(layer: AnyLayer, maps: tuple[FeatureMap, ...], rows: int) -> tuple[AnyLayer, tuple[FeatureMap, ...]]:
    """The layer as if its output had these rows and no border above or below."""
    window = window_of(layer)
    if isinstance(layer, ConvLayer | DepthwiseLayer | PoolLayer):
        layer = replace(layer, window=replace(window, pad_top=0, pad_bottom=0))
    short = list(maps)
    for which, source in enumerate(layer.inputs):
        needed = input_rows(rows, window, window.kernel_h) if which == 0 else rows
        short[source] = replace(maps[source], h=min(maps[source].h, needed))
    short[layer.output] = replace(maps[layer.output], h=rows)
    return layer, tuple(short)


def _keeping_records(layer: AnyLayer, graph: LayerGraph, tiling: Tiling) -> Tiling:
    """With a place for all parameter records at once, so that they are loaded once for all stripes."""
    return replace(tiling, param_slots=record_tiles(layer, graph, tiling))
