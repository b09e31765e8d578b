"""Tilings of dense and grouped convolutions: outputs, reduction and loop order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import ceil
from typing import NamedTuple

from ....machine import cost
from ....machine.hw import HwConfig
from ....machine.isa import isa
from ....machine.layer_cost import LayerWork
from ....options.schedule import INSIDE, TileChoice
from ...extents import halvings, input_pixels, input_rows, made_maps
from ...layers import ConvLayer, ConvPart, FeatureMap, channel_bytes, table_of
from .tile_work import conv_tile, row_tiles, second_operand, store_beats, tile_beats
from .tiling import AS_USUAL, Candidate, Tiling, sizes_of


def conv_candidates(
    layer: ConvLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    resident: frozenset[int],
    choice: TileChoice = AS_USUAL,
) -> Iterator[Sequence[Candidate]]:
    """Groups of candidates, the most desirable group first: reduction whole, rows whole. ``choice``: sizes that are given."""
    seen = made_maps(layer, maps)
    x, y, window = seen[layer.inputs[0]], seen[layer.output], layer.window
    part = max(layer.parts, key=lambda p: p.weight.size)
    columns, rows = hw.array_columns(layer.weight_bits), hw.array_rows(x.bits)
    for tile_kh in sizes_of(choice.kernel_rows, halvings(window.kernel_h)):
        for tile_ic in sizes_of(choice.in_channels, halvings(part.in_channels, rows)):
            if tile_kh < window.kernel_h and tile_ic > 2 and choice.in_channels is None:
                continue  # split channels before kernel rows
            chunks = ceil(part.in_channels / tile_ic) * ceil(window.kernel_h / tile_kh)
            depth = tile_kh * window.kernel_w * tile_ic
            output_tiles = []
            for tile_oc in sizes_of(choice.channels, halvings(part.out_channels, columns)):
                if depth * channel_bytes(tile_oc, layer.weight_bits) <= hw.weight_buffer_bytes // 2:
                    output_tiles.append(tile_oc)
            for tile_w in sizes_of(choice.columns, halvings(y.w)):
                widths = row_tiles(layer, maps, tile_w)
                tile_of = cache(partial(_tile, layer, part, seen, hw, widths, resident))
                found = []
                for tile_h in sizes_of(choice.rows, halvings(y.h)):
                    one_space = tile_h >= y.h and sum(widths.values()) == 1
                    for tile_oc in output_tiles:
                        if chunks > 1 and tile_h * tile_w * tile_oc > hw.accumulator_entries:
                            continue
                        shape = _Shape(tile_h, tile_w, tile_oc, tile_ic, tile_kh)
                        least_bytes = sum(_map_bytes(layer, seen, resident, shape)) * (1 if one_space else 2)
                        all_channels = tile_oc >= part.out_channels
                        orders = [(True, 2)]
                        other = not one_space and (chunks > 1 or not all_channels)  # else it would be the same order
                        if other or choice.weights == INSIDE:
                            orders.append((False, 2))
                        # Where one tile takes all pixels, all chunks of the input can stay for the next output channels.
                        alone = len(layer.inputs) == 1 or layer.inputs[1] in resident
                        if one_space and not all_channels and chunks > 2 and alone:
                            orders.append((False, chunks))
                        found += [
                            Candidate(partial(_conv_tiling, tile_of, shape, *each), least_bytes) for each in orders
                        ]
                if found:
                    yield found


class _Shape(NamedTuple):
    """Rows, pixels and output channels of a tile, and what its reduction takes at a time."""

    rows: int
    pixels: int
    out_channels: int
    in_channels: int
    kernel_rows: int


def _map_bytes(
    layer: ConvLayer, maps: tuple[FeatureMap, ...], resident: frozenset[int], shape: _Shape
) -> tuple[int, int]:
    """Bytes of a tile's input and output in SRAM, 0 of a map that lies there whole."""
    x, y, window = maps[layer.inputs[0]], maps[layer.output], layer.window
    in_bytes = out_bytes = 0
    if layer.inputs[0] not in resident:
        in_h, in_w = input_rows(shape.rows, window, shape.kernel_rows), input_pixels(shape.pixels, window)
        in_bytes = min(x.h, in_h) * min(x.w, in_w) * channel_bytes(shape.in_channels, x.bits)
    if layer.output not in resident:
        out_bytes = shape.rows * shape.pixels * channel_bytes(shape.out_channels, y.bits)
    return in_bytes, out_bytes


@dataclass(frozen=True)
class _Tile:
    """What candidates of the same tiles share, in whatever order these come."""

    layer: ConvLayer
    hw: HwConfig
    spaces: int  # tiles of rows and pixels
    channels: int  # tiles of output channels of a part
    chunks: int  # parts of the reduction
    weight_bytes: int
    in_bytes: int  # 0 if the input is resident
    in_beats: int
    out_bytes: int  # 0 if the output is resident
    store_beats: int
    beside: tuple[int, int]  # bytes and beats of the second operand
    one_beside: bool  # which is one pixel
    computes: tuple[tuple[cost.Work, int], ...]


def _tile(
    layer: ConvLayer,
    part: ConvPart,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    widths: Mapping[int, int],
    resident: frozenset[int],
    shape: _Shape,
) -> _Tile:
    """``maps`` as the layer's instructions see them; ``widths``: how many tiles of which width a row has."""
    tile_h, tile_w, tile_oc, tile_ic, tile_kh = shape
    x, y, window = maps[layer.inputs[0]], maps[layer.output], layer.window
    bands, channels = ceil(y.h / tile_h), ceil(part.out_channels / tile_oc)
    in_h, in_w = min(x.h, input_rows(tile_h, window, tile_kh)), min(x.w, input_pixels(tile_w, window))
    in_bytes, out_bytes = _map_bytes(layer, maps, resident, shape)
    return _Tile(
        layer,
        hw,
        spaces=bands * sum(widths.values()),
        channels=channels,
        chunks=ceil(part.in_channels / tile_ic) * ceil(window.kernel_h / tile_kh),
        weight_bytes=tile_kh * window.kernel_w * tile_ic * channel_bytes(tile_oc, layer.weight_bits),
        in_bytes=in_bytes,
        in_beats=tile_beats(x, in_h, in_w, tile_ic, hw) if in_bytes else 0,
        out_bytes=out_bytes,
        store_beats=store_beats(y, tile_h, tile_w, tile_oc, hw) if out_bytes else 0,
        beside=second_operand(layer, maps, hw, (tile_h, tile_w, tile_oc), resident),
        one_beside=len(layer.inputs) > 1 and maps[layer.inputs[1]].h == maps[layer.inputs[1]].w == 1,
        computes=tuple(
            (each, count * bands * tiles * channels * len(layer.parts))
            for width, tiles in widths.items()
            for each, count in conv_tile(layer, part, maps, (tile_h, width, tile_oc), tile_ic, tile_kh)
        ),
    )


def _conv_tiling(tile_of: Callable[[_Shape], _Tile], shape: _Shape, weights_outer: bool, in_slots: int) -> Tiling:
    tile = tile_of(shape)
    layer, hw, parts = tile.layer, tile.hw, len(tile.layer.parts)
    tile_h, tile_w, tile_oc, tile_ic, tile_kh = shape
    spaces, oc_tiles, chunks = tile.spaces, tile.channels, tile.chunks
    if not tile.in_bytes:
        in_loads = 0
    elif chunks > 1:
        in_loads = chunks if spaces == 1 and in_slots >= chunks else spaces * oc_tiles * chunks
    else:
        in_loads = 1 if spaces == 1 else spaces * (oc_tiles if weights_outer else 1)
    together = chunks if weights_outer else oc_tiles * chunks  # tiles of weights that are needed for each space
    again = spaces if (chunks > 1 or not weights_outer) and together * tile.weight_bytes > hw.weight_buffer_bytes else 1
    depth, streams = tile_kh * layer.window.kernel_w * tile_ic, layer.streams or cost.raw_streams(layer.weight_bits, hw)
    stream_bytes, weight_loads = streams.stream_bytes(depth * tile_oc), parts * oc_tiles * chunks * again
    param_bytes, table_bytes = tile_oc * isa().params_bytes, len(table_of(layer))
    tiles = spaces * oc_tiles * parts
    beside, beside_beats = tile.beside
    # One pixel for all stays in its place until other channels' comes.
    stays = tile.one_beside and (weights_outer or oc_tiles * parts <= in_slots)
    beside_loads = (oc_tiles * parts if stays else tiles) if beside else 0
    work = LayerWork(
        computes=tile.computes,
        loads=parts * (oc_tiles + in_loads) + beside_loads + (table_bytes > 0),
        load_beats=parts * (oc_tiles * cost.bytes_beats(param_bytes, hw) + in_loads * tile.in_beats)
        + beside_loads * beside_beats
        + cost.bytes_beats(table_bytes, hw),
        weight_loads=weight_loads,
        weight_bytes=weight_loads * stream_bytes,
        decode_cycles=weight_loads * streams.decode_cycles(depth, tile_oc),
        stores=tiles if tile.out_bytes else 0,
        store_beats=tile.store_beats,
        first_bytes=stream_bytes + tile.in_bytes + beside,
        last_bytes=tile.out_bytes,
        first_loads=1 + (tile.in_bytes > 0) + (beside > 0) + (table_bytes > 0),
        weight_passes=1 if weights_outer or again > 1 else spaces,
    )
    return Tiling(
        tile_h=tile_h,
        tile_w=tile_w,
        tile_oc=tile_oc,
        tile_ic=tile_ic,
        tile_kh=tile_kh,
        weights_outer=weights_outer,
        in_slot_bytes=(tile.in_bytes, *((beside,) if len(layer.inputs) > 1 else ())),
        in_slots=min(in_slots, max(max(in_loads, 1) * parts, min(2, tiles) if beside else 0)),
        out_slot_bytes=tile.out_bytes,
        out_slots=min(2, tiles),
        param_slot_bytes=param_bytes,
        param_slots=min(2, oc_tiles * parts),
        table_bytes=table_bytes,
        work=work,
    )
