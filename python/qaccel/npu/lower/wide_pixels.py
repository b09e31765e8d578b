"""Convolutions of few output channels: neighbouring output pixels of a row as one wide pixel with all their channels.

In NHWC the bytes are the same, and columns of the array that had no channel get one. The window grows by the strides between the
pixels; where a pixel has no tap, its weights are zeros, which cost rows of the array and symbols of the stream. The cost model says
where that pays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import gcd
from types import MappingProxyType

import numpy as np

from ...machine.cost import ConvWork, bytes_beats, work_cycles
from ...machine.hw import HwConfig
from ...machine.isa import field_maximum
from ...machine.streams import estimate_streams
from ...machine.timeline import Turn, network_cycles
from ..extents import made_map
from ..layers import AnyLayer, ChannelParams, ConvLayer, LayerGraph, Window

TurnOf = Callable[[AnyLayer], Turn | None]


def with_wide_pixels(
    graph: LayerGraph, hw: HwConfig, turn_of: TurnOf, given: Mapping[str, int] = MappingProxyType({})
) -> LayerGraph:
    """The same subgraph, its convolutions with as many output pixels in one as make all layers together take the fewest cycles.

    Larger streams must save more than the DRAM channel takes for what they have grown by. ``turn_of`` a layer: None if it fits in
    no way. ``streams`` of the layers must be measured; those of changed layers are measured anew. ``given``: pixels of some, by
    name, which `may_widen`.
    """
    graph = _as_given(graph, hw, given)
    found = {
        step: _candidates(layer, graph, hw)
        for step, layer in enumerate(graph.layers)
        if isinstance(layer, ConvLayer) and layer.name not in given
    }
    every = [(step, layer) for step, layers in found.items() for layer in layers]
    turns = [turn for turn in map(turn_of, graph.layers) if turn is not None] if every else []
    if not every or len(turns) < len(graph.layers):
        return graph
    estimates = estimate_streams([(layer.matrix, layer.weight_bits) for _, layer in every], hw)
    layers, best = list(graph.layers), network_cycles(turns, hw)
    for (step, layer), streams in zip(every, estimates, strict=True):
        wide = replace(layer, streams=streams)
        turn = turn_of(wide)
        if turn is None:
            continue
        tried = [*turns[:step], turn, *turns[step + 1 :]]
        cycles = network_cycles(tried, hw)
        if cycles + _more_beats(turns[step], turn, hw) < best:
            layers[step], turns, best = wide, tried, cycles
    return replace(graph, layers=tuple(layers))


def _more_beats(before: Turn, after: Turn, hw: HwConfig) -> int:
    """Cycles that the DRAM channel takes for what streams have grown by: others may want it."""
    return bytes_beats(max(0, after.work.weight_bytes - before.work.weight_bytes), hw)


def may_widen(layer: AnyLayer, pixels: int, graph: LayerGraph) -> bool:
    """Whether a layer can make so many output pixels as one; one pixel always."""
    if pixels == 1:
        return True
    if not isinstance(layer, ConvLayer) or not 1 < pixels <= graph.maps[layer.output].w:
        return False
    return _widens(layer, graph) and _divides(layer, pixels, graph) and _encodes(widened(layer, pixels).window)


def _as_given(graph: LayerGraph, hw: HwConfig, given: Mapping[str, int]) -> LayerGraph:
    made = {
        step: widened(layer, given[layer.name])
        for step, layer in enumerate(graph.layers)
        if isinstance(layer, ConvLayer) and given.get(layer.name, 1) > 1
    }
    estimates = estimate_streams([(layer.matrix, layer.weight_bits) for layer in made.values()], hw) if made else ()
    layers = list(graph.layers)
    for (step, layer), streams in zip(made.items(), estimates, strict=True):
        layers[step] = replace(layer, streams=streams)
    return replace(graph, layers=tuple(layers))


def _widens(layer: ConvLayer, graph: LayerGraph) -> bool:
    """Whether a layer can make several pixels as one at all."""
    y = graph.maps[layer.output]
    return len(layer.parts) == 1 and y.c * y.bits % 8 == 0 and _post_widens(layer, graph)


def _divides(layer: ConvLayer, pixels: int, graph: LayerGraph) -> bool:
    """Pixels that are made again would be added to twice where the output takes the second operand's place."""
    return len(layer.inputs) == 1 or graph.maps[layer.output].w % pixels == 0


def widened(layer: ConvLayer, pixels: int) -> ConvLayer:
    """The layer, of one part, with so many output pixels in one: pixel by pixel all its channels."""
    window, (part,) = layer.window, layer.parts
    kernel_h, kernel_w, in_channels, channels = part.weight.shape
    step = gcd(window.dilation_w if kernel_w > 1 else 0, window.stride_w)
    taps = np.arange(kernel_w) * window.dilation_w // step
    between = window.stride_w // step
    weight = np.zeros((kernel_h, taps[-1] + (pixels - 1) * between + 1, in_channels, pixels * channels), np.int32)
    for pixel in range(pixels):
        weight[:, taps + pixel * between, :, pixel * channels : (pixel + 1) * channels] = part.weight
    wide = replace(window, kernel_w=weight.shape[1], stride_w=pixels * window.stride_w, dilation_w=step)
    params = ChannelParams(
        *(np.tile(each, pixels) for each in (layer.params.bias, layer.params.multiplier, layer.params.shift))
    )
    return replace(layer, window=wide, parts=(replace(part, weight=weight),), params=params, wide=pixels)


def _candidates(layer: ConvLayer, graph: LayerGraph, hw: HwConfig) -> list[ConvLayer]:
    """The layer with several pixels in one, where the array takes fewer cycles for that."""
    y = graph.maps[layer.output]
    if not _widens(layer, graph):
        return []
    most = 2 * hw.array_columns(layer.weight_bits) // y.c
    before = work_cycles(_conv_work(layer, graph), hw)
    counts = (n for n in range(2, min(most, y.w) + 1) if _divides(layer, n, graph))
    candidates = (widened(layer, pixels) for pixels in counts)
    return [each for each in candidates if _encodes(each.window) and work_cycles(_conv_work(each, graph), hw) < before]


def _post_widens(layer: ConvLayer, graph: LayerGraph) -> bool:
    """Whether what the post stage reads beside the outputs, if anything, lies as they do and is not the layer's own input."""
    y = graph.maps[layer.output]
    beside = [graph.maps[index] for index in layer.inputs[1:]]
    alike = all((b.h, b.w, b.c) == (y.h, y.w, y.c) and b.c * b.bits % 8 == 0 for b in beside)
    return alike and layer.inputs[0] not in layer.inputs[1:]


def _encodes(window: Window) -> bool:
    return all(getattr(window, name) <= field_maximum("CONV", name) for name in ("kernel_w", "stride_w", "dilation_w"))


def _conv_work(layer: ConvLayer, graph: LayerGraph) -> ConvWork:
    """The layer as one instruction."""
    x, y = graph.maps[layer.inputs[0]], made_map(layer, graph.maps)
    kernel_h, kernel_w, in_channels, _ = layer.parts[0].weight.shape
    return ConvWork(
        kernel_h=kernel_h, kernel_w=kernel_w, in_channels=in_channels, out_h=y.h, out_w=y.w, out_channels=y.c,
        weight_bits=layer.weight_bits, in_bits=x.bits, out_bits=y.bits, finish=1,
    )  # fmt: skip
