"""Quantized TFLite files: the accelerator has the file's integers, scales and zero points, whatever their types."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import qaccel
from cases.nets import macs_on_the_cpu
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.integers import run_model
from qaccel.errors import UserError
from qaccel.options import CompileOptions, TargetOptions, options_of
from qaccel.pipeline import quantize_model
from qaccel.stages import Stages

if importlib.util.find_spec("tflite") is None or importlib.util.find_spec("flatbuffers") is None:
    pytest.skip("the packages tflite and flatbuffers are not installed", allow_module_level=True)

from cases.tflite_files import Operator, Tensor, fully_connected, options, written

LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(1 << 15), (1 << 15) - 1)}
ZERO = {"int8": 3, "uint8": 120, "int16": 0}
STEP = {"int8": 0.05, "uint8": 0.05, "int16": 0.00025}
PLANE = (1, 6, 6, 4)
BESIDE = importlib.util.find_spec("ai_edge_litert") is not None


def tensor(name: str, shape: tuple[int, ...], kind: str, step: float = 1.0, **fields: object) -> Tensor:
    return Tensor(name, shape, kind, **{"scale": np.float32(STEP[kind] * step), "zero": ZERO[kind], **fields})


def weights(kind: str, shape: tuple[int, ...], axis: int, seed: int) -> Tensor:
    """By channel and symmetric; uint8: for the tensor, around a zero point of its own."""
    rng = np.random.default_rng(seed)
    if kind == "uint8":
        return Tensor("w", shape, "uint8", rng.integers(0, 256, shape), scale=0.003, zero=125)
    scales = rng.uniform(0.002, 0.004, shape[axis]).astype("f4")
    return Tensor("w", shape, "int8", rng.integers(-127, 128, shape), scale=scales, axis=axis)


def bias(source: Tensor, weight: Tensor, channels: int, seed: int, stated: bool = True) -> Tensor:
    rng = np.random.default_rng(seed)
    unit = np.float32(source.scale) * np.atleast_1d(np.asarray(weight.scale, np.float32))
    kind = "int64" if source.dtype == "int16" else "int32"
    values = rng.integers(-3000, 3000, channels)
    return Tensor("b", (channels,), kind, values, scale=unit if stated else None)


def integers(each: Tensor, seed: int) -> np.ndarray:
    least, most = LIMITS[each.dtype]
    return np.random.default_rng(seed).integers(least, most + 1, each.shape).astype(each.dtype)


def read(data: bytes, folder: Path, settings: CompileOptions | None = None) -> QuantizedModel:
    (folder / "m.tflite").write_bytes(data)
    return quantize_model(folder / "m.tflite", settings or options_of(TargetOptions()), Stages())


def results(quantized: QuantizedModel, feeds: dict[Tensor, np.ndarray], out: Tensor) -> np.ndarray:
    """The integers of an output for those of the inputs."""
    real = {
        spec.name: ((feed.astype("f8") - each.zero) * each.scale).astype("f4")
        for spec, (each, feed) in zip(quantized.model.inputs, feeds.items(), strict=True)
    }
    (value,) = run_model(quantized, real).values()
    return np.rint(value.astype("f8") / np.float32(out.scale)) + out.zero


def rounded(sums: np.ndarray, source: Tensor, weight: Tensor, out: Tensor, clamp: bool = False) -> np.ndarray:
    """Exact sums over the output's scale, rounded once, halves to even; ``clamp``: a Relu."""
    ratio = np.float32(source.scale) * np.asarray(weight.scale, np.float32) / np.float32(out.scale)
    least, most = LIMITS[out.dtype]
    return np.clip(np.rint(sums * ratio.astype("f8")) + out.zero, max(least, out.zero) if clamp else least, most)


def windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """[N, H, W, size, size, C] of centred integers padded as TFLite's SAME does."""
    out = -(-x.shape[1] // stride)
    total = max(0, (out - 1) * stride + size - x.shape[1])
    padded = np.pad(x, ((0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    return view.transpose(0, 1, 2, 4, 5, 3)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("kind", LIMITS)
def test_conv(kind: str, stated: bool, tmp_path: Path) -> None:
    """Exact, with a fused Relu; the bias has the product of the scales, whether or not the file says so."""
    x, out = tensor("x", PLANE, kind), tensor("y", (1, 6, 6, 5), kind, 2.4)
    w = weights(kind, (5, 3, 3, 4), 0, 1)
    b = bias(x, w, 5, 2, stated)
    op = Operator(
        "CONV_2D", ["x", "w", "b"], ["y"], options("Conv2DOptions", StrideW=1, StrideH=1, FusedActivationFunction=1)
    )
    quantized = read(written([x, w, b, out], [op], ["x"], ["y"]), tmp_path)
    assert not quantized.unquantized
    (bits,) = quantized.plan.values()
    assert bits.weight_bits == (16 if kind == "uint8" else 8)  # around 125 they need 9
    assert bits.activation_bits == (16 if kind == "int16" else 8)
    feed = integers(x, 3)
    centred = windows(feed.astype("i8") - x.zero, 3, 1)
    sums = np.einsum("nhwijc,oijc->nhwo", centred, w.value.astype("i8") - w.zero) + b.value
    assert np.array_equal(results(quantized, {x: feed}, out), rounded(sums, x, w, out, clamp=True))


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("kind", LIMITS)
def test_depthwise(kind: str, multiplier: int, tmp_path: Path) -> None:
    x, out = tensor("x", PLANE, kind), tensor("y", (1, 3, 3, 4 * multiplier), kind)
    w = weights(kind, (1, 3, 3, 4 * multiplier), 3, 4)
    op = Operator(
        "DEPTHWISE_CONV_2D", ["x", "w"], ["y"],
        options("DepthwiseConv2DOptions", StrideW=2, StrideH=2, DepthMultiplier=multiplier),
    )  # fmt: skip
    quantized = read(written([x, w, out], [op], ["x"], ["y"]), tmp_path)
    assert not quantized.unquantized
    feed = integers(x, 5)
    centred = np.repeat(windows(feed.astype("i8") - x.zero, 3, 2), multiplier, axis=-1)
    sums = np.einsum("nhwijc,ijc->nhwc", centred, (w.value.astype("i8") - w.zero)[0])
    assert np.array_equal(results(quantized, {x: feed}, out), rounded(sums, x, w, out))


@pytest.mark.parametrize("shape", [(2, 24), (1, 2, 3, 4)])
@pytest.mark.parametrize("kind", LIMITS)
def test_fully_connected(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Of rows, and of planes that it makes rows itself."""
    x, w = tensor("x", shape, kind), weights(kind, (5, 24), 0, 6)
    rows = int(np.prod(shape)) // 24
    b, out = bias(x, w, 5, 7), tensor("y", (rows, 5), kind, 1.6)
    op = Operator("FULLY_CONNECTED", ["x", "w", "b"], ["y"], fully_connected)
    quantized = read(written([x, w, b, out], [op], ["x"], ["y"]), tmp_path)
    assert not quantized.unquantized
    feed = integers(x, 8)
    sums = (feed.astype("i8") - x.zero).reshape(rows, 24) @ (w.value.astype("i8") - w.zero).T + b.value
    assert np.array_equal(results(quantized, {x: feed}, out), rounded(sums, x, w, out))


def network(kind: str = "int8", step: float = 1.0) -> tuple[list[Tensor], list[Operator], np.ndarray]:
    """CONV_2D with SAME pads, ADD of its own input, MAX_POOL_2D and FULLY_CONNECTED, from integers to integers; and its input."""
    x, a, s = tensor("x", PLANE, kind), tensor("a", PLANE, kind, 1.8), tensor("s", PLANE, kind, 2.0)
    w = weights(kind, (4, 3, 3, 4), 0, 9)
    p, m, out = tensor("p", (1, 3, 3, 4), kind, 2.0), weights(kind, (5, 36), 0, 10), tensor("y", (1, 5), kind, 4.0)
    m = Tensor("m", m.shape, m.dtype, m.value, scale=m.scale, zero=m.zero)
    operators = [
        Operator("CONV_2D", ["x", "w"], ["a"], options("Conv2DOptions", StrideW=1, StrideH=1)),
        Operator("ADD", ["a", "x"], ["s"], options("AddOptions", FusedActivationFunction=1)),
        Operator(
            "MAX_POOL_2D", ["s"], ["p"], options("Pool2DOptions", FilterWidth=2, FilterHeight=2, StrideW=2, StrideH=2)
        ),
        Operator("FULLY_CONNECTED", ["p", "m"], ["y"], fully_connected),
    ]
    return [x, w, a, s, p, m, out], operators, integers(x, 11)


@pytest.mark.wide
@pytest.mark.parametrize("kind", LIMITS)
def test_a_network_on_the_machine(kind: str, tmp_path: Path) -> None:
    """From integers to integers, all of it on the accelerator, each layer exact."""
    tensors, operators, feed = network(kind)
    (tmp_path / "m.tflite").write_bytes(written(tensors, operators, ["x"], ["y"]))
    module = qaccel.compile(tmp_path / "m.tflite", model_format="tflite")
    assert macs_on_the_cpu(module) == {} and not module.report["fallback"]
    (got,) = module.run({"x": feed}).values()
    assert got.dtype == np.dtype(kind)
    x, w, a, s, p, m, out = tensors
    centred = feed.astype("i8") - x.zero
    sums = np.einsum("nhwijc,oijc->nhwo", windows(centred, 3, 1), w.value.astype("i8") - w.zero)
    first = rounded(sums, x, w, a) - a.zero
    least, most = LIMITS[kind]
    added = (first * np.float64(a.scale) + centred * np.float64(x.scale)) / np.float64(s.scale)
    joined = np.clip(np.rint(added) + s.zero, max(least, s.zero), most) - s.zero
    pooled = windows(joined, 2, 2).max((3, 4)).reshape(1, -1)
    wanted = rounded(pooled @ (m.value.astype("i8") - m.zero).reshape(5, -1).T, p, m, out)
    assert np.array_equal(got, wanted)


def test_four_bits(tmp_path: Path) -> None:
    x, out = tensor("x", (1, 7), "int8"), tensor("y", (1, 3), "int8")
    w = Tensor("w", (3, 7), "int4", np.random.default_rng(12).integers(-8, 8, (3, 7)), scale=[0.1, 0.2, 0.15])
    op = Operator("FULLY_CONNECTED", ["x", "w"], ["y"], fully_connected)
    quantized = read(written([x, w, out], [op], ["x"], ["y"]), tmp_path)
    assert [bits.weight_bits for bits in quantized.plan.values()] == [4] and not quantized.unquantized
    feed = integers(x, 13)
    sums = (feed.astype("i8") - x.zero) @ w.value.T
    assert np.array_equal(results(quantized, {x: feed}, out), rounded(sums, x, w, out))


def test_weights_alone(tmp_path: Path) -> None:
    """Dynamic range quantization: the weights keep their integers, activations are calibrated."""
    x, out, w = Tensor("x", (1, 24)), Tensor("y", (1, 5)), weights("int8", (5, 24), 0, 14)
    data = written([x, w, out], [Operator("FULLY_CONNECTED", ["x", "w"], ["y"], fully_connected)], ["x"], ["y"])
    feed = np.random.default_rng(15).normal(size=(64, 24)).astype("f4")
    quantized = read(data, tmp_path, options_of(TargetOptions(), calibration_data={"x": feed}))
    assert any("keep the integers that they came with" in note for note in quantized.notes)
    (got,) = run_model(quantized, {"x": feed}).values()
    wanted = feed @ (w.value * w.scale[:, None]).T
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


def test_a_shared_bias_has_the_scales_of_each_layer(tmp_path: Path) -> None:
    x, y = tensor("x", PLANE, "int8"), tensor("y", PLANE, "int8", 2.0)
    z, w = tensor("z", PLANE, "int8", 3.0), weights("int8", (4, 1, 1, 4), 0, 16)
    b = Tensor("b", (4,), "int32", np.array([3000, -3000, 2000, 0]))
    plain = options("Conv2DOptions", StrideW=1, StrideH=1)
    operators = [Operator("CONV_2D", [source, "w", "b"], [made], plain) for source, made in ("xy", "yz")]
    quantized = read(written([x, y, z, w, b], operators, ["x"], ["z"]), tmp_path)
    feed = integers(x, 17)
    value = feed
    for source, out in ((x, y), (y, z)):
        sums = (value.astype("i8") - source.zero) @ w.value[:, 0, 0].T + b.value
        value = rounded(sums, source, w, out)
    assert np.array_equal(results(quantized, {x: feed}, z), value)


def test_prelu_keeps_its_slopes(tmp_path: Path) -> None:
    """Behind a layer, where channels come first on the way: on the accelerator."""
    x, y = tensor("x", PLANE, "int8"), tensor("y", PLANE, "int8", 2.0)
    z, w = tensor("z", PLANE, "int8", 2.0), weights("int8", (4, 1, 1, 4), 0, 18)
    a = Tensor("a", (1, 1, 4), "int8", np.array([[[100, 50, 1, -20]]]), scale=0.0047)
    operators = [
        Operator("CONV_2D", ["x", "w"], ["y"], options("Conv2DOptions", StrideW=1, StrideH=1)),
        Operator("PRELU", ["y", "a"], ["z"]),
    ]
    quantized = read(written([x, y, z, w, a], operators, ["x"], ["z"]), tmp_path)
    assert not quantized.unquantized
    feed = integers(x, 19)
    first = rounded((feed.astype("i8") - x.zero) @ w.value[:, 0, 0].T, x, w, y) - y.zero
    steps = np.where(first >= 0, first, first * a.value * np.float64(np.float32(a.scale)))
    wanted = np.clip(np.rint(steps) + z.zero, *LIMITS["int8"])
    assert np.array_equal(results(quantized, {x: feed}, z), wanted)


def refused(tensors: list[Tensor], operator: Operator, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read(written(tensors, [operator], ["x"], ["y"]), folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    x, out = tensor("x", (1, 24), "int8"), tensor("y", (1, 5), "int8")
    layer = Operator("FULLY_CONNECTED", ["x", "w", "b"], ["y"], fully_connected)
    w, b = weights("int8", (5, 24), 0, 1), Tensor("b", (5,), "int64", np.full(5, 1 << 40))
    assert "bias 'b' reaches 1099511627776" in refused([x, w, b, out], layer, tmp_path)
    none = Operator("FULLY_CONNECTED", ["x", "w"], ["y"], fully_connected)
    odd = Tensor("w", (5, 24), "int8", w.value, scale=np.ones(4))
    assert "tensor 'w': 4 scales along axis 0 of [5, 24] do not fit" in refused([x, odd, out], none, tmp_path)
    dead = Tensor("w", (5, 24), "int8", w.value, scale=[1, 1, 0, 1, 1])
    assert "tensor 'w': its scale is 0; scales are positive" in refused([x, dead, out], none, tmp_path)
    raw = Operator("CAST", ["x"], ["y"], options("CastOptions"))
    assert "operator CAST computes with the integers of quantized tensor 'x'" in refused(
        [x, Tensor("y", (1, 24))], raw, tmp_path
    )


def test_bits_are_not_asked_for(tmp_path: Path) -> None:
    tensors, operators, feed = network()
    data = written(tensors, operators, ["x"], ["y"])
    with pytest.raises(UserError, match="came quantized and keeps its own bits"):
        read(data, tmp_path, options_of(TargetOptions(), bits=8))
    again = read(data, tmp_path, options_of(TargetOptions(), bits=16, requantize=True))
    assert {bits.activation_bits for bits in again.plan.values()} == {16}


# Operator, its input's and output's step, and options; one input, and the shape stays.
ALONE = {
    "RELU6": (1.0, 0.6, None), "LOGISTIC": (1.0, None, None), "TANH": (1.0, None, None), "HARD_SWISH": (1.0, 1.0, options("HardSwishOptions")),
    "LEAKY_RELU": (1.0, 0.9, options("LeakyReluOptions", Alpha=0.1)), "QUANTIZE": (1.0, 0.7, None),
    "SOFTMAX": (1.0, None, options("SoftmaxOptions", Beta=1.0)), "L2_NORMALIZATION": (1.0, None, options("L2NormOptions")),
}  # fmt: skip
# What TFLite's kernels demand of their outputs: scale and zero point.
DEMANDED = {
    "LOGISTIC": (1 / 256, -128),
    "TANH": (1 / 128, 0),
    "SOFTMAX": (1 / 256, -128),
    "L2_NORMALIZATION": (1 / 128, 0),
}


@pytest.mark.skipif(not BESIDE, reason="ai-edge-litert is not installed")
@pytest.mark.parametrize("name", ALONE)
def test_beside_the_reference_kernels(name: str, tmp_path: Path) -> None:
    """One step off at most: TFLite rounds halves away from zero, and here and there twice."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    source, result, write = ALONE[name]
    x = tensor("x", PLANE, "int8", source)
    scale, zero = DEMANDED.get(name, (STEP["int8"] * (result or 1), ZERO["int8"]))
    out = Tensor("y", PLANE, "int8", scale=scale, zero=zero)
    data = written([x, out], [Operator(name, ["x"], ["y"], write)], ["x"], ["y"])
    runtime = Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1)
    runtime.allocate_tensors()
    feed = integers(x, 20)
    runtime.set_tensor(runtime.get_input_details()[0]["index"], feed)
    runtime.invoke()
    wanted = runtime.get_tensor(runtime.get_output_details()[0]["index"]).astype(int)
    off = np.abs(results(read(data, tmp_path), {x: feed}, out) - wanted)
    assert off.max() <= 1 and (off == 0).mean() >= 0.9


def test_layers_have_the_names_of_the_file(tmp_path: Path) -> None:
    """Of a fused operator the first of the names that TFLite joins; two layers of one name are told apart by a number."""
    x, middle, out = (
        tensor(n, PLANE, "int8", s) for n, s in (("x", 1.0), ("net/a/Relu;net/a/BiasAdd", 2.0), ("net/a/Relu", 3.0))
    )
    named = [weights("int8", (4, 3, 3, 4), 0, seed) for seed in (1, 2)]
    second = Tensor(**{**vars(named[1]), "name": "v"})
    built = options("Conv2DOptions", StrideW=1, StrideH=1, FusedActivationFunction=1)
    ops = [
        Operator("CONV_2D", ["x", "w"], [middle.name], built),
        Operator("CONV_2D", [middle.name, "v"], [out.name], built),
    ]
    quantized = read(written([x, named[0], middle, second, out], ops, ["x"], [out.name]), tmp_path)
    assert list(quantized.plan) == ["net/a/Relu", "net/a/Relu1"]
