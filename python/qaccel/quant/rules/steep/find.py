"""Functions so steep near zero that 16 bits of their operand are too few: a root, logarithm or reciprocal of sums of squares.

A product of two tensors has twice the dynamic range of its operands, and a function such as Sqrt or Log undoes that. Between the
two, a tensor on one evenly spaced scale has lost the small values. What lies between is found here; `ladder` holds it at
several scales, and where it cannot, all of it stays in float, so that the cut lies before the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tvm import ir, relax

from ....dialect import kinds, operators
from ....options import Bits, BitWidths
from ..match import Node
from ..tables import evaluate
from ..weights import NotQuantizable

STEEP_STEPS = 32  # of 16 bits: a function that rounding of its operand moves by more is steep
GOOD_STEPS = 8  # with fewer than that, no further scale is taken
MOST_LEVELS, RATIOS = 3, range(4, 13)
HIGHEST = (1 << 15) - 1
Range = tuple[float, float]


@dataclass(frozen=True)
class Levels:
    """The scales at which the operand of a steep function is held: each reaches 2**-``ratio`` times as far as the one before.

    ``chain``: the nodes between the products and the function, products among them, in order. ``operands``: whether what the
    products multiply is held at a second scale as well.
    """

    count: int
    ratio: int
    chain: tuple[Node, ...]
    operands: bool

    def tops(self, top: float) -> list[float]:
        """How far each level reaches, the first one to ``top``."""
        return [top * 2.0 ** (-self.ratio * k) for k in range(self.count)]


def steep_tables(nodes: Iterable[Node], ranges: Mapping[str, Range]) -> dict[relax.Var, Levels]:
    """The steep functions of a network by the variable of their result."""
    nodes = list(nodes)
    maker = {node.output: node for node in nodes}
    found = {}
    for node in nodes:
        if node.kind is not kinds.TABLE or len(set(node.inputs)) != 1:
            continue
        chain, products = _chain(node.inputs[0], maker)
        source = _maker(node.inputs[0], maker)
        if not products or source is None or ranges.get(source.range_name, (-1.0, 0.0))[0] < 0:
            continue
        top = ranges[source.range_name][1]
        given = _within_its_range(node, top, ranges)
        if given is None:
            continue
        function, step = given
        try:
            if _worst(function, [top], step) > STEEP_STEPS:
                squares = _worst(partial(_of_square, function), [top**0.5], step) > STEEP_STEPS
                found[node.output] = replace(_fewest(function, top, step), chain=chain, operands=squares)
        except NotQuantizable:
            continue
    return found


def is_steep(node: Node, operand: Range, ranges: Mapping[str, Range]) -> bool:
    """Whether 16 bits of an operand within a range, which no number is below zero, are too few for a function."""
    given = _within_its_range(node, operand[1], ranges) if operand[0] >= 0 else None
    try:
        return given is not None and _worst(given[0], [operand[1]], given[1]) > STEEP_STEPS
    except NotQuantizable:
        return False


def _within_its_range(
    node: Node, top: float, ranges: Mapping[str, Range]
) -> tuple[Callable[[np.ndarray], np.ndarray], float] | None:
    """A function cut to the range of its output, and the step of 16 bits there; None without a range or operand."""
    span = ranges.get(node.range_name)
    if span is None or top <= 0:
        return None

    def function(x: np.ndarray) -> np.ndarray:
        return within(evaluate(node, x), span)

    return function, max(map(abs, span)) / HIGHEST or 1.0


def _of_square(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    return function(x * x)


def within(values: np.ndarray, span: Range) -> np.ndarray:
    """A function's values within the range of its output; what is no number is the least of them."""
    return np.clip(np.nan_to_num(values, nan=span[0], posinf=span[1], neginf=span[0]), *span)


def _fewest(function: Callable[[np.ndarray], np.ndarray], top: float, step: float) -> Levels:
    best: tuple[float, Levels] | None = None
    for count in range(2, MOST_LEVELS + 1):
        for ratio in RATIOS:
            levels = Levels(count, ratio, (), False)
            worst = _worst(function, levels.tops(top), step)
            if best is None or worst < best[0]:
                best = worst, levels
        assert best is not None
        if best[0] <= GOOD_STEPS:
            break
    assert best is not None
    return best[1]


def _worst(function: Callable[[np.ndarray], np.ndarray], tops: list[float], step: float) -> float:
    """How many steps the rounding of an operand moves a function, that is held at scales which reach to ``tops``."""
    worst = 0.0
    for top, bottom in zip(tops, [*tops[1:], 0.0], strict=True):
        half = top / HIGHEST / 2
        x = np.concatenate([[bottom], np.geomspace(max(bottom, half), top, 400)])
        with np.errstate(all="ignore"):
            worst = max(worst, float(np.abs(function(x + half) - function(x)).max()) / step)
    return worst


def _maker(var: relax.Var, maker: Mapping[relax.Var, Node]) -> Node | None:
    node = maker.get(var)
    while node is not None and (node.kind.renames or isinstance(node.bindings[-1].value, relax.Var)):
        node = maker.get(node.inputs[0])
    return node


def _chain(var: relax.Var, maker: Mapping[relax.Var, Node]) -> tuple[tuple[Node, ...], bool]:
    """The nodes behind products that lead to a tensor, products among them; whether there is a product."""
    found: dict[relax.Var, Node] = {}
    products = False
    pending = [var]
    while pending:
        node = _maker(pending.pop(), maker)
        if node is None or node.output in found or not (is_product(node) or passes(node)):
            continue
        found[node.output] = node
        if is_product(node):
            products = True
        else:
            pending += node.inputs
    order = {node.output: k for k, node in enumerate(maker.values())}
    return tuple(sorted(found.values(), key=lambda node: order[node.output])), products


def is_product(node: Node) -> bool:
    """Whether it multiplies a tensor by a tensor."""
    return node.kind is kinds.ELTWISE and node.call.op.name == "relax.multiply" and len(node.inputs) == 2


def passes(node: Node) -> bool:
    """Whether its result has the dynamic range of its operands: sums, means, moves, and products with constants of one sign."""
    if node.kind is kinds.ELTWISE:
        return node.call.op.name != "relax.multiply" or least_constant(node) > 0
    if node.kind in (kinds.GEMM, kinds.CONV):
        return least_constant(node) >= 0
    return node.kind in (kinds.CLAMP, kinds.MOVE, kinds.MEAN, kinds.AVG_POOL)


def least_constant(node: Node) -> float:
    """The least value of all constant operands of a node, its bias among them; minus infinity without one."""
    found = [
        operators.constant(arg)
        for binding in node.bindings
        if isinstance(binding.value, relax.Call)
        for arg in binding.value.args
        if isinstance(arg, ir.GenericConst) and hasattr(arg.value, "numpy")
    ]
    return min((float(each.min()) for each in found if each.size), default=-np.inf)


def wide_reads(steep: Mapping[relax.Var, Levels], bits: Bits) -> set[relax.Var]:
    """Results of what reads its operands at 16 bits whatever was asked: steep functions, and what leads to them from products.

    Layers with weights keep their widths, and so does what the user's plan names.
    """
    named = set() if isinstance(bits, BitWidths) else set(bits)
    wide = set(steep)
    for levels in steep.values():
        for node in levels.chain:
            if not (node.kind.weights or is_product(node) or named & {each.name for each in node.all_nodes}):
                wide.add(node.output)
    return wide


def keep_steep(
    nodes: Iterable[Node],
    steep: Mapping[relax.Var, Levels],
    failed: AbstractSet[relax.Var],
    uses: Mapping[relax.Var, int],
) -> list[Node]:
    """The nodes, with the functions ``failed`` and what leads to them from products kept in float, where nothing else reads it."""
    kept = set(failed)
    nodes = list(nodes)
    inside = {node.output for var in failed & steep.keys() for node in steep[var].chain if not node.kind.weights}
    for node in reversed(nodes):
        reads = [each for each in nodes if node.output in each.inputs]
        renames = node.kind.renames and reads
        alone = reads and uses[node.output] == sum(each.inputs.count(node.output) for each in reads)
        if (node.output in inside or renames) and alone and all(each.output in kept for each in reads):
            kept.add(node.output)
    return [
        replace(each, kind=kinds.STEEP) if each.output in kept and not each.kind.renames else each for each in nodes
    ]
