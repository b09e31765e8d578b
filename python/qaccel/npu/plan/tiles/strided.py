"""Layers that only move values: the bytes that a piece reads and writes, and parts that fit blocks of SRAM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

from ....dialect.pieces import Piece
from ....machine import cost
from ....machine.hw import HwConfig
from ....machine.isa import field_maximum
from ....machine.layer_cost import LayerWork
from ....options.schedule import TileChoice
from ...layers import FeatureMap, MoveLayer, channel_bytes
from .tile_work import move_tile
from .tiling import AS_USUAL, Candidates, Tiling, all_of, sizes_of

SMALLEST_TILE_VALUES = 64


@dataclass(frozen=True)
class Strided:
    """Runs of ``run_bytes`` in a feature map, ``begin`` counted from its first byte; a stride of 0 repeats."""

    begin: int
    rows: int
    row_stride: int
    pixels: int
    pixel_stride: int
    run_bytes: int

    def map_rows(self, row_bytes: int) -> tuple[int, int]:
        """First row of the map that it touches, and how many from there on."""
        end = self.begin + (self.rows - 1) * self.row_stride + (self.pixels - 1) * self.pixel_stride + self.run_bytes
        first = self.begin // row_bytes
        return first, (end - 1) // row_bytes + 1 - first

    def beats(self, hw: HwConfig) -> int:
        """Cycles of the DRAM channel; what repeats is fetched once."""
        rows, pixels = self.rows if self.row_stride else 1, self.pixels if self.pixel_stride else 1
        return cost.box_beats(rows, self.row_stride, pixels, self.pixel_stride, self.run_bytes, hw)


@lru_cache(maxsize=8)
def _longest() -> tuple[int, int, int]:
    """Most rows, pixels and channels of one COPY."""
    return field_maximum("COPY", "h"), field_maximum("COPY", "w"), field_maximum("COPY", "channels")


def _steps(piece: Piece, most_values: int) -> tuple[int, int, int]:
    """Rows, pixels and channels of a part: rows are cut first, then pixels, then channels."""
    longest = _longest()
    channels = min(piece.channels, max(most_values, 2), longest[2] & ~1)
    pixels = min(piece.pixels, max(most_values // channels, 1), longest[1])
    rows = min(piece.rows, max(most_values // (channels * pixels), 1), longest[0])
    return rows, pixels, channels


def cut(piece: Piece, most_values: int) -> Iterator[Piece]:
    """The piece in parts of at most so many values (an even number)."""
    rows, pixels, channels = _steps(piece, most_values)
    for r in range(0, piece.rows, rows):
        for p in range(0, piece.pixels, pixels):
            for c in range(0, piece.channels, channels):
                yield replace(
                    piece,
                    rows=min(rows, piece.rows - r),
                    pixels=min(pixels, piece.pixels - p),
                    channels=min(channels, piece.channels - c),
                    in_pixel=piece.in_pixel + r * piece.in_row_pixels + p * piece.in_step_pixels,
                    in_channel=piece.in_channel + r * piece.in_row_channels + p * piece.in_step_channels + c,
                    out_pixel=piece.out_pixel + r * piece.out_row_pixels + p * piece.out_step_pixels,
                    out_channel=piece.out_channel + r * piece.out_row_channels + p * piece.out_step_channels + c,
                )


def source_of(piece: Piece, x: FeatureMap) -> Strided:
    """The bytes of a feature map that a piece reads; rows and pixels that repeat are there once."""
    return _strided(
        x, piece, (piece.in_pixel, piece.in_channel), (piece.in_row_pixels, piece.in_row_channels),
        (piece.in_step_pixels, piece.in_step_channels),
    )  # fmt: skip


def target_of(piece: Piece, y: FeatureMap) -> Strided:
    """The bytes of a feature map that a piece writes."""
    return _strided(
        y, piece, (piece.out_pixel, piece.out_channel), (piece.out_row_pixels, piece.out_row_channels),
        (piece.out_step_pixels, piece.out_step_channels),
    )  # fmt: skip


def _strided(
    feature_map: FeatureMap, piece: Piece, begin: tuple[int, int], row: tuple[int, int], pixel: tuple[int, int]
) -> Strided:
    def place(position: tuple[int, int]) -> int:
        return position[0] * feature_map.pixel_bytes + position[1] * feature_map.bits // 8

    return Strided(
        place(begin), piece.rows, place(row), piece.pixels, place(pixel), channel_bytes(piece.channels, feature_map.bits)
    )  # fmt: skip


def move_candidates(
    layer: MoveLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    resident: frozenset[int],
    choice: TileChoice = AS_USUAL,
) -> Iterator[Candidates]:
    """Tilings by the number of values that one instruction takes, halved from all of them down to a few."""
    largest = max(piece.rows * piece.pixels * piece.channels for piece in layer.pieces)
    sizes = [largest]
    while sizes[-1] > SMALLEST_TILE_VALUES:
        sizes.append(max(sizes[-1] // 4 & ~1, 2))
    yield all_of([_tiling(layer, maps, hw, resident, size) for size in sizes_of(choice.values, sizes)])


def _tiling(
    layer: MoveLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int], tile_values: int
) -> Tiling:
    y = maps[layer.output]
    slots, out_bytes, parts = [0] * len(layer.inputs), 0, 0
    computes, loads, load_beats, store_beats = [], 0, 0, 0
    for piece in layer.pieces:
        x = maps[layer.inputs[piece.source]]
        first = next(cut(piece, tile_values))
        rows, pixels, channels = _steps(piece, tile_values)
        count = ceil(piece.rows / rows) * ceil(piece.pixels / pixels) * ceil(piece.channels / channels)
        read = source_of(first, x)
        read_bytes = read.run_bytes * (read.rows if read.row_stride else 1) * (read.pixels if read.pixel_stride else 1)
        written = target_of(first, y)
        out_bytes = max(out_bytes, written.rows * written.pixels * written.run_bytes)
        if layer.inputs[piece.source] not in resident:
            slots[piece.source] = max(slots[piece.source], read_bytes)
            loads += count
            load_beats += count * read.beats(hw)
        parts += count
        store_beats += count * written.beats(hw)
        computes.append((move_tile(first, x, y), count))
    output_resident = layer.output in resident
    work = LayerWork(
        computes=tuple(computes),
        loads=loads,
        load_beats=load_beats,
        weight_loads=0,
        weight_bytes=0,
        decode_cycles=0,
        stores=0 if output_resident else parts,
        store_beats=0 if output_resident else store_beats,
        first_bytes=max(slots),
        last_bytes=0 if output_resident else out_bytes,
        first_loads=int(any(slots)),
        rounds=loads,
    )
    return Tiling(
        tile_h=y.h,
        tile_w=y.w,
        tile_oc=y.c,
        tile_ic=y.c,
        tile_kh=1,
        weights_outer=False,
        in_slot_bytes=tuple(slots),
        in_slots=min(2, parts),
        out_slot_bytes=0 if output_resident else out_bytes,
        out_slots=min(2, parts),
        param_slot_bytes=0,
        param_slots=0,
        table_bytes=0,
        work=work,
        tile_values=tile_values,
    )
