"""Tilings of layers whose output channel depends on one input channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial, reduce
from math import ceil
from typing import Any

import numpy as np

from ....machine import cost
from ....machine.hw import HwConfig
from ....machine.isa import isa
from ....machine.layer_cost import LayerWork, LeastWork, least_layer_cycles
from ....machine.streams import StreamEstimate, raw_streams
from ....options.schedule import TileChoice
from ...extents import halvings, input_pixels, input_rows, spans, window_of
from ...layers import AnyLayer, DepthwiseLayer, EltwiseLayer, FeatureMap, PoolLayer, channel_bytes, table_of
from .tile_work import (
    AxisTiles,
    axis_tiles,
    least_tile_beats,
    pointwise_tile,
    second_operand,
    store_beats,
    tile_beats,
    window_anywhere,
    window_tile,
    windows,
)
from .tiling import AS_USUAL, Candidates, Least, Tiling, sizes_of
from .two_steps import TwoSteps, two_steps


def pixelwise_candidates(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int], choice: TileChoice = AS_USUAL
) -> Iterator[Candidates]:
    """Everything whose output channel depends on one input channel: depthwise, pooling, element-wise, copy, table."""
    y, window = maps[layer.output], window_of(layer)
    rows_of = {step: axis_tiles(spans(layer, maps, True, step)) for step in sizes_of(choice.rows, halvings(y.h))}
    pixels_of = {step: axis_tiles(spans(layer, maps, False, step)) for step in sizes_of(choice.columns, halvings(y.w))}
    columns = hw.array_columns(_weight_bits(layer))
    channels = sizes_of(choice.channels, halvings(y.c, columns))
    for tile_kh in sizes_of(choice.kernel_rows, halvings(window.kernel_h)):
        yield _group(_Cut(layer, maps, hw, resident, tile_kh), rows_of, pixels_of, channels)


def _weight_bits(layer: AnyLayer) -> int:
    return layer.weight_bits if isinstance(layer, DepthwiseLayer) else 8


@dataclass(frozen=True)
class _Cut:
    """What candidates that take so many rows of the kernel at a time are made from."""

    layer: AnyLayer
    maps: tuple[FeatureMap, ...]
    hw: HwConfig
    resident: frozenset[int]
    kernel_rows: int

    @property
    def chunks(self) -> int:
        """Parts of the kernel."""
        return ceil(window_of(self.layer).kernel_h / self.kernel_rows)

    def under(self, rows: int, pixels: int) -> tuple[int, int]:
        """Rows and pixels of the first input under a tile of outputs."""
        x, window = self.maps[self.layer.inputs[0]], window_of(self.layer)
        return min(x.h, input_rows(rows, window, self.kernel_rows)), min(x.w, input_pixels(pixels, window))

    def least(
        self,
        rows_of: Mapping[int, AxisTiles],
        pixels_of: Mapping[int, AxisTiles],
        depths: Sequence[int],
        ahead: bool,
    ) -> Least:
        """The least of candidates by pixels, channels and rows of tiles, as `Candidates` has it."""
        layer, hw, y = self.layer, self.hw, self.maps[self.layer.output]
        rows, pixels = np.array(list(rows_of)), np.array(list(pixels_of))[:, None, None]
        channels = np.array(depths)[:, None]
        oc_tiles = -(-y.c // channels)
        tiles = np.array([each.count for each in rows_of.values()]) * oc_tiles
        tiles = tiles * np.array([each.count for each in pixels_of.values()])[:, None, None]
        loads, load_beats, in_bytes = self.loaded(list(rows_of), list(pixels_of), channels, tiles)
        stores = store_beats = out_bytes = stream_bytes = weight_loads = np.zeros_like(tiles)
        if layer.output not in self.resident:
            stores, out_bytes = tiles, rows * pixels * channel_bytes(channels, y.bits)
            store_beats = y.total_bytes * least_tile_beats(y, rows, pixels, channels, hw) // out_bytes
        slots_bytes = in_bytes * np.minimum(tiles * self.chunks, 2) + out_bytes * np.minimum(tiles, 2)
        if isinstance(layer, DepthwiseLayer):
            taps, streams = self.kernel_rows * layer.window.kernel_w, self.streams(layer)
            stream_bytes = np.array([streams.stream_bytes(taps * each) for each in depths])[:, None]
            weight_loads = oc_tiles * self.chunks
            param_bytes = channels * isa().params_bytes
            loads, load_beats = loads + oc_tiles, load_beats + oc_tiles * cost.bytes_beats(param_bytes, hw)
            slots_bytes = slots_bytes + param_bytes * np.minimum(oc_tiles, 2)
        computing = tiles * self.tile_cycles(rows_of, pixels_of, channels)
        work = LeastWork(
            compute=computing, loads=loads, load_beats=load_beats,
            weight_loads=weight_loads, weight_bytes=weight_loads * stream_bytes, stores=stores, store_beats=store_beats,
            end_bytes=in_bytes + out_bytes + (0 if ahead else stream_bytes),
        )  # fmt: skip
        cycles = least_layer_cycles(work, hw)
        return Least(*(np.broadcast_to(each, cycles.shape).ravel() for each in (slots_bytes, cycles, computing)))

    def loaded(
        self, heights: Sequence[int], widths: Sequence[int], channels: np.ndarray, tiles: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Loads of all inputs, their beats at least, and bytes of inputs under a tile; ``tiles``: how many there are."""
        layer, maps, hw = self.layer, self.maps, self.hw
        loads = beats = tile_bytes = np.zeros_like(tiles)
        if layer.inputs[0] not in self.resident:
            x = maps[layer.inputs[0]]
            height = np.array([self.under(each, 1)[0] for each in heights])
            width = np.array([self.under(1, each)[1] for each in widths])[:, None, None]
            loads, tile_bytes = tiles * self.chunks, height * width * channel_bytes(channels, x.bits)
            beats = loads * least_tile_beats(x, height, width, channels, hw)
        if len(layer.inputs) > 1 and layer.inputs[1] not in self.resident:
            b = maps[layer.inputs[1]]
            shape = np.minimum(b.h, heights), np.minimum(b.w, widths)[:, None, None], np.minimum(b.c, channels)
            times = -(-maps[layer.output].c // channels) if b.h == b.w == 1 else tiles
            loads, beats = loads + times, beats + times * least_tile_beats(b, *shape, hw)
            tile_bytes = tile_bytes + shape[0] * shape[1] * channel_bytes(shape[2], b.bits)
        return loads, beats, tile_bytes

    def tile_cycles(
        self, rows_of: Mapping[int, AxisTiles], pixels_of: Mapping[int, AxisTiles], channels: np.ndarray
    ) -> np.ndarray:
        """Cycles of COMPUTE that a tile takes at least; ``channels``: of tiles [sizes, 1]."""
        layer, hw = self.layer, self.hw
        down, across = ([each.typical for each in axis.values()] for axis in (rows_of, pixels_of))
        works: Sequence[cost.Work]
        if isinstance(layer, DepthwiseLayer) and self.chunks == 1:
            works = windows(layer, self.maps, down, across, channels)
        elif isinstance(layer, DepthwiseLayer | PoolLayer):
            # Of a pool in two steps the second one makes all outputs.
            one = min(layer.window.kernel_h, layer.window.kernel_w)
            taps = one if isinstance(layer, PoolLayer) and self.chunks == 1 else 0
            outputs = np.array([rows for _, rows in down]) * np.array([pixels for _, pixels in across])[:, None, None]
            bits = _weight_bits(layer), self.maps[layer.inputs[0]].bits
            return hw.start_up_cycles.compute + cost.least_pixelwise_cycles(outputs, channels, taps, bits, hw)
        else:
            one_kind = replace(layer, lesser=frozenset()) if isinstance(layer, EltwiseLayer) else layer
            tiles: Any = np.array(list(rows_of)), np.array(list(pixels_of))[:, None, None], channels
            works = pointwise_tile(one_kind, self.maps, *tiles)
        return reduce(np.add, (cost.works_cycles(work, hw) for work in works))

    def streams(self, layer: DepthwiseLayer) -> StreamEstimate:
        """What the weights take in DRAM."""
        return layer.streams or raw_streams(layer.weight_bits, self.hw)


def _group(
    cut: _Cut, rows_of: Mapping[int, AxisTiles], pixels_of: Mapping[int, AxisTiles], depths: Sequence[int]
) -> Candidates:
    """A candidate for each size of tiles along each axis, the sizes of rows and pixels with where these lie."""
    layer, hw, weight_bits = cut.layer, cut.hw, _weight_bits(cut.layer)
    heights, widths = list(rows_of), list(pixels_of)
    window_columns = hw.array_columns(weight_bits) if isinstance(layer, DepthwiseLayer) else hw.cols

    @cache
    def fits(tile_h: int, tile_w: int, channels: int) -> bool:
        if not isinstance(layer, DepthwiseLayer | PoolLayer):
            return True
        rows, pixels = rows_of[tile_h], pixels_of[tile_w]
        return _line_buffer_fits(layer, cut.maps, hw, rows, pixels, channels, cut.kernel_rows)

    def make(number: int) -> Tiling | None:
        place, height = divmod(number, len(heights))
        tile_h, tile_w, tile_oc = heights[height], widths[place // len(depths)], depths[place % len(depths)]
        if isinstance(layer, DepthwiseLayer):
            weight_tile_bytes = cut.kernel_rows * layer.window.kernel_w * channel_bytes(tile_oc, weight_bits)
            if weight_tile_bytes > hw.weight_buffer_bytes // 2:
                return None
        if cut.chunks > 1 and tile_h * tile_w * tile_oc > hw.accumulator_entries:
            return None
        tile, rows, pixels = (tile_h, tile_w, tile_oc), rows_of[tile_h], pixels_of[tile_w]
        fitting = fits(tile_h, tile_w, min(tile_oc, window_columns))  # more channels need no more line buffer
        steps = _steps_of(cut, tile, rows, pixels, fitting)
        return _pixelwise_tiling(cut, tile, rows, pixels, steps) if fitting or steps is not None else None

    count = len(heights) * len(widths) * len(depths)
    return Candidates(count, make, partial(cut.least, rows_of, pixels_of, depths))


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


def _steps_of(
    cut: _Cut, tile: tuple[int, int, int], rows: AxisTiles, pixels: AxisTiles, fitting: bool
) -> TwoSteps | None:
    """The two steps of a pool, where they are quicker than one, or one does not fit."""
    layer, maps, hw = cut.layer, cut.maps, cut.hw
    if not isinstance(layer, PoolLayer) or cut.chunks > 1:
        return None
    steps = two_steps(layer, maps, (rows.typical, pixels.typical), tile[2], hw)
    if steps is None or not fitting:
        return steps
    (one,) = window_tile(layer, maps, rows.typical, pixels.typical, tile[2], cut.kernel_rows)
    return steps if sum(cost.work_cycles(work, hw) for work in steps.works) < cost.work_cycles(one, hw) else None


def _pixelwise_tiling(
    cut: _Cut, shape: tuple[int, int, int], rows: AxisTiles, pixels: AxisTiles, steps: TwoSteps | None
) -> Tiling:
    """A candidate for a tile of (rows, pixels, channels), in two ``steps`` or one; ``rows`` and ``pixels``: where tiles lie."""
    layer, maps, hw, resident, tile_kh, chunks = cut.layer, cut.maps, cut.hw, cut.resident, cut.kernel_rows, cut.chunks
    tile_h, tile_w, tile_oc = shape
    x, y, window = maps[layer.inputs[0]], maps[layer.output], window_of(layer)
    spaces, oc_tiles = rows.count * pixels.count, ceil(y.c / tile_oc)
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
            in_h, in_w = cut.under(tile_h, tile_w)
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
        streams, weights = cut.streams(layer), tile_kh * window.kernel_w * tile_oc
        stream_bytes = streams.stream_bytes(weights)
        decode_cycles = streams.decode_cycles(tile_kh * window.kernel_w, tile_oc)
    output_resident = layer.output in resident
    out_tile_bytes = tile_h * tile_w * channel_bytes(tile_oc, y.bits)
    table_bytes = len(table_of(layer))
    tile: Sequence[cost.Work]
    if steps is not None:
        tile = steps.works
    elif isinstance(layer, DepthwiseLayer | PoolLayer):
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
        rounds=tiles * chunks if any(slots) else 0,
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
        first_step=steps.first if steps else "",
        between_bytes=steps.between_bytes if steps else 0,
    )
