"""Integers out of real values: quantization of activations from ranges, of weights and biases per output channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...dialect.operators import Quantization
from ...machine.hw import WIDE_ACCUMULATOR_BITS
from ...machine.numerics import MULTIPLIER_BITS, accumulator_width, activation_limits

INT32_MAX = (1 << 31) - 1
SMALLEST_SCALE = 2.0**-100  # keeps every product and quotient of scales a normal float32
DEAD_CHANNEL_STEP = 2.0**-12  # of an output step: how finely a channel without weights states its constant


class NotQuantizable(Exception):
    """An operation stays in float; the message is the reason that the user reads."""


@dataclass(frozen=True)
class QuantizedWeights:
    """``weight`` int64 OHWI within +-(2**(bits-1) - 1), ``bias`` int64 [OC] within int32, ``scale`` float32 [OC].

    ``raised`` channels had to take a larger scale than their weights ask for; ``dead`` ones are only a constant.
    """

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    raised: tuple[int, ...]
    dead: tuple[int, ...]


def activation_quantization(lo: float, hi: float, bits: int) -> Quantization:
    """Scale and zero point of a tensor with real values from ``lo`` <= 0 to ``hi`` >= 0.

    4 and 8 bits: asymmetric over the full signed range, zero exact. 16 bits: symmetric, zero point 0.
    Raises NotQuantizable if the range is not finite.
    """
    if not (math.isfinite(lo) and math.isfinite(hi)):
        raise NotQuantizable(f"its values range from {lo} to {hi}")
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    qmin, qmax = activation_limits(bits)
    span, steps = (max(-lo, hi), qmax) if bits == 16 else (hi - lo, qmax - qmin)
    scale = float(np.float32(max(span / steps, SMALLEST_SCALE))) if span > 0 else 1.0
    if not math.isfinite(scale):
        raise NotQuantizable(f"its values range from {lo} to {hi}, beyond float32")
    zero_point = 0 if bits == 16 else min(max(round(qmin - lo / scale), qmin), qmax)
    return Quantization(bits, scale, zero_point)


def quantize_real(value: float, q: Quantization) -> int:
    """One real value as ONNX QuantizeLinear makes it: float32 division, halves to even, saturated."""
    lo, hi = activation_limits(q.bits)
    with np.errstate(over="ignore"):
        ratio = float(np.float32(value) / np.float32(q.scale))
    return lo if ratio < lo - q.zero_point else hi if ratio > hi - q.zero_point else int(np.rint(ratio)) + q.zero_point


def quantize_weights(
    weight: np.ndarray, bias: np.ndarray, weight_bits: int, source: Quantization, out_scale: float
) -> QuantizedWeights:
    """Symmetric weights per output channel, and the bias in units of ``source.scale * scale[c]`` (float32 product).

    ``weight`` OHWI and ``bias`` [OC] in real values. A channel's scale is max|w| / (2**(bits-1) - 1), raised where the
    bias would leave int32, or where sum|w| * max|q - Z| + |bias| would leave the accumulator. A channel whose weights
    all become zero is its constant alone, on a scale of its own. Raises NotQuantizable if a value is not finite or a
    requantization ratio reaches 2**31.
    """
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise NotQuantizable("a weight or bias is not a finite number")
    flat = np.ascontiguousarray(weight, np.float64).reshape(weight.shape[0], -1)
    bias = np.asarray(bias, np.float64)
    limit = (1 << (weight_bits - 1)) - 1
    in_scale = float(source.scale)
    floor = max(SMALLEST_SCALE / in_scale, SMALLEST_SCALE, out_scale * 2.0**-90 / in_scale)
    wanted = _float32_up(np.maximum(np.abs(flat).max(axis=1) / limit, floor))
    scale, integers, constant = fit_scales(flat, bias, weight_bits, wanted, source)
    dead = ~integers.any(axis=1)
    step = np.maximum(out_scale * DEAD_CHANNEL_STEP, np.abs(bias) / (1 << 30))
    dead_scale = np.maximum(np.minimum(step, out_scale * 2.0**30) / in_scale, floor)
    scale = np.where(dead, _float32_up(dead_scale), scale).astype(np.float32)
    constant = np.where(dead, _bias(bias, in_scale, scale), constant)
    with np.errstate(over="ignore"):
        ratio = np.float32(in_scale) * scale / np.float32(out_scale)
    if not (np.isfinite(ratio) & (ratio > 0) & (ratio < 2.0**MULTIPLIER_BITS)).all():
        raise NotQuantizable(
            f"a channel's products are {float(ratio.max()):.3g} output steps each, the limit is 2^{MULTIPLIER_BITS}: "
            "its output was calibrated on values that are too small"
        )
    raised = ~dead & (scale > wanted)
    return QuantizedWeights(
        integers.reshape(weight.shape), constant, scale,
        tuple(map(int, np.flatnonzero(raised))), tuple(map(int, np.flatnonzero(dead))),
    )  # fmt: skip


def _float32_up(values: np.ndarray) -> np.ndarray:
    """The nearest float32, held below infinity."""
    return np.minimum(values, float(np.finfo(np.float32).max)).astype(np.float32)


def _bias(bias: np.ndarray, in_scale: float, scale: np.ndarray) -> np.ndarray:
    unit = (np.float32(in_scale) * scale).astype(np.float64)
    return np.clip(np.rint(bias / unit), -INT32_MAX, INT32_MAX).astype(np.int64)


def fit_scales(
    flat: np.ndarray, bias: np.ndarray, weight_bits: int, wanted: np.ndarray, source: Quantization
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scales ``wanted`` float32 [OC], raised until every bias fits int32 and no accumulator can overflow; (scale float32,
    weights int64 [OC, K], bias int64 [OC]) of the real weights ``flat`` [OC, K] and ``bias`` [OC]."""
    limit = (1 << (weight_bits - 1)) - 1
    room = (1 << (accumulator_width(weight_bits, source.bits, WIDE_ACCUMULATOR_BITS) - 1)) - 1
    scale = np.maximum(wanted, _float32_up(np.abs(bias) / (float(source.scale) * (INT32_MAX - 1024))))
    while True:
        integers = np.clip(np.rint(flat / scale.astype(np.float64)[:, None]), -limit, limit).astype(np.int64)
        constant = _bias(bias, source.scale, scale)
        largest = np.abs(integers).sum(axis=1) * source.reach + np.abs(constant)
        over = largest > room
        if not over.any():
            return scale, integers, constant
        factor = np.maximum(largest / room, 1.0) * (1 + 2.0**-10)
        scale = np.where(over, _float32_up(scale * factor), scale)


def within_reach(bias: np.ndarray, weight: np.ndarray, source: Quantization, out: Quantization) -> np.ndarray:
    """The bias [OC] with what lies so far out that the output is at its end whatever the input is brought to where that begins.

    A padding mask of -1e9 that became a bias would otherwise take the scale of its channel's weights.
    """
    ends = [[float(end - q.zero_point) * q.scale for end in activation_limits(q.bits)] for q in (source, out)]
    reach = np.abs(weight).reshape(len(weight), -1).sum(axis=1) * max(map(abs, ends[0]))
    return np.clip(bias, ends[1][0] - reach, ends[1][1] + reach)
