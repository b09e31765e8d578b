"""Finds LayerNorm, RMSNorm, GroupNorm and the like where a model spells them out in single operators, to leave them in float.

Such a normalization divides a tensor by the root of the mean of its squares. Squares and their mean span far more powers of
two than 8 bits hold, so integers would lose the small values. To run only some of its operators on the accelerator would
cost a dequantize and a quantize around each. So all of its nodes stay in float, the subtraction of the mean before them as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvm import ir, relax

from ...dialect import kinds
from .match import Node

_ROOTS = {"relax.sqrt", "relax.rsqrt", "relax.power"}
_LONGEST = 8  # nodes between the division and the mean, and between the mean and what is squared


def keep_normalizations(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, with those that are part of a normalization set to the kind NORMALIZATION, which no rule takes."""
    maker = {node.output: node for node in nodes}
    inside: set[str] = set()
    for node in nodes:
        if len(set(node.inputs)) == 2 and _operators(node)[-1:] in (["relax.divide"], ["relax.multiply"]):
            for value, scale in (node.inputs, node.inputs[::-1]):
                inside |= _normalization(node, value, scale, maker)
    return [replace(node, kind=kinds.NORMALIZATION) if node.name in inside else node for node in nodes]


def _normalization(node: Node, value: relax.Var, scale: relax.Var, maker: dict[relax.Var, Node]) -> set[str]:
    """Names of the nodes if ``scale`` comes from the mean of the squares of ``value``."""
    to_mean, source = _back(scale, maker)
    mean = maker.get(source)
    if mean is None or mean.kind is not kinds.MEAN or not any(_ROOTS & set(_operators(n)) for n in to_mean):
        return set()
    squares, start = _back(mean.inputs[0], maker)
    if not squares or not start.same_as(value):
        return set()
    found = {node.name, mean.name, *(n.name for n in (*to_mean, *squares))}
    centred = maker.get(value)
    if centred is not None and _operators(centred) == ["relax.subtract"] and len(centred.inputs) == 2:
        middle = maker.get(centred.inputs[1])
        if middle is not None and middle.kind is kinds.MEAN:
            found |= {centred.name, middle.name}
    return found


def _back(var: relax.Var, maker: dict[relax.Var, Node]) -> tuple[list[Node], relax.Var]:
    """The chain of element-wise nodes of one tensor each that ends in ``var``, last first, and the tensor that it begins at."""
    found: list[Node] = []
    while (
        len(found) < _LONGEST
        and var in maker
        and maker[var].kind is not kinds.MEAN
        and len(set(maker[var].inputs)) == 1
    ):
        if not (maker[var].kind.by_element or maker[var].kind in (kinds.OTHER, kinds.RESHAPE)):
            break
        found.append(maker[var])
        var = maker[var].inputs[0]
    return found, var


def _operators(node: Node) -> list[str]:
    calls = [b.value for b in node.bindings if isinstance(b.value, relax.Call)]
    return [call.op.name for call in calls if isinstance(call.op, ir.Op)]
