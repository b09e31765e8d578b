"""Channels inside a subgraph in the order that compresses best: alike ones beside each other.

A tile's stream has one table, and its lanes take whole columns: channels of like spread in one tile cost fewer bits, and dead
ones make long runs. Where the order of a map's channels is nobody's business but the subgraph's, it can be any.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from ...machine.streams import pack_pixels, unpack
from ..layers import AnyLayer, ChannelParams, ConvLayer, DepthwiseLayer, EltwiseLayer, FeatureMap, LayerGraph, MoveLayer

Orders = dict[int, np.ndarray]  # by feature map: where its channels come from


def order_channels(graph: LayerGraph) -> LayerGraph:
    """The same subgraph with the channels of inner maps sorted by the mean size of the weights that make them, largest first:
    the longest streams are then fetched while the layer before still computes.

    Maps that a layer reads and writes channel by channel share an order, constants among them; channels that an element-wise layer
    treats alike come together first, so that it takes few instructions. Maps that the subgraph takes or gives keep their order, and
    so does what is moved around; of grouped convolutions only one with a single matrix follows.
    """
    orders = _orders(graph)
    if not orders:
        return graph
    maps = tuple(_with_data(each, orders.get(index)) for index, each in enumerate(graph.maps))
    return replace(graph, maps=maps, layers=tuple(_reordered(layer, orders) for layer in graph.layers))


def _orders(graph: LayerGraph) -> Orders:
    owner = list(range(len(graph.maps)))

    def find(index: int) -> int:
        while owner[index] != index:
            index = owner[index]
        return index

    fixed = {*graph.inputs, *graph.outputs}
    makers: dict[int, list[ConvLayer]] = defaultdict(list)
    unlike: dict[int, list[frozenset[int]]] = defaultdict(list)
    for layer in graph.layers:
        if isinstance(layer, ConvLayer):
            if not _is_one_matrix(layer, graph):
                fixed |= {*layer.inputs, layer.output}
        elif isinstance(layer, MoveLayer):
            fixed |= {*layer.inputs, layer.output}
        else:
            for source in layer.inputs:
                if graph.maps[source].c == graph.maps[layer.output].c:  # else one value for all channels
                    owner[find(source)] = find(layer.output)
    for layer in graph.layers:
        if isinstance(layer, ConvLayer):
            makers[find(layer.output)].append(layer)
        elif isinstance(layer, EltwiseLayer) and layer.lesser:
            unlike[find(layer.output)].append(layer.lesser)
    kept = {find(index) for index in fixed}
    best = {root: _sorted(layers, unlike[root]) for root, layers in makers.items() if root not in kept}
    return {index: best[find(index)] for index in range(len(graph.maps)) if find(index) in best}


def _sorted(makers: list[ConvLayer], unlike: list[frozenset[int]]) -> np.ndarray:
    size = np.abs(np.concatenate([layer.matrix for layer in makers])).mean(axis=0)
    groups = [np.isin(np.arange(len(size)), list(channels)) for channels in unlike]
    return np.lexsort((-size, *groups))


def _with_data(each: FeatureMap, order: np.ndarray | None) -> FeatureMap:
    """A map with its channels in that order, the values of a constant one too."""
    if order is None:
        return each
    each = replace(each, order=tuple(order.tolist()))
    if each.data is None:
        return each
    pixels = np.frombuffer(each.data, np.uint8).reshape(each.h * each.w, -1)
    values = np.stack([unpack(pixel.tobytes(), each.c, each.bits) for pixel in pixels])
    return replace(each, data=pack_pixels(values[:, order], each.bits))


def _is_one_matrix(layer: ConvLayer, graph: LayerGraph) -> bool:
    sizes = graph.maps[layer.inputs[0]].c, graph.maps[layer.output].c
    return len(layer.parts) == 1 and (layer.parts[0].in_channels, layer.parts[0].out_channels) == sizes


def _reordered(layer: AnyLayer, orders: Orders) -> AnyLayer:
    if isinstance(layer, ConvLayer):
        weight = layer.parts[0].weight
        if layer.inputs[0] in orders:
            weight = weight[:, :, orders[layer.inputs[0]], :]
        if layer.output not in orders:
            return replace(layer, parts=(replace(layer.parts[0], weight=weight), *layer.parts[1:]))
        order = orders[layer.output]
        part = replace(layer.parts[0], weight=weight[..., order])
        return replace(layer, parts=(part,), params=_params(layer.params, order))
    if isinstance(layer, DepthwiseLayer) and layer.output in orders:
        order = orders[layer.output]
        return replace(layer, weights=layer.weights[..., order], params=_params(layer.params, order))
    if isinstance(layer, EltwiseLayer) and layer.output in orders:
        order = orders[layer.output]
        return replace(layer, lesser=frozenset(np.flatnonzero(np.isin(order, list(layer.lesser))).tolist()))
    return layer


def _params(params: ChannelParams, order: np.ndarray) -> ChannelParams:
    return ChannelParams(params.bias[order], params.multiplier[order], params.shift[order])
