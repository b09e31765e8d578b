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

from ....dialect.quantized import InputSeen
from ....model import Model
from .first_layers import Layer, Moments, first_layers, moments
from .seen import channel_axis, inputs_seen

SAMPLES = 4  # that the first layers run on, spread over all
SAME = 0.05  # deviations that a usual scaling may differ from the given one
SAMPLES_ALONE = 32  # where it is only the first
LEAST_CHANNELS = 8  # below them a regression over channels says nothing
EXPLAINED = 0.25  # of that divergence may stay where gain and offset of the input are chosen freely
OTHER_SCALE = 3.0  # times; below it other pictures may explain it
MOST_DIVERGENCE = (
    0.3  # mean Kullback-Leibler divergence of a channel, in nats: half the contrast and a shifted mean have 0.6
)
LEAST_BETA, MOST_BETA = 0.05, 20.0  # beta in deviations of its channel: 0.15 to 3 in trained networks
SURE = 3.0  # standard errors
FAR = 1.5  # deviations of the input between the means, which other pictures do not explain
CLEAR = math.log(1.6)  # by how much another scaling must make the means of linear layers smaller
CANCELS = 0.3  # deviations, below which a linear layer's mean counts as cancelled
LINEAR_LAYERS = 2


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
class _Finding:
    """What the network expects, in words; the usual scaling that would fit; whether it is the scaling at all."""

    words: str
    scaling: Scaling | None
    sure: bool = True


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
    (seen,) = (each for each in inputs_seen(model.inputs, samples) if each.name == name)
    statistics = model.statistics.get(layers[0].name)
    few = _few(model, samples, SAMPLES if statistics is None else SAMPLES_ALONE)
    runs = _runs(model, layers if statistics is None else layers[:1], name, few, seen)
    known = set.intersection(*(set(run.moments) for run in runs))
    if not {layers[0].name, layers[0].source} <= known:
        return ()
    if statistics is None:
        found = _by_biases(tuple(layer for layer in layers if layer.name in known), runs)
    else:
        found = _by_statistics(layers[0], statistics, runs)
    if found is None:
        return ()
    figures = (
        f"mean {seen.mean:.3g} and deviation {seen.deviation:.3g} ({seen.lo:.3g} to {seen.hi:.3g}), where {found.words}"
    )
    if not found.sure:
        return (
            f"calibration data of '{name}' differ from the training's: {figures}; no usual scaling fits better, so it may be "
            "the pictures",
        )
    way_out = f"check {'--preprocess' if images else 'how the arrays were made'}"
    if found.scaling is not None:
        flag = found.scaling.flag
        way_out = f'try --preprocess "{flag}"' if images else f"try {found.scaling.words} ({flag} of pixels)"
    return (f"warning: calibration data of '{name}' look scaled otherwise than the training's: {figures}: {way_out}",)


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
        same = np.abs(array - values).max() < SAME * seen.deviation
        own = runs[0].moments if same else moments(model, layers, {**few, name: array.astype(values.dtype)})
        runs.append(_Run(scaling, own))
    return runs


def _few(model: Model, samples: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """`most` of the samples, or one batch of the model's own, spread evenly over all."""
    few = {}
    for spec in model.inputs:
        value = samples[spec.name]
        if spec.shape:
            batches = len(value) // spec.shape[0]
            wanted = min(batches, max(1, most // spec.shape[0]))
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


def _by_statistics(layer: Layer, statistics: tuple[np.ndarray, np.ndarray], runs: list[_Run]) -> _Finding | None:
    """What the batch norm's own statistics say: mean and deviation that each channel had in training."""
    beta, gamma = statistics
    live = gamma > 1e-3 * gamma.max()
    for run in runs:
        live &= run.moments[layer.name].deviation > 0
    if live.sum() < LEAST_CHANNELS or np.ptp(gamma[live]) < 1e-3 * gamma.max():
        return None  # dead, or as initialized: it never saw data
    apart = [_divergence(*_channels(layer, run, live), beta[live], gamma[live]) for run in runs]
    if apart[0] < MOST_DIVERGENCE:
        return None
    best = int(np.argmin(apart))
    # Under the scaling that fits best, input * gain + shift gives the batch norm's figures as well as any can.
    mean, deviation = _channels(layer, runs[best], live)
    bias, sums = layer.bias[live], layer.weight_sums[live]
    gain = float(np.exp(np.mean(np.log(gamma[live] / deviation))))
    moved = bias + gain * (mean - bias)
    shift = float(
        (sums / gamma[live]) @ ((beta[live] - moved) / gamma[live]) / max(((sums / gamma[live]) ** 2).sum(), 1e-30)
    )
    if _divergence(moved + shift * sums, gain * deviation, beta[live], gamma[live]) > EXPLAINED * apart[0]:
        return None  # no scaling does: this batch norm has not seen such inputs
    own = _mean_and_deviation(runs[best].moments[layer.source])
    words = (
        f"the batch norm of the first layer '{layer.name}' expects a mean of about {gain * own[0] + shift:.2g} and a deviation of "
        f"about {gain * own[1]:.2g}"
    )
    usual = best > 0 and apart[best] < apart[0] / 2
    return _Finding(words, runs[best].scaling if usual else None, usual or not 1 / OTHER_SCALE < gain < OTHER_SCALE)


def _channels(layer: Layer, run: _Run, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    own = run.moments[layer.name]
    return own.mean[live], own.deviation[live]


def _divergence(mean: np.ndarray, deviation: np.ndarray, beta: np.ndarray, gamma: np.ndarray) -> float:
    """Kullback-Leibler divergence of normal distributions from the batch norm's, in nats, mean over channels."""
    ratio, shift = deviation / gamma, (mean - beta) / gamma
    return float(np.mean((ratio**2 + shift**2 - 1) / 2 - np.log(ratio)))


def _by_biases(layers: tuple[Layer, ...], runs: list[_Run]) -> _Finding | None:
    """What the biases say, into which batch norms were folded."""
    if not any(_cancels(layers, run) for run in runs):
        return None
    first, given = layers[0], runs[0]
    fit = _fit(first, given.moments[first.name])
    linear = [layer for layer in layers[1:] if layer.linear][:LINEAR_LAYERS]
    left = [_left(linear, run) for run in runs]
    least = min(left)
    best = runs[left.index(least)]
    telling = len(linear) == LINEAR_LAYERS and least < math.log(CANCELS)
    if not telling:
        best = min(runs[1:], key=lambda run: _misfit(first, run), default=given)
    if fit is not None:
        mean, deviation = _mean_and_deviation(given.moments[first.source])
        if not LEAST_BETA < fit.beta < MOST_BETA:
            size = f"{1 / max(fit.beta, 1e-30):.2g} times" if fit.beta < 1 else f"1/{fit.beta:.2g} of"
            words = f"what the first layer '{first.name}' makes of them is {size} what its biases are for"
            return _Finding(words, best.scaling)
        if abs(mean - fit.mean) > max(SURE * fit.error, FAR * deviation):
            words = f"the folded batch norm of the first layer '{first.name}' expects a mean of {fit.mean:.2g} ± {fit.error:.1g}"
            return _Finding(words, best.scaling)
    if telling and left[0] - least > CLEAR:
        other = best.scaling.words if best.scaling is not None else "others"
        times = math.exp(left[0] - least)
        words = f"layers such as '{linear[0].name}' cancel their means {times:.2g} times worse than with {other}"
        return _Finding(words, best.scaling)
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
    """Logarithm of the means that layers leave, in deviations of their channels: root mean square."""
    each = []
    for layer in layers:
        own = run.moments[layer.name]
        live = own.deviation > 1e-3 * np.median(own.deviation)
        each.append(float(np.sqrt(np.mean((own.mean[live] / own.deviation[live]) ** 2))))
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
