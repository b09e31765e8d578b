"""What bounds the values of a network's tensors whatever its inputs are, and which bounded functions are its outputs.

A Sigmoid gives 0 to 1 for every picture, whatever the pictures of the calibration gave. Where its values leave the network,
nothing behind it can make up for a range that was too narrow, so it takes all that the function can give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import product
from operator import add

import numpy as np
from tvm import ir, relax

from ....dialect import kinds, operators
from ....emulate.float_operators import COMPARISONS
from ....model import TensorSpec
from ..match import Node
from ..tables import evaluate, pointwise
from ..weights import NotQuantizable

Span = tuple[float, float]
EVERYTHING: Span = (-math.inf, math.inf)
# Where functions are looked at: 64 points to each factor of two, so that the next point is 1.1% away.
_OCTAVES, _PER_OCTAVE = (-20, 100), 64
_SIDE = 2.0 ** np.linspace(*_OCTAVES, (_OCTAVES[1] - _OCTAVES[0]) * _PER_OCTAVE + 1)
GRID = np.concatenate([-_SIDE[::-1], [0.0], _SIDE])
FAR = 2.0**50  # what a function does beyond, it does forever
# How much larger than its largest sample the operand of a bounded output may become. Beyond that, what it is computed from would be
# out of range as well; and a Clip to bounds beyond guards against overflow, and says nothing of what its values are.
REACH = 4.0
# Values pass through these; a mean of bounded values is bounded too, but it hardly comes near the bounds.
PASSING = (kinds.MOVE, kinds.NEAREST, kinds.MAX_POOL, kinds.MAX, kinds.RESHAPE, kinds.TRANSPOSE)
_HULLS = (*PASSING, kinds.AVG_POOL, kinds.MEAN, kinds.RESIZE)
_CLIPS = {"relax.clip", "relax.minimum", "relax.maximum"}
# Float operators of whose operands only the order or a threshold counts: the user reads the operands, so to speak.
_DECIDES = {*COMPARISONS, "relax.argmax", "relax.argmin", "relax.topk", "relax.sort", "relax.argsort"}


def hull(first: Span, second: Span) -> Span:
    """The least range that holds both."""
    return min(first[0], second[0]), max(first[1], second[1])


def within(span: Span, limits: Span) -> Span:
    """A range cut to limits; it still holds zero."""
    return min(max(span[0], limits[0]), 0.0), max(min(span[1], limits[1]), 0.0)


def is_function(node: Node) -> bool:
    """Whether each value of a node depends on one value of one tensor alone, in the same way everywhere."""
    return len(set(node.inputs)) == 1 and pointwise(node)


def curve(node: Node, points: np.ndarray) -> np.ndarray:
    """A function node at float64 points in rising order, its clamps included; where it is no number, the nearest that is one."""
    joined = [binding for clamp in node.clamps for binding in clamp.bindings]
    with np.errstate(all="ignore"):
        values = evaluate(replace(node, bindings=(*node.bindings, *joined)), points)
    known = ~np.isnan(values)
    if not known.any():
        raise NotQuantizable("its function is not a number anywhere")
    nearest = np.round(np.interp(np.arange(len(points)), np.flatnonzero(known), np.flatnonzero(known))).astype(np.int64)
    return np.asarray(values if known.all() else values[nearest])


def clamp_of(node: Node) -> Node:
    """The clamps that a node took in, as a function node."""
    bindings = tuple(binding for clamp in node.clamps for binding in clamp.bindings)
    return replace(node, bindings=bindings, inputs=node.clamps[0].inputs, clamps=())


class Bounds:
    """Bounds of every tensor of a network by variable, and its bounded outputs.

    ``of``: what values can be at all, infinite where nothing says. ``outputs``: the ranges of those tensors that take all that
    their function gives, because the user reads them, and a function made them that is bounded by its nature.
    """

    def __init__(
        self, nodes: Iterable[Node], inputs: Mapping[relax.Var, TensorSpec], results: Iterable[relax.Var],
        ranges: Mapping[str, Span],
    ) -> None:  # fmt: skip
        self._nodes = {node.output: node for node in nodes}
        self._names = {var: spec.name for var, spec in inputs.items()}
        self._names |= {var: node.range_name for var, node in self._nodes.items()}
        self._ranges = ranges
        self.of: dict[relax.Var, Span] = {var: _bounds_of_type(spec.dtype) for var, spec in inputs.items()}
        self._full = dict(self.of)  # what bounded functions give for what their operands can reach
        self._by_nature: set[relax.Var] = set()
        # Of what is made of nothing but functions bounded by nature.
        self._sources: dict[relax.Var, frozenset[relax.Var]] = {}
        for node in self._nodes.values():
            self.of[node.output] = self._bounds(node, self.of)
            by_nature = self._bounded_by_nature(node)
            if by_nature is not None:
                self._by_nature.add(node.output)
            # Cut to what it can be at all: a reciprocal of what is positive has no pole.
            self._full[node.output] = (
                within(by_nature, self.of[node.output]) if by_nature else self._bounds(node, self._full)
            )
            self._find_sources(node)
        self.outputs: dict[relax.Var, Span] = {}
        for var in results:
            self._mark(var)
        for node in self._nodes.values():
            if _operator(node) in _DECIDES:
                for var in node.inputs:
                    self._mark(var)

    def _bounds(self, node: Node, known: Mapping[relax.Var, Span]) -> Span:
        """What a node's values can be, from what is ``known`` of its operands."""
        given = [known.get(var, EVERYTHING) for var in node.inputs]
        operator = _operator(node)
        if operator == "relax.nn.softmax":
            return 0.0, 1.0
        if operator == "relax.astype" and str(node.inputs[0].ty.dtype) == "bool":
            return 0.0, 1.0
        if is_function(node):
            return _extent(node, given[0])
        result = EVERYTHING
        if node.kind in _HULLS and given:
            result = 0.0, 0.0
            for each in (*given, *map(_of_constant, _constants(node))):
                result = hull(result, each)
        elif node.kind is kinds.ELTWISE:
            sides = (known.get(a, EVERYTHING) if isinstance(a, relax.Var) else _of_constant(a) for a in node.call.args)
            result = _combined(node.call.op.name, *sides)
        elif isinstance(node.bindings[-1].value, relax.Var):
            result = given[0]
        return _extent(clamp_of(node), result) if node.clamps else result

    def reach(self, node: Node) -> float:
        """How far from zero the operand of a function node can be, or what it is before its clamps: REACH times what it was."""
        name = self._names.get(node.inputs[0], "")
        if not is_function(node):
            name = node.added[0].name if node.added else node.name
        lo, hi = self._ranges.get(name, (0.0, 0.0))
        return REACH * max(-lo, hi)

    def _bounded_by_nature(self, node: Node) -> Span | None:
        """Within which bounds a node keeps its values that say what these are: Sigmoid, Tanh, Softmax, Clip to 0..1; else None."""
        if _operator(node) == "relax.nn.softmax":
            return 0.0, 1.0
        function = node if is_function(node) else clamp_of(node) if node.clamps else None
        if function is None:
            return None
        bounds, reach = _extent(function, EVERYTHING), self.reach(node)
        if not all(map(math.isfinite, bounds)):
            return None
        calls = [binding.value for each in (function, *function.clamps) for binding in each.bindings]
        if max(map(abs, bounds)) > 1 and any(call.op.name in _CLIPS for call in calls):
            ends = np.abs(GRID[np.flatnonzero(np.diff(curve(function, GRID)))])
            if ends.max(initial=0.0) > reach:
                return None
        return _extent(function, (-reach, reach))

    def _find_sources(self, node: Node) -> None:
        """The functions that a tensor is made of, if it is made of nothing but such as are bounded by nature.

        The bounds of both operands hold together only where each value comes in once: ``(1 - z) * a + z * b`` lies between a and b,
        and gates of a GRU that are multiplied out step by step would have more room with each of them. Parts of a tensor are
        independent of each other.
        """
        var, inputs = node.output, dict.fromkeys(node.inputs)
        if not all(map(math.isfinite, self.of[var])):
            return
        if var in self._by_nature or (node.kind is kinds.MOVE and inputs and self._sources.keys() >= inputs.keys()):
            self._sources[var] = frozenset([var])
        elif self._made_of_operands(node) and self._sources.keys() >= inputs.keys():
            found = frozenset().union(*(self._sources[each] for each in inputs))
            if node.kind is not kinds.ELTWISE or len(found) == sum(len(self._sources[each]) for each in inputs):
                self._sources[var] = found

    def _made_of_operands(self, node: Node) -> bool:
        if node.kind is kinds.ELTWISE:  # a row of constants is a scale of its own: anchors, strides, class weights
            return all(isinstance(arg, relax.Var) or operators.constant(arg).size == 1 for arg in node.call.args)
        named = isinstance(node.bindings[-1].value, relax.Var)
        cast = _operator(node) == "relax.astype"
        return bool(node.inputs) and (node.kind in (*PASSING, kinds.RESIZE) or is_function(node) or named or cast)

    def _mark(self, var: relax.Var) -> None:
        node = self._nodes.get(var)
        if node is None or var in self.outputs:
            return
        whole = var in self._sources
        if whole:
            self.outputs[var] = within(self._full[var], EVERYTHING)
            if var in self._by_nature:
                return
        passed = node.kind in (*PASSING, kinds.RESIZE) or isinstance(node.bindings[-1].value, relax.Var | relax.Tuple)
        for each in node.inputs if whole or passed else ():
            self._mark(each)


def _operator(node: Node) -> str:
    """The Relax operator of a node that is one call; empty for others."""
    call = node.bindings[-1].value
    one = len(node.bindings) == 1 and isinstance(call, relax.Call) and isinstance(call.op, ir.Op)
    return str(call.op.name) if one else ""


def _extent(node: Node, operand: Span) -> Span:
    """Least and greatest value of a function node for values of its operand within a range; infinite where they grow for ever."""
    try:
        values = curve(node, np.clip(GRID, *operand))
    except NotQuantizable:
        return EVERYTHING
    near = values[np.abs(GRID) <= FAR]
    slack = 1e-6 * np.abs(near[np.isfinite(near)]).max(initial=0.0)
    lo, hi = float(near.min()), float(near.max())
    return (lo if values.min() >= lo - slack else -math.inf), (hi if values.max() <= hi + slack else math.inf)


def _combined(name: str, first: Span, second: Span) -> Span:
    """Interval arithmetic for two operands."""
    if name == "relax.subtract":
        return first[0] - second[1], first[1] - second[0]
    if name == "relax.multiply":
        ends = [_product(a, b) for a, b in product(first, second)]
        return min(ends), max(ends)
    rising: dict[str, Callable[[float, float], float]] = {"relax.add": add, "relax.minimum": min, "relax.maximum": max}
    return rising[name](first[0], second[0]), rising[name](first[1], second[1])


def _product(a: float, b: float) -> float:
    return 0.0 if 0.0 in (a, b) else a * b


def _bounds_of_type(dtype: str) -> Span:
    """Of an input: bytes are all used, of longer integers nothing is known."""
    if dtype == "bool":
        return 0.0, 1.0
    if dtype in ("int8", "uint8"):
        return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    return EVERYTHING


def _constants(node: Node) -> list[relax.Expr]:
    """Constant tensors of floats among a node's operands: what a Concat or Pad puts beside the values."""
    args = [arg for binding in node.bindings if isinstance(binding.value, relax.Call) for arg in binding.value.args]
    args += [field for arg in args if isinstance(arg, relax.Tuple) for field in arg.fields]
    return [arg for arg in args if isinstance(arg, ir.GenericConst) and hasattr(arg.value, "numpy")]


def _of_constant(expr: relax.Expr) -> Span:
    if not (isinstance(expr, ir.GenericConst) and hasattr(expr.value, "numpy")):
        return EVERYTHING
    values = operators.constant(expr)
    if values.dtype.kind != "f" or not values.size:
        return (0.0, 0.0)
    return float(values.min()), float(values.max())
