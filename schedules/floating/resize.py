"""Functions that resize planes: linear by tables of neighbours and weights, nearest by repeating or taking.

They are made with their schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ..host import Host
from ..integer.loops import each, function, loop, write
from ..integer.vectors import Expr, load, shuffle
from .loops import PARALLEL_WORK

_FLOAT = "float32"
_WORK = 12  # of an output, in the multiply-adds of a register tile, as PARALLEL_WORK is


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Along one axis: each output lies between the inputs ``low`` and ``high`` (int32), ``weight`` (float32) of the way up."""

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray

    @property
    def tables(self) -> list[np.ndarray]:
        """As constants of a function."""
        return [self.low, self.high, self.weight]


def neighbours(length: int, count: int, coordinates: str) -> Neighbours | None:
    """Those of ``count`` outputs over ``length`` inputs, in float32 as ONNX Runtime has them; None for other ``coordinates``."""
    out, scale, half = np.arange(count, dtype=np.float32), np.float32(count) / np.float32(length), np.float32(0.5)
    if coordinates == "align_corners":
        place = out * np.float32(length - 1) / np.float32(count - 1) if count > 1 else np.zeros_like(out)
    elif coordinates == "asymmetric":
        place = out / scale
    elif coordinates == "half_pixel" or coordinates == "pytorch_half_pixel" and count > 1:
        place = (out + half) / scale - half
    elif coordinates == "pytorch_half_pixel":
        place = np.zeros_like(out)
    else:
        return None
    place = np.clip(place, 0, length - 1)
    low = np.minimum(np.floor(place), length - 1).astype(np.int32)
    return Neighbours(low, np.minimum(low + 1, length - 1).astype(np.int32), (place - low).astype(np.float32))


def linear(
    shape: Sequence[int], layout: str, rows: Neighbours, columns: Neighbours, host: Host
) -> tuple[tirx.PrimFunc, list[np.ndarray]]:
    """The linear resize of a tensor [N, C, H, W] or [N, H, W, C] (``layout``), and its constants."""
    make = _linear_planes if layout == "NCHW" else _linear_pixels
    return make(tuple(shape), rows, columns, host)


def _between(low: Expr, high: Expr, weight: Expr, lanes: int) -> Expr:
    wide = tirx.Broadcast(weight, lanes) if lanes > 1 and "x" not in str(weight.ty.dtype) else weight
    return low + (high - low) * wide


def _linear_planes(
    shape: tuple[int, ...], rows: Neighbours, columns: Neighbours, host: Host
) -> tuple[tirx.PrimFunc, list[np.ndarray]]:
    """First every row of the input is made as wide as the output, value by value; then rows are mixed in vectors."""
    planes, height, width = shape[0] * shape[1], shape[2], shape[3]
    tall, wide = len(rows.low), len(columns.low)
    parallel = planes * tall * wide * _WORK >= PARALLEL_WORK

    def body(
        x: Expr, low_y: Expr, high_y: Expr, part_y: Expr, low_x: Expr, high_x: Expr, part_x: Expr, out: Expr
    ) -> None:
        widened = T.alloc_buffer((planes * height * wide,), _FLOAT)
        with loop(planes * height, parallel) as line, loop(wide) as k:
            first = x[line * width + low_x[k]]
            write(widened, line * wide + k, _between(first, x[line * width + high_x[k]], part_x[k], 1), 1)
        with loop(planes * tall, parallel) as line:
            plane, y = tirx.floordiv(line, tall), tirx.floormod(line, tall)
            above = T.Bind((plane * height + low_y[y]) * wide)
            below = T.Bind((plane * height + high_y[y]) * wide)
            part = T.Bind(part_y[y])

            def mixed(k: Expr, lanes: int) -> None:
                value = _between(load(widened, above + k, lanes), load(widened, below + k, lanes), part, lanes)
                write(out, line * wide + k, value, lanes)

            each(wide, host.lanes, mixed)

    constants = [*rows.tables, *columns.tables]
    return function([(shape, _FLOAT)], constants, ((*shape[:2], tall, wide), _FLOAT), body), constants


def _linear_pixels(
    shape: tuple[int, ...], rows: Neighbours, columns: Neighbours, host: Host
) -> tuple[tirx.PrimFunc, list[np.ndarray]]:
    """Vectors of channels, of which all have the same neighbours and weights."""
    batch, height, width, channels = shape
    tall, wide = len(rows.low), len(columns.low)

    def body(
        x: Expr, low_y: Expr, high_y: Expr, part_y: Expr, low_x: Expr, high_x: Expr, part_x: Expr, out: Expr
    ) -> None:
        with loop(batch * tall, batch * tall * wide * channels * _WORK >= PARALLEL_WORK) as line:
            n, y = tirx.floordiv(line, tall), tirx.floormod(line, tall)
            above = T.Bind((n * height + low_y[y]) * width)
            below = T.Bind((n * height + high_y[y]) * width)
            down = T.Bind(part_y[y])
            with loop(wide) as k:
                left, right, across = T.Bind(low_x[k]), T.Bind(high_x[k]), T.Bind(part_x[k])

                def mixed(c: Expr, lanes: int) -> None:
                    first, second = (
                        _between(
                            load(x, (row + left) * channels + c, lanes), load(x, (row + right) * channels + c, lanes),
                            across, lanes,
                        )
                        for row in (above, below)
                    )  # fmt: skip
                    write(out, (line * wide + k) * channels + c, _between(first, second, down, lanes), lanes)

                each(channels, host.lanes, mixed)

    constants = [*rows.tables, *columns.tables]
    return function([(shape, _FLOAT)], constants, ((batch, tall, wide, channels), _FLOAT), body), constants


def repeated(shape: Sequence[int], rows: int, columns: int, host: Host) -> tirx.PrimFunc:
    """[..., H, W] -> [..., H * rows, W * columns]: every value ``columns`` times, every row ``rows`` times."""
    *outer, height, width = shape
    lines, wide = math.prod(outer) * height, width * columns

    def body(x: Expr, out: Expr) -> None:
        with loop(lines, lines * rows * wide * _WORK >= PARALLEL_WORK) as line:

            def spread(k: Expr, lanes: int) -> None:
                value = T.Bind(load(x, line * width + k, lanes))
                if columns > 1:  # TVM wants no more lanes out of a shuffle than go into it
                    value = T.Bind(shuffle([value] * columns, [j // columns for j in range(lanes * columns)]))
                for row in range(rows):
                    write(out, (line * rows + row) * wide + k * columns, value, lanes * columns)

            each(width, host.lanes, spread)

    return function([(tuple(shape), _FLOAT)], [], ((*outer, height * rows, wide), _FLOAT), body)


def taken(shape: Sequence[int], axis: int, index: np.ndarray, host: Host) -> tuple[tirx.PrimFunc, list[np.ndarray]]:
    """What lies at the places ``index`` [K] along an axis of a tensor, in order, and the function's constants."""
    outer, length, run = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    count = len(index)
    constants = [np.where(index < 0, index + length, index).astype(np.int32)]

    def body(x: Expr, places: Expr, out: Expr) -> None:
        much = outer * count * run * _WORK >= PARALLEL_WORK
        with loop(outer, much and outer > 1) as n, loop(count, much and outer == 1) as k:
            begin, there = T.Bind((n * length + places[k]) * run), T.Bind((n * count + k) * run)
            each(run, host.lanes, lambda c, lanes: write(out, there + c, load(x, begin + c, lanes), lanes))

    out_shape = (*shape[:axis], count, *shape[axis + 1 :])
    return function([(tuple(shape), _FLOAT)], constants, (out_shape, _FLOAT), body), constants
