"""Tilings of dense and grouped convolutions: outputs, reduction and loop order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import ceil

from ....machine import cost
from ....machine.hw import HwConfig
from ....machine.isa import isa
from ....machine.layer_cost import LayerWork
from ...extents import halvings, input_pixels, input_rows, made_maps
from ...layers import ConvLayer, FeatureMap, channel_bytes, table_of
from .tile_work import conv_tile, row_tiles, second_operand, store_beats, tile_beats
from .tiling import Candidate, Tiling


def conv_candidates(
    layer: ConvLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int]
) -> Iterator[Sequence[Candidate]]:
    """Groups of candidates, the most desirable group first: reduction whole, rows whole."""
    seen = made_maps(layer, maps)
    x, y, window = seen[layer.inputs[0]], seen[layer.output], layer.window
    part = max(layer.parts, key=lambda p: p.weight.size)
    columns, rows = hw.array_columns(layer.weight_bits), hw.array_rows(x.bits)
    input_resident = layer.inputs[0] in resident
    for tile_kh in halvings(window.kernel_h):
        for tile_ic in halvings(part.in_channels, rows):
            if tile_kh < window.kernel_h and tile_ic > 2:
                continue  # split channels before kernel rows
            chunks = ceil(part.in_channels / tile_ic) * ceil(window.kernel_h / tile_kh)
            depth = tile_kh * window.kernel_w * tile_ic
            output_tiles = []
            for tile_oc in halvings(part.out_channels, columns):
                weight_tile_bytes = depth * channel_bytes(tile_oc, layer.weight_bits)
                if weight_tile_bytes > hw.weight_buffer_bytes // 2:
                    continue
                output_tiles.append((tile_oc, weight_tile_bytes))
            for tile_w in halvings(y.w):
                widths = row_tiles(layer, maps, tile_w)
                found = []
                for tile_h in halvings(y.h):
                    for tile_oc, weight_tile_bytes in output_tiles:
                        if chunks > 1 and tile_h * tile_w * tile_oc > hw.accumulator_entries:
                            continue
                        # Where one tile takes all pixels, all chunks of the input can stay for the next output channels.
                        whole = tile_h >= y.h and sum(widths.values()) == 1 and tile_oc < part.out_channels
                        alone = len(layer.inputs) == 1 or layer.inputs[1] in resident
                        in_slots = (2, chunks) if whole and chunks > 2 and alone else (2,)
                        for weights_outer, slots in ((True, 2), *((False, slots) for slots in in_slots)):
                            shape = (tile_h, tile_w, tile_oc, tile_ic, tile_kh, weights_outer, slots)
                            sizes = shape, widths, weight_tile_bytes, input_resident, resident
                            found.append(partial(_conv_tiling, layer, seen, hw, *sizes))
                if found:
                    yield found


def _conv_tiling(
    layer: ConvLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    shape: tuple[int, int, int, int, int, bool, int],
    widths: Mapping[int, int],
    weight_tile_bytes: int,
    input_resident: bool,
    resident: frozenset[int],
) -> Tiling:
    """``maps`` as the layer's instructions see them; ``widths``: how many tiles of which width a row has."""
    tile_h, tile_w, tile_oc, tile_ic, tile_kh, weights_outer, in_slots = shape
    x, y, window = maps[layer.inputs[0]], maps[layer.output], layer.window
    part = max(layer.parts, key=lambda p: p.weight.size)
    parts = len(layer.parts)
    bands = ceil(y.h / tile_h)
    spaces = bands * sum(widths.values())
    oc_tiles = ceil(part.out_channels / tile_oc)
    chunks = ceil(part.in_channels / tile_ic) * ceil(window.kernel_h / tile_kh)
    in_h, in_w = min(x.h, input_rows(tile_h, window, tile_kh)), min(x.w, input_pixels(tile_w, window))
    in_tile_bytes = in_h * in_w * channel_bytes(tile_ic, x.bits)
    if chunks > 1:
        in_loads = chunks if spaces == 1 and in_slots >= chunks else spaces * oc_tiles * chunks
    else:
        in_loads = 1 if spaces == 1 else spaces * (oc_tiles if weights_outer else 1)
    weight_set = oc_tiles * chunks
    if weights_outer:
        again = spaces if chunks > 1 and chunks * weight_tile_bytes > hw.weight_buffer_bytes else 1
    else:
        again = spaces if weight_set * weight_tile_bytes > hw.weight_buffer_bytes else 1
    depth, streams = tile_kh * window.kernel_w * tile_ic, layer.streams or cost.raw_streams(layer.weight_bits, hw)
    stream_bytes = streams.stream_bytes(depth * tile_oc)
    out_tile_bytes = tile_h * tile_w * channel_bytes(tile_oc, y.bits)
    param_bytes = tile_oc * isa().params_bytes
    tiles = spaces * oc_tiles * parts
    reductions = [
        (each, count * bands * tiles_of_width * oc_tiles * parts)
        for width, tiles_of_width in widths.items()
        for each, count in conv_tile(layer, part, maps, (tile_h, width, tile_oc), tile_ic, tile_kh)
    ]
    beside, beside_beats = second_operand(layer, maps, hw, (tile_h, tile_w, tile_oc), resident)
    table_bytes = len(table_of(layer))
    output_resident = layer.output in resident
    work = LayerWork(
        computes=tuple(reductions),
        loads=parts * (oc_tiles + (0 if input_resident else in_loads)) + tiles * (beside > 0) + (table_bytes > 0),
        load_beats=parts
        * (
            oc_tiles * cost.bytes_beats(param_bytes, hw)
            + (0 if input_resident else in_loads * tile_beats(x, in_h, in_w, tile_ic, hw))
        )
        + tiles * beside_beats
        + cost.bytes_beats(table_bytes, hw),
        weight_loads=parts * weight_set * again,
        weight_bytes=parts * weight_set * again * stream_bytes,
        decode_cycles=parts * weight_set * again * streams.decode_cycles(depth, tile_oc),
        stores=0 if output_resident else tiles,
        store_beats=0 if output_resident else store_beats(y, tile_h, tile_w, tile_oc, hw),
        first_bytes=stream_bytes + (0 if input_resident else in_tile_bytes) + beside,
        last_bytes=0 if output_resident else out_tile_bytes,
        first_loads=1 + (not input_resident) + (beside > 0) + (table_bytes > 0),
        weight_passes=1 if weights_outer or again > 1 else spaces,
    )
    return Tiling(
        tile_h=tile_h,
        tile_w=tile_w,
        tile_oc=tile_oc,
        tile_ic=tile_ic,
        tile_kh=tile_kh,
        weights_outer=weights_outer,
        in_slot_bytes=(0 if input_resident else in_tile_bytes, *((beside,) if len(layer.inputs) > 1 else ())),
        in_slots=min(in_slots, max(in_loads * parts, min(2, tiles) if beside else 0)),
        out_slot_bytes=0 if output_resident else out_tile_bytes,
        out_slots=min(2, tiles),
        param_slot_bytes=param_bytes,
        param_slots=min(2, oc_tiles * parts),
        table_bytes=table_bytes,
        work=work,
    )
