"""Tables in the terminal. One that is too wide loses columns, said below it, and never a digit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH_OF_A_FILE = 180  # columns of text, where the output goes to no terminal
LEAST_TEXT = 12  # characters to which a column of texts may shrink
_GAP = 2  # blanks between columns


@dataclass(frozen=True)
class Column:
    """A column: numbers, which are printed whole and to the right, or texts, which may go over several lines.

    ``dropped``: which columns a narrow terminal loses first, the lowest number before the others; 0 for one that stays.
    """

    name: str
    cells: tuple[str, ...]
    dropped: int = 0
    text: bool = False

    @property
    def least(self) -> int:
        """Characters that it needs."""
        longest = max(map(len, self.cells), default=0)
        words = max(map(len, self.name.split()))
        return max(words, min(longest, LEAST_TEXT) if self.text else longest)


def make_console() -> Any:
    """Standard output as rich sees it. Names of nodes are text: brackets and colons in them mean nothing."""
    from rich.console import Console

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(highlight=False, markup=False, emoji=False, width=None if is_terminal else WIDTH_OF_A_FILE)


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into so many characters, in their order."""
    kept = list(columns)
    for column in sorted((each for each in columns if each.dropped), key=lambda each: each.dropped):
        if needed(kept) <= width:
            break
        kept.remove(column)
    return kept


def needed(columns: Sequence[Column]) -> int:
    """Characters that columns side by side need at least."""
    return sum(column.least for column in columns) + _GAP * (len(columns) - 1)


def print_table(title: str, columns: Sequence[Column]) -> None:
    """The table on standard output; all of it where that is a file."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = make_console()
    kept = fitting(columns, console.width) if console.is_terminal else list(columns)
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0)
    )  # fmt: skip
    for column in kept:
        header = column.name if column.text else "\n".join(column.name.split())
        table.add_column(
            header, justify="left" if column.text else "right", no_wrap=not column.text, overflow="fold",
            min_width=column.least,
        )  # fmt: skip
    for row in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*row)
    console.print(table, width=max(console.width, needed(kept)), soft_wrap=False, crop=False)
    lost = [column.name for column in columns if column not in kept]
    if lost:
        console.print(f"this terminal is too narrow for: {', '.join(lost)}; a wider one, a file or --report has them")
