"""The report in words: a summary in the terminal, and how its figures are said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .record.schema import STALLS
from .tables import Column, make_console, print_table


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
        (
            "memory",
            f"SRAM peak {memory['peak_sram_bytes']:,} B ({memory['live_sram_bytes']:,} B live at one time), DRAM footprint "
            f"{memory['dram_footprint_bytes']:,} B",
        ),
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
        column("op", op_of, 11, text=True),
        column("bits", bits_of, text=True),
        column("codecs", codecs_of, 1, text=True),
        column("MACs", lambda layer: f"{layer['macs']:,}", 10),
        column("stream B", lambda layer: f"{layer['stream_bytes']:,}", 2),
        column("cycles", lambda layer: f"{layer['cycles']:,}"),
        column("at least", lambda layer: f"{layer['bound_cycles']:,}", 12),
        column("would save cycles", lambda layer: ", ".join(map(_cured, layer["cures"][:1])), 13, text=True),
        *(
            Column(
                cause.replace("_", " "),
                tuple(f"{layer['stalls'][cause]:,}" for layer in layers),
                3 + least_first.index(cause),
            )
            for cause in STALLS
        ),
    ]


def cure_text(cure: Mapping[str, Any]) -> str:
    """``cols 16 -> 32``, ``weights 8 -> 4 bits``: a change that would make a layer quicker."""
    names = {"weight_bits": ("weights", " bits"), "activation_bits": ("activations", " bits")}
    name, unit = names.get(cure["parameter"], (cure["parameter"], ""))
    return f"{name} {cure['before']:,} -> {cure['after']:,}{unit}"


def cures_of(layer: Mapping[str, Any]) -> str:
    """What would make a layer quicker, with the cycles that it would save."""
    return ", ".join(map(_cured, layer["cures"]))


def _cured(cure: Mapping[str, Any]) -> str:
    return f"{cure_text(cure)}: -{cure['cycles']:,}"


def op_of(layer: Mapping[str, Any]) -> str:
    """A layer's operator, and that of the layer in its post stage."""
    return f"{layer['op']} + {layer['post']['op']}" if layer["post"] else str(layer["op"])


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
