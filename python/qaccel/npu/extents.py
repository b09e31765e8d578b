"""Extents of tiles: what of the input an output tile needs, and where tiles begin and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..machine.cost import WindowShape
from .layers import AnyLayer, ConvLayer, DepthwiseLayer, FeatureMap, PoolLayer, Window

Span = tuple[int, int]  # (begin, length)

ALIGN_BYTES = 16  # of every SRAM block: keeps hazard tracking coarse without false sharing


def align(size_bytes: int) -> int:
    """Bytes rounded up to a whole number of ALIGN_BYTES."""
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES


def input_rows(tile_h: int, window: Window, kernel_h: int) -> int:
    """Input rows under ``tile_h`` output rows and ``kernel_h`` rows of the kernel."""
    return (tile_h - 1) * window.stride_h + (kernel_h - 1) * window.dilation_h + 1


def input_pixels(tile_w: int, window: Window) -> int:
    """Input pixels of a row under ``tile_w`` output pixels."""
    return (tile_w - 1) * window.stride_w + (window.kernel_w - 1) * window.dilation_w + 1


@dataclass(frozen=True)
class InputSpan:
    """What some outputs along one axis need: ``length`` input positions from ``begin`` on, after ``pad`` positions of padding.

    ``length`` is 0 or less if all of it is padding.
    """

    begin: int
    length: int
    pad: int


@lru_cache(maxsize=1 << 14)  # the planner asks the same of many candidates
def _span_under(begin: int, length: int, stride: int, taps: int, dilation: int, pad: int, size: int) -> InputSpan:
    first = begin * stride - pad
    end = first + (length - 1) * stride + (taps - 1) * dilation + 1
    return InputSpan(max(0, first), min(size, end) - max(0, first), max(0, -first))


def rows_under(window: Window, y: int, rows: int, kernel_begin: int, kernel_rows: int, in_h: int) -> InputSpan:
    """Input rows under output rows from ``y`` on, through some rows of the kernel."""
    pad = window.pad_top - kernel_begin * window.dilation_h
    return _span_under(y, rows, window.stride_h, kernel_rows, window.dilation_h, pad, in_h)


def pixels_under(window: Window, x: int, pixels: int, in_w: int) -> InputSpan:
    """Input pixels of a row under output pixels from ``x`` on."""
    return _span_under(x, pixels, window.stride_w, window.kernel_w, window.dilation_w, window.pad_left, in_w)


def in_steps(size: int, step: int) -> list[tuple[int, int]]:
    """``(begin, length)`` of each step through ``size``; the last may be shorter."""
    return [(begin, min(step, size - begin)) for begin in range(0, size, step)]


def kernel_chunks(window: Window, y: int, rows: int, tile_kh: int, in_h: int) -> list[tuple[int, int]]:
    """``(first row, rows)`` of the kernel's parts that fall on an input row for these output rows; others add nothing.

    Where none does, since a dilated window steps over all of the input, the first one: an instruction must make the outputs.
    """
    chunks = in_steps(window.kernel_h, tile_kh)
    return [(k, count) for k, count in chunks if rows_under(window, y, rows, k, count, in_h).length > 0] or chunks[:1]


def nothing_under(window: Window, rows: int, kernel_rows: int) -> tuple[InputSpan, InputSpan]:
    """Rows and pixels for an instruction without a tap on the input: one of each, behind padding that all of its taps lie in."""
    return InputSpan(0, 1, input_rows(rows, window, kernel_rows)), InputSpan(0, 1, 0)


def two_windows(
    window: Window, rows: InputSpan, pixels: InputSpan, outputs: tuple[int, int], first: str
) -> tuple[WindowShape, WindowShape]:
    """The windows of a pool in two steps, for ``outputs`` of (rows, pixels) with so much of the input under them: "rows" of the
    kernel ``first``, at each pixel of the input, and then its pixels, or "pixels" first, at each row."""
    out_h, out_w = outputs

    def down(width: int) -> WindowShape:
        return WindowShape(
            in_h=rows.length, in_w=width, out_h=out_h, out_w=width, kernel_h=window.kernel_h, kernel_w=1, pad_top=rows.pad,
            pad_left=0, stride_h=window.stride_h, stride_w=1, dilation_h=window.dilation_h, dilation_w=1,
        )  # fmt: skip

    def across(height: int) -> WindowShape:
        return WindowShape(
            in_h=height, in_w=pixels.length, out_h=height, out_w=out_w, kernel_h=1, kernel_w=window.kernel_w, pad_top=0,
            pad_left=pixels.pad, stride_h=1, stride_w=window.stride_w, dilation_h=1, dilation_w=window.dilation_w,
        )  # fmt: skip

    return (down(pixels.length), across(out_h)) if first == "rows" else (across(rows.length), down(out_w))


def halvings(size: int, unit: int = 1) -> list[int]:
    """``size``, then its halves rounded up to ``unit`` (below ``unit``: to its halves), without repeats, down to 1 or 2."""
    found = [size]
    step = size
    while step > (1 if unit == 1 else 2):
        step = -(-step // 2)
        grain = unit
        while grain > 2 and grain > step:
            grain //= 2
        rounded = -(-step // grain) * grain
        if rounded < found[-1]:
            found.append(rounded)
    return found


_ONE_PIXEL = Window()


def window_of(layer: AnyLayer) -> Window:
    """The layer's window; one pixel for layers without."""
    return layer.window if isinstance(layer, ConvLayer | DepthwiseLayer | PoolLayer) else _ONE_PIXEL


def made_map(layer: AnyLayer, maps: tuple[FeatureMap, ...]) -> FeatureMap:
    """A layer's output as its instructions make it: the same bytes, in wide pixels where the layer makes several as one.

    Where the width is no multiple of them, the last wide pixel begins earlier and makes some pixels again (`first_pixel`).
    """
    return _in_wide_pixels(maps[layer.output], _wide(layer))


def made_maps(layer: AnyLayer, maps: tuple[FeatureMap, ...]) -> tuple[FeatureMap, ...]:
    """The maps as a layer's instructions see them: what it makes, and what its post stage reads beside that, in wide pixels."""
    seen = {layer.output, *layer.inputs[1:]} if _wide(layer) > 1 else set()
    return tuple(_in_wide_pixels(each, _wide(layer)) if index in seen else each for index, each in enumerate(maps))


def _in_wide_pixels(each: FeatureMap, wide: int) -> FeatureMap:
    return each if wide == 1 else replace(each, w=-(-each.w // wide), c=each.c * wide, order=())


def first_pixel(layer: AnyLayer, y: FeatureMap, pixel: int) -> int:
    """The first pixel of a row of the output map ``y`` that a (wide) pixel of its instructions makes."""
    return min(pixel * _wide(layer), y.w - _wide(layer))


def _wide(layer: AnyLayer) -> int:
    return layer.wide if isinstance(layer, ConvLayer) else 1


def valid_taps(position: int, stride: int, kernel: int, dilation: int, pad: int, size: int) -> int:
    """How many of a window's taps along one axis fall inside the input."""
    begin = position * stride - pad
    return sum(0 <= begin + tap * dilation < size for tap in range(kernel))


def spans(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], vertical: bool, step: int, within: Span | None = None
) -> list[Span]:
    """``(begin, length)`` of the output tiles along one axis; ``within``: of that part of the output alone.

    An average that does not count its padding divides by another number at the borders: its tiles end where that changes. A wide
    pixel that begins earlier than its place says is a tile of its own.
    """
    x, y, w = maps[layer.inputs[0]], made_map(layer, maps), window_of(layer)
    first, length = within or (0, y.h if vertical else y.w)
    cuts = [first, first + length]
    if isinstance(layer, PoolLayer) and layer.kind == "sum" and not layer.count_include_pad:
        axis = (
            (w.stride_h, w.kernel_h, w.dilation_h, w.pad_top, x.h) if vertical
            else (w.stride_w, w.kernel_w, w.dilation_w, w.pad_left, x.w)
        )  # fmt: skip
        taps = [valid_taps(position, *axis) for position in range(first, first + length)]
        changes = (first + i for i in range(1, length) if taps[i] != taps[i - 1])
        cuts = [first, *changes, first + length]
    if not vertical and first_pixel(layer, maps[layer.output], length - 1) < (length - 1) * _wide(layer):
        cuts.insert(1, length - 1)
    return [
        (begin, min(step, end - begin))
        for start, end in zip(cuts, cuts[1:], strict=False)
        for begin in range(start, end, step)
    ]


def row_reader(layer: AnyLayer, which: int, maps: tuple[FeatureMap, ...]) -> Callable[[int, int], Span]:
    """`rows_read` of one input, as a function of the output rows."""
    in_h = maps[layer.inputs[which]].h
    if which > 0:
        return (lambda y, rows: (0, 1)) if in_h == 1 else (lambda y, rows: (y, rows))
    window = window_of(layer)
    stride, pad, reach = window.stride_h, window.pad_top, input_rows(1, window, window.kernel_h)

    def read(y: int, rows: int) -> Span:
        first = y * stride - pad
        begin = min(max(first, 0), in_h)
        return begin, max(min(first + (rows - 1) * stride + reach, in_h) - begin, 0)

    return read


@dataclass(frozen=True, eq=False)
class RowsRead:
    """`rows_read` of one input for all output rows y, int64 [output rows + 1]: the ``first`` of those under row y, and the
    ``end`` of those under any rows that end before y."""

    first: np.ndarray
    end: np.ndarray


def all_rows_read(layer: AnyLayer, which: int, maps: tuple[FeatureMap, ...]) -> RowsRead:
    """What of an input is read, wherever a stripe of the output begins and ends."""
    read, rows = row_reader(layer, which, maps), range(maps[layer.output].h + 1)
    return RowsRead(np.array([read(y, 1)[0] for y in rows]), np.array([sum(read(0, y)) if y else 0 for y in rows]))


def rows_read(layer: AnyLayer, which: int, maps: tuple[FeatureMap, ...], y: int, rows: int) -> Span:
    """``(begin, length)`` of the rows of an input under output rows from ``y`` on; of a single row that is repeated, that one."""
    return row_reader(layer, which, maps)(y, rows)
