"""The picture of SRAM over time: who is where, and how much is in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool, Range1d

from .library import WHOLE, WORDS, Picture, chart, shorten, tint, up_from_zero

KINDS = {
    "map": ("#3b7dd8", "a whole map between layers"), "rows": ("#5aa469", "rows of a map in a cascade"),
    "input": ("#e0a030", "tile of an input"), "output": ("#8e5ea2", "tile of an output"),
    "parameters": ("#c0504d", "parameter records"), "table": ("#46a6b0", "table"),
    "weights": ("#7a7f2e", "weight streams that wait"), "sums": ("#9c6b4e", "partial sums of a pool"),
}  # fmt: skip
LINE = "#d6336c"  # of what is in use
_MOST_BLOCKS = 1000  # that are drawn
_NAMED_WIDTH, _NAMED_HEIGHT = 0.06, 0.05  # share of the picture from which a block bears its name
_CHARACTERS = 110  # of a name as wide as the picture


def sram_picture(report: Mapping[str, Any]) -> Picture:
    """Blocks as rectangles: cycles along, addresses up; the line is the sum of what is in use."""
    blocks: Sequence[Mapping[str, Any]] = report["sram"]
    shown = sorted(blocks, key=lambda each: -each["bytes"] * (each["end"] - each["begin"]))[:_MOST_BLOCKS]
    cycles = max(report["cycles"], 1)
    line = in_use(blocks)
    top = max((each["addr"] + each["bytes"] for each in blocks), default=1)
    made = chart("cycle", "address in SRAM, and bytes in use", 400, x_range=Range1d(0, cycles, bounds="auto"))
    quads = [_rectangles(made, kind, [each for each in shown if each["kind"] == kind]) for kind in KINDS]
    made.step([cycle for cycle, _ in line], [size for _, size in line], mode="after", line_color=LINE, line_width=1.5)
    named = [
        each for each in shown
        if each["end"] - each["begin"] > _NAMED_WIDTH * cycles and each["bytes"] > _NAMED_HEIGHT * top
    ]  # fmt: skip
    names = {
        "x": [(each["begin"] + each["end"]) / 2 for each in named],
        "y": [each["addr"] + each["bytes"] / 2 for each in named],
        "text": [_short(each["name"], int(_CHARACTERS * (each["end"] - each["begin"]) / cycles)) for each in named],
    }
    made.text(
        "x", "y", "text", source=ColumnDataSource(names), text_align="center", text_baseline="middle", text_font_size="11px",
        text_color=WORDS,
    )  # fmt: skip
    up_from_zero(made, top)
    for axis in (made.xaxis, made.yaxis):
        shorten(axis)
    tips = [
        ("", "$name"), ("of", "@name"), ("bytes", f"@bytes{{{WHOLE}}} from @addr{{{WHOLE}}}"),
        ("cycles", f"@begin{{{WHOLE}}} to @end{{{WHOLE}}}"),
    ]  # fmt: skip
    made.add_tools(HoverTool(renderers=quads, tooltips=tips))
    left_out = f" The {len(blocks) - len(shown):,} smallest blocks are left out." if len(shown) < len(blocks) else ""
    used = [kind for kind in KINDS if any(each["kind"] == kind for each in blocks)]
    return Picture(
        "sram", "SRAM over time",
        f"Which block lies where, from when it is first touched to when it is last read. The most in use at once is "
        f"{max((size for _, size in line), default=0):,} B, up to address {report['memory']['peak_sram_bytes']:,}, of "
        f"{report['hw']['sram_bytes']:,} B that there are.{left_out}",
        made, (*(KINDS[kind] for kind in used), (LINE, "bytes in use, as a line")),
    )  # fmt: skip


def _rectangles(made: Any, kind: str, blocks: Sequence[Mapping[str, Any]]) -> Any:
    """The blocks of one kind, drawn."""
    data = {key: [each[key] for each in blocks] for key in ("begin", "end", "addr", "name", "bytes")}
    data["top"] = [each["addr"] + each["bytes"] for each in blocks]
    colour, words = KINDS[kind]
    return made.quad(
        left="begin", right="end", bottom="addr", top="top", source=ColumnDataSource(data), fill_color=tint(colour),
        line_color=colour, line_width=0.5, name=words,
    )  # fmt: skip


def in_use(blocks: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """(cycle, bytes in use from there on)."""
    changes: dict[int, int] = {}
    for each in blocks:
        changes[each["begin"]] = changes.get(each["begin"], 0) + each["bytes"]
        changes[each["end"]] = changes.get(each["end"], 0) - each["bytes"]
    now, found = 0, []
    for cycle in sorted(changes):
        now += changes[cycle]
        found.append((cycle, now))
    return found


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else "\u2026" + name[1 - most :]
