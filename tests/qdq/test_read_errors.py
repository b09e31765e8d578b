"""What is wrong with a quantized model is said in one line that names the node; what the machine has not runs on the CPU."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import qaccel
from cases.nets import Net, scalar
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.executor import execute
from qaccel.emulate.integers import run_model
from qaccel.errors import UserError
from qaccel.options import TargetOptions, options_of
from qaccel.pipeline import quantize_model
from qaccel.stages import Stages
from qdq.networks import every_tensor

X = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype("f4")
W = np.random.default_rng(1).integers(-127, 128, (4, 4, 3, 3)).astype("i1")
Z = np.array(3, "i1")


def read(model: onnx.ModelProto, **options: object) -> QuantizedModel:
    return quantize_model(model, options_of(TargetOptions(), **options), Stages())


def pair(net: Net, x: str, scale: object = 0.05, zero: np.ndarray = Z, out: str = "", **attributes: object) -> str:
    s = np.asarray(scale, "f4")
    return net("DequantizeLinear", net("QuantizeLinear", x, s, zero, **attributes), s, zero, out=out, **attributes)


def conv(net: Net, x: str, weight: str = "", out: str = "y") -> None:
    w = weight or net("DequantizeLinear", W, scalar(0.01))
    pair(net, net("Conv", x, w, pads=[1] * 4), 0.2, out=out)


def model_of(build: Callable[[Net], None], opset: int = 21, inputs: dict | None = None) -> onnx.ModelProto:
    net = Net(opset, 10)
    build(net)
    return net.model(inputs or {"x": [1, 4, 6, 6]}, {"y": [1, 4, 6, 6]})


def _contradiction(net: Net) -> None:
    q = net("QuantizeLinear", "x", scalar(0.05), Z)
    conv(net, net("DequantizeLinear", q, scalar(0.06), Z))


def _other_zero_point(net: Net) -> None:
    q = net("QuantizeLinear", "x", scalar(0.05), Z)
    conv(net, net("DequantizeLinear", q, scalar(0.05), np.array(4, "i1")))


def _computed_scale(net: Net) -> None:
    scale = net("ReduceMax", net("Abs", "x"), keepdims=0)
    conv(net, net("DequantizeLinear", net("QuantizeLinear", "x", scale, Z), scale, Z))


def _axis(net: Net) -> None:
    conv(net, pair(net, "x"), net("DequantizeLinear", W, np.full(3, 0.01, "f4"), axis=0))


def _axis_beyond(net: Net) -> None:
    conv(net, pair(net, "x"), net("DequantizeLinear", W, np.full(4, 0.01, "f4"), axis=5))


def _bias_zero_point(net: Net) -> None:
    bias = net("DequantizeLinear", np.ones(4, "i4"), scalar(0.0005), np.array(1, "i4"))
    w = net("DequantizeLinear", W, scalar(0.01))
    pair(net, net("Conv", pair(net, "x"), w, bias, pads=[1] * 4), 0.2, out="y")


def _integer_arithmetic(net: Net) -> None:
    q = net("QuantizeLinear", "x", scalar(0.05), Z)
    net("DequantizeLinear", net("Add", q, q), scalar(0.05), Z, out="y")


def _float8(net: Net) -> None:
    conv(net, pair(net, "x", zero=np.array(0, ml_dtypes.float8_e4m3fn)))


def _unknown(net: Net) -> None:
    net("DynamicQuantizeMatMul", "x", W[0, 0], scalar(0.01), out="y", domain="com.microsoft")


WRONG = {
    "contradictory scales": (_contradiction, "dequantizelinear1.*scale 0.06.*contradicts scale 0.05"),
    "contradictory zero points": (_other_zero_point, "zero point 4.*contradicts.*zero point 3"),
    "scale of 0": (lambda net: conv(net, pair(net, "x", 0.0)), "quantizelinear0.*scale is 0"),
    "scale NaN": (lambda net: conv(net, pair(net, "x", np.nan)), "quantizelinear0.*scale is nan"),
    "negative scale": (lambda net: conv(net, pair(net, "x", -1.0)), "quantizelinear0.*scale is -1"),
    "computed scale": (_computed_scale, "computed when the model runs"),
    "too few scales": (_axis, "3 scales along axis 0, which has 4 channels"),
    "axis beyond the tensor": (_axis_beyond, "axis is 5"),
    "bias with a zero point": (_bias_zero_point, "zero point is 1.*0 alone"),
    "arithmetic on integers": (_integer_arithmetic, "add1.*computes with the integers"),
    "floats of 8 bits": (_float8, "quantizelinear0.*FLOAT8E4M3FN.*4, 8, 16 bits.*quantize the float model with such"),
    "unknown operator": (_unknown, "DynamicQuantizeMatMul.*quantize the float model statically"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_one_line(name: str) -> None:
    build, message = WRONG[name]
    with pytest.raises(UserError, match=message) as error:
        read(model_of(build))
    assert "\n" not in str(error.value)


def _unpaired(net: Net) -> None:
    pair(
        net,
        net("Sigmoid", net("Conv", pair(net, "x"), net("DequantizeLinear", W, scalar(0.01)), pads=[1] * 4)),
        out="y",
    )


def _real_weights(net: Net) -> None:
    conv(net, pair(net, "x"), net.const(W.astype("f4")))


def _blocks(net: Net) -> None:
    scales = np.linspace(0.01, 0.02, 8, dtype="f4").reshape(4, 2, 1, 1) * np.ones((1, 1, 3, 3), "f4")
    conv(net, pair(net, "x"), net("DequantizeLinear", W, scales, axis=1, block_size=2))


def _computed_weights(net: Net) -> None:
    w = net("Expand", net("ReduceMean", "x", keepdims=1), np.array([4, 4, 3, 3]))
    conv(net, pair(net, "x"), pair(net, w, 0.01))


def _activation_by_channel(net: Net) -> None:
    conv(net, pair(net, "x", np.array([0.05, 0.06, 0.07, 0.08]), np.full(4, 3, "i1"), axis=1))


def _wide_zero_point(net: Net) -> None:
    points = np.array(-32768, "i2")
    w = net("DequantizeLinear", (W.astype("i2") * 200), scalar(0.0001), points)
    conv(net, pair(net, "x"), w)


ISLANDS = {
    "no pair behind": (_unpaired, "output is not quantized"),
    "real weights": (_real_weights, "weights are not quantized"),
    "blocks": (_blocks, r"block-wise scales \(blocks of 2\)"),
    "weights at run time": (_computed_weights, "weights are computed"),
    "activations by channel": (_activation_by_channel, "input .* is not quantized"),
    "zero points beyond 16 bits": (_wide_zero_point, "zero point -32768 do not fit 16 bits"),
}  # fmt: skip


@pytest.mark.parametrize("name", ISLANDS)
def test_float_islands(name: str) -> None:
    """On the CPU, with the reason, and as ONNX Runtime has it."""
    build, reason = ISLANDS[name]
    model = model_of(build)
    q = read(model)
    reasons = {op: text for _, op, text in q.unquantized}
    assert "Conv" in reasons, reasons
    import re

    assert re.search(reason, reasons["Conv"]), reasons["Conv"]
    wanted = every_tensor(model, X)["y"]
    got = run_model(q, {"x": X})["y"]
    off = np.abs(got - wanted) / (0.05 if name == "no pair behind" else 0.2)
    # At one pixel a float32 sum may lie at a tie, where its order decides; computed weights are the same for all four channels.
    assert off.max() <= 1.001 and (off > 0.5).any(axis=1).sum() <= 1


@pytest.mark.parametrize(("kind", "zero"), [("u2", 0), ("i2", 5), ("i2", -32768)])
def test_16_bits_around_another_zero_point_are_said(kind: str, zero: int) -> None:
    """The machine has none there: everything is on the CPU, as ONNX Runtime has it, and a note says why and what to do."""

    def build(net: Net) -> None:
        point = np.array(zero, kind)
        conv_ = net("Conv", pair(net, "x", 1e-4, point), net("DequantizeLinear", W, scalar(0.01)), pads=[1] * 4)
        pair(net, conv_, 2e-4, point, out="y")

    model = model_of(build)
    module = qaccel.compile(model)
    name, middle = {"u2": ("uint16", 32768), "i2": ("int16", 0)}[kind]
    (note,) = module.notes
    assert note == (
        "no operator runs on the accelerator; the whole network is on the CPU: node 'conv3' (Conv): 'quantizelinear0' quantizes to "
        f"{name} with zero point {zero}, and the machine has {middle} there: quantize activations symmetrically (ActivationSymmetric "
        "in ONNX Runtime); quantize the model as the reason says, or let --requantize take it as the float model that it stands for"
    )
    off = np.abs(module.run({"x": X})["y"] - every_tensor(model, X)["y"]) / 2e-4
    assert off.max() <= 1.01 and (off > 0.5).mean() < 0.01


def test_a_layer_on_the_cpu_is_said() -> None:
    """Beside others on the accelerator: how much of the work, and why."""

    def build(net: Net) -> None:
        x = pair(net, "x")
        inner = pair(net, net("Conv", x, net("DequantizeLinear", W, scalar(0.01)), pads=[1] * 4), 0.2)
        pair(net, net("Conv", inner, net.const(W.astype("f4")), pads=[1] * 4), 20, out="y")

    module = qaccel.compile(model_of(build))
    assert [layer.macs for layer in module.report.layers if layer.macs] == [4 * 4 * 9 * 36]
    (note,) = module.notes
    assert note.startswith("5,184 MACs run on the CPU: node 'conv6' (Conv): its weights are not quantized")


def test_bits_stay_unless_requantized() -> None:
    model = model_of(lambda net: conv(net, pair(net, "x")))
    with pytest.raises(UserError, match="keeps its own bits.*--requantize"):
        read(model, bits=4)
    again = read(model, bits="W4A8", calibration_data={"x": X}, requantize=True)
    assert {str(bits) for bits in again.plan.values()} == {"W4A8"}
    assert again.model.given is None


@pytest.mark.parametrize("opset", [10, 13, 21])
def test_a_relu_that_was_left_to_saturation_stays(opset: int) -> None:
    """ONNX Runtime's quantizer takes Relu and Relu6 away where the integers behind them begin at zero."""

    def build(net: Net) -> None:
        sums = net("Conv", pair(net, "x"), net("DequantizeLinear", W, scalar(0.01)), pads=[1] * 4, out="sums")
        pair(net, sums, 0.02, np.array(-128, "i1"), out="y")

    def alone(net: Net) -> None:
        net("Conv", "x", net("DequantizeLinear", W, scalar(0.01)), pads=[1] * 4, out="y")

    real = read(model_of(build, opset), bits=16, calibration_data={"x": X}, requantize=True)
    sums = every_tensor(model_of(alone, opset), X)["y"]
    assert (sums < -0.1).any() and (sums > 5.2).any()
    np.testing.assert_allclose(run_model(real, {"x": X})["y"], np.clip(sums, 0, 255 * 0.02), atol=0.005)


@pytest.mark.parametrize("maker", ["BatchNormalization", "Concat", "Sub", "MaxPool"])
def test_a_relu_behind_any_maker_stays(maker: str) -> None:
    """Whatever makes what was clamped. Behind that, what gives no negative value is not clamped again."""

    def sums_of(net: Net, x: str) -> str:
        if maker == "BatchNormalization":
            channels = [
                np.linspace(low, high, 4, dtype=np.float32) for low, high in ((0.5, 2), (-1, 1), (0, 0.5), (1, 2))
            ]
            return net("BatchNormalization", x, *channels)
        if maker == "Concat":
            return net("Concat", x, x, axis=1)
        return net("Sub", x, np.float32(0.5)) if maker == "Sub" else net("MaxPool", x, kernel_shape=[2, 2])

    def build(net: Net) -> None:
        clamped = pair(net, sums_of(net, pair(net, "x", 0.02)), 0.02, np.array(-128, "i1"))
        pair(net, net("AveragePool", clamped, kernel_shape=[2, 2]), 0.02, np.array(-128, "i1"), out="y")

    def alone(net: Net) -> None:
        net("Identity", sums_of(net, "x"), out="y")

    sums = every_tensor(model_of(alone, 17), X)["y"]
    assert (sums < -0.1).any()
    model = read(model_of(build, 17), bits=16, calibration_data={"x": X}, requantize=True).model
    assert sum(each.op_type == "Clip" for each in model.operators) == 1
    clamped = np.clip(sums, 0, 255 * 0.02)
    expected = (
        sum(clamped[:, :, i : i + clamped.shape[2] - 1, j : j + clamped.shape[3] - 1] for i in (0, 1) for j in (0, 1))
        / 4
    )
    np.testing.assert_allclose(execute(model, {"x": X})["y"], expected, atol=1e-5)


@pytest.mark.parametrize("zero", [0, -100, 90])
@pytest.mark.parametrize("maker", ["Conv", "Add", "BatchNormalization", "HardSwish"])
def test_a_clip_to_any_bounds_that_was_left_to_saturation_stays(maker: str, zero: int) -> None:
    """A Clip that does not begin at zero is known by the samples, which go far beyond its integers; where they do not, there is none.
    For the CPU in float, which sees no samples, the integers' ends are the network's."""

    def sums_of(net: Net, x: str) -> str:
        if maker == "Conv":
            return net("Conv", x, net("DequantizeLinear", W, scalar(0.01)), pads=[1] * 4)
        if maker == "BatchNormalization":
            return net("BatchNormalization", x, *(np.full(4, value, np.float32) for value in (1.5, 0.2, 0.1, 1)))
        return net("HardSwish", x) if maker == "HardSwish" else net("Add", x, np.float32(0.3))

    def build(scale: float) -> Callable[[Net], None]:
        def pairs(net: Net) -> None:
            pair(net, sums_of(net, pair(net, "x", 0.05)), scale, np.array(zero, "i1"), out="y")

        return pairs

    def alone(net: Net) -> None:
        net("Identity", sums_of(net, "x"), out="y")

    sums = every_tensor(model_of(alone, 17), X)["y"]
    lo, hi = (-128 - zero) * 0.004, (127 - zero) * 0.004
    assert (sums < 2 * lo).any() or (sums > 2 * hi).any()
    for scale, ends in ((0.004, (lo, hi)), (1.0, (-np.inf, np.inf))):
        made = model_of(build(scale), 17)
        model = read(made, bits=16, calibration_data={"x": X}, requantize=True).model
        assert sum(each.op_type == "Clip" for each in model.operators) == (scale == 0.004)
        np.testing.assert_allclose(execute(model, {"x": X})["y"], np.clip(sums, *ends), atol=1e-5)
    module = qaccel.compile(model_of(build(0.004), 17), target="llvm", requantize=True)
    np.testing.assert_allclose(module.run({"x": X})["y"], np.clip(sums, lo, hi), atol=1e-4)


@pytest.mark.parametrize("below", [0.0, -1.0], ids=["Relu", "Clip"])
def test_an_end_that_no_sample_passes_is_no_clamp(below: float) -> None:
    """Where a clamp below was left to saturation, and the integers end above with the samples: larger samples go on."""

    def alone(net: Net) -> None:
        net("Conv", "x", net("DequantizeLinear", W, scalar(0.01)), pads=[1] * 4, out="y")

    sums = every_tensor(model_of(alone, 17), X)["y"]
    scale = (sums.max() - below) / 255
    zero = np.array(round(-128 - below / scale), "i1")
    lo, hi = (np.array([-128, 127]) - zero) * scale
    assert (sums < lo - (hi - lo) / 4).any()

    def build(net: Net) -> None:
        made = net("Conv", pair(net, "x", 0.1), net("DequantizeLinear", W, scalar(0.01)), pads=[1] * 4)
        pair(net, made, scale, zero, out="y")

    model = read(model_of(build, 17), bits=16, calibration_data={"x": X}, requantize=True).model
    larger = every_tensor(model_of(alone, 17), 2 * X)["y"]
    assert (larger > 1.5 * hi).any()
    np.testing.assert_allclose(execute(model, {"x": 2 * X})["y"], np.maximum(larger, lo), atol=1e-5)


def test_a_pair_shared_doubled_and_moved() -> None:
    """Two readers of one DequantizeLinear, two pairs in a row, and moves between Q and DQ, on integers."""

    def build(net: Net) -> None:
        s, z = scalar(0.05), Z
        q = net("QuantizeLinear", "x", s, z)
        turned = net("Transpose", q, perm=[0, 1, 3, 2])
        real = net("DequantizeLinear", net("MaxPool", turned, kernel_shape=[3, 3], pads=[1] * 4), s, z)
        again = pair(net, real, 0.07, np.array(-9, "i1"))
        pair(net, net("Add", again, real), 0.1, out="y")

    model = model_of(build)
    q = read(model)
    assert not q.unquantized
    np.testing.assert_allclose(run_model(q, {"x": X})["y"], every_tensor(model, X)["y"], atol=1e-5)


def test_integers_below_the_width_of_the_machine() -> None:
    """Five bits in eight, three in four: the Clip stays, in either sign."""

    def build(net: Net) -> None:
        def clipped(x: str, lo: int, hi: int, kind: str, zero: int, out: str = "") -> str:
            s, z = scalar(0.2), np.array(zero, kind)
            q = net("Clip", net("QuantizeLinear", x, s, z), np.array(lo, kind), np.array(hi, kind))
            return net("DequantizeLinear", q, s, z, out=out)

        five = clipped("x", -15, 15, "i1", 0)
        clipped(net("Add", five, clipped("x", 0, 7, "u1", 3)), 1, 6, "u1", 3, "y")

    model = model_of(build)
    q = read(model)
    assert not q.unquantized
    np.testing.assert_allclose(run_model(q, {"x": X * 3})["y"], every_tensor(model, X * 3)["y"], atol=1e-6)


def test_narrow_types_at_both_ends_of_a_weight() -> None:
    """UINT4 around 7 takes weights to 8: the next width."""

    def build(net: Net) -> None:
        values = np.random.default_rng(2).integers(0, 16, (4, 4, 3, 3))
        values.flat[0] = 15
        for key, array in (("w4", values), ("z4", np.array(7))):
            net.consts.append(helper.make_tensor(key, TensorProto.UINT4, array.shape, array.ravel().tolist()))
        conv(net, pair(net, "x"), net("DequantizeLinear", "w4", scalar(0.02), "z4"))

    q = read(model_of(build))
    assert {str(bits) for bits in q.plan.values()} == {"W8A8"}
