"""Bits by search: estimate, solve, plan, correct; then what a few more trials find, and the uniform plans where they are better."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ...dialect.chosen import Chosen
from ...dialect.plan_cost import PlanCost, Price
from ...dialect.quantized import QuantizedModel
from ...errors import UserError
from ...evaluate.steps import plan_of
from ...model import Model
from ...options import Limits
from ..calibrate.calibration import Calibration
from .explain import curve, decisions, described, measured_plans
from .laboratory import UNIFORM, Laboratory, Make, Trial
from .program import Aim, Solution, Tables, solve
from .space import Choice

ROUNDS = 5
AGREED = 0.01  # relative difference of estimated and simulated cost
TRIALS = 60  # beside the rounds, of a small network
TRIALS_LARGE = 2
ENUMERATED = 20_000  # choices of a space that is looked at as a whole
CURIOUS = 2.5  # how far over the budget an estimated loss may be, and the plan still be tried
Advance = Callable[[str], None]


@dataclass
class _State:
    """A search under way."""

    lab: Laboratory
    limits: Limits
    tables: Tables
    factor: np.ndarray  # of each part's losses: measured over estimated
    best: Trial | None = None
    rounds: list[float] = field(default_factory=list)
    solution: Solution | None = None

    @property
    def max_drop(self) -> float:
        return self.limits.max_points

    def aim(self, slack: float = 1.0) -> Aim:
        """What the integer program is asked for; ``slack``: of the loss that the limit allows."""
        points = self.lab.points
        one = points.budget(1.0) / self.factor
        allowed = points.budget(self.max_drop) / self.factor * slack if math.isfinite(self.max_drop) else one * math.inf
        return Aim(
            self.limits.minimized, one, allowed, self.limits.max_cycles or math.inf, self.limits.max_bytes or math.inf
        )

    def keeps(self, trial: Trial) -> bool:
        """Whether a trial keeps every limit."""
        return trial.cost is not None and self.affordable(trial.cost) and trial.estimate.points <= self.max_drop

    def affordable(self, cost: PlanCost) -> bool:
        """Whether a cost is within the limits."""
        limits = self.limits
        return cost.cycles <= (limits.max_cycles or math.inf) and cost.bytes <= (limits.max_bytes or math.inf)

    def rank(self, trial: Trial) -> tuple[float, ...]:
        """Of two trials the one of lower rank is better."""
        assert trial.cost is not None
        cost, points = trial.cost, trial.estimate.points
        by = {"cycles": (cost.cycles, points, cost.bytes), "bytes": (cost.bytes, points, cost.cycles)}
        return by.get(self.limits.minimized, (points, cost.cycles, cost.bytes))

    def take(self, choice: Choice) -> Trial:
        """Tries a choice, and keeps it where it is the best."""
        trial = self.lab.trial(choice)
        if self.keeps(trial) and (self.best is None or self.rank(trial) < self.rank(self.best)):
            self.best = trial
        return trial


def search(
    model: Model, calibration: Calibration, limits: Limits, make: Make, plain: Make, price: Price, advance: Advance
) -> QuantizedModel:
    """The network at the bits that are best within the limits, with `Chosen` beside it.

    ``make`` quantizes with the passes, ``plain`` without; ``price`` compiles and simulates. ``advance`` hears what is done.
    Raises UserError where no plan keeps the limits; it names the nearest one.
    """
    advance("prices of the nine uniform plans")
    lab = Laboratory(model, calibration, make, plain, price)
    if not lab.space.layers and not lab.space.groups:
        return make(UNIFORM[4])
    _ = lab.prices
    advance("sensitivities")
    state = _State(lab, limits, lab.tables(), np.ones(len(lab.parts)))
    state.tables = _weighed(state, advance)
    _rounds(state, advance)
    _try_uniform(state, advance)
    _polish(state, advance)
    if state.best is None:
        _extremes(state)
    if state.best is None:
        raise _none_keeps(state)
    return _finished(state)


def _extremes(state: _State) -> None:
    """Tries the cheapest plans and the best one, whatever the limits say of their other sides."""
    scale = state.aim().scale
    for minimize in ("cycles", "bytes", "drop"):
        extreme = solve(state.lab.space, state.tables, Aim(minimize, scale, scale * math.inf))
        if extreme is not None:
            state.take(extreme.choice)


def _weighed(state: _State, advance: Advance) -> Tables:
    """The tables with losses of 4 bits as the passes leave them: by the share of the measured loss of uniform plans."""
    lab, tables = state.lab, state.tables
    base = lab.trial(lab.space.uniform(UNIFORM[4]))  # W8A8
    weights, groups = dict(tables.weight_losses), dict(tables.group_losses)
    for widths, losses in ((UNIFORM[1], weights), (UNIFORM[3], groups)):  # W4A8, W8A4
        advance(f"uniform {widths}")
        trial = lab.trial(lab.space.uniform(widths))
        alone = sum(np.asarray(each) for (_, bits), each in losses.items() if bits == 4)
        got = np.array([max(a.value - b.value, 0.0) for a, b in zip(trial.estimate.losses, base.estimate.losses, strict=True)])
        share = np.clip(got / np.maximum(alone, 1e-30), 0.01, 3.0)
        for key in losses:
            if key[1] == 4:
                losses[key] = losses[key] * share
    eight = tables.losses(base.choice)
    measured = np.array([each.value for each in base.estimate.losses])
    share = np.clip(measured / np.maximum(eight, 1e-30), 0.1, 10.0)
    for losses in (weights, groups):
        for key in losses:
            if key[1] == 8:
                losses[key] = losses[key] * share
    return replace(tables, weight_losses=weights, group_losses=groups)


def _rounds(state: _State, advance: Advance) -> None:
    """Estimate, solve, plan, correct, until the estimate of the cost agrees and no budget is left."""
    lab = state.lab
    for number in range(ROUNDS):
        solution = solve(lab.space, state.tables, state.aim())
        if solution is None:
            solution = solve(lab.space, state.tables, replace(state.aim(), minimize="drop", budget=state.aim().scale * math.inf))
        if solution is None:
            return
        known = solution.choice in lab.trials
        advance(f"round {number + 1}")
        trial = state.take(solution.choice)
        state.solution = solution
        if trial.cost is not None:
            estimated = state.tables.bytes(trial.choice), state.tables.cycles(lab.space, trial.choice)
            actual = trial.cost.bytes, trial.cost.cycles
            state.rounds.append(max(abs(a - b) / max(b, 1) for a, b in zip(estimated, actual, strict=True)))
            state.tables = lab.corrected(state.tables, trial)
        _learn(state, trial)
        if known and number:
            return


def _learn(state: _State, trial: Trial) -> None:
    """Takes over how much more or less than estimated a trial loses."""
    estimated = state.tables.losses(trial.choice)
    measured = np.array([each.value for each in trial.estimate.losses])
    ratio = np.where(estimated > 0, measured / np.maximum(estimated, 1e-30), 1.0)
    state.factor = np.clip(ratio, 0.01, 100.0)


def _try_uniform(state: _State, advance: Advance) -> None:
    """Tries each uniform plan that may be better than the best so far."""
    lab = state.lab
    small = not plan_of(lab.model).compiled
    order = sorted(lab.prices, key=lambda widths: (lab.prices[widths].cycles, lab.prices[widths].bytes))
    for widths in order:
        cost, choice = lab.prices[widths], lab.space.uniform(widths)
        losses = state.tables.losses(choice) * (1.0 if small else state.factor)
        points = lab.points.estimate([replace(x, value=float(v)) for x, v in zip(_any_losses(lab), losses, strict=True)]).points
        if choice in lab.trials:
            state.take(choice)
        elif state.affordable(cost) and (small or _may_be_better(state, cost, points)):
            advance(f"uniform {widths}")
            state.take(choice)


def _any_losses(lab: Laboratory) -> tuple[object, ...]:
    return next(iter(lab.trials.values())).estimate.losses


def _may_be_better(state: _State, cost: PlanCost, points: float) -> bool:
    if state.best is None:
        return points <= CURIOUS * max(state.max_drop, 1.0)
    assert state.best.cost is not None
    if state.limits.minimized == "drop":
        return points <= CURIOUS * state.best.estimate.points
    own = {"cycles": (cost.cycles, state.best.cost.cycles), "bytes": (cost.bytes, state.best.cost.bytes)}
    mine, best = own[state.limits.minimized]
    return mine <= best and points <= CURIOUS * state.max_drop


def _polish(state: _State, advance: Advance) -> None:
    """Tries what the tables say is better than the best plan, and nearly keeps the limits, the most promising first."""
    lab = state.lab
    left = TRIALS_LARGE if plan_of(lab.model).compiled else TRIALS
    while left > 0:
        found = next((choice for choice in _promising(state) if choice not in lab.trials), None)
        if found is None:
            return
        left -= 1
        advance(f"trial {len(lab.trials)}")
        trial = state.take(found)
        state.tables = lab.corrected(state.tables, trial)


def _promising(state: _State) -> Iterator[Choice]:
    """Choices in the order of what they promise."""
    lab, tables, aim = state.lab, state.tables, state.aim()
    minimized = state.limits.minimized
    ranked: list[tuple[float, float, Choice]] = []
    for choice in _candidates(state):
        cycles, size = tables.cycles(lab.space, choice), tables.bytes(choice)
        if cycles > aim.max_cycles * (1 + AGREED) or size > aim.max_bytes * (1 + AGREED):
            continue
        loss = tables.losses(choice)
        over = float((loss / aim.budget).max()) if math.isfinite(state.max_drop) else 0.0
        worst = float((loss / aim.scale).max())
        if over > CURIOUS or not math.isfinite(cycles):
            continue
        objective = {"cycles": cycles, "bytes": size, "drop": worst}[minimized]
        if state.best is not None and not objective < _objective(state, state.best):
            continue
        ranked.append((objective, worst, choice))
    # A plan of twice the loss seldom keeps the limit: those that the estimate lets pass come first.
    ranked.sort(key=lambda each: each[:2])
    if minimized != "drop" and math.isfinite(state.max_drop):
        limit = float((aim.budget / aim.scale).max())
        ranked.sort(key=lambda each: max(0, math.ceil(4 * (each[1] / limit - 1))))
    yield from (choice for _, _, choice in ranked)


def _objective(state: _State, trial: Trial) -> float:
    assert trial.cost is not None
    if state.limits.minimized == "drop":
        losses = np.array([each.value for each in trial.estimate.losses])
        return float((losses / state.lab.points.budget(1.0)).max())
    return float(trial.cost.cycles if state.limits.minimized == "cycles" else trial.cost.bytes)


def _candidates(state: _State) -> Iterator[Choice]:
    """All choices of a small space; else those that differ from the best in one or two places."""
    space, tables = state.lab.space, state.tables
    weights = [[w for w in (4, 8, 16) if any((k, w, a) in tables.layer_cycles for a in (4, 8, 16))]
               for k, _ in enumerate(space.layers)]  # fmt: skip
    groups = [(4, 8, 16)] * len(space.groups)
    if math.prod(map(len, [*weights, *groups])) <= ENUMERATED:
        for each in itertools.product(*weights, *groups):
            yield Choice(each[: len(weights)], each[len(weights) :])
        return
    base = state.best.choice if state.best is not None else state.solution.choice if state.solution is not None else None
    if base is None:
        return
    moves: list[Callable[[Choice], Choice]] = []
    for k, widths in enumerate(weights):
        moves += [lambda c, k=k, b=b: c.with_weight(k, b) for b in widths if b != base.weights[k]]  # type: ignore[misc]
    for k, _ in enumerate(groups):
        moves += [lambda c, k=k, b=b: c.with_activation(k, b) for b in (4, 8, 16) if b != base.activations[k]]  # type: ignore[misc]
    for move in moves:
        yield move(base)
    if len(moves) <= 100:
        for first, second in itertools.combinations(moves, 2):
            yield second(first(base))


def _finished(state: _State) -> QuantizedModel:
    """The best network with what the report says of the search."""
    best, lab, limits = state.best, state.lab, state.limits
    assert best is not None and best.cost is not None
    bits = lab.space.bits(best.choice)
    plan = {layer.name: best.quantized.plan[layer.name] for layer in lab.space.layers if layer.name in best.quantized.plan}
    plan |= dict(bits) if isinstance(bits, dict) else {}
    solution = solve(lab.space, state.tables, state.aim())
    objective = _objective(state, best)
    bound = min(solution.bound, objective) if solution is not None else objective
    drop = lab.drop(best.estimate)
    chosen = Chosen(
        plan=plan, minimize=limits.minimized, limits=limits.given, drop=drop, cycles=best.cost.cycles,
        bytes=best.cost.bytes, mean_weight_bits=lab.space.mean_weight_bits(best.choice), rounds=tuple(state.rounds),
        bound=bound, gap=(objective - bound) / max(abs(objective), 1e-30), trials=len(lab.trials),
        sensitivity_samples=lab.sensitivities.samples, decisions=decisions(lab, state.tables, state.factor, best.choice),
        curve=curve(lab, state.tables, state.factor, state.aim()),
        plans=measured_plans(lab, state.tables, state.factor),
    )  # fmt: skip
    return replace(best.quantized, chosen=chosen, drop=drop, notes=(*best.quantized.notes, _note(chosen, described(lab.space, best.choice))))


def _note(chosen: Chosen, plan: str) -> str:
    drop = chosen.drop
    judged = f"on {drop.samples} held-out samples" if drop.held_out else (
        f"on the {drop.samples} samples that it was calibrated on: fewer than 16 runs' samples leave none to hold out"
    )  # fmt: skip
    return (
        f"--bits auto: {plan}; {chosen.mean_weight_bits:.2f} bits per weight, {chosen.cycles:,} cycles, {chosen.bytes:,} bytes, "
        f"estimated drop {drop.points:.2f} +- {drop.error:.2f} points {judged}; {chosen.trials} plans tried"
    )


def _none_keeps(state: _State) -> UserError:
    """The one line where no plan keeps the limits."""
    lab, limits = state.lab, state.limits

    def away(trial: Trial) -> float:
        assert trial.cost is not None
        ratios = [trial.estimate.points / max(state.max_drop, 1e-9)]
        ratios += [trial.cost.cycles / limits.max_cycles] if limits.max_cycles else []
        ratios += [trial.cost.bytes / limits.max_bytes] if limits.max_bytes else []
        return sum(max(0.0, each - 1) for each in ratios)

    tried = [each for each in lab.trials.values() if each.cost is not None]
    nearest = min(tried, key=away)
    assert nearest.cost is not None
    asked = ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in limits.given.items())
    together = "all of " if len(limits.given) > 1 else ""
    return UserError(
        f"--bits auto: no plan keeps {together}{asked}; the nearest, {described(lab.space, nearest.choice)}, takes "
        f"{nearest.cost.cycles:,} cycles and {nearest.cost.bytes:,} bytes and loses an estimated {nearest.estimate.points:.2f} "
        "points; raise a limit"
    )
