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
CALM = 1.05  # caution that is none
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


@dataclass(frozen=True)
class Doubt:
    """By how much the tables may be wrong in a plan's loss and in its cost, and it still be tried."""

    loss: float
    cost: float


def doubted(tables: Tables, anchor: Trial, times: float) -> Tables:
    """The tables with widths that lose more than the anchor's losing so many times as much more."""
    if times == 1:
        return tables

    def more(losses: Mapping[Key, np.ndarray], chosen: tuple[int, ...]) -> dict[Key, np.ndarray]:
        return {
            (k, bits): own + (times - 1) * np.maximum(own - losses[k, chosen[k]], 0.0)
            for (k, bits), own in losses.items()
        }

    return replace(
        tables, weight_losses=more(tables.weight_losses, anchor.choice.weights),
        group_losses=more(tables.group_losses, anchor.choice.activations),
    )  # fmt: skip


def times_off(tables: Tables, anchor: Trial, trial: Trial) -> np.ndarray:
    """By part, how many times as much as the tables have it the widths lose in which a trial loses more than the anchor.

    As measured; 1 where there are none such.
    """
    deltas = np.array([_delta(tables, *each) for each in _changed(anchor.choice, trial.choice)])
    if not len(deltas):
        return np.ones_like(tables.rest_losses)
    got = np.array([b.value - a.value for a, b in zip(anchor.estimate.losses, trial.estimate.losses, strict=True)])
    worse, better = np.maximum(deltas, 0).sum(axis=0), np.minimum(deltas, 0).sum(axis=0)
    return np.where(worse > 0, (got - better) / np.maximum(worse, 1e-30), 1.0)


def next_caution(caution: float, off: float) -> float:
    """How many times what the tables say the widths of the next plan are to lose, where those of the last one, which was asked for
    with ``caution``, lost ``off`` times that.

    Of many plans the one is taken of which the tables promise most, so it loses more than they say, and the next one would again.
    That is doubt of what was not measured, little near the best plan. Roots, because the tables have learnt from the plan.
    """
    return max(calmer(caution), calmer(min(max(off, 1.0), _MOST_TIMES)))


def calmer(caution: float) -> float:
    """Less of it."""
    return math.sqrt(caution) if caution > CALM else 1.0


def learnt(tables: Tables, anchor: Trial, trial: Trial) -> Tables:
    """The tables with losses such that those of the trial, seen from the anchor, come out as measured.

    The widths in which the trial loses more than the anchor are scaled by one factor.
    """
    times = np.clip(times_off(tables, anchor, trial), 1 / _MOST_TIMES, _MOST_TIMES)
    losses = {"weight": dict(tables.weight_losses), "group": dict(tables.group_losses)}
    for what, k, old, new in _changed(anchor.choice, trial.choice):
        delta = _delta(tables, what, k, old, new)
        losses[what][k, new] = losses[what][k, old] + np.where(delta > 0, delta * times, delta)
    return replace(tables, weight_losses=losses["weight"], group_losses=losses["group"])


def _changed(anchor: Choice, trial: Choice) -> list[tuple[str, int, int, int]]:
    """Where two choices differ: ("weight" or "group", number, bits of the one, bits of the other)."""
    pairs = {
        "weight": zip(anchor.weights, trial.weights, strict=True),
        "group": zip(anchor.activations, trial.activations, strict=True),
    }
    return [(what, k, old, new) for what, each in pairs.items() for k, (old, new) in enumerate(each) if old != new]


def _delta(tables: Tables, what: str, k: int, old: int, new: int) -> np.ndarray:
    """How much more than in one width something loses in another."""
    losses = tables.weight_losses if what == "weight" else tables.group_losses
    return losses[k, new] - losses[k, old]
