"""A quantized network on samples, in NumPy and exact integers: the accuracy preview, and an oracle for the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import tvm
from tvm import ir, relax

from ..dialect import operators
from ..dialect.quantized import QuantizedModel
from ..errors import UserError
from ..relax_tools import bindings, node_name
from .float_operators import RULES
from .steps import TvmNode, holds_tensors

Observer = Callable[[str, np.ndarray], None]
Correct = Callable[[operators.ConvAttrs, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
CallSubgraph = Callable[[str, list[np.ndarray]], Sequence[np.ndarray]]
BATCH = 64  # samples in one pass


def run_quantized(
    mod: tvm.IRModule,
    inputs: Mapping[str, np.ndarray],
    observe: Observer | None = None,
    correct: Correct | None = None,
    subgraph: CallSubgraph | None = None,
) -> dict[str, np.ndarray]:
    """Runs ``main``; inputs by parameter name, outputs by position ("0", "1", ...).

    Axis 0 may be any multiple of the module's own batch. ``observe(name, integers)`` gets every integer result, NHWC,
    in the carrier's dtype, under the name of its operation (more than once where samples run in several passes).
    ``correct(attributes, sums, weight, bias, weight_scale)`` gives the bias that a convolution is to have instead; ``sums`` are
    its products summed over all samples, NHWC, without the bias. ``subgraph(symbol, operands)`` runs an accelerator subgraph of
    a partitioned module and gives its results.
    Raises UserError for a missing input, a wrong shape, or a float operator without a NumPy rule.
    """
    function = mod["main"]
    arrays = {}
    for param in function.params:
        if param.name not in inputs:
            raise UserError(f"input '{param.name}' is missing")
        arrays[param.name] = np.asarray(inputs[param.name], dtype=str(param.ty.dtype))
    shapes = {param.name: operators.static_shape(param) for param in function.params}
    own = {shape[:1] for shape in shapes.values()}
    factors = {arrays[name].shape[0] / shape[0] for name, shape in shapes.items() if shape and arrays[name].shape} or {
        1.0
    }
    good = all(arrays[name].shape[1:] == shape[1:] for name, shape in shapes.items())
    if not good or len(factors) != 1 or not min(factors).is_integer() or min(factors) < 1:
        raise UserError(f"inputs of shapes {[v.shape for v in arrays.values()]} do not fit {list(shapes.values())}")
    together = _all_batched(function) and len(own) == 1
    step = BATCH if together else 1
    parts = [
        {
            name: v[first * shapes[name][0] : (first + step) * shapes[name][0]] if v.shape else v
            for name, v in arrays.items()
        }
        for first in range(0, int(min(factors)), step)
    ]
    # A bias is corrected by all samples at once, so the passes then go from layer to layer side by side.
    groups = [parts] if correct is not None else [[part] for part in parts]
    pieces = [piece for group in groups for piece in _run(mod, group, observe, correct, subgraph)]
    return {str(k): np.concatenate([np.atleast_1d(piece[k]) for piece in pieces]) for k in range(len(pieces[0]))}


def run_model(
    q: QuantizedModel, inputs: Mapping[str, np.ndarray], observe: Observer | None = None
) -> dict[str, np.ndarray]:
    """Outputs by name, computed in exact integers: what the compiled module will give. ``observe`` as in `run_quantized`.

    Raises UserError for a missing input.
    """
    params = q.mod["main"].params
    by_param = {param.name: spec.name for param, spec in zip(params, q.model.inputs, strict=True)}
    missing = [name for name in by_param.values() if name not in inputs]
    if missing:
        raise UserError(f"input '{missing[0]}' is missing; the model has {', '.join(by_param.values())}")
    values = run_quantized(q.mod, {param: inputs[name] for param, name in by_param.items()}, observe)
    return {spec.name: value for spec, value in zip(q.model.outputs, values.values(), strict=True)}


def _all_batched(function: relax.Function) -> bool:
    """Whether several samples can run in one pass: float operators in between are of kinds that keep axis 0 apart."""
    apart = {
        "relax.nn.relu", "relax.clip", "relax.nn.conv2d", "relax.nn.max_pool2d", "relax.nn.avg_pool2d", "relax.reshape",
    }  # fmt: skip
    for binding in bindings(function):
        value = binding.value
        if operators.is_quantized(value):
            attrs = operators.read(value)
            if isinstance(attrs, operators.QuantizeAttrs | operators.DequantizeAttrs) and attrs.axes[0] != 0:
                return False
        if not isinstance(value, relax.Call) or operators.is_quantized(value):
            continue
        name = value.op.name if isinstance(value.op, ir.Op) else ""
        softmax = name == "relax.nn.softmax" and int(value.attrs.axis) != 0
        if name not in apart and not softmax:
            return False
    return True


Values = dict[relax.Var, Any]


def _run(
    mod: tvm.IRModule,
    parts: Sequence[Mapping[str, np.ndarray]],
    observe: Observer | None,
    correct: Correct | None,
    subgraph: CallSubgraph | None,
) -> list[list[np.ndarray]]:
    """The results of each part, all of them taken from binding to binding together."""
    function = mod["main"]
    passes: list[Values] = [{param: arrays[param.name] for param in function.params} for arrays in parts]
    steps = bindings(function)
    last = _last_reads(steps)
    for k, binding in enumerate(steps):
        attrs = operators.read(binding.value) if operators.is_quantized(binding.value) else None
        if correct is not None and isinstance(attrs, operators.ConvAttrs):
            _corrected(attrs, binding, passes, correct)
        else:
            for values in passes:
                values[binding.var] = _value(binding, attrs, mod, values, subgraph)
        for values in passes:
            if observe is not None and attrs is not None and not isinstance(attrs, operators.DequantizeAttrs):
                observe(attrs.name, values[binding.var])
            for var in last.get(k, ()):
                values.pop(var)
    results = [_value_of(function.body.body, values) for values in passes]
    return [list(result) if isinstance(result, tuple) else [result] for result in results]


def _value_of(expr: relax.Expr, values: Values) -> Any:
    if isinstance(expr, relax.Var):
        return values[expr]
    if isinstance(expr, relax.Tuple):
        return tuple(_value_of(field, values) for field in expr.fields)
    if isinstance(expr, relax.TupleGetItem):
        return _value_of(expr.tuple_value, values)[expr.index]
    return operators.constant(expr) if isinstance(expr, ir.GenericConst) else expr


def _value(
    binding: relax.Binding, attrs: operators.Attrs | None, mod: tvm.IRModule, values: Values, subgraph: CallSubgraph | None
) -> Any:  # fmt: skip
    call = binding.value
    if attrs is not None:
        return attrs.meaning(*(_value_of(arg, values) for arg in call.args))
    if isinstance(call, relax.Call) and isinstance(call.op, ir.GlobalVar) and subgraph is not None:
        results = subgraph(call.op.name_hint, [_value_of(arg, values) for arg in call.args])
        return results if isinstance(call.ty, relax.TupleType) else results[0]
    if isinstance(call, relax.Call):
        return _float(binding, mod, lambda expr: _value_of(expr, values))
    return _value_of(call, values)


def _corrected(attrs: operators.ConvAttrs, binding: relax.Binding, passes: list[Values], correct: Correct) -> None:
    """A convolution with the bias that ``correct`` gives for the sums of all passes."""
    q, *constants = binding.value.args
    weight, bias, weight_scale = (operators.constant(arg) for arg in constants)
    sums = [attrs.sums(_value_of(q, values), weight) for values in passes]
    bias = correct(attrs, sums[0] if len(sums) == 1 else np.concatenate(sums), weight, bias, weight_scale)
    for values, each in zip(passes, sums, strict=True):
        values[binding.var] = attrs.finish(each, bias, weight_scale)


def _last_reads(bindings: list[relax.Binding]) -> dict[int, list[relax.Var]]:
    """Which arrays no later call reads, by position; only of calls that are followed by none of another form."""
    at: dict[relax.Var, int] = {}
    for k, binding in enumerate(bindings):
        value = binding.value
        operands = value.args if isinstance(value, relax.Call) else []
        keep = not isinstance(value, relax.Call) or any(isinstance(a, relax.Tuple) for a in operands)
        if keep:
            return {}
        at.update({arg: k for arg in operands if isinstance(arg, relax.Var)})
        at.setdefault(binding.var, len(bindings))
    dead: dict[int, list[relax.Var]] = {}
    for var, k in at.items():
        dead.setdefault(k, []).append(var)
    return dead


def _float(binding: relax.Binding, mod: tvm.IRModule, value_of: Callable[[relax.Expr], Any]) -> Any:
    """The value of a float operator: by its NumPy rule, or the operator compiled by TVM."""
    call = binding.value
    rule = RULES.get(call.op.name) if isinstance(call.op, ir.Op) else None
    kernel = rule(call) if rule is not None else None
    if kernel is None:
        compiled = _compiled(binding, mod)
        return compiled(*(value_of(var) for var in compiled.operands))
    return kernel(*(value_of(arg) for arg in call.args if holds_tensors(arg)))


@lru_cache(maxsize=256)
def _compiled(binding: relax.Binding, mod: tvm.IRModule) -> TvmNode:
    """One operator without a NumPy rule, its tuple of results taken apart."""
    group, results = [binding], (binding.var,)
    if isinstance(binding.value.ty, relax.TupleType):
        parts = [relax.Var(f"part{k}", field) for k, field in enumerate(binding.value.ty.fields)]
        group += [relax.VarBinding(part, relax.TupleGetItem(binding.var, k)) for k, part in enumerate(parts)]
        results = tuple(parts)
    return TvmNode(node_name(binding.value), group, results, mod)
