"""Extents of tiles: what of the input an output tile needs, and where tiles begin and end."""

from __future__ import annotations

from .layers import AnyLayer, ConvLayer, DepthwiseLayer, FeatureMap, PoolLayer, Window

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


def window_of(layer: AnyLayer) -> Window:
    """The layer's window; one pixel for layers without."""
    return layer.window if isinstance(layer, ConvLayer | DepthwiseLayer | PoolLayer) else Window()


def valid_taps(position: int, stride: int, kernel: int, dilation: int, pad: int, size: int) -> int:
    """How many of a window's taps along one axis fall inside the input."""
    begin = position * stride - pad
    return sum(0 <= begin + tap * dilation < size for tap in range(kernel))


def spans(layer: AnyLayer, maps: tuple[FeatureMap, ...], vertical: bool, step: int) -> list[tuple[int, int]]:
    """``(begin, length)`` of the output tiles along one axis.

    An average that does not count its padding divides by another number at the borders: its tiles end where that changes.
    """
    x, y, w = maps[layer.inputs[0]], maps[layer.output], window_of(layer)
    size = y.h if vertical else y.w
    cuts = [0, size]
    if isinstance(layer, PoolLayer) and layer.kind == "sum" and not layer.count_include_pad:
        axis = (
            (w.stride_h, w.kernel_h, w.dilation_h, w.pad_top, x.h) if vertical
            else (w.stride_w, w.kernel_w, w.dilation_w, w.pad_left, x.w)
        )  # fmt: skip
        taps = [valid_taps(position, *axis) for position in range(size)]
        cuts = [0, *(i for i in range(1, size) if taps[i] != taps[i - 1]), size]
    return [
        (begin, min(step, end - begin))
        for start, end in zip(cuts, cuts[1:], strict=False)
        for begin in range(start, end, step)
    ]
