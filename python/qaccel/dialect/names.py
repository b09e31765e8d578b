"""Names of the calls that a node becomes where they are several: the node's name, a point, and which step it is."""

from __future__ import annotations

import re

NEGATIVE = "negative"  # of a difference: minus the second operand
PRODUCT = "product"  # of a PRelu: its slopes times its input
GREATER = "greater"  # of a PRelu: the greater of product and input
LESSER = "lesser"  # and the smaller
_PHASE = "phase"
# Rungs of a ladder, by which a steep function reads its operand at several scales.
_FINE = "fine"  # a node again, at a finer scale
_ABOVE = "above"  # before that: a layer of weights without bias and clamps, of what lies above a scale
_EXCESS = "excess"  # what lies above a scale
_SUM = "sum"  # sums of such layers, and of the function's levels
_LEVEL = "level"  # the part of the function that one scale holds
_RUNG = re.compile(
    rf"(.+?)\.({_FINE}\d+|{_ABOVE}\d+\.{_FINE}\d+|{_EXCESS}\d+_\d+|{_SUM}\d+(?:_\d+)?|{_LEVEL}\d+)(|\..+)"
)


def step(node: str, which: str) -> str:
    """The name of a step of a node."""
    return f"{node}.{which}"


def copy_of_width(tensor: str, bits: int) -> str:
    """The name of the copy of a node's or input's tensor in so many bits."""
    return step(tensor, f"to{bits}")


def phase(node: str, row: int, pixel: int) -> str:
    """The name of the convolution that makes every output at this place of a block (row, pixel)."""
    return step(node, f"{_PHASE}{row}_{pixel}")


def phase_of(which: str) -> tuple[int, int] | None:
    """The (row, pixel) of a step that is a phase; None for another step."""
    if not which.startswith(_PHASE):
        return None
    row, pixel = which.removeprefix(_PHASE).split("_")
    return int(row), int(pixel)


def fine(node: str, scale: int) -> str:
    """The name of a node again, at a finer scale."""
    return step(node, f"{_FINE}{scale}")


def above(node: str, scale: int) -> str:
    """The name, before `fine`, of a layer of what lies above a scale."""
    return step(node, f"{_ABOVE}{scale}")


def excess(node: str, scale: int, above: int) -> str:
    """The name of what lies above a scale in the operand of a layer, for that layer at another scale."""
    return step(node, f"{_EXCESS}{scale}_{above}")


def sum_above(node: str, scale: int, above: int) -> str:
    """The name of the sum of a layer at a scale and of what lies above another one."""
    return step(node, f"{_SUM}{scale}_{above}")


def sum_of_levels(node: str, scale: int) -> str:
    """The name of the sum of a function's levels from one scale on."""
    return step(node, f"{_SUM}{scale}")


def level(node: str, scale: int) -> str:
    """The name of the part of a function that one scale holds."""
    return step(node, f"{_LEVEL}{scale}")


def rung_of(name: str) -> tuple[str, str, str] | None:
    """The node, the rung of its ladder, and a point and a step of that, if any; None for the name of another call."""
    found = _RUNG.fullmatch(name)
    return (found[1], found[2], found[3]) if found else None


def is_excess(rung: str) -> bool:
    """Whether a rung is what lies above a scale."""
    return rung.startswith(_EXCESS)


def is_sum(rung: str) -> bool:
    """Whether a rung is a sum."""
    return rung.startswith(_SUM)


def is_bare(rung: str) -> bool:
    """Whether a rung is a layer without bias and clamps."""
    return rung.startswith(_ABOVE)


def level_of(rung: str) -> int | None:
    """The scale of a part of a function; None for another rung."""
    return int(rung.removeprefix(_LEVEL)) if rung.startswith(_LEVEL) else None
