"""``qaccel.quantize`` and ``qaccel.dequantize``: where float32 becomes integers and integers become float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import relax

from ...errors import CompilerFault
from ...machine.numerics import activation_limits
from ...relax_tools import static_shape
from ..attributes import Attrs, Quantization, Shape, carrier


@dataclass(frozen=True)
class QuantizeAttrs(Attrs):
    """``qaccel.quantize(x)``: float32 of any shape -> NHWC ``shape``.

    ``rhe(x / scale) + zero_point`` saturated (float32 division, as ONNX QuantizeLinear), transposed by ``axes``, then
    reshaped to ``shape``. NaN becomes the zero point.
    """

    operator: ClassVar[str] = "qaccel.quantize"
    result: Quantization
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def output_shape(self, *operands: Shape) -> Shape:
        """NHWC as the attribute says."""
        return self.shape

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """Divided in float32, rounded half to even, saturated, transposed."""
        (x,) = operands
        zero_point, (lo, hi) = self.result.zero_point, activation_limits(self.result.bits)
        with np.errstate(all="ignore"):
            ratio = np.rint(np.asarray(x, np.float32) / np.float32(self.result.scale))
            q = np.clip(np.nan_to_num(ratio, nan=0.0), lo - zero_point, hi - zero_point).astype(np.int32)
        q = (q + zero_point).astype(carrier(self.result.bits))
        outer = (
            self.shape[0] * q.size // math.prod(self.shape)
        )  # the batch at hand, whatever the source has merged with it
        shape = (outer, *self.shape[1:]) if self.axes[0] == 0 else self.shape
        return np.ascontiguousarray(q.transpose(self.axes)).reshape(shape)

    def check(self, call: relax.Call) -> None:
        """The axes are a permutation of the operand's, and the shape holds its values."""
        operand = static_shape(call.args[0])
        _check_order(self.name, self.axes, len(operand), operand, self.shape)


@dataclass(frozen=True)
class DequantizeAttrs(Attrs):
    """``qaccel.dequantize(q)``: NHWC -> float32.

    ``(q - zero_point) * scale`` in float32, reshaped to ``shape``, then transposed by ``axes``.
    """

    operator: ClassVar[str] = "qaccel.dequantize"
    source: Quantization
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def output_shape(self, *operands: Shape) -> Shape:
        """The attribute's shape, transposed."""
        return tuple(self.shape[axis] for axis in self.axes)

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """Multiplied in float32."""
        (q,) = operands
        real = (q.astype(np.int32) - self.source.zero_point).astype(np.float32) * np.float32(self.source.scale)
        outer = self.shape[0] * q.size // math.prod(self.shape)  # the batch at hand, and what may be merged with it
        return real.reshape(outer, *self.shape[1:]).transpose(self.axes)

    def check(self, call: relax.Call) -> None:
        """The axes are a permutation of the shape's, and the shape holds the operand's values."""
        _check_order(self.name, self.axes, len(self.shape), static_shape(call.args[0]), self.shape)


def _check_order(name: str, axes: Shape, rank: int, operand: Shape, shape: Shape) -> None:
    if sorted(axes) != list(range(rank)):
        raise CompilerFault(f"{name}: axes {list(axes)} are not a permutation of {rank} dimensions")
    if math.prod(operand) != math.prod(shape):
        raise CompilerFault(f"{name}: shape {list(shape)} does not hold the operand's {list(operand)}")
