"""The schedule of every function that is neither a convolution nor a matrix product: element-wise chains, pools, reductions.

Element-wise blocks are inlined, rows are shared among the cores, and the innermost loops become vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import ir, s_tir, tirx
from tvm.ir import TensorRegion
from tvm.s_tir.schedule import LoopRV, SBlockRV, ScheduleError
from tvm.sym.analyzer import Analyzer
from tvm_ffi import structural_map, structural_walk

from ..host import Host
from .loops import PARALLEL_WORK, blocks_of, extent, extents, is_reduction, vectorized
from .tiles import divisors

# Work is counted in multiply-adds of a register tile, as PARALLEL_WORK is: the number that takes as long ...
_LOAD_AND_STORE_WORK = 7  # ... as to read one value from memory and write one back
_CALL_WORK = 16  # ... as one call of exp, tanh and the like
_CHUNK = 4096  # the most values of an element-wise block that a core takes at a time

_CHOICE, _LIKELY = "prim.if_then_else", "prim.likely"
_VECTOR_INTRINSICS = {
    _CHOICE, _LIKELY, "reinterpret", "exp", "exp2", "log", "log2", "log10", "sqrt", "pow", "fabs", "floor", "ceil",
    "trunc", "round", "nearbyint", "cos", "sin", "tanh", "sigmoid", "isnan", "bitwise_and", "bitwise_or", "bitwise_xor",
    "bitwise_not", "shift_left", "shift_right", "q_multiply_shift",
}  # fmt: skip


def schedule_loops(schedule: s_tir.Schedule, host: Host) -> None:
    """Schedules the function ``main``. A block that a step cannot transform stays as it was; the program is correct throughout."""
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
        outer, inner = _outer(schedule, block, loops, host)
        first = _inner(schedule, block, inner, len(loops) - _spatial(schedule, block), host)
        if outer:
            fused = _fused(schedule, outer)
            if _work(schedule, block) >= PARALLEL_WORK and extent(schedule, fused) > 1:
                schedule.parallel(fused)
        _decompose(schedule, block, first)


def _inline(schedule: s_tir.Schedule) -> None:
    """Inlines element-wise blocks into their readers.

    Except where a value with a call in it would be computed twice, or where a loop would read at rests that `_digits` does not
    take away.
    """
    for block in blocks_of(schedule):
        consumers = schedule.get_consumers(block)
        if is_reduction(schedule, block) or not consumers:
            continue
        if len(consumers) > 1 and _work_per_value(schedule.get(block)) >= _CALL_WORK:
            continue
        divided = any(_has_quotients(schedule.get(each)) for each in (block, *consumers))
        try:
            if divided:
                trial = schedule.copy()
                trial.compute_inline(block)
                if any(_reads_at_rests(trial, each) for each in consumers):
                    continue
            schedule.compute_inline(block)
        except ScheduleError:
            continue  # for instance, if the block writes only a part of what is read


def _empty(schedule: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether a loop of the block has no iterations, because a tensor has no values."""
    sizes = [schedule.get(loop).extent for loop in schedule.get_loops(block)]
    return any(isinstance(size, tirx.IntImm) and int(size) == 0 for size in sizes)


def _has_vectors(block: s_tir.SBlock, along: tirx.Var | None) -> bool:
    """Whether TVM can compute the block in vectors over the variable ``along``, the output's last axis.

    It can for some functions only, and not for floats below 16 bits or bfloat. Zeros or the like around a row it would write one
    by one: LLVM makes vectors of those.
    """
    kinds = [str(region.source.ty.dtype) for region in [*block.reads, *block.writes]]
    found = True

    def visit(call: ir.Call) -> None:
        nonlocal found
        found = found and call.op.name.removeprefix("tirx.") in _VECTOR_INTRINSICS
        if call.op.name == _CHOICE and isinstance(call.args[2], tirx.FloatImm | tirx.IntImm) and along is not None:
            found = found and not _reads(call.args[0], along)

    structural_walk(block.body, (ir.Call, visit))
    return found and not any(kind.startswith(("bfloat", "float8", "float6", "float4")) for kind in kinds)


def _reads(expr: Any, wanted: tirx.Var) -> bool:
    """Whether the variable occurs in an expression."""
    found: list[tirx.Var] = []
    structural_walk(expr, (tirx.Var, found.append))
    return any(var.same_as(wanted) for var in found)


def _work_per_value(block: s_tir.SBlock) -> int:
    """The work to compute one value of a block, reading and writing not counted."""
    found = 1

    def visit(call: ir.Call) -> None:
        nonlocal found
        found += _CALL_WORK if call.op.name not in (_CHOICE, _LIKELY) else 0

    structural_walk(block.body, (ir.Call, visit))
    return found


def _work(schedule: s_tir.Schedule, block: SBlockRV) -> int:
    """The work of a whole block."""
    values = math.prod(extents(schedule, schedule.get_loops(block)))
    return values * (_work_per_value(schedule.get(block)) + _LOAD_AND_STORE_WORK)


def _fused(schedule: s_tir.Schedule, loops: Sequence[LoopRV]) -> LoopRV:
    return schedule.fuse(*loops) if len(loops) > 1 else loops[0]


def _spatial(schedule: s_tir.Schedule, block: SBlockRV) -> int:
    """How many of the block's loops run over its output. They come first; 0 if loops of the reduction lie between them."""
    kinds = [int(var.iter_type) for var in schedule.get(block).iter_vars]
    count = kinds.index(2) if 2 in kinds else len(kinds)
    return count if all(kind == 2 for kind in kinds[count:]) else 0


def _rows(schedule: s_tir.Schedule, blocks: Sequence[SBlockRV]) -> int:
    """How many leading axes all blocks have in common.

    A "row" is what lies at one index of these axes. Each block reads only that row of what the others write, so that all
    blocks can be computed row by row.
    """
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
    """Turns a reduction along contiguous values into ``lanes`` reductions side by side, whose results are combined at the end."""
    spatial = _spatial(schedule, block)
    loops = schedule.get_loops(block)
    if not spatial or len(schedule.get(block).writes) != 1 or len(loops) == spatial or _along_output(schedule, block):
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
        return  # the operation has no neutral element; the split by itself changes no result


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
    schedule: s_tir.Schedule, block: SBlockRV, loops: Sequence[LoopRV], host: Host
) -> tuple[Sequence[LoopRV], Sequence[LoopRV]]:
    """Divides the loops of a block into those to share among the cores and those that one core runs."""
    spatial = _spatial(schedule, block)
    if spatial == len(loops) and _is_elementwise(schedule, block):
        sizes = extents(schedule, loops)
        inner = max(divisors(math.prod(sizes), _CHUNK), default=1)
        if sizes[-1] % host.lanes == 0 and (inner % sizes[-1] == 0 or sizes[-1] % inner == 0) or sizes[-1] == 0:
            outer, rest = schedule.split(_fused(schedule, loops), [None, inner])
            return [outer], [rest]
        # A piece that is no whole number of rows has quotients in its indices. Whole axes have none: LLVM makes the vectors.
        whole = [k for k in range(len(sizes)) if math.prod(sizes[:k]) >= host.cores and math.prod(sizes[k:]) >= _CHUNK]
        first = min([*whole, len(sizes) - 1])
        return list(loops[:first]), [_fused(schedule, loops[first:])]
    return list(loops[: max(spatial - 1, 0)]), list(loops[max(spatial - 1, 0) :])


def _is_elementwise(schedule: s_tir.Schedule, block: SBlockRV) -> bool:
    """Whether the block reads each input at the index at which it writes its output, and all have one shape."""
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
    """Makes vectors of the output's last axis, inside the ``summed`` last loops, which are those of the reduction.

    Returns the outermost loop of the reduction, None if there is none.
    """
    over, sums = list(loops[: len(loops) - summed]), list(loops[len(loops) - summed :])
    first = sums[0] if sums else None
    spatial = [var.var for var in schedule.get(block).iter_vars if int(var.iter_type) == 0]
    along = spatial[-1] if spatial else None
    if over and along is not None and not sums:
        over += _digits(schedule, block, over.pop(), along)
    if not over or sums and not _along_output(schedule, block) or not _has_vectors(schedule.get(block), along):
        return first
    parts = vectorized(schedule, over[-1], host.lanes)
    if parts is not None and sums:
        schedule.reorder(parts[0], *sums, parts[1])
    return first


def _digits(schedule: s_tir.Schedule, block: SBlockRV, loop: LoopRV, along: tirx.Var) -> list[LoopRV]:
    """The loop over ``along`` as several, so that what a block reads at quotients and rests of it has none.

    Those come of values that are computed where a Reshape reads them. Of two loads at rests by a power of two LLVM 22 takes one for
    contiguous in vectors that are longer, and reads beside it; with loops over digits there are none, and vectors are contiguous.
    """
    factors = _factors(schedule.get(block), along, extent(schedule, loop))
    return list(schedule.split(loop, factors)) if len(factors) > 1 else [loop]


def _factors(block: s_tir.SBlock, along: tirx.Var, size: int) -> list[int]:
    """Into what `_digits` divides a loop of ``size`` iterations; the loop itself where its divisors do not divide each other."""
    cuts = [cut for cut in sorted(_divisors_of(block, along)) if cut < size]
    if not cuts or any(high % low for low, high in zip(cuts, [*cuts[1:], size], strict=True)):
        return [size]
    factors = [high // low for low, high in zip(cuts, [*cuts[1:], size], strict=True)]
    return [*factors[::-1], cuts[0]]


def _has_quotients(block: s_tir.SBlock) -> bool:
    """Whether there is a quotient or a rest in a block."""
    found: list[ir.Expr] = []
    structural_walk(block.body, ((tirx.FloorDiv, tirx.FloorMod), found.append))
    return bool(found)


def _reads_at_rests(schedule: s_tir.Schedule, reader: SBlockRV) -> bool:
    """Whether the innermost loop of a block would read at more than one quotient or rest, even if divided by `_digits`.

    So after a Pad whose front is no multiple, or where two Reshapes meet whose parts do not divide each other.
    """
    block = schedule.get(reader)
    *outer, last = [var for var in block.iter_vars if int(var.iter_type) == 0] or [None]
    if last is None or is_reduction(schedule, reader) or not isinstance(last.dom.extent, tirx.IntImm):
        return False
    size = int(last.dom.extent)
    low = _factors(block, last.var, size)[-1] if size else 1
    digit, high = tirx.Var("digit", last.var.ty.dtype), tirx.Var("high", last.var.ty.dtype)
    analyzer, divided, found = Analyzer(), high * low + digit, set[str]()
    for var, dom in [*((v.var, v.dom) for v in outer), (digit, ir.Range(0, low)), (high, ir.Range(0, size // low))]:
        analyzer.bind(var, dom)

    def visit(load: ir.TensorLoad) -> None:
        place = structural_map(_place(load), (tirx.Var, lambda var: divided if var.same_as(last.var) else var))
        rests: list[ir.Expr] = []
        simple = analyzer.simplify(place)
        structural_walk(simple, ((tirx.FloorDiv, tirx.FloorMod), rests.append))
        if any(_reads(rest, digit) for rest in rests):
            found.add(f"{load.source.name}[{simple}]")

    structural_walk(block.body, (ir.TensorLoad, visit))
    return len(found) > 1


def _divisors_of(block: s_tir.SBlock, along: tirx.Var) -> set[int]:
    """By what a variable is divided in a block, with or without a rest; quotients of quotients by both."""
    analyzer, found = Analyzer(), set[int]()
    for var in block.iter_vars:
        analyzer.bind(var.var, var.dom)

    def unit(expr: Any) -> int:
        """How much of the variable is one of a quotient or rest of it; 0 for what is neither."""
        if isinstance(expr, tirx.Var):
            return int(expr.same_as(along))
        if not isinstance(expr, tirx.FloorDiv | tirx.FloorMod) or not isinstance(expr.b, tirx.IntImm):
            return 0
        own = unit(expr.a)
        found.update({own * int(expr.b)} if own else ())
        return own * int(expr.b) if isinstance(expr, tirx.FloorDiv) else own

    def visit(load: ir.TensorLoad) -> None:
        structural_walk(
            analyzer.simplify(_place(load)), ((tirx.FloorDiv, tirx.FloorMod), lambda expr: unit(expr) and None)
        )

    structural_walk(block.body, (ir.TensorLoad, visit))
    return found


def _place(load: ir.TensorLoad) -> Any:
    """Which value of its tensor a load reads, counted in memory."""
    place: Any = 0
    for index, size in zip(load.indices, load.source.ty.shape, strict=True):
        place = place * size + index
    return place if load.indices else tirx.const(0, "int64")


def _decompose(schedule: s_tir.Schedule, block: SBlockRV, first: LoopRV | None) -> None:
    """Moves the initialisation of a reduction out of its loops, to before ``first``."""
    if first is not None and schedule.get(block).init is not None:
        schedule.decompose_reduction(block, first)


def _sizes(region: TensorRegion) -> list[str]:
    """The shape of the buffer that a region is of; as text, since sizes may be symbolic."""
    return [str(size) for size in region.source.ty.shape]
