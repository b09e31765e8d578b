"""The integer program: of all choices within the limits the one of least objective, by tables of what each width costs.

Variables are 0 or 1: one for each pair of widths of a layer, one for each width of a group. A layer has one pair, whose second
width is that of the group it reads. Solved by HiGHS through SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from ...errors import CompilerFault
from ...options import WIDTHS
from .space import Choice, Space
from .tables import Tables

GAP = 1e-4  # relative, of the solution to its bound
TIME_LIMIT_S = 60.0
_INFEASIBLE = 2  # SciPy's status of a program that has no solution
_TIE = 1e-6  # weight of what decides between equal objectives
_SMALL_DROP = 0.1  # points
_MOST_POINTS = 1e9  # that a width loses: more is as bad, and too much for the solver
_TIE_POINTS = 1e3  # that weigh as much as the dearest width's cycles do


@dataclass(frozen=True)
class Aim:
    """What is to be least, and the limits: ``budget`` of each part's loss, cycles and bytes; infinite where there is none.

    ``scale``: the loss of each part that is one point; a drop to be least is that of the worst part in these.
    ``forbidden``: choices that are known not to do.
    """

    minimize: str
    scale: np.ndarray
    budget: np.ndarray
    max_cycles: float = math.inf
    max_bytes: float = math.inf
    forbidden: tuple[Choice, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Solution:
    """``bound``: least objective that any choice can have by the tables; ``gap``: relative, between the two."""

    choice: Choice
    objective: float
    bound: float
    gap: float


def solve(space: Space, tables: Tables, aim: Aim) -> Solution | None:
    """The choice of least objective; None where none keeps the limits.

    A small drop is looked for again, counted in drops of its own size: beside 1, what the solver takes for nothing and what decides
    between equals would outweigh it.
    """
    found = _solved(space, tables, aim)
    if aim.minimize != "drop" or found is None:
        return found
    points = float((tables.losses(found.choice) / aim.scale).max())
    if points <= 0:  # no drop is less than none
        return replace(found, gap=0.0)
    if points >= _SMALL_DROP:
        return found
    finer = _solved(space, tables, replace(aim, scale=aim.scale * points))
    return finer and replace(finer, objective=finer.objective * points, bound=finer.bound * points)


def _solved(space: Space, tables: Tables, aim: Aim) -> Solution | None:
    program = _Program(space, tables, aim)
    program.keep_together()
    program.keep_limits()
    for choice in aim.forbidden:
        program.forbid(choice)
    return program.solved()


class _Program:
    """The program in the making. Its last variable is the worst part's loss, in points."""

    def __init__(self, space: Space, tables: Tables, aim: Aim) -> None:
        self.space, self.tables, self.aim = space, tables, aim
        self.pairs = sorted(tables.layer_cycles)
        self.widths = [(k, bits) for k in range(len(space.groups)) for bits in WIDTHS]
        self.column = {key: n for n, key in enumerate([*self.pairs, *self.widths])}
        self.count = len(self.column) + 1
        self.rows: list[np.ndarray] = []
        self.low: list[float] = []
        self.high: list[float] = []
        self.cycles, self.bytes = np.zeros(self.count), np.zeros(self.count)
        self.losses = np.zeros((len(aim.scale), self.count))  # in points, each part's by itself
        for pair in self.pairs:
            at = self.column[pair]
            self.cycles[at], self.bytes[at] = tables.layer_cycles[pair], tables.layer_bytes[pair[:2]]
            self.losses[:, at] = np.minimum(tables.weight_losses[pair[:2]] / aim.scale, _MOST_POINTS)
        for width in self.widths:
            at = self.column[width]
            self.cycles[at] = tables.group_cycles.get(width, 0.0)
            self.losses[:, at] = np.minimum(tables.group_losses[width] / aim.scale, _MOST_POINTS)

    def constrain(self, row: np.ndarray, low: float, high: float) -> None:
        """The row's sum lies between the two."""
        self.rows.append(row)
        self.low.append(low)
        self.high.append(high)

    def row(self, entries: Mapping[int, float]) -> np.ndarray:
        """A row of these entries by column."""
        made = np.zeros(self.count)
        made[list(entries)] = list(entries.values())
        return made

    def keep_together(self) -> None:
        """Each group has one width, and each layer one pair, of its group's width."""
        for k in range(len(self.space.groups)):
            self.constrain(self.row({self.column[k, bits]: 1.0 for bits in WIDTHS}), 1, 1)
        for k, layer in enumerate(self.space.layers):
            for bits in WIDTHS:
                own = {self.column[pair]: 1.0 for pair in self.pairs if pair[0] == k and pair[2] == bits}
                self.constrain(self.row({**own, self.column[layer.group, bits]: -1.0}), 0, 0)

    def keep_limits(self) -> None:
        """The limits, and what the worst part's loss is."""
        aim, tables = self.aim, self.tables
        for loss, most, rest in zip(self.losses, aim.budget / aim.scale, tables.rest_losses / aim.scale, strict=True):
            worst = loss.copy()
            worst[-1] = -1.0
            self.constrain(worst, -math.inf, -rest)
            if math.isfinite(most):
                self.constrain(loss, -math.inf, most - rest)
        for row, rest, most in (
            (self.cycles, tables.rest_cycles, aim.max_cycles), (self.bytes, tables.rest_bytes, aim.max_bytes)
        ):  # fmt: skip
            if math.isfinite(most):
                self.constrain(row / most, -math.inf, 1 - rest / most)

    def forbid(self, choice: Choice) -> None:
        """Another choice than this."""
        chosen = {self.column[each]: 1.0 for each in enumerate(choice.activations)}
        pairs = [(k, w, choice.activations[self.space.layers[k].group]) for k, w in enumerate(choice.weights)]
        if all(pair in self.column for pair in pairs):
            chosen |= {self.column[pair]: 1.0 for pair in pairs}
            self.constrain(self.row(chosen), -math.inf, len(chosen) - 1)

    def solved(self) -> Solution | None:
        """What HiGHS finds."""
        parts = {"cycles": self.cycles, "bytes": self.bytes, "drop": self.row({self.count - 1: 1.0})}
        norms = {"cycles": max(self.cycles.max(), 1.0), "bytes": max(self.bytes.max(), 1.0), "drop": 1.0}
        minimize = self.aim.minimize
        objective = parts[minimize] / norms[minimize]
        for name, each in parts.items():
            if name != minimize:
                objective = objective + _TIE * each / (_TIE_POINTS if name == "drop" else norms[name])
        integrality, upper = np.ones(self.count), np.ones(self.count)
        integrality[-1], upper[-1] = 0, math.inf
        matrix = LinearConstraint(sparse.csr_matrix(np.array(self.rows)), self.low, self.high)
        found = milp(
            objective, constraints=matrix, integrality=integrality, bounds=Bounds(0, upper),
            options={"mip_rel_gap": GAP, "time_limit": TIME_LIMIT_S},
        )  # fmt: skip
        if (
            found.x is None and found.status != _INFEASIBLE
        ):  # that nothing was found in time does not say that there is nothing
            raise CompilerFault(f"the integer program of {self.count} variables: {found.message}")
        if found.x is None:
            return None
        weights = {pair[0]: pair[1] for pair in self.pairs if found.x[self.column[pair]] > 0.5}
        activations = {k: bits for k, bits in self.widths if found.x[self.column[k, bits]] > 0.5}
        rest = {"cycles": self.tables.rest_cycles, "bytes": self.tables.rest_bytes, "drop": 0.0}[minimize]
        return Solution(
            Choice(tuple(weights[k] for k in sorted(weights)), tuple(activations[k] for k in sorted(activations))),
            rest + float(parts[minimize] @ found.x), rest + float(found.mip_dual_bound) * norms[minimize],
            float(found.mip_gap),
        )  # fmt: skip
