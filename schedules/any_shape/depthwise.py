"""Depthwise convolutions of any size: vectors of channels, a few pixels at a time so that they share the weights."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ..host import Host
from ..integer.loops import read, register, write
from ..integer.vectors import load, of
from .dense import lanes_of
from .functions import Expr, fma, function, variable

PIXELS = 6  # side by side


def depthwise(host: Host, dtype: str) -> tirx.PrimFunc:
    """``out[b, y, x, c] = sum of x[b, y * sh + ky * dh, x * sw + kx * dw, c] * weight[ky, kx, c]``, NHWC, without padding.

    Buffers: data, weight, out. Scalars: samples times output height, output height and width, height and width of the data,
    channels, rows and columns of the kernel, strides, dilations.
    """
    lanes = lanes_of(host, dtype)

    def body(data: Any, weight: Any, out: Any, *sizes: Any) -> None:
        rows, oh, ow, ih, iw, channels, kh, kw, sh, sw, dh, dw = sizes

        def pixels(line: Expr, first: Expr, c: Expr, many: int) -> None:
            """The sums of PIXELS pixels from ``first`` on for ``many`` channels from ``c`` on."""
            top = T.Bind((tirx.truncdiv(line, oh) * ih + tirx.truncmod(line, oh) * sh) * iw)
            sums, columns = [register(many, dtype) for _ in range(PIXELS)], [variable() for _ in range(PIXELS)]
            for p, (total, column) in enumerate(zip(sums, columns, strict=True)):
                T.buffer_store(column, tirx.min(first + p, ow - 1), [0])
                write(total, 0, _zero(dtype, many), many)
            with T.serial(0, kh) as ky, T.serial(0, kw) as kx:
                factor = T.Bind(load(weight, (ky * kw + kx) * channels + c, many))
                tap = T.Bind((top + ky * dh * iw + kx * dw) * channels + c)
                for total, column in zip(sums, columns, strict=True):
                    value = load(data, tap + column[0] * sw * channels, many)
                    write(total, 0, fma(of(dtype, many), value, factor, read(total, many)), many)
            for total, column in zip(sums, columns, strict=True):
                write(out, (line * ow + column[0]) * channels + c, read(total, many), many)

        whole = T.Bind(tirx.truncdiv(channels, lanes))
        with T.serial(0, rows) as line, T.serial(0, tirx.truncdiv(ow + (PIXELS - 1), PIXELS)) as group:
            with T.serial(0, whole) as block:
                pixels(line, group * PIXELS, block * lanes, lanes)
            with T.serial(0, channels - whole * lanes) as rest:
                pixels(line, group * PIXELS, whole * lanes + rest, 1)

    return function([dtype] * 3, ["int32"] * 12, body)


def _zero(dtype: str, lanes: int) -> Expr:
    zero = tirx.const(0.0, dtype)
    return tirx.Broadcast(zero, lanes) if lanes > 1 else zero
