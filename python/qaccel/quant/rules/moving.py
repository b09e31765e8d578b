"""Integers as the new function has them, and the calls that copy and move them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from ...dialect import operators
from ...dialect.operators import Clamp, Quantization
from ...dialect.pieces import MOST_PIECES, Piece, flattened, pieces_of, whole_bytes
from .layout import Layout
from .weights import NotQuantizable


@dataclass(frozen=True)
class Held:
    """A tensor of the source function that the new function has as integers.

    ``var`` is their variable, NHWC; ``q`` says what they mean. ``layout`` says at which row, pixel and channel each value
    of the source tensor is found. ``span`` is the least and the greatest real value that the tensor is expected to have.
    """

    var: relax.Var
    q: Quantization
    layout: Layout
    span: tuple[float, float]


def move(
    builder: relax.BlockBuilder, name: str, op: str, sources: Sequence[Held], codes: np.ndarray, q: Quantization, clamp: Clamp,
    fills: Sequence[int] = (),
) -> relax.Call:  # fmt: skip
    """A call of ``qaccel.move``.

    ``codes`` int64 [N, H, W, C]: which value each output is, counted through all sources' values in NHWC order, or
    -1 - k for ``fills[k]``. Raises NotQuantizable where it takes too many pieces or mixes samples.
    """
    sizes = [int(np.prod(held.layout.nhwc)) for held in sources]
    bases = np.cumsum([0, *sizes])
    batch = codes.shape[0]
    if any(held.layout.nhwc[0] != batch for held in sources):
        raise NotQuantizable("it moves values between samples of a batch")
    source = np.searchsorted(bases[1:], codes, side="right")
    source = np.where(codes < 0, len(sources) - 1 - codes, source)
    sample = np.array([*(size // batch for size in sizes), *(0 for _ in fills)], np.int64)[source]
    place = codes - np.array([*bases[:-1], *(-1 - k for k in range(len(fills)))], np.int64)[source]
    first = place[:1]
    if not np.array_equal(place, first + np.arange(batch).reshape(-1, 1, 1, 1) * sample):
        raise NotQuantizable("it moves values between samples of a batch")
    depth = np.array([*(held.layout.nhwc[3] for held in sources), *(1 for _ in fills)], np.int64)[source[0]]
    if ((first < 0) | (first >= sample[:1]))[source[:1] < len(sources)].any():
        raise NotQuantizable("it moves values between samples of a batch")
    filled = source[0] >= len(sources)
    channel = np.where(filled, np.arange(codes.shape[3]), first[0] % depth)
    pieces = pieces_of(source[0], np.where(filled, 0, first[0] // depth), channel)
    if pieces is None:
        raise NotQuantizable(f"its values move in more than {MOST_PIECES} strided pieces")
    return pieced(builder, name, op, sources, pieces, codes.shape, q, clamp, fills)


def pieced(
    builder: relax.BlockBuilder, name: str, op: str, sources: Sequence[Held], pieces: Sequence[Piece], shape: Sequence[int],
    q: Quantization, clamp: Clamp, fills: Sequence[int] = (),
) -> relax.Call:  # fmt: skip
    """A call of ``qaccel.move`` from its pieces; ``shape`` NHWC. 4-bit values that share bytes move as 8-bit ones."""
    bits = {held.q.bits for held in sources}
    if min(bits | {q.bits}) == 4 and not all(
        whole_bytes(p, min(bits), q.bits, shape[3]) for p in pieces
    ):  # fmt: skip
        return _pieced_wide(builder, name, op, sources, pieces, shape, q, clamp, fills)
    attrs = operators.MoveAttrs(
        name, op, q, clamp, tuple(shape), tuple(held.q for held in sources), tuple(fills), flattened(pieces)
    )
    try:
        attrs.multipliers()
    except ValueError as error:
        raise NotQuantizable(f"requantization {error}") from None
    return attrs.call(*(held.var for held in sources))


def _pieced_wide(
    builder: relax.BlockBuilder, name: str, op: str, sources: Sequence[Held], pieces: Sequence[Piece], shape: Sequence[int],
    q: Quantization, clamp: Clamp, fills: Sequence[int],
) -> relax.Call:  # fmt: skip
    """As ``pieced``, between copies that hold the same integers in 8 bits."""
    wide = []
    for k, held in enumerate(sources):
        same = replace(held.q, bits=max(held.q.bits, 8))
        if same != held.q:
            copy = copied(builder, f"{name}.wide{k}", held, same, Clamp.whole(held.q.bits))
            held = replace(held, var=copy, q=same)
        wide.append(held)
    if q.bits > 4:
        return pieced(builder, name, op, wide, pieces, shape, q, clamp, fills)
    result = replace(q, bits=8)
    moved = builder.emit(pieced(builder, f"{name}.moved", op, wide, pieces, shape, result, clamp, fills))
    return operators.RequantizeAttrs(name, op, q, clamp, result).call(moved)


def copied(builder: relax.BlockBuilder, name: str, held: Held, wanted: Quantization, clamp: Clamp) -> relax.Var:
    """A copy of the integers under another quantization."""
    attrs = operators.RequantizeAttrs(name, operators.COPY, wanted, clamp, held.q)
    return builder.emit(attrs.call(held.var))
