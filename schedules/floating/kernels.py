"""Convolutions and products with constant weights as tensor expressions over packed weights, ready for the rules.

The main stage of each carries the annotation RULE with the name of the rule that schedules it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from ..host import Host
from .tiles import best_tile, dividing_lanes, round_up, tiles_of, vector_counts, vector_lanes

RULE = "qaccel_rule"
LANES = "qaccel_lanes"
BORDER = "qaccel_border"  # on a stage that only puts zeros around or between the input
Expr = Any  # a TIR expression
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Kernel:
    """``output`` computed from ``data`` and the placeholders of ``constants``."""

    data: tuple[te.Tensor, ...]
    constants: tuple[tuple[te.Tensor, np.ndarray], ...]
    output: te.Tensor


@dataclass(frozen=True)
class Window:
    """How a convolution walks: (vertical, horizontal) strides and dilation, padding (top, left, bottom, right)."""

    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]

    def output(self, plane: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output."""
        top, left, bottom, right = self.padding
        sizes = []
        for size, pad, taps, stride, dilation in zip(
            plane, (top + bottom, left + right), kernel, self.strides, self.dilation, strict=True
        ):
            sizes.append((size + pad - dilation * (taps - 1) - 1) // stride + 1)
        return sizes[0], sizes[1]


def conv2d(shape: Sequence[int], layout: str, weight: np.ndarray, window: Window, groups: int, host: Host) -> Kernel:
    """Convolution of float32 ``shape`` in ``layout`` (NHWC or NCHW) with ``weight`` [oc, ic/groups, kh, kw]; output NHWC."""
    data = te.placeholder(tuple(shape), "float32", "data")
    n, height, width, channels = shape if layout == "NHWC" else (shape[0], shape[2], shape[3], shape[1])

    def read(b: Expr, y: Expr, x: Expr, k: Expr) -> Expr:
        return data(b, y, x, k) if layout == "NHWC" else data(b, k, y, x)

    if groups == channels == weight.shape[0] and groups > 1:
        return _depthwise(data, weight, window, host)
    plane = (height, width)
    oh, ow = window.output(plane, (weight.shape[2], weight.shape[3]))
    return _convolved(data, read, layout, (n, plane, channels, oh, ow), weight, window, groups, host)


def _convolved(
    data: te.Tensor, read: Any, layout: str, sizes: tuple, weight: np.ndarray, window: Window, groups: int, host: Host
) -> Kernel:
    n, (height, width), _channels, oh, ow = sizes
    oc, icg, kh, kw = weight.shape
    lanes = vector_lanes(oc, host) if groups == 1 else dividing_lanes(oc // groups, host)
    padded_oc = round_up(oc, lanes)
    counts = vector_counts(padded_oc // lanes if groups == 1 else oc // groups // lanes, padded_oc == oc, host)
    pixels = best_tile(tiles_of(ow, counts, lanes, host), ow, icg * kh * kw).pixels
    padded_ow = round_up(ow, pixels)
    (sh, sw), (dh, dw) = window.strides, window.dilation
    taken = _with_border(data, read, layout, (height, width), window, (oh, padded_ow), (kh, kw))
    packed = _packed(weight, lanes)
    kernel = te.placeholder(packed.shape, "float32", "weight")
    ky, kx, kc = (te.reduce_axis((0, size), name) for size, name in ((kh, "ky"), (kw, "kx"), (icg, "kc")))
    per_group = oc // groups

    def product(b: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
        channel = kc if groups == 1 else tirx.floordiv(c, per_group) * icg + kc
        pixel = taken(b, y * sh + ky * dh, x * sw + kx * dw, channel)
        return te.sum(pixel * kernel(tirx.floordiv(c, lanes), ky, kx, kc, tirx.floormod(c, lanes)), axis=[ky, kx, kc])

    attrs = {RULE: "tile", LANES: lanes}
    sums = te.compute((n, oh, padded_ow, padded_oc), product, "sums", attrs=attrs)
    output = te.compute((n, oh, ow, oc), lambda *i: sums(*i), "conv")
    return Kernel((data,), ((kernel, packed),), output)


def _with_border(
    data: te.Tensor, read: Any, layout: str, plane: Pair, window: Window, output: Pair, kernel: Pair
) -> Any:  # fmt: skip
    """The input with zeros around it, as a function of (n, y, x, channel) from the padded corner."""
    height, width = plane
    (sh, sw), (dh, dw) = window.strides, window.dilation
    top, left, _, _ = window.padding
    needed_h = (output[0] - 1) * sh + (kernel[0] - 1) * dh + 1
    needed_w = (output[1] - 1) * sw + (kernel[1] - 1) * dw + 1
    if not any(window.padding):
        # A row's last tile may reach beyond it: what it computes there is not used, so it reads the last pixel again.
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
    """[oc, ic, kh, kw] as [oc / lanes, kh, kw, ic, lanes], the last block filled up with zeros."""
    oc, ic, kh, kw = weight.shape
    filled = np.zeros((round_up(oc, lanes), ic, kh, kw), weight.dtype)
    filled[:oc] = weight
    return np.ascontiguousarray(filled.reshape(-1, lanes, ic, kh, kw).transpose(0, 3, 4, 2, 1))


def _depthwise(data: te.Tensor, weight: np.ndarray, window: Window, host: Host) -> Kernel:
    n, height, width, channels = (int(size) for size in data.shape)
    kh, kw = weight.shape[2:]
    oh, ow = window.output((height, width), (kh, kw))
    (sh, sw), (dh, dw) = window.strides, window.dilation
    pixels = best_tile(tiles_of(ow, [1], host.lanes, host), ow, 1).pixels
    padded_ow = round_up(ow, pixels)
    taken = _with_border(data, data, "NHWC", (height, width), window, (oh, padded_ow), (kh, kw))
    kernel = te.placeholder((kh, kw, channels), "float32", "weight")
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    lanes = dividing_lanes(channels, host)
    sums = te.compute(
        (n, oh, padded_ow, channels),
        lambda b, y, x, c: te.sum(taken(b, y * sh + ky * dh, x * sw + kx * dw, c) * kernel(ky, kx, c), axis=[ky, kx]),
        "sums",
        attrs={RULE: "depthwise", LANES: lanes},
    )
    output = te.compute((n, oh, ow, channels), lambda *i: sums(*i), "depthwise")
    packed = np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))
    return Kernel((data,), ((kernel, packed),), output)


def conv2d_transpose(
    shape: Sequence[int], weight: np.ndarray, window: Window, output_padding: tuple[int, int], groups: int, host: Host
) -> Kernel:
    """Transposed convolution of NHWC ``shape``, ``weight`` [ic, oc/groups, kh, kw]: over the input with zeros between."""
    n, height, width, channels = shape
    _, ocg, kh, kw = weight.shape
    (sh, sw), (dh, dw) = window.strides, window.dilation
    top, left, bottom, right = window.padding
    before = (dh * (kh - 1) - top, dw * (kw - 1) - left)
    oh = (height - 1) * sh - top - bottom + dh * (kh - 1) + 1 + output_padding[0]
    ow = (width - 1) * sw - left - right + dw * (kw - 1) + 1 + output_padding[1]
    data = te.placeholder(tuple(shape), "float32", "data")
    lanes = vector_lanes(ocg, host) if groups == 1 else dividing_lanes(ocg, host)
    whole = round_up(ocg, lanes) == ocg
    counts = vector_counts(round_up(ocg, lanes) // lanes, whole, host)
    pixels = best_tile(tiles_of(ow, counts, lanes, host), ow, channels // groups * kh * kw).pixels
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
    unit = Window((1, 1), (0, 0, 0, 0), (dh, dw))
    kernel = _convolved(
        data, spread, "NHWC", (n, (spread_h, spread_w), channels, oh, ow), flat, unit, groups, host
    )  # fmt: skip
    return kernel


def matmul(shape: Sequence[int], weight: np.ndarray, host: Host) -> Kernel:
    """Product of float32 ``shape`` [..., m, k] and a constant [k, n]."""
    data = te.placeholder(tuple(shape), "float32", "data")
    depth, columns = weight.shape
    *lead, rows, _ = shape
    lanes = vector_lanes(columns, host)
    padded = round_up(columns, lanes)
    counts = vector_counts(padded // lanes, padded == columns, host)
    pixels = best_tile(tiles_of(rows, counts, lanes, host), rows, depth).pixels
    padded_rows = round_up(rows, pixels)
    packed = np.zeros((depth, padded), weight.dtype)
    packed[:, :columns] = weight
    packed = np.ascontiguousarray(packed.reshape(depth, -1, lanes).transpose(1, 0, 2))
    kernel = te.placeholder(packed.shape, "float32", "weight")
    k = te.reduce_axis((0, depth), "kc")

    def product(*index: Expr) -> Expr:
        *outer, row, c = index
        taken = row if padded_rows == rows else tirx.min(row, rows - 1)
        return te.sum(
            data(*outer, taken, k) * kernel(tirx.floordiv(c, lanes), k, tirx.floormod(c, lanes)), axis=[k]
        )  # fmt: skip

    sums = te.compute((*lead, padded_rows, padded), product, "sums", attrs={RULE: "tile", LANES: lanes})
    output = te.compute((*lead, rows, columns), lambda *i: sums(*i), "product")
    return Kernel((data,), ((kernel, packed),), output)


def product(left: Sequence[int], right: Sequence[int], host: Host) -> Kernel:
    """Product of float32 [..., m, k] and [..., k, n], equal in what is before, or with nothing before on the right.

    The right operand is packed as weights are, each time.
    """
    data, other = te.placeholder(tuple(left), "float32", "data"), te.placeholder(tuple(right), "float32", "other")
    *lead, rows, depth = left
    columns = right[-1]
    lanes = vector_lanes(columns, host)
    padded = round_up(columns, lanes)
    counts = vector_counts(padded // lanes, padded == columns, host)
    pixels = best_tile(tiles_of(rows, counts, lanes, host), rows, depth).pixels
    padded_rows = round_up(rows, pixels)

    def pack(*index: Expr) -> Expr:
        *outer, block, k, lane = index
        c = block * lanes + lane
        held = other(*outer, k, c)
        return held if padded == columns else tirx.if_then_else(c < columns, held, tirx.const(0.0, "float32"))

    packed = te.compute((*right[:-2], padded // lanes, depth, lanes), pack, "packed")
    k = te.reduce_axis((0, depth), "kc")

    def multiply(*index: Expr) -> Expr:
        *outer, row, c = index
        taken = row if padded_rows == rows else tirx.min(row, rows - 1)
        own = outer if len(right) > 2 else []
        weight = packed(*own, tirx.floordiv(c, lanes), k, tirx.floormod(c, lanes))
        return te.sum(data(*outer, taken, k) * weight, axis=[k])

    sums = te.compute((*lead, padded_rows, padded), multiply, "sums", attrs={RULE: "tile", LANES: lanes})
    output = te.compute((*lead, rows, columns), lambda *i: sums(*i), "product")
    return Kernel((data, other), (), output)
