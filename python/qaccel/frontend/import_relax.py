"""Relax modules that were written by hand or came from one of TVM's frontends, in the form that `to_relax` gives."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import tvm
from onnx import TensorProto, helper
from tvm import ir, relax
from tvm.ir import SourceName, Span

from ..dialect import kinds
from ..errors import UserError
from ..model import ImportedModel, TensorSpec


def import_relax(mod: tvm.IRModule) -> ImportedModel:
    """A module with a float ``main`` of static shapes whose weights are constants.

    Operators of training are decomposed (batch normalization, dropout), constants folded, every call named after the
    variable that it defines. Raises UserError for a missing ``main``, control flow, and symbolic shapes.
    """
    prepared = relax.transform.DeadCodeElimination(["main"])(relax.transform.FoldConstant()(prepare(mod)))
    function = prepared["main"]
    others = {var: fn for var, fn in prepared.functions_items() if var.name_hint != "main"}
    inputs = tuple(_spec(param, param.name) for param in function.params)
    builder = relax.BlockBuilder(tvm.IRModule(others))
    with builder.function("main", list(function.params)):
        with builder.dataflow():
            now = _bindings(function, builder)
            # The tuple itself, not a variable that stands for another that stands for it: so `to_relax` writes it.
            fields = [_renewed(field, now) for field in _fields(function.body.body, function)]
            several = isinstance(function.ret_ty, relax.TupleType)
            out = builder.emit_output(relax.Tuple(fields) if several else fields[0])
        builder.emit_func_output(out)
    made = builder.get()
    results = _fields(made["main"].body.body, made["main"])
    outputs = tuple(_spec(var, f"output{k}" if len(results) > 1 else "output") for k, var in enumerate(results))
    return ImportedModel(_described(inputs, outputs), made, inputs, outputs)


def prepare(mod: tvm.IRModule) -> tvm.IRModule:
    """The module without operators of training. Raises UserError where there is no ``main``."""
    if "main" not in {var.name_hint for var in mod.get_global_vars()}:
        raise UserError("the Relax module has no function 'main'")
    return tvm.transform.Sequential(
        [
            relax.transform.FoldBatchnormToConv2D(),
            relax.transform.DecomposeOpsForInference("main"),
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(["main"]),
        ]
    )(mod)


def _bindings(function: relax.Function, builder: relax.BlockBuilder) -> dict[relax.Var, relax.Expr]:
    """Every binding of the function emitted again with its name as span, made unique: variables may share theirs."""
    now: dict[relax.Var, relax.Expr] = {param: param for param in function.params}
    taken: set[str] = set()
    layers: dict[relax.Var, str] = {}
    uses = _use_counts(function)
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.If | relax.Function):
                raise UserError(
                    f"'{binding.var.name}' of the Relax module is control flow; only straight code compiles"
                )
            value = _renewed(value, now)
            if isinstance(value, relax.Call):
                name = _layer_of_bias(binding.value, layers, uses) or _unique(str(binding.var.name), taken)
                if isinstance(value.op, ir.Op) and value.op.name in kinds.WEIGHTED:
                    layers[binding.var] = name
                value = relax.Call(value.op, value.args, value.attrs, value.ty_args, Span(SourceName(name), 0, 0, 0, 0))
            now[binding.var] = builder.emit(value, str(binding.var.name))
    return now


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number behind it if it is taken; it is taken from now on."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def _layer_of_bias(call: relax.Call, layers: dict[relax.Var, str], uses: dict[relax.Var, int]) -> str:
    """The name of the layer whose bias this addition is; empty for anything else."""
    if not isinstance(call.op, ir.Op) or call.op.name != "relax.add":
        return ""
    source, bias = call.args
    joins = isinstance(source, relax.Var) and isinstance(bias, ir.GenericConst) and uses.get(source, 0) == 1
    return layers.get(source, "") if joins else ""


def _use_counts(function: relax.Function) -> dict[relax.Var, int]:
    counts: dict[relax.Var, int] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            counts[expr] = counts.get(expr, 0) + 1

    relax.analysis.post_order_visit(function.body, visit)
    return counts


def _renewed(expr: relax.Expr, now: dict[relax.Var, relax.Expr]) -> relax.Expr:
    if isinstance(expr, relax.Var):
        return now.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_renewed(field, now) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_renewed(expr.tuple_value, now), expr.index)
    if isinstance(expr, relax.Call):
        return relax.Call(expr.op, [_renewed(arg, now) for arg in expr.args], expr.attrs, expr.ty_args)
    return expr


def _fields(result: relax.Expr, function: relax.Function) -> Sequence[relax.Expr]:
    values = {binding.var: binding.value for block in function.body.blocks for binding in block.bindings}
    while isinstance(result, relax.Var) and isinstance(values.get(result), relax.Var | relax.Tuple):
        result = values[result]
    return list(result.fields) if isinstance(result, relax.Tuple) else [result]


def _spec(var: relax.Expr, name: str) -> TensorSpec:
    shape = getattr(var.ty, "shape", None)
    if shape is None or not all(isinstance(dim, tvm.tirx.IntImm) for dim in shape):
        raise UserError(f"'{name}' of the Relax module has the type {var.ty}; only tensors of static shape compile")
    return TensorSpec(name, tuple(int(dim) for dim in shape), str(var.ty.dtype))


def _described(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> onnx.ModelProto:
    """An ONNX model without nodes: there is none behind a Relax module, only its inputs and outputs."""
    infos = [
        [helper.make_tensor_value_info(s.name, TensorProto.FLOAT, s.shape) for s in specs]
        for specs in (inputs, outputs)
    ]
    return helper.make_model(helper.make_graph([], "relax", *infos))
