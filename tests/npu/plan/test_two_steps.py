"""Pools in two steps: the integers of one step, whatever the shape, and fewer cycles."""

from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qaccel
from npu.harness import run_artefact
from npu.layer_cases import output_size, random_scale, values, zero_point
from npu.oracle import run_graph
from npu.plan.test_estimates import check
from qaccel.errors import CompilerFault
from qaccel.machine.hw import HwConfig, config_names, load_config
from qaccel.machine.isa import decode
from qaccel.machine.numerics import activation_limits
from qaccel.npu.codegen import CompiledSubgraph, compile_layers
from qaccel.npu.layers import CopyLayer, FeatureMap, LayerGraph, PoolLayer, Window
from qaccel.npu.plan import allocate as planned
from qaccel.npu.plan.tiles import pixelwise_tiles, two_steps
from qaccel.options.schedule import LayerChoice, Schedule, SubgraphSchedule, TileChoice

SEED = 20261201
SHAPES = ((1, 1), (1, 9), (12, 1), (2, 2), (7, 7), (25, 5), (5, 25), (13, 17))
HW = load_config("qaccel-256")


def pool(
    rng: np.random.Generator, shape: tuple[int, int], channels: int, bits: tuple[int, int], kind: str, pads: tuple[int, int, int, int],
    zero: int | None = None,
) -> LayerGraph:  # fmt: skip
    """A pool with one output; ``pads``: above, left, below, right of a map of that ``shape``."""
    (h, w), (top, left, bottom, right) = shape, pads
    window = Window(h + top + bottom, w + left + right, pad_top=top, pad_left=left, pad_bottom=bottom, pad_right=right)
    taps = range(1, window.kernel_h * window.kernel_w + 1)
    scales = {n: random_scale(rng, bits[0] - bits[1] + np.log2(n) / 2) for n in taps}
    x = FeatureMap("x", h, w, channels, bits[0], zero_point(rng, bits[0]) if zero is None else zero)
    y = FeatureMap("y", 1, 1, channels, bits[1], zero_point(rng, bits[1]))
    layer = PoolLayer(
        "pool", "Pool", (0,), 1, *activation_limits(bits[1]), window, kind, bool(rng.random() < 0.5), scales
    )
    return LayerGraph("main", (x, y), (layer,), (0,), (1,))


def run(graph: LayerGraph, compiled: CompiledSubgraph, rng: np.random.Generator, extreme: bool = False) -> None:
    """On the simulator against the exact result; ``extreme``: on the largest inputs alone."""
    x = graph.maps[0]
    shape, most = (x.h, x.w, x.c), activation_limits(x.bits)[1]
    data = np.full(shape, most, np.int64) if extreme else values(rng, shape, x.bits)
    outputs, _ = run_artefact(compiled.artefact, [data])
    np.testing.assert_array_equal(outputs[0], run_graph(graph, [data])[graph.outputs[0]])


def resident(graph: LayerGraph) -> LayerGraph:
    """Behind a copy, so that the input lies in SRAM."""
    x, y = graph.maps
    copy = CopyLayer("copy", "Copy", (0,), 1, *activation_limits(x.bits), 1, 0)
    layers = (copy, replace(graph.layers[0], inputs=(1,), output=2))
    return LayerGraph("main", (x, replace(x, name="c"), y), layers, (0,), (2,))


def halved(compiled: CompiledSubgraph, kind: str = "sum") -> bool:
    """Whether a program has pools in two steps, each of one axis, with 16 bits between those of a sum."""
    found = [ins for ins in decode(compiled.artefact.program) if ins.op == "POOL"]
    down = [ins for ins in found if ins["kernel_w"] == 1 < ins["kernel_h"]]
    across = [ins for ins in found if ins["kernel_h"] == 1 < ins["kernel_w"]]
    if not down or not across:
        return False
    first, second = sorted((down[0], across[0]), key=found.index)
    assert first["out_bits"] == second["in_bits"] == (16 if kind == "sum" else first["in_bits"])
    return True


@pytest.mark.parametrize("kind", ["sum", "max"])
def test_the_integers_are_those_of_one_step(kind: str) -> None:
    """Shapes and widths, with odd channels, random zero points, and padding that counts or does not; the estimate is of these instructions."""
    made = 0
    for case, (shape, in_bits, out_bits) in enumerate(product(SHAPES, (4, 8, 16), (4, 8, 16))):
        rng = np.random.default_rng([SEED, case])
        hw = load_config(config_names()[case % 3])
        pads = tuple(int(n) for n in rng.integers(0, 1 + min(shape), 4)) if case % 2 else (0, 0, 0, 0)
        graph = pool(rng, shape, int(rng.integers(1, 70)), (in_bits, out_bits), kind, pads)
        compiled = compile_layers(graph, hw)
        run(graph, compiled, rng)
        run(graph, compiled, rng, extreme=True)
        check(graph, hw)
        made += halved(compiled, kind)
    assert made >= 20


def cycles(graph: LayerGraph, hw: HwConfig = HW) -> int:
    rng = np.random.default_rng(SEED)
    x = graph.maps[0]
    return int(
        run_artefact(compile_layers(graph, hw).artefact, [values(rng, (x.h, x.w, x.c), x.bits)], "cycle")[1]["cycles"]
    )


def in_one_step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pixelwise_tiles, "two_steps", lambda *_: None)


@pytest.mark.parametrize("kind", ["sum", "max"])
def test_two_steps_are_taken_where_they_are_quicker(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    found = {}
    for steps in (2, 1):
        rng = np.random.default_rng(SEED)
        found[steps] = {shape: cycles(pool(rng, shape, 64, (8, 8), kind, (0, 0, 0, 0))) for shape in SHAPES}
        in_one_step(monkeypatch)
    assert all(found[2][shape] <= found[1][shape] for shape in SHAPES)
    assert found[2][25, 5] < found[1][25, 5] and found[2][1, 9] == found[1][1, 9]


def test_a_sum_that_16_bits_do_not_hold_is_made_in_one_step() -> None:
    """129 rows and pixels of at most 255 above the zero point; of 128 the 16 bits hold every sum."""
    rng = np.random.default_rng(SEED)
    for size, zero, bits, found in ((128, -128, 8, True), (129, -128, 8, False), (129, 0, 8, True), (60, 0, 16, False)):
        graph = resident(pool(rng, (size, size), 16, (bits, 8), "sum", (0, 0, 0, 0), zero))
        compiled = compile_layers(graph, load_config("qaccel-1024"))
        assert halved(compiled) is found
        run(graph, compiled, rng, extreme=True)


def many_outputs(rng: np.random.Generator, kind: str, dilated: bool = False) -> LayerGraph:
    """A large window over a map, with strides and padding, perhaps ``dilated``."""
    kernel = [int(n) for n in rng.integers(2, 14, 2)]
    dilation = [int(n) for n in rng.integers(1, 4, 2)] if dilated else [1, 1]
    pads = [int(rng.integers(0, k)) for k in kernel * 2]
    window = Window(*kernel, *(int(n) for n in rng.integers(1, 4, 2)), *dilation, *pads)
    h, w = (int(rng.integers(max(d, reach(k, d) - 2), reach(k, d) + 9)) for k, d in zip(kernel, dilation, strict=True))
    bits = (4, 8, 16)[int(rng.integers(3))], (4, 8, 16)[int(rng.integers(3))]
    graph = pool(rng, (h, w), int(rng.integers(1, 40)), bits, kind, (0, 0, 0, 0))
    size = [max(1, each) for each in output_size(window, h, w)]
    taps = {n: random_scale(rng, bits[0] - bits[1] + np.log2(n) / 2) for n in range(1, kernel[0] * kernel[1] + 1)}
    layer = replace(graph.layers[0], window=window, scales=taps)
    return replace(graph, maps=(graph.maps[0], replace(graph.maps[1], h=size[0], w=size[1])), layers=(layer,))


def reach(taps: int, dilation: int) -> int:
    return (taps - 1) * dilation + 1


@pytest.mark.parametrize("kind", ["sum", "max"])
def test_pools_of_many_outputs(kind: str) -> None:
    """In tiles as the planner cuts them, and one output at a time as a schedule may ask for: at borders less of the input is under them."""
    one_pixel = SubgraphSchedule({"pool": LayerChoice(tile=TileChoice(rows=1, columns=1))})
    made = [0, 0]
    for case in range(30):
        rng = np.random.default_rng([SEED, case])
        hw, graph = load_config(config_names()[case % 3]), many_outputs(rng, kind, case % 3 == 2)
        for which, asked in enumerate((None, Schedule(hw.name, {"main": one_pixel}))):
            compiled = compile_layers(graph, hw, schedule=asked)
            run(graph, compiled, rng)
            made[which] += halved(compiled, kind)
            again = compile_layers(graph, hw, schedule=Schedule(hw.name, {"main": compiled.schedule}))
            assert again.artefact.program == compiled.artefact.program
        check(graph, hw)
    assert min(made) >= 6


def test_large_windows_take_what_their_bytes_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maxima of 13 rows and pixels around each pixel, as detectors have them, are limited by DRAM and not by taps."""
    found = {}
    for steps in (2, 1):
        for size in (3, 13):
            graph = pool(np.random.default_rng(SEED), (20, 20), 64, (8, 8), "max", (0, 0, 0, 0))
            window = Window(
                size, size, pad_top=size // 2, pad_left=size // 2, pad_bottom=size // 2, pad_right=size // 2
            )
            y, layer = replace(graph.maps[1], h=20, w=20), replace(graph.layers[0], window=window)
            found[steps, size] = cycles(replace(graph, maps=(graph.maps[0], y), layers=(layer,)))
        in_one_step(monkeypatch)
    assert found[2, 13] < 1.1 * found[2, 3] and 2 * found[2, 13] < found[1, 13]


def test_sums_that_do_not_fit_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = pool(np.random.default_rng(SEED), (200, 200), 16, (8, 8), "sum", (0, 0, 0, 0), -128)
    layer, y = replace(graph.layers[0], scales={200 * 200: (1 << 30, 47)}), replace(graph.maps[1], zero_point=0)
    graph = resident(replace(graph, maps=(graph.maps[0], y), layers=(layer,)))
    monkeypatch.setattr(two_steps, "_exact", lambda *_: True)
    compiled = compile_layers(graph, load_config("qaccel-1024"))
    with pytest.raises(AssertionError, match="Mismatched elements"):
        run(graph, compiled, np.random.default_rng(SEED), extreme=True)


def test_sums_in_the_place_of_the_input_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, blocks = pool(np.random.default_rng(SEED), (25, 5), 64, (8, 8), "sum", (0, 0, 0, 0)), planned._layer_blocks

    def over_the_input(*args: object) -> planned.LayerBlocks:
        made = blocks(*args)
        return replace(made, between=made.inputs[0][0])

    monkeypatch.setattr(planned, "_layer_blocks", over_the_input)
    with pytest.raises(CompilerFault, match="over its own operands"):
        compile_layers(graph, HW)


def network(pooling: onnx.NodeProto, shape: tuple[int, int]) -> onnx.ModelProto:
    """A convolution, which keeps the size, and a pool of all of it."""
    rng = np.random.default_rng(SEED)
    weight = numpy_helper.from_array(rng.normal(0, 0.3, (64, 3, 3, 3)).astype(np.float32), "w")
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, *shape]), ("y", [1, 64, 1, 1]))
    ]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]), pooling]
    graph = helper.make_graph(nodes, "pooled", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("GlobalAveragePool", {}), ("GlobalMaxPool", {}), ("ReduceMean", {"axes": [2, 3]}), ("AveragePool", {"kernel_shape": [25, 5]}),
        ("AveragePool", {"kernel_shape": [26, 6], "strides": [26, 6], "ceil_mode": 1, "pads": [1, 1, 0, 0]}),
    ],
)  # fmt: skip
def test_it_is_one_layer_and_what_the_cpu_computes(
    monkeypatch: pytest.MonkeyPatch, operator: str, attributes: dict[str, object]
) -> None:
    model = network(helper.make_node(operator, ["c"], ["y"], name="pool", **attributes), (25, 5))
    x = np.random.default_rng(SEED).normal(size=(8, 3, 25, 5)).astype(np.float32)
    quantized = qaccel.quantize(model, {"x": x}, bits="W8A8", effort="fast")
    module = qaccel.compile(quantized, hw=HW)
    assert [layer["name"] for layer in module.report["layers"]] == ["conv", "pool"]
    assert "sums" in {block["kind"] for block in module.report["sram"]}
    expected = qaccel.compile(quantized, target="llvm").run({"x": x[:1]})["y"]
    np.testing.assert_array_equal(module.run({"x": x[:1]})["y"], expected)
    in_one_step(monkeypatch)
    assert module.report["cycles"] < qaccel.compile(quantized, hw=HW).report["cycles"] - 250
