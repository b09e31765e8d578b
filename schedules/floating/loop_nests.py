"""The rule for everything without a main block: chains folded, rows shared among cores, innermost loops in vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import ir, s_tir, tirx
from tvm.ir import TensorRegion
from tvm.s_tir.schedule import LoopRV, SBlockRV, ScheduleError
from tvm_ffi import structural_walk

from ..host import Host
from .loops import PARALLEL_WORK, blocks_of, extent, extents, is_reduction, vectorized
from .tiles import divisors

_MOVED = 7  # multiply-adds of a register tile in the time that a value takes from memory and back
_COSTLY = 16  # elementary operations that a call of exp, tanh and the like counts as

_IN_VECTORS = {
    "if_then_else", "likely", "reinterpret", "exp", "exp2", "log", "log2", "log10", "sqrt", "pow", "fabs", "floor", "ceil",
    "trunc", "round", "nearbyint", "cos", "sin", "tanh", "sigmoid", "isnan", "bitwise_and", "bitwise_or", "bitwise_xor",
    "bitwise_not", "shift_left", "shift_right", "q_multiply_shift",
}  # fmt: skip


def schedule_loops(schedule: s_tir.Schedule, host: Host) -> None:
    """Each step leaves a correct program; a block that a step does not fit stays as it was before that step."""
    if any(_empty(schedule, block) for block in blocks_of(schedule)):
        return
    _inline(schedule)
    for block in blocks_of(schedule):
        if is_reduction(schedule, block):
            _split_reduction(schedule, block, host)
    blocks = blocks_of(schedule)
    work = sum(_work(schedule, block) for block in blocks)
    rows = _rows(schedule, blocks) if len(blocks) > 1 else 0
    if rows:
        *others, last = blocks
        last_summed = len(schedule.get_loops(last)) - _spatial(schedule, last)
        row = _fused(schedule, schedule.get_loops(last)[:rows])
        summed = {k: len(schedule.get_loops(block)) - _spatial(schedule, block) for k, block in enumerate(others)}
        for block in reversed(others):
            schedule.compute_at(block, row, preserve_unit_loops=True)
        sums = [
            (block, _inner(schedule, block, schedule.get_loops(block)[1:], summed.get(k, last_summed), host))
            for k, block in enumerate(blocks)
        ]
        if work >= PARALLEL_WORK and extent(schedule, row) > 1:
            schedule.parallel(row)
        for block, first in sums:
            _decompose(schedule, block, first)
        return
    for block in blocks:
        loops = schedule.get_loops(block)
        outer, inner = _outer(schedule, block, loops)
        first = _inner(schedule, block, inner, len(loops) - _spatial(schedule, block), host)
        if outer:
            fused = _fused(schedule, outer)
            if _work(schedule, block) >= PARALLEL_WORK and extent(schedule, fused) > 1:
                schedule.parallel(fused)
        _decompose(schedule, block, first)


def _inline(schedule: s_tir.Schedule) -> None:
    """Folds element-wise blocks into what reads them, where that computes no costly value twice."""
    for block in blocks_of(schedule):
        consumers = schedule.get_consumers(block)
        if is_reduction(schedule, block) or not consumers:
            continue
        if len(consumers) > 1 and _cost(schedule.get(block)) >= _COSTLY:
            continue
        try:
            schedule.compute_inline(block)
        except ScheduleError:
            continue  # written at other places than it is read, for instance


def _empty(schedule: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether a loop of the block never runs: a tensor without values."""
    sizes = [schedule.get(loop).extent for loop in schedule.get_loops(block)]
    return any(isinstance(size, tirx.IntImm) and int(size) == 0 for size in sizes)


def _has_vectors(block: s_tir.SBlock) -> bool:
    """Whether TVM can compute the block in vectors: of its functions only some, of the short floats none."""
    kinds = [str(region.source.ty.dtype) for region in [*block.reads, *block.writes]]
    found = True

    def visit(call: ir.Call) -> None:
        nonlocal found
        found = found and call.op.name.removeprefix("tirx.") in _IN_VECTORS

    structural_walk(block.body, (ir.Call, visit))
    return found and not any(kind.startswith(("bfloat", "float8", "float6", "float4")) for kind in kinds)


def _cost(block: s_tir.SBlock) -> int:
    """Elementary operations of a block's body."""
    found = 1

    def visit(call: ir.Call) -> None:
        nonlocal found
        found += _COSTLY if call.op.name not in ("tirx.if_then_else", "tirx.likely") else 0

    structural_walk(block.body, (ir.Call, visit))
    return found


def _work(schedule: s_tir.Schedule, block: SBlockRV) -> int:
    return math.prod(extents(schedule, schedule.get_loops(block))) * (_cost(schedule.get(block)) + _MOVED)


def _fused(schedule: s_tir.Schedule, loops: Sequence[LoopRV]) -> LoopRV:
    return schedule.fuse(*loops) if len(loops) > 1 else loops[0]


def _spatial(schedule: s_tir.Schedule, block: SBlockRV) -> int:
    """How many of the block's loops are over its output; they come first."""
    kinds = [int(var.iter_type) for var in schedule.get(block).iter_vars]
    count = kinds.index(2) if 2 in kinds else len(kinds)
    return count if all(kind == 2 for kind in kinds[count:]) else 0


def _rows(schedule: s_tir.Schedule, blocks: Sequence[SBlockRV]) -> int:
    """How many leading axes all blocks share, each of them reading of the others only its own row."""
    written = [region.source for block in blocks for region in schedule.get(block).writes]
    common = min(_spatial(schedule, block) for block in blocks)
    sizes = {tuple(extents(schedule, schedule.get_loops(block))[:common]) for block in blocks}
    while common and len({size[:common] for size in sizes}) > 1:
        common -= 1
    for block in blocks:
        stmt = schedule.get(block)
        own = [var.var for var in stmt.iter_vars]
        for region in [*stmt.reads, *stmt.writes]:
            if not any(region.source.same_as(buffer) for buffer in written):
                continue
            same = 0
            while (
                same < min(common, len(region.region))
                and region.region[same].min.same_as(own[same])
                and str(region.region[same].extent) == "1"
            ):
                same += 1
            common = same
    return common


def _split_reduction(schedule: s_tir.Schedule, block: SBlockRV, host: Host) -> None:
    """A sum along contiguous values becomes ``lanes`` sums side by side, added up at the end."""
    spatial = _spatial(schedule, block)
    loops = schedule.get_loops(block)
    if len(schedule.get(block).writes) != 1 or len(loops) == spatial or _along_output(schedule, block):
        return
    size, lanes = extent(schedule, loops[-1]), host.lanes
    while size % lanes:
        lanes //= 2
    if lanes < 4 or size < 2 * lanes:
        return
    _, lane = schedule.split(loops[-1], [None, lanes])
    try:
        partial = schedule.rfactor(lane, spatial)
        *_, lane = schedule.get_loops(partial)
        schedule.reorder(lane, *schedule.get_loops(partial)[spatial:-1])
    except ScheduleError:
        return  # an operation without a neutral element; the split alone changes nothing


def _along_output(schedule: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether neighbouring outputs of a reduction are computed from neighbouring inputs."""
    stmt, spatial = schedule.get(block), _spatial(schedule, block)
    if spatial == 0:
        return False
    last = stmt.iter_vars[spatial - 1].var
    written = stmt.writes[0].source
    return extent(schedule, schedule.get_loops(block)[spatial - 1]) > 1 and any(
        region.region[-1].min.same_as(last)
        for region in stmt.reads
        if not region.source.same_as(written) and len(region.region)
    )


def _outer(
    schedule: s_tir.Schedule, block: SBlockRV, loops: Sequence[LoopRV]
) -> tuple[Sequence[LoopRV], Sequence[LoopRV]]:
    """The loops to share among cores, and those that are one core's."""
    spatial = _spatial(schedule, block)
    if spatial == len(loops) and _plain(schedule, block):
        fused = _fused(schedule, loops)
        size = extent(schedule, fused)
        inner = max(divisors(size, 4096), default=1)
        outer, rest = schedule.split(fused, [None, inner])
        return [outer], [rest]
    return list(loops[: max(spatial - 1, 0)]), list(loops[max(spatial - 1, 0) :])


def _plain(schedule: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether the block reads all its inputs where it writes its output."""
    stmt = schedule.get(block)
    own = [var.var for var in stmt.iter_vars]
    return all(
        len(region.region) in (0, len(own))
        and _sizes(region) == _sizes(stmt.writes[0])
        and all(r.min.same_as(var) for r, var in zip(region.region, own, strict=False))
        for region in [*stmt.reads, *stmt.writes]
    )


def _inner(
    schedule: s_tir.Schedule, block: SBlockRV, loops: Sequence[LoopRV], summed: int, host: Host
) -> LoopRV | None:
    """Vectors over the last axis of the output, the ``summed`` last loops inside of them. Gives the outermost of those."""
    over, sums = list(loops[: len(loops) - summed]), list(loops[len(loops) - summed :])
    first = sums[0] if sums else None
    if not over or sums and not _along_output(schedule, block) or not _has_vectors(schedule.get(block)):
        return first
    parts = vectorized(schedule, over[-1], host.lanes)
    if parts is not None and sums:
        schedule.reorder(parts[0], *sums, parts[1])
    return first


def _decompose(schedule: s_tir.Schedule, block: SBlockRV, first: LoopRV | None) -> None:
    """The start of a sum before its loops instead of inside of them."""
    if first is not None and schedule.get(block).init is not None:
        schedule.decompose_reduction(block, first)


def _sizes(region: TensorRegion) -> list[str]:
    return [str(size) for size in region.source.ty.shape]
