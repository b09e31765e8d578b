"""NumPy rules for canonical Relax operators.

A rule takes a call and gives a function of its array operands. `keeps_samples_apart` says whether that function also
holds for a batch along axis 0 of another size than the module was imported with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import erf
from tvm import relax

from ..dialect import kernels
from ..dialect.operators import RoundedAttrs, read
from ..relax_tools import known_shape, static_shape
from .float_moves import RULES as MOVES
from .float_moves import moves_apart

Kernel = Callable[..., np.ndarray]
Shape = tuple[int, ...]


def ints(values: Any) -> tuple[int, ...]:
    """A Relax attribute as integers."""
    return tuple(int(v) for v in values)


def convolution_of(call: relax.Call) -> tuple[kernels.SlidingWindow, int] | None:
    """The window and the groups of a convolution in NCHW; None for one in another layout."""
    attrs = call.attrs
    if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != "OIHW":
        return None
    kernel = static_shape(call.args[1])[2:]
    window = kernels.SlidingWindow(_pair(kernel), _pair(attrs.strides), _pair(attrs.dilation), _pads(attrs.padding))
    return window, int(attrs.groups)


def _conv2d(call: relax.Call) -> Kernel | None:
    found = convolution_of(call)
    return None if found is None else lambda x, w: kernels.conv2d(x, w, *found)


def _pair(values: Any) -> tuple[int, int]:
    first, second = ints(values)
    return first, second


def _pads(values: Any) -> tuple[int, int, int, int]:
    pads = ints(values)
    top, left, bottom, right = pads if len(pads) == 4 else (pads * 2)[:4] if len(pads) == 2 else pads * 4
    return top, left, bottom, right


def _pool_window(call: relax.Call) -> kernels.SlidingWindow | None:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW" or bool(attrs.ceil_mode):
        return None
    return kernels.SlidingWindow(
        _pair(attrs.pool_size), _pair(attrs.strides), _pair(attrs.dilation), _pads(attrs.padding)
    )


def _max_pool2d(call: relax.Call) -> Kernel | None:
    window = _pool_window(call)
    return None if window is None else lambda x: kernels.max_pool2d(x, window)


def _avg_pool2d(call: relax.Call) -> Kernel | None:
    window = _pool_window(call)
    counted = bool(call.attrs.count_include_pad)
    return None if window is None else lambda x: kernels.avg_pool2d(x, window, counted)


def _clip(call: relax.Call) -> Kernel:
    low, high = (arg.value for arg in call.args[1:3])
    return lambda x, *_: np.clip(x, x.dtype.type(low), x.dtype.type(high))


def _reshape(call: relax.Call) -> Kernel:
    source, target = static_shape(call.args[0]), static_shape(call)

    def reshape(x: np.ndarray, *_: Any) -> np.ndarray:
        if x.shape == source:
            return x.reshape(target)
        # A batch is a multiple of the first axis, and stays one because row-major order keeps samples together.
        return x.reshape(target[0] * x.shape[0] // source[0], *target[1:])

    return reshape


def _permute_dims(call: relax.Call) -> Kernel:
    axes = None if call.attrs.axes is None else ints(call.attrs.axes)
    return lambda x: x.transpose(axes)


def _softmax(call: relax.Call) -> Kernel:
    axis = int(call.attrs.axis)

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)

    return softmax


def _concat(call: relax.Call) -> Kernel:
    axis = int(call.attrs.axis)
    return lambda parts: np.concatenate(parts, axis=axis)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # exp of minus the magnitude cannot overflow
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype, copy=False)


def _leakyrelu(call: relax.Call) -> Kernel:
    alpha = float(call.attrs.alpha)
    return lambda x: np.where(x >= 0, x, x * x.dtype.type(alpha))


def _reduction(function: Callable[..., np.ndarray], typed: bool = False) -> Callable[[relax.Call], Kernel]:
    """A reduction over the call's axes; `typed` ones accumulate and return in the operand's type."""

    def rule(call: relax.Call) -> Kernel:
        axes = None if call.attrs.axis is None else ints(call.attrs.axis)
        keep = bool(call.attrs.keepdims)
        if typed:
            return lambda x: np.asarray(function(x, axis=axes, keepdims=keep, dtype=x.dtype))
        return lambda x: np.asarray(function(x, axis=axes, keepdims=keep))

    return rule


def _arg(function: Callable[..., np.ndarray]) -> Callable[[relax.Call], Kernel]:
    def rule(call: relax.Call) -> Kernel:
        axis, keep, dtype = call.attrs.axis, bool(call.attrs.keepdims), str(call.ty.dtype)
        where = None if axis is None else int(axis)
        return lambda x: np.asarray(function(x, axis=where, keepdims=keep)).astype(dtype)

    return rule


def _log_softmax(call: relax.Call) -> Kernel:
    axis = int(call.attrs.axis)

    def log_softmax(x: np.ndarray) -> np.ndarray:
        shifted = x - x.max(axis=axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))

    return log_softmax


def _astype(call: relax.Call) -> Kernel | None:
    dtype = str(call.attrs.dtype)
    known = dtype in ("bool", "float16") or dtype.removeprefix("u").startswith(("int", "float32", "float64"))
    return (lambda x: x.astype(dtype)) if known else None


def _layer_norm(call: relax.Call) -> Kernel:
    axes, epsilon = ints(call.attrs.axes), float(call.attrs.epsilon)
    center, scale = bool(call.attrs.center), bool(call.attrs.scale)

    def layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=axes, keepdims=True, dtype=x.dtype)
        deviation = np.sqrt((centred * centred).mean(axis=axes, keepdims=True, dtype=x.dtype) + x.dtype.type(epsilon))
        shape = [size if k in {a % x.ndim for a in axes} else 1 for k, size in enumerate(x.shape)]
        result = centred / deviation
        result = result * gamma.reshape(shape) if scale else result
        return result + beta.reshape(shape) if center else result

    return layer_norm


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind in "iu":
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
    return np.divide(a, b)


def _plain(function: Kernel) -> Callable[[relax.Call], Kernel]:
    return lambda call: function


BINARY: dict[str, Kernel] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": _divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.power": np.power,
}
# Of a type of their own, so not for tables; broadcast as the others do.
COMPARISONS: dict[str, Kernel] = {
    "relax.greater": np.greater,
    "relax.greater_equal": np.greater_equal,
    "relax.less": np.less,
    "relax.less_equal": np.less_equal,
    "relax.equal": np.equal,
    "relax.not_equal": np.not_equal,
    "relax.logical_and": np.logical_and,
    "relax.logical_or": np.logical_or,
    "relax.logical_xor": np.logical_xor,
    "relax.where": np.where,
}
UNARY: dict[str, Callable[[relax.Call], Kernel | None]] = {
    "relax.nn.relu": _plain(lambda x: np.maximum(x, x.dtype.type(0))),
    "relax.clip": _clip,
    "relax.sigmoid": _plain(_sigmoid),
    "relax.tanh": _plain(np.tanh),
    "relax.exp": _plain(np.exp),
    "relax.sqrt": _plain(np.sqrt),
    "relax.negative": _plain(np.negative),
    "relax.abs": _plain(np.abs),
    "relax.erf": _plain(lambda x: erf(x).astype(x.dtype, copy=False)),
    "relax.log": _plain(np.log),
    "relax.floor": _plain(np.floor),
    "relax.ceil": _plain(np.ceil),
    "relax.round": _plain(np.rint),
    "relax.sin": _plain(np.sin),
    "relax.cos": _plain(np.cos),
    "relax.sign": _plain(np.sign),
    "relax.tan": _plain(np.tan),
    "relax.sinh": _plain(np.sinh),
    "relax.cosh": _plain(np.cosh),
    "relax.asin": _plain(np.arcsin),
    "relax.acos": _plain(np.arccos),
    "relax.atan": _plain(np.arctan),
    "relax.asinh": _plain(np.arcsinh),
    "relax.acosh": _plain(np.arccosh),
    "relax.atanh": _plain(np.arctanh),
    "relax.square": _plain(np.square),
    "relax.rsqrt": _plain(lambda x: 1 / np.sqrt(x)),
    "relax.nn.leakyrelu": _leakyrelu,
    "relax.nn.silu": _plain(lambda x: x * _sigmoid(x)),
}
RULES: dict[str, Callable[[relax.Call], Kernel | None]] = {
    **MOVES,
    **UNARY,
    **{name: _plain(function) for name, function in {**BINARY, **COMPARISONS}.items()},
    "relax.nn.conv2d": _conv2d,
    "relax.nn.max_pool2d": _max_pool2d,
    "relax.nn.avg_pool2d": _avg_pool2d,
    "relax.matmul": _plain(np.matmul),
    "relax.reshape": _reshape,
    "relax.expand_dims": _reshape,
    "relax.squeeze": _reshape,
    "relax.permute_dims": _permute_dims,
    "relax.nn.softmax": _softmax,
    "relax.concat": _concat,
    "relax.mean": _reduction(np.mean, typed=True),
    "relax.sum": _reduction(np.sum, typed=True),
    "relax.prod": _reduction(np.prod, typed=True),
    "relax.variance": _reduction(np.var, typed=True),
    "relax.std": _reduction(np.std, typed=True),
    "relax.max": _reduction(np.max),
    "relax.min": _reduction(np.min),
    "relax.argmax": _arg(np.argmax),
    "relax.argmin": _arg(np.argmin),
    "relax.nn.log_softmax": _log_softmax,
    "relax.nn.layer_norm": _layer_norm,
    "relax.astype": _astype,
    "relax.logical_not": _plain(np.logical_not),
    RoundedAttrs.operator: lambda call: read(call).meaning,
}


REDUCTIONS = ("relax.mean", "relax.sum", "relax.prod", "relax.max", "relax.min", "relax.variance", "relax.std")


def keeps_samples_apart(name: str, call: relax.Call, batched: Sequence[bool]) -> bool:
    """Whether the rule `name` holds when axis 0 of the operands marked in `batched` grows by a common factor."""
    shapes = [known_shape(arg) or () for arg in call.args]
    rank = len(shapes[0])
    if name in MOVES:
        return bool(moves_apart(name, call, batched))
    if name in UNARY or name.startswith("relax.nn.") and name.endswith(("conv2d", "pool2d")):
        return rank > 0
    if name in BINARY or name in COMPARISONS:
        out = static_shape(call)
        grown = [s for s, b in zip(shapes, batched, strict=True) if b]
        fixed = [s for s, b in zip(shapes, batched, strict=True) if not b]
        first_axis_constant = any(len(s) == len(out) and s[0] != 1 for s in fixed)
        return all(len(s) == len(out) and s[0] == out[0] for s in grown) and not first_axis_constant
    if name == "relax.matmul":
        return batched[0] and rank >= 2 and (not batched[1] and len(shapes[1]) == 2 or batched[1] and _stacked(shapes))
    if name == "relax.reshape":
        out = static_shape(call)
        return rank > 0 and len(out) > 0 and math.prod(shapes[0]) > 0
    if name == "relax.permute_dims":
        return call.attrs.axes is not None and int(call.attrs.axes[0]) == 0
    if name in ("relax.nn.softmax", "relax.nn.log_softmax", "relax.argmax", "relax.argmin"):
        return call.attrs.axis is not None and int(call.attrs.axis) % rank != 0
    if name in ("relax.astype", "relax.logical_not"):
        return rank > 0
    if name == "relax.nn.layer_norm":
        return list(batched[1:]) == [False, False] and 0 not in [a % rank for a in ints(call.attrs.axes)]
    if name == "relax.concat":
        fields = [static_shape(field) for field in call.args[0].fields] if isinstance(call.args[0], relax.Tuple) else []
        return bool(fields) and int(call.attrs.axis) % len(fields[0]) != 0
    if name in REDUCTIONS:
        return call.attrs.axis is not None and 0 not in [a % rank for a in ints(call.attrs.axis)]
    return False


def _stacked(shapes: Sequence[Shape]) -> bool:
    return len(shapes[0]) >= 3 and len(shapes[0]) == len(shapes[1]) and shapes[0][0] == shapes[1][0]
