"""Bits by search: estimate, solve, plan, correct; and the uniform plans where they are better.

Each trial is a plan quantized with all passes, compiled, simulated and run on the held-out samples. The tables then say of it what
was measured: layers cost what they cost in it, and the widths in which it differs from the plan that the estimates start from lose
what it lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from ...dialect.chosen import Chosen
from ...dialect.plan_cost import PlanCost
from ...dialect.quantized import QuantizedModel
from ...emulate.compiled import WORTH_MACS
from ...emulate.steps import plan_of
from ...errors import UserError
from ...options import BitWidths, Limits
from ..calibrate.calibration import FEWEST_TO_HOLD_OUT
from ..calibrate.runs import runs_of
from .explain import curve, decisions, described, measured_plans
from .laboratory import Laboratory, Trial
from .paid import CLOSER, CLOSER_SMALL, most_paid, within_bytes
from .program import Aim, Solution, solve
from .space import Choice
from .tables import Doubt, Tables, anchored, calmer, doubted, learnt, next_caution, times_off

ROUNDS = 5
# Plans that are tried of networks of fewer multiply-adds for a sample, rounds among them; of larger ones ROUNDS.
TRIALS = {2_000_000: 24, WORTH_MACS: 10}
MACS_OF_STEP = 10_000  # whose time a trial takes for each step; recurrent networks have hundreds
CURIOUS_UNIFORM, CURIOUS_COST = 2.0, 1.03  # by how much tables may be wrong in a uniform plan's drop and cost
W8A8, W4A8, W8A4 = BitWidths(8, 8), BitWidths(4, 8), BitWidths(8, 4)
Advance = Callable[[str], object]


SURE = Doubt(1.0, 1.0)
WORTH = Doubt(0.998, 0.998)  # a trial of a large network: it must promise a five-hundredth
# Of small networks, one after the other. What runs beside what is in no table, so that costs may be further off: the last doubt is
# for the least drop, where the plans that keep a limit by the tables lose ever more.
DOUBTS = {"cycles": (SURE, Doubt(3.0, 1.03)), "bytes": (SURE, Doubt(3.0, 1.03)),
          "drop": (SURE, Doubt(3.0, 1.03), Doubt(3.0, 1.15))}  # fmt: skip


@dataclass
class State:
    """A search under way. ``anchor``: the trial that estimates start from; ``paid``: trials that a limit on bytes asked to pay for
    bits; ``rounds``: how far costs were off, relatively."""

    lab: Laboratory
    limits: Limits
    tables: Tables
    anchor: Trial
    best: Trial | None = None
    paid: list[Trial] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)

    def aim(self) -> Aim:
        """What the integer program is asked for: the best plan, or one that was not tried."""
        points, most = self.lab.points, self.limits.max_points
        one = points.budget(1.0)
        allowed = points.budget(most) if math.isfinite(most) else one * math.inf
        own = None if self.best is None else self.best.choice
        tried = tuple(choice for choice in self.lab.trials if choice != own)
        limits = self.limits
        return Aim(
            limits.minimized, one, allowed, limits.max_cycles or math.inf, limits.max_bytes or math.inf, tried
        )  # fmt: skip

    def doubtful_aim(self, doubt: Doubt) -> Aim:
        """The same for what may do if the tables are so wrong: a choice that was never tried, unless they are sure."""
        aim = self.aim()
        return replace(
            aim, budget=aim.budget * doubt.loss, max_cycles=aim.max_cycles * doubt.cost, max_bytes=aim.max_bytes * doubt.cost,
            forbidden=aim.forbidden if doubt == SURE else tuple(self.lab.trials),
        )  # fmt: skip

    def is_beaten(self, solution: Solution, doubt: Doubt) -> bool:
        """Whether the best plan is at least as good as what a solution promises, even if the tables are so wrong."""
        times = doubt.loss if self.limits.minimized == "drop" else doubt.cost
        return self.best is not None and solution.bound >= self.objective(self.best) * times

    def keeps(self, trial: Trial) -> bool:
        """Whether a trial keeps every limit."""
        within = trial.cost is not None and self.affordable(trial.cost)
        return within and trial.estimate.points <= self.limits.max_points

    def used(self, trial: Trial) -> float:
        """How much of what a plan may lose a trial loses, as a share."""
        return trial.estimate.points / self.limits.max_points

    def affordable(self, cost: PlanCost, times: float = 1.0) -> bool:
        """Whether a cost is within so many times the limits."""
        limits = (self.limits.max_cycles, self.limits.max_bytes)
        return all(
            own <= (most or math.inf) * times for own, most in zip((cost.cycles, cost.bytes), limits, strict=True)
        )

    def rank(self, trial: Trial) -> tuple[float, ...]:
        """Of two trials the one of lower rank is better."""
        assert trial.cost is not None
        cost, points = trial.cost, trial.estimate.points
        by = {"cycles": (cost.cycles, points, cost.bytes), "bytes": (cost.bytes, points, cost.cycles)}
        return by.get(self.limits.minimized, (self.objective(trial), cost.cycles, cost.bytes))

    def over(self, losses: np.ndarray) -> float:
        """The worst part's loss over that of one point."""
        return float((losses / self.lab.points.budget(1.0)).max())

    def objective(self, trial: Trial) -> float:
        """What is minimized; of the drop the worst part's loss over that of one point."""
        assert trial.cost is not None
        if self.limits.minimized == "drop":
            return self.over(_lost(trial))
        return float(trial.cost.cycles if self.limits.minimized == "cycles" else trial.cost.bytes)

    def take(self, choice: Choice) -> Trial:
        """Tries a choice, learns from it, and keeps it where it is the best."""
        new = choice not in self.lab.trials
        trial = self.lab.trial(choice)
        if new:
            self.tables = learnt(self.lab.corrected(self.tables, trial), self.anchor, trial)
        if self.improves(trial):
            self.best = trial
            self.anchor = trial
        return trial

    def improves(self, trial: Trial) -> bool:
        """Whether a trial keeps every limit and is better than the best."""
        return self.keeps(trial) and (self.best is None or self.rank(trial) < self.rank(self.best))

    def solve(self, aim: Aim, caution: float = 1.0) -> Solution | None:
        """The integer program's choice, by the tables as they are; ``caution``: as `doubted` takes it."""
        return solve(self.lab.space, anchored(doubted(self.tables, self.anchor, caution), self.anchor), aim)


def search(lab: Laboratory, limits: Limits, advance: Advance) -> QuantizedModel:
    """The network at the bits that are best within the limits, with `Chosen` beside it; ``advance`` hears what is done.

    Raises UserError where no plan keeps the limits; it names the nearest one.
    """
    advance("the nine uniform plans")
    if not lab.space.layers and not lab.space.groups:
        only = lab.make(W8A8)
        note = f"--bits auto: there are no bits to choose; {limits.moot or 'every layer stays on the CPU'}"
        return replace(only, notes=(note, *only.notes))
    _ = lab.prices
    advance("sensitivities")
    tables = lab.tables()
    advance("W8A8")
    base = lab.trial(lab.space.uniform(W8A8))
    state = State(lab, limits, tables, base)
    for known in list(lab.trials):
        state.take(known)
    # What rounding makes of 4-bit weights is not to be had without trying; of 4-bit activations it makes little.
    for widths in (W4A8,) if plan_of(lab.model).compiled else (W4A8, W8A4):
        advance(str(widths))
        state.take(lab.space.uniform(widths))
    _rounds(state, advance)
    _try_uniform(state, advance)
    _pay_for_bits(state, advance)
    _from_fewest_bytes(state, advance)
    if state.best is None:
        _extremes(state, advance)
    if state.best is None:
        raise _none_keeps(state)
    return _finished(state)


def _rounds(state: State, advance: Advance) -> None:
    """Estimate, solve, plan, correct, until the best plan is the one that the integer program finds, or trials run out.

    Then, of a small network, plans that may be better if the tables are a little wrong.
    """
    lab = state.lab
    own = plan_of(lab.model)
    large = own.compiled
    small = (n for most, n in TRIALS.items() if own.macs < most and MACS_OF_STEP * len(own.steps) < most)
    left = next(small, ROUNDS)
    caution = 1.0
    for doubt in (SURE,) if large else DOUBTS[state.limits.minimized]:
        while left > 0:
            solution = state.solve(state.doubtful_aim(doubt), caution)
            if solution is None and state.best is None and caution == 1:
                free = state.aim()
                solution = state.solve(replace(free, minimize="drop", budget=free.scale * math.inf))
            if (
                solution is None
                or solution.choice in lab.trials
                or state.is_beaten(solution, WORTH if large else doubt)
            ):
                if caution == 1:
                    break
                caution = calmer(caution)
                continue
            left -= 1
            advance(f"plan {len(lab.trials) + 1}")
            estimated = state.tables.bytes(solution.choice), state.tables.cycles(lab.space, solution.choice)
            before = state.tables, state.anchor
            trial = state.take(solution.choice)
            if large:
                worst = int((_lost(trial) / lab.points.budget(1.0)).argmax())
                caution = next_caution(caution, float(times_off(*before, trial)[worst]))
            if trial.cost is not None and len(state.rounds) < ROUNDS:
                actual = trial.cost.bytes, trial.cost.cycles
                state.rounds.append(max(abs(a - b) / max(b, 1) for a, b in zip(estimated, actual, strict=True)))


def _lost(trial: Trial) -> np.ndarray:
    return np.array([each.value for each in trial.estimate.losses])


def _try_uniform(state: State, advance: Advance) -> None:
    """Tries each uniform plan that may be better than the best so far."""
    lab = state.lab
    for widths in sorted(lab.prices, key=lambda each: (lab.prices[each].cycles, lab.prices[each].bytes)):
        choice, cost = lab.space.uniform(widths), lab.prices[widths]
        losses = anchored(state.tables, state.anchor).losses(choice)
        over = (
            float((losses / lab.points.budget(state.limits.max_points)).max()) if state.limits.max_drop_holds else 0.0
        )
        if choice in lab.trials or not state.affordable(cost, CURIOUS_COST) or over > CURIOUS_UNIFORM**2:
            continue
        if state.best is not None:
            promised = {"cycles": float(cost.cycles), "bytes": float(cost.bytes)}.get(
                state.limits.minimized, float((losses / lab.points.budget(1.0)).max()) / CURIOUS_UNIFORM
            )
            if promised >= state.objective(state.best):
                continue
        advance(str(widths))
        state.take(choice)


def _pay_for_bits(state: State, advance: Advance) -> None:
    """Rounding that pays for bits: as far as the limit on bytes asks, then in the best plan as far as limits allow.

    The limit is asked of 8 bits everywhere, and of the shortest plan whose drop is within its limit. Where cycles are minimized
    only the layers pay that wait for their weights; where the drop is, none.
    """
    lab, limits = state.lab, state.limits
    if limits.max_bytes is not None:
        fine = [x for x in lab.trials.values() if x.cost is not None and x.estimate.points <= limits.max_points]
        short = min(fine, key=lambda each: each.cost.bytes if each.cost is not None else 0, default=None)
        for base in dict.fromkeys((lab.trial(lab.space.uniform(W8A8)), short)):
            if base is not None and base.cost is not None and base.cost.bytes > limits.max_bytes:
                advance(f"{described(lab.space, base.choice)}, paying for bits")
                paid = within_bytes(lab, lab.space.bits(base.choice), limits.max_bytes)
                trial = Trial(base.choice, paid.quantized, paid.cost, lab.judge(paid.quantized), paid.rate)
                state.paid.append(trial)
                if state.improves(trial):
                    state.best = trial
    best = state.best
    if best is None or best.cost is None or limits.minimized == "drop":
        return
    large = plan_of(lab.model).compiled
    closer, shortest = CLOSER if large else CLOSER_SMALL, best
    paying = lab.waiting(best.cost) if limits.minimized == "cycles" else None
    if paying is None or paying:
        for choice in _paying_plans(state, best):
            if shortest is not best and large:
                break  # trials of a large network are spared

            def tried(rate: float, choice: Choice = choice) -> Trial:
                advance(f"a bit at {rate:.1g}")
                return lab.paid_trial(choice, rate, paying)

            most = most_paid(lab, tried, state.keeps, state.objective, state.used, closer)
            if most is not None and state.objective(most) < state.objective(shortest):
                state.best = shortest = most


def _paying_plans(state: State, best: Trial) -> Iterable[Choice]:
    """The plans of which rounding may pay for bits: the best, and for the fewest bytes first the one that loses least.

    Few bits and rounding that pays are two ways to the same bytes. The second takes from each weight what it is worth, and leaves
    activations and cycles alone: EfficientNet-Lite0 at 8 bits, paying, has 3.0 MB at 3.0 points, without it 3.1 MB at 3.8.
    """
    if state.limits.minimized != "bytes":
        return (best.choice,)
    kept = [each for each in state.lab.trials.values() if state.keeps(each)]
    safest = min(kept, key=lambda each: each.estimate.points, default=best)
    return dict.fromkeys((safest.choice, best.choice))


def _from_fewest_bytes(state: State, advance: Advance) -> None:
    """Under a limit on bytes also the plan that a search for the fewest bytes finds: near the edge there is hardly another.

    Of a large network only where nothing else keeps the limits.
    """
    lab, limits = state.lab, state.limits
    large = plan_of(lab.model).compiled
    if limits.max_bytes is None or not limits.max_drop_holds or large and state.best is not None:
        return
    fewest = replace(limits, minimize="bytes", max_drop=limits.max_points, max_bytes=None)
    other = State(lab, fewest, lab.tables(), lab.trial(lab.space.uniform(W8A8)))
    for known in list(lab.trials):
        other.take(known)
    _rounds(other, advance)
    _try_uniform(other, advance)
    _pay_for_bits(other, advance)
    if other.best is not None and state.improves(other.best):
        state.best = other.best


def _extremes(state: State, advance: Advance) -> None:
    """Tries the cheapest plans and the best one, whatever the limits say of their other sides."""
    scale = state.aim().scale
    for minimize in ("cycles", "bytes", "drop"):
        extreme = state.solve(Aim(minimize, scale, scale * math.inf))
        if extreme is not None:
            advance(f"least {minimize}")
            state.take(extreme.choice)


def _finished(state: State) -> QuantizedModel:
    """The best network with what the report says of the search."""
    best, lab, limits = state.best, state.lab, state.limits
    assert best is not None and best.cost is not None
    tables = anchored(state.tables, state.anchor)
    solution = state.solve(state.aim())
    objective = state.objective(best)
    bound, gap = (solution.bound, solution.gap) if solution is not None else (objective, 0.0)
    drop = lab.drop(best.estimate)
    chosen = Chosen(
        plan=lab.space.plan(best.choice), minimize=limits.minimized, limits=limits.given, drop=drop, cycles=best.cost.cycles,
        bytes=best.cost.bytes, mean_weight_bits=lab.space.mean_weight_bits(best.choice),
        mean_stream_bits=lab.space.mean_stream_bits(best.cost), rounds=tuple(state.rounds),
        objective=objective, bound=min(bound, objective), gap=gap, trials=len(lab.trials),
        sensitivity_samples=runs_of(lab.model, lab.sensitivities.samples), decisions=decisions(lab, tables, best.choice),
        curve=curve(lab, tables, state.aim()), plans=measured_plans(lab, tables, best), rate=best.rate,
    )  # fmt: skip
    note = _note(chosen, described(lab.space, best.choice))
    moot = limits.moot if not best.cost.cycles else ""
    return replace(best.quantized, chosen=chosen, drop=drop, notes=(note, *[moot] * bool(moot), *best.quantized.notes))


def _note(chosen: Chosen, plan: str) -> str:
    drop = chosen.drop
    judged = f"on {drop.samples} held-out samples" if drop.held_out else (
        f"on the {drop.samples} samples that calibrated it: of fewer than {FEWEST_TO_HOLD_OUT} none are held out"
    )  # fmt: skip
    again = " (again with this plan and --max-bytes)" if chosen.rate else ""
    weighted = f"{chosen.mean_weight_bits:.2f} bits a weight, {chosen.mean_stream_bits:.2f} in its stream, "
    return (
        f"--bits auto: {plan}{_paid(chosen.rate)}{again}; {weighted if chosen.mean_weight_bits else ''}"
        f"{chosen.cycles:,} cycles, {chosen.bytes:,} bytes, estimated drop {drop.points:.2f} +- {drop.error:.2f} points "
        f"{judged}; {chosen.trials} plans tried"
    )


def _paid(rate: float) -> str:
    return f", {rate:.2g} paid for a bit" if rate else ""


def _none_keeps(state: State) -> UserError:
    """The one line where no plan keeps the limits."""
    lab, limits = state.lab, state.limits

    def away(trial: Trial) -> float:
        assert trial.cost is not None
        ratios = [trial.estimate.points / limits.max_points]
        ratios += [trial.cost.cycles / limits.max_cycles] if limits.max_cycles else []
        ratios += [trial.cost.bytes / limits.max_bytes] if limits.max_bytes else []
        return sum(max(0.0, each - 1) for each in ratios)

    asked = " and ".join(f"--{name.replace('_', '-')} {value:.12g}" for name, value in limits.given.items())
    tried = (*lab.trials.values(), *state.paid)
    nearest = min((each for each in tried if each.cost is not None), key=away, default=None)
    if nearest is None:
        widths = min(lab.prices, key=lambda each: lab.prices[each].cycles)
        return UserError(
            f"--bits auto: the accelerator takes none of the {len(lab.trials)} plans that were tried for {asked}; it takes "
            f"--bits {widths}"
        )
    assert nearest.cost is not None
    points = nearest.estimate.points
    return UserError(
        f"--bits auto: no plan keeps {asked}; the nearest, {described(lab.space, nearest.choice)}{_paid(nearest.rate)}, takes "
        f"{nearest.cost.cycles:,} cycles and {nearest.cost.bytes:,} bytes and loses an estimated "
        f"{f'{points:.2g}' if points < 0.1 else f'{points:.2f}'} points; use a higher limit"
    )
