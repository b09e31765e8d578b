"""Rounding in closed form: integers and scales of each layer's weights for the least error of its outputs.

Layers go in order, each on what the rounded integer layers before it deliver, towards what the float model gives on the same
samples: the ridge regression of that on the integers is the target, and the rounding to the lattice of integers follows from
its Gram matrix (the family of GPTAQ, arXiv 2504.02692, and Qronos, arXiv 2505.11695). No gradients are needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from ...dialect import kernels, operators
from ...dialect.quantized import QuantizedModel, RealLayer
from ...evaluate.executor import execute
from ...evaluate.integers import run_quantized
from ...relax_tools import bindings
from ..calibrate.calibration import Calibration
from .constants import LayerConstants, fits_machine, with_constants
from .lattice import round_weights

WIDEST = 8  # bits: more gain nothing that one could measure
MOST_RUNS = 128  # of the model's own batch
ROWS = 4096  # outputs of a layer that are looked at, at least
ROWS_PER_WEIGHT = 6  # and for each weight of a channel
MOST_WEIGHTS = 4096  # per channel: beyond, the Gram matrix takes longer than it is worth
DAMP = 0.05
RIDGES = (0.05, 0.2, 1.0, 5.0, 25.0)
CHOSEN=[]  # of the mean diagonal of the Gram matrix


def round_to_outputs(q: QuantizedModel, calibration: Calibration) -> QuantizedModel:
    """The model with other integer weights, scales and biases in its layers of 4 and 8 weight bits."""
    layers = _layers(q)
    if not layers:
        return q
    own = {spec.name: spec.shape[0] for spec in q.model.inputs if spec.shape}
    runs = min(MOST_RUNS, min((len(calibration.samples[name]) // size for name, size in own.items()), default=1))
    samples = {name: value[: runs * own[name]] if name in own else value for name, value in calibration.samples.items()}
    rows = {name: Rows(real, runs, k) for k, (name, real) in enumerate(layers.items())}
    by_node: dict[str, list[str]] = {}
    for name, real in layers.items():
        by_node.setdefault(real.node, []).append(name)

    def observe(node: str, value: np.ndarray) -> None:
        for name in by_node.get(node, ()):
            rows[name].add(layers[name].outputs(value))

    execute(q.model, samples, observe)
    made: dict[str, LayerConstants] = {}

    def reweigh(
        attrs: operators.ConvAttrs, given: Sequence[np.ndarray], weight: np.ndarray, bias: np.ndarray, scale: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if attrs.name in rows:
            before = LayerConstants(weight, bias, scale)
            made[attrs.name] = _rounded(attrs, layers[attrs.name], rows.pop(attrs.name), given, before)
            return made[attrs.name].weight, made[attrs.name].bias, made[attrs.name].scale
        return weight, bias, scale

    params = q.mod["main"].params
    inputs = {param.name: samples[spec.name] for param, spec in zip(params, q.model.inputs, strict=True)}
    run_quantized(q.mod, inputs, reweigh=reweigh)
    return dataclasses.replace(q, mod=with_constants(q.mod, made))


def _layers(q: QuantizedModel) -> dict[str, RealLayer]:
    """The layers that are rounded anew, by name."""
    calls = [b.value for b in bindings(q.mod["main"]) if operators.is_quantized(b.value)]
    convs = {attrs.name: attrs for attrs in map(operators.read, calls) if isinstance(attrs, operators.ConvAttrs)}
    return {
        name: real
        for name, real in q.real.items()
        if name in convs and convs[name].weight_bits <= WIDEST and real.weight[0].size <= MOST_WEIGHTS
    }


class Rows:
    """The float outputs of a layer at some places, drawn anew in each sample, ``values`` [rows, channels].

    As many as ROWS, ROWS_PER_WEIGHT for each weight of a channel, or all that there are.
    """

    def __init__(self, real: RealLayer, runs: int, seed: int) -> None:
        n, self.height, self.width, _ = real.nhwc
        samples, pixels = runs * n, self.height * self.width
        wanted = max(ROWS, ROWS_PER_WEIGHT * real.weight[0].size)
        self.each = each = min(pixels, -(-wanted // samples))
        rng = np.random.default_rng(seed)
        self.places = np.stack([np.sort(rng.permutation(pixels)[:each]) for _ in range(samples)])
        self._parts: list[np.ndarray] = []
        self._seen = 0

    def add(self, value: np.ndarray) -> None:
        """The float outputs NHWC of the next samples."""
        flat = value.reshape(len(value), -1, value.shape[3])
        places = self.places[self._seen : self._seen + len(value)]
        self._parts.append(np.take_along_axis(flat, places[:, :, None], axis=1).reshape(-1, value.shape[3]))
        self._seen += len(value)

    @property
    def values(self) -> np.ndarray:
        return np.concatenate(self._parts)

    def patches(self, attrs: operators.ConvAttrs, kernel: tuple[int, int], given: Sequence[np.ndarray]) -> np.ndarray:
        """What the weights of each group multiply at the same places: integers minus zero point, float32 [G, rows, K]."""
        window = attrs.window(kernel)
        parts, seen = [], 0
        for q in given:
            places = self.places[seen : seen + len(q)]
            seen += len(q)
            centred = q.astype(np.float32) - np.float32(attrs.source.zero_point)
            view = kernels.windows(kernels.padded(centred, window.pads), window, (self.height, self.width))
            rows, columns = np.divmod(places, self.width)
            parts.append(view[np.arange(len(q))[:, None], rows, columns].reshape(-1, *kernel, attrs.groups, q.shape[3] // attrs.groups))
        patches = np.concatenate(parts).transpose(3, 0, 1, 2, 4)
        return patches.reshape(attrs.groups, patches.shape[1], -1)


@dataclasses.dataclass(frozen=True, eq=False)
class _Moments:
    """Second moments of some rows: ``gram`` [G, K, K] of the inputs, ``both`` [G, M, K] of outputs and inputs."""

    rows: int
    gram: np.ndarray
    both: np.ndarray

    @classmethod
    def of(cls, inputs: np.ndarray, outputs: np.ndarray) -> _Moments:
        gram = (inputs.transpose(0, 2, 1) @ inputs).astype(np.float64)
        both = (outputs.transpose(0, 2, 1) @ inputs).astype(np.float64)
        return cls(inputs.shape[1], gram, both)


def fitted(weight: np.ndarray, first: _Moments, second: _Moments) -> tuple[np.ndarray, np.ndarray]:
    """(weights [G, M, K] that give the outputs best, Gram matrix [G, K, K]): real ``weight`` moved by a ridge regression.

    The ridge is the one of RIDGES whose regression on one half of the rows does best on the other half.
    """
    gram, both = first.gram + second.gram, first.both + second.both
    size = np.einsum("gkk->gk", gram).mean(axis=1)
    unit = np.where(size > 0, size, 1.0)[:, None, None] * np.eye(gram.shape[1])
    ridge = RIDGES[-1]
    if first.rows:
        left_out = [
            sum(_left_out(_moved(weight, a, each * unit / 2), weight, b) for a, b in ((first, second), (second, first)))
            for each in RIDGES
        ]
        ridge = RIDGES[int(np.argmin(left_out))]
    CHOSEN.append(ridge)
    whole = _Moments(first.rows + second.rows, gram, both)
    return weight + _moved(weight, whole, ridge * unit), gram + DAMP * unit


def _moved(weight: np.ndarray, moments: _Moments, ridge: np.ndarray) -> np.ndarray:
    off = moments.both - weight @ moments.gram
    return np.linalg.solve(moments.gram + ridge, off.transpose(0, 2, 1)).transpose(0, 2, 1)


def _left_out(moved: np.ndarray, weight: np.ndarray, moments: _Moments) -> float:
    """The squared error of weights moved so, less that of ``weight``."""
    return float(((moved @ moments.gram) * moved).sum() - 2 * ((moments.both - weight @ moments.gram) * moved).sum())


def _rounded(
    attrs: operators.ConvAttrs, real: RealLayer, rows: Rows, given: Sequence[np.ndarray], before: LayerConstants
) -> LayerConstants:
    """Better constants of a layer; a channel keeps its own where the machine could not hold the better ones."""
    groups, limit = attrs.groups, (1 << (attrs.weight_bits - 1)) - 1
    channels = len(real.weight)
    inputs = rows.patches(attrs, real.weight.shape[1:3], given)
    outputs = rows.values.reshape(-1, groups, channels // groups).transpose(1, 0, 2)
    step = float(attrs.source.scale)
    input_means, output_means = inputs.mean(axis=1, dtype=np.float64), outputs.mean(axis=1, dtype=np.float64)
    inputs = inputs - input_means[:, None].astype(np.float32)
    outputs = outputs - output_means[:, None].astype(np.float32)
    weight = real.weight.astype(np.float64).reshape(groups, channels // groups, -1) * step  # of one integer step of the input
    half = inputs.shape[1] // 2 // rows.each * rows.each
    moments = [_Moments.of(inputs[:, part], outputs[:, part]) for part in (slice(half), slice(half, None))]
    target, gram = fitted(weight, *moments)
    largest = np.abs(target).max(axis=2)
    dead = ~before.weight.reshape(channels, -1).any(axis=1)
    start = np.where(largest > 0, largest, 1.0) / limit
    q, scale = round_weights(target, gram, start, limit)
    bias = output_means - scale * np.einsum("gmk,gk->gm", q, input_means)
    unit = (scale / step).reshape(-1).astype(np.float32)
    in_units = np.rint(bias.reshape(-1) / (np.float32(attrs.source.scale) * unit).astype(np.float64))
    after = LayerConstants(q.reshape(before.weight.shape), in_units, unit)
    return before.where(dead | ~fits_machine(attrs, after), after)
