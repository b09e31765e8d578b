"""The report's section on bits that were searched for: why each width, the Pareto curve as data and as a picture."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..dialect.chosen import Chosen

_WIDTH, _HEIGHT, _MARGIN = 760, 380, 60  # of the picture, in pixels
_KINDS = (  # of plans: class, colour, radius, words of the key
    ("curve", "#3b7dd8", 3, "estimated curve"),
    ("estimated", "#b0b0b0", 4, "uniform width, estimated"),
    ("measured", "#5aa469", 4, "measured plan"),
    ("chosen", "#c0504d", 7, "chosen plan"),
)
_LEAST_POINTS = 1e-3  # that the picture tells apart


def search_entry(chosen: Chosen) -> dict[str, Any]:
    """The search as report.json has it."""
    entry = asdict(chosen)
    entry["plan"] = {
        name: {"weight_bits": each.weight_bits, "activation_bits": each.activation_bits}
        for name, each in chosen.plan.items()
    }
    return entry


def search_html(search: Mapping[str, Any]) -> str:
    """The section of the page: what was found, the picture, and a table of every choice."""
    drop = search["drop"]
    judged = "held-out samples" if drop["held_out"] else "samples that calibrated it"
    limits = ", ".join(f"{name.replace('_', ' ')} {value:,g}" for name, value in search["limits"].items()) or "none"
    facts = [
        ("minimized", search["minimize"]), ("limits", limits),
        ("chosen", f"{search['cycles']:,} cycles, {search['bytes']:,} B, {search['mean_weight_bits']:.2f} bits a weight"),
        ("estimated drop", f"{drop['points']:.3g} &plusmn; {drop['error']:.2g} points on {drop['samples']} {judged}"),
        ("objective", f"{search['objective']:,.6g}, bound {search['bound']:,.6g}, gap {100 * search['gap']:.2g}%"),
        ("cost, estimated against simulated", ", ".join(f"{100 * each:.2g}%" for each in search["rounds"]) or "no rounds"),
        ("plans tried", str(search["trials"])),
        ("paid for a bit", f"{search['rate']:.2g} of the worst part's loss" if search["rate"] else "nothing"),
    ]  # fmt: skip
    rows = "".join(f'<tr><td class="t">{name}</td><td class="t">{value}</td></tr>' for name, value in facts)
    return (
        f"<h2>Bits by search</h2><table>{rows}</table>{_picture(search)}"
        f"<h3>Why these bits</h3>{_decisions(search['decisions'])}<h3>Plans</h3>{_plans(search)}"
    )


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> str:
    head = '<tr><th class="t">layer or tensor</th><th class="t">of its</th><th>bits</th><th class="t">why</th></tr>'
    rows = []
    for each in decisions:
        more = len(each["tensors"]) - 1
        shares = f" and {more} that share its width" if more > 0 else ""
        rows.append(
            f'<tr><td class="t">{html.escape(each["name"])}{shares}</td><td class="t">{each["what"]}</td>'
            f'<td>{each["bits"]}</td><td class="t">{html.escape(each["why"])}</td></tr>'
        )
    return f"<table>{head}{''.join(rows)}</table>"


def _plans(search: Mapping[str, Any]) -> str:
    head = '<tr><th class="t">plan</th><th class="t"></th><th>points</th><th>cycles</th><th>bytes</th></tr>'
    rows = [
        f'<tr><td class="t">{html.escape(each["name"])}</td><td class="t">{_kind(each, "estimated")}</td>'
        f"<td>{each['points']:.3g}</td><td>{each['cycles']:,.0f}</td><td>{each['bytes']:,.0f}</td></tr>"
        for each in search["plans"]
    ]
    return f"<table>{head}{''.join(rows)}</table>"


def _kind(plan: Mapping[str, Any], otherwise: str) -> str:
    return "chosen" if plan["chosen"] else "measured" if plan["measured"] else otherwise


def _picture(search: Mapping[str, Any]) -> str:
    """Cost along x, points lost along y, the latter in powers of ten: inline SVG."""
    cost = "bytes" if search["minimize"] == "bytes" or set(search["limits"]) == {"max_bytes"} else "cycles"
    plans = [("curve", each) for each in search["curve"]]
    plans += [(_kind(each, "estimated"), each) for each in search["plans"]]
    costs = [each[cost] for _, each in plans]
    levels = [_level(each["points"]) for _, each in plans]
    low, high = math.floor(min(levels)), math.ceil(max(levels) + 1e-9)
    left, right = min(costs), max(costs)

    def x(value: float) -> float:
        return _MARGIN + (value - left) / ((right - left) or 1.0) * (_WIDTH - 2 * _MARGIN)

    def y(level: float) -> float:
        return _HEIGHT - _MARGIN - (level - low) / ((high - low) or 1) * (_HEIGHT - 2 * _MARGIN)

    drawn = []
    for level in range(low, high + 1):
        drawn.append(
            f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y(level):.1f}" y2="{y(level):.1f}" stroke="#ddd"/>'
            f'<text x="{_MARGIN - 6}" y="{y(level) + 4:.1f}" text-anchor="end">{10.0**level:g}</text>'
        )
    for value, anchor in ((left, "start"), (right, "end")):
        drawn.append(f'<text x="{x(value):.1f}" y="{_HEIGHT - 38}" text-anchor="{anchor}">{value:,.0f}</text>')
    line = " ".join(f"{x(each[cost]):.1f},{y(_level(each['points'])):.1f}" for kind, each in plans if kind == "curve")
    drawn.append(f'<polyline points="{line}" fill="none" stroke="{_KINDS[0][1]}"/>')
    for name, colour, radius, _ in _KINDS:
        for kind, each in plans:
            if kind == name:
                said = (
                    f"{each['name']}: {each['cycles']:,.0f} cycles, {each['bytes']:,.0f} B, {each['points']:.3g} points"
                )
                drawn.append(
                    f'<circle cx="{x(each[cost]):.1f}" cy="{y(_level(each["points"])):.1f}" r="{radius}" fill="{colour}">'
                    f"<title>{html.escape(said)}</title></circle>"
                )
    for at, (_, colour, _, words) in enumerate(_KINDS):
        drawn.append(
            f'<circle cx="{_MARGIN + 170 * at}" cy="14" r="5" fill="{colour}"/>'
            f'<text x="{_MARGIN + 170 * at + 10}" y="18">{words}</text>'
        )
    drawn.append(
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 14}" text-anchor="middle">{cost}</text>'
        f'<text transform="translate(14 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">points lost</text>'
    )
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {size} role="img" font-size="12" fill="#222">{"".join(drawn)}</svg>'


def _level(points: float) -> float:
    """Where so many points lie: their power of ten."""
    return math.log10(max(points, _LEAST_POINTS))
