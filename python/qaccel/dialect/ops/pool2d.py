"""``qaccel.pool2d``: maximum and average over windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import relax

from ...errors import CompilerFault
from ...machine.numerics import multiplier_and_shift
from .. import kernels
from ..attributes import Shape, WindowAttrs, carrier
from ..rescale import requantize

_KINDS = ("max", "avg")


@dataclass(frozen=True)
class PoolAttrs(WindowAttrs):
    """``qaccel.pool2d(q)``: ``kind`` "max" or "avg" over windows of ``kernel`` (rows, pixels); padding never wins.

    An average divides by the taps inside the input, or by all taps if ``count_include_pad``.
    """

    operator: ClassVar[str] = "qaccel.pool2d"
    kind: str
    kernel: tuple[int, int]
    count_include_pad: bool

    def multiplier(self, taps: int) -> tuple[int, int]:
        """(M, s) of ``source.scale / result.scale / taps`` in float32; ``taps``: the average's divisor, 1 for a maximum."""
        return multiplier_and_shift(float(np.float32(self.source.ratio(self.result)) / np.float32(taps)))

    def tap_counts(self, size: tuple[int, ...]) -> np.ndarray:
        """What each window of an average over an input of ``size`` (rows, pixels) divides by, int64 [rows, pixels]."""
        out = self.window(self.kernel).output(*size)
        if self.count_include_pad:
            return np.full(out, self.kernel[0] * self.kernel[1], np.int64)
        per_axis = []
        for axis in (0, 1):
            first = np.arange(out[axis])[:, None] * self.strides[axis] - self.padding[axis]
            taps = first + np.arange(self.kernel[axis])[None, :] * self.dilation[axis]
            per_axis.append(((taps >= 0) & (taps < size[axis])).sum(axis=1))
        return per_axis[0][:, None] * per_axis[1][None, :]

    def output_shape(self, *operands: Shape) -> Shape:
        """One pixel for each place of the window."""
        n, h, w, c = operands[0]
        return (n, *self.window(self.kernel).output(h, w), c)

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """The maximum or the exact sum of each window, rounded once; 1 / taps is part of the multiplier."""
        (q,) = operands
        window = self.window(self.kernel)
        out = window.output(*q.shape[1:3])
        centred = q.astype(np.int64) - self.source.zero_point
        if self.kind == "max":
            least = int(np.iinfo(np.int32).min)
            taps = kernels.windows(kernels.padded(centred, self.padding, least), window, out)
            return requantize(taps.max(axis=(3, 4)), self.multiplier(1), self.ending)
        sums = kernels.windows(kernels.padded(centred, self.padding, 0), window, out).sum(axis=(3, 4))
        counts = self.tap_counts(q.shape[1:3])
        result = np.empty(sums.shape, carrier(self.result.bits))
        for count in np.unique(counts):
            chosen = counts == count
            result[:, chosen] = requantize(sums[:, chosen], self.multiplier(int(count)), self.ending)
        return result

    def check(self, call: relax.Call) -> None:
        """The kind is known."""
        if self.kind not in _KINDS:
            raise CompilerFault(f"{self.name}: unknown kind of pooling {self.kind!r}")
