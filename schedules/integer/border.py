"""Where float32 becomes integers and integers become float32, in vectors."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ...dialect.operators import DequantizeAttrs, QuantizeAttrs, carrier
from ...machine.numerics import activation_limits
from . import loops
from .elementwise import IntegerKernel, chunked
from .vectors import Expr, Vectors, const, lanes_of, load, of, shuffle

_FEW_CHANNELS = 4  # so many vectors are put in turn by one shuffle
_PLANES_LAST = (0, 2, 3, 1)


def quantize(isa: Vectors, attrs: QuantizeAttrs, shape: tuple[int, ...]) -> IntegerKernel | None:
    """``qaccel.quantize`` of values that stay in order or go from NCHW to NHWC; None for other transpositions."""
    turned = tuple(shape[axis] for axis in attrs.axes)
    flat = in_order(attrs.axes, shape)
    if not flat and (attrs.axes != _PLANES_LAST or turned != attrs.shape):
        return None

    def body(source: Any, out: Any) -> None:
        if flat:
            chunked(
                math.prod(shape),
                isa,
                lambda k, lanes: loops.write(out, k, _steps(load(source, k, lanes), attrs), lanes),
            )
            return
        batch, channels, height, width = shape
        with loops.loop(batch * height, batch * height * width * channels >= loops.SERIAL_CYCLES) as line:
            n, y = tirx.floordiv(line, height), tirx.floormod(line, height)

            def pixels(x: Expr, lanes: int) -> None:
                begins = [((n * channels + c) * height + y) * width + x for c in range(channels)]
                found = [T.Bind(_steps(load(source, begin, lanes), attrs)) for begin in begins]
                at = (line * width + x) * channels
                if channels <= _FEW_CHANNELS:
                    indices = [c * lanes + k for k in range(lanes) for c in range(channels)]
                    loops.store_first(out, at, shuffle(found, indices), lanes * channels, lanes * channels)
                    return
                for c, value in enumerate(found):
                    for k in range(lanes):
                        loops.write(out, at + (k * channels + c), shuffle([value], [k]) if lanes > 1 else value, 1)

            loops.each(width, isa.lanes, pixels)

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
    """``qaccel.dequantize`` of values that stay in order; None for transpositions."""
    if not in_order(attrs.axes, attrs.shape):
        return None

    def body(source: Any, out: Any) -> None:
        def real(k: Expr, lanes: int) -> None:
            q = load(source, k, lanes).astype(of("int32", lanes)) - const(attrs.source.zero_point, of("int32", lanes))
            loops.write(out, k, q.astype(of("float32", lanes)) * const(attrs.source.scale, of("float32", lanes)), lanes)

        chunked(math.prod(shape), isa, real)

    made = tuple(attrs.shape[axis] for axis in attrs.axes)
    return loops.function([(shape, carrier(attrs.source.bits))], [], (made, "float32"), body), []


def in_order(axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a transposition leaves the values where they are."""
    kept = [axis for axis in axes if shape[axis] > 1]
    return kept == sorted(kept)
