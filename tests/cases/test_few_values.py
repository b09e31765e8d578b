"""Tensors of which the samples have few values: layers of one weight, one output. Their ends are no good ends for others."""

import numpy as np
import pytest

import qaccel
from cases.nets import Net, decibels, floats, outputs, weights

pytestmark = pytest.mark.wide  # whole compilations
ONE = {
    "Conv": (lambda net: net("Conv", "x", weights(1, 1, 1, 1), out="y"), (1, 1, 1)),
    "Gemm": (lambda net: net("Gemm", "x", weights(16, 1), out="y"), (16,)),
    "GlobalAveragePool": (lambda net: net("GlobalAveragePool", "x", out="y"), (1, 2, 2)),
}


@pytest.mark.parametrize("name", ONE)
def test_one_value_of_each_of_16_samples(name):
    """Normal values, eight draws of the samples: some of these reach half as far as others of the same kind."""
    make, shape = ONE[name]
    net = Net()
    make(net)
    model = net.model({"x": [1, *shape]}, {"y": [1] * (len(shape) + 1)})
    reached = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        data, test = ({"x": rng.normal(size=(n, *shape)).astype("f4")} for n in (16, 64))
        module = qaccel.compile(model, calibration_data=data, bits=8)
        reached.append(decibels(floats(model, test), outputs(module, test)))
    assert min(reached) >= 20 and np.median(reached) >= 28, reached


def test_an_end_that_is_known_stays():
    """A Clip to 0..6 gives nothing beyond, however few values were seen of it."""
    net = Net()
    net("Clip", "x", np.array(0, "f4"), np.array(6, "f4"), out="y")
    model = net.model({"x": [1, 1]}, {"y": [1, 1]})
    data = {"x": np.linspace(-9, 9, 16, dtype="f4")[:, None]}
    module = qaccel.compile(model, calibration_data=data, bits=8)
    # Inputs are spread over a step of 37/255, outputs over one of 6/255: 6 itself is there.
    assert module.run({"x": np.array([[9]], "f4")})["y"][0, 0] == pytest.approx(6, abs=1e-5)
