"""Which plans are worth measuring: gradient-boosted trees (xgboost) over the numbers of plans and functions.

MetaSchedule's own model reads features off a schedule's stores; within one rule a plan's numbers say the same, and no candidate
has to be scheduled to be ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from ..floating.rules import Plan

_ROUNDS = 60
_DEPTH = 4


@dataclass(frozen=True, eq=False)
class Measured:
    """A function's loops and what was measured for its plans, in seconds."""

    extents: Sequence[int]
    seconds: Mapping[Plan, float]


def ranked(known: Sequence[Measured], extents: Sequence[int], plans: Sequence[Plan]) -> list[Plan]:
    """The plans for a function with the loops ``extents``, the fastest by expectation first; ``known`` is learnt from."""
    import xgboost

    rows, targets = [], []
    for each in known:
        best = min(each.seconds.values(), default=0.0)
        for plan, seconds in each.seconds.items():
            rows.append(_features(each.extents, plan))
            targets.append(np.log(seconds / best))
    data = xgboost.DMatrix(np.array(rows), np.array(targets))
    parameters = {"max_depth": _DEPTH, "eta": 0.2, "nthread": 1, "seed": 0, "objective": "reg:squarederror"}
    booster = xgboost.train(parameters, data, num_boost_round=_ROUNDS)
    slower = booster.predict(xgboost.DMatrix(np.array([_features(extents, plan) for plan in plans])))
    return [plan for _, plan in sorted(zip(slower, plans, strict=True), key=lambda pair: pair[0])]


def _features(extents: Sequence[int], plan: Plan) -> list[float]:
    numbers = [float(value) for value in astuple(plan)]
    own = [float(type(plan).__name__ == "TilePlan"), *numbers, *[0.0] * (4 - len(numbers))]
    return own + [float(size) for size in extents[:8]] + [0.0] * (8 - len(extents))
