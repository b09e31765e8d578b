"""Which layers run as cascades, and which maps between them lie in SRAM, decided together where not all of them have room there.

Dynamic programming over the places between layers. A state says which of the maps that live across such a place are in SRAM; a step
runs one layer as a whole, or one or more as a cascade, at what ``cost.py`` estimates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from ...machine.hw import HwConfig
from ...machine.layer_cost import LayerWork, layer_cycles
from ..extents import align
from ..layers import LayerGraph
from .ahead import record_bytes
from .cascade import Planner

LONGEST = 12  # layers of a cascade
BESIDE = 2  # layers before and after those without room that may join them
GRAIN = 16  # SRAM for working blocks is looked at in so many steps
SHARE = 4  # a map is large that takes this part of SRAM or more
Lifetimes = dict[int, tuple[int, int]]
Cost = tuple[int, int]  # cycles, and cycles of the DRAM channel where they are equal
State = frozenset[int]


@dataclass(frozen=True)
class Choice:
    """``cascades``: first and last layer of each; ``resident``: maps that lie in SRAM as a whole."""

    cascades: tuple[tuple[int, int], ...]
    resident: frozenset[int]


def choose(graph: LayerGraph, hw: HwConfig, planner: Planner, lifetimes: Lifetimes, resident: frozenset[int]) -> Choice:
    """``resident``: the maps that have room without cascades. Only where others have none is anything chosen anew."""
    search = _Search(graph, hw, planner, lifetimes, resident)
    cascades: list[tuple[int, int]] = []
    for first, last in search.regions():
        found = search.best(first, last)
        if found is not None:
            cascades += found.cascades
            inside = {m for m in lifetimes if first <= lifetimes[m][0] and lifetimes[m][1] <= last}
            resident = (resident - inside) | found.resident
    return Choice(tuple(cascades), resident)


class _Search:
    def __init__(
        self, graph: LayerGraph, hw: HwConfig, planner: Planner, lifetimes: Lifetimes, resident: State
    ) -> None:
        self.graph, self.hw, self.planner = graph, hw, planner
        self.lifetimes, self.resident = lifetimes, resident
        self.outside = frozenset(set(lifetimes) - resident)
        self.given = planner.wishes.kept | planner.wishes.sent
        self.sizes = {index: align(graph.maps[index].total_bytes) for index in lifetimes}

    def regions(self) -> Iterator[tuple[int, int]]:
        """First and last layer of each run of layers of which some read or write a map without room in SRAM."""
        layers = self.graph.layers
        touched = [i for i, layer in enumerate(layers) if self.outside & {*layer.inputs, layer.output}]
        grown = {i for t in touched for i in range(max(t - BESIDE, 0), min(t + BESIDE + 1, len(layers)))}
        for first in sorted(grown):
            if first - 1 not in grown:
                last = first
                while last + 1 in grown:
                    last += 1
                yield first, last

    def best(self, first: int, last: int) -> Choice | None:
        """The quickest way through these layers; maps that live beyond them stay where they are. None if there is none."""
        table: list[dict[State, tuple[Cost, tuple[int, State, bool] | None]]] = [{} for _ in range(last - first + 2)]
        begin, end = (frozenset(self._crossing(cut)) & self.resident for cut in (first, last + 1))
        table[0][begin] = (0, 0), None
        for cut in range(first, last + 1):
            for state, (so_far, _) in table[cut - first].items():
                for until in self._ends(cut, last):
                    target = table[until - first]
                    for after in [end] if until == last + 1 else self._states(until, first, last):
                        found = self._step(cut, until, state, after)
                        if found is None:
                            continue
                        (cycles, beats), cascade = found
                        total = so_far[0] + cycles, so_far[1] + beats
                        if after not in target or total < target[after][0]:
                            target[after] = total, (cut, state, cascade)
        if end not in table[-1]:
            return None
        cascades, kept, place, state = [], set(end), last + 1, end
        while place > first:
            back = table[place - first][state][1]
            assert back is not None
            if back[2]:
                cascades.append((back[0], place - 1))
            place, state = back[0], back[1]
            kept |= state
        return Choice(tuple(reversed(cascades)), frozenset(kept))

    def _crossing(self, cut: int) -> list[int]:
        """Maps that are made before a layer and read by it or after it."""
        return sorted(m for m, (made, last) in self.lifetimes.items() if made < cut <= last)

    def _states(self, cut: int, first: int, last: int) -> list[State]:
        """Which of the maps may be in SRAM; of those that live beyond the region it is settled."""
        fixed, open_maps = [], []
        for index in self._crossing(cut):
            made, end = self.lifetimes[index]
            if made < first or end > last or index in self.given:
                fixed += [index] if index in self.resident else []
            elif self.sizes[index] <= self.hw.sram_bytes:
                open_maps.append(index)
        if len(open_maps) > 3:
            choices: Sequence[Sequence[int]] = [(), [m for m in open_maps if m in self.resident], open_maps]
        else:
            choices = [each for n in range(len(open_maps) + 1) for each in combinations(open_maps, n)]
        return list(dict.fromkeys(frozenset((*fixed, *choice)) for choice in choices))

    def _ends(self, first: int, last: int) -> Iterator[int]:
        """Where steps that begin with a layer may end: after it, or later if each of the layers is read by one of them.

        Only what has no room, or little beside it, is worth a cascade: it begins where such a map is made or read, and ends so.
        """
        yield first + 1
        if not any(self._large(index) for index in (*self.graph.layers[first].inputs, self.graph.layers[first].output)):
            return
        unread: set[int] = set()
        for step in range(first, min(first + LONGEST, last + 1)):
            layer = self.graph.layers[step]
            if not self.planner.joined[step]:
                return
            unread -= set(layer.inputs)
            if step > first and not unread and any(self._large(index) for index in layer.inputs):
                yield step + 1
            unread.add(layer.output)

    def _large(self, index: int) -> bool:
        size = self.graph.maps[index].total_bytes
        return index in self.outside or index in self.graph.inputs or SHARE * size >= self.hw.sram_bytes

    def _step(self, first: int, until: int, before: State, after: State) -> tuple[Cost, bool] | None:
        """Cost of running layers between two states, and whether as a cascade; None if it is not possible."""
        for index in before ^ after:
            made, last = self.lifetimes[index]
            if made < first and last >= until:
                return None  # it lives on and cannot move
        live = before | after
        budget = self.hw.sram_bytes - sum(self.sizes[index] for index in live) - self._early_bytes(until)
        if budget < 0:
            return None
        budget -= budget % (self.hw.sram_bytes // GRAIN)  # so that what was planned for one state serves for others
        found: list[tuple[Cost, bool]] = []
        if until == first + 1:
            tiling = self.planner.whole(first, live, budget)
            if tiling is not None:
                found.append((self._cost(tiling.work), False))
        if self.planner.joined[first]:
            cascade = self.planner.cascade(first, until - 1, live, budget)
            if cascade is not None:
                found.append((self._cost(cascade.work), True))
        return min(found, default=None)

    def _early_bytes(self, step: int) -> int:
        """What has its place before a layer's turn: its parameter records and its table."""
        return align(record_bytes(self.graph.layers[step])) if step < len(self.graph.layers) else 0

    def _cost(self, work: LayerWork) -> Cost:
        return layer_cycles(work, self.hw), work.load_beats + work.store_beats
