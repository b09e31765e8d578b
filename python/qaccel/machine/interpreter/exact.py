"""Exact products, and their rounding (ISA manual, "numerics")."""

from __future__ import annotations

import numpy as np

SAFE = 1 << 62  # products below it are computed in 64 bits, others in Python's integers


def rhe(value: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """``value * 2**-shift`` rounded to the nearest integer, halves to the even one; int64 or object in and out."""
    shift = np.broadcast_to(np.asarray(shift), value.shape)
    if value.dtype == object:
        return np.frompyfunc(rhe_int, 2, 1)(value, shift)
    # |value| < 2**62, so that a shift beyond 63 gives 0 as 63 does; both halves of the comparison stay below 2**63.
    shift = np.minimum(shift, 63).astype(np.int64)
    low = np.where(shift == 63, np.where(value < 0, -1, 0), value >> np.minimum(shift, 62))
    rest = np.where(shift == 63, 0, value - (low << np.minimum(shift, 62)))
    half = np.int64(1) << np.maximum(np.minimum(shift, 62) - 1, 0)
    up = (rest > half) | ((rest == half) & (low % 2 != 0))
    return np.where(shift == 0, value, np.where(shift == 63, 0, low + up))


def rhe_int(value: int, shift: int) -> int:
    """The same for one Python integer."""
    low, rest = divmod(int(value), 1 << int(shift))
    twice = 2 * rest - (1 << int(shift))
    return low + (twice > 0 or (twice == 0 and low % 2 != 0))


def times(a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
    """Exact product: int64 where it surely fits, else object."""
    b = np.asarray(b)
    if _largest(a) * _largest(b) < SAFE:
        return a * b
    return a.astype(object) * b.astype(object)


def _largest(values: np.ndarray) -> int:
    return max(abs(int(values.max())), abs(int(values.min()))) if values.size else 0
