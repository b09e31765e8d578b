"""Names of a TFLite file for what its operators become: TVM's frontend numbers its variables."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import ir, relax

from ...dialect import kinds
from ...relax_tools import bindings, main_function, renewed, results


def label_of(tensor: str) -> str:
    """The name of the operator that gives a tensor; of those that were fused, which TFLite joins, the first."""
    return tensor.split(";")[0]


def labelled(mod: tvm.IRModule, labels: Mapping[relax.Var, str]) -> tvm.IRModule:
    """The module with variables named after operators. ``labels``: the name of each operator by its last variable.

    All that was bound since the operator before belongs to an operator: its layer of weights has the name, or its last call; the
    others have their own behind it.
    """
    function = mod["main"]
    names: dict[relax.Var, str] = {}
    pending: list[relax.Binding] = []
    for binding in bindings(function):
        pending.append(binding)
        if binding.var not in labels:
            continue
        label = labels[binding.var]
        layers = [each for each in pending if _operator(each) in kinds.WEIGHTED]
        for each in pending:
            names[each.var] = f"{label}:{_operator(each).rpartition('.')[2] or 'part'}"
        names[(layers or pending)[-1].var] = label
        pending = []
    others = {var: fn for var, fn in mod.functions_items() if var.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.IRModule(others))
    now: dict[relax.Var, relax.Expr] = {}
    with main_function(builder, list(function.params)):
        with builder.dataflow():
            for binding in bindings(function):
                now[binding.var] = builder.emit(
                    renewed(binding.value, now), names.get(binding.var, str(binding.var.name))
                )
            fields = [renewed(field, now) for field in results(function)]
            several = isinstance(function.ret_ty, relax.TupleType)
            out = builder.emit_output(relax.Tuple(fields) if several else fields[0])
        builder.emit_func_output(out)
    return tvm.IRModule({**others, "main": builder.get()["main"]}, attrs=mod.attrs)


def _operator(binding: relax.Binding) -> str:
    call = binding.value
    return str(call.op.name) if isinstance(call, relax.Call) and isinstance(call.op, ir.Op) else ""
