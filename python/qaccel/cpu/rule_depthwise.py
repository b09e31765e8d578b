"""The rule of depthwise convolutions: vectors of channels, a few pixels of a row at a time in accumulators."""

from __future__ import annotations

import math

from tvm import s_tir
from tvm.s_tir.schedule import SBlockRV

from .host import Host
from .kernels import LANES
from .loops import PARALLEL_WORK, extent, extents, inline_epilogue
from .tiles import divisors

_MOST_PIXELS = 8
_BORDER_BYTES = 32 * 1024  # of padded rows that stay in the first cache


def schedule_depthwise(schedule: s_tir.Schedule, main: SBlockRV, host: Host) -> None:
    """``main`` has the loops (n, y, x, c) and (ky, kx)."""
    lanes = int(schedule.get(main).annotations[LANES])
    border = schedule.get_producers(main)
    after = inline_epilogue(schedule, main)
    n, y, x, c, ky, kx = schedule.get_loops(main)
    work = math.prod(extents(schedule, [n, y, x, c, ky, kx]))
    pixels = max(divisors(extent(schedule, x), _MOST_PIXELS))
    co, cl = schedule.split(c, [None, lanes])
    xo, xi = schedule.split(x, [None, pixels])
    height, width = extent(schedule, y), extent(schedule, x) if False else extent(schedule, xo) * pixels
    tasks = extent(schedule, n) * extent(schedule, co)
    fitting = [
        k
        for k in divisors(height, height)
        if (height // k) * tasks >= 2 * host.cores and k * width * lanes * 4 <= _BORDER_BYTES
    ]
    rows = max(fitting, default=1)
    yp, yq = schedule.split(y, [None, rows])
    schedule.reorder(n, yp, co, yq, xo, ky, kx, xi, cl)
    if after is not None:
        schedule.reverse_compute_at(after, xo)
        ax, ac = schedule.get_loops(after)[-2:]
        schedule.vectorize(ac)
        schedule.unroll(ax)
    if border:
        schedule.compute_at(border[0], co)
        schedule.vectorize(schedule.get_loops(border[0])[-1])
    fused = schedule.fuse(n, yp, co)
    if work >= PARALLEL_WORK:
        schedule.parallel(fused)
    schedule.vectorize(cl)
    for loop in (ky, kx, xi):
        schedule.unroll(loop)
    schedule.decompose_reduction(main, ky)
