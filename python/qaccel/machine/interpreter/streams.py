"""Weight streams decoded slowly and plainly, after the ISA manual's chapter "Weight streams" alone; and raw ones made."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .memory import to_bytes

HEADER_BYTES = 5
CHUNK_BYTES = 64
WIDTHS = (4, 8, 16)
CODECS = ("raw", "parametric", "entropy", "palette", "zero_run")


class StreamFault(Exception):
    """What the manual calls an error of a stream."""


def sealed(codec: int, bits: int, payload: bytes) -> bytes:
    """Header and payload, with a right checksum. ``bits`` may be 32 for the reserved width code."""
    head = bytes([codec | (*WIDTHS, 32).index(bits) << 6])
    return head + zlib.crc32(head + payload).to_bytes(4, "little") + payload


def packed(values: np.ndarray, bits: int) -> bytes:
    """Signed integers, little-endian; 4-bit ones low nibble first, a last odd nibble zero."""
    return to_bytes(np.asarray(values, np.int64).reshape(-1), bits).tobytes()


def raw_stream(values: np.ndarray, bits: int) -> bytes:
    """The values in a stream of codec raw."""
    return sealed(0, bits, packed(values, bits))


class Bits:
    """Numbers from a sequence of bits, lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self.data, self.left = data, 8 * len(data)
        self.number, self.next = (
            0,
            0,
        )  # bits that come next, and the byte behind these: all in one would be moved at each step

    def take(self, count: int) -> int:
        if count > self.left:
            raise StreamFault("ends early")
        held = self.left - 8 * (len(self.data) - self.next)
        if count > held:
            more = self.data[self.next : self.next + CHUNK_BYTES]
            self.number |= int.from_bytes(more, "little") << held
            self.next += len(more)
        value = self.number & ((1 << count) - 1)
        self.number >>= count
        self.left -= count
        return value

    def signed(self, count: int) -> int:
        value = self.take(count)
        return value - (1 << count) if value >> (count - 1) else value


def frequency(code: int) -> int:
    """The frequency that a code of 7 bits stands for."""
    return code if code < 8 else (8 + code % 8) << (code // 8 - 1)


class Table:
    """Symbols as [first value, extra bits, frequency]; None is the frequency of the rest symbol."""

    def __init__(self, symbols: list[list[Any]]) -> None:
        rest = 4096 - sum(f for _, _, f in symbols if f is not None)
        if rest < 1:
            raise StreamFault("nothing for the rest symbol")
        self.entries = len(symbols)
        self.slots: list[
            tuple[int, int, int, int]
        ] = []  # by slot the symbol's first value, extra bits, frequency, begin
        for first, extra, given in symbols:
            f = rest if given is None else given
            self.slots += [(first, extra, f, len(self.slots))] * f

    def decode(self, state: int, bits: Bits) -> tuple[int, int]:
        """Value and next state."""
        slot = state % 4096
        first, extra, f, begin = self.slots[slot]
        state = f * (state // 4096) + slot - begin
        missing = max(0, 17 - state.bit_length())
        state = (state << missing) + bits.take(missing)
        return first + bits.take(extra), state


def parametric(bits: Bits) -> Table:
    """The table of codec parametric, read from the front of the payload."""
    extra, sides = bits.take(4), bits.take(5)
    distances = {}
    if sides:
        first, ratio, bend = bits.take(11), bits.take(10) * 64, bits.take(10)
        fine = first * 256
        for distance in range(1, sides + 1):
            if distance > 1:
                fine = fine * ratio // 65536
                ratio = min(65535, ratio * bend // 512)
            distances[distance] = max(1, fine // 256)
    symbols = [[d * 2**extra - 2**extra // 2, extra, distances.get(abs(d))] for d in range(-sides, sides + 1)]
    return Table(symbols)


def buckets(bits: Bits, value_bits: int) -> Table:
    """A table of buckets, of codecs entropy and zero_run."""
    count = bits.take(6) + 1
    value = bits.signed(value_bits) if value_bits else 0
    rest = bits.take(6)
    if rest >= count:
        raise StreamFault("no such rest symbol")
    symbols: list[list[Any]] = []
    for s in range(count):
        step = bits.take(2) if s else 3
        extra = bits.take(4) if step == 3 else symbols[-1][1] + (0, 1, -1)[step]
        if not 0 <= extra <= 15:
            raise StreamFault("extra bits out of range")
        symbols.append([value, extra, None if s == rest else frequency(bits.take(7))])
        value += 2**extra
    return Table(symbols)


def palette(bits: Bits, value_bits: int) -> Table:
    """The table of codec palette."""
    count = bits.take(6) + 1
    values = [bits.signed(value_bits) for _ in range(count)]
    rest = bits.take(6)
    if rest >= count:
        raise StreamFault("no such rest symbol")
    return Table([[value, 0, None if s == rest else frequency(bits.take(7))] for s, value in enumerate(values)])


@dataclass(frozen=True)
class Decoded:
    """Weights int64 [count] in buffer order; how long the decoder is busy; symbols of all its tables."""

    weights: np.ndarray
    codec: str
    cycles: int
    table_symbols: int


def decode(stream: bytes, count: int, row_weights: int, bits: int, lanes: int, table_bytes: int) -> Decoded:
    """For a decoder of ``lanes`` lanes and ``table_bytes`` bytes of tables. Raises StreamFault."""
    if len(stream) < HEADER_BYTES:
        raise StreamFault("shorter than its header")
    codec, width_code, payload = stream[0] % 64, stream[0] // 64, stream[HEADER_BYTES:]
    if zlib.crc32(stream[:1] + payload) != int.from_bytes(stream[1:HEADER_BYTES], "little"):
        raise StreamFault("wrong checksum")
    if codec >= len(CODECS) or width_code == 3 or WIDTHS[width_code] != bits:
        raise StreamFault(f"codec {codec}, width code {width_code}")
    source = Bits(payload)
    if codec == 0:
        if len(payload) != -(-count * bits // 8):
            raise StreamFault("wrong size")
        weights = np.array([source.signed(bits) for _ in range(count)])
        cycles, symbols = -(-count // lanes), 0
    else:
        tile = (count, row_weights, bits)
        weights, cycles, symbols = _decode_coded(CODECS[codec], source, tile, lanes, table_bytes)
    if source.left >= 8 or source.take(source.left):
        raise StreamFault("something is left")
    return Decoded(weights, CODECS[codec], cycles, symbols)


def _decode_coded(
    codec: str, source: Bits, tile: tuple[int, int, int], most_lanes: int, table_bytes: int
) -> tuple[np.ndarray, int, int]:
    count, row_weights, bits = tile
    lanes = 1 << source.take(3)
    if lanes > most_lanes:
        raise StreamFault("too many lanes")
    order = [
        [i for column in range(lane, min(row_weights, count), lanes) for i in range(column, count, row_weights)]
        for lane in range(lanes)
    ]
    held = 16 // bits
    if min(map(len, order)) < held:
        raise StreamFault("too few weights for the lanes")
    if codec == "parametric":
        tables = [parametric(source)]
    elif codec == "entropy":
        tables = [buckets(source, bits)]
    elif codec == "palette":
        tables = [palette(source, bits)]
    else:
        tables = [buckets(source, 0), buckets(source, bits)]
    entries = sum(table.entries for table in tables)
    if 5 * entries > table_bytes:
        raise StreamFault("tables too large")
    states = [65536 + source.take(16) for _ in range(lanes)]
    done: list[list[int]] = [[] for _ in range(lanes)]
    cycle = 0
    while any(len(done[lane]) < len(order[lane]) - held for lane in range(lanes)):
        for lane in range(lanes):
            left = len(order[lane]) - held - len(done[lane])
            if left:
                value, states[lane] = tables[cycle % len(tables)].decode(states[lane], source)
                if codec == "zero_run" and cycle % 2 == 0:
                    if value > left:
                        raise StreamFault("a run too long")
                    done[lane] += [0] * value
                elif not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
                    raise StreamFault("a weight outside of its width")
                else:
                    done[lane].append(value)
        cycle += 1
    weights = np.zeros(count, np.int64)
    for lane in range(lanes):
        last = Bits((states[lane] - 65536).to_bytes(2, "little"))
        weights[order[lane]] = done[lane] + [last.signed(bits) for _ in range(held)]
    return weights, entries + cycle + held, entries
