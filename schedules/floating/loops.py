"""Tools that all floating schedules use: sizes of loops, inlining of blocks, vector loops."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

# Multiply-adds below which a loop stays on one thread: a register tile has done so many before other threads have woken up.
PARALLEL_WORK = 800_000


def extent(schedule: s_tir.Schedule, loop: LoopRV) -> int:
    """The number of iterations of a loop; 0 if it is not known at compile time."""
    value = schedule.get(loop).extent
    return int(value) if isinstance(value, tirx.IntImm) else 0


def extents(schedule: s_tir.Schedule, loops: Sequence[LoopRV]) -> list[int]:
    """The number of iterations of each loop, as ``extent`` gives it."""
    return [extent(schedule, loop) for loop in loops]


def blocks_of(schedule: s_tir.Schedule) -> list[SBlockRV]:
    """The blocks of the function ``main``, in the order of the program."""
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def inline_epilogue(schedule: s_tir.Schedule, main: SBlockRV) -> SBlockRV | None:
    """Inlines the element-wise blocks after ``main``, and the other blocks they read, into the block that writes the output.

    Returns that block, or None if one of the others cannot be inlined: there are several outputs, or one is a reduction.
    """
    outputs = schedule.get_output_blocks(schedule.get_sblock("root"))
    if len(outputs) != 1:
        return None
    while True:
        others = [b for b in schedule.get_producers(outputs[0]) if not schedule.get(b).same_as(schedule.get(main))]
        if not others:
            return outputs[0]
        if any(is_reduction(schedule, block) for block in others):
            return None
        schedule.compute_inline(others[0])


def is_reduction(schedule: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether the block sums, or otherwise reduces, over axes that its output does not have."""
    return any(int(var.iter_type) != 0 for var in schedule.get(block).iter_vars)


def vectorized(schedule: s_tir.Schedule, loop: LoopRV, lanes: int) -> tuple[LoopRV, LoopRV] | None:
    """Splits a loop into vectors and returns (loop over vectors, vector loop).

    A vector gets the largest power of two up to ``lanes`` that divides the loop. Returns None and leaves the loop alone if
    that is less than four in a loop longer than ``lanes``: LLVM vectorises such a loop itself, with a remainder.
    """
    size = extent(schedule, loop)
    dividing = lanes
    while size % dividing:
        dividing //= 2
    if dividing == 1 or size == 0 or (dividing < min(4, lanes) and size > lanes):
        return None
    outer, inner = schedule.split(loop, [None, dividing])
    schedule.vectorize(inner)
    return outer, inner
