"""``qaccel.eltwise``: two tensors element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import relax

from ...errors import CompilerFault
from ...machine.numerics import common_multipliers, multiplier_and_shift, output_scale_ratio
from ...relax_tools import static_shape
from ..attributes import ClampedAttrs, Quantization
from ..rescale import requantize, rounded

_COMBINE = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


@dataclass(frozen=True)
class EltwiseAttrs(ClampedAttrs):
    """``qaccel.eltwise(a, b)``: ``kind`` add, sub, mul, min or max.

    The result has the shape of ``a``; ``b`` is repeated along each of its dimensions that is 1. ``lesser``, of a max of two
    whole tensors: the channels in which the smaller one is taken.
    """

    operator: ClassVar[str] = "qaccel.eltwise"
    kind: str
    a: Quantization
    b: Quantization
    lesser: tuple[int, ...] = ()

    def multipliers(self) -> tuple[int, int, int]:
        """(Ma, Mb, s) as the ISA's ELTWISE takes them; Mb is 0 for mul."""
        if self.kind == "mul":
            ratio = output_scale_ratio(self.a.scale, self.b.scale, self.result.scale)
            multiplier, shift = multiplier_and_shift(ratio)
            return multiplier, 0, shift
        first, second = self.a.ratio(self.result), self.b.ratio(self.result)
        if multiplier_and_shift(max(first, second)) == (0, 0):
            return 0, 0, 0
        return common_multipliers((first, second))

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """Operands on a common scale combined exactly, rounded once."""
        first, second = (q.astype(np.int64) - of.zero_point for q, of in zip(operands, (self.a, self.b), strict=True))
        ma, mb, shift = self.multipliers()
        if self.kind == "mul":
            return requantize(first * second, (ma, shift), self.ending)
        zero_point, lo, hi, dtype = self.ending
        made = _COMBINE[self.kind](first * ma, second * mb)
        if self.lesser:
            made[..., self.lesser] = np.minimum(first * ma, second * mb)[..., self.lesser]
        made = rounded(made, shift)
        return np.clip(made + zero_point, lo, hi).astype(dtype)

    def check(self, call: relax.Call) -> None:
        """The kind is known, and ``lesser`` of channels that there are."""
        if self.kind not in _COMBINE:
            raise CompilerFault(f"{self.name}: unknown kind of element-wise operation {self.kind!r}")
        shapes = [static_shape(arg) for arg in call.args]
        if self.lesser and (self.kind != "max" or shapes[0] != shapes[1] or max(self.lesser) >= shapes[0][-1]):
            raise CompilerFault(
                f"{self.name}: the smaller of two in channels {self.lesser} of a {self.kind} of {shapes}"
            )
