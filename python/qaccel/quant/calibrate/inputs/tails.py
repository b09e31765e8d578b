"""Ranges of what divides by made-up values: a few of these lie near zero, and what they give says nothing of a user's data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ....emulate.executor import execute
from ....model import Model
from ..ranges import Ranges

POLES = ("Reciprocal", "Div", "Pow", "Tan")  # operators that some finite operand makes infinite
FAR = 64.0  # times a pole's operand, or what is usual: farther values come from the neighbourhood of the pole
USUAL = 0.95  # of the values that are not zero
ROOM = 4.0  # how much farther than the usual ones values keep their place


@dataclass(frozen=True)
class Tails:
    """``ranges`` without the far values of ``nodes``, which are poles and what is made of their results, in order."""

    ranges: Ranges
    nodes: tuple[str, ...] = ()

    def note(self, before: Ranges) -> str:
        """A line for the user that names the first node; empty where there is none."""
        if not self.nodes:
            return ""
        name = self.nodes[0]
        far, kept = (max(map(abs, each.values[name])) for each in (before, self.ranges))
        others = f" (and {len(self.nodes) - 1} nodes behind it)" if len(self.nodes) > 1 else ""
        return (
            f"node '{name}' gives values up to {far:.3g} where made-up inputs come near its pole; its range{others} is cut to "
            f"{kept:.3g}, which may be far off: give --calibration-data, or --input-range LO,HI"
        )


def without_tails(model: Model, samples: Mapping[str, np.ndarray], ranges: Ranges) -> Tails:
    """``ranges`` of made-up ``samples``, cut to ROOM times USUAL values behind poles, where some lie FAR beyond."""
    sizes = {name: max(map(abs, span)) for name, span in ranges.values.items()}
    makers = {name: node.name for node in model.operators for name in node.outputs}
    behind: set[str] = set()  # tensors
    nodes = []
    for node in model.operators:
        first = sizes.get(makers.get(node.inputs[0], node.inputs[0]), 0.0) if node.inputs else 0.0
        pole = node.op_type in POLES and sizes.get(node.name, 0.0) > FAR * first
        if pole or behind & set(node.inputs):
            behind |= set(node.outputs)
            nodes.append(node.name)
    if not nodes:
        return Tails(ranges)
    usual = dict.fromkeys(nodes, 0.0)

    def observe(name: str, value: np.ndarray) -> None:
        if name in usual and (size := np.abs(value[value != 0])).size:
            usual[name] = max(usual[name], float(np.quantile(size, USUAL)))

    execute(model, samples, observe)
    values = dict(ranges.values)
    cut = [name for name in nodes if 0 < FAR * usual[name] < sizes.get(name, 0.0)]
    for name in cut:
        lo, hi = values[name]
        values[name] = max(lo, -ROOM * usual[name]), min(hi, ROOM * usual[name])
    return Tails(replace(ranges, values=values), tuple(cut))
