"""Masks before a Softmax, as exporters write them: they take no range, and the scores keep their bits."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import qaccel
from cases.nets import Net, assert_close, decibels, floats, ints, macs_on_the_cpu, normal, outputs, scalar, weights

pytestmark = pytest.mark.wide  # whole compilations, one for each member of a family

LOW = {"finfo": np.finfo("f4").min, "1e9": -1e9, "inf": -np.inf, "1e4": -1e4, "100": -100.0}
T = 6
FUTURE = np.triu(np.ones((1, T, T), bool), 1)


def _added(net, scores, low):
    return net("Add", scores, np.where(FUTURE, low, scalar(0)))


def _bias(net, scores, low):
    return net("Add", scores, np.where(np.arange(T) >= 4, low, scalar(0)))


def _where(net, scores, low):
    return net("Where", ~FUTURE, scores, low)


def _where_added(net, scores, low):
    return net("Add", scores, net("Where", ~FUTURE, scalar(0), low))


def _subtracted(net, scores, low):
    return net("Sub", scores, np.where(FUTURE, -low, scalar(0)))


def _scaled(net, scores, low):
    return net("Mul", _added(net, net("Mul", scores, scalar(3)), low), scalar(0.35))


def _reshaped(net, scores, low):
    heads = net("Add", net("Reshape", scores, ints(1, 1, T, T)), np.where(FUTURE, low, scalar(0))[None])
    return net("Reshape", heads, ints(1, T, T))


def _twice(net, scores, low):
    return net("Add", _added(net, scores, low), np.where(np.arange(T) == 1, low, scalar(0))[None, None])


def _floored(net, scores, low):
    return net("Max", _added(net, scores, low), np.array(np.finfo("f4").min))


def _computed(net, scores, low):
    return net("Add", scores, net("Mul", net("Sub", scalar(1), net("Unsqueeze", "mask", ints(1))), low))


def _computed_subtracted(net, scores, low):
    return net("Sub", scores, net("Mul", net("Sub", scalar(1), net("Unsqueeze", "mask", ints(1))), -low))


def _computed_integers(net, scores, low):
    kept = net("Cast", net("Unsqueeze", "ids", ints(1)), to=TensorProto.FLOAT)
    return net("Add", scores, net("Mul", net("Sub", scalar(1), kept), low))


def _computed_where(net, scores, low):
    return net("Where", net("Equal", net("Unsqueeze", "mask", ints(1)), scalar(0)), low, scores)


FORMS = [_added, _bias, _where, _where_added, _subtracted, _scaled, _reshaped, _twice, _floored]
COMPUTED = [_computed, _computed_subtracted, _computed_integers, _computed_where]


def _network(form, low: float, opset: int = 17) -> tuple[onnx.ModelProto, dict, dict]:
    net = Net(opset)
    masked = form(net, net("MatMul", "x", weights(8, T)), np.array(low, "f4"))
    net("Softmax", masked, out="y", axis=-1 if opset >= 13 else 2)
    inputs = {"x": [1, T, 8]}
    data, test = {"x": normal(T, 8, samples=32, seed=1)}, {"x": normal(T, 8, samples=8, seed=2, gain=0.7)}
    name = "ids" if form is _computed_integers else "mask"
    if form in COMPUTED:
        kind = TensorProto.INT64 if name == "ids" else TensorProto.FLOAT
        inputs[name] = (kind, [1, T])
        for feed, seed in ((data, 3), (test, 4)):
            lengths = np.random.default_rng(seed).integers(2, T + 1, len(feed["x"]))
            feed[name] = (np.arange(T) < lengths[:, None]).astype("i8" if name == "ids" else "f4")
    return net.model(inputs, {"y": [1, T, T]}), data, test


@pytest.mark.parametrize("mode", ["8", "16"])
@pytest.mark.parametrize("low", ["finfo", "1e9", "inf", "100"])
@pytest.mark.parametrize("form", [_added, _bias, _where])
def test_a_constant_mask(form, low, mode):
    module = assert_close(*_network(form, LOW[low]), mode)
    assert macs_on_the_cpu(module) == {}


@pytest.mark.parametrize("mode", ["8", "16"])
@pytest.mark.parametrize("form", FORMS[3:])
def test_as_exporters_write_it(form, mode):
    for low in ("finfo", "inf"):
        module = assert_close(*_network(form, LOW[low]), mode)
        assert macs_on_the_cpu(module) == {}


@pytest.mark.parametrize("mode", ["8", "16"])
@pytest.mark.parametrize("form", COMPUTED)
def test_a_mask_that_is_computed(form, mode):
    for low in ("finfo", "1e4"):
        assert_close(*_network(form, LOW[low]), mode)


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_every_method_of_calibration(method):
    model, data, test = _network(_added, LOW["1e9"])
    module = qaccel.compile(model, calibration_data=data, bits=8, calibration=method)
    assert decibels(floats(model, test), outputs(module, test)) >= 30


def test_flattened_softmax_of_old_opsets():
    """Before opset 13 a Softmax flattens its operand first."""
    assert_close(*_network(_added, LOW["1e9"], opset=11), "8")


def test_without_data():
    model, _, test = _network(_added, LOW["inf"])
    module = qaccel.compile(model, input_range=(-3, 3))
    assert decibels(floats(model, test), outputs(module, test)) >= 45


def test_a_row_that_is_masked_as_a_whole_takes_no_range():
    net = Net()
    low = np.where(FUTURE | (np.arange(T)[:, None] == 2), LOW["1e9"], scalar(0)).astype("f4")
    net("Softmax", net("Add", net("MatMul", "x", weights(8, T)), low), out="y", axis=-1)
    model = net.model({"x": [1, T, 8]}, {"y": [1, T, T]})
    assert_close(model, {"x": normal(T, 8, samples=32, seed=1)}, {"x": normal(T, 8, samples=8, seed=2)}, "8")


def test_what_others_read_keeps_its_range():
    """The masked scores are an output as well: their range is theirs, masks and all."""
    net = Net()
    masked = net("Add", net("MatMul", "x", weights(8, T)), np.where(FUTURE, scalar(-100), scalar(0)), out="z")
    net("Softmax", masked, out="y", axis=-1)
    model = net.model({"x": [1, T, 8]}, {"y": [1, T, T], "z": [1, T, T]})
    module = qaccel.compile(model, calibration_data={"x": normal(T, 8, samples=32, seed=1)}, bits=8)
    assert module.run({"x": normal(T, 8, samples=1, seed=2)})["z"].min() < -99


def test_infinities_that_no_softmax_reads_are_still_refused():
    net = Net()
    net("Mul", net("Where", ~FUTURE, net("MatMul", "x", weights(8, T)), scalar(-np.inf)), scalar(2), out="y")
    with pytest.raises(qaccel.QaccelError, match="gives -inf on the calibration data"):
        qaccel.compile(
            net.model({"x": [1, T, 8]}, {"y": [1, T, T]}), calibration_data={"x": normal(T, 8, samples=4, seed=1)}
        )
