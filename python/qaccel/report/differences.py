"""The comparison of two modules, or of a module and the float model, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ..run.compare import Difference, first_parting
from .tables import Column, print_table


def print_differences(differences: Sequence[Difference], reference: str) -> None:
    """A line for each tensor, and the first one in which the two part."""
    columns = (
        Column("tensor", tuple(each.name for each in differences), text=True),
        Column("where", tuple(each.where for each in differences), dropped=1, text=True),
        Column("values", tuple(f"{each.count:,}" for each in differences), dropped=2),
        Column("differ", tuple(f"{each.differing:,}" for each in differences)),
        Column("largest", tuple(f"{each.largest:.4g}" for each in differences)),
        Column("dB", tuple(f"{each.db:.1f}" for each in differences)),
    )
    print_table(f"against '{reference}', first batch", columns)
    first = first_parting(tuple(differences))
    print(
        "they part nowhere"
        if first is None
        else f"they part first in '{first.name}' ({first.where}): {first.db:.1f} dB"
    )
