"""Tilings of layers whose output channel depends on one input channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from math import ceil

from ....machine import cost
from ....machine.hw import HwConfig
from ....machine.isa import isa
from ....machine.layer_cost import LayerWork
from ....options.schedule import TileChoice
from ...extents import halvings, input_pixels, input_rows, spans, window_of
from ...layers import AnyLayer, DepthwiseLayer, FeatureMap, PoolLayer, channel_bytes, table_of
from .tile_work import (
    AxisTiles,
    axis_tiles,
    pointwise_tile,
    second_operand,
    store_beats,
    tile_beats,
    window_anywhere,
    window_tile,
)
from .tiling import AS_USUAL, Candidate, Tiling, sizes_of


def pixelwise_candidates(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int], choice: TileChoice = AS_USUAL
) -> Iterator[Sequence[Candidate]]:
    """Everything whose output channel depends on one input channel: depthwise, pooling, element-wise, copy, table."""
    y, window = maps[layer.output], window_of(layer)
    weight_bits = layer.weight_bits if isinstance(layer, DepthwiseLayer) else 8
    columns = hw.array_columns(weight_bits)
    window_columns = columns if isinstance(layer, DepthwiseLayer) else hw.cols  # more channels need no more line buffer

    @cache
    def fits(tile_h: int, tile_w: int, channels: int, tile_kh: int) -> bool:
        if not isinstance(layer, DepthwiseLayer | PoolLayer):
            return True
        return _line_buffer_fits(layer, maps, hw, rows_of[tile_h], pixels_of[tile_w], channels, tile_kh)

    rows_of = {step: axis_tiles(spans(layer, maps, True, step)) for step in sizes_of(choice.rows, halvings(y.h))}
    pixels_of = {step: axis_tiles(spans(layer, maps, False, step)) for step in sizes_of(choice.columns, halvings(y.w))}
    for tile_kh in sizes_of(choice.kernel_rows, halvings(window.kernel_h)):
        chunks = ceil(window.kernel_h / tile_kh)
        found = []
        for tile_w, pixels in pixels_of.items():
            for tile_oc in sizes_of(choice.channels, halvings(y.c, columns)):
                if isinstance(layer, DepthwiseLayer):
                    weight_tile_bytes = tile_kh * window.kernel_w * channel_bytes(tile_oc, weight_bits)
                    if weight_tile_bytes > hw.weight_buffer_bytes // 2:
                        continue
                for tile_h, rows in rows_of.items():
                    if chunks > 1 and tile_h * tile_w * tile_oc > hw.accumulator_entries:
                        continue
                    if not fits(tile_h, tile_w, min(tile_oc, window_columns), tile_kh):
                        continue
                    shape = (tile_h, tile_w, tile_oc, tile_kh)
                    make = partial(_pixelwise_tiling, layer, maps, hw, shape, rows, pixels, resident)
                    found.append(Candidate(make))
        if found:
            yield found


def _line_buffer_fits(
    layer: DepthwiseLayer | PoolLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, rows: AxisTiles, pixels: AxisTiles,
    channels: int, tile_kh: int,
) -> bool:  # fmt: skip
    """Whether every tile fits, remainders included: a narrow one needs more lines."""
    return all(
        cost.line_buffer_bytes(window_anywhere(layer, maps, (height, width, channels), tile_kh), hw)
        <= hw.line_buffer_bytes
        for height in rows.lengths
        for width in pixels.lengths
    )


def _pixelwise_tiling(
    layer: AnyLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    shape: tuple[int, int, int, int],
    rows: AxisTiles,
    pixels: AxisTiles,
    resident: frozenset[int],
) -> Tiling:
    """A candidate for a tile of (rows, pixels, channels, rows of the kernel); ``rows`` and ``pixels``: where tiles lie."""
    tile_h, tile_w, tile_oc, tile_kh = shape
    x, y, window = maps[layer.inputs[0]], maps[layer.output], window_of(layer)
    spaces, oc_tiles = rows.count * pixels.count, ceil(y.c / tile_oc)
    chunks = ceil(window.kernel_h / tile_kh)
    slots, loads, load_beats = [], 0, 0
    tiles = spaces * oc_tiles
    for index, source in enumerate(layer.inputs):
        if source in resident:
            slots.append(0)
        elif index == 1:
            beside, beats = second_operand(layer, maps, hw, (tile_h, tile_w, tile_oc), resident)
            slots.append(beside)
            # One pixel for all stays in its place until other channels' comes.
            times = oc_tiles if maps[source].h == maps[source].w == 1 else tiles
            loads, load_beats = loads + times, load_beats + times * beats
        else:
            in_h, in_w = min(x.h, input_rows(tile_h, window, tile_kh)), min(x.w, input_pixels(tile_w, window))
            slots.append(in_h * in_w * channel_bytes(tile_oc, x.bits))
            loads, load_beats = (
                loads + tiles * chunks,
                load_beats + tiles * chunks * tile_beats(x, in_h, in_w, tile_oc, hw),
            )
    in_bytes = sum(slots)
    depthwise = isinstance(layer, DepthwiseLayer)
    param_bytes = tile_oc * isa().params_bytes if depthwise else 0
    stream_bytes = decode_cycles = 0
    if isinstance(layer, DepthwiseLayer):
        streams, weights = layer.streams or cost.raw_streams(layer.weight_bits, hw), tile_kh * window.kernel_w * tile_oc
        stream_bytes = streams.stream_bytes(weights)
        decode_cycles = streams.decode_cycles(tile_kh * window.kernel_w, tile_oc)
    output_resident = layer.output in resident
    out_tile_bytes = tile_h * tile_w * channel_bytes(tile_oc, y.bits)
    table_bytes = len(table_of(layer))
    tile: Sequence[cost.Work]
    if isinstance(layer, DepthwiseLayer | PoolLayer):
        tile = window_tile(layer, maps, rows.typical, pixels.typical, tile_oc, tile_kh)
    else:
        tile = pointwise_tile(layer, maps, tile_h, tile_w, tile_oc)
    work = LayerWork(
        computes=tuple((each, tiles) for each in tile),
        loads=loads + (oc_tiles if depthwise else 0) + (table_bytes > 0),
        load_beats=load_beats + oc_tiles * cost.bytes_beats(param_bytes, hw) + cost.bytes_beats(table_bytes, hw),
        weight_loads=oc_tiles * chunks if depthwise else 0,
        weight_bytes=oc_tiles * chunks * stream_bytes,
        decode_cycles=oc_tiles * chunks * decode_cycles,
        stores=0 if output_resident else tiles,
        store_beats=0 if output_resident else store_beats(y, tile_h, tile_w, tile_oc, hw),
        first_bytes=in_bytes + stream_bytes,
        last_bytes=0 if output_resident else out_tile_bytes,
        first_loads=sum(1 for s in slots if s) + depthwise + (table_bytes > 0),
    )
    return Tiling(
        tile_h=tile_h,
        tile_w=tile_w,
        tile_oc=tile_oc,
        tile_ic=tile_oc,
        tile_kh=tile_kh,
        weights_outer=True,
        in_slot_bytes=tuple(slots),
        in_slots=min(2, tiles * chunks),
        out_slot_bytes=0 if output_resident else out_tile_bytes,
        out_slots=min(2, tiles),
        param_slot_bytes=param_bytes,
        param_slots=min(2, oc_tiles) if depthwise else 0,
        table_bytes=table_bytes,
        work=work,
    )
