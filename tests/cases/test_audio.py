"""Audio front ends: magnitude, power and logarithm of a spectrum, mel bands and cepstra, on the accelerator at both widths."""

import numpy as np
import onnx
import pytest
from onnx import helper

import qaccel
from cases.nets import BITS, Net, decibels, floats, info, ints, macs_on_the_cpu, normal, outputs, scalar, weights

pytestmark = pytest.mark.wide  # whole compilations, one for each member of a family

SIZE, HOP, BINS, BANDS, SAMPLES = 64, 32, 33, 12, 512


def _spectrum(net):
    """[1, 2 * BINS, frames]: real parts, then imaginary ones."""
    angle = 2 * np.pi / SIZE * np.outer(np.arange(BINS), np.arange(SIZE))
    basis = np.concatenate([np.cos(angle), -np.sin(angle)]) * np.hanning(SIZE + 1)[:SIZE]
    return net("Conv", "x", basis[:, None].astype("f4"), strides=[HOP])


def _halves(net):
    both = _spectrum(net)
    return [net("Slice", both, ints(a), ints(a + BINS), ints(1)) for a in (0, BINS)]


def _power(net):
    return net("Add", *[net("Pow", half, scalar(2)) for half in _halves(net)])


def _power_as_a_sum(net):
    both = net("Reshape", _spectrum(net), ints(1, 2, BINS, -1))
    return net("Squeeze", net("ReduceSum", net("Mul", both, both), ints(1), keepdims=1), ints(1))


def _mel(net, spectrum):
    filters = np.maximum(0, 1 - np.abs(np.arange(BINS)[:, None] / BINS * (BANDS + 1) - 1 - np.arange(BANDS)))
    return net("MatMul", net("Transpose", spectrum, perm=[0, 2, 1]), filters.astype("f4"))


def _log(net, x, least=1e-5):
    return net("Log", net("Add", x, scalar(least)))


def _decibel(net, x):
    return net("Mul", net("Div", net("Log", net("Max", x, scalar(1e-5))), scalar(np.log(10))), scalar(10))


def _mfcc(net):
    cosines = np.cos(np.pi / BANDS * np.outer(np.arange(BANDS) + 0.5, np.arange(8)))
    return net("MatMul", _log(net, _mel(net, _power(net))), cosines.astype("f4"))


# How each is spelled; decibels at 8 bits, where the function allows (a logarithm shows what 8 bits of the spectrum have lost).
FORMS = {
    "magnitude": (lambda net: net("Sqrt", _power(net)), 25),
    "magnitude of a sum": (lambda net: net("Sqrt", _power_as_a_sum(net)), 25),
    "magnitude with eps": (lambda net: net("Sqrt", net("Add", _power(net), scalar(1e-8))), 25),
    "magnitude by Pow": (lambda net: net("Pow", _power(net), scalar(0.5)), 25),
    "cubic root": (lambda net: net("Pow", _power(net), scalar(0.33)), 15),
    "power": (_power, 25),
    "mel": (lambda net: _mel(net, _power(net)), 25),
    "1 / sqrt": (lambda net: net("Reciprocal", net("Sqrt", net("Add", _power(net), scalar(1e-2)))), 20),
    "1 / x": (lambda net: net("Reciprocal", net("Add", _power(net), scalar(1e-2))), 20),
    "exp": (lambda net: net("Exp", net("Mul", _power(net), scalar(-0.2))), 25),
    "log": (lambda net: _log(net, _power(net)), 10),
    "log with clip": (lambda net: net("Log", net("Clip", _power(net), scalar(1e-5), scalar(1e9))), 10),
    "log1p": (lambda net: net("Log", net("Add", net("Mul", _power(net), scalar(1e3)), scalar(1))), 15),
    "decibel": (lambda net: _decibel(net, _power(net)), 10),
    "log mel": (lambda net: _log(net, _mel(net, _power(net))), 10),
    "log mel of magnitudes": (lambda net: _log(net, _mel(net, net("Sqrt", _power(net))), 1e-3), 10),
    "mfcc": (_mfcc, 15),
}


DEFAULT = ("magnitude", "log mel")


def _voice(samples: int, seed: int) -> np.ndarray:
    """Three tones of a random loudness that come and go, and a little noise."""
    rng, t = np.random.default_rng(seed), np.arange(SAMPLES)
    sound = 0.005 * rng.normal(size=(samples, 1, SAMPLES))
    for _ in range(3):
        pitch, phase = rng.uniform(0.02, 0.4, (samples, 1, 1)), rng.uniform(0, 6, (samples, 1, 1))
        loud = rng.uniform(0, 0.5, (samples, 1, 1)) ** 2
        sound = sound + loud * np.sin(2 * np.pi * pitch * t + phase) * np.sin(np.pi * t / SAMPLES)
    return sound.astype("f4")


DATA, TEST = {"x": _voice(32, 1)}, {"x": 0.7 * _voice(8, 2)}  # louder ones are cut at 8 bits


def _model(spelled) -> onnx.ModelProto:
    net = Net()
    spelled(net)
    net.nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        net.nodes, "audio", [info("x", [1, 1, SAMPLES])], [helper.make_empty_tensor_value_info("y")], net.consts
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


@pytest.mark.parametrize("mode", ["8", "16"])
@pytest.mark.parametrize(
    "form", [form if form in DEFAULT else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)
def test_front_ends(form, mode):
    """On held-out samples; all on the accelerator; the CPU makes the same integers."""
    spelled, at_8 = FORMS[form]
    model = _model(spelled)
    q = qaccel.quantize(model, calibration_data=DATA, bits=BITS[mode])
    module = qaccel.compile(q)
    made = outputs(module, TEST)
    assert decibels(floats(model, TEST), made) >= (at_8 if mode == "8" else 50)
    assert module.report["fallback"] == []
    if form in ("magnitude", "log mel"):
        np.testing.assert_array_equal(outputs(qaccel.compile(q, target="llvm"), TEST), made)


LOUDER = {
    "magnitude": FORMS["magnitude"][0],
    "log mel": FORMS["log mel"][0],
    "product of two layers": lambda net: net("Mul", *_halves(net)),
    "gate": lambda net: net("Mul", _spectrum(net), net("Sigmoid", net("Mul", _spectrum(net), scalar(4)))),
}


@pytest.mark.parametrize("form", ["magnitude", *(pytest.param(f, marks=pytest.mark.slow) for f in list(LOUDER)[1:])])
def test_samples_half_as_loud_again(form):
    """At 16 bits: the square of what is 1.5 times as large is 2.25 times as large."""
    model, louder = _model(LOUDER[form]), {"x": 1.5 * DATA["x"]}
    module = qaccel.compile(model, calibration_data=DATA, bits="W16A16")
    assert decibels(floats(model, louder), outputs(module, louder)) >= 50


def test_the_qdq_file_leaves_in_float_what_is_held_at_several_scales(tmp_path):
    model = _model(FORMS["log mel"][0])
    q = qaccel.quantize(model, calibration_data=DATA, bits="W16A16")
    q.save_onnx(tmp_path / "q.onnx")
    assert decibels(floats(model, TEST), floats(onnx.load(tmp_path / "q.onnx"), TEST)) >= 50


@pytest.mark.parametrize("mode", ["8", "16"])
def test_what_has_no_second_scale_stays_in_float_from_the_products_on(mode):
    """A difference of squares cannot be made of squares that saturate: at 16 bits the cut lies before them."""

    def spelled(net):
        squares = [net("Mul", half, half) for half in _halves(net)]
        net("Sqrt", net("Relu", net("Sub", *squares)))

    model = _model(spelled)
    module = qaccel.compile(model, calibration_data=DATA, bits=BITS[mode])
    assert decibels(floats(model, TEST), outputs(module, TEST)) >= (20 if mode == "8" else 50)
    assert macs_on_the_cpu(module) == {}
    ops = {each["op"] for each in module.report["fallback"]}
    assert ops == (set() if mode == "8" else {"Mul", "Sub", "Relu", "Sqrt"})


@pytest.mark.parametrize("mode", ["8", "16"])
def test_a_logarithm_of_what_float_makes_stays_in_float(mode):
    """Shares of a Softmax, of which the smallest are what a logarithm shows: they are never rounded."""
    net = Net()
    shares = net("Softmax", net("MatMul", "x", weights(8, 8, gain=6)), axis=-1)
    net("Log", net("Add", shares, scalar(1e-6)), out="y")
    model = net.model({"x": [1, 4, 8]}, {"y": [1, 4, 8]})
    data, test = ({"x": normal(4, 8, samples=count, seed=count)} for count in (16, 4))
    module = qaccel.compile(model, calibration_data=data, bits=BITS[mode])
    assert decibels(floats(model, test), outputs(module, test)) >= (25 if mode == "8" else 65)
    assert {each["op"] for each in module.report["fallback"]} >= {"Softmax", "Add+Log"}
