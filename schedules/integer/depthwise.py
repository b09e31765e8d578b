"""Depthwise convolutions in integers: taps of one column as the groups that a multiply-accumulate instruction adds up.

A vector holds channels. The rows of a column are interleaved once and serve every output pixel that the column is a tap of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ...dialect.operators import ConvAttrs, carrier
from ..host import STACK_BYTES
from ..kernels import IntegerKernel, PlannedKernel
from . import loops
from .conv import multiplied
from .pack import Mac, mac_of, taken
from .plan import described
from .requantize import Output, Rescale, finished, rounded
from .vectors import Expr, Vectors, const, grouped_order, interleaved, load, narrowed, of

_FINISH_WORK = 50  # instructions that requantize a pixel's vectors
_TASKS = 32  # as many at least, if there are so many rows
_TASK_BYTES = 24 << 10  # of a task's input
_MOST_BYTES = 256 << 10  # of a task's input, of all plans
_MOST_TAPS = 256  # whose sum of products of 16 by 8 bits stays within 32


def is_depthwise(attrs: ConvAttrs, shape: tuple[int, ...], weight: np.ndarray) -> bool:
    """Whether `depthwise` takes it: one output channel per input channel, and not too many taps."""
    taps = int(np.prod(weight.shape[1:3]))
    bound = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1).max() * max(255, attrs.source.reach)
    return (
        attrs.groups == shape[3] == len(weight)
        and taps <= _MOST_TAPS
        and (attrs.weight_bits == attrs.source.bits == 16 or int(bound) < 1 << 31)
    )


_Block = tuple[Vectors, int, int]


@dataclass(frozen=True)
class RowsPlan:
    """``pixels``: of a register tile, at most; 0 by rule, for each width of vectors. ``rows``: output rows of a task."""

    pixels: int
    rows: int


@dataclass(frozen=True, eq=False)
class _Depthwise:
    """A depthwise convolution of an input [N, H, W, C]; the statements of its kernel.

    ``rows``, ``pixels``: as in `RowsPlan`. ``planes``: factors of the parts that weights are split into. ``real``: whether sums end
    in float64.
    """

    isa: Vectors
    attrs: ConvAttrs
    mac: Mac
    shape: tuple[int, ...]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    rows: int
    planes: tuple[int, ...]
    real: bool
    fused: bool
    limited: bool
    pixels: int = 0

    @property
    def groups(self) -> int:
        """Groups of rows that one instruction adds up."""
        return -(-self.kernel[0] // self.mac.depth)

    @property
    def per_channel(self) -> int:
        """Packed weights of a channel and plane."""
        return self.groups * self.kernel[1] * self.mac.depth

    @property
    def blocks(self) -> list[_Block]:
        """(vectors, first channel, count) of the channels' blocks: equal ones joined, the last one maybe not full."""
        found, channel, channels = [], 0, self.shape[3]
        isa = self.isa
        while channel < channels:
            size = self.mac.depth * isa.lanes
            if channels - channel >= size:
                count = (channels - channel) // size * size
                found.append((isa, channel, count))
                channel += count
            elif isa.vector_bytes > 16 and (isa.x86 or self.mac.kind == "words1"):
                isa = narrowed(isa, isa.vector_bytes // 2)
            else:
                found.append((isa, channel, channels - channel))
                break
        return found

    @property
    def line_rows(self) -> int:
        """Input rows of a task."""
        return (self.rows - 1) * self.attrs.strides[0] + (self.kernel[0] - 1) * self.attrs.dilation[0] + 1

    def pitch(self, size: int) -> int:
        """Elements of a padded row of ``size`` channels."""
        _, left, _, right = self.attrs.padding
        return (self.shape[2] + left + right) * size

    def order(self) -> np.ndarray:
        """Channels as the vectors hold them; -1 beyond the last."""
        order: list[int] = []
        for isa, first, count in self.blocks:
            size = self.mac.depth * isa.lanes
            for begin in range(first, first + count, size):
                order += [begin + k if begin + k < self.shape[3] else -1 for k in grouped_order(isa, self.mac.depth)]
        return np.array(order)

    def __call__(self, source: Any, weight: Any, correction: Any, scales: Any, *rest: Any) -> None:
        tables = (weight, correction, scales, rest[0] if self.limited else None, rest[-1])
        strips = self.shape[0] * self.out_size[0] // self.rows
        work = self.shape[0] * self.out_size[0] * self.out_size[1] * self.shape[3] // self.isa.lanes
        parallel = work * (self.per_channel // self.mac.depth + 10) // 2 >= loops.SERIAL_CYCLES
        numbers = [-(-count // (self.mac.depth * isa.lanes)) for isa, _, count in self.blocks]
        with loops.loop(strips * sum(numbers), parallel) as task:
            strip, block = tirx.floordiv(task, sum(numbers)), tirx.floormod(task, sum(numbers))
            self.chosen(source, tables, T.Bind(strip), T.Bind(block), list(zip(self.blocks, numbers, strict=True)))

    def chosen(
        self, source: Any, tables: tuple[Any, ...], strip: Expr, block: Expr, left: list[tuple[_Block, int]]
    ) -> None:
        """The code for the block's kind: ``left`` holds the kinds that it may be of, with how many of each there are."""
        (kind, number), others = left[0], left[1:]
        if not others:
            self.block(kind, source, tables, strip, block)
            return
        with T.If(block < number):
            with T.Then():
                self.block(kind, source, tables, strip, block)
            with T.Else():
                self.chosen(source, tables, strip, block - number, others)

    def block(self, kind: _Block, source: Any, tables: tuple[Any, ...], strip: Expr, block: Expr) -> None:
        """A strip of rows of one block of channels: its input is padded, with its channels side by side, and then used."""
        isa, first, count = kind
        size = self.mac.depth * isa.lanes
        real, pitch = min(count, size), self.pitch(size)
        channel = T.Bind(first + block * size)
        scratch = T.alloc_buffer((max(self.line_rows * pitch, STACK_BYTES),), self.mac.dtype)
        strips, channels = self.out_size[0] // self.rows, self.shape[3]
        top, left, bottom, right = self.attrs.padding
        image, number = tirx.floordiv(strip, strips), tirx.floormod(strip, strips)
        with loops.loop(self.line_rows) as r:
            row = T.Bind(number * (self.rows * self.attrs.strides[0]) - top + r)
            line = loops.Line(self.shape[1], self.shape[2], channels, size, real, left, right, top > 0 or bottom > 0)
            loops.padded_row(
                source, image, row, channel, scratch, r * pitch, line, self.mac.base, self.attrs.source.zero_point, isa
            )
        with loops.loop(self.rows) as y:
            start = T.Bind(y * (self.attrs.strides[0] * pitch))
            place = T.Bind((strip * self.rows + y) * (self.out_size[1] * channels) + channel)
            self.line(isa, scratch, tables, channel, start, place, real)

    def line(
        self, isa: Vectors, scratch: Any, tables: tuple[Any, ...], channel: Expr, line: Expr, place: Expr, count: int
    ) -> None:
        """One row of outputs of one block of channels, of which ``count`` are real."""
        width, size = self.out_size[1], self.mac.depth * isa.lanes
        tile = self.tile(isa)
        with loops.loop(-(-width // tile)) as number:
            first = T.Bind(tirx.min(number * tile, width - tile))
            base = T.Bind(line + first * (self.attrs.strides[1] * size))
            results = self.sums(isa, scratch, tables, channel, base, tile)
            self.finish(isa, tables, results, channel, place + first * self.shape[3], count)

    def tile(self, isa: Vectors) -> int:
        """Output pixels of a tile: as many as registers hold, with few columns read and pixels done twice."""
        width, depth = self.out_size[1], self.mac.depth
        stride, dilation = self.attrs.strides[1], self.attrs.dilation[1]
        most = max(1, (isa.registers - depth * min(self.groups, 2)) // depth - 1)
        if self.pixels:
            return min(self.pixels, most, width)

        def work(tile: int) -> int:
            columns = len({x * stride + k * dilation for x in range(tile) for k in range(self.kernel[1])})
            each = depth * self.kernel[1] * self.groups + _FINISH_WORK
            return -(-width // tile) * (2 * depth * self.groups * columns + tile * each)

        return min(range(1, min(width, most) + 1), key=work)

    def sums(
        self, isa: Vectors, scratch: Any, tables: tuple[Any, ...], channel: Expr, base: Expr, tile: int
    ) -> list[list[Any]]:
        """Accumulators, [pixel][vector]: int32, or float64 if ``real``."""
        lanes, depth = isa.lanes, self.mac.depth
        weight, correction = tables[0], tables[1]
        dtype = "float64" if self.real else "int32"
        held = [[loops.register(lanes, dtype) for _ in range(depth)] for _ in range(tile)]
        for v in range(depth):
            value = T.Bind(load(correction, channel + v * lanes, lanes))
            for line in held:
                loops.write(line[v], 0, value, lanes)
        if not self.real:
            self.columns(isa, scratch, weight, channel * self.per_channel, base, held)
            return held
        for p, factor in enumerate(self.planes):
            parts = [[loops.register(lanes) for _ in range(depth)] for _ in range(tile)]
            for part in (part for line in parts for part in line):
                loops.write(part, 0, const(0, of("int32", lanes)), lanes)
            plane = p * self.per_channel * len(self.order())
            self.columns(isa, scratch, weight, plane + channel * self.per_channel, base, parts)
            real = of("float64", lanes)
            for line, more in zip(held, parts, strict=True):
                for total, part in zip(line, more, strict=True):
                    value = loops.read(part, lanes).astype(real) * const(float(factor), real)
                    loops.write(total, 0, loops.read(total, lanes) + value, lanes)
        return held

    def columns(
        self, isa: Vectors, scratch: Any, weight: Any, begin: Expr, base: Expr, sums: Sequence[Sequence[Any]]
    ) -> None:
        """Every column that a tile needs, interleaved once and multiplied for each pixel."""
        stride, dilation = self.attrs.strides[1], self.attrs.dilation[1]
        uses: dict[int, list[tuple[int, int]]] = {}
        for x in range(len(sums)):
            for k in range(self.kernel[1]):
                uses.setdefault(x * stride + k * dilation, []).append((x, k))
        size, lanes, depth = self.mac.depth * isa.lanes, isa.lanes, self.mac.depth
        wide = {"bytes4": "int8", "signed4": "int8", "words2": "int16", "words1": "int32"}[self.mac.kind]
        for group in range(self.groups):
            factors = [
                [
                    load(weight, begin + ((group * self.kernel[1] + k) * depth + v) * size, size).astype(of(wide, size))
                    for v in range(depth)
                ]
                for k in range(self.kernel[1])
            ]
            for column, pairs in sorted(uses.items()):
                rows = []
                for r in range(depth):
                    row = group * depth + r
                    if row < self.kernel[0]:
                        at = base + (row * self.attrs.dilation[0] * self.pitch(size) + column * size)
                        rows.append(T.Bind(load(scratch, at, size).astype(of(wide, size))))
                    else:
                        rows.append(const(0, of(wide, size)))
                for v, value in enumerate(interleaved(rows)):
                    value = T.Bind(value)
                    for x, k in pairs:
                        total = loops.read(sums[x][v], lanes)
                        loops.write(sums[x][v], 0, multiplied(isa, self.mac.kind, total, value, factors[k][v]), lanes)

    def finish(
        self, isa: Vectors, tables: tuple[Any, ...], results: list[list[Any]], channel: Expr, place: Expr, count: int
    ) -> None:
        """Requantized, packed and stored."""
        lanes, depth = isa.lanes, self.mac.depth
        _, _, scales, limits, output = tables
        at = [channel + v * lanes for v in range(depth)]
        factors = [T.Bind(load(scales, index, lanes)) for index in at]
        bounds = [None if limits is None else load(limits, index, lanes) for index in at]
        for x, line in enumerate(results):
            values = [
                T.Bind(rounded(isa, loops.read(line[v], lanes), factors[v], self.fused, bounds[v]))
                for v in range(depth)
            ]
            whole = T.Bind(finished(isa, values, Output.of(self.attrs)))
            loops.store_first(output, place + x * self.shape[3], whole, depth * lanes, count)


def depthwise(
    isa: Vectors, attrs: ConvAttrs, shape: tuple[int, ...], weight: np.ndarray, bias: np.ndarray,
    weight_scale: np.ndarray,
) -> PlannedKernel:  # fmt: skip
    """The kernel of a depthwise ``qaccel.conv2d``, as `conv.conv2d`."""
    weight, bias = weight.astype(np.int64), bias.astype(np.int64)
    kernel = weight.shape[1:3]
    out_size = attrs.window(kernel).output(*shape[1:3])
    mac = mac_of(isa, attrs)
    split = attrs.weight_bits == attrs.source.bits == 16
    sizes = np.abs(weight).reshape(len(weight), -1).sum(axis=1)
    bound = sizes * attrs.source.reach + np.abs(bias)
    real = split or int(bound.max()) >= 1 << 31
    rescale = Rescale.of(isa, *attrs.multipliers(weight_scale), bound, wide=real)
    planes = (256, 1) if split else (1,)
    made = _Depthwise(
        isa, attrs, mac, shape, out_size, kernel, 1, planes, real, rescale.fused, rescale.limits is not None
    )  # fmt: skip
    correction = bias + (mac.base - attrs.source.zero_point) * weight.reshape(len(weight), -1).sum(axis=1)
    if real:
        correction = correction.astype(np.float64)
    else:
        correction = (correction.astype(np.uint64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    order = made.order()
    constants = [_packed_weight(made, weight, order), taken(correction, order), taken(rescale.scales, order)]
    if rescale.limits is not None:
        constants.append(taken(rescale.limits, order))
    out_shape = (shape[0], *out_size, shape[3])

    def build(plan: RowsPlan) -> IntegerKernel:
        inputs, body = [(shape, carrier(attrs.source.bits))], replace(made, rows=plan.rows, pixels=plan.pixels)
        return loops.function(inputs, constants, (out_shape, carrier(attrs.result.bits)), body), constants

    form = [real, len(planes), rescale.fused, rescale.limits is not None]
    loop_sizes = [*shape[:3], *out_shape[1:], int(np.prod(kernel))]
    return PlannedKernel(
        described("depthwise", attrs, shape, weight.shape, form), _plans(made), loop_sizes, build
    )  # fmt: skip


def _plans(made: _Depthwise) -> list[RowsPlan]:
    """All plans, the rule's first."""
    height, pitch_bytes = made.out_size[0], _pitch_bytes(made)
    rows = [r for r in range(1, height + 1) if height % r == 0]
    rows = [r for r in rows if replace(made, rows=r).line_rows * pitch_bytes <= _MOST_BYTES]
    widest, *narrower = (isa for isa, _, _ in made.blocks)
    pixels = range(1, replace(made, pixels=made.out_size[1]).tile(widest) + 1)
    own, ruled = RowsPlan(0, _rows(made)), made.tile(widest)
    same = {(ruled, own.rows)} if not narrower else set()  # what the rule gives, said by number
    return [own, *(RowsPlan(p, r) for p in pixels for r in rows if (p, r) not in same)]


def _pitch_bytes(made: _Depthwise) -> int:
    return made.pitch(made.mac.depth * made.isa.lanes) * np.dtype(made.mac.dtype).itemsize


def _rows(made: _Depthwise) -> int:
    """As many rows to a task as the first cache holds the input of, and as leave enough tasks."""
    height, size = made.out_size[0], made.mac.depth * made.isa.lanes
    blocks, pitch_bytes = made.shape[0] * -(-made.shape[3] // size), _pitch_bytes(made)
    found = [r for r in range(1, height + 1) if height % r == 0 and blocks * height // r >= _TASKS]
    fit = [r for r in found if replace(made, rows=r).line_rows * pitch_bytes <= _TASK_BYTES]
    return max(fit, default=1)


def _packed_weight(made: _Depthwise, weight: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Flat: [plane][block][group of rows][column][vector][lane][row of the group]."""
    kh, kw = made.kernel
    taps = np.zeros((len(order), made.groups * made.mac.depth, kw), np.int64)
    taps[:, :kh] = taken(weight[..., 0], order)
    parts = [taps]
    if len(made.planes) == 2:
        low = ((taps + 128) & 255) - 128
        parts = [(taps - low) >> 8, low]
    pieces = []
    for part in parts:
        for isa, first, count in made.blocks:
            size = made.mac.depth * isa.lanes
            for begin in range(first, first + count, size):
                laid = part[begin : begin + size].reshape(size, made.groups, made.mac.depth, kw)
                pieces.append(laid.transpose(1, 3, 0, 2).reshape(-1))
    return np.concatenate(pieces).astype(np.int8 if made.attrs.weight_bits <= 8 else np.int16)
