"""Where float32 becomes integers and integers become float32, in vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ...dialect.operators import DequantizeAttrs, QuantizeAttrs, carrier
from ...machine.numerics import activation_limits
from ..kernels import IntegerKernel
from . import loops
from .elementwise import chunked
from .vectors import Expr, Vectors, const, lanes_of, load, of, shuffle

_FEW_ROWS = 4  # of a matrix: so many vectors are put in turn by one shuffle
_MOST_ROWS = 16  # of a block that is transposed in registers


def quantize(isa: Vectors, attrs: QuantizeAttrs, shape: tuple[int, ...]) -> IntegerKernel | None:
    """``qaccel.quantize`` of values that stay in order or are transposed as matrices, as from NCHW to NHWC; else None."""
    kept, matrices = in_order(attrs.axes, shape), matrices_of(attrs.axes, shape)
    if not kept and matrices is None:
        return None

    def body(source: Any, out: Any) -> None:
        if matrices is not None:
            transposed(isa.lanes, matrices, source, out, before=lambda x: _steps(x, attrs))
            return
        chunked(
            math.prod(shape), isa, lambda k, lanes: loops.write(out, k, _steps(load(source, k, lanes), attrs), lanes)
        )

    return loops.function([(shape, "float32")], [], (attrs.shape, carrier(attrs.result.bits)), body), []


def _steps(x: Expr, attrs: QuantizeAttrs) -> Expr:
    """``rhe(x / scale) + zero_point``, saturated; NaN gives the zero point."""
    lanes = lanes_of(x)
    dtype = of("float32", lanes)
    lo, hi = (const(float(limit - attrs.result.zero_point), dtype) for limit in activation_limits(attrs.result.bits))
    steps = tirx.max(tirx.min(tirx.nearbyint(x / const(attrs.result.scale, dtype)), hi), lo)
    held = tirx.Select(tirx.isnan(x), const(0.0, dtype), steps).astype(of("int32", lanes))
    return (held + const(attrs.result.zero_point, of("int32", lanes))).astype(of(carrier(attrs.result.bits), lanes))


def dequantize(isa: Vectors, attrs: DequantizeAttrs, shape: tuple[int, ...]) -> IntegerKernel | None:
    """``qaccel.dequantize`` of values that stay in order or are transposed as matrices, as from NHWC to NCHW; else None."""
    kept, matrices = in_order(attrs.axes, attrs.shape), matrices_of(attrs.axes, attrs.shape)
    if not kept and matrices is None:
        return None

    def real(q: Expr) -> Expr:
        lanes = lanes_of(q)
        steps = q.astype(of("int32", lanes)) - const(attrs.source.zero_point, of("int32", lanes))
        return steps.astype(of("float32", lanes)) * const(attrs.source.scale, of("float32", lanes))

    def body(source: Any, out: Any) -> None:
        if matrices is not None:
            transposed(isa.lanes, matrices, source, out, after=real)
            return
        chunked(math.prod(shape), isa, lambda k, lanes: loops.write(out, k, real(load(source, k, lanes)), lanes))

    made = tuple(attrs.shape[axis] for axis in attrs.axes)
    return loops.function([(shape, carrier(attrs.source.bits))], [], (made, "float32"), body), []


def in_order(axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a transposition leaves the values where they are."""
    kept = [axis for axis in axes if shape[axis] > 1]
    return kept == sorted(kept)


def matrices_of(axes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(n, rows, columns) of a transposition that transposes ``n`` matrices one after the other; None if it is no such one."""
    kept = [axis for axis in axes if shape[axis] > 1]
    order = sorted(kept)
    same = next((k for k, (a, b) in enumerate(zip(kept, order, strict=True)) if a != b), None)
    if same is None:
        return None
    split = kept.index(order[same])  # the axes from here on were the first
    if kept != order[:same] + order[same + len(kept) - split :] + order[same : same + len(kept) - split]:
        return None
    n, columns, rows = (
        math.prod(shape[axis] for axis in part) for part in (kept[:same], kept[same:split], kept[split:])
    )
    return n, rows, columns


def _as_it_is(value: Expr) -> Expr:
    return value


def transposed(
    lanes: int, matrices: tuple[int, int, int], source: Any, out: Any,
    before: Callable[[Expr], Expr] = _as_it_is, after: Callable[[Expr], Expr] = _as_it_is, most: int = _MOST_ROWS,
) -> None:  # fmt: skip
    """``out[n, column, row] = after(before(source[n, row, column]))``, by blocks that are transposed in registers.

    Where a block does not fit any more, it lies further back and writes some values once more: the code is that of two
    blocks, whatever the size of the matrices.
    """
    n, rows, columns = matrices
    high = rows if rows <= _FEW_ROWS else _power_up_to(min(rows, most))
    wide = _power_up_to(min(columns, lanes))

    def block(image: Expr, row: Expr, column: Expr) -> None:
        begin = T.Bind((image * rows + row) * columns + column)
        found = [T.Bind(before(load(source, begin + k * columns, wide))) for k in range(high)]
        turned = _turned(found, wide)
        place = T.Bind((image * columns + column) * rows + row)
        if high == rows:
            whole = after(turned)
            loops.store_first(out, place, whole, wide * high, wide * high)
            return
        turned = T.Bind(turned)
        for k in range(wide):
            part = shuffle([turned], range(k * high, (k + 1) * high)) if wide > 1 else turned
            loops.write(out, place + k * rows, after(part), high)

    def inside(at: Expr, size: int, all_of: int) -> Expr:
        return at * size if all_of % size == 0 else T.Bind(tirx.min(at * size, all_of - size))

    # The longer side is shared among the cores; along the shorter one, a core does all blocks.
    by_columns = columns >= rows
    (length, size), (other, step) = ((columns, wide), (rows, high))[:: 1 if by_columns else -1]

    def strip(image: Expr, at: Expr) -> None:
        with loops.loop(-(-other // step)) as k:
            across = inside(k, step, other)
            block(image, *((across, at) if by_columns else (at, across)))

    strips = length // size
    with loops.loop(n * strips, n * rows * columns >= loops.SERIAL_CYCLES) as task:
        strip(tirx.floordiv(task, strips), tirx.floormod(task, strips) * size)
    if length % size:
        with loops.loop(n) as image:
            strip(image, tirx.const(length - size, "int32"))


def _turned(rows: list[Expr], wide: int) -> Expr:
    """The values of ``rows`` column by column, as one vector."""
    count = len(rows)
    if count & (count - 1):
        return shuffle(rows, [c * wide + k for k in range(wide) for c in range(count)])
    length = wide
    while len(rows) > 1:
        half = len(rows) // 2
        in_turn = [at for k in range(length) for at in (k, length + k)]
        rows = [T.Bind(shuffle([rows[k], rows[k + half]], in_turn)) for k in range(half)]
        length *= 2
    return rows[0]


def _power_up_to(most: int) -> int:
    """The largest power of two that is at most ``most``."""
    return 1 << (most.bit_length() - 1)
