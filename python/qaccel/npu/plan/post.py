"""Which layers run in the post stage of the convolution before them, so that the map between the two never lies in SRAM.

The integers are the same. It saves a start-up, a writing and a reading. What it may cost: tiles of one shape for both layers, SRAM
for the operands of both at once, and wide pixels, which not every post stage can follow. The cost model says where the two are not
slower together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from ...machine.hw import HwConfig
from ..layers import AnyLayer, ConvLayer, DepthwiseLayer, EltwiseLayer, FeatureMap, LayerGraph, TableLayer
from .tiles.tile import has_room

CyclesOf = Callable[[Sequence[AnyLayer]], int | None]
SWAPPED = ("add", "mul", "min", "max")  # kinds that either operand may come first in


def with_posts(
    graph: LayerGraph, hw: HwConfig, cycles_of: CyclesOf, given: Mapping[str, str] = MappingProxyType({})
) -> LayerGraph:
    """The same subgraph with element-wise layers and tables as `post` of convolutions whose output nobody else reads, where SRAM
    has room for the operands of both and the two are not slower together.

    ``cycles_of`` layers one after the other: an estimate, None if one of them fits in no way. ``given``: what runs in the post
    stage of some, by name, whatever it takes; an empty name for nothing. The convolution stays where it is among the layers: what
    else the other layer reads must be made before it.
    """
    made = {layer.output: step for step, layer in enumerate(graph.layers)}
    readers = Counter(index for layer in graph.layers for index in layer.inputs)
    layers: list[AnyLayer | None] = list(graph.layers)
    for step, layer in enumerate(graph.layers):
        if not isinstance(layer, EltwiseLayer | TableLayer):
            continue
        first = max((made[index] for index in layer.inputs if index in made), default=None)
        if first is None:
            continue
        maker = layers[first]
        if not isinstance(maker, ConvLayer | DepthwiseLayer) or maker.post is not None:
            continue
        if isinstance(maker, ConvLayer) and len(maker.parts) > 1:
            continue  # what takes few channels at a time stores few bytes at a time
        if given.get(maker.name, layer.name) != layer.name:
            continue
        if readers[maker.output] > 1 or maker.output in graph.outputs:
            continue
        post = _reading(layer, maker.output, graph.maps)
        if post is None:
            continue
        inputs = (*maker.inputs, *post.inputs[1:])
        both = replace(maker, inputs=inputs, output=post.output, post=post)
        asked = maker.name in given
        if has_room(both, graph.maps, hw) and (asked or _pays(cycles_of([both]), cycles_of([maker, layer]))):
            layers[first], layers[step] = both, None
    return replace(graph, layers=tuple(layer for layer in layers if layer is not None))


def _pays(together: int | None, apart: int | None) -> bool:
    return together is not None and apart is not None and together <= apart


def _reading(
    layer: EltwiseLayer | TableLayer, first: int, maps: tuple[FeatureMap, ...]
) -> EltwiseLayer | TableLayer | None:
    """The layer with a map as its first operand; None where that is not possible, or an instruction cannot take a whole tile."""
    if isinstance(layer, TableLayer) or (layer.inputs[0] == first and not layer.lesser):
        return layer
    x, y = maps[first], maps[layer.output]
    if layer.lesser or layer.kind not in SWAPPED or (x.h, x.w, x.c) != (y.h, y.w, y.c):
        return None
    inputs = layer.inputs[::-1]
    if layer.kind == "mul":
        return replace(layer, inputs=inputs)
    return replace(layer, inputs=inputs, multiplier=layer.b_multiplier, b_multiplier=layer.multiplier)
