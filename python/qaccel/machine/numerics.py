"""Exact integer arithmetic of the machine (ISA manual, "numerics"), in Python and NumPy."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from .isa import field_maximum, isa

Counts = TypeVar("Counts", int, np.ndarray)  # one, or those of many

MULTIPLIER_BITS = isa().multiplier_bits
SHIFT_MAX = field_maximum("COPY", "shift")
INTERPOLATION_BITS, OCTAVE_BITS = isa().interpolation_bits, isa().octave_bits
FRACTION_BITS = 15 - OCTAVE_BITS  # that interpolate in the farthest octave


def activation_limits(bits: int) -> tuple[int, int]:
    """Smallest and largest value of a signed integer of that many bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def accumulator_width(weight_bits: int, activation_bits: int, wide_bits: int) -> int:
    """Accumulator bits of a layer: 32, or the machine's ``accumulator_bits`` if either operand has 16."""
    return 32 if weight_bits <= 8 and activation_bits <= 8 else wide_bits


def rounding_shift(value: int, shift: int) -> int:
    """``rhe(value * 2**-shift)``: one rounding of an exact Python integer, halves to even."""
    if shift == 0:
        return value
    floor = value >> shift
    rest = value - (floor << shift)
    half = 1 << (shift - 1)
    return floor + (rest > half or (rest == half and floor & 1))


def multiplier_and_shift(scale: float) -> tuple[int, int]:
    """``(M, s)`` with ``M * 2**-s == scale`` exactly for a float32 ``scale``; M has 31 bits, s is 0 to 127.

    The ratio is taken as it is: callers compute it in float32, as ONNX Runtime does. A scale below the
    smallest that the shift reaches gives M = 0, which requantizes everything to the zero point.
    Raises ValueError if the scale is not positive and finite or is 2**31 or more.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale {scale} must be positive and finite")
    mantissa, exponent = math.frexp(scale)
    shift = MULTIPLIER_BITS - exponent
    if shift < 0:
        raise ValueError(f"scale {scale} must be below 2**{MULTIPLIER_BITS}")
    multiplier = int(mantissa * (1 << MULTIPLIER_BITS))
    if shift > SHIFT_MAX:
        return 0, 0
    return multiplier, shift


def requantize(acc: int, multiplier: int, shift: int, zero_point: int, lo: int, hi: int) -> int:
    """``clamp(zero_point + rhe(acc * multiplier * 2**-shift), lo, hi)``, exact."""
    return min(max(zero_point + rounding_shift(acc * multiplier, shift), lo), hi)


def output_scale_ratio(in_scale: float, weight_scale: float, out_scale: float) -> float:
    """``S_a * S_w / S_o`` in float32 with ONNX Runtime's order of operations."""
    return float(np.float32(np.float32(in_scale) * np.float32(weight_scale)) / np.float32(out_scale))


def common_multipliers(ratios: tuple[float, float]) -> tuple[int, int, int]:
    """``(Ma, Mb, s)``: both ratios as 31-bit integers over one shift, the larger one with all its bits.

    The smaller ratio is rounded to nearest at that shift. Raises ValueError as multiplier_and_shift does.
    """
    _, shift = multiplier_and_shift(max(ratios))
    first, second = (min(round(math.ldexp(ratio, shift)), (1 << MULTIPLIER_BITS) - 1) for ratio in ratios)
    return first, second, shift


def table_knots(knots: str, origin: int) -> np.ndarray:
    """The 16-bit inputs at which the entries of a TABLE stand, int64, in the order of the entries.

    ``knots`` "even" or "octaves", as in the instruction. Some lie beyond the inputs that there are.
    """
    if knots == "even":
        return -(1 << 15) + (np.arange((1 << (16 - INTERPOLATION_BITS)) + 1) << INTERPOLATION_BITS)
    octave = 1 << OCTAVE_BITS
    index = np.arange((17 - OCTAVE_BITS) * octave + 1)
    distance = np.where(index < octave, index, (octave + index % octave) << np.maximum(index // octave - 1, 0))
    return np.concatenate([origin + distance, origin - 1 - distance])
