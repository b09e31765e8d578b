"""What a quantized network loses against the float one, in points: what a point is, how it is measured, how sure it is.

For class scores a point is 1% of samples whose first class is another than the float network's. That is counted too coarsely on a
few samples, so it is estimated from the mean Kullback-Leibler divergence: for small errors of the scores both follow from their
variance, the divergence as its square and the share of samples whose classes change places as its root, so points are
c * sqrt(KL). c is a property of the float network and its data, not of the plan: 15 plans of ResNet-8 with divergences between
0.001 and 0.24 had a c of 38 to 42, counted on 10,000 images, and noise on the float network's scores gives 41. For every other
output, each part by itself, a point is noise of 1% of the part's power (20 dB).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from tvm import relax

from ...model import Model
from ...relax_tools import bindings, results, static_shape

MOST_POINTS = 100.0
MOST_LOSS = 1e9  # where a value is no finite number
_RENAMING = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast"}
_SCORING = {"Gemm", "MatMul", "Conv", "GlobalAveragePool", "ReduceMean", "AveragePool", "Add"}
_LEAST_PROBABILITY = 1e-12
_DEEPEST = 30.0  # of logarithms below a row's greatest
_ROWS = 1024  # that noise is put on
_SIZES = np.geomspace(1e-3, 100, 34)  # of noise on logarithms of probabilities
_CHANGED = (0.1, 0.3)  # of first classes, by noise of the sizes that c is learnt from
_BENT = 0.05  # relative: what c at these sizes may be off from c of less noise
_DRAWS, _DRAWS_TO_FIND = 16, 2
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """A part of an output, judged by itself. ``scores``: of classes along ``axis``, ``probabilities`` or logits; else values.

    ``begin`` and ``end``: which of the entries along ``axis``; an ``end`` of -1 for all of the output.
    """

    output: str
    axis: int
    begin: int
    end: int
    scores: bool = False
    probabilities: bool = False

    @property
    def name(self) -> str:
        """As the user reads it."""
        return self.output if self.begin == 0 and self.end < 0 else f"{self.output}[{self.begin}:{self.end}]"

    def of(self, outputs: Outputs) -> np.ndarray:
        """Its values [samples, ...] in float64; of scores logarithms of probabilities [samples, rows, classes]."""
        value = outputs[self.output].astype(np.float64)
        if self.scores:
            value = np.moveaxis(value, self.axis, -1)
            value = value.reshape(len(value), -1, value.shape[-1])
            return np.log(np.maximum(value, _LEAST_PROBABILITY)) if self.probabilities else log_softmax(value, axis=-1)
        if self.end < 0:
            return value.reshape(len(value), -1) if value.ndim else value.reshape(1, 1)
        return value.take(range(self.begin, self.end), self.axis).reshape(len(value), -1)


@dataclass(frozen=True)
class Loss:
    """What a part lost: ``value`` the mean divergence in nats, or noise over power; ``error`` its standard error.

    ``changed``: share of rows whose first class is another, of scores.
    """

    value: float
    error: float
    changed: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Points that a network loses, those of its worst part, and their standard error; ``losses`` by part."""

    points: float
    error: float
    losses: tuple[Loss, ...]


@dataclass(frozen=True)
class Points:
    """From losses to points. ``slopes``: c of each part of scores, NaN for others; ``doubt``: its relative standard error."""

    parts: tuple[Part, ...]
    slopes: tuple[float, ...]
    doubt: tuple[float, ...]

    def estimate(self, losses: Sequence[Loss]) -> Estimate:
        """Points of losses, one for each part."""
        worst, error = 0.0, 0.0
        for part, slope, doubt, loss in zip(self.parts, self.slopes, self.doubt, losses, strict=True):
            if part.scores:
                points = slope * math.sqrt(max(loss.value, 0.0))
                relative = math.hypot(loss.error / max(2 * loss.value, 1e-30), doubt)
                own = min(points, MOST_POINTS) * min(relative, 1.0)
            else:
                points, own = 100 * loss.value, min(100 * loss.error, MOST_POINTS)
            if points >= worst:
                worst, error = points, own
        return Estimate(min(worst, MOST_POINTS) if worst == worst else MOST_POINTS, error, tuple(losses))

    def budget(self, points: float) -> np.ndarray:
        """The loss of each part that is so many points."""
        each = [
            (points / slope) ** 2 if part.scores else points / 100
            for part, slope in zip(self.parts, self.slopes, strict=True)
        ]
        return np.array(each)


def parts_of(model: Model, reference: Outputs) -> tuple[Part, ...]:
    """The parts of the network's outputs, which on some samples are ``reference``.

    Class scores are what a Softmax gives, or the only output of a network if it is one number for each of two classes or more,
    made by a layer with weights, and not always greatest at the same one. The operands of a Concat that gives an output are
    parts of their own.
    """
    makers = {name: each for each in model.operators for name in each.outputs}
    found: list[Part] = []
    bound = {binding.var: binding.value for binding in bindings(model.mod["main"])}
    for spec, result in zip(model.outputs, results(model.mod["main"]), strict=True):
        maker = makers.get(spec.name)
        while maker is not None and maker.op_type in _RENAMING and maker.inputs:
            maker = makers.get(maker.inputs[0])
        op = "" if maker is None else maker.op_type
        value = reference[spec.name]
        wide = [k for k, size in enumerate(value.shape) if k and size > 1]
        if op == "Softmax" and value.ndim > 1:
            axis = _softmax_axis(value)
            if axis is not None:
                found.append(Part(spec.name, axis, 0, -1, True, True))
                continue
        if op in _SCORING and len(model.outputs) == 1 and len(wide) == 1 and len(value) > 1:
            first = value.reshape(len(value), -1).argmax(axis=1)
            if len(set(first.tolist())) > 1:
                found.append(Part(spec.name, wide[0], 0, -1, True))
                continue
        joined = bound.get(result) if isinstance(result, relax.Var) else None
        if isinstance(joined, relax.Call) and getattr(joined.op, "name", "") == "relax.concat":
            axis = int(joined.attrs.axis) % value.ndim
            sizes = [static_shape(field)[axis] for field in joined.args[0].fields]
            if axis > 0 and sum(sizes) == value.shape[axis]:
                ends = np.cumsum(sizes)
                found += [Part(spec.name, axis, int(e) - size, int(e)) for e, size in zip(ends, sizes, strict=True)]
                continue
        found.append(Part(spec.name, 0, 0, -1))
    return tuple(found)


def _softmax_axis(value: np.ndarray) -> int | None:
    """The axis along which probabilities sum to one."""
    axes = [k for k in range(value.ndim - 1, 0, -1) if value.shape[k] > 1]
    return next((k for k in axes if np.allclose(value.sum(axis=k, dtype=np.float64), 1, atol=1e-3)), None)


class Sums:
    """Losses of one network in the making, pass by pass."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.rows: list[list[np.ndarray]] = [[] for _ in parts]

    def add(self, reference: Outputs, got: Outputs) -> None:
        """Takes one pass."""
        with np.errstate(all="ignore"):
            for part, rows in zip(self.parts, self.rows, strict=True):
                wanted, made = part.of(reference), part.of(got)
                if part.scores:
                    loss = (np.exp(wanted) * (wanted - made)).sum(axis=-1).mean(axis=1)
                    other = (wanted.argmax(axis=-1) != made.argmax(axis=-1)).mean(axis=1)
                else:
                    loss = ((made - wanted) ** 2).sum(axis=1)
                    other = (wanted**2).sum(axis=1)
                rows.append(np.stack([np.nan_to_num(loss, nan=MOST_LOSS, posinf=MOST_LOSS), other]))

    def losses(self) -> tuple[Loss, ...]:
        """The loss of each part over all passes."""
        made = []
        for part, rows in zip(self.parts, self.rows, strict=True):
            values, others = np.concatenate(rows, axis=1)
            count = len(values)
            if part.scores:
                spread = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
                made.append(Loss(float(values.mean()), spread, float(others.mean())))
                continue
            power = max(float(others.sum()), 1e-30)
            ratio = min(float(values.sum()) / power, MOST_LOSS)
            apart = float(((values - ratio * others) ** 2).sum())
            made.append(Loss(ratio, math.sqrt(count / max(1, count - 1) * apart) / power if count > 1 else math.inf))
        return tuple(made)


def points_of(parts: Sequence[Part], reference: Outputs, judging: Outputs | None = None) -> Points:
    """From losses to points, c learnt from what the float network gives on all samples, ``reference``.

    ``judging``: its outputs on those of them that losses will be measured on, None for all. Where they are less sure of their
    classes than all are, the same noise makes more divergence there, and a nat of it is worth fewer points.
    """
    slopes, doubt = [], []
    for part in parts:
        if not part.scores:
            slopes.append(math.nan)
            doubt.append(0.0)
            continue
        scores = _rows(part, reference)
        slope, error = _of_noise(scores)
        if judging is not None:
            slope *= math.sqrt(_unsure(scores) / _unsure(_rows(part, judging)))
        slopes.append(slope)
        doubt.append(error)
    return Points(tuple(parts), tuple(slopes), tuple(doubt))


def _rows(part: Part, outputs: Outputs) -> np.ndarray:
    """At most _ROWS rows of a part's scores [rows, classes], none of them without end."""
    scores = part.of(outputs)
    flat = scores.reshape(-1, scores.shape[-1])
    flat = flat[:: -(-len(flat) // _ROWS)]
    return np.maximum(flat, flat.max(axis=1, keepdims=True) - _DEEPEST)


def _unsure(scores: np.ndarray) -> float:
    """The divergence that noise of one size makes in scores, as its size goes to nothing, but for a factor."""
    return max(float((1 - np.square(np.exp(scores)).sum(axis=1)).mean()), _LEAST_PROBABILITY)


def _of_noise(scores: np.ndarray) -> tuple[float, float]:
    """c of noise on scores [rows, classes], and its relative standard error, that of other rows.

    The noise changes _CHANGED of the first classes. Smaller noise asks only the few rows that are nearly undecided, and c hardly
    depends on its size: on 256 images of CIFAR-10 it spreads by a tenth as KL goes to 0.02, by a twentieth at these sizes.
    """
    rng = np.random.default_rng(0)
    sizes = [
        size for size in _SIZES if _CHANGED[0] <= _noisy(scores, size, rng, _DRAWS_TO_FIND)[1].mean() <= _CHANGED[1]
    ]
    pairs = [_noisy(scores, size, rng, _DRAWS) for size in sizes]
    roots = [math.sqrt(loss.mean()) for loss, _ in pairs]
    total = sum(changed.mean() for _, changed in pairs)
    if not total or not all(roots):
        return 100.0, 1.0
    rows = sum(changed for _, changed in pairs) / total
    rows = rows - sum(loss / root for (loss, _), root in zip(pairs, roots, strict=True)) / (2 * sum(roots))
    return float(100 * total / sum(roots)), math.hypot(float(np.std(rows)) / math.sqrt(len(scores)), _BENT)


def _noisy(scores: np.ndarray, size: float, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean divergence, and share of changed first classes, by row of log-probabilities [rows, classes] with noise of a size."""
    losses, changed = np.zeros(len(scores)), np.zeros(len(scores))
    for _ in range(draws):
        made = log_softmax(scores + size * rng.standard_normal(scores.shape), axis=1)
        losses += (np.exp(scores) * (scores - made)).sum(axis=1) / draws
        changed += (scores.argmax(axis=1) != made.argmax(axis=1)) / draws
    return losses, changed
