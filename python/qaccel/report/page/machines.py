"""``explore.html``: one network on many machines, what each takes and which are worth building."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool, Range1d

from .frame import whole_page
from .library import WHOLE, Picture, chart, picture_html, shorten, up_from_zero
from .tables import Cell, Table, number, table_html, text

Row = Mapping[str, Any]

_FRONT, _OTHER = "#3b7dd8", "#a0a0a0"


def exploration_html(
    title: str, rows: Sequence[Row], names: Sequence[str], objectives: Sequence[str], front: Sequence[int]
) -> str:
    """Cycles against each other objective that differs, and the table of all. ``names``: its columns; ``front``: rows on the Pareto
    front of the objectives."""
    done = [k for k, row in enumerate(rows) if not row["reason"]]
    swept = [name for name in names if name not in objectives and name != "reason"]
    pictures = [
        _picture(rows, done, set(front), name, swept)
        for name in objectives
        if name != "cycles" and len({rows[k][name] for k in done}) > 1
    ]
    fronts = ", ".join(name.replace("_", " ") for name in objectives)
    table = Table(
        "machines", tuple(name.replace("_", " ") for name in (*names, "front")),
        tuple([*(_cell(row[name]) for name in names), text("yes" if k in front else "")] for k, row in enumerate(rows)),
    )  # fmt: skip
    body = (
        f"<h1>{text(title).escaped}</h1><p class='quiet'>On the front: no other machine is as small in all of {fronts}, and "
        f"smaller in one.</p><div class='two'>{''.join(map(picture_html, pictures))}</div>{table_html(table)}"
    )
    return whole_page(title, body, pictures)


def _picture(rows: Sequence[Row], done: Sequence[int], front: set[int], name: str, swept: Sequence[str]) -> Picture:
    """Cycles upwards against another objective, both from 0."""
    words = name.replace("_", " ")
    keys = (*swept, "cycles", name)
    done = sorted(done, key=lambda k: k in front)  # those on the front above the others
    source = ColumnDataSource(
        {
            **{key: [rows[k][key] for k in done] for key in keys},
            "colour": [_FRONT if k in front else _OTHER for k in done], "size": [12 if k in front else 8 for k in done],
        }
    )  # fmt: skip
    most = max((rows[k][name] for k in done), default=0)
    made = chart(words, "cycles", 340, x_range=Range1d(0, 1.05 * most or 1))
    points = made.scatter(name, "cycles", size="size", source=source, color="colour", fill_alpha=0.7)
    up_from_zero(made, max((rows[k]["cycles"] for k in done), default=0))
    for axis in (made.xaxis, made.yaxis):
        shorten(axis)
    made.add_tools(
        HoverTool(
            renderers=[points],
            tooltips=[(key.replace("_", " "), f"@{{{key}}}{{{WHOLE}}}") for key in dict.fromkeys(keys)],
        )
    )
    return Picture(
        name.replace("_", "-"), f"Cycles against {words}", "Each point is a machine. Left and low is better.", made,
        ((_FRONT, "on the Pareto front"), (_OTHER, "beaten by another")),
    )  # fmt: skip


def _cell(value: Any) -> Cell:
    return text("") if value is None else number(value) if isinstance(value, int) else text(value)
