"""ONNX operators spelled with simpler ones, so that few forms reach Relax: a pass Graph -> Graph on folded graphs.

Movement of data (Split, Pad, Resize, DepthToSpace, ...) is in `expand_moves`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx

from ....errors import UserError, one_line
from ...graph import Graph, attrs_of, remade
from ...writer import Writer
from . import moves as expand_moves
from . import recurrent as expand_recurrent
from . import spectra as expand_spectra
from .einsum import einsum
from .long_kernels import shorten

Expansion = Callable[[onnx.NodeProto, Graph, Writer], bool]


def expand(graph: Graph) -> Graph:
    """One round over all nodes; what an expansion writes is looked at in the next round."""
    writer = Writer(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        expansion = EXPANSIONS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if expansion is not None:
            writer.free(node.name)
        try:
            done = expansion is not None and expansion(node, graph, writer)
        except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as err:
            raise UserError(
                f"node '{node.name}' ({node.op_type}, opset {graph.opset}) is inconsistent: {one_line(err)}"
            ) from err
        written = writer.take()
        nodes += written if done else [node]
    return replace(graph, nodes=tuple(nodes), consts=writer.consts)


def _is_float(graph: Graph, tensor: str) -> bool:
    dtype = graph.consts[tensor].dtype.name if tensor in graph.consts else None
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return dtype in ("float16", "float32", "float64") if dtype else graph.types[tensor][1] in floats


def _chain(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Min, Max, Sum, Mean of any number of operands as a chain of binary operators, constants last."""
    operands = sorted(node.input, key=lambda name: name in graph.consts)
    mean = node.op_type == "Mean" and len(operands) > 1
    if len(operands) == 2 and list(node.input) == operands and node.op_type in ("Min", "Max"):
        return False
    op = {"Sum": "Add", "Mean": "Add"}.get(node.op_type, node.op_type)
    if len(operands) == 1:
        writer.node("Identity", operands, node.name, node.output[0])
        return True
    total = operands[0]
    for k, operand in enumerate(operands[1:]):
        last = k == len(operands) - 2 and not mean
        total = writer.node(
            op, [total, operand], node.name if last else f"{node.name}:{k}", node.output[0] if last else ""
        )
    if mean:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.types[node.output[0]][1])
        share = writer.const(f"{node.name}_share", 1 / len(operands), dtype)
        writer.node("Mul", [total, share], node.name, node.output[0])
    return True


def _constant_second(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Add and Mul with the constant as the second operand; nothing, where that is all zeros, or ones (masks that mask nothing)."""
    for data, key in (node.input[:2], node.input[1::-1]):
        value, neutral = graph.consts.get(key), {"Add": 0, "Mul": 1}[node.op_type]
        same = data not in graph.consts and graph.shape(data) == graph.shape(node.output[0])
        if value is not None and same and graph.given is None and _is_float(graph, key) and np.all(value == neutral):
            writer.node("Identity", [data], node.name, node.output[0])
            return True
    if node.input[0] in graph.consts and node.input[1] not in graph.consts and graph.opset >= 7:
        writer.keep(remade(node, [node.input[1], node.input[0]]))
        return True
    return False


def _divide(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """x / constant -> x * (1 / constant), floats only and where no value overflows or vanishes."""
    value = graph.consts.get(node.input[1])
    if value is None or node.input[0] in graph.consts or value.dtype.name not in ("float32", "float64"):
        return False
    factor = (1.0 / value.astype(np.float64)).astype(value.dtype)
    tiny = np.finfo(value.dtype).tiny
    if not np.all(np.isfinite(factor)) or np.any(np.abs(factor) < tiny) or np.any(np.abs(value) < tiny):
        return False
    key = writer.const(f"{node.name}_reciprocal", factor)
    writer.node("Mul", [node.input[0], key], node.name, node.output[0])
    return True


def _subtract(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """x - constant -> x + (-constant), floats only."""
    if node.input[1] not in graph.consts or node.input[0] in graph.consts or not _is_float(graph, node.input[1]):
        return False
    key = writer.const(f"{node.name}_negative", -graph.consts[node.input[1]])
    writer.node("Add", [node.input[0], key], node.name, node.output[0])
    return True


def _matmul(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """A constant operand comes second and has rank 2."""
    first, second = node.input
    left, right = graph.consts.get(first), graph.consts.get(second)
    if right is not None and left is None:
        rank, out = len(graph.shape(first)), graph.shape(node.output[0])
        if right.ndim == 1 and rank >= 2:
            key = writer.const(f"{node.name}_column", right[:, None])
            product = writer.node("MatMul", [first, key], node.name)
            writer.reshape(product, out, f"{node.name}:shape", node.output[0])
            return True
        if right.ndim > 2 and right.size == right.shape[-1] * right.shape[-2] and right.ndim <= rank:
            key = writer.const(f"{node.name}_matrix", right.reshape(right.shape[-2:]))
            writer.node("MatMul", [first, key], node.name, node.output[0])
            return True
        return False
    if left is None or right is not None or left.ndim < 2 or left.size != left.shape[-1] * left.shape[-2]:
        return False
    rank = len(graph.shape(second))
    if rank < 2 or left.ndim > rank:
        return False
    turn = [*range(rank - 2), rank - 1, rank - 2]
    key = writer.const(f"{node.name}_turned", left.reshape(left.shape[-2:]).T)
    data = writer.transpose(second, turn, f"{node.name}:in")
    product = writer.node("MatMul", [data, key], node.name)
    writer.transpose(product, turn, f"{node.name}:out", node.output[0])
    return True


def _gemm(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Gemm with the constant on the left, or with a computed C, as MatMul and Add."""
    attrs = attrs_of(node)
    alpha, beta = attrs.get("alpha", 1.0), attrs.get("beta", 1.0)
    left, right = graph.consts.get(node.input[0]), graph.consts.get(node.input[1])
    has_bias = len(node.input) > 2 and bool(node.input[2])
    computed_bias = has_bias and node.input[2] not in graph.consts
    if not _is_float(graph, node.input[0]) or (left is not None) == (right is not None):
        return False
    if right is not None and not computed_bias:
        return False
    operands = list(node.input[:2])
    for k, (value, turned) in enumerate(((left, attrs.get("transA")), (right, attrs.get("transB")))):
        if value is not None:
            scaled = (value.T if turned else value) * value.dtype.type(alpha)
            operands[k] = writer.const(f"{node.name}_scaled", scaled)
        elif turned:
            operands[k] = writer.transpose(operands[k], [1, 0], f"{node.name}:turn")
    if not has_bias:
        writer.node("MatMul", operands, node.name, node.output[0])
        return True
    product = writer.node("MatMul", operands, node.name)
    bias = node.input[2]
    if beta != 1:
        weight = left if left is not None else right
        assert weight is not None
        factor = writer.const(f"{node.name}_beta", beta, weight.dtype)
        bias = writer.node("Mul", [bias, factor], f"{node.name}:beta")
    writer.node("Add", [product, bias], f"{node.name}:bias", node.output[0])
    return True


def _lp_normalization(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """The values along an axis over their norm; zeros stay zeros."""
    attrs = attrs_of(node)
    op = {1: "ReduceL1", 2: "ReduceL2"}[attrs.get("p", 2)]
    norm = _reduced(writer, graph, op, node.input[0], [attrs.get("axis", -1)], f"{node.name}:norm", 1)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.types[node.output[0]][1])
    # A comparison is exact on the CPU, where the norm is; of a Max with the least number 8 bits would leave a zero.
    zero, one = (writer.const(f"{node.name}_{value}", value, dtype) for value in (0, 1))
    is_zero = writer.node("Equal", [norm, zero], f"{node.name}:zero")
    divisor = writer.node("Where", [is_zero, one, norm], f"{node.name}:divisor")
    writer.node("Div", [node.input[0], divisor], node.name, node.output[0])
    return True


def _reduced(
    writer: Writer, graph: Graph, op: str, tensor: str, axes: list[int], name: str, keepdims: int
) -> str:  # fmt: skip
    """A reduction of a tensor; its axes are an input from opset 18 on."""
    if graph.opset < 18:
        return writer.node(op, [tensor], name, axes=axes, keepdims=keepdims)
    return writer.node(op, [tensor, writer.const(f"{name}_axes", axes, np.int64)], name, keepdims=keepdims)


def _plane_reduction(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """A reduction of a plane (in either layout) that drops its axes keeps them, and a Reshape drops them."""
    attrs, shape = attrs_of(node), graph.shape(node.input[0])
    given = graph.consts.get(node.input[1]) if len(node.input) > 1 and node.input[1] else attrs.get("axes")
    if given is None or attrs.get("keepdims", 1) or len(shape) != 4 or 0 in shape:
        return False
    if sorted(int(a) % 4 for a in np.reshape(given, -1)) not in ([1, 2], [2, 3]):
        return False
    middle = writer.tensor(f"{node.output[0]}_kept")
    writer.keep(remade(node, outputs=[middle], keepdims=1))
    writer.reshape(middle, graph.shape(node.output[0]), f"{node.name}:shape", node.output[0])
    return True


def _sum(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """A sum over all but the batch is a mean times the number of values: the accelerator has means."""
    attrs, shape = attrs_of(node), graph.shape(node.input[0])
    given = graph.consts.get(node.input[1]) if len(node.input) > 1 and node.input[1] else attrs.get("axes")
    axes = sorted({int(a) % len(shape) for a in np.reshape(given, -1)}) if given is not None and shape else []
    if not axes or axes[0] == 0 or 0 in shape or node.input[0] in graph.consts:
        return False
    if graph.types[node.input[0]][1] != onnx.TensorProto.FLOAT:
        return False
    mean = _reduced(writer, graph, "ReduceMean", node.input[0], axes, node.name, attrs.get("keepdims", 1))
    count = writer.const(f"{node.name}_count", np.prod([shape[a] for a in axes]), np.float32)
    writer.node("Mul", [mean, count], f"{node.name}:times", node.output[0])
    return True


EXPANSIONS: dict[str, Expansion] = {
    "Conv": shorten,
    "Einsum": einsum,
    "LpNormalization": _lp_normalization,
    "ReduceSum": _sum,
    "ReduceMean": _plane_reduction,
    "ReduceMax": _plane_reduction,
    "Min": _chain,
    "Max": _chain,
    "Sum": _chain,
    "Mean": _chain,
    "Add": _constant_second,
    "Mul": _constant_second,
    "Div": _divide,
    "Sub": _subtract,
    "MatMul": _matmul,
    "Gemm": _gemm,
    **expand_moves.EXPANSIONS,
    **expand_recurrent.EXPANSIONS,
    **expand_spectra.EXPANSIONS,
}
