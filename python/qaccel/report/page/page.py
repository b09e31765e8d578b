"""``report.html``: the report as one page that needs nothing but itself. Everything in it is in ``report.json``, too."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from ...machine.hw import HwConfig, config_from_dict
from ..record.schema import DRAM_KINDS, STALLS
from ..text import bits_of, codecs_of, cures_of, op_of, shape_of, summary_rows
from .frame import whole_page
from .layers import (
    COLOURS,
    bits_picture,
    compression_picture,
    cycles_picture,
    layer_source,
    numbers_of,
    roofline_picture,
    totals_picture,
    traffic_picture,
)  # fmt: skip
from .library import Picture, picture_html
from .memory import sram_picture
from .network import network_picture
from .search import decisions_table, pareto_picture, plans_table, search_facts
from .tables import Cell, Table, facts_html, number, table_html, text, tiles_html
from .why import CAUSES, why

Report = Mapping[str, Any]

_COSTLIEST = 5
_BAR = {cause: f"c{number}" for number, cause in enumerate(STALLS)}  # classes of the parts of a bar


def report_html(report: Report) -> str:
    """The whole page."""
    hw = config_from_dict(dict(report["hw"]), "report")
    pictures: list[Picture] = []
    body = [_head(report), tiles_html(tiles(report)), _notes(report)]
    if report["layers"]:
        sections, pictures = _of_layers(report, hw)
        body += sections
    body += [_fallback(report), _shared(report), f"<h2 id='facts'>All figures</h2>{facts_html(summary_rows(report))}"]
    return whole_page(_title(report), "".join(body), pictures)


def tiles(report: Report) -> list[tuple[str, str, str]]:
    """The figures that one wants first: value, what it is, and what to hold it against."""
    moved, streams = sum(report["dram_bytes"].values()), report["weights"]["stream_bytes"]
    on_cpu = len(report["fallback"])
    found = [
        (f"{report['cycles']:,}", "cycles a sample", f"at least {report['bound_cycles']:,}"),
        (_time(report["latency_ms"]), "a sample", f"at {report['hw']['clock_mhz']} MHz"),
        (_gap(report, "cycles"), "above the bound in cycles", "multipliers and DRAM alone"),
        (f"{100 * report['utilization']:.1f}%", "multipliers busy", f"{_short(report['macs'])} MACs"),
        (f"{_short(moved)}B", "DRAM traffic a sample", f"at least {_short(report['bound_dram_bytes'])}B"),
        (f"{_short(streams)}B", "weight streams", f"{_short(report['weights']['float_bytes'])}B in float"),
        (
            f"{_short(report['memory']['peak_sram_bytes'])}B", "SRAM at most",
            f"of {_short(report['hw']['sram_bytes'])}B; {_short(report['memory']['live_sram_bytes'])}B live at a time",
        ),
        (str(len(report["layers"])), "layers on the accelerator", f"{on_cpu} operators on the CPU"),
    ]  # fmt: skip
    if report["drop"] is not None:
        drop = report["drop"]
        judged = "held out" if drop["held_out"] else "that calibrated it"
        points = f"{drop['points']:.2f} \u00b1 {drop['error']:.2f}"
        found.append((points, "points lost, estimated", f"on {drop['samples']} samples {judged}"))
    if report["batch"] > 1:
        found.append((f"{report['cycles_per_batch']:,}", "cycles a batch", f"of {report['batch']} samples"))
    return found


def costliest_html(report: Report, hw: HwConfig) -> str:
    """The layers that take most cycles, and why."""
    ranked = sorted(enumerate(report["layers"], 1), key=lambda each: -each[1]["cycles"])[:_COSTLIEST]
    lines = []
    for n, layer in ranked:
        share = f"{layer['cycles']:,} cycles, {100 * layer['cycles'] / max(1, report['cycles']):.1f}%"
        told = f"{n} {op_of(layer)} {bits_of(layer)}, {share}. {why(layer, hw)}"
        lines.append(f"<li><b>{html.escape(layer['name'])}</b><br>{html.escape(told)}</li>")
    return f"<ol class='costliest'>{''.join(lines)}</ol>"


def layers_table(report: Report) -> Table:
    """Every layer with all that is known of it."""
    longest = max((layer["cycles"] for layer in report["layers"]), default=0) or 1
    heads = (
        "#", "layer", "operator", "bits", "reads", "makes", "MACs", "busy", "cycles", "at least", "share", "by cause", "DRAM B",
        "DRAM B at least",
        *(f"{kind.replace('_', ' ')} B" for kind in DRAM_KINDS), "SRAM B", "float B", "integer B", "stream B", "entropy B",
        "codecs", "cascade from", "would save cycles",
    )  # fmt: skip
    return Table(
        "layers", heads, tuple(_layer_row(report, n, layer, longest) for n, layer in enumerate(report["layers"], 1))
    )


def _name_of(layer: Mapping[str, Any]) -> str:
    """A layer's name, and that of the layer in its post stage."""
    return f"{layer['name']} + {layer['post']['name']}" if layer["post"] else str(layer["name"])


def _layer_row(report: Report, n: int, layer: Mapping[str, Any], longest: int) -> list[Cell]:
    parts = "".join(
        f'<i class={_BAR[cause]} title="{CAUSES[cause]} {layer["stalls"][cause]:,}" '
        f"style=width:{100 * layer['stalls'][cause] / longest:.1f}%></i>"
        for cause in STALLS
        if layer["stalls"][cause]
    )
    return [
        number(n), text(_name_of(layer)), text(op_of(layer)), text(bits_of(layer)),
        text(" ".join(map(shape_of, layer["input_shapes"]))), text(shape_of(layer["output_shape"])), number(layer["macs"]),
        number(100 * layer["utilization"], ".1f", "%"), number(layer["cycles"]), number(layer["bound_cycles"]),
        number(100 * layer["cycles"] / max(1, report["cycles"]), ".1f", "%"),
        Cell("", layer["stalls"]["compute"], f'<div class="bar">{parts}</div>'), number(sum(layer["dram_bytes"].values())),
        number(layer["bound_dram_bytes"]), *(number(layer["dram_bytes"][kind]) for kind in DRAM_KINDS),
        number(layer["sram_bytes"]), number(4 * layer["weight_count"]), number(layer["quantized_bytes"]),
        number(layer["stream_bytes"]), number(round(layer["entropy_bits"] / 8)),
        text(codecs_of(layer)), text(layer["cascade"] or ""),
        Cell("", max((cure["cycles"] for cure in layer["cures"]), default=0), html.escape(cures_of(layer))),
    ]  # fmt: skip


def _of_layers(report: Report, hw: HwConfig) -> tuple[list[str], list[Picture]]:
    """Sections and pictures of what runs on the accelerator."""
    source, numbers = layer_source(report), numbers_of(report)
    cycles, traffic = (draw(report, source, numbers) for draw in (cycles_picture, traffic_picture))
    bits, compression = bits_picture(report, source, numbers), compression_picture(report, source, numbers)
    roofline, sram, weights, network = (
        roofline_picture(report, source, hw), sram_picture(report), totals_picture(report),
        network_picture(report["layers"], source),
    )  # fmt: skip
    pictures = [cycles, roofline, sram, traffic, weights, compression, bits, network]
    place = {each.name: picture_html(each) for each in pictures}
    section = [
        f"<h2 id='time'>Where the time goes</h2><h3>The layers that cost most</h3>{costliest_html(report, hw)}",
        f"{place['cycles']}{place['roofline']}<h2 id='memory'>Memory</h2>{place['sram']}{place['traffic']}",
        f"<h2 id='sizes'>Weights and bits</h2><div class='two'>{place['weights']}{place['compression']}</div>{place['bits']}",
    ]
    if report["search"] is not None:
        pareto = pareto_picture(report["search"])
        pictures.append(pareto)
        section.append(
            f"{picture_html(pareto)}{facts_html(search_facts(report['search']))}<h3>Why these bits</h3>"
            f"{table_html(decisions_table(report['search']['decisions']))}<h3>Plans</h3>{table_html(plans_table(report['search']))}"
        )
    else:
        section.append(
            "<p class='quiet'>The bits were given, came with the model, or are the default; notes above say where the compiler "
            "changed them. --bits auto searches for them and says why, layer by layer.</p>"
        )
    section.append(
        f"<style>{''.join(f'.{name}{{background:{COLOURS[cause]}}}' for cause, name in _BAR.items())}</style>"
        f"<h2 id='graph'>The network</h2><div class='tall'>{place['network']}</div>"
        f"<h2 id='table'>All layers</h2>{table_html(layers_table(report))}"
        "<p class='paper quiet'>layers.csv, and this page on a screen, have more columns.</p>"
    )
    return section, pictures


def _head(report: Report) -> str:
    title = html.escape(_title(report))
    if not report["layers"]:
        return f"<h1>{title}</h1>"
    links = {
        "time": "time", "memory": "memory", "sizes": "weights and bits", "graph": "network", "table": "all layers",
        "cpu": "on the CPU", "facts": "all figures",
    }  # fmt: skip
    return f"<h1>{title}</h1><nav>{''.join(f'<a href=#{key}>{words}</a>' for key, words in links.items())}</nav>"


def _title(report: Report) -> str:
    return f"{report['model']} on {report['hw']['name']}"


def _notes(report: Report) -> str:
    """What the quantizer said."""
    lines = "".join(f"<li>{html.escape(note)}</li>" for note in report["notes"])
    return f"<details open><summary>Notes of the compiler</summary><ul>{lines}</ul></details>" if lines else ""


def _fallback(report: Report) -> str:
    rows = tuple(
        [text(each["name"]), text(each["op"]), number(each["macs"]), text(each["reason"]), text(each["fix"])]
        for each in report["fallback"]
    )
    table = Table("fallback", ("node", "operator", "MACs", "reason", "way out"), rows)
    said = table_html(table) if rows else "<p>Nothing: the accelerator computes the whole network.</p>"
    return f"<h2 id='cpu'>On the CPU</h2>{said}"


def _shared(report: Report) -> str:
    rows = tuple(
        [
            text(part["part"]), text(part["join"]), Cell(f"{part['share']:.2g}", part["share"]),
            text("" if part["sqnr_db"] is None else f"{part['sqnr_db']:.0f} dB at {part['bits']} bits"),
            text(json.dumps(part["plan"])), text("yes" if part["taken"] else "no"),
        ]
        for part in report["shared_scales"]
    )  # fmt: skip
    heads = ("part", "joined in", "share of the range", "SQNR", "plan.json", "taken")
    return f"<h2 id='shared'>Parts that share a scale</h2>{table_html(Table('parts', heads, rows))}" if rows else ""


def _gap(report: Report, figure: str) -> str:
    gap = report["gap_percent"][figure]
    return "\u2013" if gap is None else f"{gap:.1f}%"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.3g}\u00a0ms" if milliseconds >= 0.1 else f"{1e3 * milliseconds:.3g}\u00a0\u00b5s"


def _short(value: float) -> str:
    """``1.23 M``: a figure for a tile."""
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.3g}\u00a0{unit}"
        value /= 1000
    return f"{value:.3g}\u00a0G"
