"""Element-wise functions of one tensor, however many nodes spell them out, gathered into one look-up table each.

``x * sigmoid(x)``, ``x * clip(x + 3, 0, 6) / 6``, a Gelu written with Erf or Tanh: whatever depends on one value alone is one
function of it, so nothing is matched by shape of the expression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.linalg import solveh_banded
from tvm import ir, relax

from ...dialect import kinds, operators
from ...dialect.operators import Quantization
from ...dialect.ops.table import interpolated, interval
from ...emulate.float_operators import BINARY, RULES, UNARY
from ...machine.numerics import INTERPOLATION_BITS, OCTAVE_BITS, activation_limits, table_knots
from .match import Node
from .weights import NotQuantizable

WORST_STEP = 2.0**-10  # of the output's range: how far an interpolated table may be off at a bend, 64 steps of 16 bits
GOOD_STEPS = 1.5  # an even table that is no farther off, 1 of which is rounding, is taken as it is: it is shorter
NOTABLE_STEPS = 16.0  # a table that is farther off is worth a warning
SOME = 64  # of the inputs that count, one in so many is enough to see that most origins of knots are no better
STIFF, FREQUENT = 1.0, 1000.0  # fitted entries: what staying on the function and what frequent inputs weigh, in inputs
_HELD = 1e9  # the same of an entry at the limit of its integers
_FARTHEST = 64  # how many tensors back a function may begin


def fuse_tables(nodes: Iterable[Node], uses: Mapping[relax.Var, int]) -> list[Node]:
    """The nodes, with element-wise ones that together are a function of one tensor joined into one node of the kind TABLE.

    What the machine computes exactly without a table stays as it is: a Relu or Clip, or a constant added or multiplied.
    """
    nodes = list(nodes)
    maker = {node.output: k for k, node in enumerate(nodes)}
    roots: dict[relax.Var, list[relax.Var]] = {}
    for node in nodes:
        if pointwise(node):
            roots[node.output] = _common_roots(node, roots)
    gone: set[int] = set()
    tables: dict[int, Node] = {}
    for k in range(len(nodes) - 1, -1, -1):
        if k in gone or not roots.get(nodes[k].output):
            continue
        region = _region(k, nodes, maker, roots, uses)
        if region is not None:
            root, members = region
            tables[k] = _table_node([nodes[m] for m in members], root)
            gone.update(members)
    return [tables.get(k, node) for k, node in enumerate(nodes) if k in tables or k not in gone]


@dataclass(frozen=True)
class Table:
    """``values``, ``knots`` and ``origin`` as the ISA's TABLE reads them.

    ``off_by``: the largest distance from the function, in output steps.
    """

    values: np.ndarray
    off_by: float
    knots: str = "even"
    origin: int = 0


def grid_span(node: Node, source: Quantization, span: tuple[float, float]) -> tuple[float, float]:
    """Least and greatest of those entries of an even table between which inputs within ``span`` are interpolated, real values."""
    unit = 1 << INTERPOLATION_BITS
    first, last = (
        int(edge(bound / source.scale / unit)) for edge, bound in zip((np.floor, np.ceil), span, strict=True)
    )
    with np.errstate(all="ignore"):
        values = evaluate(node, np.arange(first, last + 1) * unit * source.scale)
    values = values[~np.isnan(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


class Curve:
    """A table node's function of float64 values; equal to any other of the same operators and constants."""

    def __init__(self, node: Node) -> None:
        self._node = node
        places = {node.inputs[0]: 0}
        calls = []
        for binding in node.bindings:
            call = binding.value
            operands = [_scalar(a) if _is_tensor(a) else places.get(a, str(a)) for a in call.args]
            calls.append((call.op.name, str(call.attrs), *((type(each), each) for each in operands)))
            places[binding.var] = len(places)
        self._key = tuple(calls)

    def __call__(self, real: np.ndarray) -> np.ndarray:
        return evaluate(self._node, real)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Curve) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=512)  # searches make the same tables again and again
def make_table(
    function: Callable[[np.ndarray], np.ndarray],
    source: Quantization,
    out: Quantization,
    span: tuple[float, float],
    out_span: tuple[float, float],
) -> Table:
    """The table of a function of float64 values. 4 and 8-bit inputs: correctly rounded at every value; 16-bit ones interpolate.

    ``span`` and ``out_span``: ranges in real values within which it counts how far interpolation is off; of even knots and
    of some in octaves, those that are least off. Raises NotQuantizable where the function is nowhere a number.
    """
    lo, hi = activation_limits(out.bits)
    if source.bits != 16:
        first, last = activation_limits(source.bits)
        exact = _steps(function, np.arange(first, last + 1), source, out)
        return Table(np.clip(np.rint(exact), lo, hi).astype(np.int64), 0.5)
    first, last = activation_limits(16)
    inputs = np.arange(first, last + 1)
    steps = _steps(function, inputs, source, out)
    exact = np.clip(steps, lo, hi)
    wanted = [bound / out.scale + out.zero_point for bound in out_span]
    counted = _counted(inputs * source.scale, span, steps, (steps >= wanted[0] - 1) & (steps <= wanted[1] + 1))
    places = np.flatnonzero(counted)

    def entries_of(knots: str, origin: int) -> np.ndarray:
        stands = table_knots(knots, origin)
        return _ended(np.clip(_steps(function, stands, source, out), lo, hi), stands, exact, counted)

    def table(entries: np.ndarray, knots: str, origin: int, most: float) -> Table | None:
        """None as soon as some of the inputs are more than ``most`` steps off: most origins are soon out of the race."""
        entries, off_by = np.clip(np.rint(entries), lo, hi).astype(np.int64), 0.0
        for some in (places[::SOME], places):
            made = interpolated(inputs[some], entries, knots, origin)
            off_by = float(np.abs(made - exact[some]).max(initial=0.0))
            if off_by > most:
                return None
        return Table(entries, off_by, knots, origin)

    def fitted(plain: Table) -> Table:
        """With the same knots."""
        if not places.size:
            return plain
        on_function = entries_of(plain.knots, plain.origin)
        entries = _fitted(on_function, inputs[places], exact[places], plain.knots, plain.origin, (lo, hi))
        return table(entries, plain.knots, plain.origin, plain.off_by) or plain

    even = table(entries_of("even", 0), "even", 0, math.inf)
    assert even is not None
    best, dense = fitted(even), even
    if best.off_by > GOOD_STEPS:
        for origin in _origins(exact, counted):
            dense = table(entries_of("octaves", origin), "octaves", origin, dense.off_by) or dense
        if dense is not even:
            best = min(best, fitted(dense), key=lambda each: each.off_by)
    return best


def _counted(real: np.ndarray, span: tuple[float, float], steps: np.ndarray, in_range: np.ndarray) -> np.ndarray:
    """The inputs within ``span`` whose values are in range, and those beyond it for which the function is as at its end.

    A range that ends where the function saturates keeps no input from farther out.
    """
    counted = in_range & (real >= span[0]) & (real <= span[1])
    if counted.any():
        first, last = np.flatnonzero(counted)[[0, -1]]
        below = np.flatnonzero(np.abs(steps[:first] - steps[first]) > 1)
        above = np.flatnonzero(np.abs(steps[last:] - steps[last]) > 1)
        counted[below[-1] + 1 if below.size else 0 : first] = True
        counted[last : last + above[0] if above.size else None] = True
    return counted


def _fitted(
    entries: np.ndarray, inputs: np.ndarray, exact: np.ndarray, knots: str, origin: int, limits: tuple[int, int]
) -> np.ndarray:
    """The entries moved so that what is interpolated between them is nearest to ``exact`` at ``inputs``, by least squares.

    On the function itself, they are off to one side all along a bend. Zero and the outermost inputs, to which many values
    saturate, count more than others. Entries that would leave the ``limits`` stay at them.
    """
    low, part = interval(inputs, knots, origin)
    rest, count = exact - (entries[low] * (1 - part) + entries[low + 1] * part), len(entries)
    weight = np.where(inputs == 0, FREQUENT, 1.0)
    weight[[0, -1]] = FREQUENT

    def gathered(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.bincount(low, first * weight, count) + np.bincount(low + 1, second * weight, count)

    diagonal, beside = gathered((1 - part) ** 2, part**2) + STIFF, gathered(0 * part, (1 - part) * part)
    wanted = gathered((1 - part) * rest, part * rest)
    for _ in range(3):
        made = entries + solveh_banded(np.stack([beside, diagonal]), wanted)
        held = np.clip(made, *limits)
        outside = made != held
        diagonal, wanted = diagonal + _HELD * outside, wanted + _HELD * outside * (held - entries)
    return held


def worst_steps(out: Quantization) -> float:
    """How many steps of its output a table may be off."""
    lo, hi = activation_limits(out.bits)
    return max(WORST_STEP * (hi - lo), 1.0)


def how_far_off(node: Node, span: tuple[float, float], made: Table) -> str:
    """What to say of an interpolated table: a warning where its entries are few for the function, such as a wide sine."""
    said = f"{node.name}: its 16-bit table interpolates, off by at most {made.off_by:.1f} steps"
    if made.off_by <= NOTABLE_STEPS:
        return said
    return (
        f"warning: {said}: {len(made.values)} entries are few for what it does in {span[0]:.4g}..{span[1]:.4g}; give it operands "
        "of a shorter range, a Sin or Cos those of one period"
    )


def _ended(entries: np.ndarray, stands: np.ndarray, exact: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The entries, with those just beyond the inputs that count such that the outermost of these is met.

    What the function has there may be infinite, or far outside of the output's range.
    """
    entries, inside = entries.copy(), np.flatnonzero(counted) - (1 << 15)
    for edge, outwards in ((inside[0], -1), (inside[-1], 1)) if inside.size else ():
        beyond = (stands - edge) * outwards
        out, back = (np.flatnonzero(beyond > 0), np.flatnonzero(beyond <= 0))
        if out.size and back.size:
            k, near = out[np.argmin(beyond[out])], back[np.argmax(beyond[back])]
            if near != k and beyond[near] < 0 and abs(int(k) - int(near)) == 1:
                reached = exact[edge + (1 << 15)] - entries[near]
                entries[k] = entries[near] + reached * (stands[k] - stands[near]) / (edge - stands[near])
    return entries


def _origins(exact: np.ndarray, counted: np.ndarray) -> list[int]:
    """Inputs around which a table's knots may well be dense: zero, and where the function bends most; int16.

    And those near by from which a knot falls on an end of the inputs that count: beyond it, the output's range may end.
    """
    bend = np.abs(np.diff(exact, 2)) * (counted[:-2] & counted[2:])
    most = int(np.argmax(bend)) + 1 - (1 << 15)
    ends = [int(k) - (1 << 15) for k in np.flatnonzero(counted)[[0, -1]]] if counted.any() else []
    found = [0, most, *ends]
    for centre in (0, most):
        for end in ends:
            distance = end - centre if end >= centre else centre - 1 - end
            step = 1 << max(distance.bit_length() - 1 - OCTAVE_BITS, 0)
            rest = distance % step
            for shift in (rest, rest - step):
                found.append(centre + shift if end >= centre else centre - shift)
    return [origin for origin in dict.fromkeys(found) if -(1 << 15) <= origin < 1 << 15]


def _steps(
    function: Callable[[np.ndarray], np.ndarray], integers: np.ndarray, source: Quantization, out: Quantization
) -> np.ndarray:
    """The function at input integers, float64, in output integers before rounding."""
    real = (integers - source.zero_point) * source.scale
    with np.errstate(all="ignore"):
        value = function(real)
        steps = value / out.scale + out.zero_point
    known = ~np.isnan(steps)
    if not known.any():
        raise NotQuantizable("its function is not a number anywhere in its input's range")
    # Where it is none (a root below zero), the nearest number stands for it: rounding alone takes an input there.
    order = np.argsort(real[known], kind="stable")
    steps = np.nan_to_num(steps[known], posinf=2.0**40, neginf=-(2.0**40))
    return np.interp(real, real[known][order], steps[order])


def evaluate(node: Node, real: np.ndarray) -> np.ndarray:
    """A table node's function of float64 values."""
    values = {node.inputs[0]: real}
    for binding in node.bindings:
        call = binding.value
        kernel = RULES[call.op.name](call)
        if kernel is None:
            raise NotQuantizable(f"{call.op.name} has no rule")
        operands = [
            values[arg] if isinstance(arg, relax.Var) else np.float64(_scalar(arg))
            for arg in call.args
            if isinstance(arg, relax.Var) or _is_tensor(arg)
        ]
        values[binding.var] = np.asarray(kernel(*operands))
    return np.broadcast_to(values[node.bindings[-1].var], real.shape)


def _scalar(expr: relax.Expr) -> float:
    return float(operators.constant(expr).reshape(-1)[0])


def _is_tensor(expr: relax.Expr) -> bool:
    return isinstance(expr, ir.GenericConst) and hasattr(expr.value, "numpy")


def pointwise(node: Node) -> bool:
    """Whether every binding of the node works element by element on tensors of one shape and single constants."""
    if not node.inputs or node.kind in kinds.KEPT_IN_FLOAT or not isinstance(node.output.ty, relax.TensorType):
        return False
    shape = operators.static_shape(node.output)
    for binding in node.bindings:
        call = binding.value
        if not (isinstance(call, relax.Call) and isinstance(call.op, ir.Op) and call.op.name in (UNARY | BINARY)):
            return False
        if str(binding.var.ty.dtype) != "float32" or operators.static_shape(binding.var) != shape:
            return False
        for arg in call.args:
            if _is_tensor(arg):
                if operators.constant(arg).size != 1:
                    return False
            elif isinstance(arg, relax.Var) and operators.static_shape(arg) != shape:
                return False
    return all(operators.static_shape(var) == shape for var in node.inputs)


def _common_roots(node: Node, roots: Mapping[relax.Var, list[relax.Var]]) -> list[relax.Var]:
    """The tensors that alone determine the node's result, each by itself, nearest first."""
    inputs = list(dict.fromkeys(node.inputs))
    lists = [[var, *roots.get(var, [])] for var in inputs]
    return [var for var in lists[0] if all(var in other for other in lists[1:])][:_FARTHEST]


def _region(
    last: int, nodes: list[Node], maker: Mapping[relax.Var, int], roots: Mapping[relax.Var, list[relax.Var]],
    uses: Mapping[relax.Var, int],
) -> tuple[relax.Var, list[int]] | None:  # fmt: skip
    """The root tensor and the nodes of the largest table that ends in node ``last``; None where a table is no gain.

    Of its nodes, only the last one's result is read by others.
    """
    for root in reversed(roots[nodes[last].output]):
        members = _between(last, root, nodes, maker)
        reads = [var for m in members for var in nodes[m].inputs]
        inside = [nodes[m].output for m in members if m != last]
        if any(reads.count(var) != uses[var] for var in inside):
            continue
        # A clamp at the beginning belongs to the layer before, whose output is then no wider than it must be.
        while len(members) > 1:
            readers = [m for m in members if root in nodes[m].inputs]
            host = maker.get(root)
            if len(readers) > 1 or nodes[readers[0]].kind is not kinds.CLAMP or uses[root] != 1:
                break
            if host is None or not nodes[host].kind.clamps:
                break
            root = nodes[readers[0]].output
            members.remove(readers[0])
        return None if _machine_has([nodes[m] for m in members]) else (root, members)
    return None


def _machine_has(members: list[Node]) -> bool:
    """Whether it is exact at every width without a table: such a kind, a tensor and a constant, a square; clamps behind."""
    first, *others = members
    with_constant = first.kind is kinds.ELTWISE and len(first.inputs) == 1
    square = first.kind is kinds.ELTWISE and first.call.op.name == "relax.multiply" and len(first.bindings) == 1
    return (first.kind.exact or with_constant or square) and all(node.kind is kinds.CLAMP for node in others)


def _between(last: int, root: relax.Var, nodes: list[Node], maker: Mapping[relax.Var, int]) -> list[int]:
    found: set[int] = set()
    pending = [last]
    while pending:
        k = pending.pop()
        if k not in found:
            found.add(k)
            pending += [maker[var] for var in nodes[k].inputs if not var.same_as(root)]
    return sorted(found)


def _table_node(members: list[Node], root: relax.Var) -> Node:
    last = members[-1]
    return replace(
        last,
        op="+".join(dict.fromkeys(node.op for node in members)),
        kind=kinds.TABLE,
        bindings=tuple(binding for node in members for binding in node.bindings),
        inputs=(root,),
        inner=tuple(members[:-1]),
    )
