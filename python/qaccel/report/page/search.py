"""Bits that were searched for: the Pareto curve, and what was found and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool

from .library import WHOLE, Picture, chart, shorten
from .tables import Cell, Table, number, text

Search = Mapping[str, Any]

_KINDS = {  # of plans: colour, size in pixels, words
    "curve": ("#3b7dd8", 6, "estimated curve"),
    "estimated": ("#a0a0a0", 9, "uniform width, estimated"),
    "measured": ("#5aa469", 9, "measured plan"),
    "chosen": ("#c0504d", 15, "chosen plan"),
}
_LEAST_POINTS = 1e-3  # that the picture tells apart


def pareto_picture(search: Search) -> Picture:
    """Cost along, points lost up, the latter in powers of ten."""
    cost = "bytes" if search["minimize"] == "bytes" or set(search["limits"]) == {"max_bytes"} else "cycles"
    plans = [("curve", each) for each in search["curve"]]
    plans += [(_kind(each), each) for each in search["plans"]]
    made = chart(f"{cost} of the network", "points lost, estimated", 380, y_axis_type="log")
    curve = sorted((each[cost], max(each["points"], _LEAST_POINTS)) for kind, each in plans if kind == "curve")
    made.line([x for x, _ in curve], [y for _, y in curve], line_color=_KINDS["curve"][0])
    for kind, (colour, size, words) in _KINDS.items():
        rows = [each for each_kind, each in plans if each_kind == kind]
        data = {key: [each[key] for each in rows] for key in ("name", "cycles", "bytes", "points")}
        data |= {
            "x": data[cost],
            "y": [max(points, _LEAST_POINTS) for points in data["points"]],
            "kind": [words] * len(rows),
        }
        marks = made.scatter("x", "y", size=size, source=ColumnDataSource(data), color=colour, fill_alpha=0.8)
        tips = [
            ("", "@kind"), ("plan", "@name"), ("cycles", f"@cycles{{{WHOLE}}}"), ("bytes", f"@bytes{{{WHOLE}}}"),
            ("points", "@points{0.000}"),
        ]  # fmt: skip
        made.add_tools(HoverTool(renderers=[marks], tooltips=tips))
    shorten(made.xaxis)
    return Picture(
        "pareto", "Bits by search: accuracy against cost",
        f"Plans of bits by what the network takes with them, in {cost}, and what it is estimated to lose. Fewer than "
        f"{_LEAST_POINTS:g} points are drawn as {_LEAST_POINTS:g}.",
        made, tuple((colour, words) for colour, _, words in _KINDS.values()),
    )  # fmt: skip


def search_facts(search: Search) -> list[tuple[str, str]]:
    """What was asked for and found, named."""
    drop = search["drop"]
    judged = "held-out samples" if drop["held_out"] else "samples that calibrated it"
    limits = ", ".join(f"{name.replace('_', ' ')} {value:,g}" for name, value in search["limits"].items()) or "none"
    return [
        ("minimized", search["minimize"]),
        ("limits", limits),
        (
            "chosen",
            f"{search['cycles']:,} cycles, {search['bytes']:,} B, {search['mean_weight_bits']:.2f} bits a weight, "
            f"{search['mean_stream_bits']:.2f} in its stream",
        ),
        ("estimated drop", f"{drop['points']:.3g} \u00b1 {drop['error']:.2g} points on {drop['samples']} {judged}"),
        ("objective", f"{search['objective']:,.6g}, bound {search['bound']:,.6g}, gap {100 * search['gap']:.2g}%"),
        (
            "cost, estimated against simulated",
            ", ".join(f"{100 * each:.2g}%" for each in search["rounds"]) or "no rounds",
        ),
        ("plans tried", str(search["trials"])),
        ("paid for a bit", f"{search['rate']:.2g} of the worst part's loss" if search["rate"] else "nothing"),
    ]


def decisions_table(decisions: Sequence[Mapping[str, Any]]) -> Table:
    """Why each width was chosen."""

    def row(each: Mapping[str, Any]) -> list[Cell]:
        more = len(each["tensors"]) - 1
        shares = f" and {more} that share its width" if more > 0 else ""
        return [text(each["name"] + shares), text(each["what"]), number(each["bits"]), text(each["why"])]

    return Table("why", ("layer or tensor", "of its", "bits", "why"), tuple(row(each) for each in decisions))


def plans_table(search: Search) -> Table:
    """The plans that were weighed."""
    rows = (
        [
            text(each["name"]), text(_kind(each)), Cell(f"{each['points']:.3g}", each["points"]), number(round(each["cycles"])),
            number(round(each["bytes"])),
        ]
        for each in search["plans"]
    )  # fmt: skip
    return Table("plans", ("plan", "kind", "points lost", "cycles", "bytes"), tuple(rows))


def _kind(plan: Mapping[str, Any]) -> str:
    return "chosen" if plan["chosen"] else "measured" if plan["measured"] else "estimated"
