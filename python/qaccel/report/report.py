"""The report: what the accelerator did with its time, memory and weights, as plain values.

All counts are of one run of each program; `cycles_per_batch` is of the whole batch, over whose samples the runtime loops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..dialect.chosen import Chosen
from ..dialect.quantized import QuantizedModel, UnlikePart
from ..machine.hw import HwConfig
from ..metadata import Boundary, seen_entries
from ..npu.partition.partition import Rejection
from ..stages import OfThisRun
from .subgraphs import ProfiledSubgraph, tenancies

STALLS = ("compute", "activation_load", "weight_load", "decode", "store", "wait")
DRAM_KINDS = ("weights", "activations_read", "activations_written", "program")
BITS_OF_FLOAT = 8  # width at which the bound counts the MACs of an operator that has no integer form
Report = dict[str, Any]


def make_report(
    model: str,
    hw: HwConfig,
    subgraphs: Sequence[ProfiledSubgraph],
    rejections: Sequence[Rejection],
    boundary: Boundary,
    quantized: QuantizedModel,
) -> Report:
    """``report.json`` as a dictionary. The layers' cycles sum to ``cycles``, each layer's stalls to its cycles."""
    layers: list[dict[str, Any]] = []
    for number, each in enumerate(subgraphs):
        before = len(layers)
        layers += [
            {**entry, "subgraph": number, "sources": [before + source for source in entry["sources"]]}
            for entry in layer_entries(each)
        ]
    once = [int(each.profile["cycles"]) for each in subgraphs]
    cycles, runs = sum(once), boundary.runs or (boundary.batch,) * len(once)
    ideal = sum(layer["macs"] / _rate(hw, layer) for layer in layers if layer["macs"])
    dram_bytes = {kind: sum(int(each.profile["dram_bytes"][kind]) for each in subgraphs) for kind in DRAM_KINDS}
    constants = sum(len(each.compiled.artefact.constants) for each in subgraphs)
    records_and_tables = constants - sum(layer["stream_bytes"] for layer in layers)
    least_bytes = bound_dram_bytes(layers, rejections, boundary, records_and_tables)
    least_cycles = bound_cycles(hw, layers, rejections, boundary, least_bytes)
    return {
        "model": model,
        "hw": hw.to_dict(),
        "calibration": seen_entries(quantized.seen),
        "subgraphs": len(subgraphs),
        "batch": boundary.batch,
        "cycles": cycles,
        "cycles_per_batch": sum(each * times for each, times in zip(once, runs, strict=True)),
        "macs": sum(layer["macs"] for layer in layers),
        "utilization": ideal / cycles if cycles else 0.0,
        "bound_cycles": least_cycles,
        "bound_dram_bytes": math.ceil(least_bytes),
        "gap_percent": {
            "cycles": gap_percent(cycles, least_cycles),
            "dram_bytes": gap_percent(sum(dram_bytes.values()), least_bytes),
        },
        "latency_ms": cycles / (hw.clock_mhz * 1e3),
        "dram_bytes": dram_bytes,
        "memory": {
            "peak_sram_bytes": max((int(each.profile["peak_sram_bytes"]) for each in subgraphs), default=0),
            "dram_footprint_bytes": sum(each.compiled.artefact.dram_bytes for each in subgraphs),
        },
        "weights": {
            "float_bytes": 4 * sum(layer["weight_count"] for layer in layers),
            "quantized_bytes": sum(layer["quantized_bytes"] for layer in layers),
            "stream_bytes": sum(layer["stream_bytes"] for layer in layers),
            "entropy_bits": sum(layer["entropy_bits"] for layer in layers),
        },
        "layers": layers,
        "sram": _sram(subgraphs),
        "fallback": [
            {"name": r.name, "op": r.op, "macs": r.macs // boundary.batch, "reason": r.reason, "fix": r.fix}
            for r in rejections
        ],
        "shared_scales": [_shared_scale(part) for part in quantized.unlike],
        "notes": [note for note in quantized.notes if not isinstance(note, OfThisRun)],
        "ranges": dict(quantized.ranges),
        "drop": None if quantized.drop is None else asdict(quantized.drop),
        "search": None if quantized.chosen is None else _search(quantized.chosen),
    }


def _search(chosen: Chosen) -> dict[str, Any]:
    """The search as report.json has it."""
    entry = asdict(chosen)
    entry["plan"] = {
        name: {"weight_bits": each.weight_bits, "activation_bits": each.activation_bits}
        for name, each in chosen.plan.items()
    }
    return entry


def _shared_scale(part: UnlikePart) -> dict[str, Any]:
    """A part that shares the scale of a wider one; ``plan``: the lines of a plan.json that give it 16 bits."""
    plan = {
        name: {"weight_bits": each.weight_bits, "activation_bits": each.activation_bits}
        for name, each in part.cure.items()
    }
    return {
        "join": part.join, "part": part.part, "share": part.share, "bits": part.bits, "sqnr_db": part.sqnr_db,
        "plan": plan, "taken": part.taken,
    }  # fmt: skip


def layer_entries(subgraph: ProfiledSubgraph) -> list[dict[str, Any]]:
    """One entry per layer of a subgraph; a layer that needs no instruction has no cycles. ``sources``: numbers in the subgraph."""
    counted = {int(entry["layer"]): entry for entry in subgraph.profile["layers"]}
    hw, entries = subgraph.compiled.artefact.hw, []
    for index, facts in enumerate(subgraph.compiled.layers):
        machine = counted.get(index, {"cycles": 0, "stalls": {}, "dram_bytes": {}})
        cycles = int(machine["cycles"])
        ideal = facts.macs / hw.macs_per_cycle(facts.weight_bits, facts.activation_bits) if facts.macs else 0.0
        kept = (block for block in subgraph.compiled.sram if block.first <= index <= block.last)
        entries.append(
            {
                "name": facts.name,
                "op": facts.op,
                "post": None if facts.post is None else dict(zip(("name", "op"), facts.post, strict=True)),
                "input_shapes": [list(shape) for shape in facts.input_shapes],
                "output_shape": list(facts.output_shape),
                "weight_bits": facts.weight_bits,
                "activation_bits": facts.activation_bits,
                "macs": facts.macs,
                "cycles": cycles,
                "utilization": ideal / cycles if cycles else 0.0,
                "stalls": {cause: int(machine["stalls"].get(cause, 0)) for cause in STALLS},
                "dram_bytes": {kind: int(machine["dram_bytes"].get(kind, 0)) for kind in DRAM_KINDS},
                "sram_bytes": sum(block.size_bytes for block in kept),
                "weight_count": facts.weight_count,
                "quantized_bytes": facts.quantized_bytes,
                "stream_bytes": facts.stream_bytes,
                "codecs": facts.codecs,
                "entropy_bits": facts.entropy_bits,
                "sources": list(facts.sources),
                "cascade": None if facts.cascade is None else subgraph.compiled.layers[facts.cascade].name,
            }
        )
    return entries


def _sram(subgraphs: Sequence[ProfiledSubgraph]) -> list[dict[str, Any]]:
    """Who is where in SRAM: blocks of bytes, and from which cycle to which of all programs one after the other they are in use."""
    found, before = [], 0
    for subgraph in subgraphs:
        for each in tenancies(subgraph):
            block = each.block
            found.append(
                {
                    "name": block.name, "kind": block.kind, "addr": block.addr, "bytes": block.size_bytes,
                    "begin": before + each.begin, "end": before + each.end,
                }
            )  # fmt: skip
        before += int(subgraph.profile["cycles"])
    return found


def bound_dram_bytes(
    layers: Sequence[Mapping[str, Any]], rejections: Sequence[Rejection], boundary: Boundary, records_and_tables: int
) -> float:
    """The least DRAM bytes of a sample, fallback included: what has to be fetched or stored once.

    Of each layer its weights, as entropy or as streams, whichever is less; ``records_and_tables``: parameter records, tables and
    other constants that are no weights; the network's input and output.
    """
    weights = sum(min(layer["entropy_bits"] / 8, layer["stream_bytes"]) for layer in layers)
    weights += sum(r.entropy_bits for r in rejections) / 8
    return weights + records_and_tables + (boundary.input_bytes + boundary.output_bytes) / boundary.batch


def bound_cycles(
    hw: HwConfig,
    layers: Sequence[Mapping[str, Any]],
    rejections: Sequence[Rejection],
    boundary: Boundary,
    dram_bytes: float,
) -> int:
    """The least cycles of a sample that multipliers and DRAM allow, fallback included; ``dram_bytes``: those of the bound."""
    mac_cycles = sum(layer["macs"] / _rate(hw, layer) for layer in layers if layer["macs"])
    for r in rejections:
        bits = r.weight_bits or BITS_OF_FLOAT, r.activation_bits or BITS_OF_FLOAT
        mac_cycles += r.macs / boundary.batch / hw.macs_per_cycle(*bits)
    return math.ceil(max(mac_cycles, dram_bytes / hw.dram_bytes_per_cycle))


def gap_percent(value: float, bound: float) -> float | None:
    """How far a figure is above its bound, in per cent; None where it is not, because the bound counts what the CPU does, too."""
    return 100 * (value / bound - 1) if 0 < bound <= value else None


def _rate(hw: HwConfig, layer: Mapping[str, Any]) -> int:
    return hw.macs_per_cycle(layer["weight_bits"], layer["activation_bits"])
