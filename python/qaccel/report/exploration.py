"""What `explore` found, for people and for programs: a table in the terminal, explore.csv, .json and .html."""

from __future__ import annotations

import csv
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
    from .page.machines import exploration_html  # with the charting library

    front = pareto_front(rows)
    page = exploration_html(title, rows, columns_of(rows), OBJECTIVES, front)
    files = {
        "explore.csv": exploration_csv(rows).encode(),
        "explore.json": json.dumps([dict(row, front=k in front) for k, row in enumerate(rows)], indent=2).encode(),
        "explore.html": page.encode(),
    }
    return write_folder(folder, files, "exploration")
