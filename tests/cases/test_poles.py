"""Functions with a pole, or that are none below zero: their values near it must not cost what they are elsewhere."""

import numpy as np
import pytest

import qaccel
from cases.nets import Net, decibels, floats, outputs, scalar, weights

pytestmark = pytest.mark.wide  # whole compilations, one for each member of a family
SHAPE = (8, 16, 16)
FUNCTIONS = {
    "Reciprocal": lambda net, x: net("Reciprocal", x),
    "Div": lambda net, x: net("Div", scalar(2), x),
    "Div by itself": lambda net, x: net("Div", net("Add", net("Mul", x, x), scalar(1)), x),
    "Pow": lambda net, x: net("Pow", x, scalar(-2)),
    "Log": lambda net, x: net("Log", x),
    "Sqrt": lambda net, x: net("Sqrt", x),
}  # fmt: skip


def _model(name: str, before_a_layer: bool):
    net = Net()
    made = FUNCTIONS[name](net, "x")
    net("Conv", made, weights(8, 8, 1, 1), out="y") if before_a_layer else net("Identity", made, out="y")
    return net.model({"x": [1, *SHAPE]}, {"y": [1, *SHAPE]})


def _positive(samples: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).uniform(0.5, 2, (samples, *SHAPE)).astype("f4")}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_16_bits_of_an_operand_that_stays_away_from_the_pole(name):
    """1/x was flat enough from 0.6 on, it was thought, because rounding moved it so much at a zero that no sample has: 19.7 dB."""
    model, test = _model(name, False), _positive(2, 2)
    module = qaccel.compile(model, calibration_data=_positive(16, 1), bits="W16A16")
    assert module.report["fallback"] == []
    assert decibels(floats(model, test), outputs(module, test)) >= 70


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("before_a_layer", [False, True])
def test_without_data_a_pole_does_not_take_the_range(name, before_a_layer):
    """Made-up inputs of -1..1 come as near to zero as 1e-5: 1/x kept nothing of its values for 0.5..2, and said nothing."""
    model, test = _model(name, before_a_layer), _positive(2, 3)
    module = qaccel.compile(model)
    assert module.report["fallback"] == []
    assert decibels(floats(model, test), outputs(module, test)) >= 30
    pole = [each for each in module.report["notes"] if "near its pole" in each]
    assert len(pole) == (name not in ("Log", "Sqrt"))


def test_what_a_guarded_pole_gives_is_cut_nowhere():
    """A denominator that is 0.1 at least has no far values."""
    net = Net()
    net("Reciprocal", net("Add", net("Relu", "x"), scalar(0.1)), out="y")
    model, test = net.model({"x": [1, *SHAPE]}, {"y": [1, *SHAPE]}), _positive(2, 4)
    module = qaccel.compile(model)
    assert not any("pole" in each for each in module.report["notes"])
    assert decibels(floats(model, test), outputs(module, test)) >= 60


@pytest.mark.parametrize(("reach", "warned"), [(6, False), (14, True)])
@pytest.mark.parametrize("name", ["Sin", "Cos"])
def test_a_table_of_too_few_entries_is_said(name, reach, warned):
    """Periods share 513 entries: how far off they are is a warning from 16 steps on, and no less than what ONNX Runtime shows."""
    net = Net()
    net(name, "x", out="y")
    model = net.model({"x": [1, *SHAPE]}, {"y": [1, *SHAPE]})
    x = {"x": np.random.default_rng(3).uniform(-reach, reach, (16, *SHAPE)).astype("f4")}
    module = qaccel.compile(model, calibration_data=x, bits="W16A16")
    found = [note for note in module.notes if "16-bit table" in note]
    assert len(found) == 1 and found[0].startswith("warning: ") == warned == ("one period" in found[0])
    off_by = float(found[0].split("off by at most ")[1].split(" steps")[0])
    one = {"x": x["x"][:1]}
    error = np.abs(outputs(module, one) - floats(model, one)).max() * 32767
    assert error <= off_by * 1.01 + reach
    assert (off_by > 16) == warned
