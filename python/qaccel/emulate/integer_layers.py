"""What calls of the quantized dialect compute, as fast as this CPU can: the same integers as `Attrs.meaning`, to the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..dialect import kernels, operators
from ..dialect.pieces import Piece, unflattened
from ..dialect.rescale import requantize
from ..machine.numerics import activation_limits
from . import compiled

Integers = Callable[..., np.ndarray]
_EXACT = {"float32": 1 << 24, "float64": 1 << 53}  # whole numbers up to these have no error


class Layer(Protocol):
    """A ``qaccel.conv2d`` whose bias is not settled yet."""

    def sums(self, q: np.ndarray) -> np.ndarray:
        """Products summed, NHWC without the bias: exact integers in any dtype."""

    def limited(
        self, sums: np.ndarray, bias: np.ndarray, lo: np.ndarray, hi: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """By channel, float64: the sum of ``sums + bias`` within ``lo`` to ``hi``, and how many lie between; all [channels]."""

    def finish(self, sums: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """The result from the sums."""


class _InNumPy:
    """A layer as the dialect says what it means."""

    def __init__(self, attrs: operators.ConvAttrs, weight: np.ndarray, weight_scale: np.ndarray) -> None:
        self._attrs, self._weight, self._weight_scale = attrs, weight, weight_scale

    def sums(self, q: np.ndarray) -> np.ndarray:
        return self._attrs.sums(q, self._weight)

    def limited(
        self, sums: np.ndarray, bias: np.ndarray, lo: np.ndarray, hi: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return compiled.limited_in_numpy(sums, bias, lo, hi)

    def finish(self, sums: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return self._attrs.finish(sums, bias, self._weight_scale)


class _Compiled:
    """The same in compiled functions, for sums that ``dtype`` holds without an error."""

    def __init__(self, attrs: operators.ConvAttrs, weight: np.ndarray, weight_scale: np.ndarray, dtype: str) -> None:
        self._attrs = attrs
        multiplier, shift = attrs.multipliers(weight_scale)
        self._scale = np.ldexp(multiplier.astype(np.float64), -shift)
        window = attrs.window((weight.shape[1], weight.shape[2]))
        self._convolve = compiled.Convolution(weight.transpose(0, 3, 1, 2), window, attrs.groups, dtype)

    def sums(self, q: np.ndarray) -> np.ndarray:
        return self._convolve(q, self._attrs.source.zero_point)

    def limited(
        self, sums: np.ndarray, bias: np.ndarray, lo: np.ndarray, hi: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return compiled.limited(sums, bias, lo, hi)

    def finish(self, sums: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return compiled.requantize(sums, bias, self._scale, self._attrs.ending)


def layer_with_weights(attrs: operators.ConvAttrs, weight: np.ndarray, weight_scale: np.ndarray, large: bool) -> Layer:
    """The layer, compiled if it is part of a ``large`` network and its sums stay below 2**53."""
    largest = int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1).max()) * attrs.source.reach
    dtype = next((name for name, exact in _EXACT.items() if largest < exact), None)
    if not large or dtype is None:
        return _InNumPy(attrs, weight, weight_scale)
    return _Compiled(attrs, weight, weight_scale, dtype)


def layer_of(attrs: operators.Attrs, constants: Sequence[np.ndarray], sources: Sequence[str]) -> Integers | None:
    """The function of a call's activations, which have the dtypes ``sources``; None where `Attrs.meaning` does as well.

    ``constants``: the operands after the activations.
    """
    if isinstance(attrs, operators.ConvAttrs):
        weight, bias, weight_scale = constants
        layer = layer_with_weights(attrs, weight, weight_scale, True)
        return lambda q: layer.finish(layer.sums(q), bias)
    if isinstance(attrs, operators.EltwiseAttrs):
        return _combined(attrs)
    if any(dtype != "int8" for dtype in sources):
        return None
    if isinstance(attrs, operators.TableAttrs | operators.RequantizeAttrs):
        return _of_one_byte(attrs.source, lambda q: attrs.meaning(q, *constants))
    if isinstance(attrs, operators.PoolAttrs) and attrs.kind == "max" and _never_outside(attrs):
        return _largest(attrs)
    return _moved(attrs) if isinstance(attrs, operators.MoveAttrs) else None


def _of_one_byte(source: operators.Quantization, meaning: Integers) -> Integers:
    """A function of one value in an int8 carrier, looked up in a table of all of them."""
    lo, hi = activation_limits(source.bits)
    made = meaning(np.arange(lo, hi + 1, dtype=np.int8).reshape(1, 1, 1, -1)).reshape(-1)
    entries = np.zeros(256, made.dtype)
    entries[128 + lo : 128 + hi + 1] = made
    return lambda q: compiled.table(q, entries)


def _combined(attrs: operators.EltwiseAttrs) -> Integers:
    ma, mb, shift = attrs.multipliers()
    factors = (1.0, 1.0, float(np.ldexp(float(ma), -shift))) if attrs.kind == "mul" else (ma, mb, 2.0**-shift)
    zero_points = attrs.a.zero_point, attrs.b.zero_point

    def combine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return compiled.combine(attrs.kind, (a, np.broadcast_to(b, a.shape)), zero_points, factors, attrs.ending)

    return combine


def _never_outside(attrs: operators.PoolAttrs) -> bool:
    """Whether every window meets the input."""
    sizes = zip(attrs.kernel * 2, attrs.padding, strict=True)
    return attrs.dilation == (1, 1) and all(pad < size for size, pad in sizes)


def _largest(attrs: operators.PoolAttrs) -> Integers:
    """Rescaling keeps the order of values, so the largest is found before it."""
    window = attrs.window(attrs.kernel)
    rescale = _of_one_byte(attrs.source, replace(attrs, kernel=(1, 1), strides=(1, 1), padding=(0, 0, 0, 0)).meaning)
    return lambda q: rescale(kernels.max_pool2d(q.transpose(0, 3, 1, 2), window).transpose(0, 2, 3, 1))


def _moved(attrs: operators.MoveAttrs) -> Integers:
    pieces = unflattened(attrs.pieces)
    rescaled = [_rescaled(attrs, *each) for each in zip(attrs.sources, attrs.multipliers(), strict=True)]

    def move(*operands: np.ndarray) -> np.ndarray:
        made = [np.ascontiguousarray(rescale(q)) for q, rescale in zip(operands, rescaled, strict=True)]
        result = np.zeros((len(operands[0]), *attrs.shape[1:]), operators.carrier(attrs.result.bits))
        for piece in pieces:
            target = _view(result, piece, False)
            if piece.source >= len(made):
                target[...] = attrs.fills[piece.source - len(made)]
            else:
                target[...] = _view(made[piece.source], piece, True)
        return result

    return move


def _rescaled(attrs: operators.MoveAttrs, source: operators.Quantization, scale: tuple[int, int]) -> Integers:
    """One source of a move in integers of the result."""
    if source == attrs.result and attrs.clamp == operators.Clamp.whole(source.bits):
        return lambda q: q
    return _of_one_byte(source, lambda q: requantize(q.astype(np.int64) - source.zero_point, scale, attrs.ending))


def _view(array: np.ndarray, piece: Piece, source: bool) -> np.ndarray:
    """The values of a piece [n, rows, pixels, channels] in its source or its result."""
    channels, item = array.shape[-1], array.itemsize
    steps = (
        (piece.in_pixel, piece.in_channel, piece.in_row_pixels, piece.in_row_channels, piece.in_step_pixels,
         piece.in_step_channels)
        if source
        else (piece.out_pixel, piece.out_channel, piece.out_row_pixels, piece.out_row_channels, piece.out_step_pixels,
              piece.out_step_channels)
    )  # fmt: skip
    begin, row, step = (pixel * channels + channel for pixel, channel in zip(steps[::2], steps[1::2], strict=True))
    flat = array.reshape(len(array), -1)[:, begin:]
    return as_strided(
        flat, (len(array), piece.rows, piece.pixels, piece.channels), (array.strides[0], row * item, step * item, item)
    )
