"""Pools in two steps: one axis of the kernel first, exactly, then the other, which rounds. The integers are the same.

A kernel of 13 x 13 has 169 taps at each output; by itself each axis has 13. A global pool has one output, which one row of the
array makes; its first step has as many outputs as the input has pixels in a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....machine.cost import PoolWork, WindowShape, line_buffer_bytes, work_cycles
from ....machine.hw import HwConfig
from ....machine.numerics import activation_limits
from ...extents import InputSpan, Span, input_pixels, input_rows, pixels_under, rows_under, two_windows
from ...layers import FeatureMap, PoolLayer, channel_bytes


@dataclass(frozen=True)
class TwoSteps:
    """``first``: the axis of the kernel that comes first; the instructions of a tile, and the bytes that lie between them."""

    first: str
    works: tuple[PoolWork, PoolWork]
    between_bytes: int


def bits_between(layer: PoolLayer, x: FeatureMap) -> int:
    """Width of what lies between the steps of a pool of ``x``: sums have 16 bits, a maximum is one of the inputs."""
    return x.bits if layer.kind == "max" else 16


def two_steps(
    layer: PoolLayer, maps: tuple[FeatureMap, ...], place: tuple[Span, Span], channels: int, hw: HwConfig
) -> TwoSteps | None:
    """The quicker way of making tiles in two steps; None if there is none. ``place``: output rows and pixels of the tile that
    stands for all."""
    x, y, window = maps[layer.inputs[0]], maps[layer.output], layer.window
    if min(window.kernel_h, window.kernel_w) == 1:
        return None
    rows = rows_under(window, *place[0], 0, window.kernel_h, x.h)
    pixels = pixels_under(window, *place[1], x.w)
    if min(rows.length, pixels.length) <= 0:
        return None
    outputs = place[0][1], place[1][1]
    most = (
        InputSpan(0, min(x.h, input_rows(outputs[0], window, window.kernel_h)), 0),
        InputSpan(0, min(x.w, input_pixels(outputs[1], window)), 0),
    )
    bits = bits_between(layer, x)

    def works(shapes: tuple[WindowShape, WindowShape]) -> tuple[PoolWork, PoolWork]:
        first, second = (vars(shape) | {"channels": channels, "finish": 1} for shape in shapes)
        return PoolWork(**first, in_bits=x.bits, out_bits=bits), PoolWork(**second, in_bits=bits, out_bits=y.bits)

    found = []
    for first, taps in (("rows", window.kernel_h), ("pixels", window.kernel_w)):
        largest = two_windows(window, *most, outputs, first)  # of a tile that no border makes smaller
        fits = all(line_buffer_bytes(work, hw) <= hw.line_buffer_bytes for work in works(largest))
        if fits and (layer.kind == "max" or _exact(taps, x, bits)):
            values = largest[0].out_h * largest[0].out_w
            made = works(two_windows(window, rows, pixels, outputs, first))
            found.append(TwoSteps(first, made, values * channel_bytes(channels, bits)))
    return min(found, key=lambda each: sum(work_cycles(work, hw) for work in each.works), default=None)


def _exact(taps: int, x: FeatureMap, bits: int) -> bool:
    """Whether any sum of so many inputs, less their zero point, is a number of ``bits``."""
    (lo, hi), (least, most) = activation_limits(x.bits), activation_limits(bits)
    return least <= taps * (lo - x.zero_point) and taps * (hi - x.zero_point) <= most
