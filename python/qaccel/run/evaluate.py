"""Accuracy of a compiled module on labelled data, and how often it agrees with the float model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..emulate.data.dataset import check_inputs, load_npz
from ..emulate.data.images import ImageFolder
from ..emulate.executor import execute
from ..errors import UserError, path_of
from ..frontend.canonicalize import load as load_proto
from ..frontend.import_onnx import import_onnx
from ..model import Model, TensorSpec
from ..parallel import Job, Lost, Workers, spread
from .execute import Runner, load
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
    workers: Workers = Workers(),  # noqa: B008 - a frozen value
) -> Evaluation:
    """Runs all samples; ``advance`` hears how many were done. Raises UserError if no output, or more than one, has classes.

    A module of a file runs in ``workers``, each with samples of its own; unless their number is given, only where that is sooner
    done. The result is the same.
    """
    model = float_reference(reference, module) if reference is not None else None
    output = _score_output(module.outputs).name
    scores = _module_scores(module, Parts(module.inputs, data), advance, workers)
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
    parts = Parts(module.inputs, data)
    exact = _joined([execute(float_model, arrays(parts[k]))[output] for k in range(len(parts))]).argmax(1)
    return Evaluation(
        output, len(labels), top1, top5, float((exact == labels).mean()), float((exact == predicted).mean())
    )


def float_reference(path: str | Path, module: Runner) -> Model:
    """The float model. Raises UserError where it has other inputs than the module."""
    proto = load_proto(path_of(path, "--reference"))
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


@dataclass(frozen=True)
class Parts(Sequence[dict[str, Samples]]):
    """Samples in parts of about BATCH, whole batches of the module each; images are not read yet. ``read``: but they are."""

    inputs: tuple[TensorSpec, ...]
    data: Mapping[str, Samples]
    read: bool = False

    @property
    def step(self) -> int:
        """Samples of a part."""
        own = self.inputs[0].shape[0]
        return own * max(1, BATCH // own)

    def __len__(self) -> int:
        return -(-len(self.data[self.inputs[0].name]) // self.step)

    def __getitem__(self, number: Any) -> Any:
        part = slice(number * self.step, (number + 1) * self.step)
        given = {spec.name: self.data[spec.name] for spec in self.inputs}
        return {
            name: values.part(part) if isinstance(values, ImageFolder) and not self.read else values[part]
            for name, values in given.items()
        }


def arrays(part: Mapping[str, Samples]) -> dict[str, np.ndarray]:
    """The samples of a part, images read."""
    return {name: values[:] for name, values in part.items()}


def _joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Class scores of all samples, [samples, classes]."""
    scores = np.concatenate([np.asarray(piece) for piece in pieces])
    return scores.reshape(len(scores), -1)


def _module_scores(
    module: Runner, parts: Parts, advance: Callable[[int], object] | None, workers: Workers
) -> np.ndarray:
    """The module's class scores, [samples, classes]."""
    contents = module.contents()
    file = None if module.path is None or contents is None else (module.path.suffix, contents)
    if file is None and (workers.cluster is not None or (workers.jobs or 1) > 1):
        raise UserError(
            "--jobs and --cluster evaluate a module's file on this machine, and there is none, or it was written again since; "
            "export the module, or load it again"
        )
    workers = Workers(1) if file is None else workers
    found: list[Any] = [None] * len(parts)
    items = replace(parts, read=workers.cluster is not None)
    job = Job("evaluate", _opened, _run_part, file)
    for number, scores in spread(job, items, workers, here=module):
        if isinstance(scores, Lost):
            raise UserError(
                f"samples from {number * parts.step} on were not evaluated: {scores.reason}; try fewer --jobs"
            )
        found[number] = scores
        if advance is not None:
            advance(len(parts[number][parts.inputs[0].name]))
    return _joined(found)


def _opened(file: tuple[str, bytes]) -> Runner:
    """The module of a file's suffix and contents, in a process that works on parts."""
    suffix, contents = file
    with tempfile.TemporaryDirectory(prefix="qaccel-") as folder:
        path = Path(folder) / f"module{suffix}"
        path.write_bytes(contents)
        return load(path)


def _run_part(module: Runner, part: Mapping[str, Samples]) -> np.ndarray:
    """The module's class scores of a part."""
    entries = {entry["name"]: entry for entry in module.metadata["inputs"]}
    given = {name: as_integers(values, entries[name]) for name, values in arrays(part).items()}
    return module.run(given)[_score_output(module.outputs).name]


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
