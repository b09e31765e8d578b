"""Converters of ONNX reductions to Relax."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from tvm import relax

from .node import Converter, Node

op = relax.op


def _axes(node: Node) -> list[int] | None:
    """The reduced axes, sorted; an empty list where nothing is reduced; None where they are not constant."""
    rank = len(node.shape())
    given = node.value(1)
    if node.has(1) and given is None:
        return None
    axes = given.reshape(-1).tolist() if given is not None else node.ints("axes", [])
    if not axes:
        return [] if node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({a % rank for a in axes})


def _reduce(
    reduction: Callable[..., relax.Expr],
    before: Callable[[Node, relax.Expr], relax.Expr] | None = None,
    after: Callable[[relax.Expr], relax.Expr] | None = None,
    pool: Callable[..., relax.Expr] | None = None,
) -> Converter:
    """`after(reduction(before(x)))`; over height and width of float32 [N,C,H,W] `pool` over the whole plane."""

    def convert(node: Node) -> relax.Expr | None:
        axes, shape = _axes(node), node.shape()
        if axes is None or node.out_dtype == "bool" or 0 in shape:
            return None
        x = node.args[0]
        if before is not None:
            x = node.emit(before(node, x))
        keep = bool(node.attr("keepdims", 1))
        kind = node.graph.types[node.proto.input[0]][1]
        if pool is not None and axes == [2, 3] and len(shape) == 4 and kind == onnx.TensorProto.FLOAT:
            pooled = pool(x, pool_size=list(shape[2:]), strides=list(shape[2:]))
            return pooled if keep else op.reshape(node.emit(pooled), node.out_shape)
        result = x if not axes else reduction(x, axis=axes, keepdims=keep)
        if after is not None:
            result = after(result if isinstance(result, relax.Var) else node.emit(result))
        return result

    return convert


def _log_sum_exp(node: Node) -> relax.Expr | None:
    axes = _axes(node)
    if axes is None or not axes or 0 in node.shape() or node.out_dtype not in ("float16", "float32", "float64"):
        return None
    x = node.args[0]
    top = node.emit(op.max(x, axis=axes, keepdims=True))
    powers = node.emit(op.exp(node.emit(op.subtract(x, top))))
    total = node.emit(op.add(node.emit(op.log(node.emit(op.sum(powers, axis=axes, keepdims=True)))), top))
    return total if node.attr("keepdims", 1) else op.reshape(total, node.out_shape)


def _squared(node: Node, x: relax.Expr) -> relax.Expr:
    return op.multiply(x, x)


REDUCTIONS: dict[str, Converter] = {
    "ReduceMean": _reduce(op.mean, pool=op.nn.avg_pool2d),
    "ReduceMax": _reduce(op.max, pool=op.nn.max_pool2d),
    "ReduceMin": _reduce(op.min),
    "ReduceSum": _reduce(op.sum),
    "ReduceProd": _reduce(op.prod),
    "ReduceL1": _reduce(op.sum, before=lambda node, x: op.abs(x)),
    "ReduceL2": _reduce(op.sum, before=_squared, after=op.sqrt),
    "ReduceSumSquare": _reduce(op.sum, before=_squared),
    "ReduceLogSum": _reduce(op.sum, after=op.log),
    "ReduceLogSumExp": _log_sum_exp,
}
