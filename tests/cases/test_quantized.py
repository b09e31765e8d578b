"""Models that came quantized, as other tools write them: all their layers on the accelerator, by their own scales."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import qaccel
from cases.nets import Net, decibels, macs_on_the_cpu, normal, scalar, weights

pytestmark = pytest.mark.wide  # whole compilations

MICROSOFT = {"domain": "com.microsoft"}
PEAK = {"x": 4.0, "a": 6.0, "c": 8.0, "d": 10.0, "p": 3.0, "y": 6.0}
SHAPES = (16, 3, 3, 3), (16, 16, 3, 3), (10, 16)
TEST = normal(3, 12, 12, samples=4, seed=1)
Fixed = Callable[[Net, np.ndarray], tuple[str, np.ndarray]]


def rounded(array: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers within -top..top, and a scale for each row."""
    scale = np.abs(array).reshape(len(array), -1).max(1) / top
    return np.clip(np.rint(array / scale.reshape(-1, *[1] * (array.ndim - 1))), -top, top).astype("i1"), scale.astype(
        "f4"
    )


def kernel(shape: tuple[int, ...]) -> np.ndarray:
    return weights(*shape, seed=2, gain=1.2)


def qdq(opset: int, kind: str, top: int, zero: int, fixed: Fixed) -> onnx.ModelProto:
    """Conv, Relu, Conv, Add, pool and Gemm, a QuantizeLinear and a DequantizeLinear around each tensor."""
    net = Net(opset, 10 if opset > 18 else 8)

    def act(name: str, key: str, signed: bool = True, out: str = "") -> tuple[str, np.ndarray]:
        steps = top if signed or not zero else 2 * top + 1
        scale, point = scalar(PEAK[key] / steps), np.array(zero if signed or kind == "u2" else 0, kind)
        q = net("QuantizeLinear", name, scale, point)
        return net("DequantizeLinear", q, scale, point, out=out), scale

    def layer(op: str, x: str, scale: np.ndarray, shape: tuple[int, ...], **attributes: object) -> str:
        w, steps = fixed(net, kernel(shape))
        unit = (steps * scale).astype("f4")
        bias = np.rint(weights(1, shape[0], gain=0.1)[0] / unit).astype("i4")
        return net(op, x, w, net("DequantizeLinear", bias, unit, axis=0), **attributes)

    x, sx = act("x", "x")
    a, sa = act(net("Relu", layer("Conv", x, sx, SHAPES[0], pads=[1] * 4)), "a", False)
    c, _ = act(layer("Conv", a, sa, SHAPES[1], pads=[1] * 4), "c")
    d, _ = act(net("Add", c, a), "d")
    p, _ = act(net("GlobalAveragePool", d), "p")
    f, sf = act(net("Flatten", p), "p")
    act(layer("Gemm", f, sf, SHAPES[2], transB=1), "y", out="y")
    return net.model({"x": [1, 3, 12, 12]}, {"y": [1, 10]})


def by_channel(net: Net, array: np.ndarray) -> tuple[str, np.ndarray]:
    q, scale = rounded(array, 127)
    return net("DequantizeLinear", q, scale, np.zeros(len(q), "i1"), axis=0), scale


def for_all(net: Net, array: np.ndarray) -> tuple[str, np.ndarray]:
    top = np.abs(array).max() / 127
    return net("DequantizeLinear", np.rint(array / top).astype("i1"), scalar(top)), np.full(len(array), top, "f4")


def unsigned(net: Net, array: np.ndarray) -> tuple[str, np.ndarray]:
    q, scale = rounded(array, 127)
    values = (q.astype("i2") + 128).astype("u1")
    return net("DequantizeLinear", values, scale, np.full(len(q), 128, "u1"), axis=0), scale


def shifted(net: Net, array: np.ndarray) -> tuple[str, np.ndarray]:
    """A zero point that takes weights beyond 8 bits."""
    top = np.abs(array).max() / 180
    q = np.clip(np.rint(array / top) + 60, -128, 127).astype("i1")
    return net("DequantizeLinear", q, scalar(top), np.array(60, "i1")), np.full(len(array), top, "f4")


def real_behind_a_pair(net: Net, array: np.ndarray) -> tuple[str, np.ndarray]:
    _, scale = rounded(array, 127)
    zero = np.zeros(len(array), "i1")
    return net("DequantizeLinear", net("QuantizeLinear", array, scale, zero, axis=0), scale, zero, axis=0), scale


def clipped(top: int) -> Fixed:
    def fixed(net: Net, array: np.ndarray) -> tuple[str, np.ndarray]:
        _, scale = rounded(array, top)
        zero = np.zeros(len(array), "i1")
        q = net("QuantizeLinear", array, scale, zero, axis=0)
        clip = net("Clip", q, np.array(-top, "i1"), np.array(top, "i1"))
        return net("DequantizeLinear", clip, scale, zero, axis=0), scale

    return fixed


def narrow(kind: int, top: int, zero: int) -> Fixed:
    def fixed(net: Net, array: np.ndarray) -> tuple[str, np.ndarray]:
        q, scale = rounded(array, top)
        name, points = (f"{net.prefix}k{len(net.consts) + k}" for k in (0, 1))
        for key, values in ((name, q.astype("i4") + zero), (points, np.full(len(q), zero))):
            net.consts.append(helper.make_tensor(key, kind, values.shape, values.ravel().tolist()))
        return net("DequantizeLinear", name, scale, points, axis=0), scale

    return fixed


def microsoft(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with ONNX Runtime's own Q and DQ."""
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


# Model, bits of its weights and activations.
FAMILY = {
    "qdq_u8s8_per_channel": (lambda: qdq(13, "u1", 127, 128, by_channel), 8, 8),
    "qdq_s8": (lambda: qdq(13, "i1", 127, 0, by_channel), 8, 8),
    "per_tensor": (lambda: qdq(13, "u1", 127, 128, for_all), 8, 8),
    "unsigned_weights": (lambda: qdq(13, "u1", 127, 128, unsigned), 8, 8),
    "weight_zero_points": (lambda: qdq(13, "i1", 127, 0, shifted), 16, 8),
    "real_weights": (lambda: qdq(13, "u1", 127, 128, real_behind_a_pair), 8, 8),
    "qdq_s16": (lambda: qdq(21, "i2", 32767, 0, by_channel), 8, 16),
    "qdq_u16": (lambda: qdq(21, "u2", 32767, 32768, by_channel), 8, 16),
    "microsoft_s16": (lambda: microsoft(qdq(13, "i2", 32767, 0, by_channel)), 8, 16),
    "qcdq4": (lambda: qdq(13, "i1", 127, 0, clipped(7)), 4, 8),
    "qcdq2": (lambda: qdq(13, "i1", 127, 0, clipped(1)), 4, 8),
    "qcdq6": (lambda: qdq(13, "i1", 127, 0, clipped(31)), 8, 8),
    "qdq_int4": (lambda: qdq(21, "i1", 127, 0, narrow(TensorProto.INT4, 7, 0)), 4, 8),
    "qdq_uint4": (lambda: qdq(21, "i1", 127, 0, narrow(TensorProto.UINT4, 7, 8)), 4, 8),
}  # fmt: skip


def runtime(model: onnx.ModelProto, feed: np.ndarray = TEST) -> np.ndarray:
    """What ONNX Runtime gives, its optimisations disabled, sample by sample."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in feed])


def ours(module: qaccel.Module, feed: np.ndarray = TEST) -> np.ndarray:
    return np.concatenate([module.run({"x": sample[None]})["y"] for sample in feed])


def assert_steps(wanted: np.ndarray, got: np.ndarray, step: float) -> None:
    """95% of the outputs equal, the rest one step off."""
    off = np.rint((got.astype("f8") - wanted) / step)
    assert np.abs(off).max() <= 1 and (off == 0).mean() >= 0.95, (np.abs(off).max(), (off == 0).mean())


@pytest.mark.parametrize("name", FAMILY)
def test_qdq(name: str) -> None:
    make, weight_bits, activation_bits = FAMILY[name]
    model = make()
    module = qaccel.compile(model)
    layers = [each for each in module.report["layers"] if each["macs"] and each["op"] in ("Conv", "Gemm")]
    assert [(e["weight_bits"], e["activation_bits"]) for e in layers] == [(weight_bits, activation_bits)] * 3
    assert not module.report["fallback"]
    wanted, got = runtime(model), ours(module)
    if activation_bits == 16:
        assert decibels(wanted, got) >= 60
    else:
        assert_steps(wanted, got, PEAK["y"] / 127)


@pytest.mark.parametrize("points", [(100, 0), (0, 3)])
def test_16_bit_zero_points_run_on_the_cpu(points: tuple[int, int]) -> None:
    """By their own scales, as exactly as the accelerator; each layer is named with its zero point and the remedy."""
    net = Net(21, 10)

    def act(name: str, scale: float, zero: int, out: str = "") -> str:
        s, z = scalar(scale), np.array(zero, "i2")
        return net("DequantizeLinear", net("QuantizeLinear", name, s, z), s, z, out=out)

    w = net("DequantizeLinear", np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype("i1"), scalar(0.01))
    act(net("Conv", act("x", 0.0002, points[0]), w), 0.001, points[1], "y")
    model = net.model({"x": [1, 3, 12, 12]}, {"y": [1, 4, 10, 10]})
    module = qaccel.compile(model)
    (reason,) = macs_on_the_cpu(module).values()
    assert f"zero point {max(points)}" in reason and "ActivationSymmetric" in reason
    assert decibels(runtime(model), ours(module)) > 90


def qoperator(top: int = 63) -> onnx.ModelProto:
    """Weights of 7 bits: with 8, kernels of ONNX Runtime saturate on CPUs without VNNI."""
    net = Net()
    step = {k: scalar(v / (255 if k == "a" else 127)) for k, v in PEAK.items()}
    zero = {k: np.array(0 if k == "a" else 128, "u1") for k in PEAK}

    def q(key: str) -> tuple[np.ndarray, np.ndarray]:
        return step[key], zero[key]

    def conv(x: str, source: str, target: str, shape: tuple[int, ...]) -> str:
        w, scale = rounded(kernel(shape), top)
        bias = np.rint(weights(1, shape[0], gain=0.1)[0] / (scale * step[source])).astype("i4")
        return net("QLinearConv", x, *q(source), w, scale, np.zeros(len(w), "i1"), *q(target), bias, pads=[1] * 4)

    a = conv(net("QuantizeLinear", "x", *q("x")), "x", "a", SHAPES[0])
    c = conv(a, "a", "c", SHAPES[1])
    d = net("QLinearAdd", c, *q("c"), a, *q("a"), *q("d"), **MICROSOFT)
    p = net("QLinearGlobalAveragePool", d, *q("d"), *q("p"), channels_last=0, **MICROSOFT)
    w, scale = rounded(kernel(SHAPES[2]), top)
    bias = np.rint(weights(1, 10, gain=0.1)[0] / (scale * step["p"])).astype("i4")
    flat = net("Flatten", p)
    y = net("QGemm", flat, *q("p"), w, scale, np.zeros(10, "i1"), bias, *q("y"), transB=1, **MICROSOFT)
    net("DequantizeLinear", y, *q("y"), out="y")
    return net.model({"x": [1, 3, 12, 12]}, {"y": [1, 10]})


def test_qoperator() -> None:
    model = qoperator()
    module = qaccel.compile(model)
    assert not macs_on_the_cpu(module)
    assert_steps(runtime(model), ours(module), PEAK["y"] / 127)


def _unary(op: str, **attributes: object) -> Callable[[Net, str, tuple], str]:
    return lambda net, x, q: net(op, x, *q, scalar(0.05), np.array(7, "u1"), **attributes, **MICROSOFT)


QLINEAR = {
    "QLinearMul": lambda net, x, q: net("QLinearMul", x, *q, x, *q, scalar(0.05), np.array(7, "u1"), **MICROSOFT),
    "QLinearConcat": lambda net, x, q: net(
        "QLinearConcat", scalar(0.05), np.array(7, "u1"), x, *q, x, *q, axis=1, **MICROSOFT
    ),
    "QLinearAveragePool": _unary("QLinearAveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    "QLinearSigmoid": lambda net, x, q: net("QLinearSigmoid", x, *q, scalar(1 / 256), np.array(0, "u1"), **MICROSOFT),
    "QLinearLeakyRelu": _unary("QLinearLeakyRelu", alpha=0.1),
    "QLinearMatMul": lambda net, x, q: net(
        "QLinearMatMul", x, *q, np.random.default_rng(0).integers(-63, 64, (12, 5)).astype("i1"), scalar(0.01),
        np.array(0, "i1"), scalar(0.05), np.array(120, "u1"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", QLINEAR)
def test_one_operator_on_integers(op: str) -> None:
    net = Net()
    q = scalar(0.04), np.array(100, "u1")
    QLINEAR[op](net, net("QuantizeLinear", "x", *q), q)
    net.nodes[-1].output[0] = "y"
    shape = {"QLinearConcat": [1, 6, 12, 12], "QLinearAveragePool": [1, 3, 6, 6], "QLinearMatMul": [1, 3, 12, 5]}
    model = net.model({"x": [1, 3, 12, 12]}, {"y": (TensorProto.UINT8, shape.get(op, [1, 3, 12, 12]))})
    module = qaccel.compile(model)
    assert not module.report["fallback"]
    got = ours(module)
    assert got.dtype == np.uint8
    assert_steps(runtime(model).astype("f8"), got, 1.0)


def dynamic() -> onnx.ModelProto:
    net = Net()

    def layer(op: str, x: str, array: np.ndarray, shape: tuple[int, ...], **attributes: object) -> str:
        top = np.abs(array).max() / 63
        name = f"d{len(net.nodes)}"
        net.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], [name, f"{name}s", f"{name}z"], name))
        total = net(op, name, np.rint(array / top).astype("i1"), f"{name}z", np.array(0, "i1"), **attributes)
        real = net("Mul", net("Cast", total, to=TensorProto.FLOAT), net("Mul", f"{name}s", scalar(top)))
        bias = weights(1, shape[1] if op == "ConvInteger" else shape[-1], gain=0.1).reshape(shape)
        return net("Add", real, bias)

    a = net("Relu", layer("ConvInteger", "x", weights(*SHAPES[0], gain=1.2), (1, 16, 1, 1), pads=[1] * 4))
    flat = net("Flatten", net("GlobalAveragePool", a))
    net("Identity", layer("MatMulInteger", flat, weights(16, 10), (1, 10)), out="y")
    return net.model({"x": [1, 3, 12, 12]}, {"y": [1, 10]})


def test_dynamic_scales_are_calibrated() -> None:
    model = dynamic()
    module = qaccel.compile(model, calibration_data={"x": normal(3, 12, 12, samples=8, seed=5)}, bits=8)
    assert not macs_on_the_cpu(module)
    assert decibels(runtime(model), ours(module)) >= 30


def test_dynamic_scales_on_the_cpu_are_found_in_every_run() -> None:
    model = dynamic()
    module = qaccel.compile(model, target="llvm")
    assert decibels(runtime(model), ours(module)) >= 90
