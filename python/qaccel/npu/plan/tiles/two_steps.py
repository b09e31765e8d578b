"""Pools in two steps: one axis of the kernel first, exactly, in 16 bits, then the other, which rounds. The integers are the same.

The rows of the array take output pixels, of which a global pool has one, with all the taps of its kernel. The first step has as
many as the input has pixels in a row, or rows, and the second one few taps.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....machine.cost import PoolWork, WindowShape, line_buffer_bytes, work_cycles
from ....machine.hw import HwConfig
from ....machine.numerics import activation_limits
from ...extents import InputSpan, Span, input_pixels, input_rows, pixels_under, rows_under, two_windows
from ...layers import FeatureMap, PoolLayer, channel_bytes

BETWEEN_BITS = 16


@dataclass(frozen=True)
class TwoSteps:
    """``first``: the axis of the kernel that comes first; the instructions of a tile, and the bytes that lie between them."""

    first: str
    works: tuple[PoolWork, PoolWork]
    between_bytes: int


def two_steps(
    layer: PoolLayer, maps: tuple[FeatureMap, ...], place: tuple[Span, Span], channels: int, hw: HwConfig
) -> TwoSteps | None:
    """The quicker way of making output pixels, each by itself, in two steps; None if there is none. ``place``: row and column of
    the pixel that stands for all."""
    x, y, window = maps[layer.inputs[0]], maps[layer.output], layer.window
    rows = rows_under(window, *place[0], 0, window.kernel_h, x.h)
    pixels = pixels_under(window, *place[1], x.w)
    if min(rows.length, pixels.length) <= 0:
        return None
    most = (
        InputSpan(0, min(x.h, input_rows(1, window, window.kernel_h)), 0),
        InputSpan(0, min(x.w, input_pixels(1, window)), 0),
    )

    def works(shapes: tuple[WindowShape, WindowShape]) -> tuple[PoolWork, PoolWork]:
        first, second = (vars(shape) | {"channels": channels, "finish": 1} for shape in shapes)
        return (
            PoolWork(**first, in_bits=x.bits, out_bits=BETWEEN_BITS),
            PoolWork(**second, in_bits=BETWEEN_BITS, out_bits=y.bits),
        )

    found = []
    for first, taps in (("rows", window.kernel_h), ("pixels", window.kernel_w)):
        largest = two_windows(window, *most, first)  # of a pixel that no border makes smaller
        fits = all(line_buffer_bytes(work, hw) <= hw.line_buffer_bytes for work in works(largest))
        if fits and _exact(1 if layer.kind == "max" else taps, x):
            outputs = largest[0].out_h * largest[0].out_w
            made = works(two_windows(window, rows, pixels, first))
            found.append(TwoSteps(first, made, outputs * channel_bytes(channels, BETWEEN_BITS)))
    return min(found, key=lambda each: sum(work_cycles(work, hw) for work in each.works), default=None)


def _exact(taps: int, x: FeatureMap) -> bool:
    """Whether any sum of so many inputs, less their zero point, is a number of `BETWEEN_BITS`."""
    (lo, hi), (least, most) = activation_limits(x.bits), activation_limits(BETWEEN_BITS)
    return least <= taps * (lo - x.zero_point) and taps * (hi - x.zero_point) <= most
