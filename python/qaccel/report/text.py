"""The report for people: a summary in the terminal, and report.html."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .bits import search_html
from .report import STALLS
from .tables import Column, make_console, print_table

_COLOURS = {
    "compute": "#3b7dd8", "activation_load": "#e0a030", "weight_load": "#c0504d",
    "decode": "#8e5ea2", "store": "#5aa469", "wait": "#b0b0b0",
}  # fmt: skip
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1500px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0 2em; width: 100%; }
th, td { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #888; } td { white-space: nowrap; }
.t { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 4em; }
.bar { display: flex; height: 1em; width: 200px; background: #f2f2f2; } .bar span { height: 100%; }
.key span { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em; vertical-align: -1px; }
"""


def summary_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures that matter, named and with units."""
    dram, weights, memory = report["dram_bytes"], report["weights"], report["memory"]
    rows = [
        ("model", str(report["model"])),
        ("config", str(report["hw"]["name"])),
        ("accelerator subgraphs", str(report["subgraphs"])),
        (
            "cycles",
            f"{report['cycles']:,} for one sample, {report['latency_ms']:.3f} ms at {report['hw']['clock_mhz']} MHz",
        ),
        ("bound", f"{report['bound_cycles']:,} cycles by multipliers and DRAM alone{_above(report, 'cycles')}"),
        ("MACs", f"{report['macs']:,}, multipliers busy {100 * report['utilization']:.1f}%"),
        ("DRAM traffic", ", ".join(f"{key.replace('_', ' ')} {value:,} B" for key, value in dram.items())),
        ("DRAM bound", f"{report['bound_dram_bytes']:,} B have to pass once{_above(report, 'dram_bytes')}"),
        ("memory", f"SRAM peak {memory['peak_sram_bytes']:,} B, DRAM footprint {memory['dram_footprint_bytes']:,} B"),
        (
            "weights",
            f"float {weights['float_bytes']:,} B, quantized {weights['quantized_bytes']:,} B, streams "
            f"{weights['stream_bytes']:,} B, entropy {weights['entropy_bits'] / 8:,.0f} B",
        ),
    ]
    decode_bound = [layer["name"] for layer in report["layers"] if _bound_by(layer) == "decode"]
    if decode_bound:
        rows.append(("decode-bound layers", ", ".join(decode_bound)))
    if report["drop"] is not None:
        drop = report["drop"]
        judged = "held out" if drop["held_out"] else "that calibrated it"
        rows.append(
            (
                "estimated drop",
                f"{drop['points']:.2f} +- {drop['error']:.2f} points on {drop['samples']} samples {judged}",
            )
        )
    if report["batch"] > 1:
        rows.insert(4, ("batch", f"{report['batch']} samples, {report['cycles_per_batch']:,} cycles"))
    return rows


def _above(report: Mapping[str, Any], figure: str) -> str:
    """How far a figure is above its bound, for the end of a line."""
    gap = report["gap_percent"][figure]
    return "" if gap is None else f"; the program takes {gap:.1f}% more"


def calibration_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What calibration saw of each input and channel, one line each."""
    lines = []
    for entry in entries:
        for k, part in enumerate((entry, *entry["channels"])):
            which = f"calibration of '{entry['name']}', {entry['samples']} samples" if k == 0 else f"   channel {k - 1}"
            lines.append(
                f"{which}: {part['lo']:.4g} to {part['hi']:.4g}, mean {part['mean']:.4g}, deviation {part['deviation']:.4g}"
            )
    return lines


def print_summary(report: Mapping[str, Any], layers: bool = False) -> None:
    """The summary on standard output, with each layer if asked, and what stays on the CPU."""
    from rich.table import Table

    console = make_console()
    facts = Table(show_header=False, box=None, pad_edge=False)
    for name, value in summary_rows(report):
        facts.add_row(name, value)
    console.print(facts)
    if layers:
        print_table("layers", layer_columns(report["layers"]))
    if not report["fallback"]:
        console.print("every operator of the network runs on the accelerator")
        return
    entries = report["fallback"]
    print_table(
        "on the CPU",
        [
            Column("node", tuple(entry["name"] for entry in entries), text=True),
            Column("op", tuple(entry["op"] for entry in entries), text=True),
            Column("MACs", tuple(f"{entry['macs']:,}" for entry in entries)),
            Column("reason", tuple(entry["reason"] for entry in entries), text=True),
            Column("way out", tuple(entry["fix"] for entry in entries), text=True),
        ],
    )


def layer_columns(layers: Sequence[Mapping[str, Any]]) -> list[Column]:
    """What the table of layers shows; where there is no room for all, name, bits, cycles and the largest stalls stay longest."""

    def column(name: str, cell: Callable[[Mapping[str, Any]], str], dropped: int = 0, text: bool = False) -> Column:
        return Column(name, tuple(map(cell, layers)), dropped, text)

    totals = {cause: sum(layer["stalls"][cause] for layer in layers) for cause in STALLS}
    least_first = sorted(STALLS, key=lambda cause: totals[cause])
    return [
        column("layer", lambda layer: layer["name"], text=True),
        column("op", lambda layer: layer["op"], 11, text=True),
        column("bits", bits_of, text=True),
        column("codecs", codecs_of, 1, text=True),
        column("MACs", lambda layer: f"{layer['macs']:,}", 10),
        column("stream B", lambda layer: f"{layer['stream_bytes']:,}", 2),
        column("cycles", lambda layer: f"{layer['cycles']:,}"),
        *(
            Column(
                cause.replace("_", " "),
                tuple(f"{layer['stalls'][cause]:,}" for layer in layers),
                3 + least_first.index(cause),
            )
            for cause in STALLS
        ),
    ]


def _bound_by(layer: Mapping[str, Any]) -> str:
    """What most of a layer's cycles went to."""
    return max(STALLS, key=lambda cause: layer["stalls"][cause]) if layer["cycles"] else ""


def codecs_of(layer: Mapping[str, Any]) -> str:
    """``parametric 3, raw 1``: how many of a layer's weight streams each codec made."""
    return ", ".join(f"{codec} {count}" for codec, count in sorted(layer["codecs"].items()))


def shape_of(shape: Sequence[int]) -> str:
    """``32x32x3``: rows, columns, channels."""
    return "x".join(map(str, shape))


def bits_of(layer: Mapping[str, Any]) -> str:
    """``W8A8``, or ``A8`` for a layer without weights."""
    weight = f"W{layer['weight_bits']}" if layer["weight_bits"] else ""
    return f"{weight}A{layer['activation_bits']}"


def report_html(report: Mapping[str, Any]) -> str:
    """The report as one page without anything to fetch."""
    longest = max((layer["cycles"] for layer in report["layers"]), default=0) or 1
    rows = []
    for layer in report["layers"]:
        parts = "".join(
            f'<span title="{cause} {layer["stalls"][cause]:,}" style="width:{100 * layer["stalls"][cause] / longest:.2f}%;'
            f'background:{_COLOURS[cause]}"></span>'
            for cause in STALLS
        )
        texts = [layer["name"], layer["op"], bits_of(layer), codecs_of(layer)]
        sizes = [f"{4 * layer['weight_count']:,}", f"{layer['quantized_bytes']:,}", f"{layer['stream_bytes']:,}"]
        numbers = [f"{layer['macs']:,}", *sizes, f"{layer['entropy_bits'] / 8:,.0f}", f"{layer['cycles']:,}"]
        rows.append(_row(texts, numbers, f'<td><div class="bar">{parts}</div></td>'))
    fallback = [_row([f["name"], f["op"], f["reason"], f["fix"]], [f"{f['macs']:,}"]) for f in report["fallback"]]
    shared = [
        _row(
            [part["part"], part["join"], json.dumps(part["plan"]), "yes" if part["taken"] else "no"],
            [
                f"{part['share']:.2g}",
                "" if part["sqnr_db"] is None else f"{part['sqnr_db']:.0f} at {part['bits']} bits",
            ],
        )
        for part in report["shared_scales"]
    ]
    heads_of_shared = ["part", "joined in", "plan.json", "taken"], ["share of the range", "SQNR in dB"]
    unlike = f"<h2>Parts that share a scale</h2>{_table(*heads_of_shared, shared)}" if shared else ""
    bits = search_html(report["search"]) if report["search"] is not None else ""
    key = "".join(f'<span style="background:{_COLOURS[cause]}"></span>{cause.replace("_", " ")}' for cause in STALLS)
    facts = "".join(_row([name, value], []) for name, value in summary_rows(report))
    title = html.escape(f"{report['model']} on {report['hw']['name']}")
    cpu = _table(["node", "operator", "reason", "way out"], ["MACs"], fallback) if fallback else "<p>Nothing.</p>"
    heads = ["MACs", "float B", "quantized B", "stream B", "entropy B", "cycles", "cycles by cause"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><table>{facts}</table><h2>Layers</h2>"
        f'<p class="key">Where the cycles of a layer went:{key}</p>'
        f"{_table(['layer', 'operator', 'bits', 'codecs'], heads, rows)}"
        f"{bits}{unlike}<h2>On the CPU</h2>{cpu}</html>\n"
    )


def _row(texts: list[str], numbers: list[str], more: str = "") -> str:
    cells = [f'<td class="t">{html.escape(str(text))}</td>' for text in texts] + [
        f"<td>{number}</td>" for number in numbers
    ]
    return f"<tr>{''.join(cells)}{more}</tr>"


def _table(texts: list[str], numbers: list[str], rows: list[str]) -> str:
    head = "".join(f'<th class="t">{text}</th>' for text in texts) + "".join(f"<th>{number}</th>" for number in numbers)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
