"""``qaccel.rounded``: a tensor of a model that came quantized, which its QuantizeLinear and DequantizeLinear round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..attributes import Attrs, Clamp, Quantization


@dataclass(frozen=True)
class RoundedAttrs(Attrs):
    """``qaccel.rounded(x)``: float32 to float32 of any shape, ``scale * (q - zero_point)`` of the integers q nearest to x.

    q lies within ``lo``..``hi``, which ``bits`` hold; the model's own integers are q + ``shift``. At 16 bits the zero point may be
    any, as models have it, though the machine takes 0 alone. Quantization takes every call of it out of the module.
    """

    operator: ClassVar[str] = "qaccel.rounded"
    bits: int
    scale: float
    zero_point: int
    lo: int
    hi: int
    shift: int

    @property
    def q(self) -> Quantization:
        """What the integers mean."""
        return Quantization(self.bits, self.scale, self.zero_point)

    @property
    def on_machine(self) -> bool:
        """Whether the machine has such integers."""
        return self.bits != 16 or self.zero_point == 0

    @property
    def clamp(self) -> Clamp:
        """Which integers there are."""
        return Clamp(self.lo, self.hi)

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """As ONNX: divided in float32, halves to even, saturated, multiplied in float32; NaN becomes zero."""
        with np.errstate(all="ignore"):
            steps = np.nan_to_num(np.rint(np.asarray(operands[0], np.float32) / np.float32(self.scale)), nan=0.0)
            held = np.clip(steps, self.lo - self.zero_point, self.hi - self.zero_point)
        return (held * np.float32(self.scale)).astype(np.float32)
