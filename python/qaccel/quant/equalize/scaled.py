"""A float network with its channels on other scales: other weights and biases, the same outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from tvm import relax

from ...frontend.graph import attrs_of, fresh_name
from ...model import Model
from ...relax_tools import bindings, known_shape, node_name
from .classes import ADD, Classes


@dataclass(frozen=True, eq=False)
class Change:
    """What becomes of the constants of a node: ``given`` [groups, inputs] its inputs' factors, None for an addition alone;
    ``made`` [channels] its output's."""

    given: np.ndarray | None
    made: np.ndarray


def scaled(model: Model, classes: Classes, factors: np.ndarray) -> Model:
    """The model whose channels are divided by the factors of their classes. Where these are powers of two its outputs are the same
    to the bit."""
    layers: dict[relax.Var, Change] = {}
    shifts: dict[relax.Var, Change] = {}
    for layer in classes.layers:
        given = factors[classes.of[layer.source]].reshape(layer.weight.shape[0], -1)
        made = factors[classes.of[layer.output]]
        layers[layer.product] = Change(given, made)
        if layer.added is not None:
            shifts[layer.added] = Change(None, made)
    shifts |= {var: Change(None, factors[classes.of[var]]) for var, made in classes.made.items() if made.shifted}
    changes = {var: each for var, each in (layers | shifts).items() if _changes(each)}
    function = model.mod["main"]
    now = []
    for binding in bindings(function):
        call, change = binding.value, changes.get(binding.var)
        if change is not None:
            place = next(k for k, arg in enumerate(call.args) if not isinstance(arg, relax.Var))
            value = call.args[place].value.numpy()
            if change.given is not None:
                value = _weight(value, change, call.op.name == "relax.matmul")
            else:
                value = _shift(value, change.made, known_shape(call) or ())
            args = [relax.const(value) if k == place else arg for k, arg in enumerate(call.args)]
            made_call = relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
            relax.expr._update_type(made_call, call.ty)
            binding = relax.VarBinding(binding.var, made_call)
        now.append(binding)
    body = relax.SeqExpr([relax.DataflowBlock(now)], function.body.body)
    relax.expr._update_type(body, function.body.ty)
    mod = model.mod.clone()
    mod["main"] = relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)
    by_node: dict[str, list[Change]] = {}
    for binding in bindings(function):
        if binding.var in changes:
            by_node.setdefault(node_name(binding.value), []).append(changes[binding.var])
    own = {name: factors[classes.of[var]] for var, name in classes.names.items() if var in classes.of}
    return replace(
        model,
        mod=mod,
        onnx_model=None if model.onnx_model is None else _onnx(model.onnx_model, by_node),
        factors={name: each for name, each in own.items() if (each != 1).any()},
    )


def _changes(change: Change) -> bool:
    return bool((change.made != 1).any() or change.given is not None and (change.given != 1).any())


def _weight(value: np.ndarray, change: Change, inputs_first: bool) -> np.ndarray:
    """Weights [outputs, inputs of a group, ...], or [inputs, outputs], on the new scales."""
    assert change.given is not None
    flat = value.T if inputs_first else value
    groups, inputs = change.given.shape
    grouped = flat.reshape(groups, -1, inputs, flat[0, 0].size)
    made = grouped * change.given[:, None, :, None] / change.made.reshape(groups, -1, 1, 1)
    made = made.reshape(flat.shape)
    return np.ascontiguousarray(made.T if inputs_first else made, value.dtype)


def _shift(value: np.ndarray, made: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A constant that is added to each channel of a tensor of this shape."""
    whole = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    over = made.reshape(1, -1, *(1,) * (len(shape) - 2))
    result = (whole / over).astype(value.dtype)
    return result.reshape(result.shape[len(shape) - value.ndim :]) if result.size == value.size else result


def _bias(value: np.ndarray, made: np.ndarray) -> np.ndarray:
    """The bias of a layer, one for each output channel on the last axis."""
    return np.asarray(value / made, value.dtype)


def _onnx(source: onnx.ModelProto, changes: Mapping[str, list[Change]]) -> onnx.ModelProto:
    """The same in the canonical ONNX graph; ``changes`` by node."""
    result = onnx.ModelProto()
    result.CopyFrom(source)
    graph = result.graph
    constants = {each.name: each for each in graph.initializer}
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in (*graph.value_info, *graph.output)}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(constants)

    def change(node: onnx.NodeProto, position: int, make: Callable[..., np.ndarray], *how: Any) -> None:
        if position >= len(node.input) or not node.input[position]:
            return
        name = fresh_name(f"{node.input[position]}_scaled", taken)
        taken.add(name)
        graph.initializer.append(
            numpy_helper.from_array(make(numpy_helper.to_array(constants[node.input[position]]), *how), name)
        )
        node.input[position] = name

    for node in graph.node:
        for each in changes.get(node.name, ()):
            if node.op_type == ADD:
                position = next(k for k, name in enumerate(node.input) if name in constants)
                change(node, position, _shift, each.made, (1,) * ranks[node.output[0]])
            elif each.given is not None:
                change(node, 1, _weight, each, node.op_type != "Conv" and not attrs_of(node).get("transB"))
            else:
                change(node, 2, _bias, each.made)
    read = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    kept = [each for each in graph.initializer if each.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return result
