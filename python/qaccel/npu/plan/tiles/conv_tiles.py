"""Tilings of dense and grouped convolutions: outputs, reduction and loop order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import ceil

import numpy as np

from ....machine import cost
from ....machine.hw import HwConfig
from ....machine.isa import isa
from ....machine.layer_cost import LayerWork, LeastWork, least_layer_cycles
from ....machine.numerics import Counts
from ....machine.streams import StreamEstimate, raw_streams
from ....options.schedule import INSIDE, TileChoice
from ...extents import halvings, input_pixels, input_rows, made_maps
from ...layers import ConvLayer, ConvPart, FeatureMap, channel_bytes, table_of
from .tile_work import conv_tile, least_tile_beats, row_tiles, second_operand, store_beats, tile_beats
from .tiling import AS_USUAL, Candidates, Least, Tiling, sizes_of


def conv_candidates(
    layer: ConvLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    resident: frozenset[int],
    choice: TileChoice = AS_USUAL,
) -> Iterator[Candidates]:
    """Groups of candidates, the most desirable group first: reduction whole, rows whole. ``choice``: sizes that are given."""
    seen = made_maps(layer, maps)
    x, y, window = seen[layer.inputs[0]], seen[layer.output], layer.window
    part = max(layer.parts, key=lambda p: p.weight.size)
    columns, rows = hw.array_columns(layer.weight_bits), hw.array_rows(x.bits)
    for tile_kh in sizes_of(choice.kernel_rows, halvings(window.kernel_h)):
        for tile_ic in sizes_of(choice.in_channels, halvings(part.in_channels, rows)):
            if tile_kh < window.kernel_h and tile_ic > 2 and choice.in_channels is None:
                continue  # split channels before kernel rows
            depth = tile_kh * window.kernel_w * tile_ic
            output_tiles = []
            for tile_oc in sizes_of(choice.channels, halvings(part.out_channels, columns)):
                if depth * channel_bytes(tile_oc, layer.weight_bits) <= hw.weight_buffer_bytes // 2:
                    output_tiles.append(tile_oc)
            for tile_w in sizes_of(choice.columns, halvings(y.w)):
                widths = row_tiles(layer, maps, tile_w)
                cut = _Cut(layer, part, seen, hw, resident, tile_w, tile_ic, tile_kh, widths, choice.weights == INSIDE)
                yield _group(cut, sizes_of(choice.rows, halvings(y.h)), output_tiles)


@dataclass(frozen=True)
class _Cut:
    """What candidates of one width of tiles are made from, and tiles of rows and output channels, of one or many candidates.

    ``maps`` as the layer's instructions see them; ``widths``: how many tiles of which width a row has; ``inside``: whether tiles of
    rows and pixels must be outside of those of channels.
    """

    layer: ConvLayer
    part: ConvPart
    maps: tuple[FeatureMap, ...]
    hw: HwConfig
    resident: frozenset[int]
    pixels: int
    in_channels: int
    kernel_rows: int
    widths: Mapping[int, int]
    inside: bool

    @property
    def chunks(self) -> int:
        """Parts of the reduction."""
        return ceil(self.part.in_channels / self.in_channels) * ceil(self.layer.window.kernel_h / self.kernel_rows)

    @property
    def depth(self) -> int:
        """Multiplications of a part of the reduction."""
        return self.kernel_rows * self.layer.window.kernel_w * self.in_channels

    @property
    def streams(self) -> StreamEstimate:
        """What the weights take in DRAM."""
        return self.layer.streams or raw_streams(self.layer.weight_bits, self.hw)

    def input_bytes(self, rows: int) -> int:
        """Bytes of a tile's input in SRAM; 0 if the map lies there whole."""
        x, window = self.maps[self.layer.inputs[0]], self.layer.window
        if self.layer.inputs[0] in self.resident:
            return 0
        height = min(x.h, input_rows(rows, window, self.kernel_rows))
        return height * min(x.w, input_pixels(self.pixels, window)) * channel_bytes(self.in_channels, x.bits)

    def input_beats(self, rows: int) -> int:
        """Cycles of the DRAM channel for them."""
        x, window = self.maps[self.layer.inputs[0]], self.layer.window
        if self.layer.inputs[0] in self.resident:
            return 0
        height = min(x.h, input_rows(rows, window, self.kernel_rows))
        return tile_beats(x, height, min(x.w, input_pixels(self.pixels, window)), self.in_channels, self.hw)

    def output_bytes(self, rows: Counts, channels: Counts) -> Counts:
        """The same of its output."""
        bits = self.maps[self.layer.output].bits
        return rows * (self.pixels if self.layer.output not in self.resident else 0) * channel_bytes(channels, bits)

    def weight_bytes(self, channels: Counts) -> Counts:
        """Bytes of a tile's weights in their buffer."""
        return self.depth * channel_bytes(channels, self.layer.weight_bits)

    def least(self, heights: Sequence[int], depths: Sequence[int], ahead: bool) -> Least:
        """The least of candidates by rows and channels of tiles and by order, as `Candidates` has it."""
        layer, hw, parts, chunks = self.layer, self.hw, len(self.layer.parts), self.chunks
        rows, channels = np.array(heights)[:, None, None], np.array(depths)[:, None]
        outer, in_slots = (np.array(each) for each in zip(*_orders(chunks), strict=True))
        x, y = self.maps[layer.inputs[0]], self.maps[layer.output]
        bands, oc_tiles = -(-y.h // rows), -(-self.part.out_channels // channels)
        spaces = bands * sum(self.widths.values())
        in_bytes = np.array([self.input_bytes(each) for each in heights])[:, None, None]
        out_bytes = self.output_bytes(rows, channels)
        out_beats = np.where(out_bytes > 0, least_tile_beats(y, rows, np.array(self.pixels), channels, hw), 0)
        reduction = layer.window.kernel_h * layer.window.kernel_w * self.part.in_channels
        mac = sum(
            tiles * cost.conv_mac_cycles(rows * width, reduction, channels, (layer.weight_bits, x.bits), hw)
            for width, tiles in self.widths.items()
        )
        in_beats = np.array([self.input_beats(each) for each in heights])[:, None, None]
        loads = np.where(in_bytes > 0, _input_loads(spaces, oc_tiles, chunks, outer, in_slots), 0)
        stream_bytes = np.array([self.streams.stream_bytes(self.depth * each) for each in depths])[:, None]
        weight_loads = parts * oc_tiles * chunks * _again(self, spaces, oc_tiles, self.weight_bytes(channels), outer)
        computing = oc_tiles * parts * (spaces * chunks * hw.start_up_cycles.compute + bands * mac)
        work = LeastWork(
            compute=computing,
            loads=parts * (oc_tiles + loads),
            load_beats=parts * loads * in_beats,
            weight_loads=weight_loads,
            weight_bytes=weight_loads * stream_bytes,
            stores=np.where(out_bytes > 0, spaces * oc_tiles * parts, 0),
            store_beats=y.total_bytes * out_beats // np.maximum(out_bytes, 1),
            end_bytes=(0 if ahead else stream_bytes) + in_bytes + out_bytes,
        )
        cycles = least_layer_cycles(work, hw)
        sram_bytes = in_bytes * np.minimum(np.maximum(loads, 1) * parts, 2)
        sram_bytes = sram_bytes + out_bytes * np.minimum(spaces * oc_tiles * parts, 2)
        sram_bytes = sram_bytes + channels * isa().params_bytes * np.minimum(oc_tiles * parts, 2)
        return Least(*(np.broadcast_to(each, cycles.shape).ravel() for each in (sram_bytes, cycles, computing)))


def _orders(chunks: int) -> list[tuple[bool, int]]:
    """Orders of loops: whether tiles of channels are outside, and how many tiles of the input have a place. Where one tile takes
    all pixels, all chunks of the input can stay for the next output channels."""
    return [(True, 2), (False, 2), (False, chunks)]


def _group(cut: _Cut, heights: Sequence[int], depths: Sequence[int]) -> Candidates:
    """Each size of tiles by rows and channels with the orders of loops that differ for it."""
    layer, chunks, orders = cut.layer, cut.chunks, _orders(cut.chunks)
    alone = len(layer.inputs) == 1 or layer.inputs[1] in cut.resident
    tile_of = cache(partial(_tile, cut))

    def make(number: int) -> Tiling | None:
        place, order = divmod(number, len(orders))
        tile_h, tile_oc = heights[place // len(depths)], depths[place % len(depths)]
        if chunks > 1 and tile_h * cut.pixels * tile_oc > cut.hw.accumulator_entries:
            return None
        one_space = tile_h >= cut.maps[layer.output].h and sum(cut.widths.values()) == 1
        all_channels = tile_oc >= cut.part.out_channels
        other = not one_space and (chunks > 1 or not all_channels)  # else it would be the same order
        if order == 1 and not (other or cut.inside):
            return None
        if order == 2 and not (one_space and not all_channels and chunks > 2 and alone):
            return None
        return _conv_tiling(cut, tile_of(tile_h, tile_oc), (tile_h, tile_oc), *orders[order])

    return Candidates(len(heights) * len(depths) * len(orders), make, partial(cut.least, heights, depths))


def _again(cut: _Cut, spaces: Counts, oc_tiles: Counts, weight_bytes: Counts, weights_outer: Counts) -> Counts:
    """How often each of the weights is fetched: for each space where those that are needed for one do not stay in the buffer.
    ``weight_bytes``: of a tile there."""
    together = cut.chunks * (1 + (oc_tiles - 1) * (1 - weights_outer))
    over = (together * weight_bytes > cut.hw.weight_buffer_bytes) & (cut.chunks - weights_outer > 0)
    return 1 + (spaces - 1) * over


def _input_loads(spaces: Counts, oc_tiles: Counts, chunks: int, weights_outer: Counts, in_slots: Counts) -> Counts:
    """How many tiles of the input are loaded for each part of a layer."""
    if chunks > 1:
        stays = (spaces == 1) & (in_slots >= chunks)
        return chunks * (1 + (spaces * oc_tiles - 1) * (1 - stays))
    return spaces * (1 + (oc_tiles - 1) * (weights_outer * (spaces > 1)))


@dataclass(frozen=True)
class _Tile:
    """What candidates of the same tiles share, in whatever order these come."""

    spaces: int  # tiles of rows and pixels
    channels: int  # tiles of output channels of a part
    weight_bytes: int
    in_bytes: int  # 0 if the input is resident
    in_beats: int
    out_bytes: int  # 0 if the output is resident
    store_beats: int
    beside: tuple[int, int]  # bytes and beats of the second operand
    one_beside: bool  # which is one pixel
    computes: tuple[tuple[cost.Work, int], ...]


def _tile(cut: _Cut, tile_h: int, tile_oc: int) -> _Tile:
    layer, maps, hw, tile_w, tile_ic, tile_kh = (
        cut.layer,
        cut.maps,
        cut.hw,
        cut.pixels,
        cut.in_channels,
        cut.kernel_rows,
    )
    y = maps[layer.output]
    bands, channels = ceil(y.h / tile_h), ceil(cut.part.out_channels / tile_oc)
    in_bytes, out_bytes = cut.input_bytes(tile_h), cut.output_bytes(tile_h, tile_oc)
    return _Tile(
        spaces=bands * sum(cut.widths.values()),
        channels=channels,
        weight_bytes=cut.weight_bytes(tile_oc),
        in_bytes=in_bytes,
        in_beats=cut.input_beats(tile_h),
        out_bytes=out_bytes,
        store_beats=store_beats(y, tile_h, tile_w, tile_oc, hw) if out_bytes else 0,
        beside=second_operand(layer, maps, hw, (tile_h, tile_w, tile_oc), cut.resident),
        one_beside=len(layer.inputs) > 1 and maps[layer.inputs[1]].h == maps[layer.inputs[1]].w == 1,
        computes=tuple(
            (each, count * bands * tiles * channels * len(layer.parts))
            for width, tiles in cut.widths.items()
            for each, count in conv_tile(layer, cut.part, maps, (tile_h, width, tile_oc), tile_ic, tile_kh)
        ),
    )


def _conv_tiling(cut: _Cut, tile: _Tile, shape: tuple[int, int], weights_outer: bool, in_slots: int) -> Tiling:
    """A candidate for tiles of (rows, output channels)."""
    layer, hw, parts, chunks, streams = cut.layer, cut.hw, len(cut.layer.parts), cut.chunks, cut.streams
    tile_h, tile_oc = shape
    spaces, oc_tiles = tile.spaces, tile.channels
    in_loads = _input_loads(spaces, oc_tiles, chunks, weights_outer, in_slots) if tile.in_bytes else 0
    again = _again(cut, spaces, oc_tiles, tile.weight_bytes, weights_outer)
    stream_bytes, weight_loads = streams.stream_bytes(cut.depth * tile_oc), parts * oc_tiles * chunks * again
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
        decode_cycles=weight_loads * streams.decode_cycles(cut.depth, tile_oc),
        stores=tiles if tile.out_bytes else 0,
        store_beats=tile.store_beats,
        first_bytes=stream_bytes + tile.in_bytes + beside,
        last_bytes=tile.out_bytes,
        first_loads=1 + (tile.in_bytes > 0) + (beside > 0) + (table_bytes > 0),
        rounds=max(parts * in_loads, beside_loads),
        weight_passes=1 if weights_outer or again > 1 else spaces,
    )
    return Tiling(
        tile_h=tile_h,
        tile_w=cut.pixels,
        tile_oc=tile_oc,
        tile_ic=cut.in_channels,
        tile_kh=cut.kernel_rows,
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
