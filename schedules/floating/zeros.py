"""Leaves out the multiplications by the zeros around or between the values of a convolution's input, and the zeros themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, s_tir, tirx

SKIPS_ZEROS = "qaccel_skips_zeros"  # on a block of sums whose input is read through a condition: outside it is zero
Expr = Any  # a TIR expression
_IF = "prim.if_then_else"
_SUMMED = 2  # the type of an iteration variable that runs over a reduction
_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    tirx.Add: np.add, tirx.Sub: np.subtract, tirx.Mul: np.multiply, tirx.FloorDiv: np.floor_divide, tirx.FloorMod: np.mod,
    tirx.LE: np.less_equal, tirx.LT: np.less, tirx.GE: np.greater_equal, tirx.GT: np.greater, tirx.EQ: np.equal,
}  # fmt: skip


def without_zeros(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The scheduled function without the conditions that stand inside the sums of the block that has SKIPS_ZEROS.

    The block's loops are (..., rows, columns) of a window, channels where they are summed, and inside them the pixels of a tile.
    A condition on a row moves out to the loop over rows. Which pixels have values in a column is computed here, for each column and
    tile, and the loop over columns chooses between loops that take the same pixels for all channels. A weight times such a zero
    counts as zero, even if it is infinite or no number.
    """
    conditions: list[Expr] = []
    window: list[tirx.Var] = []

    def moved(realize: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
        block = realize.block
        if SKIPS_ZEROS not in block.annotations or all(int(var.iter_type) != _SUMMED for var in block.iter_vars):
            return realize
        at = dict(zip((var.var for var in block.iter_vars), realize.iter_values, strict=True))
        window.extend(at[var.var] for var in block.iter_vars if int(var.iter_type) == _SUMMED)

        def value(call: ir.Call) -> Expr:
            if call.op.name != _IF or not isinstance(call.args[2], tirx.FloatImm) or call.args[2].value != 0:
                return call
            conditions.extend(_replaced(part, at) for part in _parts(call.args[0]))
            return call.args[1]

        store = tvm_ffi.structural_map(block.body, (ir.Call, value))
        changed = s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, store, block.init, block.alloc_buffers,
            block.match_buffers, block.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(list(realize.iter_values), realize.predicate, changed)

    function = tvm_ffi.structural_map(function, (s_tir.SBlockRealize, moved))
    if not conditions:
        return function
    rows, columns, *_ = window
    extents = {loop.loop_var: int(loop.extent) for loop in _loops(function.body)}
    left = list(conditions)

    def guarded(loop: tirx.For) -> tirx.For:
        inner = {each.loop_var for each in _loops(loop.body)} if left else set()
        if loop.loop_var.same_as(columns):
            own = [each for each in left if _variables(each) & {columns, *inner}]
            body = _by_pixels(loop.body, own, inner, extents)
        elif loop.loop_var.same_as(rows):
            own = list(left)
            body = tirx.IfThenElse(tirx.all(*own), loop.body, None) if own else loop.body
        else:
            return loop
        left[:] = [each for each in left if not any(each.same_as(other) for other in own)]
        return _with_body(loop, body)

    function = tvm_ffi.structural_map(function, (tirx.For, guarded))
    assert not left, "the loops over the window are not there"
    return function


def _by_pixels(
    body: tirx.Stmt, conditions: Sequence[Expr], inner: Collection[tirx.Var], extents: Mapping[tirx.Var, int]
) -> tirx.Stmt:
    """The body of the loop over columns, once for each set of pixels for which the conditions hold."""
    read = set().union(*(_variables(each) for each in conditions))
    pixels, outer = [var for var in read if var in inner], [var for var in read if var not in inner]
    if not pixels:
        return tirx.IfThenElse(tirx.all(*conditions), body, None) if conditions else body
    (pixel,) = pixels
    taken: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for place in itertools.product(*(range(extents[var]) for var in outer)):
        known = {pixel: np.arange(extents[pixel]), **dict(zip(outer, place, strict=True))}
        hold = np.logical_and.reduce([np.broadcast_to(_value(each, known), extents[pixel]) for each in conditions])
        taken.setdefault(tuple(np.flatnonzero(hold).tolist()), []).append(place)
    most = max(taken, key=lambda chosen: len(taken[chosen]))
    result = _only(body, pixel, most, extents[pixel])
    for chosen, places in taken.items():
        if chosen == most:
            continue
        here = tirx.any(*(tirx.all(*(v == k for v, k in zip(outer, place, strict=True))) for place in places))
        result = tirx.IfThenElse(here, _renamed(_only(body, pixel, chosen, extents[pixel])), result)
    return result


def _only(body: tirx.Stmt, pixel: tirx.Var, chosen: Sequence[int], count: int) -> tirx.Stmt:
    """The body for the chosen ones out of ``count`` pixels."""
    if not chosen:
        return tirx.Evaluate(0)

    def limited(realize: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
        here = tirx.any(*(pixel == k for k in chosen))
        return s_tir.SBlockRealize(list(realize.iter_values), tirx.all(realize.predicate, here), realize.block)

    return body if len(chosen) == count else tvm_ffi.structural_map(body, (s_tir.SBlockRealize, limited))


def _renamed(body: tirx.Stmt) -> tirx.Stmt:
    """A copy with loop variables, and variables of blocks, of its own."""
    own = {loop.loop_var for loop in _loops(body)}
    tvm_ffi.structural_walk(body, (s_tir.SBlock, lambda block: own.update(var.var for var in block.iter_vars)))
    return _replaced(body, {var: tirx.Var(var.name, var.ty.dtype) for var in own})


def _replaced(node: Any, values: Mapping[tirx.Var, Expr]) -> Any:
    return tvm_ffi.structural_map(node, (tirx.Var, lambda var: values.get(var, var)))


def _with_body(loop: tirx.For, body: tirx.Stmt) -> tirx.For:
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations)


def _loops(stmt: tirx.Stmt) -> list[tirx.For]:
    found: list[tirx.For] = []
    tvm_ffi.structural_walk(stmt, (tirx.For, found.append))
    return found


def _variables(expr: Expr) -> set[tirx.Var]:
    found: set[tirx.Var] = set()
    tvm_ffi.structural_walk(expr, (tirx.Var, found.add))
    return found


def _parts(condition: Expr) -> list[Expr]:
    """The conditions that have to hold together."""
    return [*_parts(condition.a), *_parts(condition.b)] if isinstance(condition, tirx.And) else [condition]


def _value(expr: Expr, known: Mapping[tirx.Var, Any]) -> Any:
    """The value of an expression, for numbers or arrays as values of its variables."""
    if isinstance(expr, tirx.Var):
        return known[expr]
    if isinstance(expr, tirx.IntImm):
        return int(expr)
    return _OPERATIONS[type(expr)](_value(expr.a, known), _value(expr.b, known))
