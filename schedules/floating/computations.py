"""Convolutions and matrix products as tensor expressions whose weights are packed for register tiles.

The stage that holds the sums is annotated with SCHEDULE_KIND, the kind of schedule that it is made for. All tensors are float32.
The annotations and the names of stages are part of the hash by which tuned records are found: a new name makes them unfindable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from ..host import Host
from .tiles import best_tile, dividing_lanes, round_up, tiles_of, vector_counts, vector_lanes

SCHEDULE_KIND = "qaccel_rule"  # "tile" or "depthwise"
LANES = "qaccel_lanes"  # how many channels a vector has
BORDER = "qaccel_border"  # on a stage that copies the input and puts zeros around or between its values
Expr = Any  # a TIR expression
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Computation:
    """A tensor expression: ``output`` is computed from ``data`` and from ``constants``, placeholders with their values."""

    data: tuple[te.Tensor, ...]
    constants: tuple[tuple[te.Tensor, np.ndarray], ...]
    output: te.Tensor


@dataclass(frozen=True)
class ConvGeometry:
    """Strides and dilation of a convolution as (vertical, horizontal), and its padding as (top, left, bottom, right); in pixels."""

    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]

    def output(self, plane: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the output, for an input ``plane`` and a ``kernel`` given in the same way."""
        top, left, bottom, right = self.padding
        sizes = []
        for size, pad, taps, stride, dilation in zip(
            plane, (top + bottom, left + right), kernel, self.strides, self.dilation, strict=True
        ):
            sizes.append((size + pad - dilation * (taps - 1) - 1) // stride + 1)
        return sizes[0], sizes[1]


def conv2d(
    shape: Sequence[int], layout: str, weight: np.ndarray, geometry: ConvGeometry, groups: int, host: Host
) -> Computation:
    """The convolution of an input ``shape``, in ``layout`` NHWC or NCHW, with ``weight`` [oc, ic/groups, kh, kw]. Output: NHWC."""
    data = te.placeholder(tuple(shape), "float32", "data")
    n, height, width, channels = shape if layout == "NHWC" else (shape[0], shape[2], shape[3], shape[1])

    def read(b: Expr, y: Expr, x: Expr, k: Expr) -> Expr:
        return data(b, y, x, k) if layout == "NHWC" else data(b, k, y, x)

    if groups == channels == weight.shape[0] and groups > 1:
        return _depthwise(data, weight, geometry, host)
    plane = (height, width)
    oh, ow = geometry.output(plane, (weight.shape[2], weight.shape[3]))
    return _convolved(data, read, layout, (n, plane, oh, ow), weight, geometry, groups, host)


def _convolved(
    data: te.Tensor,
    read: Any,
    layout: str,
    sizes: tuple,
    weight: np.ndarray,
    geometry: ConvGeometry,
    groups: int,
    host: Host,
) -> Computation:
    """``read``: the input by (n, y, x, channel); ``sizes``: batch, (height, width) of that, height and width of the output."""
    n, (height, width), oh, ow = sizes
    oc, icg, kh, kw = weight.shape
    lanes, pixels = _lanes_and_pixels(oc // groups, groups, ow, icg * kh * kw, host)
    padded_oc, padded_ow = round_up(oc, lanes), round_up(ow, pixels)
    (sh, sw), (dh, dw) = geometry.strides, geometry.dilation
    taken = _with_border(data, read, layout, (height, width), geometry, (oh, padded_ow), (kh, kw))
    packed = _packed(weight, lanes)
    packed_weight = te.placeholder(packed.shape, "float32", "weight")
    ky, kx, kc = (te.reduce_axis((0, size), name) for size, name in ((kh, "ky"), (kw, "kx"), (icg, "kc")))
    per_group = oc // groups

    def product(b: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
        channel = kc if groups == 1 else tirx.floordiv(c, per_group) * icg + kc
        pixel = taken(b, y * sh + ky * dh, x * sw + kx * dw, channel)
        block = tirx.floordiv(c, lanes)
        return te.sum(pixel * packed_weight(block, ky, kx, kc, tirx.floormod(c, lanes)), axis=[ky, kx, kc])

    attrs = {SCHEDULE_KIND: "tile", LANES: lanes}
    sums = te.compute((n, oh, padded_ow, padded_oc), product, "sums", attrs=attrs)
    output = te.compute((n, oh, ow, oc), lambda *i: sums(*i), "conv")
    return Computation((data,), ((packed_weight, packed),), output)


def _lanes_and_pixels(channels: int, groups: int, width: int, depth: int, host: Host) -> tuple[int, int]:
    """(channels of a vector, pixels of a tile) for ``channels`` outputs per group, rows of ``width``, sums of ``depth`` terms."""
    lanes = vector_lanes(channels, host) if groups == 1 else dividing_lanes(channels, host)
    padded = round_up(channels, lanes)
    counts = vector_counts(padded // lanes, padded == channels, host)
    return lanes, best_tile(tiles_of(width, counts, lanes, host), width, depth, host).pixels


def _with_border(
    data: te.Tensor, read: Any, layout: str, plane: Pair, geometry: ConvGeometry, output: Pair, kernel: Pair
) -> Any:  # fmt: skip
    """The input with zeros around it, as a function of (n, y, x, channel), counted from the corner of the zeros."""
    height, width = plane
    (sh, sw), (dh, dw) = geometry.strides, geometry.dilation
    top, left, _, _ = geometry.padding
    needed_h = (output[0] - 1) * sh + (kernel[0] - 1) * dh + 1
    needed_w = (output[1] - 1) * sw + (kernel[1] - 1) * dw + 1
    if not any(geometry.padding):
        # The last tile of a row may have pixels beyond the row. Their sums are not used, so they may read the last pixel again.
        return lambda b, y, x, k: read(b, y, x if needed_w <= width else tirx.min(x, width - 1), k)

    def value(b: Expr, y: Expr, x: Expr, k: Expr) -> Expr:
        inside = []
        for index, before, size, needed in ((y, top, height, needed_h), (x, left, width, needed_w)):
            inside += [index >= before] * (before > 0) + [index < before + size] * (needed > before + size)
        held = read(b, y - top, x - left, k)
        return tirx.if_then_else(tirx.all(*inside), held, tirx.const(0.0, "float32")) if inside else held

    if layout == "NHWC":
        n, _, _, channels = data.shape
        padded = te.compute((n, needed_h, needed_w, channels), value, "padded", attrs={BORDER: 1})
        return padded
    n, channels, _, _ = data.shape
    padded = te.compute(
        (n, channels, needed_h, needed_w), lambda b, k, y, x: value(b, y, x, k), "padded", attrs={BORDER: 1}
    )
    return lambda b, y, x, k: padded(b, k, y, x)


def _packed(weight: np.ndarray, lanes: int) -> np.ndarray:
    """Weights [oc, ic, kh, kw] as [oc / lanes, kh, kw, ic, lanes]; missing channels of the last vector are zeros."""
    oc, ic, kh, kw = weight.shape
    filled = np.zeros((round_up(oc, lanes), ic, kh, kw), weight.dtype)
    filled[:oc] = weight
    return np.ascontiguousarray(filled.reshape(-1, lanes, ic, kh, kw).transpose(0, 3, 4, 2, 1))


def _depthwise(data: te.Tensor, weight: np.ndarray, geometry: ConvGeometry, host: Host) -> Computation:
    n, height, width, channels = (int(size) for size in data.shape)
    kh, kw = weight.shape[2:]
    oh, ow = geometry.output((height, width), (kh, kw))
    (sh, sw), (dh, dw) = geometry.strides, geometry.dilation
    pixels = best_tile(tiles_of(ow, [1], host.lanes, host), ow, 1, host).pixels
    padded_ow = round_up(ow, pixels)
    taken = _with_border(data, data, "NHWC", (height, width), geometry, (oh, padded_ow), (kh, kw))
    packed_weight = te.placeholder((kh, kw, channels), "float32", "weight")
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    lanes = dividing_lanes(channels, host)
    sums = te.compute(
        (n, oh, padded_ow, channels),
        lambda b, y, x, c: te.sum(
            taken(b, y * sh + ky * dh, x * sw + kx * dw, c) * packed_weight(ky, kx, c), axis=[ky, kx]
        ),
        "sums",
        attrs={SCHEDULE_KIND: "depthwise", LANES: lanes},
    )
    output = te.compute((n, oh, ow, channels), lambda *i: sums(*i), "depthwise")
    packed = np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))
    return Computation((data,), ((packed_weight, packed),), output)


def conv2d_transpose(
    shape: Sequence[int],
    weight: np.ndarray,
    geometry: ConvGeometry,
    output_padding: tuple[int, int],
    groups: int,
    host: Host,
) -> Computation:
    """The transposed convolution of an NHWC input ``shape`` with ``weight`` [ic, oc/groups, kh, kw]. Output: NHWC.

    It is computed as a convolution of the input, spread out with zeros between its pixels, with the mirrored weights.
    """
    n, height, width, channels = shape
    _, ocg, kh, kw = weight.shape
    (sh, sw), (dh, dw) = geometry.strides, geometry.dilation
    top, left, bottom, right = geometry.padding
    before = (dh * (kh - 1) - top, dw * (kw - 1) - left)
    oh = (height - 1) * sh - top - bottom + dh * (kh - 1) + 1 + output_padding[0]
    ow = (width - 1) * sw - left - right + dw * (kw - 1) + 1 + output_padding[1]
    data = te.placeholder(tuple(shape), "float32", "data")
    _, pixels = _lanes_and_pixels(ocg, groups, ow, channels // groups * kh * kw, host)
    spread_h, spread_w = oh + dh * (kh - 1), round_up(ow, pixels) + dw * (kw - 1)

    def value(b: Expr, y: Expr, x: Expr, k: Expr) -> Expr:
        inside, places = [], []
        for index, lead, stride, size in ((y, before[0], sh, height), (x, before[1], sw, width)):
            moved = index - lead
            inside += [moved >= 0, moved < (size - 1) * stride + 1]
            inside += [tirx.floormod(moved, stride) == 0] * (stride > 1)
            places.append(tirx.floordiv(moved, stride))
        return tirx.if_then_else(tirx.all(*inside), data(b, *places, k), tirx.const(0.0, "float32"))

    spread = te.compute((n, spread_h, spread_w, channels), value, "spread", attrs={BORDER: 1})
    icg = channels // groups
    flipped = weight[:, :, ::-1, ::-1].reshape(groups, icg, ocg, kh, kw).transpose(0, 2, 1, 3, 4)
    flat = np.ascontiguousarray(flipped.reshape(groups * ocg, icg, kh, kw))
    unit = ConvGeometry((1, 1), (0, 0, 0, 0), (dh, dw))
    return _convolved(data, spread, "NHWC", (n, (spread_h, spread_w), oh, ow), flat, unit, groups, host)


def matmul(shape: Sequence[int], weight: np.ndarray, host: Host) -> Computation:
    """The matrix product of an input ``shape`` [..., m, k] with a constant ``weight`` [k, n]. Output: [..., m, n]."""
    data = te.placeholder(tuple(shape), "float32", "data")
    depth, columns = weight.shape
    lanes, pixels = _lanes_and_pixels(columns, 1, shape[-2], depth, host)
    packed = np.zeros((depth, round_up(columns, lanes)), weight.dtype)
    packed[:, :columns] = weight
    packed = np.ascontiguousarray(packed.reshape(depth, -1, lanes).transpose(1, 0, 2))
    packed_weight = te.placeholder(packed.shape, "float32", "weight")
    output = _multiplied(data, lambda _outer, *index: packed_weight(*index), columns, lanes, pixels)
    return Computation((data,), ((packed_weight, packed),), output)


def product(left: Sequence[int], right: Sequence[int], host: Host) -> Computation:
    """The matrix product of two inputs, ``left`` [..., m, k] and ``right`` [..., k, n]. Output: [..., m, n].

    The leading axes of both are equal, or ``right`` has none. ``right`` is packed as constant weights are, but at run time.
    """
    data, other = te.placeholder(tuple(left), "float32", "data"), te.placeholder(tuple(right), "float32", "other")
    *outer_sizes, depth, columns = right
    lanes, pixels = _lanes_and_pixels(columns, 1, left[-2], depth, host)
    padded = round_up(columns, lanes)

    def pack(*index: Expr) -> Expr:
        *outer, block, k, lane = index
        c = block * lanes + lane
        held = other(*outer, k, c)
        return held if padded == columns else tirx.if_then_else(c < columns, held, tirx.const(0.0, "float32"))

    packed = te.compute((*outer_sizes, padded // lanes, depth, lanes), pack, "packed")

    def weight(outer: Sequence[Expr], *index: Expr) -> Expr:
        return packed(*(outer if outer_sizes else ()), *index)

    return Computation((data, other), (), _multiplied(data, weight, columns, lanes, pixels))


def _multiplied(data: te.Tensor, weight: Callable[..., Expr], columns: int, lanes: int, pixels: int) -> te.Tensor:
    """``data`` [..., m, k] times a packed matrix of ``columns``: ``weight(indices before m, vector, k, lane)``."""
    *lead, rows, depth = (int(size) for size in data.shape)
    padded_rows = round_up(rows, pixels)
    k = te.reduce_axis((0, depth), "kc")

    def value(*index: Expr) -> Expr:
        *outer, row, c = index
        taken = row if padded_rows == rows else tirx.min(row, rows - 1)
        return te.sum(
            data(*outer, taken, k) * weight(outer, tirx.floordiv(c, lanes), k, tirx.floormod(c, lanes)), axis=[k]
        )

    attrs = {SCHEDULE_KIND: "tile", LANES: lanes}
    sums = te.compute((*lead, padded_rows, round_up(columns, lanes)), value, "sums", attrs=attrs)
    return te.compute((*lead, rows, columns), lambda *i: sums(*i), "product")
