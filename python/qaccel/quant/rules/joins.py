"""Joins: where tensors of unlike ranges become one, and which of its readers had better see the parts.

A joined tensor has one scale, and on that of boxes in pixels every score is 0. What is read in floating point, by the user or by
an operator on the CPU, is therefore joined after dequantization, each part on its own scale (`Joins.apart`); a move that takes a
join to pieces again reads the parts themselves (`Joins.undone`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax

from ...dialect import kinds, operators
from ...emulate.float_operators import RULES as FLOAT_RULES
from ...emulate.steps import holds_tensors
from .match import Node, renames
from .weights import NotQuantizable

UNLIKE = 1 / 4  # a part of less than this share of the joined range loses two bits and more to it
LATER = "it joins tensors of unlike ranges, which keep scales of their own: they are joined after dequantization"
Span = tuple[float, float]


@dataclass(frozen=True)
class Joins:
    """Of the nodes of a function, by the variable that they define.

    ``apart``: moves of values that come from parts of unlike ranges, and exact element-wise nodes with constants behind them; who
    reads them in float gets them from the parts in float. ``undone``: moves that take from such a tensor values of like range:
    the nodes from the parts to this one, in order.
    """

    apart: frozenset[relax.Var] = frozenset()
    undone: Mapping[relax.Var, tuple[Node, ...]] = field(default_factory=dict)

    def reads(self, node: Node) -> tuple[relax.Var, ...]:
        """The tensors that a node reads as integers."""
        return picked(self.undone[node.output]) if node.output in self.undone else node.inputs


@dataclass(frozen=True)
class _Tracked:
    """A tensor by its parts: for each value the number of its part (from 0), the parts' ranges, and the nodes in between."""

    part: np.ndarray
    spans: Mapping[int, Span]
    chain: tuple[Node, ...]

    @property
    def unlike(self) -> bool:
        """Whether a part, one that is not constantly 0, has less than UNLIKE of the range that holds all."""
        lows, highs = zip(*((min(lo, 0.0), max(hi, 0.0)) for lo, hi in self.spans.values()), strict=True)
        extents = [hi - lo for lo, hi in zip(lows, highs, strict=True) if hi > lo]
        return bool(extents) and min(extents) < UNLIKE * (max(highs) - min(lows))


def joins_of(nodes: Sequence[Node], spans: Mapping[relax.Var, Span], results: Iterable[relax.Var]) -> Joins:
    """What is to be joined later and what is no join at all. ``spans``: the ranges of tensors; ``results`` the user reads."""
    wanted = _wanted(nodes, results)
    tracked: dict[relax.Var, _Tracked] = {}
    leaves: dict[relax.Var, int] = {}
    apart: set[relax.Var] = set()
    undone: dict[relax.Var, tuple[Node, ...]] = {}

    def of(var: relax.Var) -> _Tracked | None:
        if var in tracked:
            return tracked[var]
        if var not in spans:
            return None
        number = leaves.setdefault(var, len(leaves))
        return _Tracked(np.full(operators.static_shape(var), number, np.int32), {number: spans[var]}, ())

    for node in nodes:
        if not (node.output in wanted or _takes_apart(node)) or not _passes(node):
            continue
        if not _joins(node) and not any(var in tracked for var in node.inputs):
            continue
        sources = {var: of(var) for var in dict.fromkeys(node.inputs)}
        if None in sources.values():
            continue
        made = _after(node, {var: source for var, source in sources.items() if source is not None})
        if made is None:
            continue
        tracked[node.output] = made
        lost = any(source is not None and source.unlike for source in sources.values())
        if renames(node) or not (made.unlike or lost):
            continue
        if not made.unlike and all(each.kind is kinds.MOVE or renames(each) for each in made.chain):
            undone[node.output] = made.chain
        else:
            apart.add(node.output)
    return Joins(frozenset(apart), undone)


def _wanted(nodes: Sequence[Node], results: Iterable[relax.Var]) -> set[relax.Var]:
    """Tensors that are read in float, or by a move of them alone, directly or through nodes that keep parts apart."""
    wanted = set(results)
    for node in reversed(nodes):
        in_float = node.kind.operator is None and not renames(node)
        if _takes_apart(node) or in_float or (node.output in wanted and _passes(node)):
            wanted.update(node.inputs)
    return wanted


def _joins(node: Node) -> bool:
    return node.kind is kinds.MOVE and len(set(node.inputs)) > 1


def _takes_apart(node: Node) -> bool:
    return node.kind is kinds.MOVE and len(set(node.inputs)) == 1


def _passes(node: Node) -> bool:
    """Whether every value of a node comes from one value of an operand: moved, or with constants by an exact operation."""
    if str(getattr(node.output.ty, "dtype", "")) != "float32":
        return False
    if isinstance(node.bindings[-1].value, relax.Var):
        return True
    if node.kind is kinds.MOVE:
        joined = node.call.args[0].fields if node.call.op.name == "relax.concat" else ()
        return node.call.op.name != "relax.nn.pad" and all(isinstance(field, relax.Var) for field in joined)
    with_constant = node.kind is kinds.ELTWISE and len(node.inputs) == 1
    if with_constant or node.kind is kinds.CLAMP:
        return operators.static_shape(node.output) == operators.static_shape(node.inputs[0])
    return renames(node)


def _after(node: Node, sources: Mapping[relax.Var, _Tracked]) -> _Tracked | None:
    """The node's result by the parts of its operands; None where no rule says where values go."""
    chain = tuple(dict.fromkeys([*(each for source in sources.values() for each in source.chain), node]))
    try:
        if node.kind is kinds.MOVE or renames(node):
            part = run((node,), {var: source.part for var, source in sources.items()})
            spans = {number: span for source in sources.values() for number, span in source.spans.items()}
            return _Tracked(part, {int(number): spans[int(number)] for number in np.unique(part)}, chain)
        ((var, source),) = sources.items()
        lows, highs = np.zeros(max(source.spans) + 1), np.zeros(max(source.spans) + 1)
        for number, (lo, hi) in source.spans.items():
            lows[number], highs[number] = lo, hi
        # Operations with constants are monotonic in every value.
        ends = np.stack([run((node, *node.clamps), {var: bound[source.part]}) for bound in (lows, highs)])
    except NotQuantizable:
        return None
    if not np.isfinite(ends).all():
        return None
    low, high = np.minimum(ends.min(axis=0), 0.0), np.maximum(ends.max(axis=0), 0.0)
    spans = {}
    for number in source.spans:
        here = source.part == number
        spans[number] = float(low[here].min()), float(high[here].max())
    return _Tracked(source.part, spans, chain)


def picked(chain: Sequence[Node]) -> tuple[relax.Var, ...]:
    """The tensors whose values the last node of a row of moves has, in the order in which the row reads them."""
    inside = {node.output for node in chain}
    variables = [var for var in dict.fromkeys(v for node in chain for v in node.inputs) if var not in inside]
    numbers = {var: np.full(operators.static_shape(var), k, np.float64) for k, var in enumerate(variables)}
    return tuple(variables[int(k)] for k in np.unique(run(chain, numbers)))


def run(chain: Sequence[Node], values: Mapping[relax.Var, np.ndarray]) -> np.ndarray:
    """The last node's value by the float bindings of the nodes, on other values, by the same rules as calibration.

    Raises NotQuantizable for an operator without a rule.
    """
    known = dict(values)

    def value_of(expr: relax.Expr) -> Any:
        if isinstance(expr, relax.Var):
            return known[expr]
        if isinstance(expr, relax.Tuple):
            return tuple(value_of(field) for field in expr.fields)
        return operators.constant(expr)

    for binding in (binding for node in chain for binding in node.bindings):
        call = binding.value
        if isinstance(call, relax.Var):
            known[binding.var] = known[call]
            continue
        rule = FLOAT_RULES.get(call.op.name)
        kernel = rule(call) if rule is not None else None
        if kernel is None:
            raise NotQuantizable(f"{call.op.name} of this form has no rule that says where values go")
        operands = [value_of(arg) for arg in call.args if holds_tensors(arg)]
        known[binding.var] = np.asarray(kernel(*operands))
    return known[chain[-1].bindings[-1].var]
