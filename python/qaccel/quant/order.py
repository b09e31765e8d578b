"""The order of a quantized function's calls, a function of its graph alone: however it came about, it gives one program."""

from __future__ import annotations

from tvm import relax

from ..dialect import operators
from ..relax_tools import bindings, variables


def in_reading_order(function: relax.Function) -> relax.Function:
    """The function of one dataflow block with its nodes on integers in their order, all else right before its first reader.

    All else is what enters or leaves the integers, copies in other widths, and what runs in floating point.
    """
    held = {binding.var: binding for binding in bindings(function)}
    ordered: dict[relax.Var, relax.Binding] = {}

    def take(wanted: relax.Var) -> None:
        pending = [wanted]
        while pending:
            var = pending[-1]
            missing = [v for v in variables(held[var].value) if v in held and v not in ordered] if var in held else []
            if missing:
                pending.extend(reversed(missing))
                continue
            if var in held:
                ordered.setdefault(var, held[var])
            pending.pop()

    for binding in held.values():
        if is_node(binding.value):
            take(binding.var)
    for var in variables(function.body.body):
        take(var)
    block = relax.DataflowBlock(list(ordered.values()))
    body = relax.BlockBuilder().normalize(relax.SeqExpr([block], function.body.body))
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def is_node(value: relax.Expr) -> bool:
    """Whether a call is a node, or a step of one, on integers."""
    attrs = operators.read(value) if operators.is_quantized(value) else None
    if isinstance(attrs, operators.RequantizeAttrs):
        return not attrs.is_copy
    return isinstance(attrs, operators.IntegerAttrs)
