"""Accuracy of a compiled module on labelled data, and how often it agrees with the float model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, path_of
from ..evaluate.dataset import check_inputs, load_npz
from ..evaluate.executor import execute
from ..evaluate.images import ImageFolder
from ..frontend.canonicalize import load
from ..frontend.import_onnx import import_onnx
from ..model import Model, TensorSpec
from .execute import Runner
from .images import as_integers

LABELS = "labels"
Samples = np.ndarray | ImageFolder  # sliced along axis 0
BATCH = 32  # samples between two signs of progress


@dataclass(frozen=True)
class Evaluation:
    """Shares of samples, 0 to 1, by the class scores in ``output``. What needs the float model is None without one; top-5 is
    None below six classes.

    ``notes``: what to know about the data, one line each.
    """

    output: str
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
        raise UserError(
            f"'{path}' holds {', '.join(sorted(arrays)) or 'nothing'} and no array '{LABELS}'; add one integer per sample"
        )
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
        raise UserError(f"'{path}': {len(labels)} labels for {samples} samples; give one each")
    return data, labels.astype(np.int64)


def evaluate(
    module: Runner,
    data: Mapping[str, Samples],
    labels: np.ndarray,
    reference: str | Path | None = None,
    advance: Callable[[int], object] | None = None,
) -> Evaluation:
    """Runs all samples; ``advance`` hears how many were done. Raises UserError if no output, or more than one, has classes."""
    model = float_reference(reference, module) if reference is not None else None
    output = _score_output(module.outputs).name
    entries = {entry["name"]: entry for entry in module.metadata["inputs"]}

    def run(part: dict[str, np.ndarray]) -> np.ndarray:
        given = {name: as_integers(values, entries[name]) for name, values in part.items()}
        return module.run(given)[output]

    scores = _scores(run, module.inputs, data, advance)
    _check_classes(scores, labels, output)
    predicted = scores.argmax(1)
    top5 = None
    if scores.shape[1] > 5:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        top5 = float((best == labels[:, None]).any(1).mean())
    top1 = float((predicted == labels).mean())
    if model is None:
        return Evaluation(output, len(labels), top1, top5)
    float_model, names = model, [spec.name for spec in model.outputs]
    if output not in names:
        raise UserError(
            f"--reference '{reference}' has no output '{output}', which the module is judged by; it has {names}"
        )
    exact = _scores(lambda part: execute(float_model, part)[output], module.inputs, data, None).argmax(1)
    return Evaluation(
        output, len(labels), top1, top5, float((exact == labels).mean()), float((exact == predicted).mean())
    )


def float_reference(path: str | Path, module: Runner) -> Model:
    """The float model. Raises UserError where it has other inputs than the module."""
    proto = load(path_of(path, "--reference"))
    fixed = module.metadata.get("fixed_inputs") or {}
    weights = {tensor.name for tensor in proto.graph.initializer}
    names = [info.name for info in proto.graph.input if info.name not in weights | set(fixed)]
    ours = [spec.name for spec in module.inputs]
    if set(names) != set(ours):
        raise UserError(
            f"--reference '{path}' is another model: its inputs are {', '.join(names)}, the module's {', '.join(ours)}; "
            "give the file that the module was compiled from"
        )
    try:
        return import_onnx(proto, {spec.name: spec.shape for spec in module.inputs}, fixed)
    except UserError as error:
        raise UserError(f"--reference '{path}' does not fit the module: {error}") from error


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


def _score_output(outputs: tuple[TensorSpec, ...]) -> TensorSpec:
    """The one output that is a number a class for each sample. Raises UserError if there is none, or more than one."""
    scores = [spec for spec in outputs if sum(size > 1 for size in spec.shape[1:]) == 1]
    if len(scores) == 1:
        return scores[0]
    listed = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in scores or outputs)
    if scores:
        raise UserError(
            f"evaluate judges one output of class scores, and the module has {len(scores)}, {listed}: "
            "compile the model with one of them"
        )
    raise UserError(
        f"evaluate compares class scores [N, classes], and the module gives {listed}; run it and judge such outputs by your own "
        "measure"
    )


def _check_classes(scores: np.ndarray, labels: np.ndarray, output: str) -> None:
    if len(scores) != len(labels):
        raise UserError(
            f"output '{output}' has {len(scores)} rows for {len(labels)} samples; evaluate needs scores by class for each"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise UserError(
            f"labels go from {labels.min()} to {labels.max()}, output '{output}' has classes 0 to {scores.shape[1] - 1}; "
            "give data of the model's own classes"
        )
