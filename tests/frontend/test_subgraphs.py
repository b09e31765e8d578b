"""Graphs within Loop and Scan, written out where the number of steps is known: the values of ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import qaccel
from frontend.backend_cases import cases
from frontend.onnx_models import model, node, ort_run
from qaccel.errors import UserError

X = np.random.default_rng(5).standard_normal((2, 3)).astype("f4")
W = np.random.default_rng(6).standard_normal((3, 3)).astype("f4")
NUMBERS = {"n": np.array(4), "yes": np.array(True), "w": W, "two": np.array(2), "one": np.array(1)}


def graph(nodes: list, inputs: dict, outputs: dict) -> onnx.GraphProto:
    """Kinds and shapes by name."""
    ins, outs = ([helper.make_tensor_value_info(n, *each) for n, each in ends.items()] for ends in (inputs, outputs))
    return helper.make_graph(nodes, "body", ins, outs)


INTEGER, BOOL, REAL = (TensorProto.INT64, []), (TensorProto.BOOL, []), (TensorProto.FLOAT, [2, 3])


def loop(condition: list, count: str = "n", start: str = "yes", inner: tuple = ()) -> list:
    """v = tanh(v @ w) + step, every step's v as well; ``condition``: the nodes that say whether to go on."""
    body = [
        *inner, node("MatMul", ["v", "w"], ["m"]), node("Tanh", ["m"], ["t"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT), node("Add", ["t", "f"], ["next"]),
        node("Identity", ["next"], ["all"]), *condition,
    ]  # fmt: skip
    ins = {"i": INTEGER, "c": BOOL, "v": REAL}
    outs = {"go": BOOL, "next": REAL, "all": REAL}
    return [node("Loop", [count, start, "x"], ["y", "s"], name="again", body=graph(body, ins, outs))]


SAME = [node("Identity", ["c"], ["go"])]
COUNTED = [node("Less", ["i", "two"], ["go"])]  # a while that ends after three steps
TURNED = {"scan_input_directions": [1], "scan_output_directions": [1], "scan_output_axes": [1]}


def scan(**attributes: object) -> list:
    """A sum that goes on along the second axis of x, and what it was at every step."""
    vector = TensorProto.FLOAT, [2]
    body = graph(
        [node("Add", ["s", "e"], ["sum"]), node("Identity", ["sum"], ["all"])],
        {"s": vector, "e": vector}, {"sum": vector, "all": vector},
    )  # fmt: skip
    return [
        node("ReduceMean", ["x"], ["start"], axes=[1], keepdims=0),
        node(
            "Scan",
            ["start", "x"],
            ["y", "s"],
            name="along",
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            **attributes,
        ),
    ]


def nested() -> list:
    """A Loop in a Loop, both reading what is outside of them, under names that are used in both."""
    inner = loop(SAME, "two")[0]
    body = graph(
        [node("Loop", ["two", "yes", "v"], ["m", "q"], name="inner", body=inner.attribute[0].g), node("Add", ["m", "x"], ["next"]), *SAME],
        {"i": INTEGER, "c": BOOL, "v": REAL}, {"go": BOOL, "next": REAL, "q": (TensorProto.FLOAT, [2, 2, 3])},
    )  # fmt: skip
    return [node("Loop", ["n", "", "x"], ["y", "s"], name="outer", body=body)]


CASES = {
    "for": loop(SAME),
    "for without a condition": loop(SAME, start=""),
    "while": loop(COUNTED, count=""),
    "for that ends early": loop(COUNTED),
    "nested": nested(),
    "scan": scan(),
    "scan from behind": scan(**TURNED),
}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("name", CASES)
def test_steps_are_written_out(name: str, opset: int) -> None:
    proto = model(CASES[name], NUMBERS, (2, 3), ("y", "s"), opset=opset)
    wanted = ort_run(proto, {"x": X})
    got = qaccel.compile(proto, target="llvm").run({"x": X})
    for out in ("y", "s"):
        np.testing.assert_allclose(got[out], wanted[out], rtol=1e-5, atol=1e-6)


def test_a_loop_on_the_accelerator() -> None:
    """Every step's product is a layer; the number of steps is an input that is fixed."""
    proto = model(loop(SAME, "count"), NUMBERS, (2, 3), ("y", "s"))
    proto.graph.input.append(helper.make_tensor_value_info("count", *INTEGER))
    with pytest.raises(UserError, match=r"'again': Loop repeats a graph .*--input-values \"count:VALUE\""):
        qaccel.compile(proto, input_range=(-3, 3))
    module = qaccel.compile(proto, input_range=(-3, 3), input_values={"count": 4})
    wanted = ort_run(proto, {"x": X, "count": np.array(4)})["s"]
    got = module.run({"x": X})["s"]
    assert [layer.name for layer in module.report.layers if layer.macs] == [f"again/{k}/m" for k in range(4)]
    assert 10 * np.log10(np.square(wanted).sum() / np.square(got - wanted).sum()) > 40


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (loop(SAME, start="asked"), "'again': Loop repeats a graph a number of times that is known only"),
        (loop(SAME, "", "yes"), "'again': Loop repeats a graph more than 512 times"),
    ],
)
def test_other_loops_are_refused(nodes: list, reason: str) -> None:
    proto = model(nodes, NUMBERS, (2, 3), ("y", "s"))
    proto.graph.input.append(helper.make_tensor_value_info("asked", *BOOL))
    with pytest.raises(UserError, match=reason):
        qaccel.compile(proto, target="llvm")


def test_an_operator_that_onnx_spells_with_a_scan() -> None:
    """LinearAttention: the values that ONNX's own test has."""
    case = next(each for each in cases() if each.name == "test_linear_attention_gated_delta")
    (given, wanted), *_ = case.data
    module = qaccel.compile(case.model, target="llvm")
    got = module.run({info.name: each for info, each in zip(case.model.graph.input, given, strict=True)})
    for info, each in zip(case.model.graph.output, wanted, strict=True):
        np.testing.assert_allclose(got[info.name], each, atol=1e-5)


@pytest.mark.parametrize("ends_by_data", [False, True])
def test_a_loop_that_gives_its_last_values_alone(ends_by_data: bool) -> None:
    """Without outputs of all steps it ended in an error about an attribute, also where its end hangs on data and is refused."""
    after = [node("ReduceSum", ["next"], ["sum"], keepdims=0), node("Greater", ["sum", "bound"], ["go"])]
    body = [node("MatMul", ["v", "w"], ["m"]), node("Tanh", ["m"], ["next"]), *(after if ends_by_data else SAME)]
    inner = graph(body, {"i": INTEGER, "c": BOOL, "v": REAL}, {"go": BOOL, "next": REAL})
    nodes = [node("Loop", ["n", "yes", "x"], ["y"], name="again", body=inner)]
    proto = model(nodes, {**NUMBERS, "bound": np.float32(0)}, {"x": (2, 3)}, ("y",))
    if ends_by_data:
        with pytest.raises(UserError, match="node 'again': Loop repeats a graph a number of times"):
            qaccel.compile(proto)
    else:
        wanted, x = X, {"x": X}
        for _ in range(4):
            wanted = np.tanh(wanted @ W)
        np.testing.assert_allclose(qaccel.compile(proto, target="llvm").run(x)["y"], wanted, atol=1e-6)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding_is_what_onnx_defines(interleaved: int) -> None:
    """Of three dimensions, at positions that are an input, half of each head turned: the values of ONNX Runtime."""
    turn = np.outer(np.arange(6), [1, 0.1]).astype("f4")
    rotary = node(
        "RotaryEmbedding", ["x", "cos", "sin", "at"], ["y"], num_heads=2, rotary_embedding_dim=4, interleaved=interleaved
    )  # fmt: skip
    proto = model([rotary], {"cos": np.cos(turn), "sin": np.sin(turn)}, {"x": (2, 5, 16)}, ("y",), opset=23)
    proto.graph.input.append(helper.make_tensor_value_info("at", TensorProto.INT64, [2, 5]))
    rng = np.random.default_rng(interleaved)
    feeds = {"x": rng.standard_normal((2, 5, 16)).astype("f4"), "at": rng.integers(0, 6, (2, 5))}
    got = qaccel.compile(proto, target="llvm").run(feeds)["y"]
    np.testing.assert_allclose(got, ort_run(proto, feeds)["y"], atol=1e-6)


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_what_onnx_defines_between_quantized_tensors(domain: str) -> None:
    """ONNX's inference knows no operators of ONNX Runtime's domain, and its definitions ask for the types of their operands."""
    ends = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], domain=domain),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], domain=domain),
    ]
    attention = node("Attention", ["d", "d", "d"], ["y"], q_num_heads=2, kv_num_heads=2)
    proto = model([*ends, attention], {"s": np.float32(0.03), "z": np.int8(0)}, {"x": (1, 5, 8)}, ("y",), opset=23)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = {"x": np.random.default_rng(1).standard_normal((1, 5, 8)).astype("f4")}
    np.testing.assert_allclose(qaccel.compile(proto).run(x)["y"], ort_run(proto, x)["y"], atol=1e-5)
