"""The charting library, Bokeh: charts as all of the page's have to be, and what the page carries of the library.

Nothing here is imported before a page is written.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bokeh.document import Document
from bokeh.models import CustomJSTickFormatter, Range1d
from bokeh.plotting import figure
from bokeh.resources import Resources

_SHORT = """
for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
  if (Math.abs(tick) >= size) return `${Number((tick / size).toPrecision(4))} ${unit}`;
}
return `${Number(tick.toPrecision(4))}`;
"""
WHOLE = "0,0"
WORDS = "#111111"  # on what is tinted
QUIET = "#888888"  # words and lines on the page itself, light or dark
HEIGHT = 300  # pixels
_TOOLS = "xpan,xwheel_zoom,box_zoom,reset,save"


@dataclass(frozen=True, eq=False)
class Picture:
    """``name`` is its place in the page; ``legend``: (colour, words) each; ``text``: what it shows, in plain words;
    ``controls``: HTML that goes above it."""

    name: str
    title: str
    text: str
    chart: figure
    legend: tuple[tuple[str, str], ...]
    controls: str = ""


def chart(x_label: str, y_label: str, height: int = HEIGHT, **settings: Any) -> figure:
    """An empty chart as wide as the page. Its colours but those of the data are the page's; touching it still scrolls the page."""
    made = figure(
        sizing_mode="stretch_width", height=height, tools=_TOOLS, active_drag=None, active_scroll=None,
        x_axis_label=x_label, y_axis_label=y_label, toolbar_location="below", **settings,
    )  # fmt: skip
    made.toolbar.autohide = True
    made.toolbar.logo = None
    made.min_border_right = 16
    for axis in made.axis:
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
    return made


def shorten(axis: Any) -> None:
    """Numbers along an axis as ``1.2 M``."""
    axis.formatter = CustomJSTickFormatter(code=_SHORT)


def up_from_zero(made: figure, most: float) -> None:
    """An axis from 0 to a little above the most."""
    made.y_range = Range1d(0, 1.05 * most or 1, bounds=(0, None))
    made.y_range.reset_end = made.y_range.end


def tint(colour: str, share: float = 0.55) -> str:
    """A colour mixed with white, so that black words can be read on it in a light page and in a dark one."""
    parts = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)


@cache
def script() -> str:
    """The library's JavaScript as one element that fetches nothing: packed, a third of it, and unpacked by the page's script."""
    text = Resources(mode="inline", components=["bokeh"], log_level="error").js_raw[0]
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return f'<script type="application/gzip" id="library">{packed}</script>'


def drawn(pictures: Sequence[Picture]) -> str:
    """All charts as one JSON element, from which the page's script makes them. The same charts give the same bytes."""
    document = Document()
    for each in pictures:
        document.add_root(each.chart)
    numbers: dict[str, str] = {}
    made = _renumbered(document.to_json(deferred=False), numbers)
    roots = {numbers[each.chart.id]: f"chart-{each.name}" for each in pictures}
    text = json.dumps({"document": made, "roots": roots}, separators=(",", ":"))
    return f'<script type="application/json" id="charts">{text.replace("<", chr(92) + "u003c")}</script>'


def _renumbered(value: Any, numbers: dict[str, str]) -> Any:
    """The document with its models numbered as they come: the library counts on from one document to the next."""
    if isinstance(value, Mapping):
        return {
            key: numbers.setdefault(each, f"m{len(numbers)}") if key == "id" else _renumbered(each, numbers)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_renumbered(each, numbers) for each in value]
    return value


def picture_html(picture: Picture) -> str:
    """The place of a picture in the page, with title, words and legend."""
    keys = "".join(
        f'<li><span class="key" style="background:{colour}"></span>{html.escape(words)}</li>'
        for colour, words in picture.legend
    )
    return (
        f'<figure id="{picture.name}"><figcaption><h3>{html.escape(picture.title)}</h3><p>{html.escape(picture.text)}</p>'
        f'{picture.controls}<ul class="legend">{keys}</ul></figcaption><div class="chart" id="chart-{picture.name}" '
        f'role="img" aria-label="{html.escape(picture.title)}"></div></figure>'
    )
