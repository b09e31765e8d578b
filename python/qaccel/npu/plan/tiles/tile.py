"""Tiling: how one layer is cut over height, width, input and output channels so that it fits and takes the fewest cycles.

The search is small and explicit: halvings of each dimension, scored by ``cost.py`` from the work of a tile and the DRAM
traffic that the loop order causes. Reduction is split only where nothing fits otherwise, since that occupies the accumulators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from ....machine import cost
from ....machine.hw import HwConfig
from ....machine.layer_cost import after_first_stream, layer_cycles
from ....options.schedule import OUTSIDE, TileChoice
from ...extents import align, made_map
from ...layers import (
    AnyLayer,
    ConvLayer,
    DepthwiseLayer,
    FeatureMap,
    LayerGraph,
    MoveLayer,
)
from .conv_tiles import conv_candidates
from .pixelwise_tiles import pixelwise_candidates
from .strided import move_candidates
from .tiling import AS_USUAL, Candidates, Tiling, all_of


class _Scored(NamedTuple):
    """A tiling with its estimated cycles and its SRAM; ``number``: which of its group it is."""

    cycles: int
    working_bytes: int
    number: int
    tiling: Tiling


class LayerTilings:
    """The tilings of one layer, each made and scored at most once, while SRAM budgets are tried."""

    def __init__(self, groups: Iterator[Candidates], hw: HwConfig, ahead: bool = False) -> None:
        """``groups``: the most desirable first; ``ahead``: whether the first weights are there before the layer's turn."""
        self._more, self._hw, self._ahead = groups, hw, ahead
        self._seen: list[_Group] = []

    def quickest(self, budget_bytes: int, enough: int) -> _Scored | None:
        """The quickest that fits so much SRAM, of the groups up to the first one with whose help it takes ``enough`` channels at a
        time: splitting further only costs."""
        best: _Scored | None = None
        for group in self._groups():
            best = group.quickest(budget_bytes, best)
            if best is not None and best.tiling.tile_oc >= enough:
                break
        return best

    def _groups(self) -> Iterator[_Group]:
        yield from self._seen
        for more in self._more:
            self._seen.append(_Group(more, self._hw, self._ahead))
            yield self._seen[-1]


class _Group:
    """Candidates by the cycles that they take at least: what is slower in any case than one that fits is not made."""

    def __init__(self, candidates: Candidates, hw: HwConfig, ahead: bool) -> None:
        least = candidates.least(ahead)
        order = np.argsort(least.cycles, kind="stable")
        ordered = (each[order].tolist() for each in (least.cycles, least.sram_bytes))
        self._ordered = list(zip(*ordered, order.tolist(), strict=True))
        self._make, self._hw, self._ahead = candidates.make, hw, ahead
        self._scored: dict[int, _Scored | None] = {}

    def quickest(self, budget_bytes: int, other: _Scored | None = None) -> _Scored | None:
        """Of those that fit so much SRAM; None if none does. ``other``: what it is if none of these is at least as good."""
        best: _Scored | None = None
        for least_cycles, least_bytes, number in self._ordered:
            if any(each is not None and least_cycles > each.cycles for each in (best, other)):
                break
            if least_bytes > budget_bytes:
                continue
            if number not in self._scored:
                self._scored[number] = self._score(number)
            each = self._scored[number]
            if each is not None and each.working_bytes <= budget_bytes and (best is None or each[:3] < best[:3]):
                best = each
        return best if other is None or (best is not None and best[:2] <= other[:2]) else other

    def _score(self, number: int) -> _Scored | None:
        tiling = self._make(number)
        if tiling is None:
            return None
        work = after_first_stream(tiling.work) if self._ahead else tiling.work
        return _Scored(layer_cycles(work, self._hw), tiling.working_bytes, number, tiling)


# By a layer's output, which of its own maps are resident, and whether its first weights are there before its turn.
KnownTilings = dict[tuple[int, frozenset[int], bool], LayerTilings]


def plan_layer(
    layer: AnyLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    resident: frozenset[int],
    budget_bytes: int,
    known: KnownTilings,
    choice: TileChoice = AS_USUAL,
    ahead: bool = False,
) -> Tiling | None:
    """The quickest tiling whose blocks fit ``budget_bytes`` of SRAM, or None if there is none.

    ``resident`` holds the indices of feature maps that lie whole in SRAM; ``known`` what earlier calls made of the subgraph,
    ``choice`` what is given of a layer's tiling, always the same. ``ahead``: its first weights are there before its turn.
    """
    key = layer.output, resident.intersection((*layer.inputs, layer.output)), ahead
    if key not in known:
        known[key] = LayerTilings(_candidates(layer, maps, hw, resident, choice), hw, ahead)
    best = known[key].quickest(budget_bytes, min(made_map(layer, maps).c, _columns(layer, hw)))
    return None if best is None else best.tiling


def plan_stripe(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int], choice: TileChoice = AS_USUAL
) -> Tiling | None:
    """The tiling that computes in the fewest cycles, or None if there is none: for layers whose transfers others hide.

    Where one tile takes all rows and pixels, none is better. As for `plan_layer`, splitting the reduction further only costs.
    """
    y = made_map(layer, maps)
    for candidates in _candidates(layer, maps, hw, resident, choice):
        first = next(candidates.made(), None)
        if first is not None:
            whole = (first.tile_h, first.tile_w) == (y.h, y.w)
            return first if whole else _least_computing(candidates, hw)
    return None


def _least_computing(candidates: Candidates, hw: HwConfig) -> Tiling | None:
    """The first of those that compute in the fewest cycles."""
    best: tuple[int, int, Tiling] | None = None
    least = candidates.least(False).computing
    for number in np.argsort(least, kind="stable").tolist():
        if best is not None and least[number] > best[0]:
            break
        tiling = candidates.make(number)
        if tiling is not None:
            cycles = _computing_cycles(hw, tiling)
            best = (cycles, number, tiling) if best is None else min(best, (cycles, number, tiling))
    return None if best is None else best[2]


def tiling_beside(layer: AnyLayer, graph: LayerGraph, hw: HwConfig) -> Tiling | None:
    """The quickest tiling of a layer beside its maps that pass between layers, as many of them as SRAM has room for, the smallest
    first; None if there is none."""
    inside = {each.output for each in graph.layers} - {*graph.outputs}
    own = sorted(inside.intersection((*layer.inputs, layer.output)), key=lambda index: graph.maps[index].total_bytes)
    known: KnownTilings = {}
    while True:
        room = hw.sram_bytes - sum(align(graph.maps[index].total_bytes) for index in own)
        tiling = plan_layer(layer, graph.maps, hw, frozenset(own), room, known)
        if tiling is not None or not own:
            return tiling
        own.pop()


def tiling_alone(layer: AnyLayer, graph: LayerGraph, hw: HwConfig) -> Tiling | None:
    """The quickest tiling of a layer if what passes between layers takes no room in SRAM, or None if there is none."""
    inside = frozenset({each.output for each in graph.layers} - {*graph.outputs})
    return plan_layer(layer, graph.maps, hw, inside, hw.sram_bytes, {})


def _computing_cycles(hw: HwConfig, tiling: Tiling) -> int:
    return sum(count * cost.work_cycles(work, hw) for work, count in tiling.work.computes)


def _columns(layer: AnyLayer, hw: HwConfig) -> int:
    return hw.array_columns(layer.weight_bits if isinstance(layer, ConvLayer | DepthwiseLayer) else 8)


def _candidates(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int], choice: TileChoice = AS_USUAL
) -> Iterator[Candidates]:
    if isinstance(layer, ConvLayer):
        found = conv_candidates(layer, maps, hw, resident, choice)
    elif isinstance(layer, MoveLayer):
        found = move_candidates(layer, maps, hw, resident, choice)
    else:
        found = pixelwise_candidates(layer, maps, hw, resident, choice)
    return found if choice == AS_USUAL else _chosen(found, choice)


def _chosen(groups: Iterator[Candidates], choice: TileChoice) -> Iterator[Candidates]:
    """Of candidates whose sizes are given, those with the order of loops and the copies of inputs that are."""
    for group in groups:
        made = list(group.made())
        if choice.weights is not None:
            made = [each for each in made if each.weights_outer == (choice.weights == OUTSIDE)]
        if choice.input_copies is not None:
            made = [each for each in made if each.in_slots <= choice.input_copies]
        if made:
            yield all_of(made)


def given_sizes(choice: TileChoice) -> str:
    """``rows 7, channels 16``: what is given of a tile, for messages."""
    values = ((each.name, getattr(choice, each.name)) for each in fields(choice))
    return ", ".join(f"{name} {value}" for name, value in values if value is not None)


def fitting_working_bytes(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, choice: TileChoice = AS_USUAL
) -> int | None:
    """SRAM bytes of some tiling that fits with nothing resident, else of the smallest; None if none fits the buffers at all."""
    least: int | None = None
    for group in _candidates(layer, maps, hw, frozenset(), choice):
        size = min((tiling.working_bytes for tiling in group.made()), default=None)
        if size is not None:
            if size <= hw.sram_bytes:
                return size
            least = size if least is None else min(least, size)
    return least


def has_room(layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig) -> bool:
    """Whether a small tiling fits with nothing resident; it may say no where only another one does."""
    for group in _candidates(layer, maps, hw, frozenset()):
        last = next(group.made(backwards=True), None)
        if last is not None and last.working_bytes <= hw.sram_bytes:
            return True
    return False
