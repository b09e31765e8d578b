"""Cascades: their layers' instructions stripe by stripe, and what keeps the rings of rows between them going."""

from __future__ import annotations

from collections.abc import Callable

from ...machine.numerics import activation_limits, multiplier_and_shift
from ..extents import Span, in_steps, rows_read
from ..plan.stripes import Cascade, Ring
from .builder import ProgramBuilder
from .rows import SramRows


def emit_cascade(builder: ProgramBuilder, cascade: Cascade, emit_layer: Callable[[], None]) -> None:
    """All stripes of a cascade. ``emit_layer`` emits what the builder's layer makes in the present stripe."""
    inside, rings = set(cascade.inside(builder.graph)), {ring.map: ring for ring in cascade.rings}
    for ring in cascade.rings:
        addr = builder.allocation.ring_addr[cascade.first, ring.map]
        builder.rows[ring.map] = SramRows(builder.graph.maps[ring.map], addr, ring.rows)
    builder.keep_weights(cascade.weight_bytes)
    for stripe, parts in enumerate(cascade.stripes):
        waiting = dict(rings)
        for step, part in enumerate(parts, cascade.first):
            if part[1] == 0:
                continue
            loaded: dict[int, int] = {}
            rest = part
            if stripe == 0 and step == cascade.first:
                loaded, rest = _open(builder, cascade, part, emit_layer)
            builder.begin_layer(step, rest)
            for index in (*builder.layer.inputs, builder.layer.output):
                if index in waiting and (index not in inside or index == builder.layer.output):
                    _advance(builder, waiting.pop(index), stripe, index not in inside, loaded.get(index, 0))
            emit_layer()
            output = builder.layer.output
            if output in rings and output not in builder.allocation.dram_addr:
                held = builder.rows[output]
                place = held.address(part[0]), part[1] * held.map.row_bytes
                builder.pieces.setdefault(output, []).append((len(builder.instructions) - 1, *place))
    builder.keep_weights(0)
    for ring in cascade.rings:
        del builder.rows[ring.map]


def _open(
    builder: ProgramBuilder, cascade: Cascade, part: Span, emit_layer: Callable[[], None]
) -> tuple[dict[int, int], Span]:
    """The first rows of the first layer, a few at a time, each time with what they read. Gives by map how many rows are loaded, and
    what is left to make."""
    loaded: dict[int, int] = {}
    *steps, last = in_steps(part[1], cascade.opening)
    fed = {ring.map for ring in cascade.rings} - set(cascade.inside(builder.graph))
    for begin, rows in steps:
        builder.begin_layer(cascade.first, (part[0] + begin, rows))
        for which, source in enumerate(builder.layer.inputs):
            end = sum(rows_read(builder.layer, which, builder.graph.maps, part[0] + begin, rows))
            if source in fed and end > loaded.get(source, 0):
                builder.load_rows(source, loaded.get(source, 0), end - loaded.get(source, 0))
                loaded[source] = end
        emit_layer()
    return loaded, (part[0] + last[0], last[1])


def _advance(builder: ProgramBuilder, ring: Ring, stripe: int, from_dram: bool, loaded: int) -> None:
    """Room in a ring for the rows that are new in a stripe; those of a map in DRAM are loaded but for the first ``loaded`` ones."""
    held = builder.rows[ring.map]
    made, end = ring.ends[stripe - 1] if stripe else 0, ring.ends[stripe]
    if end - held.base > ring.rows:
        _shift(builder, held, ring.keeps[stripe], made)
    made = max(made, loaded)
    if from_dram and end > made:
        builder.load_rows(ring.map, made, end - made)


def _shift(builder: ProgramBuilder, held: SramRows, keep: int, made: int) -> None:
    """Make ``keep`` the first row: copy the rows from there to before ``made`` to the front, bytes as they are.

    A copy may not read what it writes: it takes at most as many rows as they move by.
    """
    by, row_bytes, pixel_bytes = keep - held.base, held.map.row_bytes, held.map.pixel_bytes
    multiplier, shift = multiplier_and_shift(1.0)
    lo, hi = activation_limits(8)
    for y in range(keep, made, by):
        rows = min(by, made - y)
        strides = {"row_stride": row_bytes, "pixel_stride": pixel_bytes}
        index = builder.emit(
            "COPY",
            held.writers(y, rows),
            in_addr=held.address(y),
            out_addr=held.address(y - by),
            **{f"{side}_{name}": value for side in ("in", "out") for name, value in strides.items()},
            h=rows,
            w=held.map.w,
            channels=pixel_bytes,
            multiplier=multiplier,
            shift=shift,
            in_bits=8,
            in_zero_point=0,
            out_bits=8,
            out_zero_point=0,
            clamp_lo=lo,
            clamp_hi=hi,
        )
        held.moved(y, rows, index)
    held.base = keep
