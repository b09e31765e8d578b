"""Normalization over features (LayerNorm, RMSNorm, GroupNorm and the like) spelled out in single operators.

Variances need more range than activations of 8 bits have, and pieces of them on the accelerator would only cost
copies: the whole of it stays in floating point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvm import ir, relax

from ...dialect import kinds
from .match import Node

REASON = "it is part of a normalization over features, which stays in floating point"
_ROOTS = {"relax.sqrt", "relax.rsqrt", "relax.power"}
_LONGEST = 8  # operators between the parts


def keep_normalizations(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, with those of a division by the root of a mean of squares set to a kind that no rule takes."""
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
    """Operators of one tensor each that lead to ``var``, and the tensor they begin at."""
    found: list[Node] = []
    while (
        len(found) < _LONGEST
        and var in maker
        and maker[var].kind is not kinds.MEAN
        and len(set(maker[var].inputs)) == 1
    ):
        if maker[var].kind not in (kinds.ELTWISE, kinds.CLAMP, kinds.OTHER, kinds.RESHAPE):
            break
        found.append(maker[var])
        var = maker[var].inputs[0]
    return found, var


def _operators(node: Node) -> list[str]:
    calls = [b.value for b in node.bindings if isinstance(b.value, relax.Call)]
    return [call.op.name for call in calls if isinstance(call.op, ir.Op)]
