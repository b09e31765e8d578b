"""Samples of the calibration that say too little or too much: larger ones come later, and some hold values that are nobody's."""

import json

import numpy as np
import onnx
import pytest

import qaccel
from cases.nets import Net, decibels, floats, normal, outputs, weights
from qaccel.cli.main import main
from qaccel.model import TensorSpec
from qaccel.quant.calibrate.inputs.outliers import PLACE, find_outliers
from qaccel.quant.quantize import attributes

# ---- samples larger than those of the calibration


def _deep():
    net = Net()
    a = net("Relu", net("Conv", "x", weights(16, 3, 3, 3, gain=1.4), pads=[1] * 4))
    b = net("Relu", net("Conv", a, weights(16, 16, 3, 3, gain=1.4), pads=[1] * 4))
    net("Conv", b, weights(8, 16, 1, 1), out="y")
    return net.model({"x": [1, 3, 16, 16]}, {"y": [1, 8, 16, 16]})


@pytest.mark.parametrize("bits", ["W16A16", "W8A16"])
def test_16_bits_have_room_for_samples_half_as_large_again(bits):
    model, test = _deep(), {"x": normal(3, 16, 16, samples=8, seed=2, gain=1.5)}
    module = qaccel.compile(model, calibration_data={"x": normal(3, 16, 16, samples=32, seed=1)}, bits=bits)
    assert decibels(floats(model, test), outputs(module, test)) >= {"W16A16": 45, "W8A16": 35}[bits]


def test_slopes_have_room_as_well():
    """PRelu's negative half goes through a product of its own."""
    net = Net()
    net("PRelu", net("Conv", "x", weights(8, 3, 3, 3)), np.full((8, 1, 1), 2, "f4"), out="y")
    model, test = (
        net.model({"x": [1, 3, 8, 8]}, {"y": [1, 8, 6, 6]}),
        {"x": normal(3, 8, 8, samples=8, seed=2, gain=1.5)},
    )
    module = qaccel.compile(model, calibration_data={"x": normal(3, 8, 8, samples=32, seed=1)}, bits="W16A16")
    assert decibels(floats(model, test), outputs(module, test)) >= 45


def test_no_room_where_nothing_can_be_larger():
    """A Sigmoid's values at 16 bits: to 1, not to 1.75."""
    net = Net()
    net("Sigmoid", net("Conv", "x", weights(4, 3, 1, 1, gain=4)), out="y")
    model, x = net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}), {"x": normal(3, 8, 8, samples=32, seed=1)}
    module = qaccel.compile(model, calibration_data=x, bits="W16A16")
    q = attributes(module.compiled.quantized.mod)["sigmoid1"].result
    assert q.scale == pytest.approx(1 / 32767, rel=0.01)


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_the_report_says_what_a_range_leaves_out(method):
    x = np.random.default_rng(1).standard_t(2, (64, 3, 16, 16)).astype("f4")
    model = _deep()
    module = qaccel.compile(model, calibration_data={"x": x}, bits=8, calibration=method)
    said = module.report["ranges"]
    assert (said["method"], said["samples"]) == (method, 64)
    of_input = next(each for each in said["cut"] if each["name"] == "x")
    outside = 100 * ((x < of_input["lo"]) | (x > of_input["hi"])).mean()
    assert of_input["percent"] == pytest.approx(outside, rel=0.05)
    assert (of_input["least"], of_input["most"]) == (pytest.approx(x.min()), pytest.approx(x.max()))
    notes = [note for note in module.notes if "leaves" in note]
    assert len(notes) == (outside > 0.1) or any(each["percent"] > 0.1 for each in said["cut"])
    assert json.dumps(said)


# ---- samples with values that are nobody's


def _broken(kind: str) -> np.ndarray:
    x, rng = normal(3, 16, 16, samples=32, seed=1), np.random.default_rng(3)
    if kind == "one value":
        x[3, 0, 4, 4] = -1e4
    elif kind == "a sample":
        x[3] *= 1e4
    elif kind == "a patch":
        x[3, :, :4, :4] = 1e4
    elif kind == "many values":
        x.reshape(-1)[rng.integers(0, x.size, 100)] = 1e4
    return x


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
@pytest.mark.parametrize("kind", ["one value", "a sample", "a patch", "many values"])
@pytest.mark.wide
def test_methods_that_cut_tails_go_without_outliers(kind, method):
    model, test = _deep(), {"x": normal(3, 16, 16, samples=8, seed=2, gain=0.8)}
    module = qaccel.compile(model, calibration_data={"x": _broken(kind)}, bits=8, calibration=method)
    assert decibels(floats(model, test), outputs(module, test)) >= 30
    assert sum("of 'x' has the value" in note for note in module.notes) == 1


def test_minmax_names_tensor_sample_and_value():
    x = _broken("one value")
    module = qaccel.compile(_deep(), calibration_data={"x": x}, bits=8)
    (note,) = (note for note in module.notes if "of 'x' has the value" in note)
    others = np.abs(np.delete(x.ravel(), np.abs(x).argmax())).max()
    assert "sample 3 of 'x' has the value -10000," in note and f"within {others:.4g}" in note
    # Its ranges hold the outlier, as minmax says.
    assert floats(_deep(), {"x": x[3:4]}).max() == pytest.approx(module.run({"x": x[3:4]})["y"].max(), rel=0.1)


def test_bias_correction_goes_without_outliers():
    """The same corrected biases as without the broken sample, for the same ranges."""
    x = normal(3, 16, 16, samples=65, seed=1)
    x[7] *= 1e4
    clean = np.delete(x, 7, axis=0)
    runs = [qaccel.compile(_deep(), calibration_data={"x": each}, bits=8, calibration="mse") for each in (x, clean)]
    test = {"x": normal(3, 16, 16, samples=2, seed=2)}
    np.testing.assert_array_equal(outputs(runs[0], test), outputs(runs[1], test))


@pytest.mark.parametrize("kind", ["one hot", "heavy tail", "quiet and loud", "a feature", "pixels"])
def test_no_outliers_where_there_are_none(kind):
    rng = np.random.default_rng(5)
    x = np.zeros((32, 500), "f4")
    if kind == "one hot":
        x[np.arange(32), rng.integers(0, 500, 32)] = 1
    elif kind == "heavy tail":
        x[:] = rng.standard_t(2, x.shape)
    elif kind == "quiet and loud":
        x[:] = rng.normal(size=x.shape) * np.where(np.arange(32) % 2, 1, 1e-3)[:, None]
    elif kind == "a feature":
        x[:] = rng.normal(size=x.shape)
        x[:, 7] = 1e4
    else:
        x[:] = rng.integers(0, 256, x.shape)
    found = find_outliers([TensorSpec("x", (1, 500), "float32")], {"x": x})
    assert [each.kind for each in found] == ([PLACE] if kind == "a feature" else [])


def test_the_command_says_it(tmp_path, capsys):
    onnx.save(_deep(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=_broken("one value"))
    call = ["compile", str(tmp_path / "m.onnx"), "--target=qaccel", "--calibration-data", str(tmp_path / "d.npz")]
    assert main([*call, "-o", str(tmp_path / "m.so")]) == 0
    assert "sample 3 of 'x' has the value -10000" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros((16, 3, 16, 16), "f4"), "the 16 calibration samples do not differ"),
        (np.repeat(normal(3, 16, 16, samples=1, seed=1), 16, 0), "the 16 calibration samples do not differ"),
        (np.ones((1, 3, 16, 16), "f4"), "the values of the calibration sample do not differ"),
        (normal(3, 16, 16, samples=1, seed=1), None),
        (normal(3, 16, 16, samples=16, seed=1), None),
    ],
)
@pytest.mark.parametrize("bits", [8, "auto"])
def test_samples_that_do_not_differ_are_said(samples, said, bits):
    notes = qaccel.quantize(_deep(), {"x": samples}, bits=bits, effort="fast").notes
    found = [note for note in notes if note.startswith("warning: ") and "do not differ" in note]
    assert len(found) == (said is not None)
    assert said is None or said in found[0] and "an estimated drop means nothing" in found[0] and "\n" not in found[0]
