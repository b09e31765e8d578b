"""Steep functions on a tensor that is held at several scales, each a fraction of the one before, saturating where it ends.

With T[0] > T[1] > ... the ends of the scales, f(x) is the sum of f(min(max(x, T[k+1]), T[k])) - f(T[k+1]), the last one of
f(min(x, T[n])): each is a table of x as one of the scales holds it, and their sum is exact. A finer scale of x is computed
again from what x was made from, by the same rules, with a shorter range: sums of what is not negative may saturate on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from tvm import relax

from ....dialect import kinds, names, operators
from ....dialect.kinds import Kind
from ....dialect.operators import Clamp, EltwiseAttrs, Quantization
from ....dialect.quantized import TablePart
from ..emitter import Emitter, Held
from ..layers import NodeBits, Output, Rule, expressible, output
from ..match import Node
from ..spans.spans import Spans
from ..tables import evaluate, make_table
from ..weights import NotQuantizable, activation_quantization
from .find import Levels, is_product, least_constant, within

# Their values are values of their operand.
_PASSING = (kinds.CLAMP, kinds.MOVE, kinds.NEAREST, kinds.MAX_POOL, kinds.MAX)


def _monotone(node: Node, constant: float) -> bool:
    """Whether a sum, maximum or minimum of what is not negative may be made of operands that saturate."""
    of_two = len(node.inputs) == 2
    return (node.call.op.name == "relax.add" and (of_two or constant >= 0)) or (
        node.call.op.name in ("relax.maximum", "relax.minimum")
    )


def emit_levels(
    node: Node, bits: NodeBits, levels: Levels, emitter: Emitter, rules: Mapping[Kind, Rule],
    widths: Mapping[relax.Var, NodeBits],
) -> None:  # fmt: skip
    """A steep function, from its operand at all scales. Raises NotQuantizable where that cannot be had at another scale."""
    first = emitter.integers(node.inputs[0], bits.activation)
    tops = levels.tops(first.q.scale * first.q.reach)
    finer = _Finer(emitter, rules, widths, tops, levels.operands)
    held = [first, *(finer.level(node.inputs[0], k) for k in range(1, len(tops)))]
    out = output(node, bits.out, emitter)
    parts = _parts(node, tops, emitter.spans.room(node.range_name, bits.out))
    off_by, total = 0.0, None
    for k in reversed(range(len(tops))):
        function = partial(_value, node, parts[k])
        ends = function(np.linspace(0.0, tops[k], 1025))
        q = activation_quantization(min(float(np.nanmin(ends)), 0.0), max(float(np.nanmax(ends)), 0.0), 16)
        span = 0.0, tops[k], -np.inf, np.inf
        made = make_table(function, held[k].q, q, span[:2], span[2:])
        off_by += made.off_by * q.scale / out.q.scale
        name = names.level(node.name, k)
        emitter.table_spans[name] = span
        attrs = operators.TableAttrs(name, node.op, q, held[k].q, made.knots, made.origin)
        looked_up = replace(first, var=emitter.builder.emit(attrs.call(held[k].var, made.values)), q=q)
        ends = within(_value(node, parts[-1], np.array([0.0, tops[k]])), (parts[-1].lo, parts[-1].hi))
        total = looked_up if total is None else _added(node, emitter, k, looked_up, total, ends, out)
    emitter.levels[node.name] = parts
    assert total is not None
    emitter.notes.append(
        f"{node.name}: steep near zero, it reads its operand at {len(tops)} scales of 16 bits; its tables are off by at most "
        f"{off_by:.1f} steps"
    )
    emitter.held[node.output] = replace(total, span=out.span)


def _parts(node: Node, tops: list[float], room: tuple[float, float]) -> tuple[TablePart, ...]:
    """The function's parts, in numbers that float32 has, so that every form of the network holds the same ones."""
    lo, hi = (float(np.float32(bound)) for bound in room)
    parts = []
    for top in tops[1:]:
        bottom = float(np.float32(top))
        value = _value(node, TablePart(None, 0.0, lo, hi), np.array([bottom]))
        parts.append(TablePart(bottom, float(np.float32(value[0])), lo, hi))
    return (*parts, TablePart(None, 0.0, lo, hi))


def _value(node: Node, part: TablePart, x: np.ndarray) -> np.ndarray:
    """A part of the function; what is no number stays none."""
    with np.errstate(all="ignore"):
        above = x if part.bottom is None else np.maximum(x, part.bottom)
        return np.clip(evaluate(node, above), part.lo, part.hi) - part.value


def _added(node: Node, emitter: Emitter, k: int, upper: Held, lower: Held, ends: np.ndarray, out: Output) -> Held:
    """The sum of two levels; that of all of them is the node's output."""
    q, clamp, name = out.q, out.clamp, node.name
    if k:
        q = activation_quantization(min(float(ends.min()), 0.0), max(float(ends.max()), 0.0), 16)
        clamp, name = Clamp.whole(16), names.sum_of_levels(node.name, k)
    attrs = EltwiseAttrs(name, node.op, q, clamp, "add", upper.q, lower.q)
    expressible(attrs.multipliers)
    return replace(upper, var=emitter.builder.emit(attrs.call(upper.var, lower.var)), q=q)


class _Finer:
    """Tensors at the finer scales of one ladder. ``tops``: how far the operand of the function reaches at each level."""

    def __init__(
        self, emitter: Emitter, rules: Mapping[Kind, Rule], widths: Mapping[relax.Var, NodeBits], tops: list[float],
        operands: bool,
    ) -> None:  # fmt: skip
        self.emitter, self.rules, self.widths, self.operands = emitter, rules, widths, operands
        self.fractions = [top / tops[0] for top in tops]
        self.tops = tops
        self._made: dict[tuple[relax.Var, float], Held] = {}

    def level(self, var: relax.Var, k: int) -> Held:
        """A tensor at level ``k``."""
        return self.held(var, self.tops[k], k)

    def held(self, var: relax.Var, top: float, k: int) -> Held:
        """min(``var``, ``top``) with all of 16 bits, as level ``k`` needs it."""
        if (var, top) not in self._made:
            self._made[var, top] = self._make(var, top, k)
        return self._made[var, top]

    def _make(self, var: relax.Var, top: float, k: int) -> Held:
        emitter = self.emitter
        node = emitter.made_by(var)
        if node is None or var not in emitter.held:
            raise NotQuantizable("its operand does not come from an operation on integers")
        if node.kind.renames or isinstance(node.bindings[-1].value, relax.Var):
            inner = self.held(node.inputs[0], top, k)
            return self._with({node.inputs[0]: inner}, node, lambda: emitter.rename(node))
        if is_product(node):
            return self._again(node, self._operands(node, top, k), top, k)
        constant = least_constant(node)
        if node.kind is kinds.TABLE or (node.kind in (kinds.GEMM, kinds.CONV) and constant < 0):
            return self._again(node, {}, top, k)
        if emitter.spans.of(node.range_name)[0] < 0 or any(self._least(each) < 0 for each in node.inputs):
            raise NotQuantizable("its operand adds what may be negative")
        if node.kind in (kinds.GEMM, kinds.CONV):
            return self._weighted(node, top, k)
        share = 1.0
        if node.kind is kinds.MEAN:
            share = float(
                np.prod(operators.static_shape(node.inputs[0])) / np.prod(operators.static_shape(node.output))
            )
        elif node.kind is kinds.AVG_POOL:
            share = float(np.prod([int(size) for size in node.call.attrs.pool_size]))
        elif node.kind is kinds.ELTWISE and node.call.op.name == "relax.multiply" and constant > 0:
            share = 1.0 / constant
        elif not (node.kind in _PASSING or (node.kind is kinds.ELTWISE and _monotone(node, constant))):
            raise NotQuantizable(
                f"its operand comes through {node.op or node.name}, which has no form at another scale"
            )
        return self._again(node, {each: self.held(each, top * share, k) for each in set(node.inputs)}, top, k)

    def _least(self, var: relax.Var) -> float:
        """The least value of a tensor."""
        held = self.emitter.held.get(var)
        return -1.0 if held is None else held.span[0]

    def _operands(self, node: Node, top: float, k: int) -> dict[relax.Var, Held]:
        """A square's operand at a second scale, where that is wanted and can be had: it saturates where the square does."""
        if not self.operands or len(set(node.inputs)) != 1:
            return {}
        reach = (top / self.fractions[k] * self.fractions[1]) ** 0.5
        root = node.inputs[0]
        try:
            return {root: self._signed(root, reach)}
        except NotQuantizable:
            return {}

    def _signed(self, var: relax.Var, top: float) -> Held:
        """``var`` within -top..top, computed again by the layer with weights that it comes from."""
        node = self.emitter.made_by(var)
        if node is None or var not in self.emitter.held:
            raise NotQuantizable("it comes from no layer")
        if (var, top) in self._made:
            return self._made[var, top]
        if node.kind.renames or isinstance(node.bindings[-1].value, relax.Var):
            inner = self._signed(node.inputs[0], top)
            made = self._with({node.inputs[0]: inner}, node, lambda: self.emitter.rename(node))
        elif node.kind is kinds.MOVE and len(set(node.inputs)) == 1:
            made = self._again(node, {node.inputs[0]: self._signed(node.inputs[0], top)}, top, 1)
        elif node.kind.weights:
            made = self._again(node, {}, top, 1)
        else:
            raise NotQuantizable("it comes from no layer")
        self._made[var, top] = made
        return made

    def _weighted(self, node: Node, top: float, k: int) -> Held:
        """A layer of weights that are not negative: of each level of its operand what lies above the next, added up.

        Sums saturate, so it does not matter that a level's part alone may be beyond ``top``.
        """
        source, steps = node.inputs[0], self.tops_of(node.inputs[0], k)
        total = self._again(node, {source: self.held(source, steps[-1], k)}, top, k)
        bare = replace(node, bindings=node.bindings[:1], added=(), clamps=())
        for level in range(k):
            coarse = self.emitter.held[source] if level == 0 else self.held(source, steps[level], level)
            above = self._above(node, coarse, steps[level + 1], (k, level))
            part = self._again(replace(bare, name=names.above(node.name, level)), {source: above}, top, k, node)
            name = names.sum_above(node.name, k, level)
            attrs = EltwiseAttrs(name, node.op, total.q, Clamp.whole(16), "add", part.q, total.q)
            expressible(attrs.multipliers)
            total = replace(total, var=self.emitter.builder.emit(attrs.call(part.var, total.var)))
        return total

    def tops_of(self, var: relax.Var, k: int) -> list[float]:
        """How far a tensor reaches at the levels up to ``k``."""
        held = self.emitter.held[var]
        return [held.q.scale * held.q.reach * fraction for fraction in self.fractions[: k + 1]]

    def _above(self, node: Node, held: Held, bottom: float, which: tuple[int, int]) -> Held:
        """max(x - bottom, 0)."""
        name = names.excess(node.name, *which)
        one = Quantization(16, float(np.float32(bottom / (1 << 14))), 0)
        clamp = Clamp(held.q.zero_point, Clamp.whole(held.q.bits).hi)
        attrs = EltwiseAttrs(name, "Sub", held.q, clamp, "add", held.q, one)
        expressible(attrs.multipliers)
        constant = relax.const(np.full((1, 1, 1, 1), -(1 << 14), "int16"))
        return replace(held, var=self.emitter.builder.emit(attrs.call(held.var, constant)))

    def _again(
        self, node: Node, operands: Mapping[relax.Var, Held], top: float, k: int, of: Node | None = None
    ) -> Held:
        """A node computed once more, from other operands and with a range to ``top``."""
        emitter = self.emitter
        result = (of or node).output
        clone = replace(node, name=names.fine(node.name, k), output=result)
        spans, notes = emitter.spans, len(emitter.notes)
        name = clone.range_name
        least = -top if spans.of((of or node).range_name)[0] < 0 else 0.0
        emitter.spans = Spans(
            {**spans.expected, name: (least, top)}, {**spans.limits, name: (least, top)}, spans.headroom, spans.growth
        )
        width = replace(self.widths[result], out=16)
        try:
            return self._with(operands, clone, lambda: self.rules[node.kind](clone, width, emitter))
        finally:
            emitter.spans = spans
            del emitter.notes[notes:]

    def _with(self, operands: Mapping[relax.Var, Held], node: Node, emit: Callable[[], None]) -> Held:
        """What ``emit`` holds of a node's output, while its operands are held otherwise."""
        held = self.emitter.held
        before = {var: held[var] for var in (*operands, node.output) if var in held}
        held.update(operands)
        held.pop(node.output, None)
        try:
            emit()
            if node.output not in held:
                raise NotQuantizable("its operand cannot be had at another scale")
            return held[node.output]
        finally:
            held.pop(node.output, None)
            held.update(before)
