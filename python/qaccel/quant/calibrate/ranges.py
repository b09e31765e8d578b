"""Ranges of activations from samples: the `calibrate` arrow.

Pass one finds every tensor's minimum and maximum. The other methods take a second pass that counts values in a fine
histogram over that range, and choose a narrower range from the counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import rel_entr
from tvm import ir, relax

from ...emulate.executor import execute
from ...errors import UserError
from ...model import Model
from ...relax_tools import bindings, node_name
from .channel_means import PASSES_AT_ONCE, ChannelMeans, passes_of
from .channels import Channels, ChannelSums
from .masks import Masks
from .runs import runs_of

METHODS = ("minmax", "percentile", "entropy", "mse")
BINS = 4096
HISTOGRAM_PIECE = 1 << 15  # values binned at once, so that temporaries stay in the cache
PERCENTILE = 99.99
# How much wider 16-bit ranges are than what the samples gave. Samples 1.5 times as large as those then keep all their bits though
# they have farther tails; it costs 4.9 of 96 dB.
HEADROOM = 1.75
SEARCH_STEPS = 100  # ends of a range that are tried on each side
LEVELS = 256  # of the grid that entropy and mse judge a range by, where the width is not known
LAYERS = ("relax.nn.conv2d", "relax.nn.conv2d_transpose", "relax.matmul")  # whose constants are weights


class NotFinite(UserError):
    """A node gives infinities or what is no number for some samples."""


@dataclass(frozen=True)
class Cut:
    """What a range leaves out: the share of the tensor's values, and the least and greatest that the samples gave."""

    share: float
    least: float
    most: float


@dataclass(frozen=True)
class Ranges:
    """`values`: (lo, hi) in real units by input or node name, always lo <= 0 <= hi so that zero is representable.

    `means`: those of the channels of each layer with weights, and of what limits it, by node, over the first `passes_of` runs.
    `headroom`: by how much 16-bit ranges shall be wider than `values`. `cuts`: the tensors whose values do not all lie within it.
    `copies`: of copies in fewer bits, by their name; others reach as far as what they copy. `exact`: to be taken as they are,
    whatever makes or reads a tensor. `channels`: what was seen of each channel of a tensor [N, C] or [N, C, H, W]: the ends of all
    samples, whatever the method, mean and variance of the first `passes_of` runs.
    """

    values: dict[str, tuple[float, float]]
    method: str
    samples: int
    means: dict[str, np.ndarray] = field(default_factory=dict)
    headroom: float = 1.0
    cuts: dict[str, Cut] = field(default_factory=dict)
    copies: dict[str, tuple[float, float]] = field(default_factory=dict)
    exact: bool = False
    channels: dict[str, Channels] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What the report says of them: method, samples, and each tensor whose range leaves out values of the samples."""
        cut = [
            {"name": name, "percent": 100 * each.share, "lo": self.values[name][0], "hi": self.values[name][1],
             "least": each.least, "most": each.most}
            for name, each in self.cuts.items()
        ]  # fmt: skip
        return {"method": self.method, "samples": self.samples, "cut": cut}

    def __repr__(self) -> str:
        return f"<Ranges of {len(self.values)} tensors by {self.method} over {self.samples} samples>"


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins between the observed minimum `lo` and maximum `hi`, both widened to hold 0."""

    counts: np.ndarray
    lo: float
    hi: float

    @property
    def edges(self) -> np.ndarray:
        """The borders of the bins, one more than bins."""
        return np.linspace(self.lo, self.hi, len(self.counts) + 1)

    @property
    def centres(self) -> np.ndarray:
        """The middles of the bins."""
        edges = self.edges
        return (edges[1:] + edges[:-1]) / 2

    def share_beyond(self, lo: float, hi: float) -> float:
        """The share of the values that a range leaves out."""
        outside = (self.centres < lo) | (self.centres > hi)
        return float(self.counts[outside].sum() / max(self.counts.sum(), 1))


def calibrate(
    model: Model,
    data: Mapping[str, np.ndarray],
    method: str = "minmax",
    batch: int = PASSES_AT_ONCE,
    progress: bool = False,
    also: Mapping[str, np.ndarray] | None = None,
) -> Ranges:
    """Runs the float model on `data` (samples along axis 0, `batch` at a time) and gives a range for every tensor.

    method: "minmax" exact; "percentile" drops 0.01% of the values; "entropy" minimises the KL divergence; "mse" the
    expected squared error at 8 bits. also: further samples, which count for ranges and ends of channels and for no mean. Raises
    UserError for an unknown method and no samples, NotFinite for values that are not finite (naming the node).
    """
    if method not in METHODS:
        raise UserError(f"--calibration {method} is unknown; choose one of {', '.join(METHODS)}")
    parts = (data, also) if also else (data,)
    samples = sum(runs_of(model, part) for part in parts)
    if samples < 1:
        raise UserError("calibration data holds no samples; give at least one")
    passes = 1 if method == "minmax" else 2
    extremes: dict[str, tuple[float, float]] = {}

    masks, sums = Masks(model), ChannelSums()

    def widen(name: str, value: np.ndarray) -> None:
        value = masks.finite(name, value)
        lo, hi = sums.extremes(name, value)
        if not (math.isfinite(lo) and math.isfinite(hi)):
            worst = lo if not math.isfinite(lo) else hi
            what = _damaged_weights(model, name)
            if what:
                raise UserError(f"node '{name}' gives {worst}: its weights hold {what}; export the model again")
            raise NotFinite(f"node '{name}' gives {worst} on the calibration data; check the samples' range")
        before = extremes.get(name, (0.0, 0.0))
        extremes[name] = (min(before[0], lo), max(before[1], hi))

    means = ChannelMeans(model)

    def widen_and_add(name: str, value: np.ndarray) -> None:
        widen(name, value)
        means(name, value)
        sums.add(name, value)

    line = _Progress(progress, samples * passes, 0)
    for part in parts:
        for k, pieces in enumerate(_batches(model, part, batch, line)):
            averaged = part is data and k * batch < passes_of(model)
            execute(model, pieces, widen_and_add if averaged else widen)
    extremes = masks.limited(extremes)
    if method == "minmax":
        return Ranges(extremes, method, samples, means.values, HEADROOM, channels=sums.values)
    counts = {name: np.zeros(BINS, np.int64) for name in extremes}

    def count(name: str, value: np.ndarray) -> None:
        lo, hi = extremes[name]
        if hi > lo:
            counts[name] += binned(np.clip(value, lo, hi) if name in masks.names else value, lo, hi)

    for part in parts:
        for pieces in _batches(model, part, batch, line):
            execute(model, pieces, count)
    histograms = {name: Histogram(counts[name], *ends) for name, ends in extremes.items() if ends[0] < ends[1]}
    values = extremes | {name: CHOICES[method](each) for name, each in histograms.items()}
    shares = {name: each.share_beyond(*values[name]) for name, each in histograms.items()}
    cuts = {name: Cut(share, *extremes[name]) for name, share in shares.items() if share}
    return Ranges(values, method, samples, means.values, HEADROOM, cuts, channels=sums.values)


def _damaged_weights(model: Model, name: str) -> str:
    """What a layer's weights hold that is no finite number, empty where there is none. Only layers: a mask may hold infinities."""
    for binding in bindings(model.mod["main"]):
        call = binding.value
        if isinstance(call, relax.Call) and node_name(call) == name and call.op.name in LAYERS:
            for arg in call.args:
                values = arg.value.numpy() if isinstance(arg, ir.GenericConst) else np.zeros(())
                if not np.isfinite(values).all():
                    return str(values[~np.isfinite(values)][0])
    return ""


def binned(value: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Counts [BINS] of the values in equal bins from lo to hi, which none may exceed; np.histogram is slower."""
    flat = np.ravel(value, order="K")
    real = np.float32 if flat.dtype == np.float32 else np.float64
    counts = np.zeros(BINS, np.int64)
    place, index = np.empty(HISTOGRAM_PIECE, real), np.empty(HISTOGRAM_PIECE, np.intp)
    for start in range(0, flat.size, HISTOGRAM_PIECE):
        piece = flat[start : start + HISTOGRAM_PIECE]
        p, i = place[: piece.size], index[: piece.size]
        np.subtract(piece, real(lo), out=p, dtype=real)
        np.multiply(p, real(BINS / (hi - lo)), out=p)
        np.minimum(p, BINS - 1, out=p)
        i[...] = p
        counts += np.bincount(i, minlength=BINS)
    return counts


class _Progress:
    """A line of progress on standard error, where wanted."""

    def __init__(self, wanted: bool, total: int, done: int) -> None:
        self.wanted, self.total, self.done = wanted, total, done

    def advance(self, samples: int) -> None:
        self.done += samples
        if self.wanted:
            from rich.console import Console

            end = "\n" if self.done >= self.total else "\r"
            Console(stderr=True).print(f"calibrating: {100 * self.done // self.total}%", end=end, highlight=False)


def _batches(
    model: Model, data: Mapping[str, np.ndarray], batch: int, progress: _Progress
) -> Iterator[dict[str, np.ndarray]]:
    """The samples, `batch` at a time, in multiples of the model's own batch."""
    own = {spec.name: spec.shape[0] if spec.shape else 0 for spec in model.inputs}
    first = model.inputs[0]
    samples = len(data[first.name]) // max(1, own[first.name]) if own[first.name] else 1
    for start in range(0, samples, max(1, batch)):
        stop = min(samples, start + max(1, batch))
        yield {name: data[name][start * size : stop * size] if size else data[name] for name, size in own.items()}
        progress.advance(stop - start)


def percentile_range(histogram: Histogram) -> tuple[float, float]:
    """Cuts half of 100 - PERCENTILE percent of the values from each side.

    Source: Krishnamoorthi, arXiv 1806.08342, section 3; ONNX Runtime's PercentileCalibrater does the same for an
    asymmetric range.
    """
    counts, edges = histogram.counts, histogram.edges
    tail = (1 - PERCENTILE / 100) / 2 * counts.sum()
    below = np.cumsum(counts)
    above = np.cumsum(counts[::-1])
    lo = edges[int(np.searchsorted(below, tail, side="right"))]
    hi = edges[len(counts) - int(np.searchsorted(above, tail, side="right"))]
    return min(float(lo), 0.0), max(float(hi), 0.0)


def _best(histogram: Histogram, losses: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[float, float]:
    """The range of least loss: both sides shrunk together first, then each alone from there, until nothing improves.

    Shrinking the sides apart is what makes it safe for one-sided and skewed tensors, where the symmetric search of
    the sources would clip the short side's values or waste half of the grid. ``losses``: of ranges, their lo and hi [count].
    """
    keep = 1 - np.arange(SEARCH_STEPS) / SEARCH_STEPS
    los, his = histogram.lo * keep, histogram.hi * keep
    found = losses(los, his)
    place = int(found.argmin())
    least, best = found[place], (los[place], his[place])
    for _ in range(3):
        start = best
        for side in (0, 1):
            trials = (los, np.full_like(his, best[1])) if side == 0 else (np.full_like(los, best[0]), his)
            found = losses(*trials)
            place = int(found.argmin())
            if found[place] < least:
                least, best = found[place], (trials[0][place], trials[1][place])
        if best == start:
            break
    return float(best[0]), float(best[1])


def mse_range(histogram: Histogram, levels: int = LEVELS) -> tuple[float, float]:
    """Minimises the expected squared error: clipped values by their distance, the others by step^2 / 12.

    The rounding error is uniform within a step, variance step^2 / 12; a value that the grid holds exactly, zero, adds
    nothing. Source: Sung, Shin, Hwang, arXiv 1511.06488 (L2 error minimisation); Banner et al., arXiv 1810.05723,
    section 2.
    """
    counts, centres = _without_zeros(histogram)
    # Sums over the bins below each: of values, of their distances from zero, of those squared.
    below = [np.concatenate([[0.0], np.cumsum(counts * centres**power)]) for power in range(3)]

    def losses(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        first, last = np.searchsorted(centres, lo), np.searchsorted(centres, hi, side="right")
        zero, one, two = ([each[first], each[last], each[-1] - each[last]] for each in below)
        cut = two[0] - 2 * lo * one[0] + lo * lo * zero[0] + two[2] - 2 * hi * one[2] + hi * hi * zero[2]
        step = (hi - lo) / (levels - 1)
        return np.where(step > 0, cut + (zero[1] - zero[0]) * step * step / 12, math.inf)

    return _best(histogram, losses) if counts.sum() else (histogram.lo, histogram.hi)


def entropy_range(histogram: Histogram, levels: int = LEVELS) -> tuple[float, float]:
    """Minimises the Kullback-Leibler divergence between the values and their quantized selves.

    P is the histogram within the range, with what lies outside added to the border bins; Q spreads the count of each
    of the ``levels`` cells evenly over its non-empty bins. Source: Migacz, "8-bit inference with TensorRT", GTC 2017,
    slides 26 to 38, with the range asymmetric instead of +-T. As there, exact zeros are left out: ReLU makes so many
    that the search would see nothing else.
    """
    counts, _ = _without_zeros(histogram)
    if not counts.sum():
        return histogram.lo, histogram.hi
    width = (histogram.hi - histogram.lo) / len(counts)

    def loss(lo: float, hi: float) -> float:
        first = int(np.clip(round((lo - histogram.lo) / width), 0, len(counts) - 1))
        last = int(np.clip(round((hi - histogram.lo) / width), first + 1, len(counts)))
        inner = counts[first:last]
        reference = inner.copy()
        reference[0] += counts[:first].sum()
        reference[-1] += counts[last:].sum()
        cell = np.arange(last - first) * levels // (last - first)
        filled = reference > 0
        members = np.bincount(cell[filled], minlength=levels)
        total = np.bincount(cell, weights=inner, minlength=levels)
        quantized = np.where(filled, total[cell] / np.maximum(members[cell], 1), 0.0)
        if last - first < levels or not quantized.sum():
            return math.inf  # fewer bins than levels would always look perfect
        p, q = reference / reference.sum(), quantized / quantized.sum()
        # A bin that only holds clipped values has q = 0; a floor keeps the loss finite and large there.
        return float(rel_entr(p, np.maximum(q, 1e-12))[filled].sum())

    return _best(histogram, np.vectorize(loss, otypes=[float]))


def _without_zeros(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Counts as float64 with the bin that holds zero taken down to its neighbours' level, and the bins' centres."""
    counts = histogram.counts.astype(np.float64)
    width = (histogram.hi - histogram.lo) / len(counts)
    zero = int(np.clip(int(-histogram.lo / width), 0, len(counts) - 1))
    neighbours = counts[[k for k in (zero - 1, zero + 1) if 0 <= k < len(counts)]]
    counts[zero] = min(counts[zero], neighbours.max())
    return counts, histogram.centres


SEARCHES: dict[str, Callable[[Histogram, int], tuple[float, float]]] = {"entropy": entropy_range, "mse": mse_range}
CHOICES: dict[str, Callable[[Histogram], tuple[float, float]]] = {
    "percentile": percentile_range,
    "entropy": entropy_range,
    "mse": mse_range,
}
