"""``qaccel.conv2d``: every layer with weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from ...errors import CompilerFault
from ...machine.numerics import activation_limits, multiplier_and_shift, output_scale_ratio
from .. import kernels
from ..attributes import BITS, Shape, WindowAttrs, carrier, constant, static_shape
from ..rescale import requantize

_FLOAT32_EXACT, _FLOAT64_EXACT = 1 << 24, 1 << 53


@dataclass(frozen=True)
class ConvAttrs(WindowAttrs):
    """``qaccel.conv2d(q, weight, bias, weight_scale)``.

    ``weight`` int8 or int16 OHWI with I = input channels / groups; ``bias`` int32 [OC] in units of
    ``source.scale * weight_scale[c]``; ``weight_scale`` float32 [OC]. Padding counts as zero.
    A Gemm is a convolution over [N, 1, 1, C] or over the whole plane.
    """

    operator: ClassVar[str] = "qaccel.conv2d"
    groups: int
    weight_bits: int

    @property
    def constant_dtypes(self) -> tuple[str, ...]:
        """Those of weight, bias and weight scale."""
        return carrier(self.weight_bits), "int32", "float32"

    def multipliers(self, weight_scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per output channel (M int64, s int64), each [OC], from the float32 ``weight_scale`` [OC]."""
        ratios = [output_scale_ratio(self.source.scale, float(scale), self.result.scale) for scale in weight_scale]
        pairs = [multiplier_and_shift(ratio) for ratio in ratios]
        return np.array([m for m, _ in pairs], np.int64), np.array([s for _, s in pairs], np.int64)

    def output_shape(self, *operands: Shape) -> Shape:
        """One channel for each kernel, one pixel for each place of the window."""
        (n, h, w, _), (out_channels, *kernel, _) = operands[:2]
        return (n, *self.window((kernel[0], kernel[1])).output(h, w), out_channels)

    def sums(self, q: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Products summed, NHWC without the bias: exact integers, in a float type where no sum can reach its mantissa."""
        largest = int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1).max()) * self.source.reach
        dtype: Any = np.float32 if largest < _FLOAT32_EXACT else np.float64 if largest < _FLOAT64_EXACT else np.int64
        centred = q.astype(dtype)
        centred -= self.source.zero_point
        kernel = weight.transpose(0, 3, 1, 2).astype(dtype)
        window = self.window(weight.shape[1:3])
        return kernels.conv2d(centred.transpose(0, 3, 1, 2), kernel, window, self.groups).transpose(0, 2, 3, 1)

    def finish(self, sums: np.ndarray, bias: np.ndarray, weight_scale: np.ndarray) -> np.ndarray:
        """The result from the sums: bias added, rescaled, clamped."""
        return requantize(sums, self.multipliers(weight_scale), self.ending, bias=bias)

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """Exact sums, rounded once."""
        q, weight, bias, weight_scale = operands
        return self.finish(self.sums(q, weight), bias, weight_scale)

    def check(self, call: relax.Call) -> None:
        """The constants have the dtypes, shapes and values that the machine takes."""
        weight, bias, scale = (constant(arg) for arg in call.args[1:])
        channels = static_shape(call.args[0])[3]
        if self.weight_bits not in BITS or str(weight.dtype) != carrier(self.weight_bits):
            raise CompilerFault(f"{self.name}: weights of {self.weight_bits} bits carried in {weight.dtype}")
        if weight.ndim != 4 or weight.shape[3] * self.groups != channels or weight.shape[0] % self.groups:
            raise CompilerFault(
                f"{self.name}: weights {list(weight.shape)} (OHWI) do not fit {channels} channels in {self.groups} groups"
            )
        # The hardware takes the most negative value too; models that come quantized may hold it.
        lo, hi = activation_limits(self.weight_bits)
        if weight.size and not (lo <= int(weight.min()) and int(weight.max()) <= hi):
            raise CompilerFault(f"{self.name}: a weight is outside {self.weight_bits} bits")
        if bias.dtype != np.int32 or bias.shape != weight.shape[:1]:
            raise CompilerFault(f"{self.name}: bias {bias.dtype} {list(bias.shape)}; int32 [{len(weight)}] is needed")
        if scale.dtype != np.float32 or scale.shape != weight.shape[:1] or not (np.isfinite(scale) & (scale > 0)).all():
            raise CompilerFault(f"{self.name}: weight scales must be {len(weight)} positive float32 values")
