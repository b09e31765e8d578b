"""The machine's numerics (DESIGN section 4) as TIR expressions in 64-bit integers; see `quant/rescale.py` for NumPy."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from ..numerics import MULTIPLIER_BITS
from ..quant.operators import carrier


def centred(value: Any, zero_point: int, dtype: str) -> Any:
    """``q - zero_point`` in ``dtype``."""
    return value.astype(dtype) - tirx.const(zero_point, dtype)


def carried(value: Any, bits: int) -> Any:
    """A value in the carrier of that many bits."""
    return value.astype(carrier(bits))


def clamped(value: Any, attrs: Any) -> Any:
    """``clamp(zero_point + value)`` in the output's carrier; ``attrs`` has out_bits, out_zero_point and the clamp."""
    moved = value + tirx.const(attrs.out_zero_point, "int64")
    lo, hi = tirx.const(attrs.clamp_lo, "int64"), tirx.const(attrs.clamp_hi, "int64")
    return carried(tirx.max(tirx.min(moved, hi), lo), attrs.out_bits)


def rescale(value: Any, multiplier: Any, shift: Any, wide: bool) -> Any:
    """``rhe(value * multiplier * 2**-shift)`` of int64 expressions.

    |value| is below 2**31, or below 2**61 if ``wide``: then the product of up to 92 bits is taken in two parts.
    """
    if not wide:
        return rounded(value * multiplier, shift)
    low = (value & _const((1 << MULTIPLIER_BITS) - 1)) * multiplier
    high = tirx.shift_right(value, _const(MULTIPLIER_BITS)) * multiplier + tirx.shift_right(
        low, _const(MULTIPLIER_BITS)
    )
    low = low & _const((1 << MULTIPLIER_BITS) - 1)
    short = _short(high, low, tirx.min(shift, _const(MULTIPLIER_BITS)))
    return tirx.Select(shift <= _const(MULTIPLIER_BITS), short, _long(high, low, shift - _const(MULTIPLIER_BITS)))


def rounded(product: Any, shift: Any) -> Any:
    """``rhe(product * 2**-shift)`` for |product| <= 2**62."""
    near = tirx.min(shift, _const(62))
    unit = tirx.shift_left(_const(1), near)
    floor = tirx.shift_right(product, near)
    twice = (product - tirx.shift_left(floor, near)) * 2
    up = tirx.any(twice > unit, tirx.all(twice == unit, (floor & 1) == _const(1)))
    return tirx.Select(shift > _const(62), _const(0), floor + _bit(up))


def _short(high: Any, low: Any, shift: Any) -> Any:
    """Shifts up to 31: only ``low`` is cut; ``high`` is held where the result saturates anyway."""
    bound = 1 << MULTIPLIER_BITS
    high = tirx.max(tirx.min(high, _const(bound)), _const(-bound))
    unit = tirx.shift_left(_const(1), shift)
    floor = tirx.shift_left(high, _const(MULTIPLIER_BITS) - shift) + tirx.shift_right(low, shift)
    twice = (low & (unit - 1)) * 2
    return floor + _bit(tirx.any(twice > unit, tirx.all(twice == unit, (floor & 1) == _const(1))))


def _long(high: Any, low: Any, shift: Any) -> Any:
    """Shifts beyond 31, by ``shift`` more; from 62 on nothing is left of |high| < 2**61."""
    near = tirx.max(tirx.min(shift, _const(61)), _const(1))
    unit = tirx.shift_left(_const(1), near)
    floor = tirx.shift_right(high, near)
    twice = (high - tirx.shift_left(floor, near)) * 2
    up = tirx.any(twice > unit, tirx.all(twice == unit, tirx.any(low > _const(0), (floor & 1) == _const(1))))
    return tirx.Select(shift > _const(61), _const(0), floor + _bit(up))


def _bit(condition: Any) -> Any:
    return tirx.Select(condition, _const(1), _const(0))


def _const(value: int) -> Any:
    return tirx.const(value, "int64")
