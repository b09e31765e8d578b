"""``rhe(value * M * 2**-s)`` on whole arrays, exactly as ``numerics.rounding_shift`` has it."""

from __future__ import annotations

import numpy as np

from ..machine.numerics import MULTIPLIER_BITS, activation_limits

# Constants of element-wise operators cost no MACs, so they are stated as finely as the machine reads them.
CONSTANT_BITS = 16
Integers = np.ndarray | int
Ending = tuple[int, int, int, str]
_LOW = (1 << MULTIPLIER_BITS) - 1
_SATURATED = 1 << MULTIPLIER_BITS
_BLOCK_VALUES = 1 << 15  # worked on at once, so that what lies between stays in the cache
_DOUBT = 0.5 - 2.0**-20  # float64 is off by less than 2**-21 at results within +-2**31


def requantize(
    values: np.ndarray, scale: tuple[Integers, Integers], ending: Ending, bias: np.ndarray | None = None
) -> np.ndarray:
    """``clamp(rhe((values + bias) * M * 2**-s) + zero point, lo, hi)`` of integers below 2**61.

    ``values`` of any dtype that holds them exactly; ``scale`` is M (31 bits) and s (0 to 127), scalars or, as ``bias``,
    along the last axis; ``ending`` is zero point, lo, hi and dtype of the result, within 32 bits. Rounded in float64, and
    once more in exact integers where that is near a tie.
    """
    zero_point, lo, hi, dtype = ending
    multiplier, shift = (np.asarray(each, np.int64).reshape(-1) for each in scale)
    ratio = np.ldexp(multiplier.astype(np.float64), -shift)
    rows = values.reshape(-1, values.shape[-1] if ratio.size > 1 or bias is not None else 1)
    result = np.empty(rows.shape, dtype)
    step = max(1, _BLOCK_VALUES // rows.shape[1])
    for first in range(0, len(rows), step):
        piece = rows[first : first + step]
        real = piece * ratio if bias is None else (piece + bias.astype(np.float64)) * ratio
        near = np.rint(real)
        real -= near
        near += zero_point
        target = result[first : first + step]
        target[...] = np.clip(near, lo, hi, out=near)
        doubtful = np.flatnonzero(np.abs(real, out=real) >= _DOUBT)
        if doubtful.size:
            channel = doubtful % ratio.size
            chosen = piece.reshape(-1)[doubtful].astype(np.int64)
            if bias is not None:
                chosen += bias[doubtful % rows.shape[1]]
            exact = _exact(chosen, multiplier[channel], shift[channel]) + zero_point
            target.reshape(-1)[doubtful] = np.clip(exact, lo, hi)
    return result.reshape(values.shape)


def _exact(values: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """``rhe(values * multiplier * 2**-shift)`` in integers alone, for vectors; results beyond +-2**31 only stay beyond."""
    if max(int(values.max()), -int(values.min())) < 1 << 31:
        return rounded(values * multiplier, shift)
    # The product in two parts: high * 2**31 + low.
    low = (values & _LOW) * multiplier
    high = (values >> MULTIPLIER_BITS) * multiplier + (low >> MULTIPLIER_BITS)
    low &= _LOW
    return np.where(shift <= MULTIPLIER_BITS, _short(high, low, shift), _long(high, low, shift - MULTIPLIER_BITS))


def rounded(product: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """``rhe(product * 2**-shift)`` for |product| <= 2**62, int64."""
    shift = np.asarray(shift, np.int64)
    near = np.minimum(shift, 62)
    unit = np.int64(1) << near
    floor = product >> near
    rest = product - (floor << near)
    rest += rest
    floor += (rest > unit) | ((rest == unit) & (floor & 1).astype(bool))
    return np.where(shift > 62, 0, floor) if shift.size and shift.max() > 62 else floor


def _short(high: np.ndarray, low: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Shifts up to 31: only ``low`` is cut; ``high`` is held where the result is far out of range anyway."""
    shift = np.minimum(shift, MULTIPLIER_BITS)
    high = np.clip(high, -_SATURATED, _SATURATED)
    unit = np.int64(1) << shift
    floor = (high << (MULTIPLIER_BITS - shift)) + (low >> shift)
    rest = (low & (unit - 1)) * 2
    return floor + ((rest > unit) | ((rest == unit) & (floor & 1).astype(bool)))


def _long(high: np.ndarray, low: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Shifts beyond 31, by ``shift`` more: all of ``low`` is cut; from 62 on nothing is left of |high| < 2**61."""
    near = np.clip(shift, 1, 61)
    unit = np.int64(1) << near
    floor = high >> near
    rest = (high - (floor << near)) * 2
    above = (rest > unit) | ((rest == unit) & ((low > 0) | (floor & 1).astype(bool)))
    return np.where(shift > 61, 0, floor + above)


def quantize_constant(values: np.ndarray, scale: float) -> np.ndarray:
    """A constant of an element-wise operator as ONNX QuantizeLinear makes it, 16 bits around zero; float32 -> int16."""
    limits = activation_limits(CONSTANT_BITS)
    return np.clip(np.rint(values.astype(np.float32) / np.float32(scale)), *limits).astype(np.int16)
