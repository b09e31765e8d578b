"""Element-wise operators in integers, in vectors: sums, products, copies and tables.

Sums of rescaled operands have at most 50 bits, so float64 holds them exactly and rounds them once, as in `requantize`.
Where both operands have at most 8 bits there are 65,536 pairs of them: 32 bits do if they give the same for every pair.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ...dialect.operators import EltwiseAttrs, Quantization, RequantizeAttrs, TableAttrs, carrier
from ...machine.numerics import FRACTION_BITS, INTERPOLATION_BITS, OCTAVE_BITS, table_knots
from ..kernels import IntegerKernel
from . import loops
from .requantize import Output, Rescale, finished, nearest, rounded
from .vectors import GATHERED, Expr, Vectors, const, gathered, intrinsic, lanes_of, load, of

_CHUNK = 1 << 12  # elements of a task
_CYCLES = 1  # about, per element
# How far factors of 24 bits may be from the nearest, the least first: one of them mostly rounds all pairs right.
_NEAR = sorted(itertools.product((0, 1, -1, 2, -2), repeat=2), key=lambda move: abs(move[0]) + abs(move[1]))


def eltwise(isa: Vectors, attrs: EltwiseAttrs, shape: tuple[int, ...], small: tuple[int, ...]) -> IntegerKernel:
    """``qaccel.eltwise`` on ``shape`` and ``small``, which is 1 where it is repeated."""
    words = _WordSum.of(attrs)
    combined = words.value if words else _combined(isa, attrs)
    dtypes = carrier(attrs.a.bits), carrier(attrs.b.bits)
    output = replace(Output.of(attrs), zero_point=0) if words else Output.of(attrs)
    # The innermost dimensions along which b is either all there or one value.
    inner = len(shape) - 1 if attrs.lesser else len(shape)
    one = small[-1] == 1 and shape[-1] != 1
    while inner and not attrs.lesser and (small[inner - 1] == 1 if one else small[inner - 1] == shape[inner - 1]):
        inner -= 1
    run = math.prod(shape[inner:])
    constants = [_signs(attrs.lesser, shape[-1])] if attrs.lesser else []

    def body(a: Any, b: Any, *rest: Any) -> None:
        *signs, out = rest

        def vector(begin: Expr, other: Expr, k: Expr, lanes: int) -> None:
            first = load(a, begin + k, lanes).astype(of("int32", lanes))
            second = load(b, other, 1) if one else load(b, other + k, lanes)
            second = tirx.Broadcast(second, lanes) if one and lanes > 1 else second
            signed = [load(each, k, lanes).astype(of("float64", lanes)) for each in signs]
            result = finished(isa, [combined(first, second.astype(of("int32", lanes)), *signed)], output)
            loops.write(out, begin + k, result, lanes)

        if inner == 0:
            chunked(run, isa, lambda k, lanes: vector(tirx.const(0, "int32"), tirx.const(0, "int32"), k, lanes))
            return
        outer = math.prod(shape[:inner])
        with loops.loop(outer, outer > 1 and outer * run * _CYCLES >= loops.SERIAL_CYCLES) as turn:
            place: Expr = tirx.const(0, "int32")
            rest = turn
            step = math.prod(small)
            strides = []
            for size in small:
                step //= size
                strides.append(step)
            for size, there, stride in reversed(list(zip(shape[:inner], small[:inner], strides[:inner], strict=True))):
                if there > 1:
                    place = place + tirx.floormod(rest, size) * stride
                rest = tirx.floordiv(rest, size)
            begin, other = T.Bind(turn * run), T.Bind(place)
            loops.each(run, isa.lanes, lambda k, lanes: vector(begin, other, k, lanes))

    made = (shape, carrier(attrs.result.bits))
    return loops.function([(shape, dtypes[0]), (small, dtypes[1])], constants, made, body), constants


def _signs(lesser: tuple[int, ...], channels: int) -> np.ndarray:
    """int8 [channels]: -1 where the smaller of two is taken, which is the negative of the greater of their negatives; else 1."""
    signs = np.ones(channels, np.int8)
    signs[list(lesser)] = -1
    return signs


@dataclass(frozen=True)
class _WordSum:
    """A sum or difference in 32 bits: ``(a * first + b * second + start) >> bits``, then the clamp, is what the operator means."""

    first: int
    second: int
    start: int
    bits: int

    @staticmethod
    def of(attrs: EltwiseAttrs) -> _WordSum | None:
        """The one that gives what ``attrs`` means for every pair of operands; None if there is none, as where sums lie on
        halves."""
        if attrs.kind not in ("add", "sub") or max(attrs.a.bits, attrs.b.bits) > 8:
            return None
        ma, mb, shift = attrs.multipliers()
        factors = math.ldexp(ma, -shift), math.ldexp(mb if attrs.kind == "add" else -mb, -shift)
        ranges = [(-(1 << (q.bits - 1)), 1 << (q.bits - 1)) for q in (attrs.a, attrs.b)]
        a, b = np.arange(*ranges[0])[:, None], np.arange(*ranges[1])[None, :]
        expected = attrs.meaning(a, b).astype(np.int64)
        # Bits below the whole ones: as many as leave room for every sum of magnitudes.
        largest = sum(-low * abs(f) for (low, _), f in zip(ranges, factors, strict=True))
        offset = attrs.result.zero_point - attrs.a.zero_point * factors[0] - attrs.b.zero_point * factors[1]
        bits = 31 - math.frexp(largest + abs(offset) + 1)[1]
        if bits < 1:
            return None
        near = [round(math.ldexp(factor, bits)) for factor in factors]
        middle = round(math.ldexp(offset + 0.5, bits))
        lowest = np.where(expected > attrs.clamp.lo, expected << bits, -(1 << 62))
        highest = np.where(expected < attrs.clamp.hi, (expected + 1 << bits) - 1, 1 << 62)
        for move in _NEAR:
            first, second = (factor + m for factor, m in zip(near, move, strict=True))
            products = a * first + b * second
            least, most = int((lowest - products).max()), int((highest - products).min())
            start = min(max(middle, least), most)
            magnitude = abs(first * ranges[0][0]) + abs(second * ranges[1][0]) + abs(start)
            if least <= most and magnitude < 1 << 31:
                return _WordSum(first, second, start, bits)
        return None

    def value(self, a: Expr, b: Expr) -> Expr:
        """int32 lanes of both operands -> of the result, its zero point included, before the clamp."""
        dtype = of("int32", lanes_of(a))
        second = b * const(self.second, dtype) + const(self.start, dtype)
        return tirx.shift_right(a * const(self.first, dtype) + second, const(self.bits, dtype))


def _combined(isa: Vectors, attrs: EltwiseAttrs) -> Callable[..., Expr]:
    """int32 lanes of both operands, and float64 ones of `_signs` where there are any -> rounded int32 lanes."""
    ma, mb, shift = attrs.multipliers()
    reaches = attrs.a.reach, attrs.b.reach
    if attrs.kind == "mul":
        rescale = Rescale.of(isa, np.array([ma]), np.array([shift]), reaches[0] * reaches[1])
        return lambda a, b: _scaled(isa, _less(a, attrs.a.zero_point) * _less(b, attrs.b.zero_point), rescale)
    factors = math.ldexp(ma, -shift), math.ldexp(mb, -shift)
    zeros = [-zero * factor for zero, factor in zip((attrs.a.zero_point, attrs.b.zero_point), factors, strict=True)]
    bound = sum(reach * factor for reach, factor in zip(reaches, factors, strict=True))

    def value(a: Expr, b: Expr, *signs: Expr) -> Expr:
        dtype = of("float64", lanes_of(a))
        first, second = (q.astype(dtype) * const(f, dtype) for q, f in zip((a, b), factors, strict=True))
        if attrs.kind in ("min", "max"):
            chosen = tirx.min if attrs.kind == "min" else tirx.max
            first, second = first + const(zeros[0], dtype), second + const(zeros[1], dtype)
            if signs:
                return nearest(chosen(first * signs[0], second * signs[0]) * signs[0], bound)
            return nearest(chosen(first, second), bound)
        if attrs.kind == "sub":
            return nearest(first - second + const(zeros[0] - zeros[1], dtype), bound)
        return nearest(first + second + const(zeros[0] + zeros[1], dtype), bound)

    return value


def _less(value: Expr, zero_point: int) -> Expr:
    return value - const(zero_point, of("int32", lanes_of(value))) if zero_point else value


def _scaled(isa: Vectors, value: Expr, rescale: Rescale) -> Expr:
    dtype = of(rescale.dtype, lanes_of(value))
    limit = None if rescale.limits is None else const(float(rescale.limits[0]), dtype)
    return rounded(isa, value, const(float(rescale.scales[0]), dtype), rescale.fused, limit)


def rescaled(isa: Vectors, source: Quantization, multiplier: tuple[int, int], output: Output) -> Callable[[Expr], Expr]:
    """Integers of ``source`` -> the output's: ``clamp(Z_out + rhe((q - Z_in) * M * 2**-s))`` on lanes of the carriers."""
    bits, zero_point = source.bits, source.zero_point
    rescale = Rescale.of(isa, np.array([multiplier[0]]), np.array([multiplier[1]]), source.reach)
    same = rescale.scales[0] == 1.0 and zero_point == output.zero_point and carrier(bits) == carrier(output.bits)

    def value(q: Expr) -> Expr:
        lanes = lanes_of(q)
        if same:
            dtype = of(carrier(bits), lanes)
            return tirx.max(tirx.min(q, const(output.hi, dtype)), const(output.lo, dtype))
        return finished(isa, [_scaled(isa, _less(q.astype(of("int32", lanes)), zero_point), rescale)], output)

    return value


def requantize(isa: Vectors, attrs: RequantizeAttrs, shape: tuple[int, ...]) -> IntegerKernel:
    """``qaccel.requantize``."""
    value = rescaled(isa, attrs.source, attrs.multiplier(), Output.of(attrs))

    def body(q: Any, out: Any) -> None:
        chunked(math.prod(shape), isa, lambda k, lanes: loops.write(out, k, value(load(q, k, lanes)), lanes))

    return loops.function([(shape, carrier(attrs.source.bits))], [], (shape, carrier(attrs.result.bits)), body), []


def chunked(count: int, isa: Vectors, body: Callable[[Expr, int], None], widest: int | None = None) -> None:
    """``body(index, lanes)`` for all elements of a whole tensor, in tasks of `_CHUNK` where it is worth it."""
    widest = widest or isa.lanes
    tasks = count // _CHUNK
    if tasks < 2 or count * _CYCLES < loops.SERIAL_CYCLES:
        loops.each(count, widest, body)
        return
    with loops.loop(tasks, parallel=True) as task:
        loops.each(_CHUNK, widest, lambda k, lanes: body(task * _CHUNK + k, lanes))
    done = tasks * _CHUNK
    loops.each(count - done, widest, lambda k, lanes: body(done + k, lanes))


def table(isa: Vectors, attrs: TableAttrs, shape: tuple[int, ...], entries: np.ndarray) -> IntegerKernel:
    """``qaccel.table``: one look-up, or between two entries for 16-bit inputs."""
    count = math.prod(shape)
    wide = attrs.source.bits == 16
    if not wide:
        # By the byte as it is: the index of q is q + half, and a byte below half of 256 is not negative.
        whole = np.zeros(256, entries.dtype)
        half = 1 << (attrs.source.bits - 1)
        q = np.arange(-half, half)
        whole[q & 255] = entries[q + half]
        entries = whole

    else:  # neighbours in one word: the entry below in its lower half
        entries = (entries[:-1].astype(np.int32) & 0xFFFF) | (entries[1:].astype(np.int32) << 16)

    def body(source: Any, values: Any, out: Any) -> None:
        if wide:
            widest = GATHERED if isa.gather else isa.lanes
            chunked(
                count,
                isa,
                lambda k, lanes: loops.write(out, k, _between(isa, values, source, k, lanes, attrs), lanes),
                widest,
            )
        elif isa.bytes_table and str(out.dtype) == "int8":
            parts = [load(values, 64 * k, 64) for k in range(4)]
            chunked(count, isa, lambda k, lanes: _looked_up(isa, parts, values, source, out, k, lanes), 64)
        else:
            chunked(count, isa, lambda k, _: _one(values, source, out, k), 1)

    constants = [np.ascontiguousarray(entries)]
    return loops.function(
        [(shape, carrier(attrs.source.bits))], constants, (shape, carrier(attrs.result.bits)), body
    ), constants


def _one(values: Any, source: Any, out: Any, k: Expr) -> None:
    index = load(source, k, 1).astype("int32") & tirx.const(255, "int32")
    loops.write(out, k, values[index], 1)


def _looked_up(isa: Vectors, parts: list[Expr], values: Any, source: Any, out: Any, k: Expr, lanes: int) -> None:
    """64 bytes at once: 128 entries by the lower seven bits, twice, and the sign says which."""
    if lanes != 64:
        for one in range(lanes):
            _one(values, source, out, k + one)
        return
    index = T.Bind(load(source, k, 64))
    dtype = "int8x64"
    low, high = (
        intrinsic(dtype, "llvm.x86.avx512.vpermi2var.qi.512", parts[at], index, parts[at + 1]) for at in (0, 2)
    )
    loops.write(out, k, tirx.Select(index < const(0, dtype), high, low), 64)


def _between(isa: Vectors, values: Any, source: Any, k: Expr, lanes: int, attrs: TableAttrs) -> Expr:
    """Interpolated between neighbouring entries, one rounding."""
    dtype = of("int32", lanes)
    q = load(source, k, lanes).astype(dtype)
    low, part, fraction_bits = _in_octaves(q, lanes, attrs.origin) if attrs.knots == "octaves" else _evenly(q, lanes)
    bits, unit = const(fraction_bits, dtype), 1 << fraction_bits
    both, half = T.Bind(gathered(isa, values, T.Bind(low))), const(16, dtype)
    first, second = tirx.shift_right(both << half, half), tirx.shift_right(both, half)
    exact = T.Bind(first * (const(unit, dtype) - part) + second * part)
    floor = tirx.shift_right(exact, bits)
    # Halves to even: one less than half a unit more, or half a unit where the floor is odd.
    up = exact + const(unit // 2 - 1, dtype) + (floor & const(1, dtype))
    return tirx.shift_right(up, bits).astype(of(carrier(attrs.result.bits), lanes))


def _evenly(q: Expr, lanes: int) -> tuple[Expr, Expr, int]:
    """The entry below each input, how far beyond it the input lies, and the bits that say so."""
    bits, dtype = INTERPOLATION_BITS, of("int32", lanes)
    index = T.Bind(q + const(1 << 15, dtype))
    return tirx.shift_right(index, const(bits, dtype)), T.Bind(index & const((1 << bits) - 1, dtype)), bits


def _in_octaves(q: Expr, lanes: int, origin: int) -> tuple[Expr, Expr, int]:
    """The same for knots in octaves, from the float32 of the distance: its exponent and first bits are the entry's number."""
    bits, mantissa, one = FRACTION_BITS, 23, 127  # float32 has 23 bits of mantissa, and 127 is the exponent of 1.0
    dtype = of("int32", lanes)
    distance = T.Bind(q - const(origin, dtype))
    below = T.Bind(tirx.shift_right(distance, const(31, dtype)))  # 0 or -1
    m = T.Bind(distance ^ below)
    real = T.Bind(tirx.reinterpret(dtype, m.astype(of("float32", lanes))))
    number = tirx.shift_right(real, const(mantissa - OCTAVE_BITS, dtype)) - const(
        (one + OCTAVE_BITS - 1) << OCTAVE_BITS, dtype
    )
    near = m < const(1 << OCTAVE_BITS, dtype)  # not bound: TVM 0.27 binds no vector of booleans
    side = below & const(len(table_knots("octaves", 0)) // 2, dtype)
    low = tirx.Select(near, m, number) + side
    part = tirx.shift_right(real, const(mantissa - OCTAVE_BITS - bits, dtype)) & const((1 << bits) - 1, dtype)
    return low, T.Bind(tirx.Select(near, const(0, dtype), part)), bits
