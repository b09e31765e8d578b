"""Weights to streams and back (ISA manual, "weight streams"). The only codec so far is ``raw``."""

from __future__ import annotations

import zlib

import numpy as np

from ..errors import QaccelError
from ..isa import isa


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


def encode_stream(weights: np.ndarray, bits: int) -> bytes:
    """Stream of signed weights [n] (header and payload), raw codec."""
    spec = isa()
    head = bytes([spec.enums["codec"].index("raw") | spec.widths.index(bits) << spec.stream["codec_bits"]])
    head += int(weights.size).to_bytes(3, "little")
    payload = pack(weights.reshape(-1), bits)
    return head + zlib.crc32(head + payload).to_bytes(4, "little") + payload


def decode_stream(stream: bytes) -> tuple[np.ndarray, int]:
    """``(weights int32 [n], bits)`` of a stream. Raises QaccelError if it is damaged."""
    spec = isa()
    header_bytes = spec.stream["header_bytes"]
    if len(stream) < header_bytes:
        raise QaccelError(f"weight stream of {len(stream)} bytes is shorter than its header of {header_bytes}")
    if zlib.crc32(stream[:4] + stream[header_bytes:]) != int.from_bytes(stream[4:header_bytes], "little"):
        raise QaccelError("weight stream is damaged: its checksum does not match")
    codec, width = stream[0] & ((1 << spec.stream["codec_bits"]) - 1), stream[0] >> spec.stream["codec_bits"]
    count = int.from_bytes(stream[1:4], "little")
    if codec >= len(spec.enums["codec"]) or width >= len(spec.widths):
        raise QaccelError(f"weight stream has unknown codec {codec} or width code {width}")
    bits = spec.widths[width]
    if len(stream) - header_bytes != -(-count * bits // 8):
        raise QaccelError(
            f"weight stream of {count} {bits}-bit weights has a payload of {len(stream) - header_bytes} bytes"
        )
    return unpack(stream[header_bytes:], count, bits), bits


def entropy_bits(weights: np.ndarray) -> float:
    """Order-0 entropy of integer weights times their number, in bits."""
    if weights.size == 0:
        return 0.0
    _, counts = np.unique(weights, return_counts=True)
    return float(-(counts * np.log2(counts / weights.size)).sum())
