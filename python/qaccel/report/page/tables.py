"""Tables and tiles of a page as HTML. What comes from outside, names of nodes first of all, is text and nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_FIGURES = "text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums"  # as .n of page.css
_LONG = 28  # characters from which a cell may take several lines


@dataclass(frozen=True)
class Cell:
    """``order``: by what its column is sorted, None for its text. ``markup``: HTML made here that goes behind the text; without it
    the page's script reads the order from the text."""

    text: str
    order: float | None = None
    markup: str = ""

    @property
    def escaped(self) -> str:
        """The cell's inside as HTML."""
        return html.escape(self.text) + self.markup


def text(value: object) -> Cell:
    """A cell of words."""
    return Cell(str(value))


def number(value: float, form: str = ",", unit: str = "") -> Cell:
    """A cell of a figure, sorted by its value."""
    return Cell(f"{value:{form}}{unit}", float(value))


@dataclass(frozen=True)
class Table:
    """``heads`` of the columns, and cells row by row. A click on a head sorts by it."""

    name: str
    heads: tuple[str, ...]
    rows: tuple[Sequence[Cell], ...]


def table_html(table: Table) -> str:
    """The table in a box of its own, which scrolls sideways where the page is narrow."""
    figures = [
        bool(table.rows) and all(row[k].order is not None and not row[k].markup for row in table.rows)
        for k in range(len(table.heads))
    ]
    head = "".join(
        f'<th scope="col"{_right(right)}><button type="button">{html.escape(name)}</button></th>'
        for name, right in zip(table.heads, figures, strict=True)
    )
    body = "".join("<tr>" + "".join(map(_cell, row)) for row in table.rows)  # HTML needs no ends of rows and cells
    of_figures = ",".join(f"#{table.name} td:nth-child({k})" for k, right in enumerate(figures, 1) if right)
    style = f"<style>{of_figures}{{{_FIGURES}}}</style>" if of_figures else ""
    return (
        f'{style}<div class="wide" tabindex="0" role="region" aria-label="{html.escape(table.name)}"><table id="{table.name}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts_html(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, one below the other."""
    lines = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def tiles_html(tiles: Sequence[tuple[str, str, str]]) -> str:
    """(value, what it is, what to hold it against) each."""
    made = "".join(
        f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(name)}</span><small>{html.escape(more)}</small></div>'
        for value, name, more in tiles
    )
    return f'<div class="tiles">{made}</div>'


def _cell(cell: Cell) -> str:
    order = f' data-order="{cell.order:.12g}"' if cell.order is not None and not cell.text else ""
    kind = "" if len(cell.text) < _LONG else " class=long"
    return f"<td{kind}{order}>{cell.escaped}"


def _right(right: bool) -> str:
    return " class=n" if right else ""
