"""The rounds of a search of a large network, beside the best plan that exists, where what the tables say of each layer is wrong."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qaccel.dialect.plan_cost import PlanCost
from qaccel.options import WIDTHS, BitWidths, Limits
from qaccel.quant.search import search
from qaccel.quant.search.losses import Loss, Part, Points
from qaccel.quant.search.program import solve
from qaccel.quant.search.search import State
from qaccel.quant.search.space import Choice, Group, Layer, Space
from qaccel.quant.search.tables import Doubt, Tables, Trial

LAYERS, GROUPS = 50, 20


class MadeUp:
    """A laboratory whose plans lose the sum of what their widths lose; its first tables are off by a factor for each, whose
    logarithms have the standard deviation ``spread``."""

    def __init__(self, seed: int, spread: float) -> None:
        rng = np.random.default_rng(seed)

        def shares(count: int, total: float) -> np.ndarray:
            each = np.exp(rng.normal(0, 1, count))
            return each * total / each.sum()

        counts = np.sort(np.exp(rng.normal(9.5, 1.6, LAYERS))).astype(int)
        layers = (Layer(f"l{k}", k * GROUPS // LAYERS, int(count)) for k, count in enumerate(counts))
        self.space = Space(tuple(layers), tuple(Group((f"g{k}",), (), ()) for k in range(GROUPS)))
        weights, groups = shares(LAYERS, 0.08), shares(GROUPS, 0.0015)
        self.weights = {
            (k, b): np.array([weights[k] * {4: 1, 8: 5e-3, 16: 1e-5}[b]]) for k in range(LAYERS) for b in WIDTHS
        }
        self.groups = {
            (k, b): np.array([groups[k] * {4: 60, 8: 1, 16: 1e-3}[b]]) for k in range(GROUPS) for b in WIDTHS
        }
        all_off, off = np.exp(rng.normal(1, 0.3)), np.exp(rng.normal(0, spread, LAYERS))
        said = {(k, b): loss * off[k] * all_off for (k, b), loss in self.weights.items()}
        said_of_groups = {key: loss * np.exp(rng.normal(0, spread)) for key, loss in self.groups.items()}
        cycles = {(k, w, a): float(counts[k] * w * a) for k in range(LAYERS) for w in WIDTHS for a in WIDTHS}
        sizes = {(k, b): float(counts[k] * b / 8 * 0.95) for k in range(LAYERS) for b in WIDTHS}
        self.tables = Tables(cycles, {}, sizes, 0.0, 0.0, said, said_of_groups, np.zeros(1))
        self.points = Points((Part("y", 1, 0, -1, True),), (30.0,), (0.1,))
        self.trials: dict[Choice, Trial] = {}
        self.model = None

    def corrected(self, tables: Tables, _: Trial) -> Tables:
        return tables

    def trial(self, choice: Choice) -> Trial:
        lost = sum(float(self.weights[each][0]) for each in enumerate(choice.weights))
        lost += sum(float(self.groups[each][0]) for each in enumerate(choice.activations))
        cost = PlanCost(1, int(self.tables.bytes(choice)), (), 0)
        made = Trial(choice, None, cost, self.points.estimate((Loss(lost, 0.0),)))  # type: ignore[arg-type]
        return self.trials.setdefault(choice, made)


def rounds(seed: int, spread: float, monkeypatch: pytest.MonkeyPatch) -> tuple[MadeUp, State]:
    """A large network's rounds for the fewest bytes at 4 points, after the trials that come before them."""
    monkeypatch.setattr(search, "plan_of", lambda _: SimpleNamespace(compiled=True, macs=1 << 40))
    lab = MadeUp(seed, spread)
    state = State(lab, Limits("bytes", 4.0), lab.tables, lab.trial(lab.space.uniform(BitWidths(8, 8))))  # type: ignore[arg-type]
    state.take(lab.space.uniform(BitWidths(8, 8)))
    state.take(lab.space.uniform(BitWidths(4, 8)))
    search._rounds(state, lambda _: None)
    return lab, state


@pytest.mark.parametrize(("seed", "spread", "near"), [(9, 0.4, 1.03), (3, 0.4, 1.03), (4, 0.8, 1.025)])
def test_five_trials_come_near_the_fewest_bytes(
    seed: int, spread: float, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each plan loses a little more than the limit, as the best by wrong tables does, none would keep it."""
    lab, state = rounds(seed, spread, monkeypatch)
    exact = replace(lab.tables, weight_losses=lab.weights, group_losses=lab.groups)
    best = solve(lab.space, exact, replace(state.aim(), forbidden=()))
    assert len(lab.trials) <= 2 + 5
    assert state.best.estimate.points <= 4.0
    assert state.best.cost.bytes <= near * best.objective


def test_what_promises_too_little_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a plan was kept: the rounds end with the first one, where a tenth fewer bytes must be promised."""
    monkeypatch.setattr(search, "WORTH", Doubt(0.9, 0.9))
    lab, state = rounds(9, 0.4, monkeypatch)
    *_, last = lab.trials
    assert state.best.choice == last and len(lab.trials) < 2 + 5
