"""The picture of the network: its layers as a graph, coloured by what one wants to know of them."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.palettes import Viridis256

from ..text import op_of, shape_of
from .layers import COLOURS
from .library import QUIET, WHOLE, WORDS, Picture, chart, tint
from .why import CAUSES, main_cause

Layer = Mapping[str, Any]

_LEVEL_PIXELS = 30  # from one row of the graph to the next
_WIDTH, _HEIGHT = 0.86, 0.62  # of a box, in columns and rows
_LONGEST = 26  # characters of a name in a box
_BITS = {4: "#5aa469", 8: "#3b7dd8", 16: "#c0504d", 0: "#a0a0a0"}


@dataclass(frozen=True)
class _Colouring:
    """By what a layer is coloured: ``colours`` of the layers, and the legend, both before they are tinted."""

    words: str
    colours: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]


def network_picture(layers: Sequence[Layer], source: ColumnDataSource) -> Picture:
    """Inputs at the top. The first colouring is by cycles; the page's script changes it."""
    places = layout([layer["sources"] for layer in layers], [layer["subgraph"] for layer in layers])
    rows, columns = (1 + max((place[k] for place in places), default=0) for k in (0, 1))
    colourings = _colourings(layers)
    source.add([column for _, column in places], "column")
    source.add([-row for row, _ in places], "row")
    source.add([shape_of(layer["output_shape"]) for layer in layers], "shape")
    source.add(
        [f"{n} {op_of(layer)} {shape_of(layer['output_shape'])}"[:_LONGEST] for n, layer in enumerate(layers, 1)], "box"
    )
    for key, each in colourings.items():
        source.add(list(map(tint, each.colours)), f"by_{key}")
    made = chart(
        "",
        "",
        max(180, 70 + _LEVEL_PIXELS * rows),
        x_range=Range1d(-0.6, max(columns, 2) - 0.4),
        y_range=Range1d(-rows, 0.9),
    )
    made.axis.visible = False
    made.grid.visible = False
    edges = [(a, b) for b, layer in enumerate(layers) for a in layer["sources"]]
    paths = [_path(places[a], places[b]) for a, b in edges]
    made.multi_line(
        [[round(x, 2) for x in xs] for xs, _ in paths], [[round(y, 2) for y in ys] for _, ys in paths],
        line_color=QUIET, line_width=1.2,
    )  # fmt: skip
    boxes = made.rect(
        "column",
        "row",
        _WIDTH,
        _HEIGHT,
        source=source,
        fill_color="by_cycles",
        line_color=QUIET,
        border_radius=4,
        name="boxes",
    )
    made.text(
        "column", "row", "box", source=source, text_align="center", text_baseline="middle", text_font_size="11px",
        text_color=WORDS,
    )  # fmt: skip
    tips = [
        ("layer", "@number @name"), ("", "@op @bits, @shape"), ("cycles", f"@cycles{{{WHOLE}}}, mainly @cause"),
        ("MACs", f"@macs{{{WHOLE}}}"),
    ]  # fmt: skip
    made.add_tools(HoverTool(renderers=[boxes], tooltips=tips))
    return Picture(
        "network", "The network",
        "Its layers on the accelerator from input to output, each with number, operator and the shape that it makes. At a gap the "
        "CPU has its turn; its operators are below.",
        made, (), _controls(colourings),
    )  # fmt: skip


def layout(sources: Sequence[Sequence[int]], subgraphs: Sequence[int]) -> list[tuple[int, int]]:
    """(row, column) of each layer: a row below all that it reads, in the first column of theirs that nobody has yet.

    A layer comes after its sources, and an edge that passes rows keeps its column free. A subgraph begins below those before it.
    """
    places: list[tuple[int, int]] = []
    taken: set[tuple[int, int]] = set()
    top, subgraph = 0, 0
    for each, own in zip(sources, subgraphs, strict=True):
        if own != subgraph:
            top, subgraph = 2 + max(row for row, _ in places), own
        row = max((1 + places[source][0] for source in each), default=top)
        column = min((places[source][1] for source in each), default=0)
        while (row, column) in taken:
            column += 1
        for source in each:
            above, beside = places[source]
            taken |= {(between, beside) for between in range(above, row) if beside != column}
        taken.add((row, column))
        places.append((row, column))
    return places


def _path(a: tuple[int, int], b: tuple[int, int]) -> tuple[list[float], list[float]]:
    """From the bottom of a box to the top of one below it: straight, or down its own column and over above the other."""
    begin, end = -a[0] - _HEIGHT / 2, -b[0] + _HEIGHT / 2
    if a[1] == b[1] and b[0] - a[0] == 1:
        return [a[1], b[1]], [begin, end]
    if a[1] == b[1]:
        side = a[1] + _WIDTH / 2 + 0.04
        return [a[1] + 0.3, side, side, b[1] + 0.3], [begin, begin - 0.15, end + 0.15, end]
    return [a[1], a[1], b[1]], [begin, end + 0.2, end]


def _colourings(layers: Sequence[Layer]) -> dict[str, _Colouring]:
    """By name in the page."""
    causes = tuple(main_cause(layer) for layer in layers)
    widths = [int(layer["weight_bits"]) for layer in layers]
    return {
        "cycles": _shaded("cycles", layers, lambda layer: layer["cycles"]),
        "cause": _Colouring(
            "what most cycles went to", tuple(COLOURS[cause] for cause in causes),
            tuple((COLOURS[cause], CAUSES[cause]) for cause in CAUSES if cause in causes),
        ),
        "utilization": _shaded("multipliers busy, in per cent", layers, lambda layer: round(100 * layer["utilization"])),
        "dram": _shaded("bytes that pass DRAM", layers, lambda layer: sum(layer["dram_bytes"].values())),
        "sram": _shaded("bytes of SRAM kept for it", layers, lambda layer: layer["sram_bytes"]),
        "bits": _Colouring(
            "bits of weights", tuple(_BITS.get(width, "#a0a0a0") for width in widths),
            tuple((colour, f"{width} bits" if width else "no weights") for width, colour in _BITS.items() if width in widths),
        ),
        "stream": _shaded("bytes of weight streams", layers, lambda layer: layer["stream_bytes"]),
    }  # fmt: skip


def _shaded(words: str, layers: Sequence[Layer], value: Callable[[Layer], float]) -> _Colouring:
    """From dark for nothing to bright for the most."""
    values = [value(layer) for layer in layers]
    most = max(values, default=0) or 1
    colours = tuple(Viridis256[64 + round(191 * each / most)] for each in values)
    steps = [(Viridis256[64 + round(191 * share)], f"{share * most:,.0f}") for share in (0, 0.25, 0.5, 0.75, 1)]
    return _Colouring(words, colours, tuple(steps))


def _controls(colourings: Mapping[str, _Colouring]) -> str:
    """What chooses a colouring, and the legend of each."""
    options = "".join(f'<option value="{key}">{html.escape(each.words)}</option>' for key, each in colourings.items())
    legends = "".join(
        f'<ul class="legend" data-by="{key}"{"" if key == "cycles" else " hidden"}>'
        + "".join(
            f'<li><span class="key" style="background:{tint(c)}"></span>{html.escape(w)}</li>' for c, w in each.legend
        )
        + "</ul>"
        for key, each in colourings.items()
    )
    return f'<p><label>coloured by <select id="colouring">{options}</select></label></p>{legends}'
