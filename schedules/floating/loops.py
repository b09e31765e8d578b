"""What the rules share: sizes of loops, blocks that can be folded into others, work shared among cores."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

# Below this many multiply-adds of a register tile a loop is done before other threads have woken up.
PARALLEL_WORK = 800_000


def extent(schedule: s_tir.Schedule, loop: LoopRV) -> int:
    """How often a loop runs; 0 if that is not known."""
    value = schedule.get(loop).extent
    return int(value) if isinstance(value, tirx.IntImm) else 0


def extents(schedule: s_tir.Schedule, loops: Sequence[LoopRV]) -> list[int]:
    """How often each loop runs."""
    return [extent(schedule, loop) for loop in loops]


def blocks_of(schedule: s_tir.Schedule) -> list[SBlockRV]:
    """The blocks of the function, in order."""
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def inline_epilogue(schedule: s_tir.Schedule, main: SBlockRV) -> SBlockRV | None:
    """Folds the element-wise blocks after ``main``, and what else they read, into the output's; None if they do not all fold."""
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
    """Whether the block has axes that are not its output's."""
    return any(int(var.iter_type) != 0 for var in schedule.get(block).iter_vars)


def vectorized(schedule: s_tir.Schedule, loop: LoopRV, lanes: int) -> tuple[LoopRV, LoopRV] | None:
    """Splits the loop into vectors of up to ``lanes`` that divide it and gives both parts.

    None where no vector of four or more divides a longer loop: it stays for LLVM to vectorise, which splits off the rest.
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
