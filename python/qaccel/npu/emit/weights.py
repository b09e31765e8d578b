"""The plan's tiles of weights: which there are, and the streams that they are compressed to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...machine.hw import HwConfig
from ...machine.streams import WeightTile, encode_streams
from ..extents import in_steps
from ..layers import ConvLayer, DepthwiseLayer, LayerGraph, channel_bytes
from ..plan.allocate import Allocation
from ..plan.tiles.tiling import Tiling


class TileName(NamedTuple):
    """Layer of the subgraph, part of a grouped convolution, and where in the part's weights the tile begins."""

    layer: int
    part: int
    kernel_row: int
    in_channel: int
    out_channel: int


@dataclass(frozen=True)
class CompressedTile:
    """A tile's stream, and what its decoder makes of it: ``weight_count`` weights of ``bits`` bits in rows of ``row_weights``."""

    weight_count: int
    row_weights: int
    bits: int
    stream: bytes

    @property
    def size_bytes(self) -> int:
        """In the weight buffer."""
        return channel_bytes(self.weight_count, self.bits)


Streams = Mapping[TileName, CompressedTile]


def weight_tiles(graph: LayerGraph, allocation: Allocation) -> dict[TileName, WeightTile]:
    """Every tile of weights that the plan cuts."""
    tiles = {}
    for number, (layer, tiling) in enumerate(zip(graph.layers, allocation.tilings, strict=True)):
        if isinstance(layer, ConvLayer):
            for part, each in enumerate(layer.parts):
                for place, weights in _cut(each.weight, tiling):
                    tiles[TileName(number, part, *place)] = _padded(weights, layer.weight_bits)
        elif isinstance(layer, DepthwiseLayer):
            for place, weights in _cut(layer.weights[:, :, None], tiling):
                tiles[TileName(number, 0, *place)] = _padded(weights, layer.weight_bits)
    return tiles


def _cut(weight: np.ndarray, tiling: Tiling) -> Iterator[tuple[tuple[int, int, int], np.ndarray]]:
    """(kernel row, input channel, output channel) and weights [reduction, channels] of each tile of [h, w, in, out]."""
    kernel_h, _, in_channels, out_channels = weight.shape
    for k, rows in in_steps(kernel_h, tiling.tile_kh):
        for c, depth in in_steps(in_channels, tiling.tile_ic):
            for n, channels in in_steps(out_channels, tiling.tile_oc):
                tile = weight[k : k + rows, :, c : c + depth, n : n + channels]
                yield (k, c, n), tile.reshape(-1, channels)


def _padded(weights: np.ndarray, weight_bits: int) -> WeightTile:
    """A tile whose rows end on whole bytes: they are filled up with zeros."""
    row_weights = channel_bytes(weights.shape[1], weight_bits) * 8 // weight_bits
    return WeightTile(np.pad(weights, ((0, 0), (0, row_weights - weights.shape[1]))), row_weights, weight_bits)


def compress(tiles: Mapping[TileName, WeightTile], hw: HwConfig) -> Streams:
    """Each tile with its stream, all of them encoded at once. Raises CompilerFault if a weight does not fit its width."""
    encoded = encode_streams(list(tiles.values()), hw)
    return {
        name: CompressedTile(tile.weights.size, tile.row_weights, tile.bits, stream)
        for (name, tile), stream in zip(tiles.items(), encoded, strict=True)
    }
