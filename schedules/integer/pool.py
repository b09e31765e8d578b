"""Pooling in integers: vectors of channels, windows cut at the image's border."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ...dialect.operators import PoolAttrs, carrier
from ..kernels import IntegerKernel
from . import loops
from .elementwise import rescaled
from .requantize import Output, Rescale, finished, rounded
from .vectors import Expr, Vectors, const, load, of

_FEW_ROWS = 4  # with fewer, tasks are divided by channels


def pool2d(isa: Vectors, attrs: PoolAttrs, shape: tuple[int, ...]) -> IntegerKernel:
    """``qaccel.pool2d``: a maximum is rescaled, a sum too, with 1 / taps in the multiplier."""
    batch, height, width, channels = shape
    rows, columns = attrs.window(attrs.kernel).output(height, width)
    out_shape = (batch, rows, columns, channels)
    output = Output.of(attrs)
    largest = attrs.kind == "max"
    counts = np.ones((rows, columns), np.int64) if largest else attrs.tap_counts((height, width))
    pairs = [attrs.multiplier(int(count)) for count in counts.reshape(-1)]
    reach = 1 << (16 if attrs.source.bits == 16 else 9)
    rescale = Rescale.of(
        isa,
        np.array([m for m, _ in pairs]), np.array([s for _, s in pairs]),
        reach * attrs.kernel[0] * attrs.kernel[1],
    )  # fmt: skip
    one = len(set(pairs)) == 1
    constants = [] if one else [rescale.scales, *([] if rescale.limits is None else [rescale.limits])]
    copied = rescaled(isa, attrs.source, pairs[0], output)
    lanes = isa.vector_bytes // np.dtype(carrier(attrs.source.bits)).itemsize if largest else isa.lanes

    def window(source: Any, tables: tuple[Any, ...], out: Any, n: Expr, y: Expr, x: Expr, c: Expr, size: int) -> None:
        held = loops.register(size, carrier(attrs.source.bits) if largest else "int32")
        kind = of(str(held.dtype), size)
        least = -(1 << (attrs.source.bits - 1))
        loops.write(held, 0, const(least if largest else 0, kind), size)
        spans = [
            _inside(at * stride - pad, dilation, kernel, limit)
            for at, stride, pad, dilation, kernel, limit in zip(
                (y, x), attrs.strides, attrs.padding[:2], attrs.dilation, attrs.kernel, (height, width), strict=True
            )
        ]
        with T.serial(*spans[0]) as ky, T.serial(*spans[1]) as kx:
            row = y * attrs.strides[0] - attrs.padding[0] + ky * attrs.dilation[0]
            column = x * attrs.strides[1] - attrs.padding[1] + kx * attrs.dilation[1]
            value = load(source, ((n * height + row) * width + column) * channels + c, size)
            before = load(held, 0, size)
            if not largest:
                value = value.astype(kind) - const(attrs.source.zero_point, kind)
            loops.write(held, 0, tirx.max(before, value) if largest else before + value, size)
        pixel = y * columns + x
        total = load(held, 0, size)
        if largest:
            result = copied(total)
        else:
            real = of(rescale.dtype, size)
            factors = [const(float(rescale.scales[0]), real)] if one else [_repeated(tables[0][pixel], size)]
            if rescale.limits is not None:
                factors.append(const(float(rescale.limits[0]), real) if one else _repeated(tables[1][pixel], size))
            result = finished(isa, [rounded(isa, total, factors[0], rescale.fused, *factors[1:])], output)
        loops.write(out, ((n * rows + y) * columns + x) * channels + c, result, size)

    def body(source: Any, *rest: Any) -> None:
        whole = channels // lanes
        divided = whole if batch * rows < _FEW_ROWS and whole else 1
        work = batch * rows * columns * channels // lanes * attrs.kernel[0] * attrs.kernel[1]
        with loops.loop(batch * rows * divided, parallel=work >= loops.SERIAL_CYCLES) as task:
            line, part = tirx.floordiv(task, divided), tirx.floormod(task, divided)
            n, y = tirx.floordiv(line, rows), tirx.floormod(line, rows)
            with loops.loop(columns) as x:
                if divided == 1:
                    loops.each(channels, lanes, lambda c, size: window(source, rest[:-1], rest[-1], n, y, x, c, size))
                else:
                    window(source, rest[:-1], rest[-1], n, y, x, part * lanes, lanes)
        if divided > 1 and channels % lanes:
            with loops.loop(batch * rows) as line, loops.loop(columns) as x:
                n, y = tirx.floordiv(line, rows), tirx.floormod(line, rows)
                begin = whole * lanes
                loops.each(
                    channels - begin,
                    lanes,
                    lambda c, size: window(source, rest[:-1], rest[-1], n, y, x, begin + c, size),
                )

    inputs = [(shape, carrier(attrs.source.bits))]
    return loops.function(inputs, constants, (out_shape, carrier(attrs.result.bits)), body), constants


def _repeated(value: Expr, lanes: int) -> Expr:
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def _inside(begin: Expr, dilation: int, kernel: int, size: int) -> tuple[Expr, Expr]:
    """The taps of a window from ``begin`` on that lie inside the image: the first, and the one after the last."""
    first = tirx.max(tirx.floordiv(dilation - 1 - begin, dilation), 0)
    end = tirx.min(tirx.floordiv(size - 1 - begin, dilation) + 1, kernel)
    return T.Bind(first), T.Bind(end)
