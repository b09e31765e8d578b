"""What the rules share: sizes of loops, blocks that can be folded into others, work shared among cores."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

# Below this many elementary operations a loop is done before other threads have woken up.
PARALLEL_WORK = 20_000


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
    """Folds the element-wise blocks after ``main`` into one and gives it; None if they do not all fold."""
    while True:
        consumers = schedule.get_consumers(main)
        if len(consumers) != 1:
            return _inlined_into_output(schedule, main)
        after = schedule.get_consumers(consumers[0])
        if not after:
            return consumers[0]
        schedule.compute_inline(consumers[0])


def _inlined_into_output(schedule: s_tir.Schedule, main: SBlockRV) -> SBlockRV | None:
    """A value used twice, as in x * clip(x): everything but the last block folds into it."""
    outputs = schedule.get_output_blocks(schedule.get_sblock("root"))
    if len(outputs) != 1:
        return None
    output = outputs[0]
    changed = True
    while changed:
        changed = False
        for block in schedule.get_producers(output):
            if schedule.get(block).same_as(schedule.get(main)):
                continue
            if not is_reduction(schedule, block) and schedule.get_producers(block):
                schedule.compute_inline(block)
                changed = True
                break
    producers = schedule.get_producers(output)
    return output if len(producers) == 1 else None


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
