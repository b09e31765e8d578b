"""The schedule of depthwise convolutions: the sums of a few neighbouring pixels and one vector of channels lie in registers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import s_tir
from tvm.s_tir.schedule import SBlockRV

from ..host import Host
from .computations import LANES
from .loops import PARALLEL_WORK, extents, inline_epilogue
from .tiles import divisors
from .zeros import SKIPS_ZEROS

# A multiply-add here takes about this many times as long as in a register tile, because each value read is used only a few times.
_SLOWDOWN = 4
_MOST_UNROLLED = 400  # vector multiply-adds that are written out one after the other, without a loop


@dataclass(frozen=True)
class DepthwisePlan:
    """``pixels``: neighbours in a row whose sums lie in registers together. ``parts``: how many parts the channels are divided
    into for the cores to share, beside the rows."""

    pixels: int
    parts: int


def depthwise_plans(schedule: s_tir.Schedule, main: SBlockRV, host: Host) -> list[DepthwisePlan]:
    """All plans for the block ``main``, the default first."""
    lanes = int(schedule.get(main).annotations[LANES])
    n, y, x, c, ky, kx = extents(schedule, schedule.get_loops(main))
    parts = [k for k in (1, 2, 4, 8) if k <= host.cores * 2 and c // lanes % k == 0]
    pixels = divisors(x, max(min(host.accumulators, _MOST_UNROLLED // (ky * kx)), 1))
    uneven = n * y < 8 * host.cores and n * y % host.cores != 0 and host.cores in parts
    best = DepthwisePlan(max(pixels), host.cores if uneven else 1)
    return [best, *(plan for p in pixels for k in parts if (plan := DepthwisePlan(p, k)) != best)]


def schedule_depthwise(schedule: s_tir.Schedule, main: SBlockRV, host: Host, plan: DepthwisePlan) -> None:
    """Schedules the function around ``main``, whose loops are (n, y, x, c) and, over the taps, (ky, kx).

    The zeros around the input are neither stored nor multiplied.
    """
    lanes = int(schedule.get(main).annotations[LANES])
    for border in schedule.get_producers(main):
        schedule.compute_inline(border)
        schedule.annotate(main, SKIPS_ZEROS, 1)
    after = inline_epilogue(schedule, main)
    n, y, x, c, ky, kx = schedule.get_loops(main)
    work = math.prod(extents(schedule, [n, y, x, c, ky, kx]))
    part, co, cl = schedule.split(c, [plan.parts, None, lanes])
    xo, xi = schedule.split(x, [None, plan.pixels])
    # Channels are innermost, so that each core reads memory in order.
    schedule.reorder(n, part, y, xo, co, ky, kx, xi, cl)
    if after is not None:
        schedule.reverse_compute_at(after, co, preserve_unit_loops=True)
        ax, ac = schedule.get_loops(after)[-2:]
        schedule.vectorize(ac)
        schedule.unroll(ax)
    rows = schedule.fuse(n, part, y)
    if work * _SLOWDOWN >= PARALLEL_WORK:
        schedule.parallel(rows)
    schedule.vectorize(cl)
    for loop in (ky, kx, xi):
        schedule.unroll(loop)
    schedule.decompose_reduction(main, ky)
