"""Requantization in vectors: ``clamp(zero_point + rhe(acc * M * 2**-s))`` in double precision, without an error.

``M * 2**-s`` is a float64 exactly. A fused multiply-add takes the product exactly and rounds once, so adding 1.5 * 2**52 rounds
it to a whole number, halves to even, and leaves that number in the low bits of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from .vectors import Expr, Vectors, const, intrinsic, lanes_of, of, packed, shuffle

_MAGIC = 1.5 * 2.0**52
_EXACT_BITS = 53
_RESULT_BITS = 30  # what rounded values keep below, so that a zero point can be added in 32 bits


@dataclass(frozen=True)
class Output:
    """How a layer ends: zero point and clamp of its ``bits``."""

    bits: int
    zero_point: int
    lo: int
    hi: int

    @staticmethod
    def of(attrs: Any) -> Output:
        """What an operator's attributes say."""
        return Output(attrs.out_bits, attrs.out_zero_point, attrs.clamp_lo, attrs.clamp_hi)

    @property
    def carrier_bits(self) -> int:
        """Bits of a value in memory."""
        return 16 if self.bits == 16 else 8


@dataclass(frozen=True)
class Rescale:
    """Multiplication by ``scales`` (float64, one per channel or one) of sums up to ``bound`` (absolute, the same shape).

    ``fused``: the product may need more than 53 bits, so it takes a fused multiply-add. ``limits``: where the result could leave
    32 bits, sums are first held within these (float64); beyond them every output saturates.
    """

    scales: np.ndarray
    fused: bool
    limits: np.ndarray | None

    @staticmethod
    def of(multipliers: np.ndarray, shifts: np.ndarray, bound: np.ndarray, unit: float = 1.0) -> Rescale:
        """For ``acc * M * 2**-s``, ``|acc| <= bound``; ``unit`` is what one unit of the accumulator counts."""
        scales = np.ldexp(multipliers.astype(np.float64), -shifts) * unit
        bound = np.broadcast_to(np.asarray(bound, np.float64), scales.shape)
        odd = multipliers // np.maximum(multipliers & -multipliers, 1)
        fused = bool((bound * odd >= 2.0**_EXACT_BITS).any())
        large = bool((bound * scales >= 2.0**_RESULT_BITS).any())
        with np.errstate(divide="ignore"):
            limits = np.minimum(2.0**_RESULT_BITS / scales, 2.0**62)
        return Rescale(scales, fused, limits if large else None)


def rounded(isa: Vectors, value: Expr, scale: Expr, fused: bool, limit: Expr | None = None) -> Expr:
    """``rhe(value * scale)`` as int32 lanes; ``value`` int32 or float64 lanes, ``scale`` and ``limit`` float64."""
    lanes = lanes_of(value)
    dtype = of("float64", lanes)
    real = value.astype(dtype)
    if limit is not None:
        real = tirx.max(tirx.min(real, limit), const(0.0, dtype) - limit)
    magic = const(_MAGIC, dtype)
    if isa.fma or fused:
        return _whole(intrinsic(dtype, "llvm.fma", real, scale, magic))
    return _whole(real * scale + magic)


def nearest(value: Expr, bound: float) -> Expr:
    """``rhe(value)`` of float64 lanes as int32 lanes; ``|value| <= bound``, and where 32 bits do not hold it, it saturates."""
    dtype = of("float64", lanes_of(value))
    if bound >= 2.0**_RESULT_BITS:
        limit = 2.0**_RESULT_BITS
        value = tirx.max(tirx.min(value, const(limit, dtype)), const(-limit, dtype))
    return _whole(value + const(_MAGIC, dtype))


def _whole(moved: Expr) -> Expr:
    """The lower words of float64 lanes."""
    lanes = lanes_of(moved)
    words = tirx.reinterpret(of("int32", 2 * lanes), moved)
    return shuffle([words], range(0, 2 * lanes, 2))


def finished(isa: Vectors, values: Sequence[Expr], output: Output) -> Expr:
    """Rounded int32 vectors in ``grouped_order`` -> one vector of the output's carrier in channel order."""
    lanes = lanes_of(values[0])
    bits = output.carrier_bits
    if output.zero_point:
        values = [value + const(output.zero_point, of("int32", lanes)) for value in values]
    whole = packed(isa, values, bits)
    lo, hi = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    dtype = of(f"int{bits}", lanes_of(whole))
    if output.lo > lo:
        whole = tirx.max(whole, const(output.lo, dtype))
    if output.hi < hi:
        whole = tirx.min(whole, const(output.hi, dtype))
    return whole
