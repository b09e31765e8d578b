"""Bits by search from end to end on networks small enough to know better: limits, what is said, what is kept."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qaccel
import small_models
from qaccel import pipeline
from qaccel.emulate.perturbed import Variant, perturbed, weights_of
from qaccel.frontend.import_model import import_model
from qaccel.options import BitWidths, CompileOptions, Limits
from qaccel.pipeline import laboratory
from qaccel.quant.calibrate.calibration import measure
from qaccel.quant.search.search import search
from qaccel.quant.search.sensitivity import nearest
from qaccel.quant.search.space import Choice
from qaccel.report.page.page import report_html
from qaccel.report.page.search import pareto_picture
from quant.search.enumerable import network
from tiers import wide_after


def quantize(seed: int, **arguments: Any) -> qaccel.QuantizedNetwork:
    model, samples = network(seed)
    return qaccel.quantize(model, samples, **{"bits": "auto", **arguments})


def _divergence(model: onnx.ModelProto, q: qaccel.QuantizedNetwork, x: np.ndarray) -> float:
    """Mean KL divergence of the scores from those of ONNX Runtime's float network."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    wanted = np.concatenate([session.run(None, {"x": each[None]})[0] for each in x]).astype(np.float64)
    got = q.run({"x": x})["y"].astype(np.float64)
    logs = [each - np.log(np.exp(each).sum(axis=1, keepdims=True)) for each in (wanted, got)]
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())


def test_the_module_costs_and_the_network_loses_what_the_search_says() -> None:
    """Against the simulator's report, and ONNX Runtime's float network beside the integers on the samples that were held out."""
    model, samples = network(0)
    q = qaccel.quantize(model, samples, bits="auto")
    module = qaccel.compile(q)
    chosen, drop = q.quantized.chosen, q.quantized.drop
    assert chosen is not None and drop is not None
    assert (module.report["cycles"], module.report["dram_bytes"]["weights"]) == (chosen.cycles, chosen.bytes)
    held = np.concatenate([samples["x"][12:16], samples["x"][28:32]])  # the last four of every 16
    assert (drop.samples, drop.held_out) == (len(held), True)
    assert drop.losses["y"] == pytest.approx(_divergence(model, q, held), rel=1e-3)
    assert drop.points <= 1.0
    assert module.report["drop"]["points"] == drop.points and module.report["search"]["gap"] <= 0.01
    assert any(note.startswith("--bits auto: ") for note in q.notes)
    page, entry = report_html(module.report), module.report["search"]
    drawn = [each.data_source.data.get("points", ()) for each in pareto_picture(entry).chart.renderers]
    points = [plan["points"] for plan in (*entry["curve"], *entry["plans"])]
    assert sorted(point for marks in drawn for point in marks) == sorted(points)
    assert all(decision.why.replace("+", "&#43;") in page or decision.why in page for decision in chosen.decisions)
    assert json.loads(json.dumps(entry)) == json.loads(json.dumps(module.metadata["report"]["search"]))


@pytest.mark.parametrize("seed", wide_after(2, (0, 5, 1, 4, 6, 7, 8)))
def test_hard_limits_combine(seed: int) -> None:
    """The least bytes at 16 points are a limit that can be kept beside the drop, at some price in cycles."""
    least = quantize(seed, minimize="bytes", max_drop=16).quantized.chosen
    both = quantize(seed, max_drop=16, max_bytes=least.bytes).quantized.chosen
    assert both.bytes <= least.bytes and both.drop.points <= 16 and both.cycles <= least.cycles
    assert both.limits == {"max_drop": 16, "max_bytes": least.bytes}
    with pytest.raises(qaccel.UserError, match="no plan keeps --max-drop 16 and --max-bytes"):
        quantize(seed, max_drop=16, max_bytes=least.bytes // 2)


def test_the_fewest_bytes_are_paid_for() -> None:
    """Where bytes are minimized rounding pays as far as the drop allows; the module has the bytes, and plain rounding more."""
    model, samples = network(0)
    q = qaccel.quantize(model, samples, bits="auto", minimize="bytes", max_drop=8)
    chosen = q.quantized.chosen
    assert chosen is not None and chosen.rate > 0 and chosen.drop.points <= 8
    assert (
        qaccel.compile(q).report["dram_bytes"]["weights"]
        == chosen.bytes
        == min(each.bytes for each in chosen.plans if each.chosen)
    )
    plain = qaccel.quantize(model, samples, bits=chosen.plan, max_drop=100)
    assert chosen.bytes < qaccel.compile(plain).report["dram_bytes"]["weights"]
    assert any("paid for a bit" in note for note in q.notes)


def test_the_nearest_plan_may_pay_for_bits() -> None:
    """Where no plan keeps a limit on bytes: it is nearer than the same plan rounded to nearest."""
    with pytest.raises(
        qaccel.UserError, match="no plan keeps --max-bytes 9; the nearest, .* paid for a bit, takes"
    ) as raised:
        quantize(0, max_bytes=9)
    nearest = int(re.search(r"cycles and ([\d,]+) bytes", str(raised.value))[1].replace(",", ""))
    fewest = quantize(0, bits="W4A8", max_drop=100)
    assert nearest < qaccel.compile(fewest).report["dram_bytes"]["weights"]


def test_a_plan_without_layers_is_of_tensors() -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, k, k]) for n, k in (("x", 8), ("y", 4))]
    graph = helper.make_graph([pool], "pool", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    samples = np.random.default_rng(0).standard_normal((20, 4, 8, 8)).astype(np.float32)
    q = qaccel.quantize(model, {"x": samples}, bits="auto")
    (note,) = (note for note in q.notes if note.startswith("--bits auto: "))
    assert re.match(r"--bits auto: A\d+ in 1 of 1 groups of tensors; \d+ cycles, ", note)


def test_only_a_cost_is_limited_and_the_drop_is_least() -> None:
    chosen = quantize(0, max_bytes=800).quantized.chosen
    assert chosen is not None and chosen.minimize == "drop" and chosen.bytes <= 800
    limits = [
        Limits(),
        Limits(max_cycles=9),
        Limits(max_cycles=9, max_drop=2),
        Limits("drop"),
        Limits("bytes", max_bytes=9),
    ]
    assert [(x.minimized, x.max_points) for x in limits] == [
        ("cycles", 1.0), ("drop", np.inf), ("cycles", 2.0), ("drop", np.inf), ("bytes", 1.0)
    ]  # fmt: skip


def test_costs_of_the_tables_are_doubted_where_the_drop_is_least() -> None:
    """16-bit weights beside 16-bit inputs take more cycles than the limit by the tables, and less as they run.

    The plan is what trying all 81 finds (`bench_search.py enumerate`).
    """
    model, samples = network(23)
    options = CompileOptions(calibration_data=samples, auto=True)
    imported = import_model(model, None, None, None)
    lab = laboratory(imported, measure(imported, options), options)
    best = laboratory(imported, measure(imported, options), options).trial(Choice((16, 16), (16, 8)))
    assert best.cost is not None
    chosen = search(lab, Limits(max_cycles=best.cost.cycles), lambda _: None).chosen
    assert chosen is not None
    assert chosen.cycles <= best.cost.cycles and chosen.drop.points <= best.estimate.points


def test_a_plan_says_why_and_can_be_read_back(tmp_path: Path) -> None:
    model, samples = network(1)
    q = qaccel.quantize(model, samples, bits="auto", minimize="bytes")
    assert all("would take" in entry["why"] for name, entry in q.plan.items() if name.startswith("conv"))
    (tmp_path / "plan.json").write_text(json.dumps(q.plan))
    again = qaccel.quantize(model, samples, bits=tmp_path / "plan.json")
    assert again.quantized.plan == q.quantized.plan
    assert (
        qaccel.compile(again).report["weights"]["quantized_bytes"]
        == qaccel.compile(q).report["weights"]["quantized_bytes"]
    )


def test_a_uniform_plan_names_what_has_no_weights() -> None:
    """The sum at the end is in the plan, which read back is the same network."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((8, 3, 1, 1)).astype(np.float32), name) for name in "vw"]
    nodes = [helper.make_node("Conv", ["x", name], [f"c{name}"], f"c{name}") for name in "vw"]
    nodes.append(helper.make_node("Add", ["cv", "cw"], ["y"], "sum"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 8, 8]) for n, c in (("x", 3), ("y", 8))]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    samples = {"x": rng.standard_normal((20, 3, 8, 8)).astype(np.float32)}
    chosen = qaccel.quantize(model, samples, bits="auto", minimize="drop").quantized.chosen
    assert chosen is not None and {*chosen.plan.values()} == {BitWidths(16, 16), BitWidths(8, 16)}
    assert chosen.plan["sum"].activation_bits == 16
    again = qaccel.compile(qaccel.quantize(model, samples, bits=chosen.plan)).report
    assert (again["cycles"], again["dram_bytes"]["weights"]) == (chosen.cycles, chosen.bytes)


def test_other_limits_measure_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = quantize(2, minimize="bytes").quantized.chosen

    def measured(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("qaccel.quant.search.sensitivity.perturbed", measured)
    monkeypatch.setattr("qaccel.quant.calibrate.calibration.calibrate", measured)
    second = quantize(2, minimize="bytes", max_drop=3).quantized.chosen
    assert first is not None and second is not None and second.bytes <= first.bytes
    model, samples = network(2)
    with pytest.raises(qaccel.CompilerFault, match="measured again"):
        qaccel.quantize(model, {"x": samples["x"][::-1]}, bits="auto")


@pytest.mark.parametrize("bits", ["auto", None, 8, "W4A8"])
def test_few_samples_are_said(bits: Any) -> None:
    """Fewer than 16 are said, whether bits are chosen, given, or the default; of 16 four are held out to judge."""
    model, samples = network(0)
    q = qaccel.quantize(model, {"x": samples["x"][:15]}, bits=bits, max_drop=50)
    assert q.quantized.drop is not None and not q.quantized.drop.held_out and q.quantized.drop.samples == 15
    assert any("fewer than 16" in note for note in q.notes)
    q = qaccel.quantize(model, {"x": samples["x"][:16]}, bits=bits, max_drop=50)
    assert q.quantized.drop is not None and (q.quantized.drop.samples, q.quantized.drop.held_out) == (4, True)
    assert not any("fewer than 16" in note for note in q.notes)


def test_one_sample_says_nothing_for_sure() -> None:
    """Of an output of values the error of an estimate from one sample is all there is; the report stays JSON."""
    model, samples = network(3)
    module = qaccel.compile(model, calibration_data={"x": samples["x"][:1]}, bits=4)
    assert module.report["drop"]["error"] == 100 and "Infinity" not in json.dumps(module.report)


def test_no_plan_runs_on_the_accelerator() -> None:
    """Uniform plans that run before the passes and not after them: one line, and no minimum of nothing."""
    model, samples = network(0)
    imported, options = import_model(model, None, None, None), CompileOptions(calibration_data=samples, auto=True)
    lab = laboratory(imported, measure(imported, options), options)
    assert len(lab.prices) == 9

    def refused(_: Any) -> Any:
        raise qaccel.UserError("too large")

    lab.price = refused
    with pytest.raises(qaccel.UserError, match=r"takes none of the \d+ plans .* it takes --bits W"):
        search(lab, Limits(), lambda _: None)


def test_uniform_bits_are_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With passes and without: what the judge asks for was made for the plan. Of plans by node the last."""
    model, samples = network(0)
    imported, options = import_model(model, None, None, None), CompileOptions(calibration_data=samples)
    asked = []
    rounded = pipeline._rounded
    monkeypatch.setattr(pipeline, "_rounded", lambda *args: asked.append(args[-1]) or rounded(*args))
    lab = laboratory(imported, measure(imported, options), options)
    first = lab.make(BitWidths(8, 8))
    assert lab.plain(BitWidths(8, 8)).plan == first.plan and lab.make(BitWidths(8, 8)).plan == first.plan
    assert asked == [BitWidths(8, 8)]
    few, more = {"conv0": BitWidths(4, 8)}, {"conv0": BitWidths(16, 8)}
    for bits in (few, dict(few), more, few):
        assert lab.make(bits).plan["conv0"] == bits["conv0"]
    assert asked[1:] == [few, more, few]


def test_no_width_fails_silently() -> None:
    """Given bits that lose too much are said, with what is to blame; the default takes 16 bits for it."""
    model, samples = network(0)
    good = qaccel.quantize(model, samples, max_drop=5)
    assert not any("drop" in note for note in good.notes) and {*good.plan["conv0"].values()} == {8}
    cpu = qaccel.compile(model, target="llvm", calibration_data=samples, max_drop=good.quantized.drop.points / 8)
    assert any("16 bits are taken for" in note for note in cpu.notes)
    ends = qaccel.compile(model, calibration_data=samples, max_drop=good.quantized.drop.points / 8, io_dtype="int8")
    assert {entry["activation_bits"] for entry in ends.report["layers"]} == {8}
    given = qaccel.quantize(model, samples, bits=4)
    (warning,) = [note for note in given.notes if note.startswith("warning: ")]
    assert "--bits W4A4" in warning and "more than --max-drop 1" in warning and "alone" in warning
    assert {*given.plan["conv0"].values()} == {4}
    kept = qaccel.quantize(model, samples, bits=8, max_drop=1e-3)
    assert {*kept.plan["conv0"].values()} == {8} and any("--bits W8A8" in note for note in kept.notes)
    widened = qaccel.quantize(model, samples, max_drop=good.quantized.drop.points / 8)  # type: ignore[union-attr]
    (said,) = [note for note in widened.notes if "16 bits are taken for" in note]
    assert 16 in {bits for entry in widened.plan.values() for bits in entry.values()}
    assert widened.quantized.drop.points < good.quantized.drop.points / 4, said  # type: ignore[union-attr]


def test_weights_that_fit_few_samples_ask_for_more() -> None:
    """With 256 weights a channel and 48 samples rounding makes their outputs right and no others'; to nearest it knows none."""
    rng = np.random.default_rng(0)
    node, info = helper.make_node, helper.make_tensor_value_info
    weights = [numpy_helper.from_array(rng.normal(size=(256, 64)).astype("f4"), "w")]
    nodes = [node("MatMul", ["x", "w"], ["h"], "wide"), node("Relu", ["h"], ["y"], "relu")]
    ends = info("x", TensorProto.FLOAT, [1, 256]), info("y", TensorProto.FLOAT, [1, 64])
    graph = helper.make_graph(nodes, "g", [ends[0]], [ends[1]], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    samples = {"x": rng.normal(size=(64, 256)).astype("f4")}

    def warning(**options: Any) -> tuple[str, qaccel.QuantizedNetwork]:
        q = qaccel.quantize(model, samples, max_drop=0.01, **options)
        (found,) = [note for note in q.notes if note.startswith("warning: ")]
        return found, q

    said, q = warning(bits="W4A8")
    number = re.search(r"; 16 samples that calibrated it lose ([\d.]+) \+- [\d.]+ points: give more of them", said)
    assert number is not None, said
    learned = samples["x"].reshape(4, 16, -1)[:, :12].reshape(48, -1)[:16]  # the last four of every 16 judge
    exact = np.maximum(learned @ numpy_helper.to_array(weights[0]), 0)
    noise = np.square(q.run({"x": learned})["y"] - exact).sum() / np.square(exact).sum()
    assert float(number[1]) == pytest.approx(100 * noise, rel=0.01)
    assert q.quantized.drop.points > 3 * float(number[1])  # type: ignore[union-attr]
    for options in ({"bits": "W4A8", "effort": "fast"}, {"bits": 8}):
        assert "that calibrated it" not in warning(**options)[0]


def test_what_has_no_weights_is_judged_too() -> None:
    """A difference of what is nearly equal: nothing of it is left at 8 bits, and no weights are to blame."""
    info, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    ends = [info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in ("x", "y", "o")]
    nodes = [node("Add", ["x", "y"], ["s"], "sum"), node("Sub", ["s", "x"], ["o"], "left")]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", ends[:2], ends[2:]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    rng = np.random.default_rng(0)
    samples = {name: (rng.standard_normal((32, 64)) * scale).astype("f4") for name, scale in (("x", 100), ("y", 0.1))}
    given = qaccel.quantize(model, samples, bits=8)
    (warning,) = [note for note in given.notes if note.startswith("warning: ")]
    assert (
        "--bits W8A8" in warning
        and "more than --max-drop 1" in warning
        and "'x' and 3 that share its width at 8 bits" in warning
    )
    outputs = given.run(samples)["o"]
    assert np.square(outputs - samples["y"]).sum() > np.square(samples["y"]).sum()
    widened = qaccel.quantize(model, samples)
    assert any("16 bits are taken for activations of 'x' and 3" in note for note in widened.notes)
    assert np.square(widened.run(samples)["o"] - samples["y"]).sum() < 0.01 * np.square(samples["y"]).sum()


@pytest.mark.parametrize(
    "options", [{"bits": "auto", "max_cycles": 5}, {"bits": "auto", "max_bytes": 5}, {"bits": 8, "max_bytes": 5}]
)
def test_limits_of_a_network_on_the_cpu_are_moot(options: dict) -> None:
    model = small_models.volume()
    del model.graph.node[1]
    model.graph.node[0].output[:] = ["y"]
    q = qaccel.quantize(model, small_models.samples(model, 16), **options)
    (limit,) = [f"--{name.replace('_', '-')} 5" for name in options if name != "bits"]
    (said,) = [note for note in q.notes if limit in note]
    assert said.endswith(f"{limit} limits nothing: every layer stays on the CPU")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_no_uniform_plan_is_better(seed: int) -> None:
    """Under what each uniform plan costs, a plan that loses no more than it."""
    model, samples = network(seed)
    imported, options = import_model(model, None, None, None), CompileOptions(calibration_data=samples, auto=True)
    lab = laboratory(imported, measure(imported, options), options)
    for widths in lab.prices:
        trial = lab.trial(lab.space.uniform(widths))
        cost = trial.cost  # of the rounded weights, whose streams are others than those that the first prices are of
        assert cost is not None
        chosen = qaccel.quantize(
            model, samples, bits="auto", max_cycles=cost.cycles, max_bytes=cost.bytes
        ).quantized.chosen
        assert chosen is not None and chosen.cycles <= cost.cycles and chosen.bytes <= cost.bytes
        assert chosen.drop.points <= trial.estimate.points * (1 + 1e-9)


def test_a_layer_with_other_weights_is_onnx_runtimes() -> None:
    """The weights in the file replaced by the rounded ones, and the layer's mean put back by its bias."""
    model, samples = network(0)
    imported = import_model(model, None, None, None)
    weight, axis = weights_of(imported)["conv0"]
    rounded = nearest(weight, axis, 4)
    flat = weight.reshape(len(weight), -1)
    scale = np.abs(flat).max(axis=1) / 7
    assert np.allclose(rounded.reshape(len(weight), -1), np.round(flat / scale[:, None]) * scale[:, None], atol=1e-6)
    results = {}
    for name, value in (("float", weight), ("rounded", rounded)):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        (tensor,) = [each for each in changed.graph.initializer if each.name == "w_conv0"]
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, "w_conv0"))
        changed.graph.output.append(onnx.helper.make_tensor_value_info("conv0", onnx.TensorProto.FLOAT, None))
        if name == "rounded":
            shift = (results["float"][1] - results_of(changed, samples)[1]).mean(axis=(0, 2, 3))
            changed.graph.initializer.append(onnx.numpy_helper.from_array(shift.astype(np.float32), "b"))
            next(node for node in changed.graph.node if node.name == "conv0").input.append("b")
        results[name] = results_of(changed, samples)
    passes = list(
        perturbed(imported, samples, [Variant(weights={"conv0": rounded}), Variant(values={"conv0": np.zeros_like})])
    )
    got = np.concatenate([made[0]["y"] for _, made in passes])
    assert np.allclose(np.concatenate([reference["y"] for reference, _ in passes]), results["float"][0], atol=1e-4)
    assert np.allclose(got, results["rounded"][0], atol=1e-4)
    assert not np.concatenate([made[1]["y"] for _, made in passes]).any()  # scores of nothing


def results_of(model: onnx.ModelProto, samples: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    runs = [session.run(None, {"x": each[None]}) for each in samples["x"]]
    return [np.concatenate(each) for each in zip(*runs, strict=True)]


def test_what_judges_does_not_correct() -> None:
    """Biases are corrected towards the means of the samples that correct them: at 16 bits, where nothing is lost, nothing moves."""
    model, samples = network(0)
    plain, corrected = (
        qaccel.quantize(model, samples, bits=(16, 16), passes=passes, max_drop=50).quantized.drop
        for passes in ((), None)
    )
    assert plain is not None and corrected is not None and corrected.held_out
    assert corrected.losses["y"] < 2 * plain.losses["y"]
