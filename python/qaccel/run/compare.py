"""Where two modules part, or a module and the float model: tensor by tensor on the same inputs, in the order of the module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..emulate.data.dataset import check_inputs
from ..emulate.executor import execute
from ..errors import UserError
from ..model import Model
from ..quant.analysis.losses import decibels
from .execute import Runner
from .files import write_folder
from .tensors import Tensor, tensors_of

CLOSE_DB = 20.0  # an error of 1% of a tensor's power: less is counted as parting from the float model


@dataclass(frozen=True)
class Difference:
    """One tensor in two runs.

    ``differing``: how many of its ``count`` values differ, ``largest``: by how much at most, in steps where both are the same kind
    of integers and in real numbers else; ``db``: power of the values to that of the difference, infinite where there is none.
    ``parts``: the two count as different here.
    """

    name: str
    where: str
    count: int
    differing: int
    largest: float
    db: float
    parts: bool


def compare_modules(one: Runner, other: Runner, inputs: Mapping[str, np.ndarray]) -> tuple[Difference, ...]:
    """Every tensor that both have, outputs last; they part where one value differs. ``inputs``: one batch, real values.

    Raises UserError for modules of other outputs.
    """
    theirs = {tensor.name: tensor.values for tensor in tensors_of(other, inputs)}
    differences = []
    for tensor in tensors_of(one, inputs):
        if tensor.name not in theirs or theirs[tensor.name].size != tensor.values.size:
            continue
        mine, yours = (each.metadata["tensors"].get(tensor.layer) for each in (one, other))
        step = mine["scale"] if mine is not None and mine == yours else 1.0
        a, b = _real(tensor.values, mine), _real(theirs[tensor.name], yours)
        differences.append(_difference(tensor.name, tensor.where, a, b, step=step))
    return (*differences, *_outputs(one.run(inputs), other.run(inputs), None))


def compare_with_float(one: Runner, model: Model, inputs: Mapping[str, np.ndarray]) -> tuple[Difference, ...]:
    """Every tensor of the accelerator that the float model has too, outputs last; they part below `CLOSE_DB`.

    A layer that is called several times is compared the first time. Raises UserError for a model with other outputs.
    """
    floats: dict[str, np.ndarray] = {}
    wanted = {entry["tensor"] for entry in one.metadata["tensors"].values()}

    def see(name: str, value: np.ndarray) -> None:
        if name in wanted:
            floats.setdefault(name, np.array(value))

    outputs = execute(model, inputs, see)
    differences = []
    for tensor in tensors_of(one, inputs):
        meaning = one.metadata["tensors"].get(tensor.name)  # not of a second call, "#2"
        value = floats.get(meaning["tensor"]) if meaning is not None else None
        if meaning is None or value is None or value.size != tensor.values.size:
            continue
        lies = value.reshape(meaning["view"]).transpose(meaning["axes"]).reshape(-1)
        real = _real(tensor.values, meaning).reshape(-1)
        differences.append(_difference(tensor.name, tensor.where, lies, real, CLOSE_DB))
    return (*differences, *_outputs(outputs, one.run(inputs), CLOSE_DB))


def _outputs(
    one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], close_db: float | None
) -> list[Difference]:  # fmt: skip
    """The outputs of both. Raises UserError where they do not have the same ones."""
    shapes = [{name: list(value.shape) for name, value in each.items()} for each in (one, other)]
    if shapes[0] != shapes[1]:
        raise UserError(f"--reference has other outputs, {shapes[1]}, than {shapes[0]}; give one of the same network")
    return [_difference(name, "output", one[name], other[name], close_db) for name in one]


def first_parting(differences: tuple[Difference, ...]) -> Difference | None:
    """The first tensor in which the two part; None if there is none."""
    return next((each for each in differences if each.parts), None)


def write_tensors(folder: str | Path, runner: Runner, inputs: Mapping[str, np.ndarray]) -> Path:
    """``tensors.npz``, an array for each tensor, and ``tensors.json``: their order, and what the integers mean. Where channels were
    equalised, ``factors`` are what real values are times to be the source's, along the last axis.

    Raises UserError for a folder that cannot be written, for more than one batch, and for a module on another machine.
    """
    found = tensors_of(runner, inputs)
    arrays = BytesIO()
    np.savez(arrays, **{tensor.name: tensor.values for tensor in found})  # type: ignore[arg-type]
    listed = [_entry(tensor, runner.metadata["tensors"].get(tensor.layer, {})) for tensor in found]
    text = json.dumps({"model": runner.metadata["model"], "tensors": listed}, indent=1)
    return write_folder(folder, {"tensors.npz": arrays.getvalue(), "tensors.json": text.encode()}, "--dump-tensors")


def _entry(tensor: Tensor, meaning: Mapping[str, Any]) -> dict[str, Any]:
    own = {"name": tensor.name, "where": tensor.where, "dtype": str(tensor.values.dtype)}
    return {**own, "shape": list(tensor.values.shape), **meaning}


def _real(values: np.ndarray, meaning: Mapping[str, Any] | None) -> np.ndarray:
    """Integers as what they mean in the source's tensors; what has no meaning as it is."""
    if meaning is None:
        return values.astype(np.float64)
    real = (values.astype(np.float64) - meaning["zero_point"]) * meaning["scale"]
    if "factors" not in meaning:
        return real
    factors = np.asarray(meaning["factors"])  # of each channel, on the last axis, or of each value
    return (real.reshape(-1, factors.size) * factors).reshape(real.shape)


def _difference(
    name: str, where: str, a: np.ndarray, b: np.ndarray, close_db: float | None = None, step: float = 1.0
) -> Difference:  # fmt: skip
    a, b = a.reshape(-1).astype(np.float64), b.reshape(-1).astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities of one sign are equal, and so are two that are no numbers
        error = np.where((a == b) | np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b))
    db = decibels(float((a**2).sum()), float((error**2).sum()))
    differing = int(np.count_nonzero(error))
    parts = differing > 0 if close_db is None else not db >= close_db  # what is no number parts
    return Difference(name, where, error.size, differing, float(error.max(initial=0.0)) / step, db, parts)


def one_batch(runner: Runner, inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
    """The first batch of ``inputs``. Raises UserError where they do not fit, or hold no sample."""
    arrays = check_inputs(inputs, runner.inputs, "inputs", runner.metadata.get("fixed_inputs"))
    sizes = {spec.name: spec.shape[0] if spec.shape else 0 for spec in runner.inputs}
    for name, size in sizes.items():
        if size and len(arrays[name]) < size:
            raise UserError(f"input '{name}' holds no sample; give at least one")
    return {name: value[: sizes[name]] if sizes.get(name) else value for name, value in arrays.items()}
