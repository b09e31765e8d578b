"""Data movement in integers: each affine piece is a nest of loops over runs of neighbouring channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx

from ...dialect.operators import MoveAttrs, carrier
from ...dialect.pieces import FIELDS, Piece, unflattened
from ..kernels import IntegerKernel
from . import loops
from .elementwise import rescaled
from .requantize import Output
from .vectors import Vectors, load

MOST_PIECES = 64  # one nest of loops each: more are too much code


def move(isa: Vectors, attrs: MoveAttrs, *shapes: tuple[int, ...]) -> IntegerKernel | None:
    """``qaccel.move`` of operands of ``shapes``; None where it has more than MOST_PIECES pieces."""
    if len(attrs.pieces) > FIELDS * MOST_PIECES:
        return None
    output = Output.of(attrs)
    values = [
        rescaled(isa, source, multiplier, output)
        for source, multiplier in zip(attrs.sources, attrs.multipliers(), strict=True)
    ]
    lanes = isa.vector_bytes // np.dtype(carrier(attrs.result.bits)).itemsize
    batch, height, width, channels = attrs.shape

    def copied(piece: Piece, sources: tuple[Any, ...], out: Any) -> None:
        parallel = batch * piece.rows > 1 and batch * piece.rows * piece.pixels * piece.channels >= loops.SERIAL_CYCLES
        with loops.loop(batch * piece.rows, parallel) as line:
            n, r = tirx.floordiv(line, piece.rows), tirx.floormod(line, piece.rows)
            with loops.loop(piece.pixels) as p:
                there = piece.out_pixel + r * piece.out_row_pixels + p * piece.out_step_pixels
                at = (n * (height * width) + there) * channels
                at = at + piece.out_channel + r * piece.out_row_channels + p * piece.out_step_channels
                if piece.source >= len(sources):
                    loops.fill(out, at, piece.channels, attrs.fills[piece.source - len(sources)], isa)
                    return
                _, in_height, in_width, in_channels = shapes[piece.source]
                here = piece.in_pixel + r * piece.in_row_pixels + p * piece.in_step_pixels
                begin = (n * (in_height * in_width) + here) * in_channels
                begin = begin + piece.in_channel + r * piece.in_row_channels + p * piece.in_step_channels
                source, value = sources[piece.source], values[piece.source]
                loops.each(
                    piece.channels, lanes,
                    lambda k, size: loops.write(out, at + k, value(load(source, begin + k, size)), size),
                )  # fmt: skip

    def body(*buffers: Any) -> None:
        for piece in unflattened(attrs.pieces):
            copied(piece, buffers[:-1], buffers[-1])

    inputs = [(shape, carrier(source.bits)) for shape, source in zip(shapes, attrs.sources, strict=True)]
    return loops.function(inputs, [], (attrs.shape, carrier(attrs.result.bits)), body), []
