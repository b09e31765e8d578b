"""Data movement as affine pieces: what concatenation, padding, slicing, resizing and shuffling come down to.

A piece copies ``rows x pixels x channels`` values: its channels are neighbours on both sides, its rows and pixels are steps of any
size. Positions and steps are pairs (pixel, channel), pixels counted in row-major order. That is what the machine's strided
COPY, LOAD and STORE do, whatever the operator in the model was called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import product

import numpy as np

_PIXEL = 1 << 24  # a position as one integer: pixel * _PIXEL + channel
MOST_PIECES = 4096  # of one operation: beyond that its start-up times alone cost more than leaving it to the CPU


@dataclass(frozen=True)
class Piece:
    """Value (r, p, c) lies c channels after ``in_*`` + r * ``in_row_*`` + p * ``in_step_*`` in the source; the output likewise."""

    source: int
    rows: int
    pixels: int
    channels: int
    in_pixel: int
    in_channel: int
    in_row_pixels: int
    in_row_channels: int
    in_step_pixels: int
    in_step_channels: int
    out_pixel: int
    out_channel: int
    out_row_pixels: int
    out_row_channels: int
    out_step_pixels: int
    out_step_channels: int


FIELDS = len(Piece.__dataclass_fields__)


def flattened(pieces: Sequence[Piece]) -> tuple[int, ...]:
    """All fields in one tuple, as an attribute holds them."""
    return tuple(value for piece in pieces for value in astuple(piece))


def unflattened(values: Sequence[int]) -> list[Piece]:
    """The pieces again."""
    return [Piece(*values[k : k + FIELDS]) for k in range(0, len(values), FIELDS)]


def positions(piece: Piece, source: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixel and first channel of every (row, pixel) of a piece, int64 [rows, pixels], on its source's or output's side."""
    r, p = np.arange(piece.rows)[:, None], np.arange(piece.pixels)[None, :]
    if source:
        pixel = piece.in_pixel + r * piece.in_row_pixels + p * piece.in_step_pixels
        return pixel, piece.in_channel + r * piece.in_row_channels + p * piece.in_step_channels
    pixel = piece.out_pixel + r * piece.out_row_pixels + p * piece.out_step_pixels
    return pixel, piece.out_channel + r * piece.out_row_channels + p * piece.out_step_channels


def whole_bytes(piece: Piece, in_bits: int, out_bits: int, out_channels: int) -> bool:
    """Whether every run of channels begins on a byte on both sides, and fills the bytes that it writes."""
    sides = (
        (in_bits, (piece.in_channel, piece.in_row_channels, piece.in_step_channels)),
        (out_bits, (piece.out_channel, piece.out_row_channels, piece.out_step_channels)),
    )
    if any(value * bits % 8 for bits, values in sides for value in values):
        return False
    last = piece.out_row_channels == piece.out_step_channels == 0
    return piece.channels * out_bits % 8 == 0 or (last and piece.out_channel + piece.channels == out_channels)


def pieces_of(
    source: np.ndarray, pixel: np.ndarray, channel: np.ndarray, most: int = MOST_PIECES
) -> list[Piece] | None:
    """Pieces that fill an output [H, W, C] whose every value says its source, and pixel and channel there (int64 each).

    None if there would be more than ``most``.
    """
    where = pixel * _PIXEL + channel
    found: list[Piece] = []
    for box in _uniform(source):
        for piece in _affine(int(source[box][0, 0, 0]), where[box], _corner(box), source.shape):
            found.append(piece)
            if len(found) > most:
                return None
    return found


def interleaved(
    sizes: Sequence[tuple[int, int]], factors: tuple[int, int], out_width: int, channels: int
) -> list[Piece]:
    """Pieces that put tensor k of ``sizes`` (rows, pixels) at row k // factors[1], pixel k % factors[1] of every block."""
    rows, pixels = factors
    return [
        Piece(
            k, h, w, channels, 0, 0, w, 0, 1, 0,
            (k // pixels) * out_width + k % pixels, 0, rows * out_width, 0, pixels, 0,
        )
        for k, (h, w) in enumerate(sizes)
        if h and w
    ]  # fmt: skip


Box = tuple[slice, slice, slice]


def _corner(box: Box) -> tuple[int, int, int]:
    return box[0].start, box[1].start, box[2].start


def _uniform(source: np.ndarray) -> Iterator[Box]:
    """Boxes of one source each: cut along every axis where the source changes somewhere."""
    cuts = []
    for axis, size in enumerate(source.shape):
        moved = np.moveaxis(source, axis, 0).reshape(size, -1)
        change = np.flatnonzero((moved[1:] != moved[:-1]).any(axis=1)) + 1
        cuts.append([0, *change.tolist(), size])
    for begins in product(*(range(len(c) - 1) for c in cuts)):
        yield tuple(slice(c[k], c[k + 1]) for c, k in zip(cuts, begins, strict=True))  # type: ignore[misc]


def _affine(source: int, where: np.ndarray, corner: tuple[int, int, int], shape: tuple[int, ...]) -> Iterator[Piece]:
    """Pieces of one box, all of one source."""
    origin = where[0, 0, 0]
    lines = where[:, :1, :1], where[:1, :, :1], where[:1, :1, :]
    if not np.array_equal(where, lines[0] + lines[1] + lines[2] - 2 * origin):
        # The axes mix: halve the longest one until they do not.
        axis = max(range(3), key=lambda k: where.shape[k])
        half = where.shape[axis] // 2
        for begin, end in ((0, half), (half, where.shape[axis])):
            part: list[slice] = [slice(None)] * 3
            part[axis] = slice(begin, end)
            moved = tuple(c + begin if k == axis else c for k, c in enumerate(corner))
            yield from _affine(source, where[tuple(part)], moved, shape)  # type: ignore[arg-type]
        return
    width = shape[1]
    out_units = width * _PIXEL, _PIXEL, 1
    runs = [_runs(line.reshape(-1)) for line in lines]
    for segments in product(*runs):
        begins = [begin for begin, _ in segments]
        loops = [
            (count, span * out_units[axis], step)
            for axis, (_, levels) in enumerate(segments)
            for count, span, step in levels
            if count > 1
        ]
        first = origin + sum(int(line.reshape(-1)[b] - origin) for line, b in zip(lines, begins, strict=True))
        target = sum((c + b) * unit for c, b, unit in zip(corner, begins, out_units, strict=True))
        yield from _pieces(source, int(first), int(target), _joined(loops))


Level = tuple[int, int, int]  # count, elements of the line from one to the next, step in the source
Loop = tuple[int, int, int]  # count, step in the output, step in the source


def _runs(line: np.ndarray) -> list[tuple[int, list[Level]]]:
    """A line of positions as (begin, nested levels, outermost first), each an affine walk."""
    found = []
    begin = 0
    while begin < len(line):
        size, levels = _walk(line[begin:], 1)
        found.append((begin, levels))
        begin += size
    return found


def _walk(line: np.ndarray, unit: int) -> tuple[int, list[Level]]:
    """How much of the line's beginning is one nest of affine loops, and the nest; ``unit``: the line's own spacing."""
    if len(line) == 1:
        return 1, []
    steps = np.diff(line)
    step = int(steps[0])
    if step < 0:
        return 1, []
    other = np.flatnonzero(steps != step)
    run = int(other[0]) + 1 if len(other) else len(line)
    inner = [(run, unit, step)]
    blocks = len(line) // run
    if blocks < 2 or run == len(line):
        return run, inner
    table = line[: blocks * run].reshape(blocks, run)
    regular = (table - table[:, :1] == table[0] - table[0, 0]).all(axis=1)
    same = blocks if regular.all() else int(np.argmin(regular))
    if same < 2:
        return run, inner
    size, outer = _walk(table[:same, 0], unit * run)
    return size * run, outer + inner


def _joined(loops: list[Loop]) -> list[Loop]:
    """Loops of which one continues another made one."""
    result = sorted(loops, key=lambda loop: -loop[1])
    k = 0
    while k + 1 < len(result):
        (outer, out_outer, in_outer), (inner, out_inner, in_inner) = result[k], result[k + 1]
        if out_outer == inner * out_inner and in_outer == inner * in_inner:
            result[k : k + 2] = [(outer * inner, out_inner, in_inner)]
            k = max(k - 1, 0)
        else:
            k += 1
    return result


def _pieces(source: int, first: int, target: int, loops: list[Loop]) -> Iterator[Piece]:
    """One nest of loops: neighbouring channels innermost, the two longest others as rows and pixels, the rest one by one."""
    channels = next((loop for loop in loops if loop[1] == loop[2] == 1), None)
    rest = [loop for loop in loops if loop is not channels]
    kept = sorted(sorted(rest, key=lambda loop: -loop[0])[:2], key=lambda loop: -loop[1])
    outer = [loop for loop in rest if loop not in kept]
    rows = kept[0] if len(kept) == 2 else (1, 0, 0)
    pixels = kept[-1] if kept else (1, 0, 0)
    for turn in product(*(range(count) for count, _, _ in outer)):
        begin = first + sum(k * loop[2] for k, loop in zip(turn, outer, strict=True))
        end = target + sum(k * loop[1] for k, loop in zip(turn, outer, strict=True))
        yield Piece(
            source, rows[0], pixels[0], channels[0] if channels else 1,
            *_split(begin), *_split(rows[2]), *_split(pixels[2]), *_split(end), *_split(rows[1]), *_split(pixels[1]),
        )  # fmt: skip


def _split(position: int) -> tuple[int, int]:
    """(pixels, channels) of a position or step; the channels of a step may be negative."""
    pixels = (position + _PIXEL // 2) // _PIXEL
    return pixels, position - pixels * _PIXEL
