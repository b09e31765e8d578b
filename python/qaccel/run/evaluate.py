"""Accuracy of a compiled module on labelled data, and how often it agrees with the float model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..evaluate.dataset import check_inputs, load_npz
from ..evaluate.executor import execute
from ..evaluate.images import ImageFolder
from ..frontend.import_onnx import import_onnx
from ..model import Model, TensorSpec
from .execute import Runner
from .images import as_integers

LABELS = "labels"
Samples = np.ndarray | ImageFolder  # sliced along axis 0
BATCH = 32  # samples between two signs of progress


@dataclass(frozen=True)
class Evaluation:
    """Shares of samples, 0 to 1. What needs the float model is None without one; top-5 is None below six classes.

    ``notes``: what to know about the data, one line each.
    """

    samples: int
    top1: float
    top5: float | None
    reference_top1: float | None = None
    agreement: float | None = None
    notes: tuple[str, ...] = ()


def load_labelled(
    path: str | Path, inputs: tuple[TensorSpec, ...], fixed: Mapping[str, Any] | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays by input name, and ``labels`` [samples] as int64. Raises UserError for what is missing or does not fit.

    ``fixed``: values of inputs that were settled at compile time. A network with one input may find its
    samples under any name, if there is no other array.
    """
    arrays = load_npz(path)
    if LABELS not in arrays:
        raise UserError(f"'{path}' holds no array '{LABELS}'; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    labels = arrays.pop(LABELS)
    if len(arrays) == len(inputs) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    # Real samples are welcome where the module takes integers: evaluate quantizes them.
    real = tuple(
        replace(spec, dtype=str(arrays[spec.name].dtype))
        if spec.name in arrays and arrays[spec.name].dtype.kind == "f"
        else spec
        for spec in inputs
    )
    data = check_inputs(arrays, real, f"labelled data '{path}'", fixed)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"'{path}': {LABELS} is {labels.dtype} {list(labels.shape)}; needed is one integer per sample")
    samples = len(data[inputs[0].name])
    if len(labels) != samples:
        raise UserError(f"'{path}': {len(labels)} labels for {samples} samples")
    return data, labels.astype(np.int64)


def evaluate(
    module: Runner,
    data: Mapping[str, Samples],
    labels: np.ndarray,
    reference: str | Path | None = None,
    advance: Callable[[int], object] | None = None,
) -> Evaluation:
    """Runs all samples; ``advance`` hears how many were done. Raises UserError if the output has no classes."""
    _check_scores(module.outputs[0])
    entries = {entry["name"]: entry for entry in module.metadata["inputs"]}

    def run(part: dict[str, np.ndarray]) -> np.ndarray:
        given = {name: as_integers(values, entries[name]) for name, values in part.items()}
        return module.run(given)[module.outputs[0].name]

    scores = _scores(run, module.inputs, data, advance)
    _check_classes(scores, labels)
    predicted = scores.argmax(1)
    top5 = None
    if scores.shape[1] > 5:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        top5 = float((best == labels[:, None]).any(1).mean())
    top1 = float((predicted == labels).mean())
    if reference is None:
        return Evaluation(len(labels), top1, top5)
    model = _reference(reference, module)
    exact = _scores(lambda part: execute(model, part)[model.outputs[0].name], module.inputs, data, None).argmax(1)
    return Evaluation(len(labels), top1, top5, float((exact == labels).mean()), float((exact == predicted).mean()))


def _reference(path: str | Path, module: Runner) -> Model:
    model = import_onnx(path, {spec.name: spec.shape for spec in module.inputs}, module.metadata.get("fixed_inputs"))
    if [(s.name, s.shape) for s in model.inputs] != [(s.name, s.shape) for s in module.inputs]:
        raise UserError(
            f"--reference '{path}' has the inputs {_shown(model.inputs)}, the module {_shown(module.inputs)}"
        )
    return model


def _shown(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"'{spec.name}' {list(spec.shape)} {spec.dtype}" for spec in specs)


def _scores(
    run: Callable[[dict[str, np.ndarray]], np.ndarray],
    inputs: tuple[TensorSpec, ...],
    data: Mapping[str, Samples],
    advance: Callable[[int], object] | None,
) -> np.ndarray:
    """First output of all samples, [samples, classes]."""
    own = inputs[0].shape[0]
    samples = len(data[inputs[0].name])
    step = own * max(1, BATCH // own)
    pieces = []
    for first in range(0, samples, step):
        part = {spec.name: data[spec.name][first : first + step] for spec in inputs}
        pieces.append(np.asarray(run(part)))
        if advance is not None:
            advance(len(part[inputs[0].name]))
    scores = np.concatenate(pieces)
    return scores.reshape(len(scores), -1)


def _check_scores(output: TensorSpec) -> None:
    """Raises UserError unless the output is one number a class for each sample."""
    if sum(size > 1 for size in output.shape[1:]) > 1:
        raise UserError(
            f"output '{output.name}' has the shape {list(output.shape)}, and evaluate compares class scores [N, classes]; "
            "run the module and judge such outputs by your own measure"
        )


def _check_classes(scores: np.ndarray, labels: np.ndarray) -> None:
    if len(scores) != len(labels):
        raise UserError(
            f"the module's first output has {len(scores)} rows for {len(labels)} samples; evaluate needs scores by class"
        )
    if scores.shape[1] < 2:
        raise UserError(
            "the module's first output has one value per sample; evaluate needs scores of two classes or more"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise UserError(
            f"labels go from {labels.min()} to {labels.max()}, the module has classes 0 to {scores.shape[1] - 1}"
        )
