"""What a user settles about inputs: values that are fixed, sizes that override the model's, float16 taken as float32."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import qaccel
from cases.nets import Net, assert_close, decibels, floats, info, ints, macs_on_the_cpu, normal, outputs, weights
from qaccel.cli.main import main
from qaccel.options import parse_input_values

pytestmark = pytest.mark.wide  # whole compilations, one for each member of a family

F32, F16, BF16, I64, I32, BOOL = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL,
)  # fmt: skip


# ---- values


def _branch(name: str, kernel: int) -> onnx.GraphProto:
    net = Net(prefix=name)
    net("Flatten", net("GlobalAveragePool", net("Relu", net("Conv", "x", weights(8, 1, kernel)))), out=name)
    return helper.make_graph(net.nodes, name, [], [info(name, [1, 8])], net.consts)


def _chosen(kind: int, shape: list[int]) -> onnx.ModelProto:
    """Wide kernels at a rate of 16000, narrow ones at any other; ``rate`` is an input."""
    net = Net()
    rate = net("Cast", "rate", to=F32) if kind == BOOL else "rate"
    choice = net("Equal", rate, np.array(1 if kind == BOOL else 16000, "f4" if kind in (F32, BOOL) else _numpy(kind)))
    if shape:
        choice = net("Squeeze", choice, ints(0))
    picked = net("If", choice, then_branch=_branch("wide", 16), else_branch=_branch("narrow", 8))
    net("MatMul", picked, weights(8, 4), out="y")
    return net.model({"x": [1, 1, 512], "rate": (kind, shape)}, {"y": [1, 4]})


def _numpy(kind: int) -> np.dtype:
    return helper.tensor_dtype_to_np_dtype(kind)


@pytest.mark.parametrize("shape", [[], [1]])
@pytest.mark.parametrize("kind", [I64, I32, F32])
def test_a_branch_that_an_input_chooses(kind, shape):
    model = _chosen(kind, shape)
    x = {"x": normal(1, 512, samples=32, seed=1)}, {"x": normal(1, 512, samples=8, seed=2)}
    for rate in (16000, 8000):
        module = qaccel.compile(model, calibration_data=x[0], bits=8, input_values={"rate": rate})
        wanted = floats(model, {**x[1], "rate": np.full([8] if shape else [], rate, _numpy(kind))})
        # The input is none any more; data that repeats its value is taken.
        got = [module.run({"x": x[1]["x"][k : k + 1]})["y"] for k in range(8)]
        assert decibels(wanted, np.concatenate(got).ravel()) >= 25
        again = module.run({"x": x[1]["x"][:1], "rate": np.full(shape, rate)})["y"]
        assert np.array_equal(again, got[0])
    with pytest.raises(qaccel.QaccelError, match="'rate' was fixed by --input-values"):
        module.run({"x": x[1]["x"][:1], "rate": np.full(shape, 16000)})


def test_calibration_data_may_hold_the_fixed_input(tmp_path):
    model, data = _chosen(I64, []), {"x": normal(1, 512, samples=8, seed=1), "rate": np.array(16000)}
    np.savez(tmp_path / "data.npz", **data)
    for given in (data, tmp_path / "data.npz"):
        module = qaccel.compile(model, calibration_data=given, bits=8, input_values={"rate": 16000})
        assert [each["name"] for each in module.metadata["inputs"]] == ["x"]
    with pytest.raises(qaccel.QaccelError, match="'rate' was fixed by --input-values"):
        qaccel.compile(model, calibration_data=data, bits=8, input_values={"rate": 8000})


def _reshaped(net):
    """Groups of as many columns as an input says."""
    groups = net("Cast", net("Div", np.array(12, "i8"), "n"), to=I64)
    shape = net("Concat", ints(1), net("Reshape", "n", ints(1)), net("Reshape", groups, ints(1)), axis=0)
    net("MatMul", net("Reshape", "x", shape), weights(4, 5), out="y")


def _sliced(net):
    end = net("Reshape", "n", ints(1))
    net("MatMul", net("Slice", net("Reshape", "x", ints(1, 3, 4)), ints(0), end, ints(1)), weights(4, 5), out="y")


def _tiled(net):
    times = net("Concat", ints(1), net("Reshape", "n", ints(1)), ints(1), axis=0)
    net("MatMul", net("Tile", net("Reshape", net("Slice", "x", ints(0), ints(4), ints(1)), ints(1, 1, 4)), times),
        weights(4, 5), out="y")  # fmt: skip


@pytest.mark.parametrize("make", [_reshaped, _sliced, _tiled])
def test_shapes_that_an_input_says(make):
    net = Net()
    make(net)
    model = net.model({"x": [1, 12], "n": (I64, [])}, {"y": [1, "rows", 5]})
    data, test = {"x": normal(12, samples=32, seed=1)}, {"x": normal(12, samples=8, seed=2, gain=0.7)}
    module = qaccel.compile(model, calibration_data=data, bits=8, input_values={"n": 3})
    assert macs_on_the_cpu(module) == {}
    wanted = floats(model, {**test, "n": np.array(3)})
    got = np.concatenate([module.run({"x": test["x"][k : k + 1]})["y"].ravel() for k in range(8)])
    assert decibels(wanted, got) >= 30
    with pytest.raises(
        qaccel.QaccelError, match="hangs on the value of input 'n': fix it with --input-values \"n:VALUE\""
    ):
        qaccel.compile(model, calibration_data={**data, "n": np.array(3)}, bits=8)


def test_without_the_flag_the_message_names_input_and_flag():
    with pytest.raises(qaccel.QaccelError) as caught:
        qaccel.compile(_chosen(I64, []), bits=8)
    assert str(caught.value).endswith(
        "only static graphs compile; it hangs on the value of input 'rate': fix it with --input-values \"rate:VALUE\""
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("sr:16000", {"sr": 16000}),
        ("sr:16000 flag:true", {"sr": 16000, "flag": True}),
        ("a:[1,0],b:-0.5", {"a": [1, 0], "b": -0.5}),
        ("in/sr:0:1e3", {"in/sr:0": 1e3}),
        ("sr", None),
        ("", None),
        ("sr:x", None),
        ("sr:1 sr:2", None),
    ],
)
def test_the_flag_is_read(text, values):
    if values is None:
        with pytest.raises(qaccel.QaccelError, match="--input-values"):
            parse_input_values(text)
    else:
        assert parse_input_values(text) == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sr": 1}, "names 'sr', which is not an input; inputs are x, rate"),
        ({"rate": 0.5}, "'rate' is int64, which does not hold the value given"),
        ({"rate": [1, 2]}, r"gives \[2\] values for input 'rate' of shape \[\]"),
        ({"rate": "fast"}, "'rate' takes no value of that kind"),
    ],
)
def test_values_that_do_not_fit(values, message):
    with pytest.raises(qaccel.QaccelError, match=message):
        qaccel.compile(_chosen(I64, []), bits=8, input_values=values)


def test_the_command_line_fixes_it(tmp_path, capsys):
    onnx.save(_chosen(I64, []), tmp_path / "m.onnx")
    flags = ["--target=qaccel", "--bits", "8", "-o", str(tmp_path / "m.so")]
    assert main(["compile", str(tmp_path / "m.onnx"), *flags]) == 1
    assert '--input-values "rate:VALUE"' in capsys.readouterr().err
    assert main(["compile", str(tmp_path / "m.onnx"), *flags, "--input-values", "rate:16000"]) == 0


# ---- sizes


def _convolutions(shape: list[int], result: list[int]) -> onnx.ModelProto:
    net = Net()
    a = net("Relu", net("Conv", "x", weights(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
    net("Conv", a, weights(4, 8, 3, 3), out="y", pads=[1] * 4)
    model = net.model({"x": shape}, {"y": result})
    model.graph.value_info.append(info(a, [shape[0], 8, *result[2:]]))  # what the exporter saw
    return model


@pytest.mark.parametrize("size", [(1, 3, 64, 64), (1, 3, 32, 32), (2, 3, 48, 32)])
def test_sizes_that_the_model_fixes_give_way(size):
    model = _convolutions([10, 3, 32, 32], [10, 4, 16, 16])
    data, test = (normal(*size[1:], samples=n * size[0], seed=n) for n in (8, 2))
    module = qaccel.compile(model, calibration_data={"x": data}, bits=8, input_shapes={"x": size})
    one = _convolutions([1, *size[1:]], [1, 4, size[2] // 2, size[3] // 2])
    got = module.run({"x": test})["y"]
    assert got.shape == (len(test), 4, size[2] // 2, size[3] // 2)
    assert decibels(floats(one, {"x": test}), got.ravel()) >= 30


@pytest.mark.parametrize("what", ["product", "reshape"])
def test_a_node_that_does_not_allow_another_size_is_named(what):
    net = Net()
    pooled = net("Conv", "x", weights(8, 3, 3, 3))
    flat = net("Flatten", pooled) if what == "product" else net("Reshape", pooled, ints(10, 288))
    net("MatMul", flat, weights(288, 4), out="y")
    model = net.model({"x": [10, 3, 8, 8]}, {"y": [10, 4]})
    name = "matmul2" if what == "product" else "reshape1"
    with pytest.raises(qaccel.QaccelError) as caught:
        qaccel.compile(model, bits=8, input_shapes={"x": (1, 3, 16, 16)})
    text = str(caught.value)
    assert "--input-shapes changes 'x' from [10, 3, 8, 8] to [1, 3, 16, 16]" in text and f"'{name}'" in text
    assert "\n" not in text


# ---- float16


def _halves(form: str) -> onnx.ModelProto:
    """A small network in float16: all of it, its weights alone (each with a Cast), or its inside between Casts."""
    net = Net(13)
    kind, low = (BF16, None) if form == "bfloat16" else (F16, "f2")

    def const(value):
        name = net.const(value.astype(low) if low else value)
        if not low:
            net.consts[-1].CopyFrom(helper.make_tensor(name, BF16, value.shape, value.ravel().tolist()))
        return net("Cast", name, to=F32) if form == "weights" else name

    x = net("Cast", "x", to=kind) if form == "inside" else "x"
    a = net("Relu", net("Conv", x, const(weights(8, 3, 3, 3)), pads=[1] * 4))
    if form in ("all", "inside"):
        a = net("Mul", a, net("Constant", value=helper.make_tensor("c", F16, [], [0.5])))
    flat = net("Flatten", net("GlobalAveragePool", a))
    end = form if form in ("inside", "weights") else ""
    y = net("Gemm", flat, const(weights(8, 5)), const(weights(1, 5)[0]), out="" if end == "inside" else "y")
    if end == "inside":
        net("Cast", y, out="y", to=F32)
    outer = F32 if end else kind
    return net.model({"x": (outer, [1, 3, 8, 8])}, {"y": (outer, [1, 5])})


@pytest.mark.parametrize("form", ["all", "weights", "inside", "bfloat16"])
def test_models_of_float16(form):
    model = _halves(form)
    data, test = ({"x": normal(3, 8, 8, samples=n, seed=n)} for n in (32, 8))
    module = qaccel.compile(model, calibration_data=data, bits=8)
    assert macs_on_the_cpu(module) == {}
    assert "float16 tensors are taken as float32, inputs and outputs too" in module.notes
    if form == "bfloat16":  # ONNX Runtime has no kernels for it on the CPU
        assert module.run({"x": test["x"][:1]})["y"].dtype == np.float32
        return
    given = test if form in ("weights", "inside") else {"x": test["x"].astype("f2")}
    got = np.concatenate([module.run({"x": given["x"][k : k + 1]})["y"].ravel() for k in range(8)])
    assert decibels(floats(model, given), got) >= 30


def test_float16_on_the_cpu_alone(tmp_path):
    onnx.save(_halves("all"), tmp_path / "m.onnx")
    assert main(["compile", str(tmp_path / "m.onnx"), "--target=llvm", "-o", str(tmp_path / "m.so")]) == 0
    test = {"x": normal(3, 8, 8, samples=8, seed=2).astype("f2")}
    module = qaccel.load(tmp_path / "m.so")
    got = np.concatenate([module.run({"x": test["x"][k : k + 1]})["y"].ravel() for k in range(8)])
    assert decibels(floats(_halves("all"), test), got) >= 50


def test_no_note_where_there_is_no_float16():
    net = Net()
    net("MatMul", "x", weights(8, 4), out="y")
    module = assert_close(
        net.model({"x": [1, 8]}, {"y": [1, 4]}), {"x": normal(8, samples=64, seed=1)},
        {"x": normal(8, samples=8, seed=2, gain=0.7)}, "8",
    )  # fmt: skip
    assert not any("float16" in note for note in module.notes)


def test_a_scalar_of_float16_in_a_branch():
    """Constants within the graphs of an If are widened too."""
    then = helper.make_graph(
        [helper.make_node("Mul", ["x", "half"], ["t"], "mul")], "then", [], [info("t", (F16, [1, 8]))],
        [helper.make_tensor("half", F16, [], [0.5])],
    )  # fmt: skip
    otherwise = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["e"], "relu")], "else", [], [info("e", (F16, [1, 8]))]
    )
    net = Net()
    picked = net("If", np.array(True), then_branch=then, else_branch=otherwise)
    net("MatMul", picked, weights(8, 4).astype("f2"), out="y")
    model = net.model({"x": (F16, [1, 8])}, {"y": (F16, [1, 4])})
    module = qaccel.compile(model, calibration_data={"x": normal(8, samples=64, seed=1)}, bits=8)
    x = normal(8, samples=1, seed=2, gain=0.7).astype("f2")
    assert decibels(floats(model, {"x": x}), module.run({"x": x})["y"].ravel()) >= 25


def test_a_model_of_float64():
    """It ended in an internal error of the linker; ONNX Runtime has float64 products, and no such convolutions."""
    net = Net()
    hidden = net("Relu", net("Gemm", "x", weights(16, 24).astype("f8"), weights(1, 24)[0].astype("f8")))
    net("Gemm", hidden, weights(24, 8).astype("f8"), out="y")
    model = net.model({"x": (TensorProto.DOUBLE, [1, 16])}, {"y": (TensorProto.DOUBLE, [1, 8])})
    data, test = ({"x": normal(16, samples=n, seed=n)} for n in (32, 8))
    wanted = floats(model, {"x": test["x"].astype("f8")})
    for how, floor in (({"calibration_data": data, "bits": 8}, 30), ({"target": "llvm"}, 120)):
        module = qaccel.compile(model, **how)
        assert decibels(wanted, outputs(module, test)) >= floor
        assert "float64 tensors are taken as float32, inputs and outputs too" in module.notes


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weights_that_are_no_numbers(bad):
    """It is the weights that are named, not the samples."""
    net, damaged = Net(), weights(4, 3, 3, 3)
    damaged[1, 2, 0, 0] = bad
    net("Conv", "x", damaged, out="y")
    model = net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 6]})
    for how in ({}, {"calibration_data": {"x": normal(3, 8, 8, samples=16, seed=1)}}):
        with pytest.raises(qaccel.UserError, match=rf"node 'conv0' gives .*: its weights hold {bad}; export"):
            qaccel.compile(model, **how)
