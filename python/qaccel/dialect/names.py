"""Names of the calls that a node becomes where they are several: the node's name, a point, and which step it is."""

from __future__ import annotations

NEGATIVE = "negative"  # of a difference: minus the second operand
PRODUCT = "product"  # of a PRelu: its slopes times its input
GREATER = "greater"  # of a PRelu: the greater of product and input
LESSER = "lesser"  # and the smaller
_PHASE = "phase"


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
