"""What is done to every value of an array of any size; LLVM makes vectors of these loops."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from .functions import Expr, fma, function

_MAGIC = 1.5 * 2.0**52  # added to a float64 below 2**51, it rounds it to a whole number, halves to even


def padded(source: str, dtype: str) -> tirx.PrimFunc:
    """NHWC data less a zero point, in ``dtype``, with zeros around.

    Buffers: data, out. Scalars: samples times rows of out, rows of out, its columns, rows and columns of data, channels, rows
    above, columns to the left, zero point.
    """

    def body(data: Any, out: Any, *sizes: Any) -> None:
        lines, oh, ow, ih, iw, channels, top, left, zero_point = sizes
        zero = tirx.const(0.0, dtype)
        with T.serial(0, lines) as line:
            y = T.Bind(tirx.truncmod(line, oh) - top)
            place = T.Bind(line * ow * channels)
            with T.If(tirx.all(y >= 0, y < ih)):
                with T.Then():
                    begin = T.Bind((tirx.truncdiv(line, oh) * ih + y) * iw * channels)
                    with T.serial(0, left * channels) as k:
                        T.buffer_store(out, zero, [place + k])
                    with T.serial(0, iw * channels) as k:
                        value = data[begin + k].astype(dtype) - zero_point.astype(dtype)
                        T.buffer_store(out, value, [place + left * channels + k])
                    with T.serial(0, (ow - left - iw) * channels) as k:
                        T.buffer_store(out, zero, [place + (left + iw) * channels + k])
                with T.Else(), T.serial(0, ow * channels) as k:
                    T.buffer_store(out, zero, [place + k])

    return function([source, dtype], ["int32"] * 9, body)


def limited(source: str) -> tirx.PrimFunc:
    """For every channel the sum of ``value + bias[c]`` within lo[c] to hi[c], and how many of them lie between, in float64.

    Buffers: values [rows, channels], bias, lo and hi [channels], sums and counts [channels] of zeros. Scalars: rows, channels.
    """

    def body(data: Any, bias: Any, lo: Any, hi: Any, sums: Any, counts: Any, rows: Expr, channels: Expr) -> None:
        with T.serial(0, rows) as row, T.serial(0, channels) as c:
            value = data[row * channels + c].astype("float64") + bias[c]
            inside = tirx.all(value > lo[c], value < hi[c])
            T.buffer_store(sums, sums[c] + tirx.max(tirx.min(value, hi[c]), lo[c]), [c])
            T.buffer_store(counts, counts[c] + inside.astype("float64"), [c])

    return function([source, *["float64"] * 5], ["int32"] * 2, body)


def requantized(source: str, dtype: str) -> tirx.PrimFunc:
    """``clamp(zero point + rhe((value + bias[c]) * scale[c]), lo, hi)``, exact for whole sums below 2**53.

    Buffers: values [rows, channels], bias and scale [channels] in float64, out. Scalars: rows, channels, zero point, lo, hi.
    Where the product is too large for the magic number to round it, it is beyond lo and hi anyway.
    """

    def body(data: Any, bias: Any, scale: Any, out: Any, *sizes: Any) -> None:
        rows, channels, zero_point, lo, hi = sizes
        with T.serial(0, rows) as row, T.serial(0, channels) as c:
            at = row * channels + c
            total = data[at].astype("float64") + bias[c]
            whole = fma("float64", total, scale[c], tirx.const(_MAGIC, "float64")) - tirx.const(_MAGIC, "float64")
            value = tirx.max(tirx.min(whole + zero_point.astype("float64"), hi.astype("float64")), lo.astype("float64"))
            T.buffer_store(out, value.astype("int32").astype(dtype), [at])

    return function([source, "float64", "float64", dtype], ["int32"] * 5, body)


def looked_up(dtype: str) -> tirx.PrimFunc:
    """``out = table[value + 128]`` of int8 values. Buffers: values, table, out. Scalar: how many values."""

    def body(data: Any, table: Any, out: Any, count: Expr) -> None:
        with T.serial(0, count) as k:
            T.buffer_store(out, table[data[k].astype("int32") + 128], [k])

    return function(["int8", dtype, dtype], ["int32"], body)


COMBINED = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "min": tirx.min, "max": tirx.max,
}  # fmt: skip


def combined(kind: str, first: str, second: str, dtype: str) -> tirx.PrimFunc:
    """``clamp(zero point + rhe(combine((a - za) * ma, (b - zb) * mb) * scale), lo, hi)`` of two arrays of one size, exactly.

    Buffers: a, b, out. Scalars: how many values, both zero points, that of out, lo, hi; ma, mb and scale in float64.
    """

    def body(a: Any, b: Any, out: Any, *scalars: Any) -> None:
        count, *whole, ma, mb, scale = scalars
        za, zb, zero_point, lo, hi = (number.astype("float64") for number in whole)
        magic = tirx.const(_MAGIC, "float64")
        with T.serial(0, count) as k:
            operands = ((a[k].astype("float64") - za) * ma, (b[k].astype("float64") - zb) * mb)
            near = fma("float64", COMBINED[kind](*operands), scale, magic) - magic
            value = tirx.max(tirx.min(near + zero_point, hi), lo)
            T.buffer_store(out, value.astype("int32").astype(dtype), [k])

    return function([first, second, dtype], ["int32"] * 6 + ["float64"] * 3, body)
