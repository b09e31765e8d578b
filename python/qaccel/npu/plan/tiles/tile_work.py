"""What the COMPUTE instructions of one tile do, before there are instructions: the planner's candidates are scored by it.

The tile that stands for all of a layer is one of full size, with the padding that falls on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....dialect.pieces import Piece
from ....machine.cost import (
    ConvWork,
    CopyWork,
    DepthwiseWork,
    EltwiseWork,
    PoolWork,
    PostWork,
    TableWork,
    box_beats,
    least_box_beats,
)
from ....machine.hw import HwConfig
from ....machine.numerics import Counts
from ...extents import InputSpan, Span, kernel_chunks, nothing_under, pixels_under, rows_under, spans
from ...layers import (
    AnyLayer,
    ConvLayer,
    ConvPart,
    DepthwiseLayer,
    EltwiseLayer,
    FeatureMap,
    PoolLayer,
    TableLayer,
    channel_bytes,
    first_output,
)  # fmt: skip


@dataclass(frozen=True)
class AxisTiles:
    """The tiles along one axis: how many, their different lengths, and the middle one of the longest, which stands for all."""

    count: int
    lengths: tuple[int, ...]
    typical: Span


def axis_tiles(spans: Sequence[Span]) -> AxisTiles:
    """From (begin, length) of each tile."""
    lengths = {length for _, length in spans}
    longest = [span for span in spans if span[1] == max(lengths)] if len(lengths) > 1 else spans
    return AxisTiles(len(spans), tuple(lengths), longest[(len(longest) - 1) // 2])


def row_tiles(layer: ConvLayer, maps: tuple[FeatureMap, ...], tile_w: int) -> dict[int, int]:
    """How many tiles of which width a row of outputs has. A last one that is narrower counts as full, but not one of a single wide
    pixel that begins early."""
    found = Counter(min(width, tile_w) for _, width in spans(layer, maps, False, tile_w))
    if layer.wide == 1:
        return {tile_w: found.total()}
    return dict(found)


def _conv_work(
    layer: ConvLayer,
    maps: tuple[FeatureMap, ...],
    outputs: tuple[int, int, int],
    kernel_rows: int,
    in_channels: int,
    finish: bool,
) -> ConvWork:
    """One part of the reduction for a tile of (rows, pixels, channels) ``outputs``."""
    out_h, out_w, out_channels = outputs
    return ConvWork(
        kernel_h=kernel_rows, kernel_w=layer.window.kernel_w, in_channels=in_channels,
        out_h=out_h, out_w=out_w, out_channels=out_channels, weight_bits=layer.weight_bits,
        in_bits=maps[layer.inputs[0]].bits, out_bits=first_output(layer, maps).bits, finish=int(finish),
        forward=int(finish and layer.post is not None),
    )  # fmt: skip


def _post_tile(
    layer: ConvLayer | DepthwiseLayer,
    maps: tuple[FeatureMap, ...],
    outputs: tuple[int, int, int],
    last: ConvWork | DepthwiseWork,
) -> list[PostWork]:
    """The instruction of the post stage behind ``last``, if the layer has one."""
    if layer.post is None:
        return []
    [then] = pointwise_tile(layer.post, maps, *outputs)
    assert isinstance(then, EltwiseWork | TableWork)
    return [PostWork(first=last, then=then)]


def conv_tile(
    layer: ConvLayer,
    part: ConvPart,
    maps: tuple[FeatureMap, ...],
    outputs: tuple[int, int, int],
    tile_ic: int,
    tile_kh: int,
) -> list[tuple[ConvWork | PostWork, int]]:
    """The reduction of a tile, each kind of instruction and how often: whole parts, and the last one, which finishes."""
    kernel_h = layer.window.kernel_h
    parts = -(-kernel_h // tile_kh) * -(-part.in_channels // tile_ic)
    last_rows, last_channels = (kernel_h - 1) % tile_kh + 1, (part.in_channels - 1) % tile_ic + 1
    last = _conv_work(layer, maps, outputs, last_rows, last_channels, True)
    ends: list[tuple[ConvWork | PostWork, int]] = [(last, 1)]
    ends += [(post, 1) for post in _post_tile(layer, maps, outputs, last)]
    if parts == 1:
        return ends
    return [(_conv_work(layer, maps, outputs, tile_kh, tile_ic, False), parts - 1), *ends]


def _window_work(
    layer: DepthwiseLayer | PoolLayer, maps: tuple[FeatureMap, ...], inputs: tuple[InputSpan, InputSpan],
    outputs: tuple[int, int, int], kernel_rows: int, finish: bool,
) -> PoolWork:  # fmt: skip
    window, (rows, pixels), (out_h, out_w, channels) = layer.window, inputs, outputs
    fields = {
        "in_h": rows.length, "in_w": pixels.length, "kernel_h": kernel_rows, "kernel_w": window.kernel_w,
        "stride_h": window.stride_h, "stride_w": window.stride_w,
        "dilation_h": window.dilation_h, "dilation_w": window.dilation_w,
        "pad_top": rows.pad, "pad_left": pixels.pad, "out_h": out_h, "out_w": out_w, "channels": channels,
        "in_bits": maps[layer.inputs[0]].bits, "out_bits": first_output(layer, maps).bits, "finish": int(finish),
    }  # fmt: skip
    if isinstance(layer, PoolLayer):
        return PoolWork(**fields)
    return DepthwiseWork(**fields, weight_bits=layer.weight_bits, forward=int(finish and layer.post is not None))


def window_tile(
    layer: DepthwiseLayer | PoolLayer,
    maps: tuple[FeatureMap, ...],
    rows: Span,
    pixels: Span,
    channels: int,
    tile_kh: int,
) -> list[PoolWork | PostWork]:
    """The instructions of a tile at output ``rows`` and ``pixels``: one for each part of the kernel that falls on the input."""
    x = maps[layer.inputs[0]]
    chunks = kernel_chunks(layer.window, *rows, tile_kh, x.h)
    under_w = pixels_under(layer.window, *pixels, x.w)
    outputs = rows[1], pixels[1], channels
    works: list[PoolWork | PostWork] = []
    for k, count in chunks:
        inputs = rows_under(layer.window, *rows, k, count, x.h), under_w
        if min(each.length for each in inputs) <= 0:
            inputs = nothing_under(layer.window, rows[1], count)
        work = _window_work(layer, maps, inputs, outputs, count, (k, count) == chunks[-1])
        works.append(work)
    last = works[-1]
    if isinstance(layer, DepthwiseLayer) and isinstance(last, DepthwiseWork):
        works += _post_tile(layer, maps, outputs, last)
    return works


def window_anywhere(
    layer: DepthwiseLayer | PoolLayer, maps: tuple[FeatureMap, ...], outputs: tuple[int, int, int], tile_kh: int
) -> PoolWork:
    """The instruction of a tile of (rows, pixels, channels) that no border makes smaller: it needs the most line buffer."""
    x = maps[layer.inputs[0]]
    return _window_work(layer, maps, (InputSpan(0, x.h, 0), InputSpan(0, x.w, 0)), outputs, tile_kh, True)


def _together(spans: Sequence[InputSpan], axes: int) -> InputSpan:
    """Lengths and paddings as arrays along the first of so many axes."""
    length, pad = (
        np.array(each).reshape(-1, *[1] * (axes - 1)) for each in zip(*((s.length, s.pad) for s in spans), strict=True)
    )
    return InputSpan(0, length, pad)  # type: ignore[arg-type]


def windows(
    layer: DepthwiseLayer, maps: tuple[FeatureMap, ...], rows: Sequence[Span], pixels: Sequence[Span], channels: np.ndarray
) -> list[PoolWork | PostWork]:  # fmt: skip
    """The same of tiles at each of the ``pixels``, of each of the ``channels`` and at each of the ``rows``, the whole kernel at a
    time: fields are arrays that can be broadcast to [pixels, channels, rows]."""
    x, window = maps[layer.inputs[0]], layer.window
    down = _together([rows_under(window, *each, 0, window.kernel_h, x.h) for each in rows], 1)
    across = _together([pixels_under(window, *each, x.w) for each in pixels], 3)
    lengths = (np.array([length for _, length in each]) for each in (rows, pixels))
    outputs: Any = next(lengths), next(lengths)[:, None, None], channels
    last = _window_work(layer, maps, (down, across), outputs, window.kernel_h, True)
    assert isinstance(last, DepthwiseWork)
    return [last, *_post_tile(layer, maps, outputs, last)]


def pointwise_tile(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], rows: int, pixels: int, channels: int
) -> list[CopyWork]:
    """The instructions of a tile of an element-wise layer, a table or a copy: one, but for a layer of two kinds."""
    x, y = maps[layer.inputs[0]], maps[layer.output]
    fields = {"h": rows, "w": pixels, "in_bits": x.bits, "out_bits": y.bits}
    if isinstance(layer, EltwiseLayer):
        fields |= {"b_bits": maps[layer.inputs[1]].bits, "b_scalar": int(layer.b_scalar)}
        return [EltwiseWork(channels=count, **fields) for _, count, _ in layer.runs(0, channels)]
    if isinstance(layer, TableLayer):
        return [TableWork(channels=channels, **fields, knots=layer.knots)]
    return [CopyWork(channels=channels, **fields)]


def move_tile(part: Piece, x: FeatureMap, y: FeatureMap) -> CopyWork:
    """The copy of one part of a piece."""
    return CopyWork(h=part.rows, w=part.pixels, channels=part.channels, in_bits=x.bits, out_bits=y.bits)


def tile_beats(feature_map: FeatureMap, rows: int, pixels: int, channels: int, hw: HwConfig) -> int:
    """Cycles of the DRAM channel for a tile of a map that lies there."""
    row_stride, size = feature_map.w * feature_map.pixel_bytes, channel_bytes(channels, feature_map.bits)
    return box_beats(rows, row_stride, pixels, feature_map.pixel_bytes, size, hw)


def least_tile_beats(feature_map: FeatureMap, rows: Counts, pixels: Counts, channels: Counts, hw: HwConfig) -> Counts:
    """What that is at least, of one tile or of many."""
    strides = feature_map.w * feature_map.pixel_bytes, feature_map.pixel_bytes
    return least_box_beats(rows, pixels, channel_bytes(channels, feature_map.bits), strides, hw)


def store_beats(y: FeatureMap, rows: int, pixels: int, channels: int, hw: HwConfig) -> int:
    """Cycles of the DRAM channel for all of a map that is stored in tiles of that size; tiles at the border are smaller."""
    tile_bytes = rows * pixels * channel_bytes(channels, y.bits)
    return -(-y.total_bytes * tile_beats(y, rows, pixels, channels, hw) // tile_bytes)


def second_operand(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, tile: tuple[int, int, int], resident: frozenset[int]
) -> tuple[int, int]:
    """Bytes of the second operand under a tile of (rows, pixels, channels), and cycles of the DRAM channel; 0 if it is resident, or
    there is none."""
    if len(layer.inputs) == 1 or layer.inputs[1] in resident:
        return 0, 0
    b = maps[layer.inputs[1]]
    rows, pixels, channels = (min(size, most) for size, most in zip((b.h, b.w, b.c), tile, strict=True))
    return rows * pixels * channel_bytes(channels, b.bits), tile_beats(b, rows, pixels, channels, hw)
