"""Ranks plans that were not measured yet by how fast they are expected to be, with gradient-boosted trees (xgboost).

The features are the numbers in a plan and the sizes of the function's loops. MetaSchedule's own model takes features from the
scheduled code. Schedules of one kind differ only in the numbers of their plans, so that these say as much, and a candidate can
be ranked before it is scheduled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import get_args

import numpy as np

from ..floating.choose import SchedulePlan
from ..integer.depthwise import RowsPlan
from ..integer.plan import ConvPlan

Plan = SchedulePlan | ConvPlan | RowsPlan
_KINDS = get_args(Plan)
_TREES = 60
_TREE_DEPTH = 4


@dataclass(frozen=True, eq=False)
class Measured:
    """A function: the sizes of its main block's loops, and the seconds that were measured for its plans."""

    extents: Sequence[int]
    seconds: Mapping[Plan, float]


def ranked(known: Sequence[Measured], extents: Sequence[int], plans: Sequence[Plan]) -> list[Plan]:
    """Sorts plans for a function by expected time, the fastest first.

    ``known``: the measurements to learn from, of this and other functions. ``extents``: the sizes of the function's loops.
    """
    import xgboost

    rows, targets = [], []
    for each in known:
        best = min(each.seconds.values(), default=0.0)
        for plan, seconds in each.seconds.items():
            rows.append(_features(each.extents, plan))
            targets.append(np.log(seconds / best))
    data = xgboost.DMatrix(np.array(rows), np.array(targets))
    parameters = {"max_depth": _TREE_DEPTH, "eta": 0.2, "nthread": 1, "seed": 0, "objective": "reg:squarederror"}
    booster = xgboost.train(parameters, data, num_boost_round=_TREES)
    slower = booster.predict(xgboost.DMatrix(np.array([_features(extents, plan) for plan in plans])))
    return [plan for _, plan in sorted(zip(slower, plans, strict=True), key=lambda pair: pair[0])]


def _features(extents: Sequence[int], plan: Plan) -> list[float]:
    numbers = [float(value) for value in astuple(plan)]
    own = [*(float(isinstance(plan, kind)) for kind in _KINDS), *numbers, *[0.0] * (4 - len(numbers))]
    return own + [float(size) for size in extents[:8]] + [0.0] * (8 - len(extents))
