"""Pictures with the layers side by side: where cycles and DRAM's bytes go, bits, compression; and the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import BasicTicker, CDSView, ColumnDataSource, Dodge, FixedTicker, HoverTool, IndexFilter, Range1d

from ...machine.hw import HwConfig
from ..record.schema import DRAM_KINDS, STALLS
from ..text import bits_of
from .library import QUIET, WHOLE, Picture, chart, shorten, up_from_zero
from .why import CAUSES, main_cause

Report = Mapping[str, Any]

COLOURS = {
    "compute": "#3b7dd8", "activation_load": "#e0a030", "weight_load": "#c0504d",
    "decode": "#8e5ea2", "store": "#5aa469", "wait": "#a0a0a0", "": "#a0a0a0",
}  # fmt: skip
KINDS = {
    "weights": ("#c0504d", "weights and parameters"), "activations_read": ("#e0a030", "activations read"),
    "activations_written": ("#5aa469", "activations written"), "program": ("#8e5ea2", "instructions"),
}  # fmt: skip
WEIGHTS = {
    "quantized": ("#3b7dd8", "integers"), "stream": ("#c0504d", "stream"), "entropy": ("#5aa469", "entropy"),
}  # fmt: skip
BITS = {"weight_bits": ("#c0504d", "weights"), "activation_bits": ("#3b7dd8", "activations that it reads")}
_LEAST_SIZE, _MORE_SIZE = 7, 28  # of a layer's point in pixels, and by how much that of the longest is larger


def layer_source(report: Report) -> ColumnDataSource:
    """What the layers' charts share, a row each. A layer's number is from 1, as in the table."""
    layers = report["layers"]
    columns: dict[str, list[Any]] = {
        "number": list(range(1, len(layers) + 1)),
        **{key: [layer[key] for layer in layers] for key in ("name", "op", "cycles", "macs")},
        "bits": [bits_of(layer) for layer in layers],
        "cause": [CAUSES.get(main_cause(layer), "nothing") for layer in layers],
        **{cause: [layer["stalls"][cause] for layer in layers] for cause in STALLS},
        **{f"dram_{kind}": [layer["dram_bytes"][kind] for layer in layers] for kind in DRAM_KINDS},
    }
    return ColumnDataSource(columns)


def numbers_of(report: Report) -> Range1d:
    """The axis of layers, which the charts share: looking closer at one is looking closer at all."""
    return Range1d(0.4, len(report["layers"]) + 0.6, bounds="auto")


def _by_layer(y_label: str, numbers: Range1d, **settings: Any) -> Any:
    """An empty chart with the layers along."""
    made = chart("layer, in the order of the program", y_label, x_range=numbers, **settings)
    made.xaxis.ticker = BasicTicker(min_interval=1)
    made.xgrid.ticker = made.xaxis[0].ticker
    return made


def cycles_picture(report: Report, source: ColumnDataSource, numbers: Range1d) -> Picture:
    """Cycles of each layer, by cause."""
    made = _by_layer("cycles", numbers)
    bars = made.vbar_stack(
        list(STALLS), x="number", width=0.85, source=source, fill_color=[COLOURS[c] for c in STALLS], line_color=None
    )
    shorten(made.yaxis)
    up_from_zero(made, max((layer["cycles"] for layer in report["layers"]), default=0))
    tips = [(CAUSES[cause], f"@{cause}{{{WHOLE}}}") for cause in STALLS]
    made.add_tools(HoverTool(renderers=bars, tooltips=[*_NAMED, ("cycles", f"@cycles{{{WHOLE}}}"), *tips]))
    return Picture(
        "cycles", "Cycles per layer, by cause",
        "What the compute engine did in each cycle of a layer: worked, or waited, for what. All together are the program's cycles.",
        made, tuple((COLOURS[cause], CAUSES[cause]) for cause in STALLS),
    )  # fmt: skip


def traffic_picture(report: Report, source: ColumnDataSource, numbers: Range1d) -> Picture:
    """Bytes that pass DRAM for each layer, by kind."""
    made = _by_layer("bytes", numbers)
    keys = [f"dram_{kind}" for kind in DRAM_KINDS]
    bars = made.vbar_stack(
        keys, x="number", width=0.85, source=source, fill_color=[KINDS[kind][0] for kind in DRAM_KINDS], line_color=None
    )
    shorten(made.yaxis)
    up_from_zero(made, max((sum(layer["dram_bytes"].values()) for layer in report["layers"]), default=0))
    tips = [(KINDS[kind][1], f"@dram_{kind}{{{WHOLE}}} B") for kind in DRAM_KINDS]
    made.add_tools(HoverTool(renderers=bars, tooltips=[*_NAMED, *tips]))
    return Picture(
        "traffic", "DRAM traffic per layer, by kind",
        f"Bytes that pass between DRAM and the accelerator. At least {report['bound_dram_bytes']:,} have to pass once, of "
        f"{sum(report['dram_bytes'].values()):,} that do.",
        made, tuple(KINDS[kind] for kind in DRAM_KINDS),
    )  # fmt: skip


def bits_picture(report: Report, source: ColumnDataSource, numbers: Range1d) -> Picture:
    """Width of weights and activations of each layer."""
    widths = sorted({layer[key] for layer in report["layers"] for key in BITS if layer[key]})
    made = _by_layer("bits", numbers, height=200, y_range=Range1d(0, 18))
    made.yaxis.ticker = FixedTicker(ticks=sorted({4, 8, 16, *widths}))
    bars = []
    for (key, (colour, _)), shift in zip(BITS.items(), (-0.2, 0.2), strict=True):
        source.add([layer[key] for layer in report["layers"]], key)
        x = {"field": "number", "transform": Dodge(value=shift, range=numbers)}
        bars.append(made.vbar(x=x, top=key, width=0.4, source=source, fill_color=colour, line_color=None))
    made.add_tools(HoverTool(renderers=bars, tooltips=_NAMED))
    return Picture(
        "bits", "Bits per layer", "How wide each layer's weights are, and the activations that it multiplies them with.",
        made, tuple(BITS.values()),
    )  # fmt: skip


def compression_picture(report: Report, source: ColumnDataSource, numbers: Range1d) -> Picture:
    """Bits that a weight takes, layer by layer: as an integer, in the stream, and by its entropy."""
    layers = report["layers"]
    counts = [layer["weight_count"] for layer in layers]
    source.add(counts, "weight_count")
    for key in WEIGHTS:
        sizes = [layer["entropy_bits"] / 8 if key == "entropy" else layer[f"{key}_bytes"] for layer in layers]
        source.add([round(size) for size in sizes], f"{key}_bytes")
        source.add([round(8 * size / max(1, count), 3) for size, count in zip(sizes, counts, strict=True)], key)
    view = CDSView(filter=IndexFilter([k for k, count in enumerate(counts) if count]))
    made = _by_layer("bits a weight", numbers)
    marks = []
    for (key, (colour, _)), marker in zip(WEIGHTS.items(), ("dash", "circle", "triangle"), strict=True):
        marks.append(
            made.scatter(
                "number",
                key,
                source=source,
                view=view,
                marker=marker,
                size=9,
                color=colour,
                fill_alpha=0.6,
                line_width=2,
            )
        )
    up_from_zero(made, max((most for key in WEIGHTS for most in source.data[key]), default=0))
    tips = [(WEIGHTS[key][1], f"@{key}{{0.00}} bits a weight, @{key}_bytes{{{WHOLE}}} B") for key in WEIGHTS]
    made.add_tools(HoverTool(renderers=marks[1:], tooltips=[*_NAMED, ("weights", f"@weight_count{{{WHOLE}}}"), *tips]))
    return Picture(
        "compression", "Compression per layer",
        "Bits that a weight takes: as an integer of its width, in the stream that is fetched (headers and tables included), and by "
        "the order-0 entropy of the integers. In float each takes 32.",
        made, tuple(WEIGHTS.values()),
    )  # fmt: skip


def totals_picture(report: Report) -> Picture:
    """All weights together: float, integers, stream, entropy."""
    weights = report["weights"]
    sizes = {
        "float": weights["float_bytes"], "integers": weights["quantized_bytes"], "stream": weights["stream_bytes"],
        "entropy": round(weights["entropy_bits"] / 8),
    }  # fmt: skip
    colours = ["#a0a0a0", *(colour for colour, _ in WEIGHTS.values())]
    whole = sizes["float"] or 1
    kinds = [f"{kind}: {size:,} B, {100 * size / whole:.1f}%" for kind, size in sizes.items()]
    made = chart("bytes", "", 190, y_range=list(reversed(kinds)), x_range=Range1d(0, 1.02 * whole))
    made.hbar(y=kinds, right=list(sizes.values()), height=0.7, fill_color=colours, line_color=None)
    shorten(made.xaxis)
    return Picture(
        "weights", "Weights of the network", "What all weights on the accelerator take, and the share of what they take in float.",
        made, tuple(zip(colours, ("float, 32 bits", *(words for _, words in WEIGHTS.values())), strict=True)),
    )  # fmt: skip


def roofline_picture(report: Report, source: ColumnDataSource, hw: HwConfig) -> Picture:
    """What each layer reaches of what multipliers and DRAM allow."""
    every = report["layers"]
    shown = [k for k, layer in enumerate(every) if layer["macs"] and layer["cycles"]]
    layers, longest = [every[k] for k in shown], max((layer["cycles"] for layer in every), default=1) or 1
    source.add([round(layer["macs"] / max(1, sum(layer["dram_bytes"].values())), 3) for layer in every], "intensity")
    source.add([round(layer["macs"] / max(1, layer["cycles"]), 3) for layer in every], "rate")
    source.add([round(100 * layer["utilization"], 1) for layer in every], "busy")
    source.add([COLOURS[main_cause(layer)] for layer in every], "colour")
    source.add([round(_LEAST_SIZE + _MORE_SIZE * (layer["cycles"] / longest) ** 0.5, 1) for layer in every], "size")
    intensity, rate = ([source.data[key][k] for k in shown] for key in ("intensity", "rate"))
    made = chart("MACs per byte that passes DRAM", "MACs per cycle", 380, x_axis_type="log", y_axis_type="log")
    made.y_range = Range1d(min((*rate, 1)) / 2, 2.5 * max(_peaks(layers, hw).values(), default=1))
    peaks = _peaks(layers, hw)
    for peak in sorted(set(peaks.values())):
        widths = ", ".join(bits for bits, each in peaks.items() if each == peak)
        _roof(made, widths, peak, hw.dram_bytes_per_cycle, intensity)
    points = made.scatter(
        "intensity", "rate", size="size", source=source, view=CDSView(filter=IndexFilter(shown)), fill_color="colour",
        fill_alpha=0.65, line_color="colour",
    )  # fmt: skip
    tips = [
        ("cycles", f"@cycles{{{WHOLE}}}, mainly @cause"),
        ("MACs", f"@macs{{{WHOLE}}}, @rate{{0.0}} a cycle, @intensity{{0.0}} per byte"),
        ("multipliers busy", "@busy%"),
    ]  # fmt: skip
    made.add_tools(HoverTool(renderers=[points], tooltips=[*_NAMED, *tips]))
    return Picture(
        "roofline", "Roofline",
        f"Each point is a layer with multiplications, larger the more cycles it takes, coloured by what most of them went to. "
        f"The lines are what the machine allows: DRAM's {hw.dram_bytes_per_cycle} B a cycle on the left, the multipliers at the "
        "layer's bits on top. A layer whose maps stay in SRAM lies to the right; one whose weights came while the layers before it "
        "computed may lie above DRAM's line.",
        made, tuple((COLOURS[cause], CAUSES[cause]) for cause in STALLS),
    )  # fmt: skip


def _peaks(layers: Sequence[Mapping[str, Any]], hw: HwConfig) -> dict[str, int]:
    """MACs a cycle at most, for the widths that there are."""
    return {bits_of(layer): hw.macs_per_cycle(layer["weight_bits"], layer["activation_bits"]) for layer in layers}


def _roof(made: Any, bits: str, peak: int, bytes_per_cycle: int, intensity: Sequence[float]) -> None:
    ridge = peak / bytes_per_cycle
    left, right = min((*intensity, ridge)) / 2, max((*intensity, ridge)) * 8  # room for the words
    made.line([left, ridge, right], [left * bytes_per_cycle, peak, peak], line_color=QUIET, line_width=2)
    made.text(
        [right], [peak], [f"{bits}: {peak:,} MACs a cycle"], text_align="right", text_baseline="bottom", text_font_size="12px",
        y_offset=-12, text_color=QUIET,
    )  # fmt: skip


_NAMED = [("layer", "@number @name"), ("", "@op @bits")]
