"""What a tiling says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ....machine.layer_cost import LayerWork
from ....options.schedule import TileChoice
from ...extents import align, in_steps
from ...layers import AnyLayer, ConvLayer, DepthwiseLayer, LayerGraph, channel_bytes


@dataclass(frozen=True)
class Tiling:
    """Output tile, reduction chunk and loop order of a layer, with the SRAM blocks that it needs beside resident maps.

    ``in_slot_bytes[i]`` is 0 where input i is resident. Each kind of block has ``*_slots`` copies (two: double buffering).
    ``first_step``: of a pool in two steps (`two_steps.py`) what of its kernel comes first, "rows" or "pixels"; "" for one step.
    What lies between the two takes ``between_bytes``.
    ``tile_values``: of a layer that only moves values, how many one instruction takes at most.
    ``weights_outer``: output channels outside, space inside (weights are fetched once), else the other way round.
    ``work`` is what the whole layer does as far as the planner knows: candidates are compared by what it takes.
    """

    tile_h: int
    tile_w: int
    tile_oc: int
    tile_ic: int
    tile_kh: int
    weights_outer: bool
    in_slot_bytes: tuple[int, ...]
    in_slots: int
    out_slot_bytes: int
    out_slots: int
    param_slot_bytes: int
    param_slots: int
    table_bytes: int
    work: LayerWork
    tile_values: int = 0
    first_step: str = ""
    between_bytes: int = 0

    def __str__(self) -> str:
        """What a person wants to know of it, in one line."""
        order = "weights outside" if self.weights_outer else "space outside"
        return (
            f"tile {self.tile_h} x {self.tile_w} x {self.tile_oc} (rows, columns, channels), reduction {self.tile_kh} kernel "
            f"rows x {self.tile_ic} channels, {order}, {self.working_bytes:,} B of SRAM beside the maps"
        )

    @property
    def working_bytes(self) -> int:
        return (
            sum(align(b) * self.in_slots for b in self.in_slot_bytes)
            + align(self.out_slot_bytes) * self.out_slots
            + align(self.param_slot_bytes) * self.param_slots
            + align(self.table_bytes)
            + align(self.between_bytes)
        )


def record_tiles(layer: AnyLayer, graph: LayerGraph, tiling: Tiling) -> int:
    """How many tiles of channels have parameter records of their own."""
    if isinstance(layer, ConvLayer):
        return sum(len(in_steps(part.out_channels, tiling.tile_oc)) for part in layer.parts)
    return len(in_steps(graph.maps[layer.output].c, tiling.tile_oc)) if isinstance(layer, DepthwiseLayer) else 0


def _weight_tiles(layer: AnyLayer, tiling: Tiling) -> list[tuple[int, int]]:
    """(rows, channels) of each tile of a layer's weights."""
    if isinstance(layer, DepthwiseLayer):
        parts = [(layer.window.kernel_h, layer.window.kernel_w, 1, layer.weights.shape[2])]
    elif isinstance(layer, ConvLayer):
        parts = [tuple(part.weight.shape) for part in layer.parts]
    else:
        return []
    return [
        (rows * kernel_w * depth, channels)
        for kernel_h, kernel_w, in_channels, out_channels in parts
        for _, rows in in_steps(kernel_h, tiling.tile_kh)
        for _, depth in in_steps(in_channels, tiling.tile_ic)
        for _, channels in in_steps(out_channels, tiling.tile_oc)
    ]


def weight_tile_count(layer: AnyLayer, tiling: Tiling) -> int:
    """How many tiles a layer's weights are cut into."""
    return len(_weight_tiles(layer, tiling))


def weight_buffer_bytes(layer: AnyLayer, tiling: Tiling) -> int:
    """Bytes of the weight buffer that all tiles of a layer take together."""
    bits = layer.weight_bits if isinstance(layer, ConvLayer | DepthwiseLayer) else 8
    return sum(align(rows * channel_bytes(channels, bits)) for rows, channels in _weight_tiles(layer, tiling))


class Least(NamedTuple):
    """What candidates take or more, by number, int64 [count]: bytes of SRAM, cycles by the estimate that they are compared by, and
    those of COMPUTE alone."""

    sram_bytes: np.ndarray
    cycles: np.ndarray
    computing: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """Tilings by number, of which each is made only when it is looked at; None for one that is like another, or fits no buffer.

    The argument of ``least`` says whether the first weights are there before the layer's turn.
    """

    count: int
    make: Callable[[int], Tiling | None]
    least: Callable[[bool], Least]

    def made(self, backwards: bool = False) -> Iterator[Tiling]:
        """Those that there are."""
        numbers = range(self.count)
        return filter(None, map(self.make, reversed(numbers) if backwards else numbers))


def all_of(tilings: Sequence[Tiling]) -> Candidates:
    """Of tilings that are made."""
    nothing = np.zeros(len(tilings), int)
    return Candidates(len(tilings), tilings.__getitem__, lambda _: Least(nothing, nothing, nothing))


AS_USUAL = TileChoice()


def sizes_of(chosen: int | None, usual: list[int]) -> list[int]:
    """The sizes to try along an axis: the ``usual`` ones, of which the first is all of it, or the one that was ``chosen``."""
    return usual if chosen is None else [min(chosen, usual[0])]
