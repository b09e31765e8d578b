"""Tensors of unlike ranges that become one: boxes in pixels beside scores, at the network's end and inside it."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest

import qaccel
from cases.heads import HEADS, Head, pictures
from cases.nets import Net, decibels, ints, scalar, weights
from qaccel.qdq.write import qdq_model
from qaccel.report.page.page import report_html

pytestmark = pytest.mark.wide  # whole compilations, one for each member of a family

FLOORS = {"8": 20.0, "W16A16": 45.0}
CALIBRATION, TEST = pictures(16, 1), pictures(4, 2)
Outputs = dict[str, np.ndarray]


def _runs(run, test: Mapping[str, np.ndarray] = TEST) -> Outputs:
    """Outputs by name, samples along a new axis 0."""
    made = [run({"x": x[None]}) for x in test["x"]]
    return {name: np.stack([each[name] for each in made]) for name in made[0]}


def _in_onnxruntime(model: onnx.ModelProto) -> Outputs:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return _runs(lambda feed: dict(zip(names, session.run(None, feed), strict=True)))


def _check(head: Head, bits, floor: float = FLOORS["8"], **how) -> qaccel.Module:
    """Every part by itself; the simulator, the CPU and ONNX Runtime on the QDQ file agree. Returns the module."""
    network = qaccel.quantize(head.model, CALIBRATION, bits=bits, **how)
    module = qaccel.compile(network)
    made, wanted = _runs(module.run), _in_onnxruntime(head.model)
    for name, (output, index) in head.parts.items():
        a, b = (
            values[output][(slice(None), *index) if isinstance(index, tuple) else index] for values in (wanted, made)
        )
        assert decibels(a, b) >= floor, f"{name}: {decibels(a, b):.1f} dB"
    on_cpu = _runs(qaccel.compile(network, target="llvm").run)
    for output, values in made.items():
        np.testing.assert_array_equal(values, on_cpu[output])
    if any("16-bit table" in note for note in network.notes):
        return module  # which no QDQ file can say
    from_file = _in_onnxruntime(qdq_model(network.quantized))
    for output, values in made.items():
        # Products in float32 tip a few integers over; one step of the widest part is far more than 1e-5 of it.
        differs = np.abs(values - from_file[output]) > 1e-5 * np.abs(values).max()
        assert differs.mean() <= 2e-3, f"{output}: {differs.mean():.2%} of values differ from the QDQ file's"
    return module


def _reasons(module: qaccel.Module) -> dict[str, str]:
    return {each["op"]: each["reason"] for each in module.report["fallback"]}


def _boxes_and_scores(net: Net, gain: float = 250) -> tuple[str, str]:
    """Boxes of 0 to 320 and scores of 0 to 1, 4 and 6 channels of 32x32."""
    body = net("Relu", net("Conv", "x", weights(8, 3, 3, 3), pads=[1] * 4))
    boxes = net(
        "Clip", net("Mul", net("Conv", body, weights(4, 8, 1, 1)), scalar(gain)), scalar(0), scalar(1.28 * gain)
    )
    return boxes, net("Sigmoid", net("Conv", body, weights(6, 8, 1, 1, gain=2), np.full(6, -4, "f4")))


def _head(net: Net, shape: list[int], boxes, scores) -> Head:
    return Head(net.model({"x": [1, 3, 32, 32]}, {"y": shape}), {"boxes": ("y", boxes), "scores": ("y", scores)})


def _joined(net: Net, y: str) -> Head:
    net("Identity", y, out="y")
    return _head(net, [1, 10, 32, 32], np.s_[:, :4], np.s_[:, 4:])


@pytest.mark.parametrize("bits", ["8", "W16A16"])
def test_parts_of_an_output_keep_their_scales(bits):
    """The case concat_unlike: on one scale of 8 bits all scores were 0."""
    net = Net()
    module = _check(_joined(net, net("Concat", *_boxes_and_scores(net), axis=1)), bits, FLOORS[bits])
    assert _reasons(module).keys() == {"Concat"}
    assert "joined after dequantization" in _reasons(module)["Concat"]
    assert not module.report["shared_scales"]


JOINED = ("yolov5", "yolov8", "ssd", "centernet", "scrfd")


@pytest.mark.parametrize(
    "name", [name if name in JOINED else pytest.param(name, marks=pytest.mark.slow) for name in HEADS]
)
def test_heads_of_detectors(name):
    module = _check(HEADS[name](), 8)
    assert set(_reasons(module)) <= {"Concat", "Softmax"}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_heads_at_16_bits(name):
    _check(HEADS[name](), "W16A16", FLOORS["W16A16"])


def _turned(net, boxes, scores):
    rows = [net("Reshape", net("Transpose", v, perm=[0, 2, 3, 1]), ints(1, 1024, -1)) for v in (boxes, scores)]
    return net("Concat", *rows, axis=2), [1, 1024, 10], np.s_[..., :4], np.s_[..., 4:]


def _chained(net, boxes, scores):
    first, second = (net("Slice", scores, ints(a), ints(b), ints(1)) for a, b in ((0, 2), (2, 6)))
    y = net("Concat", net("Concat", boxes, first, axis=1), second, axis=1)
    return y, [1, 10, 32, 32], np.s_[:, :4], np.s_[:, 4:]


def _unsqueezed(net, boxes, scores):
    y = net("Concat", boxes, net("Slice", scores, ints(0), ints(4), ints(1)), axis=1)
    return net("Unsqueeze", y, ints(0)), [1, 1, 8, 32, 32], np.s_[:, :, :4], np.s_[:, :, 4:]


def _cut_again(net, boxes, scores):
    y = net("Concat", scores, boxes, axis=1)
    return net("Slice", y, ints(2), ints(9), ints(1)), [1, 7, 32, 32], np.s_[:, 4:], np.s_[:, :4]


def _scaled(net, boxes, scores):
    """Joined on like scales, and only then brought to pixels."""
    small = net("Mul", boxes, scalar(1 / 320))
    gains = np.array([320] * 4 + [1] * 6, "f4").reshape(1, -1, 1, 1)
    return net("Mul", net("Concat", small, scores, axis=1), gains), [1, 10, 32, 32], np.s_[:, :4], np.s_[:, 4:]


def _clipped(net, boxes, scores):
    y = net("Clip", net("Concat", boxes, scores, axis=1), scalar(0), scalar(300))
    return y, [1, 10, 32, 32], np.s_[:, :4], np.s_[:, 4:]


FORMS = [_turned, _chained, _unsqueezed, _cut_again, _scaled, _clipped]


@pytest.mark.parametrize("form", FORMS)
def test_ways_to_the_output(form):
    net = Net()
    y, *how = form(net, *_boxes_and_scores(net))
    net("Identity", y, out="y")
    module = _check(_head(net, *how), 8)
    assert "Concat" in _reasons(module) or form is _scaled


def test_parts_of_like_range_stay_on_the_accelerator():
    net = Net()
    boxes, scores = _boxes_and_scores(net, gain=0.2)
    module = _check(_joined(net, net("Concat", boxes, scores, axis=1)), 8)
    assert module.report["fallback"] == [] and module.report["shared_scales"] == []


def test_an_output_that_the_network_reads_too():
    """The output is joined from parts, and a layer reads the join on its one scale: both from one Concat."""
    net = Net()
    joined = net("Concat", *_boxes_and_scores(net), axis=1, out="y")
    net("Conv", joined, weights(4, 10, 3, 3), strides=[4, 4], out="z")
    model = net.model({"x": [1, 3, 32, 32]}, {"y": [1, 10, 32, 32], "z": [1, 4, 8, 8]})
    parts = {"boxes": ("y", np.s_[:, :4]), "scores": ("y", np.s_[:, 4:]), "z": ("z", ...)}
    module = _check(Head(model, parts), 8)
    (part,) = module.report["shared_scales"]
    assert part["plan"] == {"conv8": {"weight_bits": 8, "activation_bits": 16}}


def test_pieces_of_a_join_come_from_its_parts():
    """Split again, scores are what they were before; the join itself is there for its other reader."""
    for other_reader in (False, True):
        net = Net()
        joined = net("Concat", *_boxes_and_scores(net), axis=1)
        flat = net("Reshape", joined, ints(1, 10, 1024))
        boxes, scores = (net("Slice", flat, ints(a), ints(b), ints(1)) for a, b in ((0, 4), (4, 10)))
        net("MaxPool", net("Reshape", scores, ints(1, 6, 32, 32)), kernel_shape=[2, 2], strides=[2, 2], out="s")
        net("MaxPool", net("Reshape", boxes, ints(1, 4, 32, 32)), kernel_shape=[2, 2], strides=[2, 2], out="b")
        outputs = {"s": [1, 6, 16, 16], "b": [1, 4, 16, 16]}
        if other_reader:
            net("Conv", joined, weights(4, 10, 1, 1), strides=[4, 4], out="z")
            outputs["z"] = [1, 4, 8, 8]
        model = net.model({"x": [1, 3, 32, 32]}, outputs)
        module = _check(Head(model, {name: (name, ...) for name in outputs}), 8)
        assert module.report["fallback"] == []
        assert bool(module.report["shared_scales"]) == other_reader


# ---- inside the network


def _inside(op: str, pool: bool = False) -> Head:
    """A part of 1/200 of the range in a Concat or Add, and a layer that weighs both alike."""
    net = Net()
    body = net("Relu", net("Conv", "x", weights(8, 3, 3, 3, gain=1.5), pads=[1] * 4))
    wide = net("Mul", net("Conv", body, weights(4, 8, 1, 1, seed=1)), scalar(100))
    narrow = net("Sigmoid", net("Conv", body, weights(4, 8, 1, 1, seed=2)))
    x = net("Concat", wide, narrow, axis=1) if op == "Concat" else net("Add", wide, narrow)
    kernel = weights(4, 8 if op == "Concat" else 4, 1, 1, seed=3)
    kernel[:, :4] /= 100 if op == "Concat" else 1
    x = net("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]) if pool else x
    net("Conv", x, kernel, out="y")
    size = 16 if pool else 32
    return Head(net.model({"x": [1, 3, 32, 32]}, {"y": [1, 4, size, size]}), {"y": ("y", ...)})


def _shared(module: qaccel.Module) -> tuple[dict, str]:
    """The only part that shares a scale, and the note that says so."""
    (part,), (note,) = module.report["shared_scales"], [n for n in module.notes if n.startswith("parts of unlike")]
    return part, note


@pytest.mark.parametrize("pool", [False, True])
def test_bits_that_were_asked_for_stay_and_the_plan_cures(pool):
    head = _inside("Concat", pool)
    module = _check(head, 8)
    assert {layer["activation_bits"] for layer in module.report["layers"]} == {8}
    part, note = _shared(module)
    last = "conv8" if pool else "conv7"
    assert (part["join"], part["part"], part["bits"], part["taken"]) == ("concat6", "sigmoid5", 8, False)
    assert 0 < part["share"] < 1 / 16 and 10 < part["sqnr_db"] < 25
    assert part["plan"] == {last: {"weight_bits": 8, "activation_bits": 16}}
    for words in (
        "'sigmoid5' in 'concat6'",
        f"{part['sqnr_db']:.0f} dB",
        f'"{last}": {{"weight_bits": 8, "activation_bits": 16}}',
    ):
        assert words in note
    assert "Parts that share a scale</h2>" in report_html(module.report)
    # By itself: what rounding towards the outputs makes up for hides some of it.
    plain, cured = (
        qaccel.compile(head.model, calibration_data=CALIBRATION, bits=bits, effort="fast") for bits in (8, part["plan"])
    )
    assert cured.report["shared_scales"] == []
    wanted = _in_onnxruntime(head.model)["y"]
    before, after = (decibels(wanted, _runs(each.run)["y"]) for each in (plain, cured))
    assert after > before + 2


def test_16_bits_are_taken_where_no_width_was_given():
    head = _inside("Concat")
    module = _check(head, None)
    part, note = _shared(module)
    assert part["taken"] and "16 bits are taken for 'conv7'" in note
    bits = {layer["name"]: layer["activation_bits"] for layer in module.report["layers"]}
    assert bits["conv7"] == bits["concat6"] == 16 and bits["conv2"] == 8


def test_a_plan_that_names_the_layer_is_obeyed():
    plan = {"conv7": {"weight_bits": 8, "activation_bits": 8}}
    module = qaccel.compile(_inside("Concat").model, calibration_data=CALIBRATION, bits=plan)
    assert not _shared(module)[0]["taken"]
    assert {layer["activation_bits"] for layer in module.report["layers"]} == {8}


def test_an_add_gets_the_note_and_keeps_its_bits():
    for bits in (8, None):
        module = _check(_inside("Add"), bits)
        part, _ = _shared(module)
        assert (part["join"], part["part"], part["taken"]) == ("add6", "sigmoid5", False)
        assert {layer["activation_bits"] for layer in module.report["layers"]} == {8}


def test_at_16_bits_nothing_is_lost():
    assert _check(_inside("Concat"), "W16A16", 45).report["shared_scales"] == []


def test_a_slice_of_16_bits_is_read_at_8_on_its_own_range():
    net = Net()
    joined = net("Concat", *_boxes_and_scores(net), axis=1)
    kept = net("Conv", joined, np.eye(10, dtype="f4").reshape(10, 10, 1, 1))
    scores = net("Slice", kept, ints(4), ints(10), ints(1))
    net("Conv", scores, weights(4, 6, 1, 1), out="y")
    net("Conv", kept, weights(4, 10, 1, 1), out="z")
    model = net.model({"x": [1, 3, 32, 32]}, {"y": [1, 4, 32, 32], "z": [1, 4, 32, 32]})
    plan = {name: {"weight_bits": 8, "activation_bits": 16} for name in ("conv9", "conv7")}
    plan |= {"conv12": {"weight_bits": 8, "activation_bits": 16}}
    plan = {name: widths for name, widths in plan.items() if name in {node.name for node in model.graph.node}}
    _check(Head(model, {"y": ("y", ...), "z": ("z", ...)}), plan)


# ---- outputs of one scale


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_integer_outputs_have_one_scale_and_a_note_says_what_it_costs(dtype):
    net = Net()
    head = _joined(net, net("Concat", *_boxes_and_scores(net), axis=1))
    network = qaccel.quantize(head.model, CALIBRATION, bits=8)
    module = qaccel.compile(network, io_dtype=dtype)
    (note,) = [each for each in module.notes if "one scale" in each]
    assert "output 'y'" in note and "'sigmoid6' spans" in note and "--io-dtype float32" in note
    entry, end = module.metadata["inputs"][0], module.metadata["outputs"][0]
    feed = np.rint(TEST["x"][:1] / np.float32(entry["scale"])) + entry["zero_point"]
    feed = {"x": np.clip(feed, *((-128, 127) if dtype == "int8" else (0, 255))).astype(dtype)}
    made = module.run(feed)["y"]
    on_cpu = qaccel.compile(network, target="llvm", io_dtype=dtype).run(feed)["y"]
    np.testing.assert_array_equal(made, on_cpu)
    real = (made.astype(np.float32) - end["zero_point"]) * np.float32(end["scale"])
    floats = qaccel.compile(network).run({"x": TEST["x"][:1]})["y"]
    assert np.abs(real - floats).max() <= 0.501 * end["scale"]


def test_integer_outputs_round_what_a_float_operator_joins():
    module = qaccel.compile(HEADS["ssd"]().model, calibration_data=CALIBRATION, bits=8, io_dtype="int8")
    (note,) = [each for each in module.notes if "one scale" in each]
    assert "'softmax20' is rounded to them" in note
