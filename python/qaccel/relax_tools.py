"""Small tools on Relax modules."""

from __future__ import annotations

from collections import Counter

from tvm import relax


def node_name(call: relax.Call) -> str:
    """The ONNX node that a Relax call came from; empty for a call that no node stands behind."""
    return "" if call.span is None else str(call.span.source_name.name)


def use_counts(function: relax.Function) -> Counter[relax.Var]:
    """How often each variable is read; being the function's result counts."""
    counts: Counter[relax.Var] = Counter()
    for block in function.body.blocks:
        for binding in block.bindings:
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
