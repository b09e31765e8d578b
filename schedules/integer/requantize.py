"""Requantization in vectors: ``clamp(zero_point + rhe(acc * M * 2**-s))`` in floating point, without an error.

``M * 2**-s`` is a float32 exactly, since `numerics` takes it from one. A fused multiply-add takes the product exactly and rounds
once, so adding 1.5 * 2**23 (in float64: 2**52) rounds it to a whole number, halves to even, and leaves that number in the low bits
of the result. Sums up to 2**24 are exact in float32; larger ones take float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from ...dialect.operators import ClampedAttrs
from .vectors import Expr, Vectors, const, intrinsic, lanes_of, of, packed, shuffle

_MAGIC = {"float32": 1.5 * 2.0**23, "float64": 1.5 * 2.0**52}
_MAGIC_WORD = 0x4B400000  # of float32
_EXACT_BITS = {"float32": 24, "float64": 53}
_RESULT_BITS = {"float32": 21, "float64": 30}  # what rounded values keep below, so that a zero point can be added


@dataclass(frozen=True)
class Output:
    """How a layer ends: zero point and clamp of its ``bits``."""

    bits: int
    zero_point: int
    lo: int
    hi: int

    @staticmethod
    def of(attrs: ClampedAttrs) -> Output:
        """What an operator's attributes say."""
        return Output(attrs.result.bits, attrs.result.zero_point, attrs.clamp.lo, attrs.clamp.hi)

    @property
    def carrier_bits(self) -> int:
        """Bits of a value in memory."""
        return 16 if self.bits == 16 else 8


@dataclass(frozen=True)
class Rescale:
    """Multiplication by ``scales`` (float32 or float64, one per channel or one) of sums up to ``bound`` (absolute, the same shape).

    ``fused``: the product may need more bits than the type has, so it takes a fused multiply-add. ``limits``: where the result
    could be too large for the type, sums are first held within these; beyond them every output saturates.
    """

    scales: np.ndarray
    fused: bool
    limits: np.ndarray | None

    @staticmethod
    def of(
        isa: Vectors,
        multipliers: np.ndarray,
        shifts: np.ndarray,
        bound: np.ndarray | int,
        unit: int = 1,
        wide: bool = False,
    ) -> Rescale:
        """For ``acc * M * 2**-s`` of sums ``acc * unit`` with ``|acc| <= bound``. ``wide``: the sums are float64 already."""
        scales = np.ldexp(multipliers.astype(np.float64), -shifts)
        bound = np.broadcast_to(np.asarray(bound, np.float64), scales.shape)
        single = not wide and isa.fma and bool((bound <= 2.0 ** _EXACT_BITS["float32"]).all())
        dtype = "float32" if single and bool((scales.astype(np.float32) == scales).all()) else "float64"
        odd = multipliers // np.maximum(multipliers & -multipliers, 1)
        fused = bool((bound * odd >= 2.0 ** _EXACT_BITS[dtype]).any())
        most = 2.0 ** _RESULT_BITS[dtype]
        large = bool((bound * scales >= most).any())
        with np.errstate(divide="ignore"):
            limits = np.minimum(most / scales, 2.0**62) * unit
        return Rescale((scales / unit).astype(dtype), fused, limits.astype(dtype) if large else None)

    @property
    def dtype(self) -> str:
        """float32 or float64."""
        return str(self.scales.dtype)


def rounded(isa: Vectors, value: Expr, scale: Expr, fused: bool, limit: Expr | None = None) -> Expr:
    """``rhe(value * scale)`` as int32 lanes; ``value`` int32, or float64 as then ``scale`` and ``limit`` are."""
    dtype = str(scale.ty.dtype)
    real = value.astype(dtype)
    if limit is not None:
        real = tirx.max(tirx.min(real, limit), const(0.0, dtype) - limit)
    magic = const(_MAGIC[dtype.partition("x")[0]], dtype)
    if isa.fma or fused:
        return _whole(intrinsic(dtype, "llvm.fma", real, scale, magic))
    return _whole(real * scale + magic)


def nearest(value: Expr, bound: float) -> Expr:
    """``rhe(value)`` of float64 lanes as int32 lanes; ``|value| <= bound``, and where 32 bits do not hold it, it saturates."""
    dtype, most = of("float64", lanes_of(value)), 2.0 ** _RESULT_BITS["float64"]
    if bound >= most:
        value = tirx.max(tirx.min(value, const(most, dtype)), const(-most, dtype))
    return _whole(value + const(_MAGIC["float64"], dtype))


def _whole(moved: Expr) -> Expr:
    """The number that was added to the magic one."""
    lanes = lanes_of(moved)
    if str(moved.ty.dtype).startswith("float32"):
        dtype = of("int32", lanes)
        return tirx.reinterpret(dtype, moved) - const(_MAGIC_WORD, dtype)
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
