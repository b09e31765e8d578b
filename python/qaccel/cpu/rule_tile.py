"""The rule of register tiles: dense and grouped convolutions and matrix products over packed weights."""

from __future__ import annotations

import math

from tvm import s_tir
from tvm.s_tir.schedule import LoopRV, SBlockRV

from .host import Host
from .kernels import LANES
from .loops import PARALLEL_WORK, extent, extents, inline_epilogue
from .tiles import Tile, best_tile, divisors, vector_counts

_CHUNK_BYTES = 256 * 1024  # of input rows that stay in the second cache while all channels pass over them
_UNROLLED_TAPS = 12  # kernel positions times channels up to which the reduction is unrolled as a whole


def schedule_tile(schedule: s_tir.Schedule, main: SBlockRV, host: Host, tile: Tile | None = None) -> None:
    """Accumulators for ``pixels x vectors`` live in registers over the whole reduction; what follows is applied to them there.

    ``main`` has the loops (..., x, c) and (ky, kx, channel) or (channel); ``tile`` None: the best by estimate.
    """
    lanes = int(schedule.get(main).annotations[LANES])
    border = schedule.get_producers(main)
    after = inline_epilogue(schedule, main)
    loops = schedule.get_loops(main)
    reduced = 1 if _reduced(schedule, main) == 1 else 3
    *outer, x, c = loops[: len(loops) - reduced]
    reduction = loops[len(loops) - reduced :]
    width, channels = extent(schedule, x), extent(schedule, c)
    blocks = channels // lanes
    stored = extent(schedule, schedule.get_loops(after)[-1]) if after is not None else channels
    whole = stored == channels
    if tile is None:
        choices = [t for t in vector_counts(blocks, whole, host)]
        tile = best_tile(width, choices, lanes, host)
        if width % tile.pixels:
            tile = Tile(max(divisors(width, tile.pixels)), tile.vectors, lanes)
    work = math.prod(extents(schedule, loops))
    rows = outer.pop() if outer else schedule.add_unit_loop(x)
    xo, xi = schedule.split(x, [None, tile.pixels])
    co, cv, cl = schedule.split(c, [None, tile.vectors, tile.lanes])
    height = extent(schedule, rows)
    chunk = _chunk(height, extent(schedule, co), host)
    yp, yq = schedule.split(rows, [None, chunk])
    order = [*outer, yp, co]
    schedule.reorder(*order, yq, xo, *reduction, xi, cv, cl)
    separate = after is not None and not whole and extent(schedule, co) > 1
    if after is not None and not separate:
        schedule.reverse_compute_at(after, xo)
        _finish(schedule, after, tile.lanes)
    if border:
        _border(schedule, border[0], yp if extent(schedule, yp) >= host.cores else None, work)
        shared = order[:-1]
    else:
        shared = order
    fused = schedule.fuse(*shared) if len(shared) > 1 else shared[0]
    if work >= PARALLEL_WORK and extent(schedule, fused) > 1:
        schedule.parallel(fused)
    schedule.vectorize(cl)
    for loop in (cv, xi):
        schedule.unroll(loop)
    taps = math.prod(extents(schedule, reduction))
    if taps <= _UNROLLED_TAPS:
        for loop in reduction:
            schedule.unroll(loop)
    first = reduction[0]
    schedule.decompose_reduction(main, first)
    if separate:
        assert after is not None
        *_, last = schedule.get_loops(after)
        _vectorized(schedule, last, tile.lanes)


def _reduced(schedule: s_tir.Schedule, block: SBlockRV) -> int:
    return sum(int(var.iter_type) == 2 for var in schedule.get(block).iter_vars)


def _chunk(height: int, blocks: int, host: Host) -> int:
    """Rows that a core does at a time: enough chunks for an even share, as few as that allows."""
    wanted = 4 * host.cores
    fitting = [
        k for k in divisors(height, height) if (height // k) * blocks >= wanted and (height // k) % host.cores == 0
    ]
    return max(fitting) if fitting else 1


def _finish(schedule: s_tir.Schedule, block: SBlockRV, lanes: int) -> None:
    """The stores of a register tile: vectors along channels, unrolled."""
    x, c = schedule.get_loops(block)[-2:]
    _vectorized(schedule, c, lanes)
    schedule.unroll(x)


def _vectorized(schedule: s_tir.Schedule, loop: LoopRV, lanes: int) -> None:
    size = extent(schedule, loop)
    while size % lanes:
        lanes //= 2
    if lanes == 1:
        return
    outer, inner = schedule.split(loop, [None, lanes])
    schedule.vectorize(inner)
    if size // lanes <= 16:
        schedule.unroll(outer)


def _border(schedule: s_tir.Schedule, border: SBlockRV, at: LoopRV | None, work: int) -> None:
    """The padded input: per chunk of rows where every core has some, else once for all."""
    if at is not None:
        schedule.compute_at(border, at)
    loops = schedule.get_loops(border)
    last = loops[-1]
    lanes = 16
    size = extent(schedule, last)
    while size % lanes:
        lanes //= 2
    if lanes > 1:
        _, inner = schedule.split(last, [None, lanes])
        schedule.vectorize(inner)
    if at is None and work >= PARALLEL_WORK:
        outer = schedule.fuse(*loops[:-2])
        schedule.parallel(outer)
