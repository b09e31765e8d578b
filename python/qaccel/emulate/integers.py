"""A quantized network on samples, in NumPy and exact integers: the accuracy preview, and an oracle for the machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import tvm
from tvm import ir, relax

from ..dialect import operators
from ..dialect.quantized import QuantizedModel
from ..errors import UserError
from ..relax_tools import bindings, known_shape, node_name, variables
from .blas import one_thread
from .compiled import WORTH_MACS
from .float_operators import RULES
from .integer_layers import layer_of, layer_with_weights
from .side_by_side import side_by_side
from .steps import COMFORTABLE_ELEMENTS, TvmNode, holds_tensors

Observer = Callable[[str, np.ndarray], None]


class Measure(Protocol):
    """By channel the mean of what a layer gives with a bias, real values before rounding, and the share that no limit meets."""

    def __call__(self, bias: np.ndarray, limits: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """``limits``: real values that the result is held between, in the place of the layer's clamp; infinite for none."""


# (attributes, measure, weight, bias, weight_scale) -> the bias to go on with
Correct = Callable[[operators.ConvAttrs, Measure, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# (attributes, the layer's integers in every pass, weight, bias, weight_scale) -> weight, bias and weight_scale to go on with
Reweigh = Callable[
    [operators.ConvAttrs, Sequence[np.ndarray], np.ndarray, np.ndarray, np.ndarray],
    tuple[np.ndarray, np.ndarray, np.ndarray],
]
CallSubgraph = Callable[[str, list[np.ndarray]], Sequence[np.ndarray]]
BATCH = 64  # samples in one pass of a small network
SIDE_BY_SIDE = 16  # passes of a large one that go from layer to layer together
HELD_BYTES = 512 << 20  # of a layer's sums; more are computed again rather than kept


def run_quantized(
    mod: tvm.IRModule,
    inputs: Mapping[str, np.ndarray],
    observe: Observer | None = None,
    correct: Correct | None = None,
    subgraph: CallSubgraph | None = None,
    reweigh: Reweigh | None = None,
) -> dict[str, np.ndarray]:
    """Runs ``main``; inputs by parameter name, outputs by position ("0", "1", ...).

    Axis 0 may be any multiple of the module's own batch. ``observe(name, integers)`` gets every integer result, NHWC,
    in the carrier's dtype, under the name of its operation (more than once where samples run in several passes).
    ``correct(attributes, measure, weight, bias, weight_scale)`` gives the bias that a convolution is to have instead;
    ``measure`` says what the layer gives over all samples with another bias.
    ``reweigh(attributes, operands, weight, bias, weight_scale)`` gives the weights, bias and scales that it is to have instead,
    before that; ``operands`` are its integers, NHWC, of every pass, in the order of the samples.
    ``subgraph(symbol, operands)`` runs an accelerator subgraph of a partitioned module and gives its results.
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
    large = _macs(function) >= WORTH_MACS * max((shape[0] for shape in shapes.values() if shape), default=1)
    step = (_comfortable(function) if large else BATCH) if together else 1
    parts = [
        {
            name: v[first * shapes[name][0] : (first + step) * shapes[name][0]] if v.shape else v
            for name, v in arrays.items()
        }
        for first in range(0, int(min(factors)), step)
    ]
    # A layer is changed by all samples at once, so the passes then go from layer to layer side by side.
    changes = correct is not None or reweigh is not None
    side = len(parts) if changes else SIDE_BY_SIDE if large else 1
    groups = [parts[k : k + side] for k in range(0, len(parts), side)]
    run = _Run(mod, large, observe, correct, subgraph, reweigh)
    with one_thread():
        pieces = [piece for group in groups for piece in run(group)]
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


def run_stretch(
    mod: tvm.IRModule, steps: Sequence[relax.Binding], given: Mapping[relax.Var, np.ndarray], wanted: relax.Var
) -> np.ndarray:
    """The value of ``wanted`` by ``steps``, some bindings of ``main`` in their order, from the values ``given`` of those before.

    Axis 0 of each value may be any multiple of its variable's own. Raises UserError as `run_quantized`.
    """
    own = {var: operators.static_shape(var)[:1] for var in given}
    times = min(len(value) // own[var][0] for var, value in given.items() if own[var])
    together = BATCH if _all_batched(mod["main"]) and len(set(own.values())) == 1 else 1
    made = []
    with one_thread():
        for first in range(0, times, together):
            values: Values = {
                var: value[first * own[var][0] : (first + together) * own[var][0]] if own[var] else value
                for var, value in given.items()
            }
            for step in steps:
                attrs = operators.read(step.value) if operators.is_quantized(step.value) else None
                values[step.var] = _value(step, attrs, mod, values, None)
            made.append(values[wanted])
    return np.concatenate(made)


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


def _macs(function: relax.Function) -> int:
    """Multiply-adds of the convolutions, in all samples of the function's own batch."""
    calls = [b.value for b in bindings(function) if operators.is_quantized(b.value)]
    shapes = [
        (operators.static_shape(call), operators.static_shape(call.args[1]))
        for call in calls
        if call.op.name == operators.ConvAttrs.operator
    ]
    return sum(math.prod(out) * math.prod(weight[1:]) for out, weight in shapes)


def _comfortable(function: relax.Function) -> int:
    """Multiple of the function's own batch at which its largest tensor stays in the cache."""
    largest = max((math.prod(known_shape(b.var) or ()) for b in bindings(function)), default=1)
    return max(1, COMFORTABLE_ELEMENTS // max(1, largest))


Values = dict[relax.Var, Any]


@dataclass(frozen=True)
class _Run:
    """Runs passes; ``large``: in compiled functions, side by side."""

    mod: tvm.IRModule
    large: bool
    observe: Observer | None
    correct: Correct | None
    subgraph: CallSubgraph | None
    reweigh: Reweigh | None

    def __call__(self, parts: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
        """The results of each part, all of them taken from binding to binding together."""
        function = self.mod["main"]
        passes: list[Values] = [{param: arrays[param.name] for param in function.params} for arrays in parts]
        steps = bindings(function)
        last = _last_reads(steps, function.body.body)
        for k, binding in enumerate(steps):
            attrs = operators.read(binding.value) if operators.is_quantized(binding.value) else None
            if (self.correct or self.reweigh) and isinstance(attrs, operators.ConvAttrs):
                made = self.changed(attrs, binding, passes)
            else:
                made = self.each(self.computation(binding, attrs), passes)
            for values, value in zip(passes, made, strict=True):
                values[binding.var] = value
                if self.observe is not None and attrs is not None and not isinstance(attrs, operators.DequantizeAttrs):
                    self.observe(attrs.name, value)
                for var in last.get(k, ()):
                    values.pop(var, None)
        results = [_value_of(function.body.body, values) for values in passes]
        return [list(result) if isinstance(result, tuple) else [result] for result in results]

    def each(self, compute: Callable[[Any], Any], given: Sequence[Any]) -> list[Any]:
        """``compute`` of each of the passes' values."""
        return side_by_side(compute, given) if self.large else [compute(one) for one in given]

    def computation(self, binding: relax.Binding, attrs: operators.Attrs | None) -> Callable[[Values], Any]:
        """The value of a binding from the values before it."""
        if attrs is None or not self.large:
            return lambda values: _value(binding, attrs, self.mod, values, self.subgraph)
        args = binding.value.args
        count = len(operators.inputs_of(attrs)) or 1  # quantize reads one float
        constants = [operators.constant(arg) for arg in args[count:]]
        compute = layer_of(attrs, constants, [str(arg.ty.dtype) for arg in args[:count]])
        if compute is None:
            return lambda values: _value(binding, attrs, self.mod, values, self.subgraph)
        return lambda values: compute(*(_value_of(arg, values) for arg in args[:count]))

    def changed(self, attrs: operators.ConvAttrs, binding: relax.Binding, passes: list[Values]) -> list[np.ndarray]:
        """A convolution's result in each pass, with the weights and the bias that ``reweigh`` and ``correct`` give."""
        q, *constants = binding.value.args
        weight, bias, weight_scale = (operators.constant(arg) for arg in constants)
        given = [_value_of(q, values) for values in passes]
        if self.reweigh is not None:
            weight, bias, weight_scale = self.reweigh(attrs, given, weight, bias, weight_scale)
        layer = layer_with_weights(attrs, weight, weight_scale, self.large)
        correct = self.correct
        if correct is None:
            return self.each(lambda operand: layer.finish(layer.sums(operand), bias), given)
        bytes_of_all = 8 * math.prod(attrs.output_shape(given[0].shape, weight.shape)) * len(given)
        keep = bytes_of_all <= HELD_BYTES

        def summed(operand: np.ndarray) -> np.ndarray | None:
            return layer.sums(operand) if keep else None

        held = list(zip(given, self.each(summed, given), strict=True))
        step = float(attrs.source.scale) * weight_scale.astype(np.float64)

        def measure(bias: np.ndarray, limits: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
            lo, hi = (end / step for end in limits)

            def limited(one: tuple[np.ndarray, np.ndarray | None]) -> tuple[np.ndarray, np.ndarray, int]:
                operand, sums = one
                sums = layer.sums(operand) if sums is None else sums
                return *layer.limited(sums, bias, lo, hi), sums.size // len(step)

            totals, inside, counts = zip(*self.each(limited, held), strict=True)
            return np.sum(totals, axis=0) / sum(counts) * step, np.sum(inside, axis=0) / sum(counts)

        bias = correct(attrs, measure, weight, bias, weight_scale)

        def finished(one: tuple[np.ndarray, np.ndarray | None]) -> np.ndarray:
            operand, sums = one
            return layer.finish(layer.sums(operand) if sums is None else sums, bias)

        return self.each(finished, held)


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


def _last_reads(steps: Sequence[relax.Binding], result: relax.Expr) -> dict[int, list[relax.Var]]:
    """By position, the variables that no later binding reads, and that are not among the results."""
    at: dict[relax.Var, int] = {}
    for k, binding in enumerate(steps):
        at.update(dict.fromkeys([binding.var, *variables(binding.value)], k))
    dead: dict[int, list[relax.Var]] = {}
    for var in at.keys() - set(variables(result)):
        dead.setdefault(at[var], []).append(var)
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
