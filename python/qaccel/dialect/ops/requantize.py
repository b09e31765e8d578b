"""``qaccel.requantize``: a copy under another scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...machine.numerics import multiplier_and_shift
from ..attributes import ClampedAttrs, Quantization
from ..rescale import requantize

COPY = "Requantize"  # the operator of a copy, which is no node of the model


@dataclass(frozen=True)
class RequantizeAttrs(ClampedAttrs):
    """``qaccel.requantize(q)``: the requantizing copy, also a Relu or Clip that could not join the layer before it."""

    operator: ClassVar[str] = "qaccel.requantize"
    source: Quantization

    @property
    def is_copy(self) -> bool:
        """Whether no node of the model is this call, only a reader that wants another scale."""
        return self.op == COPY

    def multiplier(self) -> tuple[int, int]:
        """(M, s) of ``source.scale / result.scale`` in float32."""
        return multiplier_and_shift(self.source.ratio(self.result))

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """Rescaled, rounded once, clamped."""
        (q,) = operands
        return requantize(q.astype(np.int64) - self.source.zero_point, self.multiplier(), self.ending)
