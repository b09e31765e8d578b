"""The float network with one thing changed at a time: what the change of a layer's weights or of tensors does to the outputs.

Every variant computes only what the change reaches; the other values are those of the unchanged network.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..model import Model
from ..relax_tools import node_name
from .blas import one_thread
from .side_by_side import side_by_side
from .steps import Plan, Run, plan_of, with_weights

Change = Callable[[np.ndarray], np.ndarray]
AT_ONCE = 64  # samples of a small network in one pass


@dataclass(frozen=True, eq=False)
class Variant:
    """What is changed. ``values``: by node or input, what becomes of its final value, an array as `execute` observes it.

    ``weights``: by node of a layer, float32 weights in place of its own. What the layer's mean output loses or gains by them goes
    back, channel by channel, as a corrected bias does; channels lie on axis 1, of a product on the last.
    """

    values: Mapping[str, Change] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)


Outputs = dict[str, np.ndarray]


def perturbed(
    model: Model, inputs: Mapping[str, np.ndarray], variants: Sequence[Variant]
) -> Iterator[tuple[Outputs, list[Outputs]]]:
    """Pass by pass over the samples: the outputs of the network by name, and those of each variant.

    ``inputs``: by name, a multiple of the model's batch along axis 0, as `execute` takes them.
    """
    plan = plan_of(model)
    prepared = [_Prepared.of(plan, model, each) for each in variants]
    with one_thread(), np.errstate(all="ignore"):
        for slots in _passes(plan, model, inputs):
            _every(plan, partial(_Prepared.learn, plan=plan, slots=slots), [each for each in prepared if each.layers])
        for slots in _passes(plan, model, inputs):
            made = _every(plan, partial(_Prepared.changed, plan=plan, slots=slots), prepared)
            yield _outputs(plan, model, slots), [_outputs(plan, model, each) for each in made]


def _every(plan: Plan, run: Callable[[_Prepared], Any], prepared: Sequence[_Prepared]) -> list[Any]:
    return side_by_side(run, prepared) if plan.compiled else [run(each) for each in prepared]


def _passes(plan: Plan, model: Model, inputs: Mapping[str, np.ndarray]) -> Iterator[dict[int, Any]]:
    """All values of the network in one pass after the other, by slot."""
    own = {spec.name: spec.shape[0] for spec in model.inputs if spec.shape}
    factor = min((len(inputs[name]) // size for name, size in own.items()), default=1)
    at_once = 1 if not plan.batchable else plan.comfortable if plan.compiled else AT_ONCE
    for start in range(0, factor, at_once):
        stop = min(factor, start + at_once)
        slots: dict[int, Any] = {}
        for k, spec in enumerate(model.inputs):
            value = np.asarray(inputs[spec.name])
            slots[k] = value[start * own[spec.name] : stop * own[spec.name]] if spec.shape else value
        for step in plan.steps:
            _run(step.run, step.outs, [load(slots) for load in step.loads], slots)
        yield slots


def weights_of(model: Model) -> dict[str, tuple[np.ndarray, int]]:
    """Weights of each layer that can be changed, by node, and the axis of their output channels."""
    found = {}
    for step in plan_of(model).steps:
        if step.layer is not None:
            axis = 1 if step.layer.op.name == "relax.matmul" else 0
            found[node_name(step.layer)] = step.layer.args[1].value.numpy(), axis
    return found


def _run(run: Run, outs: tuple[int, ...], operands: list[Any], slots: Any) -> None:
    value = run(*operands)
    slots.update(zip(outs, value if len(outs) > 1 else (value,), strict=True))


def _outputs(plan: Plan, model: Model, slots: Any) -> Outputs:
    values = (load(slots) for load in plan.results)
    return {spec.name: np.asarray(value) for spec, value in zip(model.outputs, values, strict=True)}


class _Layer:
    """A layer with other weights. ``shift``: what its output's mean over all samples is to be raised by, channel by channel."""

    def __init__(self, run: Run, axis: int) -> None:
        self.run, self.axis = run, axis
        self.total: Any = 0.0
        self.count = 0

    @property
    def shift(self) -> Any:
        """An array that broadcasts over the layer's output."""
        return np.asarray(self.total / max(1, self.count), np.float32)

    def learn(self, made: np.ndarray, wanted: np.ndarray) -> None:
        """Takes one pass into the mean."""
        others = tuple(k for k in range(made.ndim) if k != self.axis % made.ndim)
        self.total = self.total + (wanted - made).sum(axis=others, keepdims=True, dtype=np.float64)
        self.count += made.size // made.shape[self.axis]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A variant by the plan's numbers: changes of inputs by slot, changes of values and other layers by step."""

    inputs: Mapping[int, Change]
    values: Mapping[int, Change]
    layers: Mapping[int, _Layer]

    @staticmethod
    def of(plan: Plan, model: Model, variant: Variant) -> _Prepared:
        inputs = {k: variant.values[s.name] for k, s in enumerate(model.inputs) if s.name in variant.values}
        values = {k: variant.values[step.node] for k, step in enumerate(plan.steps) if step.node in variant.values}
        layers = {}
        for k, step in enumerate(plan.steps):
            weight = variant.weights.get(node_name(step.layer)) if step.layer is not None else None
            if weight is not None and step.layer is not None:
                axis = -1 if step.layer.op.name == "relax.matmul" else 1
                layers[k] = _Layer(with_weights(step, weight, plan.compiled), axis)
        return _Prepared(inputs, values, layers)

    def learn(self, plan: Plan, slots: dict[int, Any]) -> None:
        """Takes the mean outputs of one pass, each layer on the network's own values."""
        for k, layer in self.layers.items():
            step = plan.steps[k]
            layer.learn(layer.run(*(load(slots) for load in step.loads)), slots[step.outs[0]])

    def changed(self, plan: Plan, slots: dict[int, Any]) -> Any:
        """The values of the network with the changes, by slot, over its own."""
        own: dict[int, Any] = {slot: change(slots[slot]) for slot, change in self.inputs.items()}
        after: Any = ChainMap(own, slots)  # only the first map is written
        for k, step in enumerate(plan.steps):
            layer, change = self.layers.get(k), self.values.get(k)
            untouched = own.keys().isdisjoint(step.reads)
            if layer is None and change is None and untouched:
                continue
            if layer is None and untouched:
                own.update({out: slots[out] for out in step.outs})
            else:
                run = step.run if layer is None else layer.run
                _run(run, step.outs, [load(after) for load in step.loads], own)
            if layer is not None:
                own[step.outs[0]] = own[step.outs[0]] + layer.shift
            if change is not None:
                own.update({out: change(own[out]) for out in step.outs if isinstance(own[out], np.ndarray)})
            for slot in step.dead:
                own.pop(slot, None)
        return after
