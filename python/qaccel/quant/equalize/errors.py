"""What rounding adds to a network's layers as a function of its channels' scales: the model by which factors are chosen.

The error of rounding a value to steps of D has the variance D^2 / 12 (arXiv 1511.06488); a layer sums those of its inputs, times
its weights squared, and those of its weights, times its inputs' variance: their means are for bias correction. Errors are counted
as shares of a layer's own variance, so that those of one layer compare with those of another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from ...options import BitWidths
from ..calibrate.channels import Channels
from .classes import Classes, Layer

LEAST = 1e-30  # of a variance, so that what is constant divides nothing by zero


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that is rounded: the class of each channel, its ends, and what a unit of error variance costs in each."""

    classes: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    cost: np.ndarray
    levels: int

    def error(self, factors: np.ndarray) -> float:
        """The error that rounding it adds where each class is divided by its factor."""
        own = factors[self.classes]
        step = ((self.hi / own).max() - (self.lo / own).min()) / self.levels
        return float(step**2 / 12 * (self.cost @ own**2))


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a layer that sums over channels.

    ``classes`` [groups, inputs]; ``largest`` [groups, outputs, inputs]: of all taps; ``cost`` [groups, outputs]: of a unit of error
    variance at an output; ``variance`` [groups, inputs]: what the inputs multiply an error of a weight by.
    """

    classes: np.ndarray
    largest: np.ndarray
    cost: np.ndarray
    variance: np.ndarray
    levels: int

    def error(self, factors: np.ndarray) -> float:
        """The error that rounding them adds, each output on a scale of its own."""
        own = factors[self.classes]
        step = (self.largest * own[:, None]).max(axis=2) / self.levels
        return float(np.einsum("gm,gm,g->", self.cost, step**2 / 12, (self.variance / own**2).sum(axis=1)))


def rounded(
    classes: Classes, seen: Mapping[str, Channels], widths: Callable[[str], BitWidths]
) -> tuple[list[Tensor], list[Weights]]:
    """All tensors and weights of a network whose error depends on factors; ``widths``: of a layer, by node."""
    costs = _costs(classes, seen)
    bits = _activation_bits(classes, widths)
    tensors = []
    for var, cost in costs.items():
        stats = seen.get(classes.names.get(var, ""))
        if stats is None or var in classes.merged or len(stats.lo) != len(cost):
            continue
        tensors.append(Tensor(classes.of[var], stats.lo, stats.hi, cost, (1 << bits.get(var, 8)) - 1))
    weights = []
    for layer in classes.layers:
        stats = seen.get(classes.names.get(layer.source, ""))
        groups, _, inputs, taps = layer.weight.shape
        if inputs == 1 or stats is None or len(stats.variance) != groups * inputs:
            continue  # with one input, a factor scales weights and steps alike
        largest = np.abs(layer.weight).max(axis=3)
        own = classes.of[layer.source].reshape(groups, inputs)
        variance = taps * stats.variance.reshape(groups, inputs)
        levels = (1 << (widths(layer.node).weight_bits - 1)) - 1
        weights.append(Weights(own, largest, _cost_of_outputs(layer, costs, classes, seen), variance, levels))
    return tensors, weights


def _activation_bits(classes: Classes, widths: Callable[[str], BitWidths]) -> dict[relax.Var, int]:
    """The bits of tensors: the most that a layer behind them asks for."""
    found: dict[relax.Var, int] = {}
    for layer in classes.layers:
        found[layer.source] = max(found.get(layer.source, 0), widths(layer.node).activation_bits)
    for var, made in reversed(classes.made.items()):
        for source, _ in made.sources:
            found[source] = max(found.get(source, 0), found.get(var, 0))
    return found


def _costs(classes: Classes, seen: Mapping[str, Channels]) -> dict[relax.Var, np.ndarray]:
    """What a unit of error variance costs in each channel of each tensor, from the last to the first."""
    costs = {var: np.zeros(len(own)) for var, own in classes.of.items()}
    layers = {layer.output: layer for layer in classes.layers}
    for var in classes.read:
        stats = seen.get(classes.names.get(var, ""))
        if stats is not None and len(stats.variance) == len(costs[var]):
            costs[var] += 1 / max(stats.variance.sum(), LEAST)
    for var in reversed(classes.order):
        made, layer = classes.made.get(var), layers.get(var)
        for source, channels in made.sources if made is not None else ():
            here = channels >= 0
            np.add.at(costs[source], channels[here], costs[var][here])
        if layer is not None:
            outputs = _cost_of_outputs(layer, costs, classes, seen)
            costs[layer.source] += np.einsum("gm,gmik->gi", outputs, layer.weight**2).reshape(-1)
            costs[layer.product] = costs[var]
    return costs


def _cost_of_outputs(
    layer: Layer, costs: Mapping[relax.Var, np.ndarray], classes: Classes, seen: Mapping[str, Channels]
) -> np.ndarray:
    """[groups, outputs]: what a unit of error variance costs at each output. One that sums one channel only hands it on."""
    shape = layer.weight.shape[:2]
    if layer.weight.shape[2] == 1:
        return costs[layer.output].reshape(shape)
    stats = seen.get(classes.names.get(layer.output, ""))
    return np.full(shape, 1 / max(stats.variance.sum(), LEAST) if stats is not None else 0.0)


def total(tensors: Sequence[Tensor], weights: Sequence[Weights], factors: np.ndarray) -> float:
    """The error of some tensors and weights together."""
    return sum(each.error(factors) for each in tensors) + sum(each.error(factors) for each in weights)
