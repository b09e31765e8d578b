"""Random networks at one pair of widths and in a mixed plan: exact integers, and the same bytes from their QDQ files.

The machine's integers are held against two that do not know each other: NumPy on the quantized Relax, and int64 on the layers.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import tvm

from breadth.generator import network
from cases.nets import decibels
from npu.harness import run_artefact
from npu.oracle import run_graph
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.integers import run_model, run_quantized
from qaccel.frontend.import_onnx import import_onnx
from qaccel.machine.hw import config_names, load_config
from qaccel.npu.codegen import compile_layers
from qaccel.npu.layers import ConvLayer, LayerGraph
from qaccel.npu.lower.from_relax import lower
from qaccel.npu.partition.partition import partition, subgraph_functions
from qaccel.qdq.write import qdq_model
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.quantize import quantize
from qdq.test_round_trip import WIDTHS, check, unoptimized
from tiers import wide_after

# Where a rule was wrong once: a Transpose before a Relu, copies of several widths, joins that stay in float, products with planes
# that were flattened channels last, slopes in another order of channels.
FOUND = (2054, 2050, 210, 240, 242, 243, 256, 2004, 2062)
LEAST_DB = 40
AT_TIES_DB = {
    2025: 39.9,
    2100: 39.9,
}  # a tenth of the first's sums lie at ties, and an early 4-bit tie of the second goes on
ONCE = range(int(os.environ.get("QACCEL_NETWORKS_FROM", 2000)), int(os.environ.get("QACCEL_NETWORKS_TO", 2200)))


def quantized(seed: int) -> Iterator[QuantizedModel]:
    """The network at one of the nine pairs, and with a pair drawn for each layer."""
    imported = import_onnx(network(seed))
    data = {"x": np.random.default_rng(seed).standard_normal((4, *imported.inputs[0].shape[1:])).astype(np.float32)}
    ranges = calibrate(imported, data)
    uniform = quantize(imported, ranges, WIDTHS[seed % 9])
    yield uniform
    rng = random.Random(seed)
    yield quantize(imported, ranges, {name: rng.choice(WIDTHS) for name in uniform.plan})


def check_exact(q: QuantizedModel, config: str, seed: int) -> int:
    """Simulator, NumPy and int64 agree in every integer of every subgraph; gives the number of layers."""
    hw, rng, count = load_config(config), np.random.default_rng(seed), 0
    for symbol, function in subgraph_functions(partition(q.mod, hw, q.unquantized).mod).items():
        graph = lower(function, symbol, hw)
        artefact = compile_layers(graph, hw).artefact
        inputs = [rng.integers(-(1 << (s.bits - 1)), 1 << (s.bits - 1), s.shape) for s in artefact.inputs]
        made, _ = run_artefact(artefact, inputs)
        exact = run_graph(graph, inputs)
        named = {param.name: value[None] for param, value in zip(function.params, inputs, strict=True)}
        relax = run_quantized(tvm.IRModule({"main": function.without_attr("global_symbol")}), named)
        assert len(made) == len(graph.outputs) == len(relax)
        for k, (output, index) in enumerate(zip(made, graph.outputs, strict=True)):
            np.testing.assert_array_equal(output, exact[index], err_msg=f"{symbol} output {k}")
            np.testing.assert_array_equal(output, relax[str(k)][0], err_msg=f"{symbol} output {k}")
        count += len(graph.layers)
    return count


def check_file(q: QuantizedModel, seed: int) -> None:
    """The QDQ file gives the same bytes, and in ONNX Runtime what the integers give, but for values at ties."""
    check(q)
    data = {"x": np.random.default_rng(seed).standard_normal((1, *q.model.inputs[0].shape[1:])).astype(np.float32)}
    wanted, session = run_model(q, data), unoptimized(qdq_model(q))
    for output, made in zip(session.get_outputs(), session.run(None, data), strict=True):
        same = np.array_equal(wanted[output.name], made)  # such as zeros, which have no signal
        assert same or decibels(wanted[output.name], made) >= AT_TIES_DB.get(seed, LEAST_DB), output.name


@pytest.mark.parametrize("seed", wide_after(1, FOUND))
def test_network(seed: int) -> None:
    _, mixed = quantized(seed)
    check_file(mixed, seed)


@pytest.mark.wide
def test_exact_integers() -> None:
    _, mixed = quantized(210)
    assert check_exact(mixed, "qaccel-64", 210)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ONCE)
def test_more_networks(seed: int) -> None:
    for q in quantized(seed):
        check_exact(q, config_names()[seed % 3], seed)
        check_file(q, seed)


def _biased(graph: LayerGraph) -> LayerGraph:
    """With 2^20 more in the bias of every dense layer's first channel."""
    changed = []
    for layer in graph.layers:
        if isinstance(layer, ConvLayer):
            bias = layer.params.bias + (np.arange(len(layer.params.bias)) == 0).astype(np.int32) * (1 << 20)
            layer = replace(layer, params=replace(layer.params, bias=bias))
        changed.append(layer)
    return replace(graph, layers=tuple(changed))


@pytest.mark.wide
def test_a_kernel_in_another_order_is_seen() -> None:
    """The file of a product with a plane, written as if the plane began one value later."""
    _, mixed = quantized(2050)
    wrong = {name: np.roll(order, 1) for name, order in mixed.orders.items()}
    with pytest.raises(AssertionError):
        check_file(replace(mixed, orders=wrong), 2050)


@pytest.mark.wide
@pytest.mark.parametrize("half", ["lower", "run_graph"])
def test_a_wrong_bias_is_seen(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail on either side: where layers are lowered, and where int64 runs them."""
    lowered, ran = lower, run_graph
    wrong = {
        "lower": lambda *args: _biased(lowered(*args)),
        "run_graph": lambda graph, inputs: ran(_biased(graph), inputs),
    }
    uniform, _ = quantized(210)
    monkeypatch.setattr(sys.modules[__name__], half, wrong[half])
    with pytest.raises(AssertionError, match="output"):
        check_exact(uniform, "qaccel-256", 210)
