"""Whether calibration data came with the preprocessing that the network was trained with: what its first layers say.

A batch norm leaves traces. Where its statistics are kept, the first layer must give their means and deviations. Where it was
folded, the bias of channel c is beta_c - E[w_c x]: regressed on the sums of the weights over all channels, it gives the mean
of x in training; what is left, beta, is of the size of the layer's deviation, neither thousands of times smaller nor larger.
Behind the first layer it cancels the mean of what the weights make: a network in which it does not, with any usual scaling,
has no such traces, and nothing is said of it. Source of the first: Nagel et al., arXiv 1906.04721, section 4.2.1; the others follow
from the definition of the operator (Ioffe and Szegedy, arXiv 1502.03167).

Red and blue swapped, and images with bright and dark inverted, leave means and deviations as they are: they cannot be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...dialect.quantized import InputSeen
from ...model import Model
from .first_layers import Layer, Moments, first_layers, moments
from .seen import channel_axis, inputs_seen

SAMPLES = 4  # that the first layers run on, spread over all
LEAST_CHANNELS = 8  # below them a regression over channels says nothing
ALIKE = 0.9  # correlation of deviations with those of the batch norm: one scale fits all channels
MOST_DIVERGENCE = 0.3  # mean Kullback-Leibler divergence of a channel, in nats: half the contrast and a shifted mean have 0.6
LEAST_BETA, MOST_BETA = 0.05, 20.0  # beta in deviations of its channel: 0.15 to 3 in trained networks
SURE = 3.0  # standard errors
FAR = 1.5  # deviations of the input between the means, which other pictures do not explain
CLEAR = math.log(1.6)  # by how much another scaling must make the means of linear layers smaller
CANCELS = 0.2  # deviations, below which a linear layer's mean counts as cancelled
LINEAR_LAYERS = 5


class Scaling(NamedTuple):
    """A usual way to scale pixels 0 to 255: `(pixel - mean) / divisor`, in words, and as --preprocess has it."""

    words: str
    flag: str
    mean: tuple[float, ...]
    divisor: tuple[float, ...]


SCALINGS = (
    Scaling("0 to 255", "mean=0,scale=1", (0.0,), (1.0,)),
    Scaling("0 to 1", "mean=0,scale=255", (0.0,), (255.0,)),
    Scaling("-1 to 1", "mean=127.5,scale=127.5", (127.5,), (127.5,)),
    Scaling(
        "ImageNet's mean and deviation taken off", "mean=0.485:0.456:0.406,std=0.229:0.224:0.225",
        (123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """The input under one scaling (None: as it was given), and what the first layers give for it."""

    scaling: Scaling | None
    moments: Mapping[str, Moments]


@dataclass(frozen=True)
class _Fit:
    """What a folded batch norm tells: mean of the input in training with its standard error; beta in deviations."""

    mean: float
    error: float
    beta: float


def warnings(model: Model, samples: Mapping[str, np.ndarray], images: bool) -> tuple[str, ...]:
    """One line if the samples do not look like what the network was trained on. `images`: they come from a folder."""
    name, layers = first_layers(model)
    if not layers or layers[0].weight_sums.size < LEAST_CHANNELS:
        return ()
    spec = next(spec for spec in model.inputs if spec.name == name)
    if np.dtype(spec.dtype).kind != "f":
        return ()
    few = _few(model, samples)
    (seen,) = (each for each in inputs_seen(model.inputs, samples) if each.name == name)
    runs = _runs(model, layers[:1] if layers[0].name in model.statistics else layers, name, few, seen)
    statistics = model.statistics.get(layers[0].name)
    found = _by_biases(layers, runs) if statistics is None else _by_statistics(layers[0], statistics, runs)
    if found is None:
        return ()
    words, scaling = found
    way_out = f"check {'--preprocess' if images else 'how the arrays were made'}"
    if scaling is not None:
        way_out = f'try --preprocess "{scaling.flag}"' if images else f"try {scaling.words} ({scaling.flag} of pixels)"
    return (
        f"warning: calibration data of '{name}' look scaled otherwise than what the network was trained on: they have mean "
        f"{seen.mean:.3g} and deviation {seen.deviation:.3g} ({seen.lo:.3g} to {seen.hi:.3g}), and {words}: {way_out}",
    )


def _runs(
    model: Model, layers: tuple[Layer, ...], name: str, few: Mapping[str, np.ndarray], seen: InputSeen
) -> list[_Run]:
    """The samples as they were given, and under each usual scaling; what are no images, with mean 0 and deviation 1."""
    values = few[name]
    axis = channel_axis(values.shape)
    scaled: list[tuple[Scaling | None, np.ndarray]] = []
    if values.ndim == 4 and axis is not None and values.shape[axis] in (1, 3):
        pixels = _pixels(values, axis)
        fitting = (each for each in SCALINGS if len(each.mean) in (1, values.shape[axis]))
        scaled = [(each, (pixels - _along(each.mean, axis)) / _along(each.divisor, axis)) for each in fitting]
    elif seen.deviation:
        scaled = [(None, (values - seen.mean) / seen.deviation)]
    runs = [_Run(None, moments(model, layers, few))]
    for scaling, array in scaled:
        runs.append(_Run(scaling, moments(model, layers, {**few, name: array.astype(values.dtype)})))
    return runs


def _few(model: Model, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SAMPLES of the samples, or one batch of the model's own, spread evenly over all."""
    few = {}
    for spec in model.inputs:
        value = samples[spec.name]
        if spec.shape:
            batches = len(value) // spec.shape[0]
            wanted = min(batches, max(1, SAMPLES // spec.shape[0]))
            first = [k * batches // wanted * spec.shape[0] for k in range(wanted)]
            value = np.concatenate([value[at : at + spec.shape[0]] for at in first])
        few[spec.name] = value
    return few


def _pixels(values: np.ndarray, axis: int) -> np.ndarray:
    """Images [N, ..] as pixels 0 to 255: each channel fills that range."""
    others = tuple(k for k in range(values.ndim) if k != axis)
    lo, hi = (f(values, axis=others, keepdims=True).astype(np.float64) for f in (np.min, np.max))
    return 255.0 * (values - lo) / np.where(hi > lo, hi - lo, 1.0)


def _along(each: tuple[float, ...], axis: int) -> np.ndarray:
    return np.asarray(each).reshape([-1 if k == axis else 1 for k in range(4)])


def _by_statistics(
    layer: Layer, statistics: tuple[np.ndarray, np.ndarray], runs: list[_Run]
) -> tuple[str, Scaling | None] | None:
    """What the batch norm's own statistics say: mean and deviation that each channel had in training."""
    beta, gamma = statistics
    given = runs[0].moments[layer.name]
    live = (gamma > 1e-3 * gamma.max()) & (given.deviation > 0)
    if live.sum() < LEAST_CHANNELS or np.ptp(gamma[live]) < 1e-3 * gamma.max():
        return None  # as initialized: it never saw data
    logs = np.log(gamma[live]), np.log(given.deviation[live])
    if np.ptp(logs[1]) == 0 or np.corrcoef(*logs)[0, 1] < ALIKE:
        return None

    def divergence(run: _Run) -> float:
        own = run.moments[layer.name]
        ratio, shift = own.deviation[live] / gamma[live], (own.mean - beta)[live] / gamma[live]
        return float(np.mean((ratio**2 + shift**2 - 1) / 2 - np.log(np.maximum(ratio, 1e-12))))

    if divergence(runs[0]) < MOST_DIVERGENCE:
        return None
    # gain * (input's effect) + shift * (sums of weights) + bias has the means beta and the deviations gamma.
    gain = float(np.median(gamma[live] / given.deviation[live]))
    sums = layer.weight_sums[live] / gamma[live]
    wanted = (beta - layer.bias - gain * (given.mean - layer.bias))[live] / gamma[live]
    shift = float(sums @ wanted / max(float(sums @ sums), 1e-12))
    mean, deviation = _mean_and_deviation(runs[0].moments[layer.source])
    best = min(runs[1:], key=divergence, default=runs[0])
    words = (
        f"the batch norm of the first layer '{layer.name}' expects a mean of about {gain * mean + shift:.2g} and a deviation of "
        f"about {gain * deviation:.2g}"
    )
    return words, best.scaling if divergence(best) < MOST_DIVERGENCE else None


def _by_biases(layers: tuple[Layer, ...], runs: list[_Run]) -> tuple[str, Scaling | None] | None:
    """What the biases say, into which batch norms were folded."""
    if not any(_cancels(layers, run) for run in runs):
        return None
    first, given = layers[0], runs[0]
    fit = _fit(first, given.moments[first.name])
    linear = [layer for layer in layers[1:] if layer.linear][:LINEAR_LAYERS]
    left = [_left(linear, run) for run in runs]
    least = min(left)
    best = runs[left.index(least)]
    telling = len(linear) >= 3 and least < math.log(CANCELS)
    if not telling:
        best = min(runs[1:], key=lambda run: _misfit(first, run), default=given)
    if fit is not None:
        mean, deviation = _mean_and_deviation(given.moments[first.source])
        if not LEAST_BETA < fit.beta < MOST_BETA:
            times = f"{1 / fit.beta:.2g} times" if fit.beta < 1 else f"1/{fit.beta:.2g} of"
            return f"what the first layer '{first.name}' makes of them is {times} what its biases are for", best.scaling
        if abs(mean - fit.mean) > max(SURE * fit.error, FAR * deviation):
            return (
                f"the folded batch norm of the first layer '{first.name}' expects a mean of {fit.mean:.2g} ± {fit.error:.1g}",
                best.scaling,
            )
    if telling and left[0] - least > CLEAR:
        name = linear[0].name
        return (
            f"the means that layers such as '{name}' cancel in training are {math.exp(left[0] - least):.2g} times larger than "
            f"with {best.scaling.words if best.scaling is not None else 'others'}",
            best.scaling,
        )
    return None


def _cancels(layers: tuple[Layer, ...], run: _Run) -> bool:
    """Whether the biases behind the first layer are there to cancel means: the slope of bias on mean is below zero, for sure."""
    judged, sure = 0, 0
    for layer in layers[1:]:
        own = run.moments[layer.name]
        live = own.deviation > 1e-3 * np.median(own.deviation)
        if live.sum() >= LEAST_CHANNELS and layer.bias.any():
            slope, error, _ = _regression((own.mean - layer.bias)[live], layer.bias[live])
            judged += 1
            sure += slope < -SURE * error
    return sure >= max(2, judged / 2)


def _fit(layer: Layer, given: Moments) -> _Fit | None:
    live = given.deviation > 1e-3 * np.median(given.deviation)
    if live.sum() < LEAST_CHANNELS or not layer.bias.any():
        return None
    deviation = given.deviation[live]
    slope, error, beta = _regression(layer.weight_sums[live] / deviation, layer.bias[live] / deviation)
    return _Fit(-slope, error, beta)


def _misfit(layer: Layer, run: _Run) -> float:
    """Standard errors between the mean of the input and the expected one; infinite where the deviation is out of bounds."""
    fit = _fit(layer, run.moments[layer.name])
    if fit is None or not LEAST_BETA < fit.beta < MOST_BETA:
        return math.inf
    return abs(_mean_and_deviation(run.moments[layer.source])[0] - fit.mean) / max(fit.error, 1e-12)


def _left(layers: list[Layer], run: _Run) -> float:
    """Logarithm of the means that layers leave, in deviations of their channels: typical channels, typical layers."""
    each = []
    for layer in layers:
        own = run.moments[layer.name]
        each.append(float(np.median(np.abs(own.mean) / np.maximum(own.deviation, 1e-6 * own.deviation.max() + 1e-30))))
    return float(np.mean(np.log(np.maximum(each, 1e-6)))) if each else math.inf


def _regression(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope of y = slope x + constant, its standard error, and the root mean square of y - slope x."""
    away = x - x.mean()
    power = max(float(away @ away), 1e-30)
    slope = float(away @ y) / power
    rest = y - slope * x
    error = math.sqrt(float(((rest - rest.mean()) ** 2).sum()) / max(len(x) - 2, 1) / power)
    return slope, error, float(np.sqrt(np.mean(rest**2)))


def _mean_and_deviation(own: Moments) -> tuple[float, float]:
    """Of all channels together."""
    return float(own.mean.mean()), float(np.sqrt((own.deviation**2).mean() + own.mean.var()))
