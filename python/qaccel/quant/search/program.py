"""The integer program: of all choices within the limits the one of least objective, by tables of what each width costs.

Variables are 0 or 1: one for each pair of widths of a layer, one for each width of a group. A layer has one pair, whose second
width is that of the group it reads. Solved by HiGHS through SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from ...options import WIDTHS
from .space import Choice, Space
from .tables import Tables

GAP = 1e-4  # relative, of the solution to its bound
TIME_LIMIT_S = 60.0
_TIE = 1e-6  # weight of what decides between equal objectives


@dataclass(frozen=True)
class Aim:
    """What is to be least, and the limits: ``budget`` of each part's loss, cycles and bytes; infinite where there is none.

    ``scale``: the loss of each part that is one point; a drop to be least is that of the worst part in these.
    """

    minimize: str
    scale: np.ndarray
    budget: np.ndarray
    max_cycles: float = math.inf
    max_bytes: float = math.inf
    forbidden: tuple[Choice, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Solution:
    """``bound``: least objective that any choice can have; ``gap``: relative, of the solution to it."""

    choice: Choice
    objective: float
    bound: float
    gap: float


def solve(space: Space, tables: Tables, aim: Aim) -> Solution | None:
    """The choice of least objective; None where none keeps the limits."""
    pairs = sorted(tables.layer_cycles)
    groups = [(k, bits) for k in range(len(space.groups)) for bits in WIDTHS]
    column = {key: n for n, key in enumerate([*pairs, *groups])}
    count = len(column) + 1  # the last is the worst part's loss, in points
    rows: list[np.ndarray] = []
    low: list[float] = []
    high: list[float] = []

    def constrain(entries: Mapping[int, float], lo: float, hi: float) -> None:
        row = np.zeros(count)
        for at, value in entries.items():
            row[at] += value
        rows.append(row)
        low.append(lo)
        high.append(hi)

    for k in range(len(space.groups)):
        constrain({column[k, bits]: 1.0 for bits in WIDTHS}, 1, 1)
    for k, layer in enumerate(space.layers):
        for a in WIDTHS:
            mine = {column[key]: 1.0 for key in pairs if key[0] == k and key[2] == a}
            constrain({**mine, column[layer.group, a]: -1.0}, 0, 0)
    cycles, size = np.zeros(count), np.zeros(count)
    losses = np.zeros((len(aim.scale), count))
    for key in pairs:
        cycles[column[key]] = tables.layer_cycles[key]
        size[column[key]] = tables.layer_bytes[key[:2]]
        losses[:, column[key]] = tables.weight_losses[key[:2]]
    for each in groups:
        cycles[column[each]] = tables.group_cycles.get(each, 0.0)
        losses[:, column[each]] = tables.group_losses[each]
    losses /= aim.scale[:, None]
    for loss, most, rest in zip(losses, aim.budget / aim.scale, tables.rest_losses / aim.scale, strict=True):
        worst = loss.copy()
        worst[-1] = -1.0
        constrain(dict(enumerate(worst)), -math.inf, -rest)
        if math.isfinite(most):
            constrain(dict(enumerate(loss)), -math.inf, most - rest)
    for entries, rest, most in ((cycles, tables.rest_cycles, aim.max_cycles), (size, tables.rest_bytes, aim.max_bytes)):
        if math.isfinite(most):
            constrain(dict(enumerate(entries / max(most, 1.0))), -math.inf, (most - rest) / max(most, 1.0))
    for choice in aim.forbidden:
        chosen = {column[each]: 1.0 for each in enumerate(choice.activations)}
        for k, w in enumerate(choice.weights):
            at = column.get((k, w, choice.activations[space.layers[k].group]))
            if at is not None:
                chosen[at] = 1.0
        constrain(chosen, -math.inf, len(chosen) - 1)
    worst_part = np.zeros(count)
    worst_part[-1] = 1.0
    parts = {"cycles": cycles, "bytes": size, "drop": worst_part}
    norms = {name: max(float(np.abs(each).max()), 1e-30) for name, each in parts.items()}
    objective = parts[aim.minimize] / norms[aim.minimize]
    for name, each in parts.items():
        if name != aim.minimize:
            objective = objective + _TIE * each / (norms[name] if name != "drop" else 1e3)
    integrality = np.ones(count)
    integrality[-1] = 0
    upper = np.ones(count)
    upper[-1] = math.inf
    matrix = sparse.csr_matrix(np.array(rows))
    found = milp(
        objective, constraints=LinearConstraint(matrix, low, high), integrality=integrality, bounds=Bounds(0, upper),
        options={"mip_rel_gap": GAP, "time_limit": TIME_LIMIT_S},
    )  # fmt: skip
    if found.x is None:
        return None
    weights = {key[0]: key[1] for key in pairs if found.x[column[key]] > 0.5}
    activations = {k: bits for k, bits in groups if found.x[column[k, bits]] > 0.5}
    choice = Choice(tuple(weights[k] for k in range(len(space.layers))), tuple(activations[k] for k in range(len(activations))))
    rest = {"cycles": tables.rest_cycles, "bytes": tables.rest_bytes, "drop": 0.0}[aim.minimize]
    value = rest + float(parts[aim.minimize] @ found.x)
    bound = rest + float(found.mip_dual_bound) * norms[aim.minimize]
    return Solution(choice, value, bound, float(found.mip_gap))
