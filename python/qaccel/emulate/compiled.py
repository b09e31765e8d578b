"""The heavy steps of the executors compiled for this CPU: each kind once in a process, for arrays of any size.

To compile a network takes seconds for each of its layers' shapes, which a calibration of a hundred samples does not earn back.
Arrays are NHWC here. A function runs in the thread that calls it, without Python's lock: samples run side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from threading import Lock

import numpy as np
import tvm_ffi
from tvm import s_tir, te, tirx

from ..cpu.functions import FUNCTIONS
from ..dialect import kernels
from ..schedules.any_shape import dense, depthwise, rows
from ..schedules.any_shape.functions import compiled
from ..schedules.host import host_of, this_machine

WORTH_MACS = 20_000_000  # of one sample: networks with fewer are done in NumPy before the first function is compiled
WORTH_VALUES = 1 << 16  # of an array: fewer are done in NumPy at once
_MOST_VALUES = (1 << 31) - 1  # functions count in 32 bits
_TILES_OF_TASK = 8
ALIGNMENT = 64  # bytes; TVM takes it for granted of arrays that its own tensor expressions read and write
_ROW = 1024  # values of an element-wise function's inner loop
_MAKERS: dict[str, Callable[..., tirx.PrimFunc]] = {
    "dense": lambda dtype: dense.dense(host_of(this_machine()), dtype),
    "depthwise": lambda dtype: depthwise.depthwise(host_of(this_machine()), dtype),
    "padded": rows.padded,
    "limited": rows.limited,
    "requantized": rows.requantized,
    "looked_up": rows.looked_up,
    "combined": rows.combined,
    "elementwise": lambda name: _elementwise(FUNCTIONS[name]),
}


_compiling = Lock()
_functions: dict[tuple[str, ...], Callable[..., None]] = {}


def _function(*how: str) -> Callable[..., None]:
    """The function of a kind, how[0], compiled at its first use; several threads may ask."""
    with _compiling:
        if how not in _functions:
            kind, *which = how
            _functions[how] = compiled(_MAKERS[kind](*which), this_machine())
        return _functions[how]


def _call(function: Callable[..., None], arrays: tuple[np.ndarray, ...], *scalars: int | float) -> None:
    """Calls a function with arrays, contiguous in memory, as flat ones."""
    function(*(tvm_ffi.from_dlpack(_writable(array).reshape(-1)) for array in arrays), *scalars)


def _writable(array: np.ndarray) -> np.ndarray:
    """DLPack takes no read-only array."""
    return array if array.flags.writeable else array.copy()


def fits(*arrays: np.ndarray) -> bool:
    """Whether arrays are worth a compiled function, and such that it can count their values."""
    return max(a.size for a in arrays) >= WORTH_VALUES and max(a.size for a in arrays) <= _MOST_VALUES


class Convolution:
    """A convolution without its bias. ``weight`` [oc, ic / groups, kh, kw]; sums in ``dtype``, float32 or float64."""

    def __init__(self, weight: np.ndarray, window: kernels.SlidingWindow, groups: int, dtype: str) -> None:
        self.weight, self.window, self.groups, self.dtype = weight, window, groups, dtype
        self._unpadded = replace(window, pads=(0, 0, 0, 0))
        self.of_each = groups > 1 and weight.shape[:2] == (groups, 1)
        self._host = host_of(this_machine())
        if self.of_each:
            self._packed = np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0), dtype)
        else:
            self._packed = dense.packed(weight, groups, dense.block_channels(self._host, dtype), dtype)

    def __call__(self, x: np.ndarray, zero_point: int = 0) -> np.ndarray:
        """The sums of ``x - zero_point`` [n, h, w, ic], where padding is zero."""
        oc, icg, kh, kw = self.weight.shape
        (sh, sw), (dh, dw) = self.window.strides, self.window.dilation
        oh, ow = self.window.output(*x.shape[1:3])
        data = self._prepared(x, zero_point)
        n, ih, iw, ic = data.shape
        out = aligned((n, oh, ow, oc), self.dtype)
        if not out.size:
            return out
        if max(data.size, out.size) > _MOST_VALUES:
            whole = kernels.conv2d(
                data.transpose(0, 3, 1, 2), self.weight.astype(self.dtype), self._unpadded, self.groups
            )
            return whole.transpose(0, 2, 3, 1)
        if self.of_each:
            of_rows = (n * oh, oh, ow, ih, iw, ic, kh, kw, sh, sw, dh, dw)
            _call(_function("depthwise", self.dtype), (data, self._packed, out), *of_rows)
            return out
        columns, run = kw, icg
        if dw == 1 and self.groups == 1:
            columns, run = 1, kw * icg  # pixels side by side are neighbours in memory
        if (kh, kw, sh, sw) == (1, 1, 1, 1):
            oh, ow, ih, iw = 1, n * oh * ow, 1, n * ih * iw
        count = out.size // oc
        tasks = -(-count // (dense.tile_pixels(self._host) * _TILES_OF_TASK))
        sizes = (
            count, oh, ow, ih, iw, ic, icg, oc // self.groups, self.groups, kh, columns, run, sh, sw, dh, dw,
            _TILES_OF_TASK, tasks,
        )  # fmt: skip
        _call(_function("dense", self.dtype), (data, self._packed, out), *sizes)
        return out

    def _prepared(self, x: np.ndarray, zero_point: int) -> np.ndarray:
        """``x - zero_point`` in the dtype of the sums, with zeros around it."""
        x = np.ascontiguousarray(x)
        top, left, bottom, right = self.window.pads
        if not any(self.window.pads) and zero_point == 0 and str(x.dtype) == self.dtype:
            return x
        n, h, w, c = x.shape
        data = np.empty((n, h + top + bottom, w + left + right, c), self.dtype)
        oh, ow = data.shape[1:3]
        _call(_function("padded", str(x.dtype), self.dtype), (x, data), n * oh, oh, ow, h, w, c, top, left, zero_point)
        return data


def product(matrix: np.ndarray) -> Convolution:
    """The product of rows [1, 1, rows, depth] with a float32 matrix [depth, columns]."""
    window = kernels.SlidingWindow((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    return Convolution(np.ascontiguousarray(matrix.T)[:, :, None, None], window, 1, "float32")


def limited(values: np.ndarray, bias: np.ndarray, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By channel, float64: the sum of ``values + bias`` within ``lo`` to ``hi``, and how many lie between; all [channels]."""
    channels = values.shape[-1]
    if not fits(values) or not values.flags.c_contiguous or channels < 4:
        return limited_in_numpy(values, bias, lo, hi)
    made = np.zeros((2, channels))
    given = [np.ascontiguousarray(each, np.float64) for each in (bias, lo, hi)]
    _call(
        _function("limited", str(values.dtype)), (values, *given, made[0], made[1]), values.size // channels, channels
    )
    return made[0], made[1]


def limited_in_numpy(
    values: np.ndarray, bias: np.ndarray, lo: np.ndarray, hi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same."""
    moved = values.reshape(-1, values.shape[-1]) + bias.astype(np.float64)
    inside = np.count_nonzero((moved > lo) & (moved < hi), axis=0)
    return np.clip(moved, lo, hi).sum(axis=0), inside.astype(np.float64)


def elementwise(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function of FUNCTIONS, by its operator's name, on float32 arrays in any memory order."""

    def apply(x: np.ndarray) -> np.ndarray:
        order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
        dense = np.ascontiguousarray(x.transpose(order))  # no copy where all values lie side by side in some order
        flat = dense.reshape(-1)
        whole = -(-flat.size // _ROW) * _ROW
        if whole != flat.size or flat.ctypes.data % ALIGNMENT or not flat.flags.writeable:
            flat = aligned((whole,), "float32")
            flat[: x.size], flat[x.size :] = dense.reshape(-1), 0
        made = aligned((whole,), "float32")
        _function("elementwise", name)(*(tvm_ffi.from_dlpack(each.reshape(-1, _ROW)) for each in (flat, made)))
        return made[: x.size].reshape(dense.shape).transpose(np.argsort(order))

    return apply


def aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array that begins where vectors do, of values that are not set; NumPy's begin at multiples of 16 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT
    return raw[begin : begin + size].view(dtype).reshape(shape)


def _elementwise(function: Callable[[te.Tensor], te.Tensor]) -> tirx.PrimFunc:
    source = te.placeholder((te.var("rows"), _ROW), "float32", "source")
    schedule = s_tir.Schedule(te.create_prim_func([source, function(source)]))
    *inner, _ = schedule.get_child_blocks(schedule.get_sblock("root"))
    for block in inner:
        schedule.compute_inline(block)
    return schedule.mod["main"]


def table(q: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """The entry of every int8 value, counted from -128."""
    out = np.empty(q.shape, entries.dtype)
    q = np.ascontiguousarray(q)
    _call(_function("looked_up", str(entries.dtype)), (q, entries, out), q.size)
    return out


def requantize(sums: np.ndarray, bias: np.ndarray, scale: np.ndarray, ending: tuple[int, int, int, str]) -> np.ndarray:
    """`rescale.requantize` of exact sums below 2**53 [..., channels] in float32 or float64; ``scale`` float64 [channels]."""
    zero_point, lo, hi, dtype = ending
    out = np.empty(sums.shape, dtype)
    channels = sums.shape[-1]
    arrays = (sums, bias.astype(np.float64), np.ascontiguousarray(scale, np.float64), out)
    _call(_function("requantized", str(sums.dtype), dtype), arrays, sums.size // channels, channels, zero_point, lo, hi)
    return out


def combine(
    kind: str, operands: tuple[np.ndarray, np.ndarray], zero_points: tuple[int, int],
    factors: tuple[float, float, float], ending: tuple[int, int, int, str],
) -> np.ndarray:  # fmt: skip
    """Two integer arrays of one shape centred, multiplied by their factors, combined, multiplied by the third, rounded, clamped.

    ``kind``: of rows.COMBINED.
    """
    zero_point, lo, hi, dtype = ending
    a, b = (np.ascontiguousarray(each) for each in operands)
    out = np.empty(a.shape, dtype)
    function = _function("combined", kind, str(a.dtype), str(b.dtype), dtype)
    _call(function, (a, b, out), a.size, *zero_points, zero_point, lo, hi, *map(float, factors))
    return out
