"""Operators that the import spells with simpler ones: the form as promised, the values of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper

import qaccel
from frontend.checks import assert_equals_onnx_runtime, calls, f, i, onnx_ops, relax_ops
from frontend.onnx_models import model, node, ort_run
from qaccel.errors import QaccelError
from qaccel.frontend.import_onnx import import_onnx

UNARY: list[tuple[str, dict[str, Any]]] = [
    ("HardSigmoid", {}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}), ("HardSwish", {}), ("Elu", {"alpha": 0.5}),
    ("Selu", {}), ("Celu", {"alpha": 2.0}), ("LeakyRelu", {"alpha": 0.2}), ("Softplus", {}), ("Softsign", {}),
    ("Mish", {}), ("Erf", {}), ("Exp", {}), ("Reciprocal", {}), ("Abs", {}), ("Neg", {}), ("Floor", {}), ("Ceil", {}),
    ("Round", {}), ("Sign", {}), ("Sin", {}), ("Cos", {}), ("ThresholdedRelu", {"alpha": 0.7}), ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}), ("Sigmoid", {}), ("Tanh", {}), ("LogSoftmax", {"axis": 1}), ("Atan", {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attrs"), UNARY)
def test_functions_of_one_tensor(op: str, attrs: dict[str, Any]) -> None:
    proto = model([node(op, ["x"], ["y"], **attrs)], {}, (1, 3, 4, 5), opset=20)
    imported = assert_equals_onnx_runtime(proto, 2e-5, scale=3.0)
    constants = [a for c in calls(imported) for a in c.args if isinstance(a, tvm.ir.GenericConst)]
    assert all(c.value.numpy().ndim == 0 for c in constants)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0, 1.5])
def test_pow(exponent: float) -> None:
    proto = model([node("Abs", ["x"], ["a"]), node("Pow", ["a", "e"], ["y"])], {"e": np.float32(exponent)}, (1, 3, 4))
    assert_equals_onnx_runtime(proto)


@pytest.mark.parametrize(("slope", "form"), [((1,), "nn.leakyrelu"), ((3, 1, 1), "nn.prelu"), ((5,), "add")])
def test_prelu(slope: tuple[int, ...], form: str) -> None:
    imported = assert_equals_onnx_runtime(model([node("PRelu", ["x", "s"], ["y"])], {"s": f(*slope)}, (1, 3, 4, 5)))
    assert relax_ops(imported)[-1] == form


@pytest.mark.parametrize("op", ["Min", "Max", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_operands(op: str, count: int) -> None:
    operands = ["x"] if count == 1 else ["c", "x", "z"][:count]
    proto = model([node(op, operands, ["y"])], {"c": f(3, 1, 1)}, {"x": (1, 3, 4, 5), "z": (1, 3, 1, 1)})
    imported = assert_equals_onnx_runtime(proto)
    expected = {"Min": "minimum", "Max": "maximum", "Sum": "add", "Mean": "add"}[op]
    assert relax_ops(imported) == [expected] * (count - 1) + ["multiply"] * (op == "Mean" and count > 1)


@pytest.mark.parametrize(
    ("op", "form"), [("Add", "add"), ("Sub", "add"), ("Mul", "multiply"), ("Div", "multiply"), ("Min", "minimum"), ("Max", "maximum")]
)  # fmt: skip
def test_constants_come_second(op: str, form: str) -> None:
    proto = model([node(op, ["x", "c"], ["y"])], {"c": f(3, 1, 1)}, (1, 3, 4, 5))
    assert relax_ops(assert_equals_onnx_runtime(proto)) == [form]
    swapped = model([node(op, ["c", "x"], ["y"])], {"c": f(3, 1, 1)}, (1, 3, 4, 5))
    call = calls(assert_equals_onnx_runtime(swapped, 1e-4))[0]
    assert isinstance(call.args[1], tvm.ir.GenericConst) == (op not in ("Sub", "Div"))


@pytest.mark.parametrize(("opset", "attrs"), [(13, {}), (18, {"axis": 1, "p": 1}), (22, {"axis": -2})])
def test_a_normalization_by_a_norm(opset: int, attrs: dict[str, Any]) -> None:
    """Zeros have the norm 0, and stay."""
    nodes = [node("Relu", ["x"], ["r"]), node("LpNormalization", ["r"], ["y"], **attrs)]
    proto = model(nodes, {}, (1, 3, 4, 5), opset=opset)
    assert_equals_onnx_runtime(proto)
    assert_equals_onnx_runtime(proto, scale=0.0)


def test_division_by_zero_stays() -> None:
    proto = model([node("Div", ["x", "c"], ["y"])], {"c": np.float32(0)}, (1, 3))
    assert relax_ops(import_onnx(proto)) == ["divide"]


MATMULS = {
    "constant on the left": ([node("MatMul", ["c", "x"], ["y"])], {"c": f(6, 4)}, (1, 2, 4, 5)),
    "vector": ([node("MatMul", ["x", "c"], ["y"])], {"c": f(5)}, (1, 2, 4, 5)),
    "leading ones": ([node("MatMul", ["x", "c"], ["y"])], {"c": f(1, 1, 5, 7)}, (1, 2, 4, 5)),
    "batch of weights": ([node("MatMul", ["x", "c"], ["y"])], {"c": f(2, 5, 7)}, (1, 2, 4, 5)),
    "gemm, constant on the left": (
        [node("Gemm", ["c", "x", "b"], ["y"], alpha=0.5, beta=2.0, transB=1)], {"c": f(6, 4), "b": f(3)}, (3, 4),
    ),
    "gemm, computed bias": (
        [node("Gemm", ["x", "c", "z"], ["y"], alpha=0.5, beta=2.0, transB=1)], {"c": f(6, 4)}, {"x": (3, 4), "z": (3, 6)},
    ),
    "gemm, transposed": ([node("Gemm", ["x", "c"], ["y"], transA=1)], {"c": f(6, 4)}, (6, 4)),
}  # fmt: skip


@pytest.mark.parametrize("what", MATMULS)
def test_matrix_products(what: str) -> None:
    imported = assert_equals_onnx_runtime(model(*MATMULS[what]))
    product = next(c for c in calls(imported) if c.op.name == "relax.matmul")
    assert isinstance(product.args[1], tvm.ir.GenericConst)
    if what != "batch of weights":
        assert product.args[1].value.numpy().ndim == 2


MOVES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[int, ...], int]] = {
    "slice": (
        [node("Slice", ["x", "a", "b", "c", "d"], ["y"])],
        {"a": i(1, -1, 0), "b": i(100, -100, 9), "c": i(1, 2, -1), "d": i(2, -1, 2)}, (1, 5, 4, 6), 13,
    ),
    "slice by attributes": ([node("Slice", ["x"], ["y"], starts=[1, -3], ends=[100, -1], axes=[1, 3])], {}, (1, 5, 4, 6), 9),
    "split": ([node("Split", ["x", "s"], ["a", "y"], axis=-3)], {"s": i(2, 3)}, (1, 5, 4, 6), 13),
    "split, old": ([node("Split", ["x"], ["a", "y"], axis=1)], {}, (1, 6, 4, 6), 9),
    "split, uneven": ([node("Split", ["x"], ["a", "b", "y"], axis=1, num_outputs=3)], {}, (1, 8, 4, 6), 18),
    "pad of one axis": ([node("Pad", ["x", "p", "", "a"], ["y"])], {"p": i(1, 2), "a": i(-2)}, (1, 3, 5, 6), 19),
    "pad by attributes": ([node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, -1, 2])], {}, (1, 3, 5, 6), 9),
    "depth to space": ([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="DCR")], {}, (1, 8, 3, 2), 13),
    "depth to space, columns": ([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], {}, (1, 8, 3, 2), 13),
    "space to depth": ([node("SpaceToDepth", ["x"], ["y"], blocksize=2)], {}, (1, 2, 4, 6), 13),
    "tile": ([node("Tile", ["x", "r"], ["y"])], {"r": i(1, 2, 1, 3)}, (1, 2, 4, 6), 13),
    "expand": ([node("Expand", ["x", "r"], ["y"])], {"r": i(1, 2, 1, 3)}, (1, 2, 4, 1), 13),
    "gather": ([node("Gather", ["x", "r"], ["y"], axis=1)], {"r": i(1, -1, 0)}, (1, 3, 4), 13),
    "gather one": ([node("Gather", ["x", "r"], ["y"], axis=2)], {"r": np.array(-2)}, (1, 3, 4), 13),
    "gather a table": ([node("Gather", ["x", "r"], ["y"], axis=1)], {"r": np.array([[1, -1], [0, 2]])}, (1, 3, 4), 13),
}  # fmt: skip


# Equation, shapes of x and of the second operand, whether that is a constant.
EINSUMS: list[tuple[str, tuple[int, ...], tuple[int, ...], bool]] = [
    ("B G H I D, B G H J D -> B G H I J", (1, 4, 2, 5, 3), (1, 4, 2, 6, 3), False),
    ("bhij,bhjd->bhid", (1, 2, 5, 6), (1, 2, 6, 3), False),
    ("bhid,bhjd->bijh", (2, 3, 4, 5), (2, 3, 6, 5), False),
    ("abc,cd->abd", (2, 3, 4), (4, 5), True),
    ("abc,dcb", (2, 3, 4), (6, 4, 3), True),
    ("...ij,...jk->...ik", (2, 3, 4, 5), (2, 3, 5, 6), False),
    ("...i,ji->...j", (2, 3, 4), (7, 4), True),
    ("nchw,kc->nkhw", (1, 6, 4, 5), (3, 6), True),
    ("bi,bj->bij", (2, 3), (2, 4), False),
    ("ij,ij->", (3, 4), (3, 4), False),
    ("bij,bjk->b", (2, 3, 4), (2, 4, 3), False),
    ("...ij,...jk->...ik", (2, 3, 4, 5), (1, 3, 5, 6), False),
]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("equation", "first", "second", "constant"), EINSUMS)
def test_einsum(equation: str, first: tuple[int, ...], second: tuple[int, ...], constant: bool, swapped: bool) -> None:
    """A product, in either order of the operands."""
    names = ["x", "w"]
    if swapped:
        left, arrow, right = equation.partition("->")
        names, equation = names[::-1], ",".join(left.split(",")[::-1]) + arrow + right
    inputs = {"x": first} if constant else {"x": first, "w": second}
    proto = model([node("Einsum", names, ["y"], equation=equation)], {"w": f(*second)} if constant else {}, inputs)
    imported = assert_equals_onnx_runtime(proto)
    assert [op for op in relax_ops(imported) if op in ("matmul", "einsum")] == ["matmul"]


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("equation", ["abc->cab", "abc->b", "a...->...a", "abc->"])
def test_einsum_of_one_operand(equation: str, opset: int) -> None:
    proto = model([node("Einsum", ["x"], ["y"], equation=equation)], {}, (2, 3, 4), opset=opset)
    assert "einsum" not in relax_ops(assert_equals_onnx_runtime(proto))


@pytest.mark.parametrize("equation", ["iij,jk->k", "ijk,jk,kl->il"])
def test_other_equations_are_refused_by_name(equation: str) -> None:
    names = ["x", "z", "v"][: equation.count(",") + 1]
    shapes = {"x": (3, 3, 4), "z": (4, 4) if "iij" in equation else (3, 4), "v": (4, 5)}
    proto = model([node("Einsum", names, ["y"], "sums", equation=equation)], {}, {name: shapes[name] for name in names})
    with pytest.raises(QaccelError, match=f"^node 'sums' .Einsum. has the equation '{equation}'; only those of one or"):
        import_onnx(proto)


@pytest.mark.parametrize("what", MOVES)
def test_moves(what: str) -> None:
    nodes, consts, shape, opset = MOVES[what]
    imported = assert_equals_onnx_runtime(model(nodes, consts, shape, opset=opset), 0.0 + 1e-12)
    forms = {"strided_slice", "nn.pad", "take", "reshape", "permute_dims", "tile", "broadcast_to"}
    assert set(relax_ops(imported)) <= forms


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 2, 1], [0, 1, 1, 0, 0, 0, 0, 2], [0, 0, -1, 1, 0, -1, 0, -2]])
def test_pad(mode: str, pads: list[int]) -> None:
    proto = model(
        [node("Pad", ["x", "p", "v"], ["y"], mode=mode)], {"p": i(*pads), "v": np.float32(0.5)}, (1, 3, 5, 6), opset=19
    )
    assert_equals_onnx_runtime(proto, 1e-12)


@pytest.mark.parametrize(("kind", "delta"), [("f4", None), ("f4", 0.5), ("i8", None)])
def test_a_range_of_known_length(kind: str, delta: float | None) -> None:
    """Its ends are inputs, and the model states how many values there are."""
    consts = {} if delta is None else {"d": np.array(delta, kind)}
    proto = model([node("Range", ["a", "b", "d"], ["y"])], consts, {name: () for name in "abd" if name not in consts})
    onnx_kind = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for each in (*proto.graph.input, *proto.graph.output):
        each.type.tensor_type.elem_type = onnx_kind
    proto.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 3
    feeds = {"a": np.array(1, kind), "b": np.array(7 if delta is None else 2.5, kind), "d": np.array(2, kind)}
    feeds = {name: feeds[name] for name in (each.name for each in proto.graph.input)}
    wanted = ort_run(proto, feeds)["y"]
    assert len(wanted) == 3
    for target in ("llvm", "qaccel"):
        assert np.array_equal(qaccel.compile(proto, target=target).run(feeds)["y"], wanted)


def test_index_out_of_range() -> None:
    proto = model([node("Gather", ["x", "k"], ["y"], "pick", axis=1)], {"k": i(0, 5)}, (2, 3))
    with pytest.raises(QaccelError, match=r"node 'pick'.*index 5 on axis 1 of size 3"):
        import_onnx(proto)


REDUCTIONS = [
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp",
]  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize(("axes", "keep"), [([2, 3], 1), ([-1, -2], 0), ([1], 1), ([1, 2], 0), (None, 0)])
def test_reductions(op: str, axes: list[int] | None, keep: int) -> None:
    attrs = {"keepdims": keep} | ({"axes": axes} if axes else {})
    imported = assert_equals_onnx_runtime(model([node(op, ["x"], ["y"], **attrs)], {}, (1, 3, 4, 5), opset=13))
    pools = {"ReduceMean": "nn.avg_pool2d", "ReduceMax": "nn.max_pool2d"}
    if op in pools and axes and sorted(a % 4 for a in axes) == [2, 3]:
        assert relax_ops(imported)[0] == pools[op]


LINES = {
    "convolutions": [
        node("Conv", ["x", "w", "b"], ["a"], name="c1", pads=[1, 1]), node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w2"], ["d"], name="c2", group=2, auto_pad="SAME_UPPER"), node("Mul", ["d", "k"], ["e"]),
        node("Sigmoid", ["e"], ["s"]), node("Mul", ["e", "s"], ["g"]), node("Add", ["g", "full"], ["h"]),
        node("Concat", ["h", "d"], ["j"], axis=1), node("MaxPool", ["j"], ["p"], kernel_shape=[2]),
        node("GlobalAveragePool", ["p"], ["q"]), node("Flatten", ["q"], ["y"]),
    ],
    "transposed": [node("ConvTranspose", ["x", "t", "b"], ["y"], name="up", strides=[2], pads=[1, 0], output_padding=[1])],
}  # fmt: skip


@pytest.mark.parametrize("what", LINES)
def test_one_dimension(what: str) -> None:
    """Two Reshapes are left, at the ends, and the layers keep their names."""
    consts = {"w": f(4, 3, 3), "b": f(4), "w2": f(6, 2, 3), "k": f(6, 1), "full": f(1, 6, 16), "t": f(3, 4, 3)}
    imported = assert_equals_onnx_runtime(model(LINES[what], consts, (1, 3, 16)))
    assert onnx_ops(imported).count("Reshape") == 2
    assert {n.name for n in LINES[what] if n.name} <= {n.name for n in imported.operators}


@pytest.mark.parametrize(
    "attrs",
    [
        {}, {"strides": [2, 1], "pads": [1, 0, 2, 1]}, {"strides": [3, 2], "output_shape": [12, 9]},
        {"strides": [3, 2], "output_shape": [13, 8]}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [3, 3]}, {"dilations": [2, 2]},
        {"group": 2, "strides": [2, 2], "output_padding": [1, 1]},
    ],
)  # fmt: skip
def test_transposed_convolution(attrs: dict[str, Any]) -> None:
    groups = attrs.get("group", 1)
    consts = {"w": f(4, 6 // groups, 3, 3), "b": f(6)}
    imported = assert_equals_onnx_runtime(
        model([node("ConvTranspose", ["x", "w", "b"], ["y"], **attrs)], consts, (1, 4, 4, 4))
    )
    assert relax_ops(imported) == ["nn.conv2d_transpose", "add"]


def contrib(op: str, inputs: list[str], consts: dict[str, np.ndarray], shape: Any, **attrs: Any) -> onnx.ModelProto:
    proto = model([helper.make_node(op, inputs, ["y"], "own", domain="com.microsoft", **attrs)], consts, shape)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


CONV = {"w": f(4, 3, 3, 3), "b": f(4)}
CONTRIB = {
    "Gelu": contrib("Gelu", ["x"], {}, (2, 3, 4)),
    "QuickGelu": contrib("QuickGelu", ["x"], {}, (2, 3, 4)),
    "FastGelu": contrib("FastGelu", ["x", "b"], {"b": f(4)}, (2, 3, 4)),
    "BiasGelu": contrib("BiasGelu", ["x", "b"], {"b": f(4)}, (2, 3, 4)),
    "FusedConv": contrib("FusedConv", ["x", "w", "b"], CONV, (1, 3, 4, 5), activation="Relu", pads=[1, 1, 1, 1]),
    "FusedConv, sum": contrib(
        "FusedConv", ["x", "w", "b", "z"], CONV, {"x": (1, 3, 4, 5), "z": (1, 4, 4, 5)}, activation="LeakyRelu",
        activation_params=[0.2], pads=[1, 1, 1, 1],
    ),
    "FusedConv, clip": contrib("FusedConv", ["x", "w", "b"], CONV, (1, 3, 4, 5), activation="Clip", activation_params=[0.0, 1.0]),
    "FusedMatMul": contrib("FusedMatMul", ["x", "w"], {"w": f(6, 4)}, (2, 3, 4), alpha=0.5, transB=1),
    "FusedGemm": contrib("FusedGemm", ["x", "w"], {"w": f(6, 4)}, (3, 4), activation="LeakyRelu", activation_alpha=0.1, transB=1),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRIB)
def test_fused_operators_of_onnx_runtime(what: str) -> None:
    assert_equals_onnx_runtime(CONTRIB[what])


SEQUENCE = [node("SplitToSequence", ["x"], ["s"], "parts", axis=1), node("SequenceAt", ["s", "k"], ["y"])]
REFUSED = {
    "node 'parts'.*is a sequence": model(SEQUENCE, {"k": np.array(0)}, (2, 3)),
    "node 'own': operator Attention of domain 'com.microsoft' is not supported": contrib(
        "Attention", ["x"], {}, (2, 3), num_heads=1
    ),
    "node 'pool': output 1 of MaxPool .'i'. is not computed, and node 'back' .MaxUnpool. reads it; cut the model there": model(
        [
            node("MaxPool", ["x"], ["p", "i"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("MaxUnpool", ["p", "i"], ["y"], "back", kernel_shape=[2, 2], strides=[2, 2]),
        ],
        {},
        (1, 2, 4, 4),
    ),
    r'fix it with --input-shapes "x:\[2,3,224,224\]"': model([node("Relu", ["x"], ["y"])], {}, (2, 3, "H", "W")),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_with_one_line(message: str) -> None:
    with pytest.raises(QaccelError, match=message) as caught:
        import_onnx(REFUSED[message])
    assert "\n" not in str(caught.value)
