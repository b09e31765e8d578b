"""Losses against formulas of NumPy and ONNX Runtime; causes in networks that have one each; remedies that do what they promise."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qaccel
from qaccel.cli.main import main
from qaccel.quant.analysis.losses import measure_losses

sys.path.insert(0, str(Path(__file__).parents[2]))
from small_models import chain, samples

SEED = 20261129


def network(change=None, out=4) -> onnx.ModelProto:
    """Two 3x3 convolutions with a Relu between, x [1, 3, 12, 12] -> y; ``change`` alters the first one's weights [8, 3, 3, 3]."""
    rng = np.random.default_rng(SEED)
    w1, w2 = rng.standard_normal((8, 3, 3, 3)) / 5, rng.standard_normal((out, 8, 3, 3)) / 8
    if change is not None:
        change(w1, w2)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["y"], name="second"),
    ]
    weights = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in (("w1", w1), ("w2", w2))]
    ends = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)]
        for n, s in (("x", [1, 3, 12, 12]), ("y", [1, out, 8, 8]))
    ]
    graph = helper.make_graph(nodes, "network", *ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def data(count=32, outliers=False) -> dict[str, np.ndarray]:
    x = np.random.default_rng(SEED + 1).standard_normal((count, 3, 12, 12)).astype(np.float32)
    return {"x": x}


def floats(model: onnx.ModelProto, x: np.ndarray, name: str) -> np.ndarray:
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([name], {"x": each[None]})[0] for each in x])


def db(real: np.ndarray, made: np.ndarray) -> float:
    real, made = real.astype(np.float64), made.astype(np.float64)
    return float(10 * np.log10((real**2).sum() / ((real - made) ** 2).sum()))


def test_losses_are_what_onnxruntime_and_numpy_say():
    """The first layer's tensor: rounded alone, weights alone, and accumulated in the network's own integers."""
    model, x = network(), data()
    q = qaccel.quantize(model, x, bits="W4A8", passes=())
    losses = {each.node: each for each in measure_losses(q.quantized, x)}
    assert list(losses) == ["x", "first", "second"]
    first, scale = losses["first"], losses["first"].q.scale
    real = floats(model, x["x"], "r")
    rounded = np.clip(np.rint(real / scale) + first.q.zero_point, -128, 127) - first.q.zero_point
    assert first.tensor == "relu" and first.rounded_db == pytest.approx(db(real, rounded * scale), abs=0.01)
    (w1,) = (numpy_helper.to_array(each) for each in model.graph.initializer if each.name == "w1")
    step = np.abs(w1).reshape(8, -1).max(1)[:, None, None, None] / 7
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array((np.rint(w1 / step) * step).astype(np.float32), "w1"))
    error = floats(changed, x["x"], "c") - floats(model, x["x"], "c")
    error -= error.mean(axis=(0, 2, 3), keepdims=True)
    products = floats(model, x["x"], "c")
    assert first.weights_db == pytest.approx(db(products, products + error), abs=0.05)
    made = q.run(x)["y"]
    assert losses["second"].accumulated_db == pytest.approx(db(floats(model, x["x"], "y"), made), abs=0.01)
    assert losses["second"].reads == ("first",) and first.weight_bits == 4


def outlier(w1, w2):
    w1[5] *= 40  # one channel reaches 40 times as far as the others, and counts as much as they


@pytest.mark.parametrize(
    ("change", "options", "node", "what", "cause"),
    [
        (None, {"bits": "W4A8"}, "first", "weights", "rounding"),
        (outlier, {"bits": "W8A4"}, "first", "activations", "outlier channel"),
        (None, {"bits": "W8A4"}, "first", "activations", "rounding"),
    ],
)
def test_cause_of_the_worst_source(change, options, node, what, cause):
    analysis = qaccel.analyze(network(change), data(), passes=(), **options)
    worst = next(each for each in analysis.sources if each.finding.node != "x")
    assert (worst.finding.node, worst.finding.what, worst.finding.cause) == (node, what, cause)
    assert worst.points > 0 and worst.gain_points is not None and worst.gain_points > 0


def test_a_range_that_was_cut_is_the_cause():
    """One value in thirty thousand is far away: percentile leaves it out, and it is most of the tensor's power."""
    x = data(64)
    x["x"][4, 1, 5, 5] = 60.0
    analysis = qaccel.analyze(network(), x, bits=8, calibration="percentile", passes=())
    cut = [each.finding for each in analysis.sources if each.finding.cause == "range cut"]
    assert cut and all(each.remedy == "--calibration minmax" and each.gain_db > 3 for each in cut)


def test_a_shared_scale_is_the_cause():
    rng = np.random.default_rng(SEED)
    weights = [
        rng.standard_normal((4, 3, 1, 1)) * 50,
        rng.standard_normal((4, 3, 1, 1)) / 50,
        rng.standard_normal((4, 8, 1, 1)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["wide"], name="wide"),
        helper.make_node("Conv", ["x", "b"], ["narrow"], name="narrow"),
        helper.make_node("Concat", ["wide", "narrow"], ["joined"], name="joined", axis=1),
        helper.make_node("Conv", ["joined", "c"], ["y"], name="last"),
    ]
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 12, 12])] for n, c in (("x", 3), ("y", 4))]
    held = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in zip("abc", weights, strict=True)]
    model = helper.make_model(
        helper.make_graph(nodes, "joined", *ends, held), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    analysis = qaccel.analyze(model, data(), bits=8, passes=())
    finding = next(each.finding for each in analysis.sources if each.finding.cause == "shared scale")
    assert finding.node == "narrow" and {b.activation_bits for b in finding.plan.values()} == {16}


def test_the_remedy_gains_what_was_promised():
    """With the worst source's lines in the plan, the drop falls, and that source's error by what was predicted."""
    before = qaccel.analyze(network(outlier), data(15), bits="W8A4", passes=())
    worst = next(each for each in before.sources if each.finding.node != "x")
    plan = {**before.quantized.plan, **worst.finding.plan}
    after = qaccel.analyze(network(outlier), data(15), bits=plan, passes=())
    found = next(each for each in after.sources if (each.finding.node, each.finding.what) == ("first", "activations"))
    gained = before.drop.points - after.drop.points
    assert 0.5 < gained / worst.gain_points < 2  # alone on 8 samples, among the others on 15: too few to hold any out
    assert found.finding.db - worst.finding.db == pytest.approx(worst.finding.gain_db, abs=1.5)


def test_command_line(tmp_path, capsys):
    onnx.save(chain(), tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", **samples(chain(), 24))
    words = ["analyze", str(tmp_path / "m.onnx"), "--calibration-data", str(tmp_path / "c.npz"), "--bits", "W4A4"]
    assert main([*words, "-o", str(tmp_path / "a.json"), "--plan", str(tmp_path / "p.json"), "-v"]) == 0
    text = capsys.readouterr().out
    assert "estimated drop: " in text and "sources of error" in text and "accumulated" in text
    written = json.loads((tmp_path / "a.json").read_text())
    assert {each["node"] for each in written["tensors"]} >= {"conv1", "conv2", "classifier"}
    assert written["sources"] == sorted(written["sources"], key=lambda each: -each["points"])
    assert qaccel.quantize(chain(), samples(chain(), 24), bits=tmp_path / "p.json").plan.keys() == {
        "conv1",
        "conv2",
        "classifier",
    }


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"calibration_data": None}, "analyze measures on samples what each rounding loses; add --calibration-data"),
        ({"calibration_data": data(), "bits": "auto"}, "--bits auto chooses them; give 8, W4A8, or a plan.json"),
    ],
)
def test_what_cannot_be_analyzed(options, error):
    with pytest.raises(qaccel.UserError, match=error):
        qaccel.analyze(network(), **options)
