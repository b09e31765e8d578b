"""Converters of operators that move values, of transposed convolution and of resizing, and of element-wise functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto
from tvm import relax

from qaccel.frontend.graph import attrs_of
from qaccel.frontend.operators import Node, const


def _text(node: Node, name: str, default: str) -> str:
    value = node.attr(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _conv_transpose(node: Node) -> relax.Expr | None:
    """ConvTranspose -> conv2d_transpose(x, const IOHW) [+ const[1,OC,1,1]]."""
    weight, bias = node.value(1), node.value(2)
    attrs = attrs_of(node.proto)
    if len(node.shape()) != 4 or weight is None or node.has(2) and bias is None:
        return None
    if "output_shape" in attrs or _text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    result = relax.op.nn.conv2d_transpose(
        node.args[0], const(weight), strides=node.ints("strides", [1, 1]), padding=node.ints("pads", [0, 0, 0, 0]),
        output_padding=node.ints("output_padding", [0, 0]), dilation=node.ints("dilations", [1, 1]),
        groups=int(attrs.get("group", 1)), data_layout="NCHW", kernel_layout="IOHW",
    )  # fmt: skip
    if bias is None:
        return result
    return relax.op.add(node.emit(result), const(bias.reshape(1, -1, 1, 1)))


def _slice(node: Node) -> relax.Expr | None:
    """Slice with constant bounds -> strided_slice."""
    shape = node.shape()
    if node.graph.opset < 10:
        begins, ends = node.ints("starts", []), node.ints("ends", [])
        axes, steps = node.ints("axes", list(range(len(begins)))), [1] * len(begins)
    else:
        given = [node.value(k) for k in range(1, 5)]
        if given[0] is None or given[1] is None or any(node.has(k + 1) and given[k] is None for k in (2, 3)):
            return None
        begins, ends = given[0].reshape(-1).tolist(), given[1].reshape(-1).tolist()
        axes = list(range(len(begins))) if given[2] is None else given[2].reshape(-1).tolist()
        steps = [1] * len(begins) if given[3] is None else given[3].reshape(-1).tolist()
    if any(step < 1 for step in steps):
        return None
    axes = [axis % len(shape) for axis in axes]
    bounds = [slice(b, e).indices(shape[axis]) for b, e, axis in zip(begins, ends, axes, strict=True)]
    return relax.op.strided_slice(
        node.args[0], axes=axes, begin=[b for b, _, _ in bounds], end=[e for _, e, _ in bounds], strides=steps
    )


def _pad(node: Node) -> relax.Expr | None:
    """Pad by a constant -> nn.pad."""
    amounts, value = node.value(1), node.value(2)
    old = attrs_of(node.proto)
    if node.graph.opset < 11:
        amounts, fill = np.asarray(old.get("pads", old.get("paddings"))), float(old.get("value", 0.0))
    elif amounts is None or node.has(2) and value is None:
        return None
    else:
        fill = 0.0 if value is None else float(value.reshape(-1)[0])
    rank = len(node.shape())
    if _text(node, "mode", "constant") != "constant" or amounts.size != 2 * rank or (amounts < 0).any():
        return None
    if node.graph.types[node.proto.input[0]][1] != TensorProto.FLOAT:
        return None
    pairs = [int(v) for axis in range(rank) for v in (amounts[axis], amounts[axis + rank])]
    return relax.op.nn.pad(node.args[0], pairs, pad_mode="constant", pad_value=fill)


def _gather(node: Node) -> relax.Expr | None:
    """Gather with constant indices -> take along the axis; a single index drops it."""
    indices = node.value(1)
    if indices is None or node.value(0) is not None or indices.ndim > 1 or not node.shape():
        return None
    axis = int(attrs_of(node.proto).get("axis", 0)) % len(node.shape())
    positive = np.where(indices < 0, indices + node.shape()[axis], indices).astype(np.int64)
    taken = relax.op.take(node.args[0], const(positive.reshape(-1)), axis=axis, mode="fast")
    return taken if indices.ndim == 1 else relax.op.reshape(node.emit(taken), node.out_shape)


def _expand(node: Node) -> relax.Expr | None:
    return relax.op.broadcast_to(node.args[0], node.out_shape)


def _tile(node: Node) -> relax.Expr | None:
    repeats = node.value(1)
    return None if repeats is None else relax.op.tile(node.args[0], [int(v) for v in repeats.reshape(-1)])


def _resize(node: Node) -> relax.Expr | None:
    """Linear resizing of the plane -> image.resize2d, in the coordinates that TVM has as ONNX does."""
    shape, target = node.shape(), node.out_shape
    mode = (
        "asymmetric"
        if node.proto.op_type == "Upsample" or node.graph.opset < 11
        else _text(node, "coordinate_transformation_mode", "half_pixel")
    )
    if _text(node, "mode", "nearest") != "linear" or len(shape) != 4 or shape[:2] != target[:2]:
        return None
    if mode not in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel") or node.attr("antialias", 0):
        return None
    if mode == "pytorch_half_pixel" and min(target[2:]) > 1:
        mode = "half_pixel"
    return relax.op.image.resize2d(
        node.args[0],
        relax.ShapeExpr(list(target[2:])),
        layout="NCHW",
        method="linear",
        coordinate_transformation_mode=mode,
    )


def _prelu(node: Node) -> relax.Expr | None:
    """PRelu with a slope per channel -> nn.prelu; with one slope -> leakyrelu."""
    slope, shape = node.value(1), node.shape()
    if slope is None or len(shape) < 2:
        return None
    if slope.size == 1:
        return relax.op.nn.leakyrelu(node.args[0], float(slope.reshape(-1)[0]))
    full = (1,) * (len(shape) - slope.ndim) + slope.shape
    if any(size != 1 and axis != 1 for axis, size in enumerate(full)):
        return None
    return relax.op.nn.prelu(node.args[0], const(slope.reshape(-1)), 1)


def _scalar(node: Node, value: float) -> relax.Expr:
    return const(np.asarray(value, node.dtype))


def _hard_sigmoid(node: Node) -> relax.Expr | None:
    alpha, beta = float(attrs_of(node.proto).get("alpha", 0.2)), float(attrs_of(node.proto).get("beta", 0.5))
    return _line_clipped(node, alpha, beta)


def _line_clipped(node: Node, alpha: float, beta: float) -> relax.Expr:
    scaled = node.emit(relax.op.multiply(node.args[0], _scalar(node, alpha)))
    return relax.op.clip(node.emit(relax.op.add(scaled, _scalar(node, beta))), 0.0, 1.0)


def _hard_swish(node: Node) -> relax.Expr | None:
    return relax.op.multiply(node.args[0], node.emit(_line_clipped(node, 1 / 6, 0.5)))


def _exponential(node: Node, alpha: float, inner: float = 1.0, gain: float = 1.0) -> relax.Expr:
    """gain * (max(x, 0) + alpha * (exp(min(x, 0) / inner) - 1))."""
    zero, one = _scalar(node, 0.0), _scalar(node, 1.0)
    below = node.emit(relax.op.minimum(node.args[0], zero))
    grown = node.emit(relax.op.exp(node.emit(relax.op.multiply(below, _scalar(node, 1.0 / inner)))))
    bent = node.emit(relax.op.multiply(node.emit(relax.op.subtract(grown, one)), _scalar(node, alpha)))
    total = node.emit(relax.op.add(node.emit(relax.op.maximum(node.args[0], zero)), bent))
    return relax.op.multiply(total, _scalar(node, gain))


def _elu(node: Node) -> relax.Expr | None:
    return _exponential(node, float(attrs_of(node.proto).get("alpha", 1.0)))


def _celu(node: Node) -> relax.Expr | None:
    alpha = float(attrs_of(node.proto).get("alpha", 1.0))
    return _exponential(node, alpha, alpha)


def _selu(node: Node) -> relax.Expr | None:
    attrs = attrs_of(node.proto)
    alpha = float(attrs.get("alpha", 1.67326319217681884765625))
    return _exponential(node, alpha, gain=float(attrs.get("gamma", 1.05070102214813232421875)))


def _softplus_of(node: Node) -> relax.Expr:
    """max(x, 0) + log(1 + exp(-|x|)), which cannot overflow."""
    x = node.args[0]
    shrunk = node.emit(relax.op.exp(node.emit(relax.op.negative(node.emit(relax.op.abs(x))))))
    rest = node.emit(relax.op.log(node.emit(relax.op.add(shrunk, _scalar(node, 1.0)))))
    return relax.op.add(node.emit(relax.op.maximum(x, _scalar(node, 0.0))), rest)


def _softplus(node: Node) -> relax.Expr | None:
    return _softplus_of(node)


def _mish(node: Node) -> relax.Expr | None:
    return relax.op.multiply(node.args[0], node.emit(relax.op.tanh(node.emit(_softplus_of(node)))))


def _softsign(node: Node) -> relax.Expr | None:
    size = node.emit(relax.op.add(node.emit(relax.op.abs(node.args[0])), _scalar(node, 1.0)))
    return relax.op.divide(node.args[0], size)


def _swish(node: Node) -> relax.Expr | None:
    scaled = node.emit(relax.op.multiply(node.args[0], _scalar(node, float(attrs_of(node.proto).get("alpha", 1.0)))))
    return relax.op.multiply(node.args[0], node.emit(relax.op.sigmoid(scaled)))


def _gelu(node: Node) -> relax.Expr | None:
    x = node.args[0]
    if _text(node, "approximate", "none") == "tanh":
        cube = node.emit(relax.op.multiply(node.emit(relax.op.multiply(x, x)), x))
        sum_ = node.emit(relax.op.add(x, node.emit(relax.op.multiply(cube, _scalar(node, 0.044715)))))
        bent = node.emit(relax.op.tanh(node.emit(relax.op.multiply(sum_, _scalar(node, np.sqrt(2 / np.pi))))))
    else:
        bent = node.emit(relax.op.erf(node.emit(relax.op.multiply(x, _scalar(node, np.sqrt(0.5))))))
    half = node.emit(relax.op.multiply(x, _scalar(node, 0.5)))
    return relax.op.multiply(half, node.emit(relax.op.add(bent, _scalar(node, 1.0))))


def _pow(node: Node) -> relax.Expr | None:
    """Pow with a constant scalar exponent of the base's type."""
    exponent = node.value(1)
    if exponent is None or exponent.size != 1 or len(node.shape()) != len(node.out_shape) or node.dtype.kind != "f":
        return None
    return relax.op.power(node.args[0], _scalar(node, float(exponent.reshape(-1)[0])))


def _floats(op: Callable[[relax.Expr], relax.Expr]) -> Callable[[Node], relax.Expr | None]:
    """An element-wise operator of Relax for floating point."""
    return lambda node: op(node.args[0]) if node.dtype.kind == "f" else None


def _float_only(convert: Callable[[Node], relax.Expr | None]) -> Callable[[Node], relax.Expr | None]:
    return lambda node: convert(node) if node.dtype == np.float32 else None


CONVERTERS: dict[str, Callable[[Node], relax.Expr | None]] = {
    "ConvTranspose": _conv_transpose,
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "Resize": _resize,
    "Upsample": _resize,
    "PRelu": _prelu,
    "LeakyRelu": _float_only(
        lambda node: relax.op.nn.leakyrelu(node.args[0], float(attrs_of(node.proto).get("alpha", 0.01)))
    ),
    "HardSigmoid": _float_only(_hard_sigmoid),
    "HardSwish": _float_only(_hard_swish),
    "Elu": _float_only(_elu),
    "Celu": _float_only(_celu),
    "Selu": _float_only(_selu),
    "Softplus": _float_only(_softplus),
    "Mish": _float_only(_mish),
    "Softsign": _float_only(_softsign),
    "Swish": _float_only(_swish),
    "Gelu": _float_only(_gelu),
    "Pow": _pow,
    "Erf": _floats(relax.op.erf),
    "Exp": _floats(relax.op.exp),
    "Log": _floats(relax.op.log),
    "Sqrt": _floats(relax.op.sqrt),
    "Abs": _floats(relax.op.abs),
    "Neg": _floats(relax.op.negative),
    "Floor": _floats(relax.op.floor),
    "Ceil": _floats(relax.op.ceil),
    "Round": _floats(relax.op.round),
    "Sin": _floats(relax.op.sin),
    "Cos": _floats(relax.op.cos),
    "Reciprocal": _float_only(lambda node: relax.op.divide(_scalar(node, 1.0), node.args[0])),
}
