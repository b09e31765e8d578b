"""Loops that the integer kernels share: functions from a body, flat views, runs of elements in vectors, padded rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from .vectors import Expr, Vectors, const, load, of, ramp, shuffle

OPAQUE = 8  # TVM's operator pattern "opaque": scheduled already, not to be fused
SERIAL_CYCLES = 12000  # work of less is done before a second thread of TVM has woken up
SLACK_BYTES = 64  # after a scratch buffer: vectors may read beyond its end

Body = Callable[..., None]


def function(
    inputs: Sequence[tuple[tuple[int, ...], str]],
    constants: Sequence[np.ndarray],
    output: tuple[tuple[int, ...], str],
    body: Body,
) -> tirx.PrimFunc:
    """A private PrimFunc; ``body`` gets flat views: one per input, one per constant, and the output's."""
    tensors = [*inputs, *((array.shape, str(array.dtype)) for array in constants), output]
    with IRBuilder() as builder:
        with T.prim_func(private=True, s_tir=True):
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            buffers = [T.arg(f"t{k}", T.buffer(shape, dtype)) for k, (shape, dtype) in enumerate(tensors)]
            with T.sblock("root"):
                T.reads()
                T.writes()
                flat = [((int(np.prod(shape, dtype=np.int64)),), dtype) for shape, dtype in tensors]
                body(*(T.decl_buffer(*each, data=b.data) for b, each in zip(buffers, flat, strict=True)))
        return builder.get()


def loop(extent: int, parallel: bool = False) -> Any:
    """A loop as a context that gives its variable; of one turn, no loop and 0."""
    if extent == 1:
        return nullcontext(tirx.const(0, "int32"))
    return T.parallel(0, extent) if parallel else T.serial(0, extent)


def register(lanes: int, dtype: str = "int32") -> Any:
    """A vector that keeps its place in a register: a buffer so small that TVM puts it on the stack, and LLVM no further."""
    return T.alloc_buffer((lanes,), dtype)


def read(buffer: Any, lanes: int) -> Expr:
    """What a register holds."""
    return load(buffer, 0, lanes)


def write(buffer: Any, index: Expr, value: Expr, lanes: int) -> None:
    """Store ``lanes`` neighbours."""
    T.buffer_store(buffer, value, [ramp(index, lanes)])


def store_first(buffer: Any, index: Expr, value: Expr, lanes: int, count: int) -> None:
    """Store the first ``count`` of ``lanes`` lanes, in pieces of powers of two."""
    begin = 0
    while begin < min(count, lanes):
        rest = min(count, lanes) - begin
        piece = 1 << (rest.bit_length() - 1)
        part = value if piece == lanes else shuffle([value], range(begin, begin + piece))
        write(buffer, index + begin, part, piece)
        begin += piece


def each(count: int, widest: int, body: Callable[[Expr, int], None]) -> None:
    """``body(index, lanes)`` for all of ``count`` elements: whole vectors in a loop, the rest in powers of two."""
    whole = count // widest
    if whole:
        with loop(whole) as k:
            body(k * widest, widest)
    begin = whole * widest
    while begin < count:
        piece = 1 << ((count - begin).bit_length() - 1)
        body(tirx.const(begin, "int32"), piece)
        begin += piece


def fill(target: Any, begin: Expr, count: int, value: int, isa: Vectors) -> None:
    """``count`` elements of one value."""
    dtype = str(target.dtype)
    widest = isa.vector_bytes // np.dtype(dtype).itemsize
    each(count, widest, lambda k, lanes: write(target, begin + k, const(value, of(dtype, lanes)), lanes))


def copy(source: Any, begin: Expr, target: Any, place: Expr, count: int, base: int, isa: Vectors) -> None:
    """``count`` elements less ``base``, in the target's dtype: modulo 256 if that is int8, so exact for base -128 read unsigned."""
    dtype = str(target.dtype)
    widest = isa.vector_bytes // np.dtype(dtype).itemsize

    def move(k: Expr, lanes: int) -> None:
        value = load(source, begin + k, lanes)
        if dtype == "int8":
            if base == -128:
                value = value ^ const(-128, of("int8", lanes))
        else:
            value = value.astype(of(dtype, lanes))
            if base:
                value = value - const(base, of(dtype, lanes))
        write(target, place + k, value, lanes)

    each(count, widest, move)


@dataclass(frozen=True)
class Line:
    """Rows of images [height, width, channels] of which ``count`` channels are read, into cells of ``size`` elements.

    ``left`` and ``right`` cells are added; ``outside``: whether rows may lie outside the image.
    """

    height: int
    width: int
    channels: int
    size: int
    count: int
    left: int
    right: int
    outside: bool


def padded_row(
    source: Any, image: Expr, row: Expr, channel: Expr, target: Any, place: Expr, line: Line, base: int, zero: int,
    isa: Vectors,
) -> None:  # fmt: skip
    """Channels from ``channel`` on of one row into ``target`` from ``place`` on, less ``base``.

    Cells and rows outside the image hold ``zero`` less ``base``.
    """
    value = zero - base
    if str(target.dtype) == "int8" and value > 127:
        value -= 256  # the same byte
    begin = (image * line.height + row) * (line.width * line.channels) + channel

    def whole() -> None:
        fill(target, place, line.left * line.size, value, isa)
        start = place + line.left * line.size
        if line.count == line.size == line.channels:
            copy(source, begin, target, start, line.width * line.size, base, isa)
        else:
            with loop(line.width) as x:
                copy(source, begin + x * line.channels, target, start + x * line.size, line.count, base, isa)
        fill(target, start + line.width * line.size, line.right * line.size, value, isa)

    if not line.outside:
        whole()
        return
    with T.If(tirx.all(row >= 0, row < line.height)):
        with T.Then():
            whole()
        with T.Else():
            fill(target, place, (line.left + line.width + line.right) * line.size, value, isa)
