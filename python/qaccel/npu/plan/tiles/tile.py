"""Tiling: how one layer is cut over height, width, input and output channels so that it fits and takes the fewest cycles.

The search is small and explicit: halvings of each dimension, scored by ``cost.py`` from the work of a tile and the DRAM
traffic that the loop order causes. Reduction is split only where nothing fits otherwise, since that occupies the accumulators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import NamedTuple

from ....machine import cost
from ....machine.hw import HwConfig
from ....machine.layer_cost import layer_cycles
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
from .tiling import AS_USUAL, Candidate, Tiling


class _Scored(NamedTuple):
    """A tiling with its estimated cycles and its SRAM."""

    cycles: int
    working_bytes: int
    tiling: Tiling


class LayerTilings:
    """The tilings of one layer, each made and scored once, while SRAM budgets are tried."""

    def __init__(self, groups: Iterator[Sequence[Candidate]], hw: HwConfig) -> None:
        """``groups``: the most desirable first."""
        self._more, self._hw = groups, hw
        self._seen: list[list[Candidate | _Scored]] = []

    def groups(self, budget_bytes: int) -> Iterator[list[_Scored]]:
        """By group: the tilings that fit so much SRAM."""
        for group in self._seen:
            yield self._fitting(group, budget_bytes)
        for more in self._more:
            self._seen.append(list(more))
            yield self._fitting(self._seen[-1], budget_bytes)

    def _fitting(self, group: list[Candidate | _Scored], budget_bytes: int) -> list[_Scored]:
        found = []
        for position, each in enumerate(group):
            if isinstance(each, Candidate):
                if each.least_bytes > budget_bytes:
                    continue
                tiling = each.make()
                each = group[position] = _Scored(layer_cycles(tiling.work, self._hw), tiling.working_bytes, tiling)
            if each.working_bytes <= budget_bytes:
                found.append(each)
        return found


# By a layer's output, and which of its own maps are resident.
KnownTilings = dict[tuple[int, frozenset[int]], LayerTilings]


def plan_layer(
    layer: AnyLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    resident: frozenset[int],
    budget_bytes: int,
    known: KnownTilings,
    choice: TileChoice = AS_USUAL,
) -> Tiling | None:
    """The quickest tiling whose blocks fit ``budget_bytes`` of SRAM, or None if there is none.

    ``resident`` holds the indices of feature maps that lie whole in SRAM; ``known`` what earlier calls made of the subgraph,
    ``choice`` what is given of a layer's tiling, always the same.
    """
    key = layer.output, resident.intersection((*layer.inputs, layer.output))
    if key not in known:
        known[key] = LayerTilings(_candidates(layer, maps, hw, resident, choice), hw)
    enough = min(made_map(layer, maps).c, _columns(layer, hw))
    best: _Scored | None = None
    for fitting in known[key].groups(budget_bytes):
        if best is not None:
            fitting.append(best)
        if fitting:
            best = min(fitting, key=lambda each: (each.cycles, each.working_bytes))
            if best.tiling.tile_oc >= enough:
                break  # the array is filled; splitting further only costs
    return None if best is None else best.tiling


def plan_stripe(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int], choice: TileChoice = AS_USUAL
) -> Tiling | None:
    """The tiling that computes in the fewest cycles, or None if there is none: for layers whose transfers others hide.

    Where one tile takes all rows and pixels, none is better. As for `plan_layer`, splitting the reduction further only costs.
    """
    y = made_map(layer, maps)
    for candidates in _candidates(layer, maps, hw, resident, choice):
        first = candidates[0].make()
        if (first.tile_h, first.tile_w) == (y.h, y.w):
            return first
        made = (candidate.make() for candidate in candidates)
        return min(made, key=lambda t: sum(count * cost.work_cycles(work, hw) for work, count in t.work.computes))
    return None


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


def _columns(layer: AnyLayer, hw: HwConfig) -> int:
    return hw.array_columns(layer.weight_bits if isinstance(layer, ConvLayer | DepthwiseLayer) else 8)


def _candidates(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int], choice: TileChoice = AS_USUAL
) -> Iterator[Sequence[Candidate]]:
    if isinstance(layer, ConvLayer):
        found = conv_candidates(layer, maps, hw, resident, choice)
    elif isinstance(layer, MoveLayer):
        found = move_candidates(layer, maps, hw, resident, choice)
    else:
        found = pixelwise_candidates(layer, maps, hw, resident, choice)
    return found if choice == AS_USUAL else _chosen(found, choice)


def _chosen(groups: Iterator[Sequence[Candidate]], choice: TileChoice) -> Iterator[Sequence[Candidate]]:
    """Of candidates whose sizes are given, those with the order of loops and the copies of inputs that are."""
    for group in groups:
        made = [candidate.make() for candidate in group]
        if choice.weights is not None:
            made = [each for each in made if each.weights_outer == (choice.weights == OUTSIDE)]
        if choice.input_copies is not None:
            made = [each for each in made if each.in_slots <= choice.input_copies]
        if made:
            yield [Candidate(partial(_itself, each), each.working_bytes) for each in made]


def given_sizes(choice: TileChoice) -> str:
    """``rows 7, channels 16``: what is given of a tile, for messages."""
    values = ((each.name, getattr(choice, each.name)) for each in fields(choice))
    return ", ".join(f"{name} {value}" for name, value in values if value is not None)


def _itself(tiling: Tiling) -> Tiling:
    return tiling


def fitting_working_bytes(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, choice: TileChoice = AS_USUAL
) -> int | None:
    """SRAM bytes of some tiling that fits with nothing resident, else of the smallest; None if none fits the buffers at all."""
    least: int | None = None
    for group in _candidates(layer, maps, hw, frozenset(), choice):
        size = min((candidate.make().working_bytes for candidate in group), default=None)
        if size is not None:
            if size <= hw.sram_bytes:
                return size
            least = size if least is None else min(least, size)
    return least


def has_room(layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig) -> bool:
    """Whether a small tiling fits with nothing resident; it may say no where only another one does."""
    return any(group[-1].make().working_bytes <= hw.sram_bytes for group in _candidates(layer, maps, hw, frozenset()))
