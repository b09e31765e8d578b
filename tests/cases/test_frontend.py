"""Files as exporters write them: each compiles, and gives what ONNX Runtime gives for the float model."""

import numpy as np
import pytest
from onnx import TensorProto

import qaccel
from cases.nets import Net, assert_close, ints, macs_on_the_cpu, normal, scalar, weights

F32, I64, I32, U8, BOOL = (
    TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.BOOL,
)  # fmt: skip


def _drawn(kind, low: int, high: int, *shape: int):
    """Calibration and test samples of integers."""
    return tuple(
        {"x": np.random.default_rng(seed).integers(low, high, (count, *shape)).astype(kind)}
        for seed, count in ((1, 256), (2, 8))
    )


# ---- integer inputs with calibration data


def _embedding(net):
    net("MatMul", net("Gather", weights(20, 8), "x"), weights(8, 4), out="y")
    return [1, 12, 4]


def _columns(net):
    """The table's second axis is the one looked up."""
    net("MatMul", net("Gather", weights(8, 20), "x", axis=1), weights(12, 4), out="y")
    return [8, 1, 4]


def _one_hot(net):
    net("MatMul", net("OneHot", "x", np.array(20, "i8"), np.array([0, 1], "f4")), weights(20, 4), out="y")
    return [1, 12, 4]


def _compared(net):
    net("MatMul", net("Cast", net("Equal", "x", np.arange(12).astype("i8")), to=F32), weights(12, 4), out="y")
    return [1, 4]


@pytest.mark.parametrize("mode", ["8", "16"])
@pytest.mark.parametrize("make", [_embedding, _columns, _one_hot, _compared])
def test_integer_inputs(make, mode):
    net = Net(13)
    shape = make(net)
    module = assert_close(net.model({"x": (I64, [1, 12])}, {"y": shape}), *_drawn("i8", 0, 20, 12), mode)
    assert macs_on_the_cpu(module) == {}


@pytest.mark.parametrize(("kind", "dtype", "low"), [(I32, "i4", 0), (I64, "i8", -20), (I32, "i4", -20)])
def test_ids_of_other_types_and_from_the_end(kind, dtype, low):
    net = Net(13)
    _embedding(net)
    assert_close(net.model({"x": (kind, [1, 12])}, {"y": [1, 12, 4]}), *_drawn(dtype, low, 20, 12), "8")


@pytest.mark.parametrize(("kind", "dtype", "high"), [(U8, "u1", 256), (I32, "i4", 256), (BOOL, "?", 2)])
def test_images_of_integers(kind, dtype, high):
    net = Net(13)
    pixels = net("Mul", net("Cast", "x", to=F32), scalar(1 / (high - 1)))
    net("Relu", net("Conv", pixels, weights(4, 3, 3, 3)), out="y")
    assert_close(net.model({"x": (kind, [1, 3, 8, 8])}, {"y": [1, 4, 6, 6]}), *_drawn(dtype, 0, high, 3, 8, 8), "8")


def test_ids_beside_floats():
    net = Net(13)
    net("MatMul", net("Add", net("Gather", weights(20, 8), "x"), "z"), weights(8, 4), out="y")
    data, test = _drawn("i8", 0, 20, 12)
    data["z"], test["z"] = normal(12, 8, samples=256, seed=3), normal(12, 8, samples=8, seed=4)
    assert_close(net.model({"x": (I64, [1, 12]), "z": [1, 12, 8]}, {"y": [1, 12, 4]}), data, test, "8")


def test_ids_beyond_the_table_are_refused_by_name():
    net = Net(13)
    _embedding(net)
    data, _ = _drawn("i8", 0, 25, 12)
    with pytest.raises(qaccel.QaccelError, match=r"node 'gather0' looks up entry 24 of 20"):
        qaccel.compile(net.model({"x": (I64, [1, 12])}, {"y": [1, 12, 4]}), calibration_data=data)


def test_an_index_that_is_computed():
    """Rows of an activation chosen by the largest value of another tensor."""
    net = Net(13)
    rows = net("Conv", "x", weights(6, 3, 1))
    best = net("ArgMax", net("ReduceMax", "x", axes=[1], keepdims=0), axis=1, keepdims=0)
    net("Gather", rows, best, out="y", axis=2)
    model = net.model({"x": [1, 3, 10]}, {"y": [1, 6, 1]})
    assert_close(model, {"x": normal(3, 10, samples=256, seed=1)}, {"x": normal(3, 10, samples=8, seed=2)}, "16")
