"""Relax modules that were written by hand or came from one of TVM's frontends, in the form that `to_relax` gives."""

from __future__ import annotations

import tvm
from tvm import ir, relax

from ..dialect import kinds
from ..errors import UserError
from ..model import Model, SourceOperator, TensorSpec
from ..relax_tools import (
    bindings,
    known_shape,
    main_function,
    node_name,
    node_span,
    renewed,
    results,
    use_counts,
    variables,
)
from .from_relax.layers import number
from .from_relax.names import onnx_name


def import_relax(mod: tvm.IRModule) -> Model:
    """A module with a float ``main`` of static shapes whose weights are constants.

    Operators of training are decomposed (batch normalization, dropout), constants folded, every call named after the
    variable that it defines. Raises UserError for a missing ``main``, control flow, and symbolic shapes.
    """
    prepared = relax.transform.DeadCodeElimination(["main"])(relax.transform.FoldConstant()(prepare(mod)))
    function = prepared["main"]
    others = {var: fn for var, fn in prepared.functions_items() if var.name_hint != "main"}
    inputs = tuple(_spec(param, param.name) for param in function.params)
    builder = relax.BlockBuilder(tvm.IRModule(others))
    with main_function(builder, list(function.params)):
        with builder.dataflow():
            now = _emitted(function, builder)
            # The tuple itself, not a variable that stands for another that stands for it: so `to_relax` writes it.
            fields = [renewed(field, now) for field in results(function)]
            several = isinstance(function.ret_ty, relax.TupleType)
            out = builder.emit_output(relax.Tuple(fields) if several else fields[0])
        builder.emit_func_output(out)
    made = builder.get()
    returned = results(made["main"])
    outputs = tuple(_spec(var, f"output{k}" if len(returned) > 1 else "output") for k, var in enumerate(returned))
    return Model(made, inputs, outputs, _operators(made["main"], inputs))


def border_of(mod: tvm.IRModule) -> str | None:
    """The name of the first call of ``main`` that quantizes or dequantizes; None where nothing came quantized."""
    names = ("relax.quantize", "relax.dequantize")
    for binding in bindings(mod["main"]):
        call = binding.value
        if isinstance(call, relax.Call) and isinstance(call.op, ir.Op) and call.op.name in names:
            return node_name(call) or str(binding.var.name)
    return None


def prepare(mod: tvm.IRModule) -> tvm.IRModule:
    """The module without operators of training. Raises UserError where there is no ``main``."""
    passes = [relax.transform.FoldBatchnormToConv2D(), relax.transform.DecomposeOpsForInference("main")]
    return tidied(tvm.transform.Sequential(passes)(_with_main(mod)))


def tidied(mod: tvm.IRModule) -> tvm.IRModule:
    """The module without other names of the same and what nobody reads. Raises UserError where there is no ``main``."""
    passes = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential(passes)(_with_main(mod))


def _with_main(mod: tvm.IRModule) -> tvm.IRModule:
    if "main" not in {var.name_hint for var in mod.get_global_vars()}:
        raise UserError("the Relax module has no function 'main'")
    return mod


def _emitted(function: relax.Function, builder: relax.BlockBuilder) -> dict[relax.Var, relax.Expr]:
    """Every binding of the function emitted again with its name as span, made unique: variables may share theirs."""
    now: dict[relax.Var, relax.Expr] = {param: param for param in function.params}
    taken = {str(param.name) for param in function.params}
    layers: dict[relax.Var, str] = {}
    uses = use_counts(function)
    for binding in bindings(function):
        value = binding.value
        if isinstance(value, relax.If | relax.Function):
            raise UserError(f"'{binding.var.name}' of the Relax module is control flow; only straight code compiles")
        if isinstance(value, relax.Call) and isinstance(value.op, ir.GlobalVar):
            raise UserError(
                f"'{binding.var.name}' of the Relax module calls function '{value.op.name_hint}'; only straight code compiles: "
                "inline it"
            )
        value = renewed(value, now)
        if isinstance(value, relax.Call):
            name = _layer_of_bias(binding.value, layers, uses) or _unique(str(binding.var.name), taken)
            if isinstance(value.op, ir.Op) and value.op.name in kinds.WEIGHTED:
                layers[binding.var] = name
            value = relax.Call(value.op, value.args, value.attrs, value.ty_args, node_span(name))
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


def _spec(var: relax.Expr, name: str) -> TensorSpec:
    shape = known_shape(var)
    if shape is None:
        raise UserError(f"'{name}' of the Relax module has the type {var.ty}; only tensors of static shape compile")
    return TensorSpec(name, shape, str(var.ty.dtype))


def _operators(function: relax.Function, inputs: tuple[TensorSpec, ...]) -> tuple[SourceOperator, ...]:
    """The operators behind the calls; what one gives has its name. A layer and its bias, two calls, are one."""
    held = {param: [spec.name] for param, spec in zip(function.params, inputs, strict=True)}
    made: dict[str, SourceOperator] = {}
    for binding in bindings(function):
        call = binding.value
        read = list(dict.fromkeys(name for var in variables(call) for name in held[var]))
        name = node_name(call) if isinstance(call, relax.Call) else ""
        held[binding.var] = [name] if name else read
        if name and name not in made:
            made[name] = SourceOperator(name, onnx_name(call), tuple(read), (name,), *_limits(call))
    return tuple(made.values())


def _limits(call: relax.Call) -> tuple[tuple[float, float], ...]:
    """The bounds of a clip; nothing for other operators."""
    if not isinstance(call.op, ir.Op) or call.op.name != "relax.clip":
        return ()
    return ((number(call.args[1]), number(call.args[2])),)
