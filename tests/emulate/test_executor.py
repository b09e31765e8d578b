"""The float executor against ONNX Runtime: kernels, batches, observation, operators left to TVM."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from frontend.onnx_models import model, node, ort_run, worst
from qaccel.dialect import kernels as numpy_kernels
from qaccel.emulate import float_operators as float_rules
from qaccel.emulate.executor import execute
from qaccel.emulate.steps import plan_of
from qaccel.errors import QaccelError
from qaccel.frontend.import_onnx import import_onnx


def one_by_one(proto: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    """ONNX Runtime on each sample of a model with batch 1."""
    pieces = [ort_run(proto, {"x": x[k : k + 1]}) for k in range(len(x))]
    return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}


@settings(max_examples=150)
@given(data=st.data())
@pytest.mark.wide
def test_convolution(data: st.DataObject) -> None:
    """Dense, grouped, depthwise with multiplier; several samples; pieces so small that every loop repeats."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.sampled_from([1, 1, 2, 3, 6]))
    per_group, multiplier = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 5)) for _ in range(2)]
    dilations = [draw(st.integers(1, 2)) for _ in range(2)]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    size = [(k - 1) * d + 1 + draw(st.integers(0, 12)) for k, d in zip(kernel, dilations, strict=True)]
    w = rng.standard_normal((groups * multiplier, per_group, *kernel)).astype(np.float32)
    x = rng.standard_normal((draw(st.integers(1, 4)), groups * per_group, *size)).astype(np.float32)
    attrs = {"group": groups, "strides": strides, "dilations": dilations, "pads": pads}
    consts = {"w": w, "b": rng.standard_normal(len(w)).astype(np.float32)}
    proto = model([node("Conv", ["x", "w", "b"], ["y"], **attrs)], consts, (1, *x.shape[1:]))
    budget = draw(st.sampled_from([1, 1000, 1 << 20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_kernels, "COLUMN_BYTES", budget)
        patch.setattr(numpy_kernels, "BLOCK_BYTES", budget)
        seen: dict[str, np.ndarray] = {}
        result = execute(import_onnx(proto), {"x": x}, seen.__setitem__)
    assert worst(result, one_by_one(proto, x)) < 2e-5
    np.testing.assert_array_equal(seen["y"], result["y"])  # the bias is in what is observed


UNARY = [
    "Relu",
    "Sigmoid",
    "Tanh",
    "Exp",
    "Sqrt",
    "Neg",
    "Abs",
    "LeakyRelu",
    "HardSwish",
    "HardSigmoid",
    "Elu",
    "Gelu",
    "Softplus",
    "Erf",
    "Softmax",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Floor",
]


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    x = np.random.default_rng(3).uniform(-30, 30, (3, 4, 5, 6)).astype(np.float32)
    x = np.abs(x) if op == "Sqrt" else x / 3 if op == "Exp" else x
    proto = model([node(op, ["x"], ["y"])], {}, (1, 4, 5, 6), opset=20)
    assert worst(execute(import_onnx(proto), {"x": x}), one_by_one(proto, x)) < 1e-5


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max"])
@pytest.mark.parametrize("constant", [(), (5,), (4, 1, 1), (1, 4, 1, 1), (1, 4, 5, 5)])
def test_binary_with_constant(op: str, constant: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    x, c = rng.standard_normal((3, 4, 5, 5)).astype(np.float32), rng.uniform(1, 2, constant).astype(np.float32)
    for inputs in (["x", "c"], ["c", "x"]):
        proto = model([node(op, inputs, ["y"])], {"c": c}, (1, 4, 5, 5))
        x = np.sign(x) * (np.abs(x) + 0.1)
        assert worst(execute(import_onnx(proto), {"x": x}), one_by_one(proto, x)) < 1e-6


SHAPED = {
    "channel shuffle": (
        [
            node("Reshape", ["x", "a"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["t", "b"], ["y"]),
        ],
        {"a": np.array([1, 2, 3, 4, 5]), "b": np.array([1, 6, 4, 5])},
        True,
    ),
    "batch folded into channels and back": (
        [node("Reshape", ["x", "a"], ["r"]), node("Relu", ["r"], ["t"]), node("Reshape", ["t", "b"], ["y"])],
        {"a": np.array([6, 20]), "b": np.array([1, 6, 4, 5])},
        True,
    ),
    "batch folded into channels, then a constant per channel": (
        [node("Reshape", ["x", "a"], ["r"]), node("Mul", ["r", "c"], ["t"]), node("Reshape", ["t", "b"], ["y"])],
        {"a": np.array([6, 20]), "b": np.array([1, 6, 4, 5]), "c": np.arange(6, dtype=np.float32)[:, None]},
        False,
    ),
    "batch axis squeezed, then a vector": (
        [
            node("GlobalAveragePool", ["x"], ["p"]),
            node("Reshape", ["p", "a"], ["r"]),
            node("Add", ["r", "c"], ["t"]),
            node("Reshape", ["t", "b"], ["y"]),
        ],
        {"a": np.array([6]), "b": np.array([1, 6]), "c": np.arange(6, dtype=np.float32)},
        False,
    ),
    "batch axis moved": (
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]),
            node("Softmax", ["t"], ["s"], axis=0),
            node("Transpose", ["s"], ["y"], perm=[1, 0, 2, 3]),
        ],
        {},
        False,
    ),
    "softmax over the batch": ([node("Softmax", ["x"], ["y"], axis=0)], {}, False),
    "two operands of different rank": (
        [node("Reshape", ["x", "a"], ["r"]), node("Add", ["x", "r"], ["y"])],
        {"a": np.array([6, 4, 5])},
        False,
    ),
    "attention": (
        [
            node("Reshape", ["x", "a"], ["q"]),
            node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
            node("MatMul", ["q", "k"], ["s"]),
            node("Softmax", ["s"], ["p"]),
            node("MatMul", ["p", "q"], ["y"]),
        ],
        {"a": np.array([1, 6, 20])},
        True,
    ),
    "concatenation": ([node("Relu", ["x"], ["r"]), node("Concat", ["r", "x"], ["y"], axis=1)], {}, True),
    "concatenation of samples": (
        [node("Concat", ["x", "x"], ["t"], axis=0), node("ReduceMax", ["t"], ["y"], axes=[0])],
        {},
        False,
    ),
    "each sample's own indices": (
        [
            node("ReduceMax", ["x"], ["m"], axes=[2, 3], keepdims=0),
            node("ArgMax", ["m"], ["i"], axis=1, keepdims=0),
            node("Gather", ["x", "i"], ["g"], axis=1),
            node("Relu", ["g"], ["y"]),
        ],
        {},
        False,
    ),  # fmt: skip
    "split": ([node("Split", ["x"], ["a", "b", "c"], axis=1), node("Sub", ["a", "c"], ["y"])], {}, True),
    "two dense layers": (
        [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w"], ["g"]), node("MatMul", ["g", "v"], ["y"])],
        {
            "w": np.random.default_rng(1).standard_normal((120, 7), np.float32),
            "v": np.random.default_rng(2).standard_normal((7, 3), np.float32),
        },
        True,
    ),
}


@pytest.mark.parametrize("name", list(SHAPED))
def test_larger_batches(name: str) -> None:
    """A module imported with batch 1 gives each sample of a batch its own result, in one pass where that is allowed."""
    nodes, consts, one_pass = SHAPED[name]
    proto = model(nodes, consts, (1, 6, 4, 5))
    x = np.random.default_rng(5).standard_normal((5, 6, 4, 5)).astype(np.float32)
    imported = import_onnx(proto)
    assert plan_of(imported).batchable == one_pass
    assert worst(execute(imported, {"x": x}), one_by_one(proto, x)) < 1e-5
    assert worst(execute(imported, {"x": x}, lambda name, value: None), one_by_one(proto, x)) < 1e-5


def test_batch_of_the_model_may_be_larger_than_one() -> None:
    proto = model([node("Flatten", ["x"], ["y"])], {}, (2, 3, 4))
    x = np.arange(72, dtype=np.float32).reshape(6, 3, 4)
    np.testing.assert_array_equal(execute(import_onnx(proto), {"x": x})["y"], x.reshape(6, 12))


def test_observe_sees_every_node_and_input() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"], name="conv"),
            node("HardSwish", ["c"], ["h"], name="swish"),
            node("Split", ["h"], ["a", "b"], name="split", axis=1),
            node("Add", ["a", "b"], ["y"], name="add"),
        ],
        {"w": np.random.default_rng(6).standard_normal((4, 3, 3, 3)).astype(np.float32)},
        (1, 3, 6, 6),
        ("y", "c", "h", "a", "b"),
    )
    x = np.random.default_rng(7).standard_normal((1, 3, 6, 6)).astype(np.float32)
    seen: dict[str, list[np.ndarray]] = {}
    execute(import_onnx(proto), {"x": x}, lambda name, value: seen.setdefault(name, []).append(value.copy()))
    expected = ort_run(proto, {"x": x})
    pairs = {
        "x": [x],
        "conv": [expected["c"]],
        "swish": [expected["h"]],
        "split:0": [expected["a"]],
        "split:1": [expected["b"]],
        "add": [expected["y"]],
    }
    assert list(seen) == list(pairs)
    for name, values in pairs.items():
        assert len(seen[name]) == len(values)
        for value, wanted in zip(seen[name], values, strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_values_are_not_overwritten() -> None:
    """A kept value stays what it was when it was observed, though its layer's bias is added in place."""
    rng = np.random.default_rng(8)
    proto = model(
        [
            node("Conv", ["x", "w", "b"], ["c"], name="conv"),
            node("Add", ["c", "k"], ["d"], name="add"),
            node("Relu", ["d"], ["y"]),
        ],
        {
            "w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
            "b": np.ones(4, np.float32),
            "k": np.ones((1, 1, 6, 6), np.float32),
        },
        (1, 3, 6, 6),
    )
    x = rng.standard_normal((1, 3, 6, 6)).astype(np.float32)
    seen: dict[str, np.ndarray] = {}
    execute(import_onnx(proto), {"x": x}, seen.__setitem__)
    np.testing.assert_array_equal(seen["conv"] + 1, seen["add"])


def test_wrong_inputs_are_refused() -> None:
    imported = import_onnx(model([node("Relu", ["x"], ["y"])], {}, (2, 3)))
    for arrays in ({}, {"x": np.zeros((2, 4))}, {"x": np.zeros(3)}, {"x": np.zeros((3, 3))}, {"x": np.zeros((0, 3))}):
        with pytest.raises(QaccelError, match="'x'"):
            execute(imported, arrays)


@pytest.mark.bench
def test_efficientnet_takes_60_ms_an_image(shared_dir: Path) -> None:
    imported = import_onnx(shared_dir / "models" / "efflite0.onnx")
    x = np.zeros((1, 3, 224, 224), np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        execute(imported, {"input": x})
        times.append(time.perf_counter() - start)
    assert min(times) < 0.060


@pytest.mark.parametrize("name", sorted(float_rules.UNARY))
def test_rules_of_functions_keep_double_precision(name: str) -> None:
    """Look-up tables are made with these rules in float64."""
    attrs = {"relax.clip": (-1.0, 1.0), "relax.nn.leakyrelu": (0.1,)}.get(name, ())
    variable = relax.Var("x", relax.TensorType((5,), "float32"))
    operator = getattr(relax.op.nn if ".nn." in name else relax.op, name.rsplit(".", 1)[1])
    builder = relax.BlockBuilder()
    call = builder.normalize(operator(variable, *attrs))
    kernel = float_rules.RULES[name](call)
    assert kernel is not None
    x = np.array([0.1, 1 / 3, 0.5, 0.7, 0.9]) + (1.0 if name == "relax.acosh" else 0.0)
    wide, narrow = kernel(x), kernel(x.astype(np.float32))
    assert wide.dtype == np.float64 and narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, wide, rtol=1e-5, atol=1e-6)
    step = ("floor", "ceil", "round", "sign")
    if not name.endswith(step):  # float32 gives another value than float64 for a third
        assert name.endswith(("relu", "clip", "negative", "abs")) or np.any(wide != narrow)


COMPUTED = {
    "where": [node("Greater", ["x", "c"], ["g"]), node("Where", ["g", "x", "c"], ["y"])],
    "argmax": [node("ArgMax", ["x"], ["a"], axis=1), node("Cast", ["a"], ["y"], to=1)],
    "both": [
        node("Less", ["x", "c"], ["g"]), node("Not", ["g"], ["h"]), node("Or", ["g", "h"], ["o"]), node("Cast", ["o"], ["y"], to=1),
    ],
    "norm": [node("LayerNormalization", ["x", "w", "c"], ["y"], axis=-1)],
    "log": [node("LogSoftmax", ["x"], ["y"], axis=2)],
    "sum": [node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
}  # fmt: skip


@pytest.mark.parametrize("what", COMPUTED)
def test_rules_of_other_operators(what: str) -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    consts = {"c": np.float32([0.1, 0.2, 0.3, 0.4, 0.5]), "w": np.float32([1, 2, 3, 4, 5]), "axes": np.array([1])}
    proto = model(COMPUTED[what], consts, (1, 4, 5), opset=17)
    imported = import_onnx(proto)
    assert plan_of(imported).batchable
    assert worst(execute(imported, {"x": x}), one_by_one(proto, x)) < 1e-5
