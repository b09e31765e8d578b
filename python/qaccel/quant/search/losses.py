"""What a quantized network loses against the float one, in points: what a point is, how it is measured, how sure it is.

For class scores a point is 1% of samples whose first class is another than the float network's. That is counted too coarsely on a
few samples, so it is estimated from the mean Kullback-Leibler divergence: for small errors of the scores both follow from their
variance, the divergence as its square and the share of samples whose classes change places as its root, so points are
c * sqrt(KL); c is fitted to networks whose divergence and changed classes were both counted. For every other output, each part
by itself, a point is noise of 1% of the part's power (20 dB).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
_FEWEST_CHANGES = 20  # of first classes: fewer do not calibrate c
_DRAWS = 16
_ROWS = 1024  # that noise is put on
_FITTED = (1e-5, 0.2)  # divergences, in nats, that c is fitted between
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


def points_of(
    parts: Sequence[Part], reference: Outputs, seen: Iterable[Sequence[Loss]] = (), seen_on: Outputs | None = None
) -> Points:
    """From losses to points, c fitted to the ``reference`` with noise on it, and to the losses ``seen`` of perturbed networks.

    Those may be of fewer samples, on which the float network gives ``seen_on``: they say how many times as many first classes
    they change as noise of the same divergence does on the same samples. Noise alone decides where they changed too few.
    """
    seen = list(seen)
    slopes, doubt = [], []
    for k, part in enumerate(parts):
        if not part.scores:
            slopes.append(math.nan)
            doubt.append(0.0)
            continue
        scores = part.of(reference)
        slope, changes = _of_noise(scores)
        variance = 1 / max(changes, 1.0)
        few = part.of(seen_on) if seen_on is not None else scores
        fitted = _slope([(losses[k].value, losses[k].changed) for losses in seen], few.shape[0] * few.shape[1])
        if fitted is not None and fitted[1] >= _FEWEST_CHANGES:
            slope *= fitted[0] / _of_noise(few)[0]
            variance += 1 / fitted[1]
        slopes.append(slope)
        doubt.append(math.sqrt(variance))
    return Points(tuple(parts), tuple(slopes), tuple(doubt))


def _of_noise(scores: np.ndarray) -> tuple[float, float]:
    """c of noise, and how many first classes of one draw it was learnt from."""
    slope, changes = _slope(_with_noise(scores), scores.shape[0] * scores.shape[1]) or (100.0, 1.0)
    return max(slope, 1.0), changes


def _slope(pairs: Sequence[tuple[float, float]], rows: int) -> tuple[float, float] | None:
    """Points over the root of the divergence, and how many changes of first classes it was learnt from."""
    used = [(math.sqrt(loss), 100 * changed) for loss, changed in pairs if _FITTED[0] <= loss <= _FITTED[1]]
    if not used:
        return None
    return sum(p for _, p in used) / sum(r for r, _ in used), sum(p for _, p in used) / 100 * rows


def _with_noise(scores: np.ndarray) -> list[tuple[float, float]]:
    """Divergence and share of changed first classes of log-probabilities [samples, rows, classes] with noise of several sizes."""
    rng = np.random.default_rng(0)
    flat = scores.reshape(-1, scores.shape[-1])
    flat = flat[:: max(1, len(flat) // _ROWS)]
    flat = np.maximum(flat, flat.max(axis=1, keepdims=True) - 30)
    pairs = []
    for size in np.geomspace(0.01, 2.0, 12):
        losses, changed = [], []
        for _ in range(_DRAWS):
            made = log_softmax(flat + size * rng.standard_normal(flat.shape), axis=-1)
            losses.append(float((np.exp(flat) * (flat - made)).sum(axis=-1).mean()))
            changed.append(float((flat.argmax(axis=-1) != made.argmax(axis=-1)).mean()))
        pairs.append((float(np.mean(losses)), float(np.mean(changed))))
    return pairs
