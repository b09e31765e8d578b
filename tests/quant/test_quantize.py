"""Float Relax to quantized Relax: integers against plain Python, widths, fusion, layouts, and what stays in float."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from qaccel.dialect import operators as o
from qaccel.dialect.operators import Quantization
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.executor import execute
from qaccel.emulate.integers import run_model
from qaccel.errors import QaccelError
from qaccel.machine import numerics
from qaccel.options import BitWidths
from qaccel.quant.quantize import attributes, quantize
from qaccel.quant.rules.weights import NotQuantizable, activation_quantization, quantize_real, quantize_weights
from quant.layers import PAIRS, conv_model, conv_output, model, node, prepared
from tiers import wide_after

W8A8 = BitWidths(8, 8)


def calls(q: QuantizedModel) -> dict[str, relax.Call]:
    bindings = (b for block in q.mod["main"].body.blocks for b in block.bindings)
    found = [b.value for b in bindings if o.is_quantized(b.value)]
    return {o.read(call).name: call for call in reversed(found)}


def operators_of(q: QuantizedModel) -> list[str]:
    """Names of all operators in order, without their prefix."""
    bindings = (b for block in q.mod["main"].body.blocks for b in block.bindings)
    return [b.value.op.name.split(".", 1)[1] for b in bindings if isinstance(b.value, relax.Call)]


def observed(q: QuantizedModel, data: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs, and every integer result by name."""
    seen: dict[str, np.ndarray] = {}
    return run_model(q, data, lambda name, value: seen.__setitem__(name, value)), seen


def sqnr_db(reference: np.ndarray, value: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(reference**2) / max(np.mean((reference - value) ** 2), 1e-30)))


@pytest.mark.parametrize(("weight_bits", "activation_bits"), PAIRS)
def test_convolutions_are_exact(weight_bits, activation_bits):
    """Random convolutions, some outputs of each, against plain Python integers."""
    rng = np.random.default_rng(weight_bits * 100 + activation_bits)
    for relu in ("", "Relu", "Clip", "Relu"):
        imported, ranges, data = prepared(conv_model(rng, relu), samples=2)
        q = quantize(imported, ranges, BitWidths(weight_bits, activation_bits))
        _, seen = observed(q, data)
        attrs, constants = o.read(calls(q)["conv"]), [o.constant(arg) for arg in calls(q)["conv"].args[1:]]
        assert (attrs.weight_bits, attrs.source.bits) == (weight_bits, activation_bits)
        assert attrs.result.bits == max(8, activation_bits)
        entered = seen["x"]
        real = data["x"].astype(np.float32) / np.float32(attrs.source.scale)
        lo, hi = numerics.activation_limits(activation_bits)
        expected = np.clip(np.rint(real) + attrs.source.zero_point, lo, hi).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(entered, expected)
        for _ in range(40):
            at = tuple(int(rng.integers(size)) for size in seen["conv"].shape)
            assert int(seen["conv"][at]) == conv_output(attrs, entered, *constants, at), (attrs, at)


@pytest.mark.parametrize(("weight_bits", "activation_bits"), wide_after(2, PAIRS))
def test_every_pair_is_as_good_as_its_bits(weight_bits, activation_bits, resnet_path, calibration_data):
    """The narrowest operand bounds the noise of the whole network."""
    imported, ranges, data = _network(resnet_path, calibration_data)
    q = quantize(imported, ranges, BitWidths(weight_bits, activation_bits))
    assert not q.unquantized
    assert set(q.plan.values()) == {BitWidths(weight_bits, activation_bits)}
    reference, value = execute(imported, data), run_model(q, data)
    least = {4: 0, 8: 18, 16: 50}[min(weight_bits, activation_bits)]
    assert sqnr_db(reference["scores"], value["scores"]) > least


_NETWORKS: dict[str, tuple] = {}


def _network(path, calibration_data):
    if str(path) not in _NETWORKS:
        from qaccel.frontend.import_onnx import import_onnx
        from qaccel.quant.calibrate.ranges import calibrate

        imported = import_onnx(path)
        _NETWORKS[str(path)] = imported, calibrate(imported, calibration_data)
    data = {name: value[:16] for name, value in calibration_data.items()}
    return *_NETWORKS[str(path)], data


# ---- activations and weights


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("span", [(0.0, 6.0), (-3.0, 0.0), (-1.3, 2.9), (0.0, 0.0), (-1e-37, 1e-38), (-1e30, 3e37)])
def test_activation_ranges(bits, span):
    q = activation_quantization(*span, bits)
    lo, hi = numerics.activation_limits(bits)
    assert q.scale == float(np.float32(q.scale)) and q.scale > 0
    assert lo <= q.zero_point <= hi
    assert bits != 16 or q.zero_point == 0
    if span[1] - span[0] > 1e-20:
        ends = [(limit - q.zero_point) * q.scale for limit in (lo, hi)]
        assert ends[0] <= span[0] + 0.51 * q.scale and span[1] - 0.51 * q.scale <= ends[1]


def test_a_range_that_is_not_finite():
    with pytest.raises(NotQuantizable, match="inf"):
        activation_quantization(-1.0, float("inf"), 8)


def test_quantize_real_saturates_and_rounds_to_even():
    q = Quantization(8, 0.5, 10)
    values = [0.25, 0.75, -0.25, 1e30, -1e30, float("inf")]
    assert [quantize_real(v, q) for v in values] == [10, 12, 10, 127, -128, 127]


@pytest.mark.parametrize(("weight_bits", "activation_bits"), PAIRS)
def test_weights_bias_and_accumulator_stay_in_range(weight_bits, activation_bits):
    """Ordinary, huge, tiny, zero, denormal and negative-zero weights, each with biases small and large."""
    rng = np.random.default_rng(7)
    source = activation_quantization(-1.0, 3.0, activation_bits)
    kinds = [1.0, 1e-3, 1e-12, 1e-30, 1e-42, 0.0, -0.0, 1e6]
    weight = np.stack([rng.normal(size=(3, 3, 8)) * k for k in kinds for _ in range(4)]).astype(np.float32)
    bias = np.array([b for _ in kinds for b in (0.0, 1e-3, -5.0, 3e4)], np.float32)
    made = quantize_weights(weight, bias, weight_bits, source, 0.05)
    limit = 2 ** (weight_bits - 1) - 1
    assert np.abs(made.weight).max() <= limit
    assert np.abs(made.bias).max() < 2**31
    lo, hi = numerics.activation_limits(activation_bits)
    reach = max(hi - source.zero_point, source.zero_point - lo)
    width = numerics.accumulator_width(weight_bits, activation_bits, 48)
    assert (np.abs(made.weight).reshape(len(bias), -1).sum(1) * reach + np.abs(made.bias)).max() < 2 ** (width - 1)
    assert np.isfinite(made.scale).all() and (made.scale > 0).all()
    unit = (np.float32(source.scale) * made.scale).astype(np.float64)
    np.testing.assert_allclose(made.bias * unit, bias, atol=float(0.51 * unit.max()), rtol=1e-6)
    assert (np.abs(made.bias * unit - bias) <= 0.51 * unit + 1e-6 * np.abs(bias)).all()
    zero = slice(20, 28)
    assert not made.weight[zero].any() and set(range(20, 28)) <= set(made.dead)
    ordinary = np.abs(made.weight[:2]).reshape(2, -1).max(1)
    np.testing.assert_array_equal(ordinary, limit)


def test_outputs_far_smaller_than_the_products_are_refused():
    with pytest.raises(NotQuantizable, match="the limit is 2"):
        quantize_weights(np.full((1, 1, 1, 4), 1e20), np.zeros(1), 8, Quantization(8, 1.0, 0), 1e-3)


def test_a_dead_channel_is_its_constant():
    """Weights of noise beside a real bias, as batch norms with no variance leave them."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(2, 4, 3, 3)).astype(np.float32)
    weight[1] *= 1e-14
    nodes = [node("Conv", "conv", ["x", "w", "b"])]
    constants = {"w": weight, "b": np.array([0.1, 0.7], np.float32)}
    imported, ranges, data = prepared(model(nodes, {"x": (1, 4, 6, 6)}, ["conv"], constants))
    q = quantize(imported, ranges, W8A8)
    assert q.notes == ("conv: 1 of 2 channels have no weights left and are constant",)
    assert not o.constant(calls(q)["conv"].args[1])[1].any()
    step = attributes(q.mod)["conv"].result.scale
    np.testing.assert_allclose(run_model(q, data)["conv"][:, 1], 0.7, atol=0.51 * step)


def test_a_bias_beyond_int32_raises_the_scale():
    weight = np.ones((2, 4, 1, 1), np.float32)
    weight[1] = 3e-8
    nodes = [node("Conv", "conv", ["x", "w", "b"])]
    imported, ranges, data = prepared(
        model(nodes, {"x": (1, 4, 3, 3)}, ["conv"], {"w": weight, "b": np.array([0, 2], np.float32)})
    )
    q = quantize(imported, ranges, BitWidths(16, 8))
    assert q.notes == ("conv: 1 of 2 channels took a larger weight scale for their bias",)
    step = attributes(q.mod)["conv"].result.scale
    np.testing.assert_allclose(run_model(q, data)["conv"][:, 1], 2.0, atol=0.51 * step)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers_stay_in_float(value):
    with pytest.raises(NotQuantizable, match="not a finite number"):
        quantize_weights(np.full((1, 1, 1, 4), value), np.zeros(1), 8, Quantization(8, 1.0, 0), 1.0)


# ---- structure


def chain(nodes, constants=None, shape=(1, 4, 8, 8), outputs=None, bits=W8A8):
    made = model(nodes, {"x": shape}, outputs or [nodes[-1].output[0]], constants or {})
    imported, ranges, data = prepared(made)
    return quantize(imported, ranges, bits), imported, data


def weight(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_relu_and_clip_become_the_clamp():
    nodes = [
        node("Conv", "conv", ["x", "w"]), node("Relu", "relu", ["conv"]), node("Clip", "clip", ["relu", "lo", "hi"]),
    ]  # fmt: skip
    q, *_ = chain(nodes, {"w": weight(4, 4, 3, 3), "lo": np.float32(-1), "hi": np.float32(2)})
    assert operators_of(q) == ["quantize", "conv2d", "dequantize"]
    assert q.fused == {"conv": ("relu", "clip")}
    attrs = attributes(q.mod)["conv"]
    assert attrs.clamp.lo == attrs.result.zero_point == -128
    assert attrs.clamp.hi == attrs.result.zero_point + round(2 / attrs.result.scale)


def test_an_add_of_one_value_per_channel_is_the_bias_of_a_product():
    for shape, joined in (((5,), True), ((1, 1, 5), True), ((1, 4, 1), False)):
        nodes = [node("MatMul", "fc", ["x", "m"]), node("Add", "sum", ["fc", "b"]), node("Relu", "relu", ["sum"])]
        constants = {"m": weight(6, 5), "b": weight(*shape, seed=2)}
        made = model(nodes, {"x": (1, 4, 6)}, ["relu"], constants)
        imported, ranges, data = prepared(made)
        q = quantize(imported, ranges, BitWidths(8, 8))
        assert operators_of(q) == ["quantize", "conv2d", *([] if joined else ["eltwise"]), "dequantize"]
        assert q.fused == ({"fc": ("sum", "relu")} if joined else {"sum": ("relu",)})
        assert sqnr_db(execute(imported, data)["relu"], run_model(q, data)["relu"]) > 30


def test_a_relu_beside_another_reader_is_a_copy():
    nodes = [
        node("Conv", "conv", ["x", "w"]), node("Relu", "relu", ["conv"]),
        node("Concat", "both", ["relu", "conv"], axis=1),
    ]  # fmt: skip
    q, imported, data = chain(nodes, {"w": weight(4, 4, 3, 3)})
    assert operators_of(q) == ["quantize", "conv2d", "requantize", "move", "dequantize"]
    assert attributes(q.mod)["relu"].clamp.lo == attributes(q.mod)["relu"].result.zero_point
    assert q.fused == {}
    assert sqnr_db(execute(imported, data)["both"], run_model(q, data)["both"]) > 30


def test_max_pool_keeps_the_scale_and_average_pool_does_not():
    nodes = [
        node("MaxPool", "max", ["x"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", "mean", ["max"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
    ]
    q, imported, data = chain(nodes)
    found = attributes(q.mod)
    assert found["max"].result == found["x"].result
    assert found["mean"].result.scale != found["x"].result.scale
    assert sqnr_db(execute(imported, data)["mean"], run_model(q, data)["mean"]) > 30


@pytest.mark.parametrize("include", [0, 1])
def test_average_pool_divides_as_onnx_does(include):
    pool = node(
        "AveragePool", "mean", ["x"], kernel_shape=[3, 2], strides=[2, 2], pads=[2, 1, 1, 0], count_include_pad=include
    )
    q, imported, data = chain([pool], bits=BitWidths(16, 16))
    assert sqnr_db(execute(imported, data)["mean"], run_model(q, data)["mean"]) > 75


def test_flatten_folds_into_the_kernel():
    nodes = [
        node("Conv", "conv", ["x", "w"], strides=[2, 2]), node("Flatten", "flat", ["conv"]),
        node("Gemm", "fc", ["flat", "m", "b"], transB=1),
    ]  # fmt: skip
    constants = {"w": weight(5, 4, 3, 3), "m": weight(7, 5 * 3 * 3), "b": weight(7)}
    q, imported, data = chain(nodes, constants, bits=BitWidths(16, 16))
    assert operators_of(q) == ["quantize", "conv2d", "conv2d", "dequantize"]
    assert o.constant(calls(q)["fc"].args[1]).shape == (7, 3, 3, 5)
    assert sqnr_db(execute(imported, data)["fc"], run_model(q, data)["fc"]) > 70


def test_global_pool_flatten_gemm_needs_no_whole_plane():
    nodes = [
        node("GlobalAveragePool", "mean", ["x"]),
        node("Flatten", "flat", ["mean"]),
        node("MatMul", "fc", ["flat", "m"]),
    ]
    q, imported, data = chain(nodes, {"m": weight(4, 6)}, bits=BitWidths(16, 16))
    assert operators_of(q) == ["quantize", "pool2d", "conv2d", "dequantize"]
    assert o.constant(calls(q)["fc"].args[1]).shape == (6, 1, 1, 4)
    assert sqnr_db(execute(imported, data)["fc"], run_model(q, data)["fc"]) > 70


def test_reshape_at_the_end_joins_the_dequantize():
    nodes = [node("GlobalAveragePool", "mean", ["x"]), node("Flatten", "flat", ["mean"])]
    q, imported, data = chain(nodes)
    assert operators_of(q) == ["quantize", "pool2d", "dequantize"]
    assert attributes(q.mod)["mean"] and run_model(q, data)["flat"].shape == (4, 4)
    assert sqnr_db(execute(imported, data)["flat"], run_model(q, data)["flat"]) > 30


def test_transposes_at_the_ends_join_quantize_and_dequantize():
    """A network in NHWC, as TensorFlow exports it."""
    nodes = [
        node("Transpose", "in", ["x"], perm=[0, 3, 1, 2]), node("Conv", "conv", ["in", "w"]),
        node("Transpose", "out", ["conv"], perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    q, imported, data = chain(nodes, {"w": weight(5, 4, 3, 3)}, shape=(1, 8, 6, 4))
    assert operators_of(q) == ["quantize", "conv2d", "dequantize"]
    assert sqnr_db(execute(imported, data)["out"], run_model(q, data)["out"]) > 30


def test_a_flattened_plane_leaves_as_its_values():
    nodes = [node("Conv", "conv", ["x", "w"]), node("Flatten", "flat", ["conv"])]
    q, imported, data = chain(nodes, {"w": weight(5, 4, 3, 3)})
    assert not q.unquantized
    assert sqnr_db(execute(imported, data)["flat"], run_model(q, data)["flat"]) > 30


def test_what_has_no_integer_form_stays_in_float():
    nodes = [
        node("Conv", "conv", ["x", "w"]), node("Softmax", "gate", ["conv"], axis=1), node("Conv", "last", ["gate", "w"]),
        node("Softmax", "prob", ["last"], axis=1),
    ]  # fmt: skip
    q, imported, data = chain(nodes, {"w": weight(4, 4, 3, 3)})
    assert operators_of(q) == [
        "quantize", "conv2d", "dequantize", "nn.softmax", "quantize", "conv2d", "dequantize", "nn.softmax",
    ]  # fmt: skip
    assert [(name, op) for name, op, _ in q.unquantized] == [("gate", "Softmax"), ("prob", "Softmax")]
    assert sqnr_db(execute(imported, data)["prob"], run_model(q, data)["prob"]) > 20


def test_several_inputs_and_outputs():
    nodes = [node("Add", "sum", ["x", "y"]), node("Relu", "relu", ["sum"]), node("Conv", "conv", ["sum", "w"])]
    made = model(nodes, {"x": (1, 4, 5, 5), "y": (1, 4, 5, 5)}, ["relu", "conv", "sum"], {"w": weight(4, 4, 1, 1)})
    imported, ranges, data = prepared(made)
    q = quantize(imported, ranges)
    reference, value = execute(imported, data), run_model(q, data)
    for name in ("relu", "conv", "sum"):
        assert sqnr_db(reference[name], value[name]) > 30


# ---- widths


def test_readers_that_disagree_get_a_copy():
    nodes = [
        node("Conv", "stem", ["x", "w"]), node("Conv", "narrow", ["stem", "w"]), node("Conv", "wide", ["stem", "w"]),
        node("Add", "sum", ["narrow", "wide"]),
    ]  # fmt: skip
    bits = {"stem": BitWidths(8, 8), "narrow": BitWidths(4, 4), "wide": BitWidths(8, 16)}
    q, imported, data = chain(nodes, {"w": weight(4, 4, 3, 3)}, bits=bits)
    found = attributes(q.mod)
    assert found["stem"].result.bits == 16 and found["wide"].source.bits == 16
    assert found["stem.to4"].result.bits == 4 and found["narrow"].source.scale == found["stem.to4"].result.scale
    assert found["sum"].a.bits == found["sum"].b.bits == 8
    assert q.plan == bits
    assert sqnr_db(execute(imported, data)["sum"], run_model(q, data)["sum"]) > 10


def test_what_the_user_reads_has_at_least_8_bits():
    q, *_ = chain([node("Conv", "conv", ["x", "w"])], {"w": weight(4, 4, 3, 3)}, bits=BitWidths(8, 4))
    assert (attributes(q.mod)["conv"].source.bits, attributes(q.mod)["conv"].result.bits) == (4, 8)


@pytest.mark.parametrize(("weight_bits", "activation_bits"), wide_after(2, PAIRS))
def test_integers_of_whole_networks_agree_with_the_form(weight_bits, activation_bits, mobilenet_path, calibration_data):
    """Every integer lies within its width and clamp."""
    imported, ranges, data = _network(mobilenet_path, calibration_data)
    q = quantize(imported, ranges, BitWidths(weight_bits, activation_bits))
    _, seen = observed(q, {name: value[:2] for name, value in data.items()})
    for name, attrs in attributes(q.mod).items():
        if hasattr(attrs, "clamp"):
            assert attrs.clamp.lo <= seen[name].min() and seen[name].max() <= attrs.clamp.hi


def test_a_batch_runs_as_its_samples(mobilenet_path, calibration_data):
    imported, ranges, data = _network(mobilenet_path, calibration_data)
    q = quantize(imported, ranges)
    together = run_model(q, data)["scores"]
    alone = [run_model(q, {name: value[k : k + 1] for name, value in data.items()})["scores"] for k in range(3)]
    np.testing.assert_array_equal(together[:3], np.concatenate(alone))


# ---- errors


def test_unknown_nodes_and_bits_are_named():
    with pytest.raises(QaccelError, match="'nope'"):
        chain([node("Relu", "relu", ["x"])], bits={"nope": W8A8})
    with pytest.raises(QaccelError, match="weight_bits is 5"):
        BitWidths(5, 8)


def test_a_missing_range_is_named():
    imported, ranges, _ = prepared(model([node("Relu", "relu", ["x"])], {"x": (1, 2, 3, 3)}, ["relu"], {}))
    del ranges.values["relu"]
    with pytest.raises(QaccelError, match="^internal error: relu: calibration gave no range"):
        quantize(imported, ranges)


def test_wrong_inputs_are_named():
    q, _, data = chain([node("Relu", "relu", ["x"])])
    with pytest.raises(QaccelError, match="'x' is missing"):
        run_model(q, {})
    with pytest.raises(QaccelError, match="do not fit"):
        run_model(q, {"x": data["x"][:, :1]})


def test_json_round_trip_runs_the_same():
    q, _, data = chain([node("Conv", "conv", ["x", "w"])], {"w": weight(4, 4, 3, 3)})
    again = tvm.ir.load_json(tvm.ir.save_json(q.mod))
    tvm.ir.assert_structural_equal(again, q.mod)
