"""Ranges without data: made-up inputs, batch-norm statistics, and how far either is trusted."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from tvm import relax

import qaccel
from frontend.onnx_models import model, node, ort_run
from qaccel.errors import UserError
from qaccel.frontend.import_onnx import import_onnx
from qaccel.frontend.import_relax import import_relax
from qaccel.model import Model
from qaccel.options import CompileOptions
from qaccel.quant.calibrate.calibration import measure
from qaccel.quant.calibrate.inputs.synthetic import DEVIATIONS, HEADROOM, synthetic_inputs, widened
from qaccel.quant.calibrate.ranges import Ranges, calibrate

RNG = np.random.default_rng(90)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def network():
    scale, bias = np.array([2.0, -0.5, 1.0], np.float32), np.array([1.0, -3.0, 0.0], np.float32)
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="norm"),
        node("Relu", ["n"], ["r"], name="relu"),
        node("Conv", ["r", "w2"], ["d"], name="last"),
        node("Sigmoid", ["d"], ["y"], name="gate"),
    ]
    consts = {
        "w": weights(3, 2, 3, 3), "s": scale, "b": bias, "m": weights(3), "v": np.abs(weights(3)) + 0.5,
        "w2": weights(4, 3, 1, 1),
    }  # fmt: skip
    return import_onnx(model(nodes, consts, (1, 2, 8, 8))), scale, bias


def test_statistics_survive_the_import_at_the_node_that_gives_the_tensor():
    imported, scale, bias = network()
    assert [n.op_type for n in imported.operators] == ["Conv", "Relu", "Conv", "Sigmoid"]
    assert list(imported.statistics) == ["conv"]
    mean, deviation = imported.statistics["conv"]
    assert np.array_equal(mean, bias) and np.array_equal(deviation, np.abs(scale))


def test_ranges_are_the_channels_furthest_deviations_and_what_follows_is_scaled_with_them():
    imported, scale, bias = network()
    made = calibrate(imported, synthetic_inputs(imported.inputs, (-1, 1), 8), "minmax")
    ranges = widened(made, imported, ["x"]).values
    assert ranges["x"] == made.values["x"]
    lo, hi = (bias - DEVIATIONS * np.abs(scale)).min(), (bias + DEVIATIONS * np.abs(scale)).max()
    assert np.allclose(ranges["conv"], (lo, hi))
    factor = max(-lo, hi) / max(map(abs, made.values["conv"]))
    for name in ("relu", "last"):
        assert np.allclose(ranges[name], np.multiply(made.values[name], factor))
    # A Sigmoid stays within its bounds, and what it has reached it may reach again.
    assert np.allclose(ranges["gate"], (0, min(1, made.values["gate"][1] * max(factor, 1))))


def test_without_statistics_there_is_headroom():
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Clip", ["c", "lo", "hi"], ["r"], name="relu6"),
        node("Conv", ["r", "w"], ["d"], name="last"),
        node("Tanh", ["d"], ["y"], name="tanh"),
    ]
    consts = {"w": weights(2, 2, 1, 1), "lo": np.float32(0), "hi": np.float32(6)}
    imported = import_onnx(model(nodes, consts, (1, 2, 4, 4)))
    made = Ranges(
        {"x": (-1.0, 1.0), "conv": (-2.0, 3.0), "relu6": (0.0, 3.0), "last": (-1.0, 1.0), "tanh": (-0.1, 0.9)}, "", 1
    )
    assert widened(made, imported).values == {
        "x": (-HEADROOM, HEADROOM), "conv": (-2 * HEADROOM, 3 * HEADROOM), "relu6": (0.0, 6.0),
        "last": (-HEADROOM, HEADROOM), "tanh": (-0.1 * HEADROOM, 1.0),  # a bound takes nothing off what follows
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "function"),
    [
        ([node("Pow", ["x", "two"], ["y"], name="square")], lambda x: x**2),
        ([node("Exp", ["x"], ["y"], name="exp")], np.exp),
        ([node("Abs", ["x"], ["a"], name="abs"), node("Mul", ["x", "a"], ["y"], name="product")], lambda x: x * abs(x)),
    ],
    ids=["square", "exp", "product"],
)
def test_what_grows_faster_than_its_inputs_has_the_room(nodes, function):
    """Inputs of three times the guessed range lie within the headroom, and so does what is made of them."""
    proto = model(nodes, {"two": np.float32(2)} if len(nodes) == 1 and nodes[0].op_type == "Pow" else {}, (1, 2, 8, 8))
    x = np.random.default_rng(1).uniform(-3, 3, (1, 2, 8, 8)).astype(np.float32)
    (got,) = qaccel.compile(proto).run({"x": x}).values()
    wanted = function(x.astype(np.float64))
    assert 10 * np.log10(np.square(wanted).sum() / np.square(got - wanted).sum()) > 60


def test_the_same_network_as_relax_and_as_onnx_has_the_same_ranges():
    rng = np.random.default_rng(91)
    w, bias = rng.standard_normal((3, 2, 3, 3)).astype(np.float32), rng.standard_normal((1, 3, 1, 1)).astype(np.float32)
    w2 = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], name="conv"),
        node("Clip", ["c", "lo", "hi"], ["r"], name="relu6"),
        node("Conv", ["r", "w2"], ["d"], name="last"),
        node("Softmax", ["d"], ["s"], name="soft", axis=1),
        node("Sigmoid", ["d"], ["g"], name="gate"),
        node("Split", ["d"], ["d0", "d1"], name="halves", axis=1),
        node("Concat", ["d1", "d0"], ["t"], name="turned", axis=1),
        node("Add", ["s", "g"], ["sum"], name="sum"),
        node("Mul", ["sum", "t"], ["y"], name="y"),
    ]
    consts = {"w": w, "b": bias.reshape(3), "lo": np.float32(0), "hi": np.float32(6), "w2": w2}
    from_onnx = import_onnx(model(nodes, consts, (1, 2, 8, 8)))

    op, builder = relax.op, relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 2, 8, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            product = builder.emit(op.nn.conv2d(x, relax.const(w)), "conv")
            relu6 = builder.emit(op.clip(builder.emit(op.add(product, relax.const(bias)), "biased"), 0, 6), "relu6")
            last = builder.emit(op.nn.conv2d(relu6, relax.const(w2)), "last")
            soft = builder.emit(op.nn.softmax(last, 1), "soft")
            gate = builder.emit(op.sigmoid(last), "gate")
            halves = builder.emit(op.split(last, 2, 1), "halves")
            first, second = (builder.emit(relax.TupleGetItem(halves, k)) for k in (0, 1))
            turned = builder.emit(op.concat([second, first], 1), "turned")
            result = op.multiply(builder.emit(op.add(soft, gate), "sum"), turned)
            result = builder.emit_output(result, "y")
        builder.emit_func_output(result)
    from_relax = import_relax(builder.get())

    # The import of ONNX makes a slice of each half, so that "halves" are two nodes there.
    expected, made = (
        {n: v for n, v in measure(each, CompileOptions()).ranges.values.items() if "halves" not in n}
        for each in (from_onnx, from_relax)
    )
    assert expected["relu6"] == (0, 6) and expected["soft"] == (0, 1) and max(expected["last"]) > HEADROOM
    assert made == expected
    named = [
        [(each.name, each.op_type) for each in m.operators if "halves" not in each.name]
        for m in (from_onnx, from_relax)
    ]
    assert named[0] == named[1]


def test_guessed_ranges_of_integers():
    """Of 8 bits all values, of more bits those of bytes, but not of what is an index into a table."""
    nodes = [node("Cast", [name], [f"f{name}"], to=TensorProto.FLOAT) for name in ("a", "b", "c")]
    nodes += [
        node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        node("Gather", ["table", "wide"], ["g"]),
        node("Sum", ["fa", "fb", "fc", "g", "d"], ["y"]),
    ]
    proto = model(nodes, {"table": weights(10, 4)}, {"d": (3, 4)})
    for name, kind in (("a", "UINT8"), ("b", "INT32"), ("c", "UINT16"), ("ids", "INT32")):
        shape = [3] if name == "ids" else [3, 4]
        proto.graph.input.append(helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape))
    measured = measure(import_onnx(proto), CompileOptions())
    ends = {name: (float(value.min()), float(value.max())) for name, value in measured.samples.items()}
    assert ends == {"d": (-1, 1), "a": (0, 255), "b": (-128, 255), "c": (0, 255), "ids": (-1, 1)}
    assert "in -1..1, 'a' in 0..255, 'b' in -128..255, 'c' in 0..255, a guess" in measured.notes[0]
    said = measure(import_onnx(proto), CompileOptions(input_range=(0, 9))).samples
    assert {name: float(value.max()) for name, value in said.items()} == dict.fromkeys(ends, 9)


@pytest.mark.parametrize("op", ["Acosh", "Log"])
def test_a_guess_moves_to_where_a_function_has_numbers(op):
    """Without data and within a few times what was guessed, against ONNX Runtime: Acosh had one sample left, of 1 alone (17 dB)."""
    proto = model([node(op, ["x"], ["y"], name="y")], {}, (1, 3, 8, 8))
    x = np.random.default_rng(91).uniform(1.0, 4.0, (1, 3, 8, 8)).astype(np.float32)
    wanted = ort_run(proto, {"x": x})["y"]
    off = qaccel.compile(proto).run({"x": x})["y"] - wanted
    assert 10 * np.log10(np.square(wanted).sum() / np.square(off).sum()) > 50


def _masked() -> Model:
    """A Softmax over what a boolean input keeps: nan where that keeps nothing, as flat made-up inputs do."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Where", ["keep", "c", "least"], ["m"], name="where"),
        node("Softmax", ["m"], ["y"], name="softmax", axis=-1),
    ]
    made = model(nodes, {"w": weights(3, 2, 1, 1), "least": np.array(-np.inf, np.float32)}, (1, 2, 8, 8))
    made.graph.input.append(helper.make_tensor_value_info("keep", TensorProto.BOOL, [1, 1, 1, 8]))
    return import_onnx(made)


def test_made_up_inputs_that_give_no_numbers_are_left_out():
    measured = measure(_masked(), CompileOptions())
    left = len(measured.samples["x"])
    assert 0 < left < 16 and measured.samples["keep"].any(-1).all()
    assert f"without {16 - left} of 16" in measured.notes[0]
    assert measured.ranges.values["softmax"] == (0.0, 1.0)


def test_no_made_up_input_may_be_left():
    nodes = [node("Sub", ["x", "five"], ["s"], name="less"), node("Log", ["s"], ["y"], name="log")]
    never = import_onnx(model(nodes, {"five": np.array(5, np.float32)}, (1, 2, 8, 8)))
    with pytest.raises(UserError, match="node 'log' gives nan on every made-up input; .* --input-range"):
        measure(never, CompileOptions())
