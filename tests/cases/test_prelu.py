"""PRelu in two passes: its product on per-channel weights, then the greater or the smaller of that and its input."""

import numpy as np
import onnx
import onnxruntime
import pytest

import qaccel
from cases.nets import Net, decibels, floats, macs_on_the_cpu, normal, outputs, weights

pytestmark = pytest.mark.wide  # whole compilations

SLOPES = {"flat": (-0.2, 0.9), "steep": (1.1, 1.9), "mixed": (0.2, 1.7)}
CALIBRATION = {"x": normal(3, 24, 24, samples=8, seed=1)}
TEST = {"x": normal(3, 24, 24, samples=4, seed=2)}


def three_convs(slopes: tuple[float, float] | None, per_pixel: bool = False) -> onnx.ModelProto:
    """Convolutions 3 -> 16 -> 32 -> 32 at 24x24 pixels, each with a PRelu, or a Relu where there are no slopes."""
    net, tensor = Net(), "x"
    for index, (channels, out) in enumerate(((3, 16), (16, 32), (32, 32))):
        tensor = net("Conv", tensor, weights(out, channels, 3, 3, gain=1.4), pads=[1] * 4)
        last = "y" if index == 2 else ""
        if slopes is None:
            tensor = net("Relu", tensor, out=last)
        else:
            size = (out, 24, 24) if per_pixel else (out, 1, 1)
            tensor = net("PRelu", tensor, np.random.default_rng(index).uniform(*slopes, size).astype("f4"), out=last)
    return net.model({"x": [1, 3, 24, 24]}, {"y": [1, 32, 24, 24]})


@pytest.mark.parametrize("slopes", SLOPES)
def test_takes_two_passes(slopes: str) -> None:
    relu = qaccel.compile(three_convs(None), calibration_data=CALIBRATION, bits=8)
    model = three_convs(SLOPES[slopes])
    module = qaccel.compile(model, calibration_data=CALIBRATION, bits=8)
    assert not macs_on_the_cpu(module)
    assert module.report["cycles"] <= 1.25 * relu.report["cycles"]
    got = outputs(module, TEST)
    assert decibels(floats(model, TEST), got) >= 28
    cpu = qaccel.compile(model, calibration_data=CALIBRATION, bits=8, target="llvm")
    np.testing.assert_array_equal(outputs(cpu, TEST), got)


@pytest.mark.parametrize("bits", ["W4A4", "W8A8"])
def test_slopes_of_every_pixel_and_of_4_bits(bits: str) -> None:
    """Where neighbours of 4 bits share a byte, or a channel has slopes below and above 1, both are computed and picked from."""
    model = three_convs(SLOPES["mixed"], per_pixel=bits == "W8A8")
    made = {
        target: outputs(qaccel.compile(model, calibration_data=CALIBRATION, bits=bits, target=target), TEST)
        for target in ("qaccel", "llvm")
    }
    np.testing.assert_array_equal(made["llvm"], made["qaccel"])
    assert decibels(floats(model, TEST), made["llvm"]) >= (28 if bits == "W8A8" else 3)


def test_the_qdq_file_says_the_same(tmp_path) -> None:
    path = tmp_path / "qdq.onnx"
    module = qaccel.compile(three_convs(SLOPES["mixed"]), calibration_data=CALIBRATION, bits=8, emit_qdq=path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": each[None]})[0] for each in TEST["x"]])
    got = outputs(module, TEST).reshape(wanted.shape)
    step = np.diff(np.unique(got)).min()
    off = np.rint((got - wanted) / step)
    assert (
        np.abs(off).max() <= 1 and (off != 0).mean() <= 2e-4
    )  # behind three layers; each rounds a tie as float32 does
