"""What every operator of the dialect computes, in NumPy and exact integers: an oracle sharing no code with the machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..machine.isa import isa
from ..machine.numerics import activation_limits
from . import kernels, operators
from .pieces import positions, unflattened
from .rescale import Ending, requantize, rounded

FLOAT32_EXACT, FLOAT64_EXACT = 1 << 24, 1 << 53


def _quantize(attrs: operators.QuantizeAttrs, x: np.ndarray) -> np.ndarray:
    lo, hi = activation_limits(attrs.bits)
    with np.errstate(all="ignore"):
        ratio = np.rint(np.asarray(x, np.float32) / np.float32(attrs.scale))
        q = np.clip(np.nan_to_num(ratio, nan=0.0), lo - attrs.zero_point, hi - attrs.zero_point).astype(np.int32)
    q = (q + attrs.zero_point).astype(operators.carrier(attrs.bits))
    outer = (
        attrs.shape[0] * q.size // math.prod(attrs.shape)
    )  # the batch at hand, whatever the source has merged with it
    shape = (outer, *attrs.shape[1:]) if attrs.axes[0] == 0 else attrs.shape
    return np.ascontiguousarray(q.transpose(attrs.axes)).reshape(shape)


def _dequantize(attrs: operators.DequantizeAttrs, q: np.ndarray) -> np.ndarray:
    real = (q.astype(np.int32) - attrs.zero_point).astype(np.float32) * np.float32(attrs.scale)
    outer = attrs.shape[0] * q.size // math.prod(attrs.shape)  # the batch at hand, and what may be merged with it
    return real.reshape(outer, *attrs.shape[1:]).transpose(attrs.axes)


def _batched(batch: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` with the batch at hand."""
    return (batch, *shape[1:])


def _conv(
    attrs: operators.ConvAttrs, q: np.ndarray, weight: np.ndarray, bias: np.ndarray, weight_scale: np.ndarray
) -> np.ndarray:
    return requantize(sums(attrs, q, weight), attrs.multipliers(weight_scale), ending(attrs), bias=bias)


def accumulate(attrs: operators.ConvAttrs, q: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The exact accumulators, bias included, int64 NHWC."""
    return sums(attrs, q, weight).astype(np.int64) + bias.astype(np.int64)


def sums(attrs: operators.ConvAttrs, q: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Products summed, NHWC: exact integers, in a float type where no sum can reach its mantissa."""
    lo, hi = activation_limits(attrs.activation_bits)
    reach = max(hi - attrs.in_zero_point, attrs.in_zero_point - lo)
    largest = int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1).max()) * reach
    dtype: Any = np.float32 if largest < FLOAT32_EXACT else np.float64 if largest < FLOAT64_EXACT else np.int64
    window = kernels.Window(weight.shape[1:3], attrs.strides, attrs.dilation, attrs.padding)
    centred = q.astype(dtype)
    centred -= attrs.in_zero_point
    kernel = weight.transpose(0, 3, 1, 2).astype(dtype)
    return kernels.conv2d(centred.transpose(0, 3, 1, 2), kernel, window, attrs.groups).transpose(0, 2, 3, 1)


def _pool(attrs: operators.PoolAttrs, q: np.ndarray) -> np.ndarray:
    window = kernels.Window(attrs.kernel, attrs.strides, attrs.dilation, attrs.padding)
    out = window.output(q.shape[1], q.shape[2])
    centred = q.astype(np.int64) - attrs.in_zero_point
    if attrs.kind == "max":
        least = int(np.iinfo(np.int32).min)
        taps = kernels.windows(kernels.padded(centred, attrs.padding, least), window, out)
        return requantize(taps.max(axis=(3, 4)), attrs.multiplier(1), ending(attrs))
    sums = kernels.windows(kernels.padded(centred, attrs.padding, 0), window, out).sum(axis=(3, 4))
    counts = tap_counts(attrs, q.shape[1:3], out)
    result = np.empty(sums.shape, operators.carrier(attrs.out_bits))
    for count in np.unique(counts):
        chosen = counts == count
        result[:, chosen] = requantize(sums[:, chosen], attrs.multiplier(int(count)), ending(attrs))
    return result


def tap_counts(attrs: operators.PoolAttrs, size: tuple[int, ...], out: tuple[int, int]) -> np.ndarray:
    """What each window of an average divides by, int64 [rows, pixels]."""
    if attrs.count_include_pad:
        return np.full(out, attrs.kernel[0] * attrs.kernel[1], np.int64)
    per_axis = []
    for axis in (0, 1):
        first = np.arange(out[axis])[:, None] * attrs.strides[axis] - attrs.padding[axis]
        taps = first + np.arange(attrs.kernel[axis])[None, :] * attrs.dilation[axis]
        per_axis.append(((taps >= 0) & (taps < size[axis])).sum(axis=1))
    return per_axis[0][:, None] * per_axis[1][None, :]


def _eltwise(attrs: operators.EltwiseAttrs, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    first = a.astype(np.int64) - attrs.a_zero_point
    second = b.astype(np.int64) - attrs.b_zero_point
    ma, mb, shift = attrs.multipliers()
    if attrs.kind == "mul":
        return requantize(first * second, (ma, shift), ending(attrs))
    combine = {"add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum}[attrs.kind]
    zero_point, lo, hi, dtype = ending(attrs)
    return np.clip(rounded(combine(first * ma, second * mb), shift) + zero_point, lo, hi).astype(dtype)


def _move(attrs: operators.MoveAttrs, *sources: np.ndarray) -> np.ndarray:
    batch = len(sources[0])
    made = [
        requantize(q.astype(np.int64) - zero_point, scale, ending(attrs)).reshape(batch, -1, q.shape[-1])
        for q, zero_point, scale in zip(sources, attrs.in_zero_points, attrs.multipliers(), strict=True)
    ]
    shape = _batched(batch, attrs.shape)
    result = np.zeros((batch, shape[1] * shape[2], shape[3]), operators.carrier(attrs.out_bits))
    for piece in unflattened(attrs.pieces):
        pixel, channel = positions(piece, source=False)
        run = channel[..., None] + np.arange(piece.channels)
        if piece.source >= len(made):
            result[:, pixel[..., None], run] = attrs.fills[piece.source - len(made)]
            continue
        from_pixel, from_channel = positions(piece, source=True)
        values = made[piece.source][:, from_pixel[..., None], from_channel[..., None] + np.arange(piece.channels)]
        result[:, pixel[..., None], run] = values
    return result.reshape(shape)


def _requantize(attrs: operators.RequantizeAttrs, q: np.ndarray) -> np.ndarray:
    return requantize(q.astype(np.int64) - attrs.in_zero_point, attrs.multiplier(), ending(attrs))


def _table(attrs: operators.TableAttrs, q: np.ndarray, table: np.ndarray) -> np.ndarray:
    index = q.astype(np.int64) + (1 << (attrs.in_bits - 1))
    if attrs.in_bits != 16:
        return table[index].astype(operators.carrier(attrs.out_bits))
    entries = table.astype(np.int64)
    bits = isa().interpolation_bits
    unit = 1 << bits
    low, part = index >> bits, index & (unit - 1)
    between = entries[low] * (unit - part) + entries[low + 1] * part
    return rounded(between, bits).astype(operators.carrier(attrs.out_bits))


def ending(
    attrs: operators.ConvAttrs
    | operators.PoolAttrs
    | operators.EltwiseAttrs
    | operators.RequantizeAttrs
    | operators.MoveAttrs,
) -> Ending:
    """What `requantize` ends with: zero point, clamp, dtype of the result."""
    return attrs.out_zero_point, attrs.clamp_lo, attrs.clamp_hi, operators.carrier(attrs.out_bits)


MEANINGS: dict[type, Callable[..., np.ndarray]] = {
    operators.QuantizeAttrs: _quantize,
    operators.DequantizeAttrs: _dequantize,
    operators.ConvAttrs: _conv,
    operators.PoolAttrs: _pool,
    operators.EltwiseAttrs: _eltwise,
    operators.RequantizeAttrs: _requantize,
    operators.TableAttrs: _table,
    operators.MoveAttrs: _move,
}
