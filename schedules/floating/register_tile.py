"""The rule of register tiles: dense and grouped convolutions and matrix products over packed weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import s_tir
from tvm.s_tir.schedule import LoopRV, SBlockRV

from ..host import Host
from .kernels import BORDER, LANES
from .loops import PARALLEL_WORK, extent, extents, inline_epilogue, vectorized
from .tiles import Tile, best_tile, divisors, tiles_of, vector_counts

_UNROLLED_TAPS = 12  # kernel positions times channels up to which the reduction is unrolled as a whole


@dataclass(frozen=True)
class TilePlan:
    """``pixels`` x ``vectors`` of accumulators; ``rows`` of the output that a core does at a time; ``channels_first``: whether
    blocks of channels are outside of the rows (weights are read once) or inside (the input is)."""

    pixels: int
    vectors: int
    rows: int
    channels_first: bool


@dataclass(frozen=True)
class _Shape:
    lanes: int
    outer: int  # iterations of what is before rows
    height: int
    width: int
    channels: int  # of the sums, a multiple of the lanes
    stored: int  # channels of the output
    depth: int  # of the reduction
    bordered: bool  # whether the input gets zeros around it first, per chunk of rows


def _shape(schedule: s_tir.Schedule, main: SBlockRV) -> _Shape:
    block = schedule.get(main)
    sizes = extents(schedule, schedule.get_loops(main))
    reduced = sum(int(var.iter_type) == 2 for var in block.iter_vars)
    *outer, width, channels = sizes[: len(sizes) - reduced]
    consumers = schedule.get_consumers(main)
    stored = extents(schedule, schedule.get_loops(consumers[0]))[-1] if consumers else channels
    height = outer[-1] if outer else 1
    return _Shape(
        int(block.annotations[LANES]), math.prod(outer[:-1]), height, width, channels, stored,
        math.prod(sizes[len(sizes) - reduced :]), bool(_borders(schedule, main)),
    )  # fmt: skip


def _borders(schedule: s_tir.Schedule, main: SBlockRV) -> list[SBlockRV]:
    return [block for block in schedule.get_producers(main) if BORDER in schedule.get(block).annotations]


def tile_plans(schedule: s_tir.Schedule, main: SBlockRV, host: Host) -> list[TilePlan]:
    """All plans for the block, the rule's own choice first."""
    shape = _shape(schedule, main)
    counts = vector_counts(shape.channels // shape.lanes, shape.channels == shape.stored, host)
    tiles = [t for t in tiles_of(shape.width, counts, shape.lanes, host) if shape.width % t.pixels == 0]
    best = best_tile(tiles, shape.width, shape.depth)
    plans = [_planned(shape, best, None, host)]
    for tile in tiles:
        for rows in divisors(shape.height, shape.height):
            for first in (False, True):
                plan = TilePlan(tile.pixels, tile.vectors, rows, first)
                if plan not in plans and not (first and shape.bordered) and _even(_shared(shape, plan), host):
                    plans.append(plan)
    return plans


def _shared(shape: _Shape, plan: TilePlan) -> int:
    blocks = shape.channels // shape.lanes // plan.vectors
    return shape.outer * (shape.height // plan.rows) * (1 if shape.bordered else blocks)


def _even(shared: int, host: Host) -> bool:
    """Whether so many pieces of work give every core about the same."""
    return shared % host.cores == 0 or shared > 16 * host.cores


def _planned(shape: _Shape, tile: Tile, rows: int | None, host: Host) -> TilePlan:
    weights = shape.channels * shape.depth
    first = not shape.bordered and weights > shape.height * shape.width * shape.depth
    chunks = divisors(shape.height, shape.height)
    plans = [TilePlan(tile.pixels, tile.vectors, chunk, first) for chunk in chunks]
    even = [p for p in plans if (s := _shared(shape, p)) >= 4 * host.cores and _even(s, host)]
    return max(even or plans[:1], key=lambda plan: plan.rows)


def schedule_tile(schedule: s_tir.Schedule, main: SBlockRV, host: Host, plan: TilePlan) -> None:
    """Accumulators live in registers over the whole reduction, and what follows is applied to them there.

    ``main`` has the loops (..., x, c) and (ky, kx, channel) or (channel).
    """
    shape = _shape(schedule, main)
    border = _borders(schedule, main)
    for block in schedule.get_producers(main):
        if not border:
            _alone(schedule, block, host)
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
    # The output's last vector is a part: if there are others, it is stored outside of the tiles.
    separate = after is not None and shape.stored != shape.channels and extent(schedule, co) > 1
    if after is not None and not separate:
        schedule.reverse_compute_at(after, xo, preserve_unit_loops=True)
        ax, ac = schedule.get_loops(after)[-2:]
        parts = vectorized(schedule, ac, shape.lanes)
        if parts is not None:
            schedule.unroll(parts[0])
            schedule.unroll(ax)
    if border:
        _border(schedule, border[0], yp if _shared(shape, plan) >= host.cores else None, host)
        shared = shared[:-1]
    fused = schedule.fuse(*shared) if len(shared) > 1 else shared[0]
    if work >= PARALLEL_WORK and extent(schedule, fused) > 1:
        schedule.parallel(fused)
    schedule.vectorize(cl)
    for loop in (cv, xi):
        schedule.unroll(loop)
    if shape.depth <= _UNROLLED_TAPS:
        for loop in reduction:
            schedule.unroll(loop)
    schedule.decompose_reduction(main, reduction[0])
    if separate:
        assert after is not None
        vectorized(schedule, schedule.get_loops(after)[-1], shape.lanes)


def _border(schedule: s_tir.Schedule, border: SBlockRV, at: LoopRV | None, host: Host) -> None:
    """The padded input: per chunk of rows where every core has some, else once for all."""
    if at is not None:
        schedule.compute_at(border, at)
        vectorized(schedule, schedule.get_loops(border)[-1], host.lanes)
    else:
        _alone(schedule, border, host)


def _alone(schedule: s_tir.Schedule, block: SBlockRV, host: Host) -> None:
    """An operand that is rearranged before everything else."""
    *outer, last = schedule.get_loops(block)
    work = math.prod(extents(schedule, [*outer, last]))
    vectorized(schedule, last, host.lanes)
    if work >= PARALLEL_WORK:
        schedule.parallel(schedule.fuse(*outer[:-1]))
