"""Fast float evaluation of canonical Relax: compiled functions for the heavy steps of large networks, NumPy for the others.

This is what calibration, sensitivities and accuracy checks run. An operator without a rule is compiled by TVM as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..errors import UserError
from ..model import Model
from .blas import one_thread
from .side_by_side import Turns, side_by_side
from .steps import Plan, plan_of

Observer = Callable[[str, np.ndarray], None]


def execute(model: Model, inputs: Mapping[str, np.ndarray], observe: Observer | None = None) -> dict[str, np.ndarray]:
    """Runs the model; `inputs` and the result go by ONNX name.

    Shapes are those of the model; axis 0 may be any multiple of the model's own batch, which runs in one pass where
    the model keeps samples apart and sample by sample where it does not.
    `observe(name, value)` is called for every input and for the final value of every node, with activations in NCHW
    shape (several times with one name for a node with several outputs, or where samples run one by one). The value
    must not be modified.
    """
    arrays = {}
    factor = None
    for spec in model.inputs:
        if spec.name not in inputs:
            raise UserError(f"input '{spec.name}' is missing; the model has {', '.join(s.name for s in model.inputs)}")
        value = np.asarray(inputs[spec.name])
        if value.dtype != np.dtype(spec.dtype):
            value = value.astype(spec.dtype)
        own = spec.shape[0] if spec.shape else 1
        good = value.shape[1:] == spec.shape[1:] and value.ndim == len(spec.shape)
        times = (value.shape[0] // own if value.shape[0] % own == 0 else 0) if good and spec.shape else int(good)
        if times < 1 or spec.shape and factor not in (None, times):
            raise UserError(
                f"input '{spec.name}' has shape {list(value.shape)}; needed is {list(spec.shape)}, or a multiple of it "
                "along axis 0 common to all inputs"
            )
        factor = times if spec.shape else factor
        arrays[spec.name] = value
    plan = plan_of(model)
    at_once = 1 if not plan.batchable else plan.comfortable if observe is None or plan.compiled else factor or 1
    if factor is None or factor <= at_once:
        with one_thread():
            return _run(plan, model, arrays, observe)
    samples = [
        {
            s.name: arrays[s.name][k * s.shape[0] : (k + at_once) * s.shape[0]] if s.shape else arrays[s.name]
            for s in model.inputs
        }
        for k in range(0, factor, at_once)
    ]
    with one_thread():
        if plan.compiled:
            pieces = _run_side_by_side(plan, model, samples, observe)
        else:
            pieces = [_run(plan, model, sample, observe) for sample in samples]
    return {name: np.concatenate([np.atleast_1d(p[name]) for p in pieces]) for name in pieces[0]}


def _run_side_by_side(
    plan: Plan, model: Model, samples: list[dict[str, np.ndarray]], observe: Observer | None
) -> list[dict[str, np.ndarray]]:
    """The results of each of the samples; what is observed comes in the order of the samples, tensor by tensor."""
    turns = Turns(len(samples))

    def run(number: int) -> dict[str, np.ndarray]:
        try:
            own = None if observe is None else partial(turns.take, number, observe)
            return _run(plan, model, samples[number], own)
        finally:
            turns.end(number)

    return side_by_side(run, range(len(samples)))


def _run(plan: Plan, model: Model, arrays: Mapping[str, np.ndarray], observe: Observer | None) -> dict[str, np.ndarray]:
    slots: dict[int, Any] = {}
    for position, spec in enumerate(model.inputs):
        slots[position] = arrays[spec.name]
        if observe is not None:
            observe(spec.name, arrays[spec.name])
    with np.errstate(all="ignore"):
        for step in plan.steps:
            operands = [load(slots) for load in step.loads]
            if step.in_place and operands[0].flags.writeable and operands[0].dtype == operands[1].dtype:
                value = step.run(*operands, out=operands[0])
            else:
                value = step.run(*operands)
            values = value if len(step.outs) > 1 else (value,)
            slots.update(zip(step.outs, values, strict=True))
            if observe is not None and step.node:
                for each in values:
                    if isinstance(each, np.ndarray):
                        observe(step.node, each)
            for slot in step.dead:
                del slots[slot]
    results = (load(slots) for load in plan.results)
    return {spec.name: np.ascontiguousarray(v).reshape(v.shape) for spec, v in zip(model.outputs, results, strict=True)}
