"""The first convolutions of a network, and what they give on some samples: means and deviations of every channel."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import ir, relax

from ....emulate.executor import execute
from ....model import Model
from ....relax_tools import bindings, node_name, variables

MOST_LAYERS = 8
_CONVOLUTION = "relax.nn.conv2d"
_MOVES = {"relax.permute_dims", "relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.nn.pad"}
_SCALINGS = {"relax.add", "relax.subtract", "relax.multiply", "relax.divide"}  # by a constant


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution: sums of the weights of each output channel [channels], its bias [channels], zeros where it has none.

    `source`: the input or node whose values it reads, seen through moves. `linear`: no activation follows it directly.
    """

    name: str
    source: str
    weight_sums: np.ndarray
    bias: np.ndarray
    linear: bool


@dataclass(frozen=True)
class Moments:
    """Means and standard deviations of every channel over samples and positions, [channels] each."""

    mean: np.ndarray
    deviation: np.ndarray


def first_layers(model: Model) -> tuple[str, tuple[Layer, ...]]:
    """The input that the first convolution reads, and the first MOST_LAYERS convolutions with constant weights, in order.

    No layer where the first one reads something else than one input, moved or scaled by constants.
    """
    function = model.mod["main"]
    values = {binding.var: binding.value for binding in bindings(function)}
    inputs = {param: spec.name for param, spec in zip(function.params, model.inputs, strict=True)}
    weights: dict[str, tuple[np.ndarray, str]] = {}
    biases: dict[str, np.ndarray] = {}
    first = ""
    for call in values.values():
        op, name = _op(call), node_name(call) if isinstance(call, relax.Call) else ""
        if op == _CONVOLUTION and isinstance(call.args[1], ir.GenericConst) and len(weights) < MOST_LAYERS:
            first = first or _origin(call.args[0], values, inputs)
            if not first:
                return "", ()
            weight = call.args[1].value.numpy()
            weights[name] = (
                weight.reshape(len(weight), -1).sum(1, dtype=np.float64),
                _source(call.args[0], values, inputs),
            )
        elif op == "relax.add" and name in weights and isinstance(call.args[1], ir.GenericConst):
            biases[name] = call.args[1].value.numpy().astype(np.float64).ravel()
    linear = _linear(model)
    layers = []
    for name, (sums, source) in weights.items():
        bias = biases.get(name, np.zeros(1))
        if bias.size in (1, sums.size):
            layers.append(Layer(name, source, sums, np.broadcast_to(bias, sums.shape), name in linear))
    return first, tuple(layers)


def moments(model: Model, layers: Sequence[Layer], samples: Mapping[str, np.ndarray]) -> dict[str, Moments]:
    """What each layer, and the tensor that the first one reads, gives on the samples. Nothing behind them is run."""
    wanted = {layer.name for layer in layers} | {layers[0].source}
    sums: dict[str, list[np.ndarray]] = {}
    total = max(len(value) for value in samples.values() if value.ndim)

    class Enough(Exception):
        pass

    def observe(name: str, value: np.ndarray) -> None:
        if name not in wanted or value.ndim < 3:
            return
        axes = (0, *range(2, value.ndim))
        real = value.astype(np.float64)
        each = [len(value) * real.mean(axes), len(value) * (real**2).mean(axes), np.float64(len(value))]
        sums[name] = [a + b for a, b in zip(sums[name], each, strict=True)] if name in sums else each
        if name == layers[-1].name and sums[name][2] >= total:
            raise Enough

    with contextlib.suppress(Enough):
        execute(model, samples, observe)
    return {
        name: Moments(mean / count, np.sqrt(np.maximum(square / count - (mean / count) ** 2, 0.0)))
        for name, (mean, square, count) in sums.items()
    }


def _op(call: relax.Expr) -> str:
    return call.op.name if isinstance(call, relax.Call) and isinstance(call.op, ir.Op) else ""


def _origin(expr: relax.Expr, values: Mapping[relax.Var, relax.Expr], inputs: Mapping[relax.Var, str]) -> str:
    """The input that an expression is, moved or scaled by constants; empty where it is something else."""
    while expr not in inputs:
        call = values.get(expr)
        if _op(call) not in _MOVES | _SCALINGS or len(variables(call)) != 1:
            return ""
        expr = variables(call)[0]
    return inputs[expr]


def _source(expr: relax.Expr, values: Mapping[relax.Var, relax.Expr], inputs: Mapping[relax.Var, str]) -> str:
    """The input or node whose values an expression has."""
    while _op(values.get(expr)) in _MOVES:
        expr = variables(values[expr])[0]
    return inputs[expr] if expr in inputs else node_name(values[expr])


def _linear(model: Model) -> set[str]:
    """Convolutions that only convolutions and additions read: linear bottlenecks, branches before a sum."""
    readers: dict[str, set[str]] = {}
    for node in model.operators:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.op_type)
    return {
        node.name
        for node in model.operators
        if node.op_type == "Conv"
        and set().union(*(readers.get(out, {"output"}) for out in node.outputs)) <= {"Conv", "Add"}
    }
