"""Weights to streams and back (ISA manual, "Weight streams"); the codecs themselves are C++."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm_ffi

from ..errors import CompilerFault
from .hw import HwConfig
from .isa import isa
from .native import machine_error, native_function


def pack(values: np.ndarray, bits: int) -> bytes:
    """Little-endian bytes of signed integers [n] of 4, 8 or 16 bits; 4-bit ones low nibble first, an odd last nibble zero."""
    if bits == 4:
        nibbles = np.zeros(-(-values.size // 2) * 2, np.uint8)
        nibbles[: values.size] = values.astype(np.int8).view(np.uint8) & 0xF
        return (nibbles[0::2] | (nibbles[1::2] << 4)).tobytes()
    return values.astype("<i1" if bits == 8 else "<i2").tobytes()


def unpack(data: bytes, count: int, bits: int) -> np.ndarray:
    """Inverse of pack: int32 [count]."""
    if bits == 4:
        raw = np.frombuffer(data, np.uint8)
        nibbles = np.stack([raw & 0xF, raw >> 4], axis=1).reshape(-1)[:count].astype(np.int32)
        return (nibbles ^ 8) - 8
    return np.frombuffer(data, "<i1" if bits == 8 else "<i2")[:count].astype(np.int32)


def pack_pixels(values: np.ndarray, bits: int) -> bytes:
    """Bytes of activations [..., channels]: every pixel starts on a byte."""
    if bits == 4 and values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return pack(values.reshape(-1), bits)


@dataclass(frozen=True)
class WeightTile:
    """Weights as they lie in the weight buffer: signed integers [count] in rows of ``row_weights``, at ``bits`` bits."""

    weights: np.ndarray
    row_weights: int
    bits: int


def encode_streams(tiles: Sequence[WeightTile], hw: HwConfig) -> list[bytes]:
    """The smallest stream of each tile that ``hw`` decodes (header and payload), of zeros alone the quickest, on all cores.

    Raises CompilerFault if a weight does not fit its width.
    """
    if not tiles:
        return []
    weights = np.concatenate([tile.weights.reshape(-1).astype(np.int32) for tile in tiles])
    shapes = np.array([(tile.weights.size, tile.row_weights, tile.bits) for tile in tiles], np.int64).reshape(-1)
    arrays = tvm_ffi.from_dlpack(weights), tvm_ffi.from_dlpack(shapes)
    encode = native_function("qaccel_encode_streams")
    try:
        streams = encode(*arrays, hw.decoder_lanes, hw.decoder_table_bytes, os.cpu_count() or 1)
    except RuntimeError as error:
        raise CompilerFault(str(machine_error(error))) from None
    return [bytes(stream) for stream in streams]


def encode_stream(tile: WeightTile, hw: HwConfig) -> bytes:
    """``encode_streams`` of one tile."""
    return encode_streams([tile], hw)[0]


@dataclass(frozen=True)
class DecodedStream:
    """What a decoder makes of a stream: ``packed`` weights for the weight buffer, in ``decode_cycles``."""

    packed: bytes
    codec: str
    decode_cycles: int


def decode_stream(stream: bytes, count: int, row_weights: int, bits: int, hw: HwConfig) -> DecodedStream:
    """Decode a stream for a LOADW with these fields. Raises UserError if it is damaged or does not fit them."""
    decode = native_function("qaccel_decode_stream")
    try:
        packed, codec, cycles = decode(stream, count, row_weights, bits, hw.decoder_lanes, hw.decoder_table_bytes)
    except RuntimeError as error:
        raise machine_error(error) from None
    return DecodedStream(bytes(packed), isa().enums["codec"][int(codec)], int(cycles))


@dataclass(frozen=True)
class StreamEstimate:
    """What weight streams of one layer take, by their weights; `estimate_streams` measures it.

    ``cycles_per_weight`` are those of one lane; up to ``lanes`` lanes work at once, each on columns of its own.
    """

    bytes_per_stream: float
    bytes_per_weight: float
    cycles_per_stream: float
    cycles_per_weight: float
    lanes: int

    def stream_bytes(self, weights: int) -> int:
        """Header, tables and padding included."""
        return round(self.bytes_per_stream + weights * self.bytes_per_weight)

    def decode_cycles(self, rows: int, columns: int) -> int:
        """Cycles that the decoder is busy with a tile: lanes that find no column idle."""
        return round(self.cycles_per_stream + self.cycles_per_weight * rows * columns_per_lane(columns, self.lanes))


def columns_per_lane(columns: int, lanes: int) -> int:
    """Columns that the busiest lane of an entropy-coded stream decodes; its lanes are a power of two (ISA manual), however many the
    decoder has."""
    return -(-columns // (1 << (min(lanes, columns).bit_length() - 1)))


def raw_streams(weight_bits: int, hw: HwConfig) -> StreamEstimate:
    """Streams of codec raw, which all lanes decode whatever the columns are."""
    return StreamEstimate(isa().stream["header_bytes"], weight_bits / 8, 0, 1 / hw.decoder_lanes, lanes=1)


def estimate_streams(matrices: Sequence[tuple[np.ndarray, int]], hw: HwConfig) -> list[StreamEstimate]:
    """What streams of each layer take, from its weights [reduction, channels] and their bits: a straight line through
    the sizes of two tiles of it, one four times the other, which fills half of the weight buffer at most."""
    tiles: list[WeightTile] = []
    for matrix, bits in matrices:
        sample_weights = hw.weight_buffer_bytes * 8 // bits // 2
        rows = min(matrix.shape[0], max(4, sample_weights // matrix.shape[1]))
        for part in (matrix[: max(1, rows // 4)], matrix[:rows]):
            tiles.append(WeightTile(part, matrix.shape[1], bits))
    measured = []
    for tile, stream in zip(tiles, encode_streams(tiles, hw), strict=True):
        decoded = decode_stream(stream, tile.weights.size, tile.row_weights, tile.bits, hw)
        measured.append((tile, len(stream), decoded.decode_cycles))
    return [_line(*pair, hw) for pair in zip(measured[::2], measured[1::2], strict=True)]


def _line(small: tuple[WeightTile, int, int], large: tuple[WeightTile, int, int], hw: HwConfig) -> StreamEstimate:
    """Through two measured (tile, bytes, cycles)."""
    tile = small[0]
    more = large[0].weights.size - tile.weights.size
    if more == 0:  # a single row
        return raw_streams(tile.bits, hw)
    bytes_per_weight = (large[1] - small[1]) / more
    cycles_per_row = (large[2] - small[2]) * tile.row_weights / more
    rows = tile.weights.size // tile.row_weights
    return StreamEstimate(
        max(small[1] - bytes_per_weight * tile.weights.size, isa().stream["header_bytes"]), bytes_per_weight,
        max(small[2] - cycles_per_row * rows, 0), cycles_per_row / columns_per_lane(tile.row_weights, hw.decoder_lanes),
        hw.decoder_lanes,
    )  # fmt: skip


def codec_of(stream: bytes) -> str:
    """Name of the codec that a stream's header states."""
    spec = isa()
    return spec.enums["codec"][stream[0] & ((1 << spec.stream["codec_bits"]) - 1)]


def entropy_bits(weights: np.ndarray) -> float:
    """Order-0 entropy of weights, whole numbers of any type, times their number, in bits."""
    if weights.size == 0:
        return 0.0
    whole = weights.reshape(-1).astype(np.int64)  # the difference of two bytes is none
    counts = np.bincount(whole - whole.min())
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / weights.size)).sum())
