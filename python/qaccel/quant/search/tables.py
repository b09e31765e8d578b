"""What every width costs and loses as sums over layers and groups: what the integer program works on, and how trials correct it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...dialect.plan_cost import PlanCost
from ...dialect.quantized import QuantizedModel
from .losses import Estimate
from .space import Choice, Space

Key = tuple[int, int]
_MOST_TIMES = 10.0  # a trial may make a width lose so many times more or less than the tables had


@dataclass(frozen=True, eq=False)
class Trial:
    """A choice that was made: the network, its cost, None where the machine cannot take it, and what it loses.

    ``rate``: what its rounding paid for a bit, a loss of the worst part.
    """

    choice: Choice
    quantized: QuantizedModel
    cost: PlanCost | None
    estimate: Estimate
    rate: float = 0.0


@dataclass(frozen=True)
class Tables:
    """What widths cost, as sums over layers and groups, each mapped from its number and its bits.

    ``layer_cycles``: by layer, weight bits and activation bits, absent where the machine has no such layer; ``group_cycles``: of
    the operations without weights; ``layer_bytes``: of streams, by layer and weight bits. ``rest_cycles`` and ``rest_bytes`` of
    all else. ``weight_losses``, ``group_losses``, ``rest_losses``: arrays over the parts of the outputs.
    """

    layer_cycles: Mapping[tuple[int, int, int], float]
    group_cycles: Mapping[Key, float]
    layer_bytes: Mapping[Key, float]
    rest_cycles: float
    rest_bytes: float
    weight_losses: Mapping[Key, np.ndarray]
    group_losses: Mapping[Key, np.ndarray]
    rest_losses: np.ndarray

    def cycles(self, space: Space, choice: Choice) -> float:
        """Estimated cycles of a choice."""
        layers = (
            self.layer_cycles.get((k, w, choice.activations[space.layers[k].group]), math.inf)
            for k, w in enumerate(choice.weights)
        )
        return (
            self.rest_cycles
            + sum(layers)
            + sum(self.group_cycles.get(each, 0.0) for each in enumerate(choice.activations))
        )

    def bytes(self, choice: Choice) -> float:
        """Estimated bytes of a choice."""
        return self.rest_bytes + sum(self.layer_bytes[each] for each in enumerate(choice.weights))

    def losses(self, choice: Choice) -> np.ndarray:
        """Estimated losses of the parts."""
        weights = [self.weight_losses[each] for each in enumerate(choice.weights)]
        groups = [self.group_losses[each] for each in enumerate(choice.activations)]
        return np.maximum(np.sum([self.rest_losses, *weights, *groups], axis=0), 0.0)


def anchored(tables: Tables, anchor: Trial) -> Tables:
    """The tables with losses that are those measured where the choice is the anchor's."""
    measured = np.array([each.value for each in anchor.estimate.losses])
    free = replace(tables, rest_losses=np.zeros_like(measured))
    sums = [free.weight_losses[each] for each in enumerate(anchor.choice.weights)]
    sums += [free.group_losses[each] for each in enumerate(anchor.choice.activations)]
    return replace(tables, rest_losses=measured - np.sum(sums, axis=0))


def learnt(tables: Tables, anchor: Trial, trial: Trial) -> Tables:
    """The tables with losses such that those of the trial, seen from the anchor, come out as measured.

    The widths in which the trial loses more than the anchor are scaled by one factor.
    """
    pairs = {
        "weight": zip(anchor.choice.weights, trial.choice.weights, strict=True),
        "group": zip(anchor.choice.activations, trial.choice.activations, strict=True),
    }
    changed = [(what, k, old, new) for what, each in pairs.items() for k, (old, new) in enumerate(each) if old != new]
    if not changed:
        return tables
    losses = {"weight": dict(tables.weight_losses), "group": dict(tables.group_losses)}
    deltas = np.array([losses[what][k, new] - losses[what][k, old] for what, k, old, new in changed])
    got = np.array([b.value - a.value for a, b in zip(anchor.estimate.losses, trial.estimate.losses, strict=True)])
    worse, better = np.maximum(deltas, 0).sum(axis=0), np.minimum(deltas, 0).sum(axis=0)
    times = np.clip((got - better) / np.maximum(worse, 1e-30), 1 / _MOST_TIMES, _MOST_TIMES)
    for (what, k, old, new), delta in zip(changed, deltas, strict=True):
        losses[what][k, new] = losses[what][k, old] + np.where(delta > 0, delta * times, delta)
    return replace(tables, weight_losses=losses["weight"], group_losses=losses["group"])
