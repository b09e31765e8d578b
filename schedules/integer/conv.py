"""Convolutions in integers: products of a tile of pixels and a block of output channels in registers.

A task pads the input rows that its output rows need into a buffer of its own. Every tap of a window then is an address there, so
that 1x1, kxk, strided and dilated windows are one matrix product, whose reduction runs over ``runs`` of neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ...dialect.operators import ConvAttrs, carrier
from ..host import STACK_BYTES
from ..kernels import IntegerKernel, PlannedKernel
from . import loops
from .pack import channel_order, taken, vector_sizes
from .plan import ConvPlan, Dense, Sums, conv_plans, described, packed_weight, planned, sums_of, untiled
from .requantize import Output, Rescale, finished, rounded
from .vectors import Expr, Vectors, const, intrinsic, load, of, pairs_added

_FEW_TASKS = 16  # fewer are divided by output channels, until they are so many


def conv2d(
    isa: Vectors, attrs: ConvAttrs, shape: tuple[int, ...], weight: np.ndarray, bias: np.ndarray,
    weight_scale: np.ndarray,
) -> PlannedKernel:  # fmt: skip
    """The kernel of a ``qaccel.conv2d`` on an input of ``shape`` NHWC. Each plan makes the function, and the constants that it
    takes after the input."""
    height, width = attrs.window(weight.shape[1:3]).output(*shape[1:3])
    out_shape, in_shape = (shape[0], height, width, len(weight)), shape
    if weight.shape[1:3] == shape[1:3] and not any(attrs.padding) and attrs.groups == 1 and attrs.dilation == (1, 1):
        # The whole plane: one pixel of many channels.
        in_shape = (shape[0], 1, 1, shape[1] * shape[2] * shape[3])
        weight = weight.reshape(len(weight), 1, 1, -1)
    weight, bias = weight.astype(np.int64), bias.astype(np.int64)
    bound = np.abs(weight).reshape(len(weight), -1).sum(axis=1) * attrs.source.reach + np.abs(bias)
    narrow = untiled(isa, attrs, in_shape, weight, (height, width), int(bound.max()))
    sums = sums_of(attrs, narrow.mac, weight, bound)
    rescale = Rescale.of(isa, *attrs.multipliers(weight_scale), bound, narrow.unit, sums.segment is not None)

    def build(plan: ConvPlan) -> IntegerKernel:
        constants, kernel = _kernel(planned(narrow, plan), sums, rescale, weight, bias)
        inputs = [(shape, carrier(attrs.source.bits))]
        return loops.function(inputs, constants, (out_shape, carrier(attrs.result.bits)), kernel), constants

    form = [narrow.halves, sums.segment, len(sums.planes), rescale.fused, rescale.limits is not None]
    sizes = [*in_shape[:3], *out_shape[1:], math.prod(weight.shape[1:])]
    return PlannedKernel(described("conv2d", attrs, in_shape, weight.shape, form), conv_plans(narrow), sizes, build)


def _kernel(
    dense: Dense, sums: Sums, rescale: Rescale, weight: np.ndarray, bias: np.ndarray
) -> tuple[list[np.ndarray], Callable[..., None]]:
    attrs, mac, isa = dense.attrs, dense.mac, dense.isa
    correction = bias + (mac.base - attrs.source.zero_point) * weight.reshape(len(weight), -1).sum(axis=1)
    correction *= dense.unit
    order = channel_order(isa, dense.channels, dense.per_block, attrs.result.bits)
    if sums.segment is None:
        correction = (correction.astype(np.uint64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    else:
        correction = correction.astype(np.float64)
    constants = [
        packed_weight(dense, weight, sums.planes, order),
        taken(correction, order),
        taken(rescale.scales, order),
    ]
    if rescale.limits is not None:
        constants.append(taken(rescale.limits, order))
    if any(dense.firsts):
        constants.append(np.array(dense.firsts, np.int32))
    body = _Body(dense, sums, rescale.fused, rescale.limits is not None)
    return constants, body


@dataclass(frozen=True, eq=False)
class _Body:
    """The function's statements. Called with flat buffers: input, weight, correction, scales, [limits], [firsts], output."""

    dense: Dense
    sums: Sums
    fused: bool
    limited: bool

    def __call__(self, source: Any, weight: Any, correction: Any, scales: Any, *rest: Any) -> None:
        dense, extra = self.dense, list(rest[:-1])
        limits = extra.pop(0) if self.limited else None
        firsts = extra.pop(0) if extra else None
        tables = _Tables(weight, correction, scales, limits, firsts, rest[-1])
        blocks = len(dense.firsts)
        work = dense.channels * dense.steps * dense.runs[0] * dense.runs[1] // dense.isa.lanes + 2 * dense.channels
        parallel = dense.tasks * dense.tiles * dense.tile * work // 2 >= loops.SERIAL_CYCLES
        enough = (n for n in range(1, blocks) if blocks % n == 0 and n * dense.tasks >= _FEW_TASKS)
        divided = next(enough, blocks) if parallel else 1
        with loops.loop(dense.tasks * divided, parallel) as turn:
            task = turn if divided == 1 else tirx.floordiv(turn, divided)
            window = self.prepared(source, task)
            if divided == 1:
                self.all_blocks(window, tables)
                return
            own = blocks // divided
            with loops.loop(own) as number:
                self.one_block(window, tables, T.Bind(tirx.floormod(turn, divided) * own + number))

    def prepared(self, source: Any, task: Expr) -> _TaskInput:
        """The task's input as the instruction takes it."""
        dense = self.dense
        _, height, width, channels = dense.shape
        base, zero, start = dense.mac.base, dense.attrs.source.zero_point, tirx.const(0, "int32")
        slack = max(loops.SLACK_BYTES + dense.width, STACK_BYTES)
        if dense.flat:
            pixels = dense.tiles * dense.tile
            first = T.Bind(tirx.min(task * pixels, dense.pixels - pixels))
            as_it_is = str(source.dtype) == dense.mac.dtype and base == 0
            if as_it_is and dense.steps * dense.mac.depth == channels and dense.joined:
                return _TaskInput(source, T.Bind(first * channels), first)
            scratch = T.alloc_buffer((pixels * channels + slack,), dense.mac.dtype)
            loops.copy(source, first * channels, scratch, start, pixels * channels, base, dense.isa)
            return _TaskInput(scratch, start, first)
        scratch = T.alloc_buffer((dense.in_rows * dense.pitch + slack,), dense.mac.dtype)
        strips = dense.out_size[0] // dense.rows
        top, left, bottom, right = dense.attrs.padding
        image, strip = tirx.floordiv(task, strips), tirx.floormod(task, strips)
        if dense.gathered:
            (down, across), (rows, columns) = dense.attrs.strides, (dense.rows, dense.out_size[1])
            with loops.loop(rows) as r, loops.loop(columns) as x:
                y = image * height + (strip * rows + r) * down
                place = (r * columns + x) * channels
                loops.copy(source, (y * width + x * across) * channels, scratch, place, channels, base, dense.isa)
            return _TaskInput(scratch, start, task * dense.pixels)
        with loops.loop(dense.in_rows) as r:
            row = T.Bind(strip * (dense.rows * dense.attrs.strides[0]) - top + r)
            line = loops.Line(height, width, channels, channels, channels, left, right, top > 0 or bottom > 0)
            loops.padded_row(source, image, row, start, scratch, r * dense.pitch, line, base, zero, dense.isa)
        return _TaskInput(scratch, start, task * dense.pixels)

    def pixels(self, window: _TaskInput, number: Expr) -> tuple[list[Expr], list[Expr]]:
        """Where each pixel of a tile begins in the window and in the output. The last tile overlaps the one before."""
        dense = self.dense
        if dense.flat:
            first = T.Bind(number * dense.tile)
            bases = [window.origin + (first + m) * dense.shape[3] for m in range(dense.tile)]
            return bases, [(window.pixel + first + m) * dense.channels for m in range(dense.tile)]
        width = dense.out_size[1]
        first = T.Bind(tirx.min(number * dense.tile, dense.pixels - dense.tile))
        bases, places = [], []
        for m in range(dense.tile):
            y = tirx.floordiv(first + m, width) if dense.rows > 1 else tirx.const(0, "int32")
            x = tirx.floormod(first + m, width) if dense.rows > 1 else first + m
            step = dense.strides[0] * dense.pitch, dense.strides[1] * dense.shape[3]
            bases.append(T.Bind(y * step[0] + x * step[1]))
            places.append((window.pixel + first + m) * dense.channels)
        return bases, places

    def all_blocks(self, window: _TaskInput, tables: _Tables) -> None:
        whole = self.dense.channels // (self.dense.per_block * self.dense.isa.lanes)
        if whole:
            with loops.loop(whole) as block:
                self.block(window, tables, block, self.dense.per_block, None)
        if whole < len(self.dense.firsts):
            self.rest(window, tables, whole)

    def one_block(self, window: _TaskInput, tables: _Tables, block: Expr) -> None:
        whole = self.dense.channels // (self.dense.per_block * self.dense.isa.lanes)
        if whole == len(self.dense.firsts):
            self.block(window, tables, block, self.dense.per_block, None)
            return
        with T.If(block < whole):
            with T.Then():
                self.block(window, tables, block, self.dense.per_block, None)
            with T.Else():
                self.rest(window, tables, whole)

    def rest(self, window: _TaskInput, tables: _Tables, whole: int) -> None:
        begin = whole * self.dense.per_block
        count = self.dense.channels - begin * self.dense.isa.lanes
        self.block(window, tables, tirx.const(whole, "int32"), self.dense.vectors - begin, count)

    def block(self, window: _TaskInput, tables: _Tables, block: Expr, size: int, count: int | None) -> None:
        """All tiles of a task for ``size`` vectors of output channels; ``count``: how many channels are real, None for all."""
        dense, lanes = self.dense, self.dense.isa.lanes
        channel = T.Bind(block * (dense.per_block * lanes))
        steps = dense.runs[0] * dense.runs[1] * dense.steps // (2 if dense.halves else 1)
        begin = T.Bind(channel * (len(self.sums.planes) * steps * dense.mac.depth))
        first = None if tables.firsts is None else T.Bind(tables.firsts[block])
        with loops.loop(dense.tiles) as number:
            bases, places = self.pixels(window, number)
            if first is not None:
                bases = [T.Bind(base + first) for base in bases]
            results = self.results(window.buffer, tables, bases, begin, channel, size)
            self.finish(tables, results, channel, count, places)

    def results(
        self, scratch: Any, tables: _Tables, bases: list[Expr], begin: Expr, channel: Expr, size: int
    ) -> list[list[Any]]:
        """Accumulators [pixel][vector] of one tile: int32, or float64 where they are added in segments."""
        dense, lanes = self.dense, self.dense.isa.lanes
        step = size * lanes * dense.mac.depth
        steps = dense.runs[0] * dense.runs[1] * dense.steps // (2 if dense.halves else 1)
        sums = [[loops.register(lanes) for _ in range(size)] for _ in bases]
        values = [T.Bind(load(tables.correction, channel + v * lanes, lanes)) for v in range(size)]
        if self.sums.segment is None:
            self.set_sums(sums, values)
            with loops.loop(dense.runs[0]) as y, loops.loop(dense.runs[1]) as x:
                self.run(scratch, tables.weight, sums, bases, begin, step, y, x, 0, dense.steps)
            return sums
        totals = [[loops.register(lanes, "float64") for _ in range(size)] for _ in bases]
        self.set_sums(totals, values)
        for p, factor in enumerate(self.sums.planes):
            self.segments(scratch, tables.weight, sums, totals, bases, begin + p * steps * step, step, factor)
        return totals

    def set_sums(self, sums: list[list[Any]], values: list[Expr]) -> None:
        for line in sums:
            for held, value in zip(line, values, strict=True):
                loops.write(held, 0, value, self.dense.isa.lanes)

    def segments(
        self, scratch: Any, weight: Any, sums: list[list[Any]], totals: list[list[Any]], bases: list[Expr], begin: Expr,
        step: int, factor: int,
    ) -> None:  # fmt: skip
        """Each run in segments that cannot overflow, added to the totals."""
        assert self.sums.segment is not None
        lanes, steps = self.dense.isa.lanes, self.dense.steps
        zero, real = const(0, of("int32", lanes)), of("float64", lanes)
        rows, columns, _ = self.dense.runs
        segment = self.sums.segment // 2 * 2 if self.dense.halves else self.sums.segment
        for first in range(0, steps, segment):
            with loops.loop(rows) as y, loops.loop(columns) as x:
                self.set_sums(sums, [zero] * len(sums[0]))
                self.run(scratch, weight, sums, bases, begin, step, y, x, first, min(segment, steps - first))
                for held, line in zip(totals, sums, strict=True):
                    for total, part in zip(held, line, strict=True):
                        value = loops.read(part, lanes).astype(real) * const(float(factor), real)
                        loops.write(total, 0, loops.read(total, lanes) + value, lanes)

    def run(
        self, scratch: Any, weight: Any, sums: list[list[Any]], bases: list[Expr], begin: Expr, step: int, y: Expr, x: Expr,
        first: int, count: int,
    ) -> None:  # fmt: skip
        """``count`` steps of run (y, x) from step ``first`` on."""
        dense, per_load = self.dense, 2 if self.dense.halves else 1
        dilation, depth = dense.attrs.dilation, dense.mac.depth
        offset = T.Bind(y * (dilation[0] * dense.pitch) + x * (dilation[1] * dense.shape[3]))
        place = T.Bind(begin + (y * dense.runs[1] + x) * (dense.steps // per_load * step))
        with loops.loop(count // per_load) as k:
            number = k + first // per_load
            loaded = self.weights(weight, place + number * step, len(sums[0]))
            for part, factors in enumerate(loaded):
                self.step(
                    scratch, sums, [base + offset + (number * per_load + part) * depth for base in bases], factors
                )

    def weights(self, weight: Any, place: Expr, size: int) -> list[list[Expr]]:
        """The vectors of one step, or of two that share their bytes."""
        lanes = self.dense.isa.lanes * self.dense.mac.depth
        wide = of(self.wide, lanes)
        whole = [T.Bind(load(weight, place + v * lanes, lanes).astype(wide)) for v in range(size)]
        if not self.dense.halves:
            return [whole]
        if self.dense.mac.kind == "bytes4":  # 16 times the value: no instruction shifts bytes
            words, mask = of("int32", lanes // 4), const(-16, wide)
            moved = [tirx.reinterpret(wide, tirx.reinterpret(words, v) << const(4, words)) for v in whole]
            return [[T.Bind(v & mask) for v in moved], [T.Bind(v & mask) for v in whole]]
        left = const(np.dtype(self.wide).itemsize * 8 - 4, wide)
        return [
            [T.Bind(tirx.shift_right(v << left, left)) for v in whole],
            [T.Bind(tirx.shift_right(v, const(4, wide))) for v in whole],
        ]

    @property
    def wide(self) -> str:
        """The dtype in which the instruction takes its operands."""
        return {"bytes4": "int8", "signed4": "int8", "words2": "int16", "words1": "int32"}[self.dense.mac.kind]

    def step(self, scratch: Any, sums: list[list[Any]], taps: list[Expr], weights: list[Expr]) -> None:
        """One instruction per accumulator."""
        isa, lanes, depth = self.dense.isa, self.dense.isa.lanes, self.dense.mac.depth
        kind = self.dense.mac.kind
        for tap, line in zip(taps, sums, strict=True):
            if kind == "words1":
                value = T.Bind(tirx.Broadcast(load(scratch, tap, 1).astype("int32"), lanes))
            else:
                word = tirx.reinterpret("int32", load(scratch, tap, depth))
                value = T.Bind(tirx.reinterpret(of(self.wide, lanes * depth), tirx.Broadcast(word, lanes)))
            for held, factor in zip(line, weights, strict=True):
                loops.write(held, 0, multiplied(isa, kind, loops.read(held, lanes), value, factor), lanes)

    def finish(
        self, tables: _Tables, results: list[list[Any]], channel: Expr, count: int | None, places: list[Expr]
    ) -> None:
        """Requantized, packed and stored."""
        isa, lanes, attrs = self.dense.isa, self.dense.isa.lanes, self.dense.attrs
        output = Output.of(attrs)
        v = 0
        for size in vector_sizes(len(results[0]), attrs.result.bits):
            at = [channel + (v + k) * lanes for k in range(size)]
            scales = [T.Bind(load(tables.scales, index, lanes)) for index in at]
            limits = [None if tables.limits is None else load(tables.limits, index, lanes) for index in at]
            for line, place in zip(results, places, strict=True):
                values = [
                    T.Bind(rounded(isa, loops.read(line[v + k], lanes), scales[k], self.fused, limits[k]))
                    for k in range(size)
                ]
                whole = T.Bind(finished(isa, values, output))
                wanted = size * lanes if count is None else count - v * lanes
                if wanted > 0:
                    loops.store_first(tables.output, place + channel + v * lanes, whole, size * lanes, wanted)
            v += size


@dataclass(frozen=True, eq=False)
class _TaskInput:
    """A task's input: a buffer, where the first pixel lies in it, and which output pixel that is."""

    buffer: Any
    origin: Expr
    pixel: Expr


@dataclass(frozen=True, eq=False)
class _Tables:
    """Flat buffers of the kernel's constants, and the output."""

    weight: Any
    correction: Any
    scales: Any
    limits: Any
    firsts: Any
    output: Any


def multiplied(isa: Vectors, kind: str, total: Expr, value: Expr, factor: Expr) -> Expr:
    """``total`` + the products of ``value`` and ``factor``, ``kind`` as in `pack.Mac`."""
    dtype = of("int32", isa.lanes)
    if kind == "bytes4":
        return intrinsic(dtype, str(isa.bytes4), total, value, factor)
    if kind == "signed4":
        return intrinsic(dtype, str(isa.signed4), total, value, factor)
    if kind == "words2":
        return pairs_added(isa, total, value, factor)
    return total + value * factor
