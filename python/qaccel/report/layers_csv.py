"""``layers.csv``: a line for each layer of the accelerator, then one for each operator that the CPU computes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

from .record.schema import DRAM_KINDS, STALLS
from .text import codecs_of, cures_of, shape_of

Entry = Mapping[str, Any]


def layers_csv(report: Entry) -> str:
    """What there is not of an operator is empty; shares are per cent of the accelerator's cycles, and of all MACs."""
    out = io.StringIO()
    macs = report["macs"] + sum(each["macs"] for each in report["fallback"])
    columns = _columns(report["cycles"], macs)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for layer in report["layers"]:
        writer.writerow([cell(layer) for cell in columns.values()])
    for each in report["fallback"]:
        row = {
            "where": "CPU", "macs_percent": _percent(each["macs"], macs),
            **{key: each[key] for key in ("name", "op", "macs", "reason", "fix")},
        }  # fmt: skip
        writer.writerow([row.get(name, "") for name in columns])
    return out.getvalue()


def _columns(cycles: int, macs: int) -> dict[str, Callable[[Entry], Any]]:
    """By heading, what a layer of the accelerator has there."""
    plain = "weight_count", "quantized_bytes", "stream_bytes", "entropy_bits"
    return {
        "where": lambda layer: "accelerator",
        "name": lambda layer: layer["name"],
        "op": lambda layer: layer["op"],
        "post": lambda layer: layer["post"]["name"] if layer["post"] else "",
        "input_shapes": lambda layer: " ".join(map(shape_of, layer["input_shapes"])),
        "output_shape": lambda layer: shape_of(layer["output_shape"]),
        "weight_bits": lambda layer: layer["weight_bits"] or "",
        "activation_bits": lambda layer: layer["activation_bits"],
        "macs": lambda layer: layer["macs"],
        "macs_percent": lambda layer: _percent(layer["macs"], macs),
        "cycles": lambda layer: layer["cycles"],
        "cycles_percent": lambda layer: _percent(layer["cycles"], cycles),
        "utilization_percent": lambda layer: f"{100 * layer['utilization']:.2f}" if layer["macs"] else "",
        **{cause: lambda layer, cause=cause: layer["stalls"][cause] for cause in STALLS},  # type: ignore[misc]
        "sram_bytes": lambda layer: layer["sram_bytes"],
        "dram_bytes": lambda layer: sum(layer["dram_bytes"].values()),
        **{f"dram_{kind}": lambda layer, kind=kind: layer["dram_bytes"][kind] for kind in DRAM_KINDS},  # type: ignore[misc]
        "float_bytes": lambda layer: 4 * layer["weight_count"],
        **{key: lambda layer, key=key: layer[key] for key in plain},  # type: ignore[misc]
        "codecs": codecs_of,
        "cascade": lambda layer: layer["cascade"] or "",
        "bound_cycles": lambda layer: layer["bound_cycles"],
        "above_bound_cycles_percent": lambda layer: _gap(layer, "cycles"),
        "bound_dram_bytes": lambda layer: layer["bound_dram_bytes"],
        "above_bound_dram_bytes_percent": lambda layer: _gap(layer, "dram_bytes"),
        "cures": cures_of,
        "reason": lambda layer: "",
        "fix": lambda layer: "",
    }


def _gap(layer: Entry, figure: str) -> str:
    gap = layer["gap_percent"][figure]
    return "" if gap is None else f"{gap:.2f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else ""
