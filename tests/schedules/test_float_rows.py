"""Reductions, softmax, normalizations and resizes on the CPU against ONNX Runtime: any axes, odd lengths, any spelling."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qaccel.cpu.compile import fuse
from qaccel.frontend.import_model import import_model
from qaccel.host import host_target
from qaccel.options import parse_target
from tiers import wide_after

from .kernels import runs_here
from .test_float import check, drawn, one_node

Node = tuple[str, Sequence[str], str, Mapping[str, object]]


def network(
    nodes: Sequence[Node], shape: Sequence[int], constants: Mapping[str, np.ndarray], opset: int = 17
) -> onnx.ModelProto:
    """x0 -> y."""
    made = [
        helper.make_node(op, list(read), [out], name=f"n{k}", **attrs) for k, (op, read, out, attrs) in enumerate(nodes)
    ]
    ends = [
        helper.make_tensor_value_info("x0", TensorProto.FLOAT, list(shape)),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(made, "graph", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def functions_of(model: onnx.ModelProto) -> list[str]:
    """The functions that a model calls after the CPU's passes, without the numbers behind their names."""
    main = fuse(import_model(model, None, None).mod, host_target(parse_target("llvm -mcpu=x86-64"))).mod["main"]
    return re.findall(r"call_tir\((?:cls\.)?([a-z_]+)", main.script())


AXES = [axes for count in (1, 2, 3, 4) for axes in itertools.combinations(range(4), count)]


@pytest.mark.parametrize("keep", [1, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "axes",
    [pytest.param(axes, marks=() if k % 4 == 2 or len(axes) == 4 else pytest.mark.slow) for k, axes in enumerate(AXES)],
)
def test_mean_over_any_axes(axes: tuple[int, ...], keep: int) -> None:
    """Over all of them TVM's own reduction ended in an internal error."""
    model = one_node("ReduceMean", [(2, 5, 7, 11)], axes=list(axes), keepdims=keep)
    check(model, {"x0": drawn(np.random.default_rng(1), 2, 5, 7, 11)})


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceLogSumExp"])
@pytest.mark.parametrize("size", wide_after(1, [197, 3, 64, 8, 17]))
def test_reductions_of_rows(op: str, size: int) -> None:
    rng = np.random.default_rng(size)
    constants = [np.array([-1])] if op == "ReduceSum" else []
    attrs = {} if constants else {"axes": [-1]}
    check(one_node(op, [(2, 3, size)], constants, **attrs), {"x0": drawn(rng, 2, 3, size) - 2})


def test_one_long_row_is_shared_among_the_cores() -> None:
    check(one_node("ReduceMean", [(1, 96, 173)], keepdims=0), {"x0": drawn(np.random.default_rng(2), 1, 96, 173)})


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    wide_after(
        4,
        [
            ((2, 3, 49), -1),
            ((1, 12, 197), 2),
            ((2, 197, 5), 1),
            ((7, 1), 1),
            ((5, 1000), -1),
            ((3, 9, 1), 1),
            ((4, 2), 1),
        ],
    ),
)
def test_softmax_of_odd_length(op: str, shape: tuple[int, ...], axis: int) -> None:
    values = 10 * drawn(np.random.default_rng(3), *shape)
    check(one_node(op, [shape], axis=axis), {"x0": values})


def test_softmax_of_values_far_apart() -> None:
    """Masked scores, and differences that float32's exponential cannot hold."""
    values = drawn(np.random.default_rng(4), 6, 21)
    values[0, 3:], values[1, ::2], values[2] = -3.4e38, -1e9, 80 * values[2]
    check(one_node("Softmax", [(6, 21)], axis=-1), {"x0": values})


def spelled(axes: Sequence[int], square: str, root: str, twice: bool, gain: bool, bias: bool) -> list[Node]:
    """A normalization in single operators."""
    other = "d2" if twice else "d"
    nodes: list[Node] = [("ReduceMean", ["x0"], "m", {"axes": list(axes)}), ("Sub", ["x0", "m"], "d", {})]
    nodes += [("Sub", ["x0", "m"], "d2", {})] if twice else []
    nodes += [("Pow", [other, "two"], "s", {}) if square == "Pow" else ("Mul", [other, other], "s", {})]
    nodes += [
        ("ReduceMean", ["s"], "v", {"axes": list(axes)}),
        ("Add", ["v", "eps"], "w", {}),
        ("Sqrt", ["w"], "r", {}),
    ]
    if root == "Div":
        nodes += [("Div", ["d", "r"], "n", {})]
    else:
        nodes += [("Reciprocal", ["r"], "i", {}), ("Mul", ["i", "d"], "n", {})]
    nodes += [("Mul", ["n", "g"], "o", {})] if gain else [("Identity", ["n"], "o", {})]
    return [*nodes, ("Add", ["b", "o"], "y", {}) if bias else ("Identity", ["o"], "y", {})]


EPSILON = {"two": np.float32(2), "eps": np.float32(1e-5)}


@pytest.mark.parametrize("square", ["Pow", pytest.param("Mul", marks=pytest.mark.slow)])
@pytest.mark.parametrize("root", ["Div", "Mul"])
@pytest.mark.parametrize(
    ("twice", "gain", "bias"), wide_after(2, [(False, True, True), (True, True, False), (False, False, True)])
)
def test_spelled_layer_norm_is_one_function(square: str, root: str, twice: bool, gain: bool, bias: bool) -> None:
    rng = np.random.default_rng(5)
    constants = {**EPSILON, "g": drawn(rng, 37), "b": drawn(rng, 37)}
    model = network(spelled([-1], square, root, twice, gain, bias), (2, 5, 37), constants)
    assert functions_of(model) == ["normalization"]
    check(model, {"x0": 3 + drawn(rng, 2, 5, 37)})


@pytest.mark.parametrize(
    ("shape", "axes", "gain", "bias"),
    wide_after(3, [
        ((2, 6, 5, 7), (2, 3), (6, 1, 1), (6, 1, 1)), ((2, 6, 5, 7), (1, 2, 3), (1, 6, 1, 1), (6, 1, 1)),
        ((2, 6, 5, 7), (1, 2, 3), (6, 5, 7), (6, 5, 7)), ((2, 6, 5, 7), (1, 2, 3), (7,), (6, 1, 1)), ((2, 6, 5, 7), (3,), (5, 7), (7,)),
        ((2, 6, 5, 7), (1,), (6, 1, 1), (6, 1, 1)), ((2, 6, 5, 7), (2, 3), (2, 1, 1, 1), (1,)), ((3, 8), (1,), (3, 1), (3, 8)),
        ((2, 6, 5, 7), (1, 3), (6, 1, 1), (7,)), ((1, 6, 1, 1), (2, 3), (6, 1, 1), (6, 1, 1)),
    ]),
)  # fmt: skip
def test_gains_and_biases_of_any_shape(
    shape: tuple[int, ...], axes: tuple[int, ...], gain: tuple[int, ...], bias: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(6)
    constants = {**EPSILON, "g": drawn(rng, *gain), "b": drawn(rng, *bias)}
    check(network(spelled(axes, "Mul", "Div", False, True, True), shape, constants), {"x0": drawn(rng, *shape)})


def test_a_variance_about_another_mean_is_no_normalization() -> None:
    rng = np.random.default_rng(7)
    nodes = spelled([-1], "Mul", "Div", False, True, True)
    nodes[0] = ("ReduceMean", ["x0"], "m", {"axes": [-1, -2]})
    constants = {**EPSILON, "g": drawn(rng, 9), "b": drawn(rng, 9)}
    model = network(nodes, (2, 5, 9), constants)
    assert "normalization" not in functions_of(model)
    check(model, {"x0": drawn(rng, 2, 5, 9)})


def test_a_normalization_that_two_read_stays() -> None:
    rng = np.random.default_rng(8)
    nodes = [*spelled([-1], "Mul", "Div", False, True, True)[:-1], ("Add", ["o", "n"], "y", {})]
    check(network(nodes, (4, 21), {**EPSILON, "g": drawn(rng, 21)}), {"x0": drawn(rng, 4, 21)})


@pytest.mark.parametrize("groups", wide_after(2, [3, 1, 6, 2]))
def test_group_norm_is_one_function(groups: int) -> None:
    """As PyTorch writes it: an InstanceNormalization of reshaped groups."""
    rng, shape = np.random.default_rng(groups), (2, 6, 5, 7)
    nodes: list[Node] = [
        ("Reshape", ["x0", "parts"], "p", {}), ("InstanceNormalization", ["p", "ones", "zeros"], "n", {}),
        ("Reshape", ["n", "whole"], "q", {}), ("Mul", ["q", "g"], "o", {}), ("Add", ["o", "b"], "y", {}),
    ]  # fmt: skip
    constants = {
        "parts": np.array([2, groups, -1]), "whole": np.array(shape), "ones": np.ones(groups, np.float32),
        "zeros": np.zeros(groups, np.float32), "g": drawn(rng, 6, 1, 1), "b": drawn(rng, 6, 1, 1),
    }  # fmt: skip
    model = network(nodes, shape, constants)
    assert [name for name in functions_of(model) if "reshape" not in name] == ["normalization"]
    check(model, {"x0": drawn(rng, *shape)})


@pytest.mark.parametrize("norm", ["channels", "planes"])
def test_norms_between_convolutions(norm: str) -> None:
    rng = np.random.default_rng(9)
    weight = drawn(rng, 8, 8, 1, 1)
    constants = {**EPSILON, "k": weight, "g": drawn(rng, 8, 1, 1), "b": drawn(rng, 8, 1, 1)}
    nodes = spelled([1] if norm == "channels" else [2, 3], "Pow", "Div", False, True, True)
    nodes = [
        (op, ["c" if name == "x0" else name for name in read], "r2" if out == "y" else out, a)
        for op, read, out, a in nodes
    ]
    nodes = [("Conv", ["x0", "k"], "c", {}), *nodes, ("Conv", ["r2", "k"], "y", {})]
    model = network(nodes, (1, 8, 6, 5), constants)
    assert "normalization" in functions_of(model)
    check(model, {"x0": drawn(rng, 1, 8, 6, 5)})


RESIZES = [
    ("nearest", 2.0, "asymmetric"), ("linear", 2.0, "half_pixel"), ("linear", 1.7, "align_corners"), ("nearest", 3.0, "half_pixel"),
    ("linear", 0.6, "half_pixel"), ("linear", 3.0, "asymmetric"), ("linear", 4.0, "pytorch_half_pixel"), ("nearest", 1.7, "half_pixel"),
    ("nearest", 0.5, "asymmetric"), ("cubic", 2.0, "half_pixel"),
]  # fmt: skip


@pytest.mark.parametrize("convolved", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("mode", "scale", "how"), wide_after(3, RESIZES))
def test_resizes_in_both_layouts(mode: str, scale: float, how: str, convolved: bool) -> None:
    rng, shape = np.random.default_rng(10), (2, 5, 10, 13)
    attrs = {"mode": mode, "coordinate_transformation_mode": how}
    nodes: list[Node] = [("Resize", ["x0", "", "s"], "y", attrs)]
    if convolved:
        nodes = [("Conv", ["x0", "w"], "c", {}), ("Resize", ["c", "", "s"], "r", attrs), ("Conv", ["r", "w"], "y", {})]
    constants = {
        "s": np.array([1, 1, scale, scale], np.float32),
        **({"w": drawn(rng, 5, 5, 1, 1)} if convolved else {}),
    }
    check(network(nodes, shape, constants), {"x0": drawn(rng, *shape)})


@pytest.mark.parametrize(
    ("shape", "perm"),
    wide_after(3, [((2, 5, 6, 7), (0, 2, 3, 1)), ((3, 50), (1, 0)), ((2, 3, 4, 5), (0, 2, 1, 3)), ((1, 33, 4), (2, 1, 0)), ((2, 9, 3, 4), (2, 3, 0, 1))]),
)  # fmt: skip
def test_transpositions(shape: tuple[int, ...], perm: tuple[int, ...]) -> None:
    check(one_node("Transpose", [shape], perm=list(perm)), {"x0": drawn(np.random.default_rng(11), *shape)})


@pytest.mark.parametrize("shape", [(1, 3, 71, 71), (3, 1, 7, 7), (5,), (1, 2, 300, 97), (2, 1)])
def test_elements_of_odd_shapes(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(12)
    nodes: list[Node] = [("Mul", ["x0", "k"], "a", {}), ("Relu", ["a"], "b", {}), ("Add", ["b", "x0"], "y", {})]
    check(network(nodes, shape, {"k": drawn(rng, *shape)}), {"x0": drawn(rng, *shape)})


@pytest.mark.parametrize("axis", wide_after(2, [2, 0, 1]))
@pytest.mark.parametrize("index", wide_after(2, [[3, -1, 0], [0, 0, 1, 1, 2, 2, 3, 3], [2]]))
def test_takes_of_constant_places(axis: int, index: list[int]) -> None:
    model = one_node("Gather", [(4, 4, 4)], [np.array(index)], axis=axis)
    check(model, {"x0": drawn(np.random.default_rng(13), 4, 4, 4)})


# What reads the joined values: at rests that loops over its parts take away, and at rests that they cannot.
READERS: dict[str, list[Node]] = {
    "as it is": [("Identity", ["joined"], "y", {})],
    "behind a border": [("Pad", ["joined", "border"], "y", {})],
    "beside other parts": [
        ("Reshape", ["x0", "twelves"], "t", {}), ("Mul", ["t", "gains"], "u", {}), ("Reshape", ["u", "flat"], "v", {}),
        ("Add", ["joined", "v"], "y", {}),
    ],
}  # fmt: skip


@pytest.mark.skipif(not runs_here("skylake-avx512"), reason="this machine has no vectors of 512 bits")
@pytest.mark.parametrize(
    ("heads", "reader"),
    [(2, "as it is"), (4, "as it is"), (2, "behind a border"), (4, "behind a border"), (6, "beside other parts")],
)
def test_what_a_reshape_reads_of_concatenated_products(heads: int, reader: str) -> None:
    """Two reads at rests by a power of two in one loop, such as a rotary embedding has: LLVM 22 read beside one in its vectors."""
    nodes: list[Node] = [
        ("Gather", ["table", "at"], "row", {}), ("Reshape", ["row", "column"], "c", {}),
        ("Split", ["x0", "halves"], "", {"axis": 3}), ("Mul", ["c", "a"], "ca", {}), ("Mul", ["c", "b"], "cb", {}),
        ("Sub", ["ca", "cb"], "d", {}), ("Concat", ["d", "cb"], "e", {"axis": 3}), ("Reshape", ["e", "flat"], "joined", {}),
        *READERS[reader],
    ]  # fmt: skip
    rng = np.random.default_rng(heads)
    constants = {
        "table": drawn(rng, 7, 4), "column": np.array([2, 5, 1, 4]), "halves": np.array([4, 4]), "flat": np.array([2, 5, 8 * heads]),
        "border": np.array([0, 0, 1, 0, 0, 3]), "twelves": np.array([2, 5, 8 * heads // 12, 12]),
        "gains": drawn(rng, 8 * heads // 12, 1),
    }  # fmt: skip
    read = {name for _, names, _, _ in nodes for name in names}
    model = network(nodes, [2, 5, heads, 8], {name: value for name, value in constants.items() if name in read})
    model.graph.node[2].output[:] = ["a", "b"]
    model.graph.input.append(helper.make_tensor_value_info("at", TensorProto.INT64, [2, 5]))
    feeds = {"x0": drawn(rng, 2, 5, heads, 8), "at": rng.integers(0, 7, (2, 5))}
    check(model, feeds, "llvm -mcpu=skylake-avx512 -mattr=-prefer-256-bit")
