"""The schedule of dense and grouped convolutions and of matrix products: the sums of a register tile, weights packed to fit it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import s_tir
from tvm.s_tir.schedule import LoopRV, SBlockRV

from ..host import Host
from .computations import BORDER, LANES
from .loops import PARALLEL_WORK, extent, extents, inline_epilogue, vectorized
from .tiles import Tile, best_tile, divisors, tiles_of, vector_counts
from .zeros import SKIPS_ZEROS

_MOST_UNROLLED = 12  # steps of a reduction (taps times input channels) that is written out without a loop
# Skipping zeros takes a loop over channels for each column of the window at which pixels of a tile are outside the input: at most
# about so many. Where registers are few, LLVM writes shorter loops than this out together, and keeps what they read on the stack.
_MOST_COLUMNS, _FEW_CHANNELS, _FEW_REGISTERS = 32, 12, 16


@dataclass(frozen=True)
class TilePlan:
    """``pixels`` x ``vectors``: the register tile. ``rows``: output rows in one piece of work for a core. ``channels_first``:
    whether the loop over blocks of channels lies outside the loop over rows, so that weights are read once, or inside, so that
    the input is."""

    pixels: int
    vectors: int
    rows: int
    channels_first: bool


@dataclass(frozen=True)
class _Shape:
    """Sizes of a block of sums, and of what is around it."""

    lanes: int
    outer: int  # iterations of all loops outside the rows, together
    height: int  # rows
    width: int  # pixels in a row
    channels: int  # of the sums: those of the output, rounded up to a multiple of the lanes
    stored: int  # channels of the output
    depth: int  # steps of the reduction
    copied: bool  # whether a copy of the input with zeros around it is made first


def _shape(schedule: s_tir.Schedule, main: SBlockRV, host: Host) -> _Shape:
    block = schedule.get(main)
    sizes = extents(schedule, schedule.get_loops(main))
    reduced = sum(int(var.iter_type) == 2 for var in block.iter_vars)
    *outer, width, channels = sizes[: len(sizes) - reduced]
    consumers = schedule.get_consumers(main)
    stored = extents(schedule, schedule.get_loops(consumers[0]))[-1] if consumers else channels
    height = outer[-1] if outer else 1
    return _Shape(
        int(block.annotations[LANES]), math.prod(outer[:-1]), height, width, channels, stored,
        math.prod(sizes[len(sizes) - reduced :]), bool(_borders(schedule, main)) and not _skips_zeros(sizes[-2], sizes[-1], host),
    )  # fmt: skip


def _skips_zeros(columns: int, channels: int, host: Host) -> bool:
    """Whether the sums over a window of so many columns, and so many channels, leave out the zeros around the input."""
    return columns <= _MOST_COLUMNS and (channels >= _FEW_CHANNELS or host.registers > _FEW_REGISTERS)


def _borders(schedule: s_tir.Schedule, main: SBlockRV) -> list[SBlockRV]:
    """The block that copies the input of ``main`` with zeros around it, if there is one."""
    return [block for block in schedule.get_producers(main) if BORDER in schedule.get(block).annotations]


def tile_plans(schedule: s_tir.Schedule, main: SBlockRV, host: Host) -> list[TilePlan]:
    """All plans for the block ``main``, the default first."""
    shape = _shape(schedule, main, host)
    counts = vector_counts(shape.channels // shape.lanes, shape.channels == shape.stored, host)
    tiles = [t for t in tiles_of(shape.width, counts, shape.lanes, host) if shape.width % t.pixels == 0]
    best = best_tile(tiles, shape.width, shape.depth, host)
    plans = [_default(shape, best, host)]
    for tile in tiles:
        for rows in divisors(shape.height, shape.height):
            for first in (False, True):
                plan = TilePlan(tile.pixels, tile.vectors, rows, first)
                if plan not in plans and not (first and shape.copied) and _even(_shared(shape, plan), host):
                    plans.append(plan)
    return plans


def _shared(shape: _Shape, plan: TilePlan) -> int:
    """How many pieces of work the cores share."""
    blocks = shape.channels // shape.lanes // plan.vectors
    return shape.outer * (shape.height // plan.rows) * (1 if shape.copied else blocks)


def _even(shared: int, host: Host) -> bool:
    """Whether every core gets about the same of ``shared`` pieces of work."""
    return shared % host.cores == 0 or shared > 16 * host.cores


def _default(shape: _Shape, tile: Tile, host: Host) -> TilePlan:
    """The plan for a tile without measurements: the most rows that leave every core four pieces; one row if none do."""
    weights = shape.channels * shape.depth
    first = not shape.copied and weights > shape.height * shape.width * shape.depth
    chunks = divisors(shape.height, shape.height)
    plans = [TilePlan(tile.pixels, tile.vectors, chunk, first) for chunk in chunks]
    even = [p for p in plans if (s := _shared(shape, p)) >= 4 * host.cores and _even(s, host)]
    return max(even or plans[:1], key=lambda plan: plan.rows)


def schedule_tile(schedule: s_tir.Schedule, main: SBlockRV, host: Host, plan: TilePlan) -> None:
    """Schedules the function around ``main``, whose loops are (..., x, c) and, over the reduction, (ky, kx, channel) or (channel).

    The sums of a tile stay in registers over the whole reduction, and the element-wise operators after it are computed there.
    """
    shape = _shape(schedule, main, host)
    border = _borders(schedule, main)
    if not border:
        for block in schedule.get_producers(main):
            _alone(schedule, block, host)
    elif not shape.copied:
        schedule.compute_inline(border[0])
        schedule.annotate(main, SKIPS_ZEROS, 1)
    after = inline_epilogue(schedule, main)
    loops = schedule.get_loops(main)
    work = math.prod(extents(schedule, loops))
    reduced = sum(int(var.iter_type) == 2 for var in schedule.get(main).iter_vars)
    *outer, x, c = loops[: len(loops) - reduced]
    reduction = loops[len(loops) - reduced :]
    y = outer.pop() if outer else schedule.add_unit_loop(x)
    xo, xi = schedule.split(x, [None, plan.pixels])
    co, cv, cl = schedule.split(c, [None, plan.vectors, shape.lanes])
    yp, yq = schedule.split(y, [None, plan.rows])
    shared = [*outer, co, yp] if plan.channels_first else [*outer, yp, co]
    schedule.reorder(*shared, yq, xo, *reduction, xi, cv, cl)
    # The output's last vector is not full. If there are more vectors than one tile has, the output is stored after the tiles.
    separate = after is not None and shape.stored != shape.channels and extent(schedule, co) > 1
    if after is not None and not separate:
        schedule.reverse_compute_at(after, xo, preserve_unit_loops=True)
        ax, ac = schedule.get_loops(after)[-2:]
        parts = vectorized(schedule, ac, shape.lanes)
        if parts is not None:
            schedule.unroll(parts[0])
            schedule.unroll(ax)
    if shape.copied:
        _border(schedule, border[0], yp if _shared(shape, plan) >= host.cores else None, host)
        shared = shared[:-1]
    fused = schedule.fuse(*shared) if len(shared) > 1 else shared[0]
    if work >= PARALLEL_WORK and extent(schedule, fused) > 1:
        schedule.parallel(fused)
    schedule.vectorize(cl)
    for loop in (cv, xi):
        schedule.unroll(loop)
    if shape.depth <= _MOST_UNROLLED:
        for loop in reduction:
            schedule.unroll(loop)
    schedule.decompose_reduction(main, reduction[0])
    if separate:
        assert after is not None
        vectorized(schedule, schedule.get_loops(after)[-1], shape.lanes)


def _border(schedule: s_tir.Schedule, border: SBlockRV, at: LoopRV | None, host: Host) -> None:
    """Schedules the copy of the input with zeros around it: for each piece of rows inside the loop ``at``, or once if None."""
    if at is not None:
        schedule.compute_at(border, at)
        vectorized(schedule, schedule.get_loops(border)[-1], host.lanes)
    else:
        _alone(schedule, border, host)


def _alone(schedule: s_tir.Schedule, block: SBlockRV, host: Host) -> None:
    """Schedules a block that rearranges an operand as a loop nest of its own, before all others."""
    *outer, last = schedule.get_loops(block)
    work = math.prod(extents(schedule, [*outer, last]))
    vectorized(schedule, last, host.lanes)
    if work >= PARALLEL_WORK:
        schedule.parallel(schedule.fuse(*outer[:-1]))
