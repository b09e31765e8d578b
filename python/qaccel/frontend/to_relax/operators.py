"""Converters of single ONNX operators to canonical Relax (NCHW, constants folded, padding explicit).

A converter returns the expression of the node's output, or None where TVM's own importer should take the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from tvm import relax

from ...dialect.operators import RoundedAttrs
from ..graph import ROUNDED, attrs_of
from .moves import MOVES
from .node import Converter, Node, const
from .reductions import REDUCTIONS
from .unary import UNARY


def _conv(node: Node) -> relax.Expr | None:
    """Conv -> conv2d(x, const OIHW) [+ const[1,OC,1,1]]."""
    weight, bias = node.value(1), node.value(2)
    if len(node.shape()) != 4 or weight is None or node.has(2) and bias is None or node.attr("auto_pad"):
        return None
    conv = relax.op.nn.conv2d(
        node.args[0], const(weight),
        strides=node.ints("strides", [1, 1]), padding=node.ints("pads", [0, 0, 0, 0]),
        dilation=node.ints("dilations", [1, 1]), groups=int(attrs_of(node.proto).get("group", 1)),
    )  # fmt: skip
    if bias is None:
        return conv
    return relax.op.add(node.emit(conv), const(bias.reshape(1, -1, 1, 1)))


def _conv_transpose(node: Node) -> relax.Expr | None:
    """ConvTranspose -> conv2d_transpose(x, const IOHW) [+ const[1,OC,1,1]].

    A dilated kernel is filled up with zeros; output padding of a stride and more, which Relax refuses, is zeros at its end.
    """
    weight, bias = node.value(1), node.value(2)
    attrs = node.attrs()
    if len(node.shape()) != 4 or weight is None or node.has(2) and bias is None:
        return None
    if attrs.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attrs:
        return None
    dilations = node.ints("dilations", [1, 1])
    if dilations != [1, 1]:
        spans = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
        sparse = np.zeros((*weight.shape[:2], *spans), weight.dtype)
        sparse[:, :, :: dilations[0], :: dilations[1]] = weight
        weight = sparse
    strides, extra = node.ints("strides", [1, 1]), node.ints("output_padding", [0, 0])
    if any(e >= s for e, s in zip(extra, strides, strict=True)):
        weight, extra = np.pad(weight, [(0, 0), (0, 0), *((0, e) for e in extra)]), [0, 0]
    conv = relax.op.nn.conv2d_transpose(
        node.args[0], const(weight), strides=strides, padding=node.ints("pads", [0, 0, 0, 0]),
        output_padding=extra, groups=int(attrs.get("group", 1)),
    )  # fmt: skip
    if bias is None:
        return conv
    return relax.op.add(node.emit(conv), const(bias.reshape(1, -1, 1, 1)))


def _gemm(node: Node) -> relax.Expr | None:
    """Gemm with constant B and C -> matmul(x, const[K,N]) [+ const[N]]; alpha, beta and transB are in the constants."""
    weight, bias = node.value(1), node.value(2)
    if weight is None or node.has(2) and bias is None or weight.dtype.kind != "f":
        return None
    attrs = attrs_of(node.proto)
    weight = weight.T if attrs.get("transB") else weight
    data = node.args[0]
    if attrs.get("transA"):
        data = node.emit(relax.op.permute_dims(data, [1, 0]))
    product = relax.op.matmul(data, const(weight * weight.dtype.type(attrs.get("alpha", 1.0))))
    if bias is None:
        return product
    bias = bias * bias.dtype.type(attrs.get("beta", 1.0))
    if bias.ndim < 2 or bias.shape[0] == 1:
        bias = np.broadcast_to(bias.reshape(-1), (weight.shape[1],))
    return relax.op.add(node.emit(product), const(bias))


def _matmul(node: Node) -> relax.Expr | None:
    """MatMul of anything of rank 2 or more -> matmul(a, b); weights are const[K,N]."""
    if min(len(node.shape()), len(node.shape(1))) < 2:
        return None
    return relax.op.matmul(node.args[0], node.args[1])


def _clip(node: Node) -> relax.Expr | None:
    """Clip -> clip with constant bounds; one that is missing, or no number, is the type's largest finite value."""
    attrs = attrs_of(node.proto)
    dtype = node.dtype
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    bounds = []
    for position, name, limit in ((1, "min", limits.min), (2, "max", limits.max)):
        value = node.value(position)
        if node.has(position) and value is None:
            return None
        bound: Any = attrs.get(name, limit) if value is None else value.reshape(-1)[0]
        bound = limit if np.isnan(bound) else min(max(bound, limits.min), limits.max)
        bounds.append(float(bound) if dtype.kind == "f" else int(bound))
    # ONNX: where min exceeds max, every result is max.
    return relax.op.clip(node.args[0], min(bounds), bounds[1])


def _pool(op: Callable[..., relax.Expr], average: bool) -> Callable[[Node], relax.Expr | None]:
    def convert(node: Node) -> relax.Expr | None:
        attrs = attrs_of(node.proto)
        if len(node.shape()) != 4 or attrs.get("auto_pad") or len([o for o in node.proto.output if o]) > 1:
            return None
        if attrs.get("storage_order"):
            return None
        return op(
            node.args[0], pool_size=node.ints("kernel_shape", []), strides=node.ints("strides", [1, 1]),
            padding=node.ints("pads", [0, 0, 0, 0]), dilation=node.ints("dilations", [1, 1]),
            ceil_mode=bool(attrs.get("ceil_mode", 0)),
            count_include_pad=bool(attrs.get("count_include_pad", 0)) if average else False,
        )  # fmt: skip

    return convert


def _global_pool(op: Callable[..., relax.Expr]) -> Callable[[Node], relax.Expr | None]:
    def convert(node: Node) -> relax.Expr | None:
        if len(node.shape()) != 4:
            return None
        plane = list(node.shape()[2:])
        return op(node.args[0], pool_size=plane, strides=plane)

    return convert


def _reshape(node: Node) -> relax.Expr | None:
    """Reshape, Flatten, Squeeze, Unsqueeze -> reshape to the static shape."""
    if 0 in node.out_shape:  # R.reshape would take the 0 for "as before"; the call that it becomes does not
        made = relax.TensorType(node.out_shape, node.out_dtype)
        return relax.op.call_pure_packed(
            "vm.builtin.reshape", node.args[0], relax.ShapeExpr(node.out_shape), ty_args=made
        )
    return relax.op.reshape(node.args[0], node.out_shape)


def _softmax(node: Node) -> relax.Expr | None:
    """Softmax over one axis; before opset 13 it ran over all axes from `axis` on."""
    shape = node.shape()
    old = node.graph.opset < 13
    axis = int(attrs_of(node.proto).get("axis", 1 if old else -1)) % max(len(shape), 1)
    if not old or axis == len(shape) - 1:
        return relax.op.nn.softmax(node.args[0], axis=axis)
    flat = (int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))
    rows = node.emit(relax.op.reshape(node.args[0], flat))
    return relax.op.reshape(node.emit(relax.op.nn.softmax(rows, axis=1)), shape)


def _transpose(node: Node) -> relax.Expr | None:
    return relax.op.permute_dims(node.args[0], node.ints("perm", list(range(len(node.shape())))[::-1]))


def _concat(node: Node) -> relax.Expr | None:
    return relax.op.concat(list(node.args), axis=int(attrs_of(node.proto)["axis"]))


def _binary(op: Callable[..., relax.Expr], floats_only: bool = False) -> Callable[[Node], relax.Expr | None]:
    def convert(node: Node) -> relax.Expr | None:
        if len(node.args) != 2 or floats_only and node.graph.types[node.proto.output[0]][1] != onnx.TensorProto.FLOAT:
            return None
        return op(node.args[0], node.args[1])

    return convert


def _rounded(node: Node) -> relax.Expr | None:
    attrs = attrs_of(node.proto)
    if node.args[0] is None:
        return None
    return RoundedAttrs(node.proto.name, **attrs).call(node.args[0])


CONVERTERS: dict[str, Converter] = {
    **UNARY,
    **MOVES,
    **REDUCTIONS,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Clip": _clip,
    "MaxPool": _pool(relax.op.nn.max_pool2d, average=False),
    "AveragePool": _pool(relax.op.nn.avg_pool2d, average=True),
    "GlobalAveragePool": _global_pool(relax.op.nn.avg_pool2d),
    "GlobalMaxPool": _global_pool(relax.op.nn.max_pool2d),
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Softmax": _softmax,
    "Transpose": _transpose,
    "Concat": _concat,
    "Add": _binary(relax.op.add),
    "Sub": _binary(relax.op.subtract),
    "Mul": _binary(relax.op.multiply),
    "Div": _binary(relax.op.divide, floats_only=True),
    "Min": _binary(relax.op.minimum),
    "Max": _binary(relax.op.maximum),
    ROUNDED: _rounded,
}
