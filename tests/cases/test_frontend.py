"""Files as exporters write them: each compiles, and gives what ONNX Runtime gives for the float model."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import qaccel
from cases.nets import (
    Net,
    assert_close,
    decibels,
    floats,
    floats_of,
    ints,
    macs_on_the_cpu,
    normal,
    outputs,
    scalar,
    weights,
)  # fmt: skip
from qaccel.cli.main import main

pytestmark = pytest.mark.wide  # whole compilations, one for each member of a family

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


# ---- what needs no data to move between samples


def _merged(net):
    """Reshape(-1, C), Gemm and Reshape back between two convolutions."""
    image = net("Transpose", net("Relu", net("Conv", "x", weights(8, 3, 3, 3), pads=[1] * 4)), perm=[0, 2, 3, 1])
    rows = net("Relu", net("Gemm", net("Reshape", image, ints(-1, 8)), weights(8, 8), weights(1, 8)[0]))
    back = net("Transpose", net("Reshape", rows, ints(1, 8, 8, 8)), perm=[0, 3, 1, 2])
    net("Conv", back, weights(4, 8, 3, 3), out="y", pads=[1] * 4)
    return [3, 8, 8], [1, 4, 8, 8]


def _windows(net, middle):
    image = net("Transpose", net("Conv", "x", weights(8, 3, 3, 3), pads=[1] * 4), perm=[0, 2, 3, 1])
    six = net("Reshape", image, ints(1, 2, 4, 2, 4, 8))
    mixed = middle(net("Reshape", net("Transpose", six, perm=[0, 1, 3, 2, 4, 5]), ints(-1, 16, 8)))
    back = net("Transpose", net("Reshape", mixed, ints(1, 2, 2, 4, 4, 8)), perm=[0, 1, 3, 2, 4, 5])
    net(
        "Conv",
        net("Transpose", net("Reshape", back, ints(1, 8, 8, 8)), perm=[0, 3, 1, 2]),
        weights(4, 8, 3, 3),
        out="y",
    )
    return [3, 8, 8], [1, 4, 6, 6]


def _window_partition(net):
    return _windows(net, lambda w: net("Relu", net("MatMul", w, weights(8, 8))))


def _window_biases(net):
    """Something else is added in each window, and at each place of it."""
    return _windows(net, lambda w: net("MatMul", net("Add", w, weights(4, 16, 8, gain=4)), weights(8, 8)))


def _window_means(net):
    """Each window's mean is added before the product."""
    return _windows(net, lambda w: net("MatMul", net("Add", w, net("ReduceMean", w, axes=[1])), weights(8, 8)))


def _time_distributed_dense(net):
    rows = net("Relu", net("Gemm", net("Reshape", "x", ints(-1, 10)), weights(10, 12), weights(1, 12)[0]))
    net(
        "MatMul", net("ReduceMean", net("Reshape", rows, ints(1, 6, 12)), axes=[1], keepdims=0), weights(12, 4), out="y"
    )
    return [6, 10], [1, 4]


def _time_distributed_images(net):
    """A small network on each image of a sequence, then a product over the sequence."""
    frames = net("Relu", net("Conv", net("Reshape", "x", ints(-1, 3, 8, 8)), weights(8, 3, 3, 3), pads=[1] * 4))
    frames = net("MaxPool", frames, kernel_shape=[2, 2], strides=[2, 2])
    flat = net("Relu", net("Gemm", net("Flatten", frames), weights(128, 16)))
    sequence = net("Transpose", net("Reshape", flat, ints(1, 5, 16)), perm=[0, 2, 1])
    net("Conv", sequence, weights(4, 16, 3), out="y")
    return [5, 3, 8, 8], [1, 4, 3]


def _mean_of_the_sequence(net):
    """The mean of all time steps, which were made samples."""
    rows = net("Relu", net("Gemm", net("Reshape", "x", ints(-1, 10)), weights(10, 12)))
    net("MatMul", net("ReduceMean", rows, axes=[0], keepdims=1), weights(12, 4), out="y")
    return [6, 10], [1, 4]


def _time_first(net):
    """Sequences as [time, batch, features], as recurrent layers want them."""
    steps = net("Relu", net("MatMul", net("Transpose", "x", perm=[1, 0, 2]), weights(10, 12)))
    last = net("Squeeze", net("Slice", steps, ints(5), ints(6), ints(0)), ints(0))
    net("MatMul", last, weights(12, 4), out="y")
    return [6, 10], [1, 4]


NO_MOVES = [
    _merged, _window_partition, _window_biases, _window_means, _time_distributed_dense, _time_distributed_images,
    _mean_of_the_sequence, _time_first,
]  # fmt: skip


@pytest.mark.parametrize("mode", ["8", "16"])
@pytest.mark.parametrize("make", NO_MOVES)
def test_samples_that_a_network_makes(make, mode):
    net = Net()
    shape, result = make(net)
    gain = {"8": 0.7, "16": 1.0}[mode]  # 16 bits have room for values that the calibration did not show
    data, test = ({"x": normal(*shape, samples=n, seed=s, gain=g)} for n, s, g in ((32, 1, 1.0), (8, 2, gain)))
    module = assert_close(net.model({"x": [1, *shape]}, {"y": result}), data, test, mode)
    assert macs_on_the_cpu(module) == {}
    # The very samples of the calibration, which run together where they may.
    assert_close(net.model({"x": [1, *shape]}, {"y": result}), data, data, mode)


@pytest.mark.parametrize("how", ["Gather", "Slice"])
def test_a_state_of_two_layers(how):
    """state[0] and state[1] of a [2, 1, 32] state beside an input of batch 1; the new state is an output."""
    net = Net(13)
    if how == "Gather":
        first, second = (net("Gather", "state", np.array(k, "i8"), axis=0) for k in (0, 1))
    else:
        parts = [net("Slice", "state", ints(k), ints(k + 1), ints(0)) for k in (0, 1)]
        first, second = (net("Squeeze", part, ints(0)) for part in parts)
    one = net("Tanh", net("Add", net("MatMul", "x", weights(16, 32)), net("MatMul", first, weights(32, 32))))
    two = net("Tanh", net("Add", net("MatMul", one, weights(32, 32)), net("MatMul", second, weights(32, 32, seed=1))))
    net("Concat", *(net("Unsqueeze", each, ints(0)) for each in (one, two)), out="after", axis=0)
    model = net.model({"x": [1, 16], "state": [2, 1, 32]}, {"after": [2, 1, 32]})

    def drawn(samples, seed):
        state = np.tanh(normal(1, 32, samples=2 * samples, seed=seed))
        return {"x": normal(16, samples=samples, seed=seed), "state": state}

    module = qaccel.compile(model, calibration_data=drawn(64, 1), bits=8)
    assert macs_on_the_cpu(module) == {}
    test = drawn(8, 2)
    feeds = [{"x": test["x"][k : k + 1], "state": test["state"][2 * k : 2 * k + 2]} for k in range(8)]
    wanted = np.concatenate([floats_of(model, feed) for feed in feeds])
    assert decibels(wanted, np.concatenate([module.run(feed)["after"].ravel() for feed in feeds])) >= 30


def test_two_samples_are_still_kept_apart():
    """With a batch of 2, windows of both are rows of their own sample."""
    net = Net()
    rows = net("Relu", net("MatMul", net("Reshape", "x", ints(-1, 10)), weights(10, 12)))
    net(
        "MatMul", net("ReduceMean", net("Reshape", rows, ints(2, 6, 12)), axes=[1], keepdims=0), weights(12, 4), out="y"
    )
    model = net.model({"x": [2, 6, 10]}, {"y": [2, 4]})
    module = qaccel.compile(model, calibration_data={"x": normal(6, 10, samples=32, seed=1)}, bits=8)
    assert macs_on_the_cpu(module) == {}
    feed = {"x": normal(6, 10, samples=2, seed=2)}
    assert decibels(floats_of(model, feed), module.run(feed)["y"].ravel()) >= 30


# ---- old files, odd bounds, nothing to join


@pytest.mark.parametrize("opset", [12, 13, 15, 16])
@pytest.mark.parametrize("op", ["GreaterOrEqual", "LessOrEqual"])
def test_comparisons_that_are_functions_of_others(op, opset):
    net = Net(opset)
    net("Cast", net(op, net("MatMul", "x", weights(8, 8)), scalar(0.5)), out="y", to=F32)
    model, test = net.model({"x": [1, 8]}, {"y": [1, 8]}), {"x": normal(8, samples=16, seed=2)}
    module = qaccel.compile(model, calibration_data={"x": normal(8, samples=32, seed=1)}, bits=8)
    assert (floats(model, test) == outputs(module, test)).mean() >= 0.95


@pytest.mark.parametrize("ir", [3, 4, 8])
def test_weights_among_the_inputs(ir, tmp_path):
    """Before IR version 4 all of them are; the QDQ model that is written gives the module's outputs."""
    net = Net(opset=8, ir=ir)
    net("Relu", net("Conv", "x", weights(4, 3, 3, 3), weights(1, 4)[0], pads=[1] * 4), out="y")
    model = net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}, consts_as_inputs=True)
    data, test = ({"x": normal(3, 8, 8, samples=n, seed=n)} for n in (32, 8))
    quantized = qaccel.quantize(model, calibration_data=data, bits=8)
    quantized.save_onnx(tmp_path / "q.onnx")
    module = qaccel.compile(quantized)
    assert [each["name"] for each in module.metadata["inputs"]] == ["x"]
    assert np.array_equal(floats(onnx.load(tmp_path / "q.onnx"), test), outputs(module, test))


@pytest.mark.parametrize("target", ["llvm", "qaccel"])
@pytest.mark.parametrize("bounds", [(0, np.nan), (np.nan, 1), (np.nan, np.nan)])
def test_a_bound_that_is_no_number_is_none(bounds, target, tmp_path):
    net = Net()
    net("Clip", net("Conv", "x", weights(6, 3, 1, 1)), *map(scalar, bounds), out="y")
    model = net.model({"x": [1, 3, 6, 6]}, {"y": [1, 6, 6, 6]})
    data, test = ({"x": normal(3, 6, 6, samples=n, seed=n)} for n in (32, 8))
    if target == "llvm":
        assert decibels(floats(model, test), outputs(_on_the_cpu(model, tmp_path), test)) >= 100
    else:
        assert_close(model, data, test, "8")


@pytest.mark.parametrize("empties", [1, 2])
@pytest.mark.parametrize("parts", [1, 2])
def test_joining_with_nothing(parts, empties, tmp_path):
    net = Net(13)
    full = [net("Relu", "x"), "x"][:parts]
    net("Concat", *full, *[np.zeros((1, 0), "f4")] * empties, out="y", axis=1)
    model, test = net.model({"x": [1, 4]}, {"y": [1, 4 * parts]}), {"x": normal(4, samples=4, seed=2)}
    assert np.array_equal(floats(model, test), outputs(_on_the_cpu(model, tmp_path), test))
    assert_close(model, {"x": normal(4, samples=256, seed=1)}, test, "8")


def _on_the_cpu(model: onnx.ModelProto, folder: Path) -> qaccel.Module:
    """The float model compiled for the CPU alone, exported and loaded."""
    onnx.save(model, folder / "m.onnx")
    assert main(["compile", str(folder / "m.onnx"), "--target=llvm", "-o", str(folder / "m.so")]) == 0
    return qaccel.load(folder / "m.so")


@pytest.mark.parametrize("mode", ["8", "16"])
def test_a_kernel_of_256_taps_without_a_stride(mode):
    net = Net()
    net("Conv", "x", weights(36, 1, 256), out="y")
    model = net.model({"x": [1, 1, 512]}, {"y": [1, 36, 257]})
    data, test = ({"x": normal(1, 512, samples=n, seed=n, gain=g)} for n, g in ((32, 1.0), (8, 0.8)))
    assert macs_on_the_cpu(assert_close(model, data, test, mode)) == {}


# ---- reasons


def _reasons(net, inputs, result, data) -> dict[str, str]:
    module = qaccel.compile(net.model(inputs, {"y": result}), calibration_data=data, bits=8)
    return {each["name"]: each["reason"] for each in module.report["fallback"]}


def test_the_reason_of_an_integer_constant():
    net = Net()
    ids = net("Add", net("Mul", "x", ints(2)), ints(1))
    net("Gather", weights(41, 8), ids, out="y")
    reasons = _reasons(net, {"x": (I64, [1, 12])}, [1, 12, 8], _drawn("i8", 0, 20, 12)[0])
    assert reasons["mul0"] == reasons["add1"] == "its constant is int64, not float32"


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_weights_alone_that_come_quantized(op):
    net = Net(13)
    plane = op.startswith("Conv")
    kernel = np.random.default_rng(1).integers(-100, 100, (4, 4, 3, 3) if plane else (8, 5)).astype("i1")
    net(op, "x", net("DequantizeLinear", kernel, scalar(0.01), np.array(0, "i1")), out="y")
    shape, result = ([4, 8, 8], [1, 4, 6, 6] if op == "Conv" else [1, 4, 10, 10]) if plane else ([8], [1, 5])
    reasons = _reasons(net, {"x": [1, *shape]}, result, {"x": normal(*shape, samples=8, seed=1)})
    assert f"{op.lower()}1" not in reasons  # they keep their integers


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_bias_alone_that_comes_quantized(op):
    net = Net(13)
    bias = net("DequantizeLinear", np.arange(4, dtype="i1"), scalar(0.01), np.array(0, "i1"))
    net(op, "x", weights(4, 4, 3, 3), bias, out="y")
    result = [1, 4, 6, 6] if op == "Conv" else [1, 4, 10, 10]
    reasons = _reasons(net, {"x": [1, 4, 8, 8]}, result, {"x": normal(4, 8, 8, samples=8, seed=1)})
    assert f"{op.lower()}1" not in reasons


@pytest.mark.parametrize("computed", [True, False])
def test_the_reason_of_weights_that_are_computed(computed):
    net = Net(13)
    net("Conv", "x", net("Sigmoid", "w") if computed else "w", out="y")
    data = {"x": normal(3, 8, 8, samples=8, seed=1), "w": normal(3, 3, 3, samples=32, seed=2)}
    reasons = _reasons(net, {"x": [1, 3, 8, 8], "w": [4, 3, 3, 3]}, [1, 4, 6, 6], data)
    how = "computed by node 'sigmoid0' (Sigmoid), not constant" if computed else "an input of the model, not constant"
    assert reasons[f"conv{int(computed)}"] == f"its weights are {how}"
