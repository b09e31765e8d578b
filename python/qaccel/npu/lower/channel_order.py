"""Channels inside a subgraph in the order that compresses best: alike ones beside each other.

A tile's stream has one table, and its lanes take whole columns: channels of like spread in one tile cost fewer bits, and dead
ones make long runs. Where the order of a map's channels is nobody's business but the subgraph's, it can be any.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from ..layers import AnyLayer, ChannelParams, ConvLayer, DepthwiseLayer, LayerGraph, MoveLayer

Orders = dict[int, np.ndarray]  # by feature map: where its channels come from


def order_channels(graph: LayerGraph) -> LayerGraph:
    """The same subgraph with the channels of inner maps sorted by the mean size of the weights that make them, largest first:
    the longest streams are then fetched while the layer before still computes.

    Maps that a layer reads and writes channel by channel share an order. Those that the subgraph takes or gives keep theirs, and so
    do constants and what is moved around; of grouped convolutions only one with a single matrix follows.
    """
    orders = _orders(graph)
    return replace(graph, layers=tuple(_reordered(layer, orders) for layer in graph.layers)) if orders else graph


def _orders(graph: LayerGraph) -> Orders:
    owner = list(range(len(graph.maps)))

    def find(index: int) -> int:
        while owner[index] != index:
            index = owner[index]
        return index

    fixed = {*graph.inputs, *graph.outputs, *(i for i, each in enumerate(graph.maps) if each.data is not None)}
    makers: dict[int, list[ConvLayer]] = defaultdict(list)
    for layer in graph.layers:
        if isinstance(layer, ConvLayer):
            if not _is_one_matrix(layer, graph):
                fixed |= {*layer.inputs, layer.output}
        elif isinstance(layer, MoveLayer):
            fixed |= {*layer.inputs, layer.output}
        else:
            for source in layer.inputs:
                owner[find(source)] = find(layer.output)
                if graph.maps[source].c != graph.maps[layer.output].c:  # one value for all channels
                    fixed.add(source)
    for layer in graph.layers:
        if isinstance(layer, ConvLayer):
            makers[find(layer.output)].append(layer)
    kept = {find(index) for index in fixed}
    best = {
        root: np.argsort(-np.abs(np.concatenate([layer.matrix for layer in layers])).mean(axis=0), kind="stable")
        for root, layers in makers.items()
        if root not in kept
    }
    return {index: best[find(index)] for index in range(len(graph.maps)) if find(index) in best}


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
    return layer


def _params(params: ChannelParams, order: np.ndarray) -> ChannelParams:
    return ChannelParams(params.bias[order], params.multiplier[order], params.shift[order])
