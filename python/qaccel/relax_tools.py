"""Small tools on Relax modules."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import tvm
from tvm import relax
from tvm.ir import SourceName, Span

from .errors import UserError


@contextmanager
def main_function(builder: relax.BlockBuilder, params: list[relax.Var]) -> Iterator[None]:
    """``builder.function("main", params)``; exceptions close its block too, else the builder warns beside the user's one line."""
    with builder.function("main", params):
        try:
            yield
        except BaseException:
            builder._end_block()
            raise


def node_name(call: relax.Call) -> str:
    """The ONNX node that a Relax call came from; empty for a call that no node stands behind."""
    return "" if call.span is None else str(call.span.source_name.name)


def node_span(name: str) -> Span:
    """The span by which a call says that it came from this node; `node_name` reads it."""
    return Span(SourceName(name), 0, 0, 0, 0)


def bindings(function: relax.Function) -> list[relax.Binding]:
    """The bindings of a function, in order."""
    return [binding for block in function.body.blocks for binding in block.bindings]


def functions(mod: tvm.IRModule) -> list[relax.Function]:
    """The Relax functions of a module; those of TensorIR are left out."""
    return [function for function in mod.functions.values() if isinstance(function, relax.Function)]


def results(function: relax.Function) -> list[relax.Expr]:
    """What a function returns: the fields of its tuple, or one expression, seen through renamings."""
    values = {binding.var: binding.value for binding in bindings(function)}
    result = function.body.body
    while isinstance(result, relax.Var) and isinstance(values.get(result), relax.Var | relax.Tuple):
        result = values[result]
    return list(result.fields) if isinstance(result, relax.Tuple) else [result]


def renewed(expr: relax.Expr, now: Mapping[relax.Var, relax.Expr]) -> relax.Expr:
    """The expression with variables replaced as `now` says; those that it does not name stay, and so do spans."""
    if isinstance(expr, relax.Var):
        return now.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([renewed(field, now) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(renewed(expr.tuple_value, now), expr.index)
    if isinstance(expr, relax.Call):
        return relax.Call(expr.op, [renewed(arg, now) for arg in expr.args], expr.attrs, expr.ty_args, expr.span)
    return expr


def use_counts(function: relax.Function) -> Counter[relax.Var]:
    """How often each variable is read; being the function's result counts."""
    counts: Counter[relax.Var] = Counter()
    for binding in bindings(function):
        counts.update(variables(binding.value))
    counts.update(variables(function.body.body))
    return counts


def variables(expr: relax.Expr) -> list[relax.Var]:
    """The variables that an expression reads, in order, each as often as it does."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Call):
        return [var for arg in expr.args for var in variables(arg)]
    if isinstance(expr, relax.Tuple):
        return [var for field in expr.fields for var in variables(field)]
    if isinstance(expr, relax.TupleGetItem):
        return variables(expr.tuple_value)
    return []


def known_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """The shape of a tensor as integers; None for what is no tensor, and where a dimension is symbolic."""
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    sizes = list(shape.values)  # each look into TVM's array takes its time
    return tuple(int(dim) for dim in sizes) if all(isinstance(dim, tvm.tirx.IntImm) for dim in sizes) else None


def static_shape(expr: relax.Expr) -> tuple[int, ...]:
    """The shape of a tensor as integers. Raises UserError if a dimension is symbolic."""
    shape = known_shape(expr)
    if shape is None:
        raise UserError(f"a tensor has the symbolic shape {expr.ty.shape}; fix it with --input-shapes")
    return shape


@contextmanager
def held_back(show: bool = True) -> Iterator[None]:
    """What C++ writes to standard error within the block appears after it, where the block succeeds: an exception says enough.

    ``show`` False: it never appears. No LLVM code may be generated in the block: where that fails, LLVM says why and ends the
    process.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        noise = tempfile.TemporaryFile()  # noqa: SIM115 - its opening alone may fail here
    except OSError:  # no room for it: then it is seen
        yield
        return
    with noise:
        before = os.dup(2)
        try:
            os.dup2(noise.fileno(), 2)
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
        if show:
            noise.seek(0)
            os.write(2, noise.read())
