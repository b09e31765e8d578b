"""Rescaling as the machine rounds it, as TIR expressions in 64-bit integers; `dialect.rescale` is the same in NumPy."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from ...dialect.operators import ClampedAttrs, carrier


def centred(value: Any, zero_point: int, dtype: str) -> Any:
    """``q - zero_point`` in ``dtype``."""
    return value.astype(dtype) - tirx.const(zero_point, dtype)


def carried(value: Any, bits: int) -> Any:
    """A value in the carrier of that many bits."""
    return value.astype(carrier(bits))


def clamped(value: Any, attrs: ClampedAttrs) -> Any:
    """``clamp(zero_point + value)`` in the carrier of the operator's result."""
    moved = value + tirx.const(attrs.result.zero_point, "int64")
    lo, hi = tirx.const(attrs.clamp.lo, "int64"), tirx.const(attrs.clamp.hi, "int64")
    return carried(tirx.max(tirx.min(moved, hi), lo), attrs.result.bits)


def rounded(product: Any, shift: Any) -> Any:
    """``rhe(product * 2**-shift)`` for |product| <= 2**62."""
    near = tirx.min(shift, _const(62))
    unit = tirx.shift_left(_const(1), near)
    floor = tirx.shift_right(product, near)
    twice = (product - tirx.shift_left(floor, near)) * 2
    up = tirx.any(twice > unit, tirx.all(twice == unit, (floor & 1) == _const(1)))
    return tirx.Select(shift > _const(62), _const(0), floor + _bit(up))


def _bit(condition: Any) -> Any:
    return tirx.Select(condition, _const(1), _const(0))


def _const(value: int) -> Any:
    return tirx.const(value, "int64")
