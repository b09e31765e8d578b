"""What the report says of a search: why each width, the Pareto curve, the plans that were measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np

from ...dialect.chosen import CurvePoint, Decision, Width
from ...options import WIDTHS
from .laboratory import Laboratory
from .losses import Loss
from .program import Aim, solve
from .space import Choice, Space
from .tables import Tables, Trial

CURVE_POINTS = 12


def described(space: Space, choice: Choice) -> str:
    """A plan in a few words: how many layers have which bits; without layers, how many groups of tensors."""
    if not space.layers:
        widths = Counter(choice.activations)
        return ", ".join(
            f"A{a} in {count} of {len(space.groups)} groups of tensors" for a, count in sorted(widths.items())
        )
    pairs = Counter(
        (weight, choice.activations[layer.group]) for layer, weight in zip(space.layers, choice.weights, strict=True)
    )
    return ", ".join(f"W{w}A{a} in {count} of {len(space.layers)} layers" for (w, a), count in sorted(pairs.items()))


def estimated_points(lab: Laboratory, tables: Tables, choice: Choice) -> float:
    """Points that a choice is estimated to lose, by the tables."""
    losses = tables.losses(choice)
    return lab.points.estimate([Loss(float(value), 0.0) for value in losses]).points


def decisions(lab: Laboratory, tables: Tables, choice: Choice) -> tuple[Decision, ...]:
    """Each choice, with what the other widths would cost and lose, all else as it is."""
    space, made = lab.space, []
    for k, layer in enumerate(space.layers):
        others = {
            bits: choice.with_weight(k, bits)
            for bits in layer.widths
            if (k, bits, choice.activations[layer.group]) in tables.layer_cycles
        }
        made.append(_decision(lab, tables, layer.name, "weights", (), choice.weights[k], others))
    for k, group in enumerate(space.groups):
        others = {bits: choice.with_activation(k, bits) for bits in WIDTHS}
        name = group.tensors[0] if group.tensors else next(x.name for x in space.layers if x.group == k)
        made.append(_decision(lab, tables, name, "activations", group.tensors, choice.activations[k], others))
    return tuple(made)


def _decision(
    lab: Laboratory, tables: Tables, name: str, what: str, tensors: tuple[str, ...], bits: int,
    others: dict[int, Choice],
) -> Decision:  # fmt: skip
    widths = tuple(
        Width(b, estimated_points(lab, tables, c), cycles, tables.bytes(c))
        for b, c in others.items()
        if math.isfinite(cycles := tables.cycles(lab.space, c))
    )
    own = next((each for each in widths if each.bits == bits), None)
    return Decision(name, what, tensors, bits, widths, "" if own is None else _why(own, widths))


def _why(own: Width, widths: tuple[Width, ...]) -> str:
    """A sentence: what the next fewer and the next more bits would cost, and what they would lose."""
    fewer = [each for each in widths if each.bits < own.bits]
    more = [each for each in widths if each.bits > own.bits]
    said = [_beside(own, each) for each in ([max(fewer, key=lambda x: x.bits)] if fewer else [])]
    said += [_beside(own, each) for each in ([min(more, key=lambda x: x.bits)] if more else [])]
    return f"{own.bits} bits: {'; '.join(said) or 'there is no other width'}"


def _beside(own: Width, other: Width) -> str:
    return (
        f"{other.bits} would take {other.cycles - own.cycles:+,.0f} cycles, {other.bytes - own.bytes:+,.0f} bytes, "
        f"{other.points - own.points:+.2g} points"
    )


def curve(lab: Laboratory, tables: Tables, aim: Aim) -> tuple[CurvePoint, ...]:
    """The Pareto curve by the tables: the cheapest plan for each of CURVE_POINTS budgets of loss."""
    cost = "cycles" if aim.minimize == "drop" and math.isfinite(aim.max_cycles) else aim.minimize
    cost = "bytes" if cost == "drop" else cost
    found: dict[Choice, CurvePoint] = {}
    for points in _steps(lab, tables):
        budget = lab.points.budget(points)
        solution = solve(lab.space, tables, Aim(cost, aim.scale, budget))
        if solution is not None:
            choice = solution.choice
            found[choice] = CurvePoint(
                described(lab.space, choice), tables.cycles(lab.space, choice), tables.bytes(choice),
                estimated_points(lab, tables, choice), False,
            )  # fmt: skip
    return tuple(sorted(found.values(), key=lambda each: each.points))


def _steps(lab: Laboratory, tables: Tables) -> Iterator[float]:
    """Points from just above what the widest plan loses to what the narrowest does."""
    ends = []
    for bits in (16, 4):
        weights = tuple(bits if bits in each.widths else each.widths[0] for each in lab.space.layers)
        ends.append(estimated_points(lab, tables, Choice(weights, (bits,) * len(lab.space.groups))))
    low, high = max(ends[0] * 1.05, 1e-3), max(ends[1] * 1.01, 2e-3)
    yield from map(float, np.geomspace(low, max(high, low * 2), CURVE_POINTS))


def measured_plans(lab: Laboratory, tables: Tables, best: Trial) -> tuple[CurvePoint, ...]:
    """Every plan that was tried, and the uniform ones, which are at least priced; the best one also as it paid for bits."""
    found = {}
    for widths, cost in lab.prices.items():
        choice = lab.space.uniform(widths)
        found[choice] = CurvePoint(str(widths), cost.cycles, cost.bytes, estimated_points(lab, tables, choice), False)
    for choice, trial in lab.trials.items():
        if trial.cost is not None:
            name = found[choice].name if choice in found else described(lab.space, choice)
            cost, points = trial.cost, trial.estimate.points
            found[choice] = CurvePoint(name, cost.cycles, cost.bytes, points, True, trial is best)
    every = [*found.values()]
    if best.rate and best.cost is not None:
        name = f"{described(lab.space, best.choice)}, a bit at {best.rate:.2g}"
        every.append(CurvePoint(name, best.cost.cycles, best.cost.bytes, best.estimate.points, True, True))
    return tuple(sorted(every, key=lambda each: (each.points, each.cycles)))
