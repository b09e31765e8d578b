"""``qaccel.move``: values put elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import relax

from ...errors import CompilerFault
from ...machine.numerics import activation_limits, multiplier_and_shift
from ..attributes import ClampedAttrs, Quantization, Shape, carrier, static_shape
from ..pieces import positions, unflattened
from ..rescale import requantize


@dataclass(frozen=True)
class MoveAttrs(ClampedAttrs):
    """``qaccel.move(q0, q1, ...)``: values put elsewhere, each source rescaled to the result: NHWC ``shape``.

    ``pieces`` are those of ``pieces.Piece`` one after the other; a piece whose source is number of operands + k repeats
    the constant ``fills[k]``, in integers of the result, and its steps in the source are 0.
    """

    operator: ClassVar[str] = "qaccel.move"
    shape: tuple[int, ...]
    sources: tuple[Quantization, ...]
    fills: tuple[int, ...]
    pieces: tuple[int, ...]

    def multipliers(self) -> list[tuple[int, int]]:
        """(M, s) of every operand's scale over the result's, in float32."""
        return [multiplier_and_shift(source.ratio(self.result)) for source in self.sources]

    def output_shape(self, *operands: Shape) -> Shape:
        """NHWC as the attribute says."""
        return self.shape

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """Every source rescaled as a whole, then moved piece by piece."""
        batch = len(operands[0])
        made = [
            requantize(q.astype(np.int64) - source.zero_point, scale, self.ending).reshape(batch, -1, q.shape[-1])
            for q, source, scale in zip(operands, self.sources, self.multipliers(), strict=True)
        ]
        _, height, width, channels = self.shape
        result = np.zeros((batch, height * width, channels), carrier(self.result.bits))
        for piece in unflattened(self.pieces):
            pixel, channel = positions(piece, source=False)
            run = channel[..., None] + np.arange(piece.channels)
            if piece.source >= len(made):
                result[:, pixel[..., None], run] = self.fills[piece.source - len(made)]
                continue
            from_pixel, from_channel = positions(piece, source=True)
            values = made[piece.source][:, from_pixel[..., None], from_channel[..., None] + np.arange(piece.channels)]
            result[:, pixel[..., None], run] = values
        return result.reshape(batch, height, width, channels)

    def check(self, call: relax.Call) -> None:
        """Every value of the result is written by exactly one piece, from inside of its source."""
        sizes = [static_shape(arg) for arg in call.args]
        if len(sizes) != len(self.sources):
            raise CompilerFault(f"{self.name}: {len(sizes)} operands, attributes of {len(self.sources)}")
        _, height, width, channels = self.shape
        written = np.zeros((height * width, channels), np.uint8)
        lo, hi = activation_limits(self.result.bits)
        if any(not lo <= fill <= hi for fill in self.fills):
            raise CompilerFault(f"{self.name}: a fill is outside {self.result.bits} bits")
        for piece in unflattened(self.pieces):
            limits = [(height * width, channels, False)]
            if piece.source < len(sizes):
                _, h, w, c = sizes[piece.source]
                limits.append((h * w, c, True))
            elif piece.source >= len(sizes) + len(self.fills):
                raise CompilerFault(f"{self.name}: a piece reads operand {piece.source} of {len(sizes)}")
            for pixels, depth, source in limits:
                pixel, channel = positions(piece, source)
                inside = pixel.min() >= 0 and pixel.max() < pixels
                if not (inside and channel.min() >= 0 and channel.max() + piece.channels <= depth):
                    raise CompilerFault(f"{self.name}: a piece leaves its {'source' if source else 'output'}: {piece}")
            pixel, channel = positions(piece, source=False)
            written[pixel[..., None], channel[..., None] + np.arange(piece.channels)] += 1
        if (written != 1).any():
            raise CompilerFault(f"{self.name}: {int((written != 1).sum())} values are not written exactly once")
