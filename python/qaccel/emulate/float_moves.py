"""NumPy rules for Relax operators that move values, and for transposed convolution and linear resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

from ..errors import UserError
from ..relax_tools import node_name

Kernel = Callable[..., np.ndarray]
_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(v) for v in expr.ty.shape.values)


def _strided_slice(call: relax.Call) -> Kernel:
    axes, begins, ends = ([int(v) for v in field.fields] for field in call.args[1:4])
    strides = [int(v) for v in call.args[4].fields] if len(call.args) > 4 else [1] * len(axes)
    rank = len(_shape(call.args[0]))
    cut: list[slice] = [slice(None)] * rank
    for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
        size = _shape(call.args[0])[axis]
        # A walk backwards past the first element has no end that is a position.
        cut[axis] = slice(begin, None if stride < 0 and end < -size else end, stride)
    chosen = tuple(cut)
    return lambda x, *_: x[chosen]


def _pad(call: relax.Call) -> Kernel:
    width = [int(v) for v in call.attrs.pad_width]
    pairs = list(zip(width[::2], width[1::2], strict=True))
    mode, value = str(call.attrs.pad_mode), float(call.attrs.pad_value)
    if mode == "constant":
        return lambda x: np.pad(x, pairs, constant_values=x.dtype.type(value))
    return lambda x: np.pad(x, pairs, mode=_PAD_MODES[mode])  # type: ignore[call-overload]


def _take(call: relax.Call) -> Kernel:
    axis = None if call.attrs.axis is None else int(call.attrs.axis)

    def take(x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        size = x.size if axis is None else x.shape[axis]
        if indices.size and not -size <= int(indices.min()) <= int(indices.max()) < size:
            worst = int(indices.max()) if int(indices.max()) >= size else int(indices.min())
            raise UserError(f"node '{node_name(call)}' looks up entry {worst} of {size}; mend the model or the samples")
        return np.take(x, indices, axis=axis)

    return take


def _tile(call: relax.Call) -> Kernel:
    repeats = [int(v) for v in call.attrs.repeats]
    return lambda x: np.tile(x, repeats)


def _repeat(call: relax.Call) -> Kernel:
    repeats, axis = int(call.attrs.repeats), call.attrs.axis
    return lambda x: np.repeat(x, repeats, axis=None if axis is None else int(axis))


def _flip(call: relax.Call) -> Kernel:
    axis = int(call.attrs.axis)
    return lambda x: np.flip(x, axis)


def _broadcast_to(call: relax.Call) -> Kernel:
    shape = _shape(call)
    return lambda x, *_: np.broadcast_to(x, shape)


def _shape_of(call: relax.Call) -> Kernel:
    """The static shape of a tensor as TVM's importer asks for it."""
    return lambda *_: np.asarray(_shape(call.args[0]), np.int64)


def _shape_to_tensor(call: relax.Call) -> Kernel:
    values = np.asarray([int(v) for v in call.args[0].ty.values], np.int64)
    return lambda *_: values


def _conv2d_transpose(call: relax.Call) -> Kernel | None:
    """The gradient of a convolution: every input value adds its kernel to the output."""
    attrs = call.attrs
    if (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCHW", "IOHW"):
        return None
    (sh, sw), (dh, dw) = ([int(v) for v in values] for values in (attrs.strides, attrs.dilation))
    top, left, bottom, right = (int(v) for v in attrs.padding)
    extra_h, extra_w = (int(v) for v in attrs.output_padding)
    groups = int(attrs.groups)

    def kernel(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        n, ic, h, w = x.shape
        _, per_group, kh, kw = weight.shape
        height, width = (h - 1) * sh + (kh - 1) * dh + 1 + extra_h, (w - 1) * sw + (kw - 1) * dw + 1 + extra_w
        full = np.zeros((n, groups, per_group, height, width), np.result_type(x, weight))
        parts = x.reshape(n, groups, ic // groups, h * w)
        for ky in range(kh):
            for kx in range(kw):
                tap = weight[:, :, ky, kx].reshape(groups, ic // groups, per_group).transpose(0, 2, 1)
                rows = slice(ky * dh, ky * dh + (h - 1) * sh + 1, sh)
                pixels = slice(kx * dw, kx * dw + (w - 1) * sw + 1, sw)
                full[..., rows, pixels] += np.matmul(tap, parts).reshape(n, groups, per_group, h, w)
        out = full[..., top : height - bottom, left : width - right]
        return np.ascontiguousarray(out.reshape(n, groups * per_group, *out.shape[3:]))

    return kernel


def _prelu(call: relax.Call) -> Kernel:
    rank, axis = len(_shape(call.args[0])), int(call.attrs.axis)
    wanted = [-1 if k == axis % rank else 1 for k in range(rank)]
    return lambda x, slope: np.where(x >= 0, x, x * slope.reshape(wanted))


def _resize2d(call: relax.Call) -> Kernel | None:
    """Linear resizing by position weights (ONNX Resize); other methods are compiled."""
    attrs = call.attrs
    mode = str(attrs.coordinate_transformation_mode)
    known = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    if str(attrs.method) != "linear" or str(attrs.layout) != "NCHW" or mode not in known:
        return None
    weights = [linear_weights(i, o, mode) for i, o in zip(_shape(call.args[0])[2:], _shape(call)[2:], strict=True)]

    def kernel(x: np.ndarray, *_: Any) -> np.ndarray:
        rows, pixels = (w.astype(x.dtype) for w in weights)
        return np.matmul(np.matmul(rows, x), pixels.T)

    return kernel


def linear_weights(size: int, outputs: int, mode: str) -> np.ndarray:
    """[outputs, size]: how much of each input position an output position is, float64 (ONNX Resize, linear)."""
    at = np.arange(outputs, dtype=np.float64)
    if mode == "align_corners":
        place = at * (size - 1) / max(outputs - 1, 1)
    elif mode == "asymmetric":
        place = at * size / outputs
    elif mode == "pytorch_half_pixel" and outputs == 1:
        place = np.zeros(1)
    else:
        place = (at + 0.5) * size / outputs - 0.5
    below = np.floor(place).astype(np.int64)
    part = place - below
    weights = np.zeros((outputs, size))
    rows = np.arange(outputs)
    np.add.at(weights, (rows, np.clip(below, 0, size - 1)), 1 - part)
    np.add.at(weights, (rows, np.clip(below + 1, 0, size - 1)), part)
    return weights


RULES: dict[str, Callable[[relax.Call], Kernel | None]] = {
    "relax.strided_slice": _strided_slice,
    "relax.nn.pad": _pad,
    "relax.take": _take,
    "relax.tile": _tile,
    "relax.repeat": _repeat,
    "relax.flip": _flip,
    "relax.shape_of": _shape_of,
    "relax.shape_to_tensor": _shape_to_tensor,
    "relax.broadcast_to": _broadcast_to,
    "relax.nn.conv2d_transpose": _conv2d_transpose,
    "relax.nn.prelu": _prelu,
    "relax.image.resize2d": _resize2d,
}


def moves_apart(name: str, call: relax.Call, batched: Sequence[bool]) -> bool | None:
    """Whether a rule of this file holds for another size of axis 0 of the operands in `batched`; None if it is not of this file."""
    if name not in RULES:
        return None
    if name == "relax.strided_slice":
        return bool(batched[0]) and 0 not in [int(v) for v in call.args[1].fields]
    if name == "relax.nn.pad":
        return bool(batched[0]) and not any(int(v) for v in call.attrs.pad_width[:2])
    if name == "relax.take" and not batched[0]:  # of a table
        return (
            bool(batched[1]) and call.attrs.axis is not None and int(call.attrs.axis) % len(_shape(call.args[0])) == 0
        )
    if name == "relax.take" and batched[1]:
        return False  # each sample's own indices would be taken of every sample
    if name in ("relax.take", "relax.repeat", "relax.flip"):
        return (
            bool(batched[0]) and call.attrs.axis is not None and int(call.attrs.axis) % len(_shape(call.args[0])) != 0
        )
    return bool(batched[0]) and name not in ("relax.tile", "relax.broadcast_to")
