"""What `explore` found, for people and for programs: a table in the terminal, explore.csv, .json and .html."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..run.files import write_folder
from .tables import Column, make_console, print_table

Row = Mapping[str, Any]

# All to be small. Multiply-accumulates that are left to the CPU cost no cycle of the accelerator: a machine that leaves more of
# them is not better for it.
OBJECTIVES = ("cycles", "dram_bytes", "multipliers", "sram_bytes", "cpu_macs")
FRONT = "on the front"
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0 2em; }
th, td { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: right; }
.t { text-align: left; } .front { background: #eaf2fc; } circle { fill: #b0b0b0; } circle.front { fill: #3b7dd8; }
svg { background: #fafafa; border: 1px solid #ddd; margin: 0 1em 1em 0; } text { font-size: 11px; fill: #444; }
"""


def pareto_front(rows: Sequence[Row]) -> tuple[int, ...]:
    """Numbers of the rows that compile and that no other row beats: none is as small in all of OBJECTIVES and smaller in one."""
    points = {k: tuple(row[name] for name in OBJECTIVES) for k, row in enumerate(rows) if not row["reason"]}
    return tuple(
        number
        for number, point in points.items()
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points.values()
        )
    )


def columns_of(rows: Sequence[Row]) -> list[str]:
    """What was swept, then OBJECTIVES that were not, and the reason."""
    return list(dict.fromkeys(name for row in rows for name in row))


def print_exploration(title: str, rows: Sequence[Row]) -> None:
    """The table on standard output, quickest machine first, those on the Pareto front marked; then those without a result."""
    front = pareto_front(rows)
    order = sorted(
        (k for k, row in enumerate(rows) if not row["reason"]), key=lambda k: (rows[k]["cycles"], rows[k]["dram_bytes"])
    )
    names = [name for name in columns_of(rows) if name != "reason"]
    columns = [Column(name.replace("_", " "), tuple(f"{rows[k][name]:,}" for k in order)) for name in names]
    print_table(title, [*columns, Column("front", tuple("*" if k in front else "" for k in order))])
    console = make_console()
    for row in rows:
        if row["reason"]:
            swept = " ".join(
                f"{name}={row[name]}" for name in names if row[name] is not None and name not in OBJECTIVES
            )
            console.print(f"{swept or _sizes(row)}: {row['reason']}")


def _sizes(row: Row) -> str:
    return f"multipliers={row['multipliers']} sram_bytes={row['sram_bytes']}"


def exploration_csv(rows: Sequence[Row]) -> str:
    """One line for each config, in the order of the sweep; what there is not is empty."""
    out = io.StringIO()
    names, front = columns_of(rows), pareto_front(rows)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, FRONT])
    for k, row in enumerate(rows):
        writer.writerow(["" if row[name] is None else row[name] for name in names] + ["yes" if k in front else "no"])
    return out.getvalue()


def write_exploration(folder: str | Path, title: str, rows: Sequence[Row]) -> Path:
    """explore.csv, explore.json and explore.html in ``folder``, all of them or none."""
    front = pareto_front(rows)
    files = {
        "explore.csv": exploration_csv(rows).encode(),
        "explore.json": json.dumps([dict(row, front=k in front) for k, row in enumerate(rows)], indent=2).encode(),
        "explore.html": exploration_html(title, rows).encode(),
    }
    return write_folder(folder, files, "exploration")


def exploration_html(title: str, rows: Sequence[Row]) -> str:
    """One page without anything to fetch: cycles against each other objective that differs, and the table."""
    names, front = columns_of(rows), set(pareto_front(rows))
    done = [k for k, row in enumerate(rows) if not row["reason"]]
    plots = "".join(
        _plot(rows, done, front, name)
        for name in OBJECTIVES
        if name != "cycles" and len({rows[k][name] for k in done}) > 1
    )
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr{' class=front' if k in front else ''}>"
        + "".join(f"<td{' class=t' if name == 'reason' else ''}>{_cell(row[name])}</td>" for name in names)
        + "</tr>"
        for k, row in enumerate(rows)
    )
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>'
        f"<p>Blue: on the Pareto front of {', '.join(name.replace('_', ' ') for name in OBJECTIVES)}.</p>{plots}"
        f"<table><tr>{head}</tr>{body}</table></html>\n"
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def _plot(rows: Sequence[Row], done: Sequence[int], front: set[int], name: str) -> str:
    """Cycles upwards against another objective, both from 0, as SVG; each point tells its row."""
    width, height, margin = 360, 260, 40
    most_x, most_y = (max(rows[k][axis] for k in done) or 1 for axis in (name, "cycles"))
    points = "".join(
        f'<circle{" class=front" if k in front else ""} r="4" cx="{margin + (width - 2 * margin) * rows[k][name] / most_x:.1f}" '
        f'cy="{height - margin - (height - 2 * margin) * rows[k]["cycles"] / most_y:.1f}"><title>'
        + html.escape(", ".join(f"{key} {_cell(value)}" for key, value in rows[k].items() if key != "reason"))
        + "</title></circle>"
        for k in sorted(done, key=lambda k: k in front)
    )
    axes = f"M{margin} {margin}V{height - margin}H{width - margin}"
    return (
        f'<svg width="{width}" height="{height}"><path d="{axes}" stroke="#888" fill="none"/>{points}'
        f'<text x="{margin}" y="{margin - 10}">cycles, to {most_y:,}</text>'
        f'<text x="{width - margin}" y="{height - 12}" text-anchor="end">{name.replace("_", " ")}, to {most_x:,}</text></svg>'
    )
