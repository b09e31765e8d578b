"""Attributes of the quantized dialect's operators, and what follows from them: multipliers and shifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..machine.isa import isa
from ..machine.numerics import common_multipliers, multiplier_and_shift, output_scale_ratio

BITS = isa().widths
ELTWISE_KINDS = ("add", "sub", "mul", "min", "max")
POOL_KINDS = ("max", "avg")


def carrier(bits: int) -> str:
    """The dtype that carries values of that many bits."""
    return "int16" if bits == 16 else "int8"


@dataclass(frozen=True)
class QuantizeAttrs:
    """``qaccel.quantize(x)``: float32 of any shape -> NHWC ``shape``.

    ``rhe(x / scale) + zero_point`` saturated (float32 division, as ONNX QuantizeLinear), transposed by ``axes``, then
    reshaped to ``shape``. NaN becomes the zero point.
    """

    operator: ClassVar[str] = "qaccel.quantize"
    name: str
    scale: float
    zero_point: int
    bits: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DequantizeAttrs:
    """``qaccel.dequantize(q)``: NHWC -> float32.

    ``(q - zero_point) * scale`` in float32, reshaped to ``shape``, then transposed by ``axes``.
    """

    operator: ClassVar[str] = "qaccel.dequantize"
    name: str
    scale: float
    zero_point: int
    bits: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ConvAttrs:
    """``qaccel.conv2d(q, weight, bias, weight_scale)``.

    ``weight`` int8 or int16 OHWI with I = input channels / groups; ``bias`` int32 [OC] in units of
    ``in_scale * weight_scale[c]``; ``weight_scale`` float32 [OC]. Padding (top, left, bottom, right) counts as zero.
    ``op`` is the ONNX operator that this was: a Gemm is a convolution over [N, 1, 1, C] or over the whole plane.
    """

    operator: ClassVar[str] = "qaccel.conv2d"
    name: str
    op: str
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    weight_bits: int
    activation_bits: int
    in_scale: float
    in_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int

    def multipliers(self, weight_scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per output channel (M int64, s int64), each [OC], from the float32 ``weight_scale`` [OC]."""
        ratios = [output_scale_ratio(self.in_scale, float(scale), self.out_scale) for scale in weight_scale]
        pairs = [multiplier_and_shift(ratio) for ratio in ratios]
        return np.array([m for m, _ in pairs], np.int64), np.array([s for _, s in pairs], np.int64)


@dataclass(frozen=True)
class PoolAttrs:
    """``qaccel.pool2d(q)``: ``kind`` "max" or "avg" over windows of ``kernel``; padding (top, left, bottom, right).

    An average divides by the taps inside the input, or by all taps if ``count_include_pad``.
    """

    operator: ClassVar[str] = "qaccel.pool2d"
    name: str
    op: str
    kind: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    count_include_pad: bool
    activation_bits: int
    in_scale: float
    in_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int

    def multiplier(self, taps: int) -> tuple[int, int]:
        """(M, s) of ``in_scale / out_scale / taps`` in float32; ``taps`` is the average's divisor, 1 for a maximum."""
        ratio = np.float32(self.in_scale) / np.float32(self.out_scale) / np.float32(taps)
        return multiplier_and_shift(float(ratio))


@dataclass(frozen=True)
class EltwiseAttrs:
    """``qaccel.eltwise(a, b)``: ``kind`` add, sub, mul, min or max.

    The result has the shape of ``a``; ``b`` is repeated along each of its dimensions that is 1.
    """

    operator: ClassVar[str] = "qaccel.eltwise"
    name: str
    op: str
    kind: str
    a_bits: int
    a_scale: float
    a_zero_point: int
    b_bits: int
    b_scale: float
    b_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int

    def multipliers(self) -> tuple[int, int, int]:
        """(Ma, Mb, s) as the ISA's ELTWISE takes them; Mb is 0 for mul."""
        if self.kind == "mul":
            multiplier, shift = multiplier_and_shift(output_scale_ratio(self.a_scale, self.b_scale, self.out_scale))
            return multiplier, 0, shift
        out = np.float32(self.out_scale)
        first, second = float(np.float32(self.a_scale) / out), float(np.float32(self.b_scale) / out)
        if multiplier_and_shift(max(first, second)) == (0, 0):
            return 0, 0, 0
        return common_multipliers((first, second))


@dataclass(frozen=True)
class RequantizeAttrs:
    """``qaccel.requantize(q)``: the requantizing copy, also a Relu or Clip that could not join the layer before it."""

    operator: ClassVar[str] = "qaccel.requantize"
    name: str
    op: str
    in_bits: int
    in_scale: float
    in_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int

    def multiplier(self) -> tuple[int, int]:
        """(M, s) of ``in_scale / out_scale`` in float32."""
        return multiplier_and_shift(float(np.float32(self.in_scale) / np.float32(self.out_scale)))


@dataclass(frozen=True)
class TableAttrs:
    """``qaccel.table(q, table)``: look-up of every element as the ISA's TABLE.

    ``table`` is [2**in_bits] of the output's carrier, or int16 [2**16 / 2**interpolation_bits + 1] for 16-bit inputs.
    """

    operator: ClassVar[str] = "qaccel.table"
    name: str
    op: str
    in_bits: int
    in_scale: float
    in_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int


@dataclass(frozen=True)
class MoveAttrs:
    """``qaccel.move(q0, q1, ...)``: values put elsewhere, each source rescaled to the output: NHWC ``shape``.

    ``pieces`` are those of ``pieces.Piece`` one after the other; a piece whose source is number of operands + k repeats
    the constant ``fills[k]``, in output integers, and its steps in the source are 0.
    """

    operator: ClassVar[str] = "qaccel.move"
    name: str
    op: str
    shape: tuple[int, ...]
    in_bits: tuple[int, ...]
    in_scales: tuple[float, ...]
    in_zero_points: tuple[int, ...]
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int
    fills: tuple[int, ...]
    pieces: tuple[int, ...]

    def multipliers(self) -> list[tuple[int, int]]:
        """(M, s) of every operand's scale over the output's, in float32."""
        return [multiplier_and_shift(float(np.float32(s) / np.float32(self.out_scale))) for s in self.in_scales]


@dataclass(frozen=True)
class Quantization:
    """What the integers of one tensor mean."""

    bits: int
    scale: float
    zero_point: int
