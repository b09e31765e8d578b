"""Convolution and pooling in NumPy: im2col and one matrix product, or one pass per kernel tap for depthwise.

Values are NCHW by shape but channels-last in memory wherever these kernels made them, so that products need no
transposed copies and every inner loop runs over contiguous channels. Element-wise NumPy keeps that memory order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

COLUMN_BYTES = 32 << 20  # im2col works in pieces of at most this size
BLOCK_BYTES = 128 << 10  # depthwise works on output rows of about this size, which stay in the L2 cache


@dataclass(frozen=True)
class SlidingWindow:
    """A sliding window over height and width: kernel, strides, dilation (h, w) and pads (top, left, bottom, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Output size for an input of height x width, rounded down."""
        sizes = []
        for axis, size in enumerate((height, width)):
            span = (self.kernel[axis] - 1) * self.dilation[axis] + 1
            sizes.append((size + self.pads[axis] + self.pads[axis + 2] - span) // self.strides[axis] + 1)
        return sizes[0], sizes[1]


def channels_last(x: np.ndarray) -> np.ndarray:
    """NCHW to contiguous NHWC; no copy where the memory is channels-last already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def padded(x: np.ndarray, pads: Sequence[int], value: float = 0.0) -> np.ndarray:
    """NHWC with (top, left, bottom, right) cells of `value` around it."""
    top, left, bottom, right = pads
    if not any(pads):
        return x
    n, h, w, c = x.shape
    out = np.empty((n, h + top + bottom, w + left + right, c), x.dtype)
    out[:, :top] = out[:, top + h :] = value
    out[:, top : top + h, :left] = out[:, top : top + h, left + w :] = value
    out[:, top : top + h, left : left + w] = x
    return out


def windows(x: np.ndarray, window: SlidingWindow, out: tuple[int, int]) -> np.ndarray:
    """View [N, OH, OW, KH, KW, C] of a padded NHWC array."""
    n, _, _, c = x.shape
    sn, sh, sw, sc = x.strides
    (kh, kw), (th, tw), (dh, dw) = window.kernel, window.strides, window.dilation
    shape = (n, *out, kh, kw, c)
    return as_strided(x, shape, (sn, sh * th, sw * tw, sh * dh, sw * dw, sc), writeable=False)


def conv2d(x: np.ndarray, weight: np.ndarray, window: SlidingWindow, groups: int) -> np.ndarray:
    """Convolution of NCHW `x` with OIHW `weight`, no bias; returns NCHW, channels-last in memory."""
    oc, ic_group, kh, kw = weight.shape
    data = padded(channels_last(x), window.pads)
    out = window.output(x.shape[2], x.shape[3])
    if groups > 1 and ic_group == 1:
        if oc > groups:
            data = np.repeat(data, oc // groups, axis=3)
        return depthwise(data, weight, window, out).transpose(0, 3, 1, 2)
    matrix = np.ascontiguousarray(weight.reshape(groups, oc // groups, ic_group, kh * kw).transpose(0, 3, 2, 1))
    matrix = matrix.reshape(groups, kh * kw * ic_group, oc // groups)
    n = data.shape[0]
    result = np.empty((n, *out, oc), np.result_type(x, weight))
    if (kh, kw) == (1, 1) and groups == 1:
        if window.strides != (1, 1):
            data = data[:, :: window.strides[0], :: window.strides[1]][:, : out[0], : out[1]]
        np.matmul(data.reshape(-1, ic_group), matrix[0], out=result.reshape(-1, oc))
        return result.transpose(0, 3, 1, 2)
    view = windows(data, window, out)
    rows = max(1, COLUMN_BYTES // max(1, out[1] * kh * kw * data.shape[3] * data.itemsize))
    images = max(1, rows // out[0])
    for first in range(0, n, images):
        for top in range(0, out[0], rows):
            piece = view[first : first + images, top : top + rows]
            target = result[first : first + images, top : top + rows]
            shape = target.shape[:3]
            if groups == 1:
                target[...] = (piece.reshape(-1, matrix.shape[1]) @ matrix[0]).reshape(target.shape)
                continue
            columns = (
                piece.reshape(-1, kh * kw, groups, ic_group).transpose(2, 0, 1, 3).reshape(groups, -1, matrix.shape[1])
            )
            target[...] = np.matmul(columns, matrix).transpose(1, 0, 2).reshape(*shape, oc)
    return result.transpose(0, 3, 1, 2)


def depthwise(data: np.ndarray, weight: np.ndarray, window: SlidingWindow, out: tuple[int, int]) -> np.ndarray:
    """Depthwise convolution of padded NHWC `data` with weight [C,1,KH,KW]; returns NHWC.

    One multiply-add over whole blocks of rows per kernel tap. The weights are repeated along the row and the columns of
    a strided convolution are split by phase, so that a row of W x C values is one contiguous inner loop.
    """
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.strides, window.dilation
    n, height, width, c = data.shape
    oh, ow = out
    phases = [np.ascontiguousarray(data[:, :, p::sw]) if sw > 1 else data for p in range(sw)]
    taps = np.ascontiguousarray(weight.reshape(c, kh, kw).transpose(1, 2, 0))
    repeated = np.tile(taps, (1, 1, ow))  # [KH, KW, OW*C]
    result = np.empty((n, oh, ow, c), np.result_type(data, weight))
    flat = result.reshape(n, oh, ow * c)
    lines = [p.reshape(n, height, p.shape[2] * c) for p in phases]
    rows = max(1, BLOCK_BYTES // (ow * c * result.itemsize))
    if rows < oh or n == 1:
        images = 1
        rows = -(-oh // -(-oh // rows))
    else:
        images, rows = max(1, rows // oh), oh
    scratch = np.empty((images, rows, ow * c), result.dtype)
    for first in range(0, n, images):
        for top in range(0, oh, rows):
            target = flat[first : first + images, top : top + rows]
            temp = scratch[: target.shape[0], : target.shape[1]]
            for i in range(kh):
                for j in range(kw):
                    line = lines[j * dw % sw]
                    begin = j * dw // sw * c
                    y = top * sh + i * dh
                    cut = line[
                        first : first + images, y : y + (target.shape[1] - 1) * sh + 1 : sh, begin : begin + ow * c
                    ]
                    if i == j == 0:
                        np.multiply(cut, repeated[i, j], out=target)
                    else:
                        np.multiply(cut, repeated[i, j], out=temp)
                        target += temp
    return result


def max_pool2d(x: np.ndarray, window: SlidingWindow) -> np.ndarray:
    """Maximum over windows of NCHW; padding never wins."""
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    out = window.output(x.shape[2], x.shape[3])
    result: np.ndarray | None = None
    for cut in _taps(padded(channels_last(x), window.pads, lowest), window, out):
        result = cut.copy() if result is None else np.maximum(result, cut, out=result)
    assert result is not None
    return result.transpose(0, 3, 1, 2)


def avg_pool2d(x: np.ndarray, window: SlidingWindow, count_include_pad: bool) -> np.ndarray:
    """Mean over windows of NCHW; padding counts as zeros, or not at all."""
    height, width = x.shape[2:]
    if window.kernel == (height, width) and not any(window.pads):
        return x.mean(axis=(2, 3), keepdims=True, dtype=x.dtype)
    out = window.output(height, width)
    total: np.ndarray | None = None
    for cut in _taps(padded(channels_last(x), window.pads), window, out):
        total = cut.copy() if total is None else np.add(total, cut, out=total)
    assert total is not None
    if count_include_pad or not any(window.pads):
        total /= window.kernel[0] * window.kernel[1]
    else:
        ones = padded(np.ones((1, height, width, 1), x.dtype), window.pads)
        total /= windows(ones, window, out).sum(axis=(3, 4))
    return total.transpose(0, 3, 1, 2)


def _taps(data: np.ndarray, window: SlidingWindow, out: tuple[int, int]) -> list[np.ndarray]:
    """For each kernel tap the values it meets: views [N, OH, OW, C] of padded NHWC data."""
    view = windows(data, window, out)
    return [view[:, :, :, i, j] for i in range(window.kernel[0]) for j in range(window.kernel[1])]
