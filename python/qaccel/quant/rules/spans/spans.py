"""The ranges that tensors are quantized with: what calibration saw, fitted to what makes and what reads each tensor.

- A tensor that only saturating functions read reaches no further than where they saturate.
- A bounded function whose values leave the network has its own range, and what it reads reaches to where it is alive.
- 16-bit ranges from samples get headroom for larger samples, up to what the tensor can be at all: a square more than its operand.
- 8-bit ranges get some where the samples gave few values of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tvm import relax

from ....dialect import kinds
from ....errors import CompilerFault
from ....machine.numerics import activation_limits
from ....model import TensorSpec
from ....relax_tools import known_shape
from ...calibrate.ranges import Ranges
from ..match import Node, NodeBits
from ..weights import NotQuantizable, activation_quantization
from .bounded import EVERYTHING, GRID, PASSING, Bounds, Span, clamp_of, curve, hull, is_function, within

# Of the error that rounding the operand makes in a function's output anyway: how much the cut of the operand's range may add.
CUT_OF_ROUNDING = 1 / 4
FEW_VALUES = 256  # of which the ends are no good ends for others
LARGE = 2.0**20  # what a function without bounds is at the ends of GRID, at least


@dataclass(frozen=True)
class Spans:
    """Ranges in real values by input or node name.

    ``expected``: the values that a tensor is expected to have. ``limits``: beyond which it has none, or nobody can tell.
    ``headroom``: by how much 16-bit ranges are wider than expected; ``growth`` says it of those tensors that grow otherwise;
    ``unseen``: by how much 8-bit ranges are wider of tensors of which few values were seen.
    ``copies``: by the name of a copy in fewer bits, where it reaches less far than what it copies.
    """

    expected: Mapping[str, Span]
    limits: Mapping[str, Span]
    headroom: float
    growth: Mapping[str, float] = field(default_factory=dict)
    copies: Mapping[str, Span] = field(default_factory=dict)
    unseen: Mapping[str, float] = field(default_factory=dict)

    def of(self, name: str) -> Span:
        """The expected values of an input or node. Raises CompilerFault if calibration has no range for it."""
        if name not in self.expected:
            raise CompilerFault(f"{name}: calibration gave no range for its output")
        return self.expected[name]

    def room(self, name: str, bits: int) -> Span:
        """The range to quantize an input or node with at that many bits: with headroom at 16, at 8 of few values, where nothing
        else bounds it.

        16-bit integers lie around zero, so the larger end alone decides.
        """
        lo, hi = self.of(name)
        if self.headroom == 1 or bits not in (8, 16):
            return lo, hi
        if bits == 16:
            wider = self.growth.get(name, self.headroom)
            wide = lo * wider, hi * wider
        else:
            more = (self.unseen.get(name, 1.0) - 1) * (hi - lo) / 2
            wide = lo - more if lo else 0.0, hi + more if hi else 0.0
        least, most = self.limits.get(name, EVERYTHING)
        return min(lo, max(wide[0], least)), max(hi, min(wide[1], most))


def fit_spans(
    nodes: Sequence[Node], inputs: Mapping[relax.Var, TensorSpec], results: Iterable[relax.Var],
    widths: Mapping[relax.Var, NodeBits], ranges: Ranges, finely_read: Container[relax.Var] = (),
) -> Spans:  # fmt: skip
    """Fits the measured ranges to the network of ``nodes``; ``widths`` are those of the nodes that become integers, by output.

    ``finely_read``: outputs of functions whose operand is rounded to more than one scale of so many bits.
    """
    if ranges.exact:
        return Spans(ranges.values, {}, ranges.headroom)
    return replace(_Fit(nodes, inputs, results, widths, ranges, finely_read).spans(), copies=ranges.copies)


class _Fit:
    """One pass over the nodes from last to first: what reads a tensor is known when its range is settled.

    ``_needed``: outside of it no reader can tell values apart. ``_alive``: what readers at the network's end must be able to see.
    """

    def __init__(
        self, nodes: Sequence[Node], inputs: Mapping[relax.Var, TensorSpec], results: Iterable[relax.Var],
        widths: Mapping[relax.Var, NodeBits], ranges: Ranges, finely_read: Container[relax.Var],
    ) -> None:  # fmt: skip
        self._finely_read = finely_read
        self._nodes, self._inputs, self._widths, self._ranges = nodes, inputs, widths, ranges
        results = list(results)
        self._bounds = Bounds(nodes, inputs, results, ranges.values)
        self._needed: dict[relax.Var, Span] = dict.fromkeys(results, EVERYTHING)
        self._alive: dict[relax.Var, Span] = {}
        self._expected: dict[str, Span] = dict(ranges.values)
        self._limits: dict[str, Span] = {}
        self._names = {var: spec.name for var, spec in inputs.items()}
        self._names |= {node.output: node.range_name for node in nodes if _named(node)}
        self._growth = _growths(nodes, self._names, ranges)
        self._unseen = _unseen(self._names, ranges.samples)

    def spans(self) -> Spans:
        """The fitted ranges."""
        for node in reversed(self._nodes):
            self._settle(node.output, node)
            self._ask(node)
        for var in self._inputs:
            self._settle(var, None)
        return self._so_far()

    def _so_far(self) -> Spans:
        return Spans(self._expected, self._limits, self._ranges.headroom, self._growth, unseen=self._unseen)

    def _settle(self, var: relax.Var, node: Node | None) -> None:
        """The range of a tensor, after all that read it."""
        name, bounds = self._names.get(var, ""), self._bounds.of.get(var, EVERYTHING)
        if name not in self._expected:
            return
        needed = self._needed.get(var, EVERYTHING)
        if var in self._bounds.outputs:
            self._expected[name], self._limits[name] = self._bounds.outputs[var], bounds
            return
        span = self._expected[name]
        if var in self._alive:
            span = hull(span, within(self._alive[var], bounds))
        if node is not None and node.kind is kinds.MOVE:  # parts that are bounded outputs, beside others
            for each in self._bounds.outputs.keys() & set(node.inputs):
                span = hull(span, self._bounds.outputs[each])
        self._expected[name] = within(span, needed)
        self._limits[name] = max(bounds[0], needed[0]), min(bounds[1], needed[1])

    def _ask(self, node: Node) -> None:
        """What a node needs of its operands."""
        needed, widths = EVERYTHING, self._widths.get(node.output)
        alive = self._alive.get(node.output)
        if node.kind in PASSING and (widths is not None or node.kind.renames):
            needed = self._needed.get(node.output, EVERYTHING)
            if node.clamps and widths is not None:
                needed, alive = self._seen(clamp_of(node), node, widths)
        elif widths is not None and is_function(node):
            needed, alive = self._seen(node, node, widths)
        elif node.kind is not kinds.RESIZE:
            alive = None
        for var in node.inputs:
            self._needed[var] = hull(self._needed[var], needed) if var in self._needed else needed
            if alive is not None:
                self._alive[var] = hull(self._alive.get(var, alive), alive)

    def _seen(self, function: Node, node: Node, widths: NodeBits) -> tuple[Span, Span | None]:
        """Between which values of its operand a function is not flat, and which of those it must see to give all of its own."""
        out = self._expected.get(node.range_name)
        before = self._ranges.values.get(self._names.get(node.inputs[0], ""))
        if out is None or before is None:
            return EVERYTHING, None
        try:
            q = activation_quantization(*self._so_far().room(node.range_name, widths.out), widths.out)
            values = curve(function, GRID)
        except NotQuantizable:
            return EVERYTHING, None
        # One that falls and rises (HardSwish, SiLU, Gelu) and grows for ever saturates on no side that its operand could be cut at
        # for nothing: PP-LCNet lost 1.7 dB to it at 8 bits with minmax, percentile lost 0.3, and mse gained 0.9.
        one_way = _one_way(values)
        if not one_way and max(abs(float(values[0])), abs(float(values[-1]))) > LARGE:
            return EVERYTHING, None
        lo, hi = ((end - q.zero_point) * q.scale for end in activation_limits(widths.out))
        values = np.clip(values, lo, hi)
        # A bounded one that falls and rises gives all of its values near zero, which every range holds.
        whole = one_way and node.output in self._bounds.outputs
        reach = self._bounds.reach(node) if whole else 0.0
        # Flat is what gives the same integer, or another one by chance.
        limit, seen = q.scale / 8, _not_flat(values, q.scale / 8, np.rint(values / q.scale))
        if node.output in self._finely_read:  # steep near zero, it creeps on far out: what the samples showed is enough
            return seen, None
        span, uncut = within(before, seen), seen
        first = error = _rounding(values, span, widths.activation)
        while limit < (hi - lo) / 4:
            limit *= 1.25
            span = within(hull(before, within(seen, (-reach, reach))), seen)
            error = _rounding(values, span, widths.activation)
            if error * CUT_OF_ROUNDING < limit:
                break
            seen = _not_flat(values, limit)
        # Where the function jumps, at a pole too, rounding moves it as far however narrow the range is: a cut gains nothing.
        if error + limit > first:
            seen = uncut
        # The zero point is rounded, which moves a range by half a step: the integers at its ends shall still lie where it is flat.
        step = activation_quantization(*span, widths.activation).scale
        seen = seen[0] - step, seen[1] + step
        return seen, within(seen, (-reach, reach)) if whole else None


def _growths(nodes: Sequence[Node], names: Mapping[relax.Var, str], ranges: Ranges) -> dict[str, float]:
    """By how much each tensor is larger than in the samples, by name, when the inputs are ``ranges.headroom`` times as large.

    A layer's output grows as its input, a product of two tensors as both together, a function as its curve says: a square by
    the square. From the headroom itself to its square; more would cost resolution for samples that hardly come.
    """
    usual = ranges.headroom
    most = usual**2
    grown: dict[relax.Var, float] = {}
    for node in nodes:
        given = [grown.get(var, usual) for var in node.inputs]
        growth = usual
        if is_function(node):
            growth = _growth_of_function(node, ranges.values.get(names.get(node.inputs[0], "")), given[0], usual)
        elif node.kind is kinds.ELTWISE and node.call.op.name == "relax.multiply":
            growth = math.prod(given)
        elif node.kind not in (kinds.OTHER, *kinds.KEPT_IN_FLOAT):
            growth = max(given, default=usual)
        grown[node.output] = min(growth, most)
    return {names[var]: growth for var, growth in grown.items() if var in names and growth > usual}


def _unseen(names: Mapping[relax.Var, str], samples: int) -> dict[str, float]:
    """By how much other samples may reach farther than ``samples``, for tensors of fewer than FEW_VALUES in all of them, by name.

    The greatest of n normal values lies at about sqrt(2 ln n) deviations. That of FEW_VALUES lies farther out by the root of this
    factor; the rest is for samples whose greatest lies nearer than it should, which costs far more than steps that are wider.
    """
    shapes = {name: known_shape(var) for var, name in names.items()}  # of several outputs there is none
    counts = {name: samples * math.prod(shape) for name, shape in shapes.items() if shape is not None}
    return {
        name: math.log(FEW_VALUES) / math.log(max(count, 16)) for name, count in counts.items() if count < FEW_VALUES
    }


def _growth_of_function(node: Node, operand: Span | None, growth: float, unknown: float) -> float:
    """How much larger a function's values become where its operand grows; ``unknown`` where they have no largest."""
    if operand is None:
        return unknown
    try:
        before, after = (
            np.abs(curve(node, np.linspace(*operand, 257) * factor)).max(initial=0.0) for factor in (1.0, growth)
        )
    except NotQuantizable:
        return unknown
    return float(after / before) if 0 < before < after < math.inf else 1.0 if before == after else unknown


def _named(node: Node) -> bool:
    """Whether a node's range is that of its output alone; the outputs of one node share theirs."""
    return isinstance(node.bindings[-1].value, relax.Call)


def _one_way(values: np.ndarray) -> bool:
    """Whether a function only rises or only falls, but for float64's rounding."""
    finite = np.clip(values, -1e300, 1e300)
    steps, slack = np.diff(finite), 1e-9 * np.abs(finite[1:])
    return bool((steps >= -slack).all() or (steps <= slack).all())


def _not_flat(values: np.ndarray, limit: float, integers: np.ndarray | None = None) -> Span:
    """Beyond which points of GRID a function stays within ``limit`` of what it is at the far end, or has the same integers."""
    low, high = (np.abs(values - values[end]) > limit for end in (0, -1))
    if integers is not None:
        low, high = low & (integers != integers[0]), high & (integers != integers[-1])
    low, high = np.flatnonzero(low), np.flatnonzero(high)
    first = GRID[max(low[0] - 1, 0)] if low.size else GRID[-1]
    last = GRID[min(high[-1] + 1, len(GRID) - 1)] if high.size else GRID[0]
    if first > last:  # flat everywhere
        return 0.0, 0.0
    return (-math.inf if first == GRID[0] else float(first)), (math.inf if last == GRID[-1] else float(last))


def _rounding(values: np.ndarray, span: Span, bits: int) -> float:
    """The most that rounding an operand within a range to ``bits`` moves a function, which is given at GRID."""
    q = activation_quantization(*span, bits)
    points = np.clip((np.arange(*activation_limits(bits)) - q.zero_point) * q.scale, *span)
    finest = GRID[GRID > 0][0]
    # Nearer to zero GRID has no points: what jumps there is no slope.
    points = np.where(np.abs(points) < finest, np.sign(points) * finest, points)
    return float(np.abs(np.diff(np.interp(points, GRID, values))).max(initial=0.0)) / 2
