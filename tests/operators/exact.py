"""Operators in exact integers, written from the numerics as the ISA manual states them, alone: nothing here is the compiler's.

Tensors are in ONNX's own layout and order of axes. Sums are int64, whose bounds the cases keep; products of a sum and a
multiplier are Python integers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cartesian

import numpy as np

MULTIPLIER_BITS = 31
CONSTANT_BITS = 16  # of constants of element-wise operators


@dataclass(frozen=True)
class Q:
    """real = scale * (integer - zero); ``scale`` is exactly a float32."""

    bits: int
    scale: float
    zero: int

    @property
    def limits(self) -> tuple[int, int]:
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Tensor:
    """Integers and what they mean; ``real`` and ``size`` as in Result where an operator made them."""

    values: np.ndarray
    q: Q
    real: np.ndarray | None = None
    size: np.ndarray | None = None

    @property
    def centred(self) -> np.ndarray:
        return self.values.astype(np.int64) - self.q.zero


@dataclass(frozen=True)
class Result:
    """``values`` as the machine must give them. ``real`` (float64): what was rounded last, in output steps with the zero point.

    ``size``: the sum of the magnitudes that ``real`` is made of, in output steps, which bounds float32's error at it.
    """

    values: np.ndarray
    q: Q
    real: np.ndarray
    size: np.ndarray

    @property
    def tensor(self) -> Tensor:
        return Tensor(self.values, self.q, self.real, self.size)


Clamp = tuple[float, float]


def quantization(span: tuple[float, float], bits: int) -> Q:
    """4 and 8 bits: the full signed range over ``span`` with zero exact; 16 bits: symmetric, zero point 0."""
    lo, hi = min(span[0], 0.0), max(span[1], 0.0)
    if bits == 16:
        return Q(16, float(np.float32(max(-lo, hi) / 32767)), 0)
    steps = (1 << bits) - 1
    scale = float(np.float32((hi - lo) / steps))
    least, most = Q(bits, scale, 0).limits
    return Q(bits, scale, int(np.clip(round(least - lo / scale), least, most)))


def quantized(value: float, q: Q) -> int:
    """ONNX QuantizeLinear of one value; infinities saturate."""
    ratio = float(np.float32(value) / np.float32(q.scale))
    lo, hi = q.limits
    if math.isinf(ratio):
        return lo if ratio < 0 else hi
    return int(np.clip(int(np.rint(ratio)) + q.zero, lo, hi))


def mantissa(ratio: float) -> tuple[int, int]:
    """(M, s): a float32 as M * 2**-s, M of 31 bits."""
    part, exponent = math.frexp(float(np.float32(ratio)))
    return int(part * (1 << MULTIPLIER_BITS)), MULTIPLIER_BITS - exponent


def rhe(value: int, shift: int) -> int:
    """The integer nearest to value * 2**-shift, halves to even."""
    quotient, rest = divmod(int(value), 1 << int(shift))
    twice = 2 * rest - (1 << int(shift))
    return quotient + int(twice > 0 or (twice == 0 and quotient % 2 == 1))


def bounds(out: Q, clamps: Sequence[Clamp]) -> tuple[int, int]:
    """The clamp in output integers after any number of fused clips."""
    lo, hi = out.limits
    for clamp in clamps:
        low, high = (quantized(bound, out) for bound in clamp)
        lo, hi = min(max(lo, low), high), min(max(hi, low), high)
    return lo, hi


def finished(
    totals: np.ndarray, shifts: np.ndarray | int, out: Q, clamps: Sequence[Clamp], size: np.ndarray | None = None
) -> Result:
    """One rounding of exact ``totals * 2**-shifts`` (object), the zero point, the clamp."""
    shifts = np.broadcast_to(np.asarray(shifts, object), totals.shape)
    lo, hi = bounds(out, clamps)
    flat = [min(max(rhe(t, s) + out.zero, lo), hi) for t, s in zip(totals.reshape(-1), shifts.reshape(-1), strict=True)]
    real = np.array([float(t) / 2.0**s for t, s in zip(totals.reshape(-1), shifts.reshape(-1), strict=True)])
    real = real.reshape(totals.shape)
    size = np.abs(real) if size is None else size
    return Result(np.array(flat, np.int64).reshape(totals.shape), out, real + out.zero, size + abs(out.zero))


def requantized(
    acc: np.ndarray, ratios: np.ndarray, out: Q, clamps: Sequence[Clamp] = (), sizes: np.ndarray | None = None
) -> Result:
    """``acc`` int64 times float32 ``ratios`` (broadcast) by mantissa and shift."""
    pairs = {ratio: mantissa(ratio) for ratio in np.unique(ratios).tolist()}
    ratios = np.broadcast_to(ratios, acc.shape)
    multipliers = np.array([pairs[r][0] for r in ratios.reshape(-1).tolist()], object).reshape(acc.shape)
    shifts = np.array([pairs[r][1] for r in ratios.reshape(-1).tolist()], object).reshape(acc.shape)
    return finished(acc.astype(object) * multipliers, shifts, out, clamps, None if sizes is None else sizes * ratios)


def integer_weights(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """``weight`` [OC, ...] as (integers within +-(2**(bits-1) - 1), float32 scale per channel)."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    limit = (1 << (bits - 1)) - 1
    scale = (np.abs(flat).max(axis=1) / limit).astype(np.float32)
    integers = np.clip(np.rint(flat / scale.astype(np.float64)[:, None]), -limit, limit)
    return integers.astype(np.int64).reshape(weight.shape), scale


def integer_bias(bias: np.ndarray, source: Q, scale: np.ndarray) -> np.ndarray:
    unit = (np.float32(source.scale) * scale).astype(np.float64)
    integers = np.rint(bias.astype(np.float64) / unit).astype(np.int64)
    assert np.abs(integers).max(initial=0) < (1 << 31) - 2048, "the case lets a bias leave int32: another test's matter"
    return integers


def weighted(
    x: Tensor, weight: np.ndarray, bias: np.ndarray, bits: int, out: Q, clamps: Sequence[Clamp], sums, axis: int
) -> Result:
    """A layer with weights [OC, ...]: ``sums(values, integers)`` are its products summed, OC along ``axis`` of the result."""
    integers, scale = integer_weights(weight, bits)
    constant = integer_bias(bias, x.q, scale)

    def along(values: np.ndarray, rank: int) -> np.ndarray:
        return values.reshape([-1 if k == axis % rank else 1 for k in range(rank)])

    acc = sums(x.centred, integers)
    sizes = sums(np.abs(x.centred), np.abs(integers)) + along(np.abs(constant), acc.ndim)
    acc = acc + along(constant, acc.ndim)
    ratios = (np.float32(x.q.scale) * scale / np.float32(out.scale)).astype(np.float32)
    return requantized(acc, along(ratios, acc.ndim), out, clamps, sizes)


def convolution(strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], groups: int):
    """Sums of a convolution [N, C, *space] with [OC, C / groups, *kernel], padding zero: tap by tap."""

    def sums(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        rank = x.ndim - 2
        padded = np.pad(x, [(0, 0), (0, 0), *((pads[k], pads[k + rank]) for k in range(rank))])
        kernel = weight.shape[2:]
        size = [
            (padded.shape[2 + k] - (kernel[k] - 1) * dilations[k] - 1) // strides[k] + 1 for k in range(rank)
        ]  # fmt: skip
        per_out, per_in = len(weight) // groups, weight.shape[1]
        result = np.zeros((len(x), len(weight), *size), np.int64)
        for tap in cartesian(*(range(k) for k in kernel)):
            cut = padded[(slice(None), slice(None), *(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, dilations, size, strides, strict=True)
            ))]  # fmt: skip
            for channel in range(len(weight)):
                first = channel // per_out * per_in
                for i in range(per_in):
                    result[:, channel] += cut[:, first + i] * weight[(channel, i, *tap)]
        return result

    return sums


def transposed_convolution(
    strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], extra: Sequence[int], groups: int
):
    """Sums of ONNX's ConvTranspose: every input value adds its kernel to the output. Weights [OC, IC / groups, *kernel]."""

    def sums(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        rank = x.ndim - 2
        kernel = weight.shape[2:]
        full = [(x.shape[2 + k] - 1) * strides[k] + (kernel[k] - 1) * dilations[k] + 1 + extra[k] for k in range(rank)]
        result = np.zeros((len(x), len(weight), *full), np.int64)
        per_out, per_in = len(weight) // groups, weight.shape[1]
        for tap in cartesian(*(range(k) for k in kernel)):
            at = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, dilations, x.shape[2:], strides, strict=True)
            )
            for channel in range(len(weight)):
                first = channel // per_out * per_in
                for i in range(per_in):
                    result[(slice(None), channel, *at)] += x[:, first + i] * weight[(channel, i, *tap)]
        return result[(slice(None), slice(None), *(slice(pads[k], full[k] - pads[k + rank]) for k in range(rank)))]

    return sums


def _windows(x: np.ndarray, fill: int, kernel, strides, pads, dilations) -> np.ndarray:
    """[N, C, *space] to [N, C, *outputs, taps]."""
    rank = x.ndim - 2
    padded = np.pad(x, [(0, 0), (0, 0), *((pads[k], pads[k + rank]) for k in range(rank))], constant_values=fill)
    size = [(padded.shape[2 + k] - (kernel[k] - 1) * dilations[k] - 1) // strides[k] + 1 for k in range(rank)]
    cuts = []
    for tap in cartesian(*(range(k) for k in kernel)):
        at = (
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilations, size, strides, strict=True)
        )  # fmt: skip
        cuts.append(padded[(slice(None), slice(None), *at)])
    return np.stack(cuts, axis=-1)


def max_pool(x: Tensor, kernel, strides, pads, dilations, out: Q, clamps: Sequence[Clamp] = ()) -> Result:
    """The largest value of each window; padding never wins."""
    top = _windows(x.centred, -(1 << 40), kernel, strides, pads, dilations).max(axis=-1)
    return requantized(top, _ratio_of(x.q, out), out, clamps)


def average_pool(
    x: Tensor, kernel, strides, pads, count_include_pad: bool, out: Q, clamps: Sequence[Clamp] = ()
) -> Result:
    """Sums of windows, 1/n in the multiplier: n the taps inside the input, or all of them."""
    ones = [1] * len(kernel)
    total = _windows(x.centred, 0, kernel, strides, pads, ones).sum(axis=-1)
    size = _windows(np.abs(x.centred), 0, kernel, strides, pads, ones).sum(axis=-1)
    inside = np.ones_like(x.centred)
    counts = _windows(inside, int(count_include_pad), kernel, strides, pads, ones).sum(axis=-1)
    return requantized(total, _ratio_of(x.q, out) / counts.astype(np.float32), out, clamps, size)


def mean(x: Tensor, axes: Sequence[int], keepdims: bool, out: Q, clamps: Sequence[Clamp] = ()) -> Result:
    """Over any axes."""
    total = x.centred.sum(axis=tuple(axes), keepdims=keepdims)
    size = np.abs(x.centred).sum(axis=tuple(axes), keepdims=keepdims)
    count = np.float32(np.prod([x.values.shape[axis] for axis in axes]))
    return requantized(total, np.asarray(_ratio_of(x.q, out) / count), out, clamps, size)


def largest(x: Tensor, axes: Sequence[int], keepdims: bool, out: Q, clamps: Sequence[Clamp] = ()) -> Result:
    """The largest value over any axes."""
    return requantized(x.centred.max(axis=tuple(axes), keepdims=keepdims), _ratio_of(x.q, out), out, clamps)


def _ratio_of(source: Q, out: Q) -> np.ndarray:
    return np.asarray(np.float32(source.scale) / np.float32(out.scale))


def copy(x: Tensor, out: Q, clamps: Sequence[Clamp] = ()) -> Result:
    """The same real values under another quantization."""
    return requantized(x.centred, _ratio_of(x.q, out), out, clamps)


def constant(values: np.ndarray) -> Tensor:
    """Constants of an element-wise operator: 16 bits around zero, as ONNX QuantizeLinear makes them."""
    q = quantization((float(values.min()), float(values.max())), CONSTANT_BITS)
    return Tensor(np.clip(np.rint(values.astype(np.float32) / np.float32(q.scale)), *q.limits).astype(np.int64), q)


def eltwise(kind: str, a: Tensor, b: Tensor, out: Q, clamps: Sequence[Clamp] = ()) -> Result:
    """add, sub, mul, min, max with NumPy's broadcasting, rounded once from the exact result under a common shift."""
    first, second = np.broadcast_arrays(a.centred.astype(object), b.centred.astype(object))
    if kind == "mul":
        multiplier, shift = mantissa(np.float32(a.q.scale) * np.float32(b.q.scale) / np.float32(out.scale))
        return finished(first * second * multiplier, shift, out, clamps)
    ratios = [float(_ratio_of(each.q, out)) for each in (a, b)]
    _, shift = mantissa(max(ratios))
    ma, mb = (min(round(math.ldexp(ratio, shift)), (1 << MULTIPLIER_BITS) - 1) for ratio in ratios)
    combine = {
        "add": lambda p, q: p + q, "sub": lambda p, q: p - q, "min": np.minimum, "max": np.maximum,
    }[kind]  # fmt: skip
    size = (np.abs(first * ma) + np.abs(second * mb)).astype(np.float64) / 2.0**shift
    return finished(combine(first * ma, second * mb), shift, out, clamps, size)


def prelu(x: Tensor, slopes: np.ndarray, out: Q) -> Result:
    """The slope of each channel times x; of that and x the greater, or the smaller where the slope is above 1. Slopes of maps
    [N, C, H, W] are 8-bit weights with a scale each, others one constant."""
    rank, channels = x.values.ndim, x.values.shape[1]

    def products(values: np.ndarray, integers: np.ndarray) -> np.ndarray:
        return values * integers.reshape([-1 if k == 1 else 1 for k in range(rank)])

    if rank == 4:
        sloped = weighted(x, slopes.reshape(channels, 1), np.zeros(channels), 8, out, (), products, 1)
    else:
        sloped = eltwise("mul", x, constant(slopes), out)
    greater, lesser = (eltwise(kind, x, sloped.tensor, out) for kind in ("max", "min"))
    steep = np.broadcast_to(slopes > 1, x.values.shape)
    return Result(
        np.where(steep, lesser.values, greater.values), out, np.where(steep, lesser.real, greater.real),
        np.maximum(lesser.size, np.maximum(greater.size, sloped.size)),
    )  # fmt: skip


def off_ties(source: Q, out: Q, cells: int) -> Q:
    """What a linear Resize of 4 or 8 bits has for the scale ``out``: that, or 1 + 1/128, 1 + 1/129, ... 1 + 1/191 times as much.

    It is the first on which no whole number of ``cells``-ths of the source's steps comes within 2**-14 of the middle between two
    integers; the scale itself where there is none.
    """
    if source.bits == 16:
        return out
    least, most = source.limits
    numbers = np.arange(max(most - source.zero, source.zero - least) * cells + 1)
    for more in (0.0, *(1 / k for k in range(128, 192))):
        scale = np.float32(out.scale * (1 + more))
        steps = numbers * float(np.float32(source.scale) / scale) / cells
        if (np.abs(steps % 1 - 0.5) > 2**-14).all():
            return dataclasses.replace(out, scale=float(scale))
    return out


def linear_resize(x: Tensor, factors: Sequence[int], half_pixel: bool, out: Q) -> Result:
    """[N, C, H, W] by whole factors: exact fractions over unit = factor (asymmetric) or 2 * factor."""
    acc, size, unit = x.centred, np.abs(x.centred), 1
    for axis, factor in zip((2, 3), factors, strict=True):
        per = 2 * factor if half_pixel else factor
        cells = x.values.shape[axis]
        matrix = np.zeros((cells * factor, cells), np.int64)
        for o in range(cells * factor):
            place = 2 * o + 1 - factor if half_pixel else o  # in 1 / per of a cell
            below, part = divmod(place, per)
            matrix[o, min(max(below, 0), cells - 1)] += per - part
            matrix[o, min(max(below + 1, 0), cells - 1)] += part
        acc, size = (np.moveaxis(np.moveaxis(v, axis, -1) @ matrix.T, -1, axis) for v in (acc, size))
        unit *= per
    out = off_ties(x.q, out, unit)
    ratio = np.float32(x.q.scale) * np.float32(1 / unit) / np.float32(out.scale)
    return requantized(acc, np.asarray(ratio), out, (), size)


def _as_they_are(x: Tensor) -> Result:
    real = x.values.astype(np.float64) if x.real is None else x.real
    return Result(x.values, x.q, real, np.zeros(x.values.shape) if x.size is None else x.size)


CODE = 1 << 20  # numbers of values begin here; below are the constants that an operator fills with


def moved(codes: np.ndarray, sources: Sequence[Tensor], out: Q, clamps: Sequence[Clamp] = ()) -> Result:
    """Values put where ``codes`` say: CODE + position in all sources one after the other, or a constant."""
    flat = codes.reshape(-1)
    made = [_as_they_are(s) if s.q == out else copy(s, out, clamps) for s in sources]
    fills = np.array([quantized(float(v), out) if v < CODE else 0 for v in flat], np.int64)
    position = np.where(flat < CODE, 0, flat - CODE).astype(np.int64)

    def taken(of: str) -> np.ndarray:
        every = np.concatenate([getattr(each, of).reshape(-1) for each in made])
        return np.where(flat < CODE, fills, every[position]).reshape(codes.shape)

    return Result(taken("values"), out, taken("real"), taken("size"))


def table(x: Tensor, function, out: Q, clamps: Sequence[Clamp] = ()) -> Result:
    """The correctly rounded function of 4 and 8-bit integers; ``function`` takes and gives float64."""
    with np.errstate(all="ignore"):
        real = np.clip(function(x.centred * x.q.scale) / out.scale + out.zero, -(2.0**40), 2.0**40)
    values = np.clip(np.rint(real), *bounds(out, clamps)).astype(np.int64)
    return Result(values, out, real, np.abs(real - out.zero) + abs(out.zero))
