"""Channels in the order that compresses best: the same outputs, smaller streams, and what must keep its order does."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from networks import data
from npu.harness import run_artefact
from npu.test_networks import quantized
from qaccel.machine.hw import load_config
from qaccel.npu import codegen
from qaccel.npu.layers import (
    ChannelParams,
    ConvLayer,
    ConvPart,
    DepthwiseLayer,
    EltwiseLayer,
    FeatureMap,
    LayerGraph,
    Window,
)
from qaccel.npu.lower.channel_order import order_channels
from qaccel.npu.lower.from_relax import lower
from qaccel.npu.partition.partition import partition, subgraph_functions
from qaccel.npu.plan import allocate
from qaccel.options import BitWidths

HW = load_config("qaccel-256")


def lowered(path: Path, weight_bits: int) -> LayerGraph:
    q = quantized(path, BitWidths(weight_bits, 8))
    parts = partition(q.mod, HW, q.unquantized)
    (symbol,) = parts.subgraphs
    return lower(subgraph_functions(parts.mod)[symbol], symbol, HW)


@pytest.mark.wide
@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("cut", [True, False])
def test_outputs_stay_and_streams_shrink(
    network_path: Path, weight_bits: int, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams of few channels, each of like sizes; where a layer's weights are one stream, the order of channels is nothing to it."""
    if cut:
        monkeypatch.setattr(allocate, "_weights_ahead", lambda *_: frozenset())
    graph = lowered(network_path, weight_bits)
    ordered = codegen.compile_layers(graph, HW)
    with mock.patch.object(codegen, "order_channels", lambda same: same):
        plain = codegen.compile_layers(graph, HW)
    image = data.load("test", 1)["images"][0].transpose(1, 2, 0)
    x = np.clip(np.rint(image * 50), -128, 127).astype(np.int64)
    (before,), _ = run_artefact(plain.artefact, [x])
    (after,), _ = run_artefact(ordered.artefact, [x])
    np.testing.assert_array_equal(after, before)
    assert np.unique(after).size > 3
    sizes = [sum(layer.stream_bytes for layer in network.layers) for network in (ordered, plain)]
    assert sizes[0] < (sizes[1] if cut else 1.001 * sizes[1])
    assert [layer.entropy_bits for layer in ordered.layers] == [layer.entropy_bits for layer in plain.layers]


def test_columns_are_sorted_but_for_the_network_s_ends(network_path: Path) -> None:
    graph = lowered(network_path, 8)
    before, after = graph.layers, order_channels(graph).layers
    weighted = [i for i, layer in enumerate(before) if isinstance(layer, ConvLayer)]
    first, last = after[weighted[0]], after[weighted[-1]]
    assert isinstance(first, ConvLayer) and isinstance(last, ConvLayer)
    # The first layer's rows are the image's channels and its columns are free; the last one's the other way round.
    np.testing.assert_array_equal(np.sort(first.matrix, axis=1), np.sort(before[weighted[0]].matrix, axis=1))
    np.testing.assert_array_equal(np.sort(last.matrix, axis=0), np.sort(before[weighted[-1]].matrix, axis=0))
    np.testing.assert_array_equal(last.params.bias, before[weighted[-1]].params.bias)
    for old, new in zip(before, after, strict=True):
        if isinstance(old, ConvLayer | DepthwiseLayer):
            assert sorted(old.matrix.ravel()) == sorted(new.matrix.ravel())
            assert sorted(old.params.bias) == sorted(new.params.bias)
    added = {source for layer in before if isinstance(layer, EltwiseLayer) for source in layer.inputs}
    alone = [i for i in weighted[:-1] if before[i].output not in added]
    sizes = [np.abs(after[i].matrix).mean(axis=0) for i in alone]
    assert sum(bool(np.all(np.diff(size) <= 0)) for size in sizes) >= len(sizes) // 2


def test_dead_channels_come_together() -> None:
    """Half of the middle map's channels are dead: what reads and what makes it has them last."""
    graph = dead_middle(np.random.default_rng(0))
    maker, reader = order_channels(graph).layers
    assert isinstance(maker, ConvLayer) and isinstance(reader, ConvLayer)
    assert not maker.matrix[:, 16:].any() and maker.matrix[:, :16].any(axis=0).all()
    assert not reader.matrix[16:].any() and reader.matrix[:16].any(axis=1).all()
    np.testing.assert_array_equal(reader.params.bias, graph.layers[1].params.bias)


def dead_middle(rng: np.random.Generator) -> LayerGraph:
    """8 -> 32 -> 8 channels, every other one of the 32 without weights on either side."""
    maps = tuple(FeatureMap(name, 1, 4, c, 8, 0) for name, c in (("x", 8), ("middle", 32), ("y", 8)))
    alive = np.arange(32) % 2
    layers = []
    for index, weight in enumerate(
        (rng.integers(1, 90, (8, 32)) * alive, rng.integers(1, 90, (32, 8)) * alive[:, None])
    ):
        channels = weight.shape[1]
        params = ChannelParams(
            rng.integers(-9, 9, channels), np.full(channels, 1 << 30), np.full(channels, 40, np.uint8)
        )
        part = ConvPart(0, 0, weight[None, None].astype(np.int32))
        layers.append(
            ConvLayer(
                f"conv{index}", "conv", (index,), index + 1, -128, 127, Window(), 8, (part,), params,
                weight.T[:, None, None].astype(np.int32), weight.size * 4,
            )
        )  # fmt: skip
    return LayerGraph("dead", maps, tuple(layers), (0,), (2,))
