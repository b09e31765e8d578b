"""Relax operators in ONNX: each function writes the nodes of one call and returns the name of its (first) output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper
from tvm import ir, relax

from ..passes.contrib import DOMAIN as MICROSOFT
from .layers import LAYERS, ints, number, shape_of
from .names import PLAIN, SCALED
from .translation import Operator, Translation


def _plain(op: str) -> Operator:
    return lambda call, to: to.node(op, [to.tensor(a) for a in call.args])


def _scaled(op: str, attribute: str) -> Operator:
    """An operator whose attribute has the name of ONNX's."""
    return lambda call, to: to.node(op, [to.tensor(call.args[0])], **{attribute: getattr(call.attrs, attribute)})


def _clip(call: relax.Call, to: Translation) -> str:
    dtype = np.dtype(str(call.ty.dtype))
    bounds = [to.const(number(a), dtype) for a in call.args[1:]]
    return to.node("Clip", [to.tensor(call.args[0]), *bounds])


def _silu(call: relax.Call, to: Translation) -> str:
    x = to.tensor(call.args[0])
    return to.node("Mul", [x, to.node("Sigmoid", [x])])


def _gelu(call: relax.Call, to: Translation) -> str:
    x, dtype = to.tensor(call.args[0]), np.dtype(str(call.ty.dtype))
    gate = to.node("Erf", [to.node("Mul", [x, to.const(0.5**0.5, dtype)])])
    return to.node(
        "Mul", [to.node("Mul", [x, to.const(0.5, dtype)]), to.node("Add", [gate, to.const(1, dtype)])]
    )  # fmt: skip


def _square(call: relax.Call, to: Translation) -> str:
    x = to.tensor(call.args[0])
    return to.node("Mul", [x, x])


def _rsqrt(call: relax.Call, to: Translation) -> str:
    return to.node("Reciprocal", [to.node("Sqrt", [to.tensor(call.args[0])])])


def _reshape(call: relax.Call, to: Translation) -> str:
    return to.node("Reshape", [to.tensor(call.args[0]), to.const(list(shape_of(call)), np.int64)])


def _permute(call: relax.Call, to: Translation) -> str:
    rank = len(shape_of(call))
    axes = ints(call.attrs.axes) or list(range(rank))[::-1]
    perm = [a % rank for a in axes]
    source = to.tensor(call.args[0])
    return source if perm == sorted(perm) else to.node("Transpose", [source], perm=perm)


def _fields(expr: relax.Expr, to: Translation) -> Sequence[relax.Expr]:
    made = to.values.get(expr, expr) if isinstance(expr, relax.Var) else expr
    if not isinstance(made, relax.Tuple):
        raise ValueError("a computed tuple")
    return list(made.fields)


def _concat(call: relax.Call, to: Translation) -> str:
    axis = int(call.attrs.axis) if call.attrs.axis is not None else 0
    return to.node("Concat", [to.tensor(f) for f in _fields(call.args[0], to)], axis=axis)


def _split(call: relax.Call, to: Translation) -> str:
    axis = int(call.attrs.axis)
    sizes = [int(field.shape[axis]) for field in call.ty.fields]
    return to.node(
        "Split", [to.tensor(call.args[0]), to.const(sizes, np.int64)], outputs=len(sizes), axis=axis
    )  # fmt: skip


def _strided_slice(call: relax.Call, to: Translation) -> str:
    lists = [ints(field.value if hasattr(field, "value") else field for field in a.fields) for a in call.args[1:]]
    axes, begins, ends = lists[:3]
    steps = lists[3] if len(lists) > 3 else [1] * len(axes)
    return to.node(
        "Slice", [to.tensor(call.args[0]), *(to.const(v, np.int64) for v in (begins, ends, axes, steps))]
    )  # fmt: skip


def _take(call: relax.Call, to: Translation) -> str:
    axis = call.attrs.axis
    if axis is None:
        raise ValueError("of the flattened tensor")
    return to.node("Gather", [to.tensor(call.args[0]), to.tensor(call.args[1])], axis=int(axis))


def _pad(call: relax.Call, to: Translation) -> str:
    widths, dtype = ints(call.attrs.pad_width), np.dtype(str(call.ty.dtype))
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[call.attrs.pad_mode]
    amounts = to.const(widths[0::2] + widths[1::2], np.int64)
    more = [to.const(float(call.attrs.pad_value), dtype)] if mode == "constant" else []
    return to.node("Pad", [to.tensor(call.args[0]), amounts, *more], mode=mode)


def _reduce(op: str) -> Operator:
    def translate(call: relax.Call, to: Translation) -> str:
        axes = ints(call.attrs.axis) or list(range(len(shape_of(call.args[0]))))
        x, keep = to.tensor(call.args[0]), int(call.attrs.keepdims)
        if op == "ReduceSum":
            return to.node(op, [x, to.const(axes, np.int64)], keepdims=keep)
        return to.node(op, [x], axes=axes, keepdims=keep)

    return translate


def _cast(call: relax.Call, to: Translation) -> str:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(str(call.attrs.dtype)))
    return to.node("Cast", [to.tensor(call.args[0])], to=kind)


def _expand(call: relax.Call, to: Translation) -> str:
    return to.node("Expand", [to.tensor(call.args[0]), to.const(shape_of(call), np.int64)])


def _full(value: float | None) -> Operator:
    """A constant tensor: of `value`, or of the operand after the shape or tensor."""

    def translate(call: relax.Call, to: Translation) -> str:
        fill = value if value is not None else to.value(call.args[1])
        if fill is None:
            raise ValueError("a computed value")
        return to.const(np.full(shape_of(call), fill), str(call.ty.dtype))

    return translate


def _arange(call: relax.Call, to: Translation) -> str:
    start, end, step = (number(a) for a in call.args)
    return to.const(np.arange(start, end, step), str(call.ty.dtype))


def _topk(call: relax.Call, to: Translation) -> str:
    a = call.attrs
    if a.ret_type == "indices" or a.ret_type == "both" and str(a.dtype) != "int64":
        raise ValueError("indices alone, or of another type")
    inputs = [to.tensor(call.args[0]), to.const([int(a.k)], np.int64)]
    return to.node("TopK", inputs, outputs=2, axis=int(a.axis), largest=int(a.largest))


def _softplus(call: relax.Call, to: Translation) -> str:
    if call.attrs.beta != 1:
        raise ValueError("another slope")
    return to.node("Softplus", [to.tensor(call.args[0])])


def _stack(call: relax.Call, to: Translation) -> str:
    axis, shape = int(call.attrs.axis) % len(shape_of(call)), shape_of(call)
    one = [1 if k == axis else size for k, size in enumerate(shape)]
    return to.node("Concat", [to.reshape(to.tensor(f), one) for f in _fields(call.args[0], to)], axis=axis)


def _variance(call: relax.Call, to: Translation) -> str:
    """Mean of the squared distances from the mean."""
    axes = ints(call.attrs.axis) or list(range(len(shape_of(call.args[0]))))
    x = to.tensor(call.args[0])
    distance = to.node("Sub", [x, to.node("ReduceMean", [x], axes=axes, keepdims=1)])
    return to.node("ReduceMean", [to.node("Mul", [distance, distance])], axes=axes, keepdims=int(call.attrs.keepdims))


def _std(call: relax.Call, to: Translation) -> str:
    return to.node("Sqrt", [_variance(call, to)])


def _pixel_shuffle(call: relax.Call, to: Translation) -> str:
    return to.node("DepthToSpace", [to.tensor(call.args[0])], blocksize=int(call.attrs.upscale_factor), mode="CRD")


def _dequantized(call: relax.Call, q: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    along = [-1 if k == int(call.attrs.axis) % q.ndim else 1 for k in range(q.ndim)] if scale.ndim else []
    exact = (q.astype(np.float64) - zero.reshape(along if zero.ndim else [])) * scale.reshape(along)
    return exact.astype(str(call.attrs.out_dtype))


# Constants that these make are stored as such: weights must be constant for the import to see a layer in them.
FOLDED: dict[str, Callable[..., np.ndarray]] = {
    "relax.dequantize": _dequantized,
    "relax.reshape": lambda call, x: x.reshape(shape_of(call)),
    "relax.broadcast_to": lambda call, x: np.broadcast_to(x, shape_of(call)),
    "relax.permute_dims": lambda call, x: x.transpose(ints(call.attrs.axes) or None),
    "relax.astype": lambda call, x: x.astype(str(call.attrs.dtype)),
    "relax.full": lambda call, fill: np.full(shape_of(call), fill, str(call.ty.dtype)),
    "relax.zeros": lambda call: np.zeros(shape_of(call), str(call.ty.dtype)),
    "relax.ones": lambda call: np.ones(shape_of(call), str(call.ty.dtype)),
}


def _border(op: str) -> Operator:
    """A QuantizeLinear or DequantizeLinear, as ONNX Runtime has them for all types at every opset."""

    def translate(call: relax.Call, to: Translation) -> str:
        x, scale, zero_point = to.tensor(call.args[0]), to.value(call.args[1]), to.value(call.args[2])
        if scale is None or zero_point is None:
            raise ValueError("computed scales")
        integers = np.dtype(str(call.ty.dtype if op == "QuantizeLinear" else call.args[0].ty.dtype))
        points = np.broadcast_to(zero_point, np.shape(scale))
        return to.node(
            op, [x, to.const(scale), to.const(points, integers)], axis=int(call.attrs.axis), domain=MICROSOFT
        )

    return translate


def _divide(call: relax.Call, to: Translation) -> str:
    """A HardSigmoid that is spelled clip(x + 3, 0, 6) / 6 is one again."""
    clip: Any = to.values.get(call.args[0])
    added: Any = to.values.get(clip.args[0]) if _is(clip, "relax.clip") else None
    if _is(added, "relax.add") and [number(v) for v in clip.args[1:3]] == [0, 6]:
        constants = [to.value(each) for each in (added.args[1], call.args[1])]
        if all(v is not None and v.size == 1 and float(v) == k for v, k in zip(constants, (3, 6), strict=True)):
            return to.node("HardSigmoid", [to.tensor(added.args[0])], alpha=1 / 6, beta=0.5)
    return to.node("Div", [to.tensor(each) for each in call.args])


def _is(value: Any, name: str) -> bool:
    return isinstance(value, relax.Call) and isinstance(value.op, ir.Op) and value.op.name == name


OPERATORS: dict[str, Operator] = {
    f"relax.{name}": operator
    for name, operator in {
        **{relax_op: _plain(op) for relax_op, op in PLAIN.items()},
        **{relax_op: _scaled(op, attribute) for relax_op, (op, attribute) in SCALED.items()},
        **LAYERS,
        "divide": _divide,
        "nn.silu": _silu,
        "nn.gelu": _gelu,
        "nn.pad": _pad,
        "nn.softplus": _softplus,
        "tile": lambda call, to: to.node("Tile", [to.tensor(call.args[0]), to.const(ints(call.attrs.repeats), np.int64)]),
        "arange": _arange,
        "topk": _topk,
        "nn.pixel_shuffle": _pixel_shuffle,
        "full": _full(None),
        "full_like": _full(None),
        "zeros": _full(0),
        "zeros_like": _full(0),
        "ones": _full(1),
        "ones_like": _full(1),
        "stack": _stack,
        "variance": _variance,
        "std": _std,
        "clip": _clip,
        "rsqrt": _rsqrt,
        "square": _square,
        "reshape": _reshape,
        "squeeze": _reshape,
        "expand_dims": _reshape,
        "flatten": _reshape,
        "permute_dims": _permute,
        "concat": _concat,
        "split": _split,
        "strided_slice": _strided_slice,
        "take": _take,
        "mean": _reduce("ReduceMean"),
        "sum": _reduce("ReduceSum"),
        "max": _reduce("ReduceMax"),
        "min": _reduce("ReduceMin"),
        "astype": _cast,
        "broadcast_to": _expand,
        "quantize": _border("QuantizeLinear"),
        "dequantize": _border("DequantizeLinear"),
    }.items()
}  # fmt: skip
