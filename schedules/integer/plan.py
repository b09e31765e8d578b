"""How the integer kernel divides a convolution: tiles of pixels, blocks of channels, runs of the reduction, sums that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...dialect.operators import ConvAttrs
from .pack import Mac, mac_of
from .vectors import Vectors

_MOST_VECTORS = 8  # output vectors of a tile
_TASKS = 32  # as many at least, if there are so many tiles
_TASK_BYTES = 16 << 10  # of a task's input
_ROW_PIXELS = 24  # a task has rows for about this many pixels at least
_MOST_BYTES = 256 << 10  # of a task's input, of all plans


@dataclass(frozen=True)
class ConvPlan:
    """``pixels`` x ``vectors`` of output channels: the register tile. ``share``: how much of the output a task computes, in rows,
    or in tiles where rows do not matter."""

    pixels: int
    vectors: int
    share: int


@dataclass(frozen=True, eq=False)
class Dense:
    """A convolution as the kernel sees it: input [N, H, W, C], weight OHWI over ``width`` channels from ``firsts`` on.

    ``halves``: weights of two steps lie in one byte, the first in its lower half. ``firsts`` [blocks]: the first input channel of
    each block of output channels, all zero without groups. ``share``: as in `ConvPlan`, None for what the rule gives.
    """

    isa: Vectors
    attrs: ConvAttrs
    mac: Mac
    shape: tuple[int, ...]
    out_size: tuple[int, int]
    channels: int
    kernel: tuple[int, int]
    per_block: int  # vectors
    tile: int  # pixels
    firsts: tuple[int, ...]
    width: int
    halves: bool = False
    share: int | None = None

    @property
    def flat(self) -> bool:
        """Whether output pixels are input pixels, so that the image's rows do not matter."""
        return self.kernel == (1, 1) and self.attrs.strides == (1, 1) and not any(self.attrs.padding)

    @property
    def gathered(self) -> bool:
        """Whether a task copies only the pixels that are read: those that strides leave of windows of one pixel."""
        return self.kernel == (1, 1) and self.attrs.strides != (1, 1) and not any(self.attrs.padding)

    @cached_property
    def joined(self) -> bool:
        """Whether a row of a window's taps is one run."""
        return self.attrs.dilation[1] == 1 and self.attrs.groups == 1

    @cached_property
    def runs(self) -> tuple[int, int, int]:
        """(rows, columns, length) of the runs that the reduction consists of; lengths in values."""
        kh, kw = self.kernel
        return (kh, 1, kw * self.width) if self.joined else (kh, kw, self.width)

    @cached_property
    def steps(self) -> int:
        """Instructions per run."""
        whole = self.mac.depth * (2 if self.halves else 1)
        return -(-self.runs[2] // whole) * whole // self.mac.depth

    @property
    def unit(self) -> int:
        """What one product counts in the sums: halves of bytes are multiplied where they lie."""
        return 16 if self.halves and self.mac.kind == "bytes4" else 1

    @cached_property
    def vectors(self) -> int:
        """Vectors of output channels."""
        return -(-self.channels // self.isa.lanes)

    @cached_property
    def rows(self) -> int:
        """Output rows of a task."""
        height, width = self.out_size
        if self.share is not None and not self.flat:
            return self.share
        return next(r for r in range(1, height + 1) if height % r == 0 and (r == height or r * width >= _ROW_PIXELS))

    @cached_property
    def pixels(self) -> int:
        """Output pixels of a task; of everything where rows do not matter."""
        width = self.out_size[1]
        return self.shape[0] * self.out_size[0] * width if self.flat else self.rows * width

    @cached_property
    def tiles(self) -> int:
        """Tiles of a task: so many that its input stays in the first cache, and that there are enough tasks."""
        whole = -(-self.pixels // self.tile)
        if not self.flat:
            return whole
        if self.share is not None:
            return self.share
        most = min(whole // _TASKS, _TASK_BYTES // (self.tile * self.shape[3]))
        return max(n for n in range(1, max(1, most) + 1) if whole % n == 0)

    @cached_property
    def tasks(self) -> int:
        """Parts that may run at the same time."""
        if self.flat:
            return -(-self.pixels // (self.tile * self.tiles))
        return self.shape[0] * self.out_size[0] // self.rows

    @cached_property
    def pitch(self) -> int:
        """Elements of a task's input row, with its padding."""
        _, left, _, right = self.attrs.padding
        width = self.out_size[1] if self.gathered else self.shape[2] + left + right
        return width * self.shape[3]

    @property
    def strides(self) -> tuple[int, int]:
        """Of the windows in a task's input."""
        return (1, 1) if self.gathered else self.attrs.strides

    @cached_property
    def in_rows(self) -> int:
        """Input rows of a task."""
        return (self.rows - 1) * self.strides[0] + (self.kernel[0] - 1) * self.attrs.dilation[0] + 1


def described(
    operator: str, attrs: ConvAttrs, shape: tuple[int, ...], weight: tuple[int, ...], form: Sequence[Any]
) -> str:
    """What of a convolution decides how fast a plan is; ``form``: what its values make of the code."""
    geometry = (attrs.strides, attrs.padding, attrs.dilation, attrs.groups)
    bits = f"W{attrs.weight_bits}A{attrs.source.bits} to {attrs.result.bits}"
    return f"{operator} {shape} by {weight} {geometry} {bits} {list(form)}"


def conv_plans(narrow: Dense) -> list[ConvPlan]:
    """All plans of a convolution, the rule's first; ``narrow``: as `untiled` gives it."""
    own = _ruled(narrow)
    plans = [own]
    for size in _block_sizes(narrow):
        for tile in _tile_sizes(narrow, size):
            plans += [
                plan for share in _shares(tiled(narrow, tile, size)) if (plan := ConvPlan(tile, size, share)) != own
            ]
    return plans


def planned(narrow: Dense, plan: ConvPlan) -> Dense:
    """The convolution as ``plan`` divides it."""
    return replace(tiled(narrow, plan.pixels, plan.vectors), share=plan.share)


def untiled(
    isa: Vectors, attrs: ConvAttrs, shape: tuple[int, ...], weight: np.ndarray, out_size: tuple[int, int], bound: int
) -> Dense:
    """The convolution as it is before a plan divides it, in tiles of one pixel and one vector; ``bound`` on all sums."""
    channels, kh, kw, per_group = weight.shape
    mac = mac_of(isa, attrs)
    return _with_halves(Dense(isa, attrs, mac, shape, out_size, channels, (kh, kw), 1, 1, (0,), per_group), bound)


def _ruled(narrow: Dense) -> ConvPlan:
    """Tile and block with the fewest cycles by a simple count of multiplications, loads and latency."""
    vectors, pixels, kh = narrow.vectors, narrow.pixels, narrow.kernel[0]

    def half_cycles(tile: int, size: int) -> float:
        return max(tile * size, tile + size, 10) + 1 + 30 * tile * size / (narrow.steps * kh) if size else 0.0

    def total(choice: tuple[int, int]) -> float:
        tile, size = choice
        return -(-pixels // tile) * (vectors // size * half_cycles(tile, size) + half_cycles(tile, vectors % size))

    sizes = _block_sizes(narrow)
    tile, size = min(((tile, size) for size in sizes for tile in _tile_sizes(narrow, size)), key=total)
    chosen = tiled(narrow, tile, size)
    return ConvPlan(tile, size, chosen.tiles if chosen.flat else chosen.rows)


def _block_sizes(narrow: Dense) -> list[int]:
    """In vectors; a block of several lies in one group."""
    groups = narrow.attrs.groups
    group = narrow.channels // groups
    return [
        size
        for size in range(1, min(_MOST_VECTORS, narrow.vectors) + 1)
        if groups == 1 or size == 1 or group % (size * narrow.isa.lanes) == 0
    ]


def _tile_sizes(narrow: Dense, size: int) -> range:
    """In pixels: what registers hold beside the weights of a block of ``size`` vectors."""
    held = 2 if narrow.halves else 1  # vectors of weights per vector of channels
    spare = 2 if narrow.isa.words2 is None and narrow.mac.kind == "words2" else 1
    return range(1, min(narrow.pixels, max(1, (narrow.isa.registers - spare - held * size) // size)) + 1)


def _shares(chosen: Dense) -> list[int]:
    """How much a task may compute, by divisors: so little that its input stays in the second cache."""
    if not chosen.flat:
        height = chosen.out_size[0]
        rows = [r for r in range(1, height + 1) if height % r == 0 and r * chosen.out_size[1] >= chosen.tile]
        return [r for r in rows if replace(chosen, share=r).in_rows * chosen.pitch <= _MOST_BYTES]
    whole = -(-chosen.pixels // chosen.tile)
    most = min(chosen.pixels // chosen.tile, max(1, _MOST_BYTES // (chosen.tile * chosen.shape[3])))
    return [n for n in range(1, most + 1) if whole % n == 0]


def tiled(narrow: Dense, tile: int, size: int) -> Dense:
    """``narrow`` in tiles of so many pixels and vectors, each task's share by rule."""
    blocks, attrs, lanes = -(-narrow.vectors // size), narrow.attrs, narrow.isa.lanes
    per_group, group = narrow.width, narrow.channels // attrs.groups
    if attrs.groups == 1:
        firsts, width = [0] * blocks, per_group
    else:
        ends = [min((b + 1) * size * lanes, narrow.channels) for b in range(blocks)]
        firsts = [b * size * lanes // group * per_group for b in range(blocks)]
        width = max(-(-end // group) * per_group - first for first, end in zip(firsts, ends, strict=True))
    return replace(narrow, per_block=size, tile=tile, firsts=tuple(firsts), width=width)


@dataclass(frozen=True, eq=False)
class Sums:
    """How accumulators add up: in 32 bits at once, or in ``segment`` steps of each run that are added in float64.

    ``planes``: factors of the parts that weights are split into; one part is not split.
    """

    segment: int | None
    planes: tuple[int, ...]


def _with_halves(dense: Dense, bound: int) -> Dense:
    """The same, with 4-bit weights two in a byte where that saves something and the sums have room for it."""
    halves = replace(dense, halves=True)
    saves = dense.attrs.weight_bits == 4 and dense.steps > 1
    return halves if saves and bound * halves.unit < 1 << 31 else dense


def sums_of(attrs: ConvAttrs, mac: Mac, weight: np.ndarray, bound: np.ndarray) -> Sums:
    """Sums that cannot overflow: OHWI ``weight`` int64, ``bound`` [OC] on the absolute of sum and bias."""
    split = attrs.weight_bits == attrs.source.bits == 16
    if int(bound.max()) < 1 << 31 and not split:
        return Sums(None, (1,))
    largest = 1 << 7 if split else max(1, int(np.abs(weight).max()))
    value = 255 if mac.base == -128 else attrs.source.reach
    return Sums(max(1, ((1 << 31) - 1) // (mac.depth * largest * value)), (256, 1) if split else (1,))


def packed_weight(dense: Dense, weight: np.ndarray, planes: tuple[int, ...], order: np.ndarray) -> np.ndarray:
    """Flat: [block][plane][run][step][vector][lane][depth]; a block holds whole vectors, but for the last."""
    isa, mac = dense.isa, dense.mac
    kh, kw, per_group = weight.shape[1:]
    group = len(weight) // dense.attrs.groups
    run_rows, run_columns, length = dense.runs
    pieces = []
    for block, first in enumerate(dense.firsts):
        lanes = order[block * dense.per_block * isa.lanes :][: dense.per_block * isa.lanes]
        wide = np.zeros((len(lanes), kh, kw, dense.width), np.int64)
        for k, channel in enumerate(lanes):
            if channel >= 0:
                begin = channel // group * per_group - first if dense.attrs.groups > 1 else 0
                wide[k, :, :, begin : begin + per_group] = weight[channel]
        runs = wide.reshape(len(lanes), run_rows * run_columns, length)
        steps = np.zeros((*runs.shape[:2], dense.steps * mac.depth), np.int64)
        steps[:, :, :length] = runs
        parts = [steps]
        if len(planes) == 2:
            low = ((steps + 128) & 255) - 128
            parts = [(steps - low) >> 8, low]
        for part in parts:
            laid = part.reshape(len(lanes), runs.shape[1], dense.steps, mac.depth).transpose(1, 2, 0, 3)
            if dense.halves:
                laid = ((laid[:, ::2] & 15) + (laid[:, 1::2] << 4)).astype(np.uint8).view(np.int8)
            pieces.append(laid.reshape(-1))
    # The high part of a split weight may be 128.
    dtype = np.int8 if dense.attrs.weight_bits <= 8 else np.int16
    return np.concatenate(pieces).astype(dtype)
