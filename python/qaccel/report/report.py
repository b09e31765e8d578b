"""The report: what the accelerator did with its time, memory and weights, as plain values.

All counts are of one run of each program; `cycles_per_batch` is of the whole batch, over whose samples the runtime loops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..dialect.quantized import QuantizedModel, UnlikePart
from ..machine.hw import HwConfig
from ..metadata import Boundary, seen_entries
from ..npu.codegen import CompiledSubgraph
from ..npu.partition.partition import Rejection
from .bits import search_entry

STALLS = ("compute", "activation_load", "weight_load", "decode", "store", "wait")
BITS_OF_FLOAT = 8  # width at which the bound counts the MACs of an operator that has no integer form
Profile = Mapping[str, Any]  # what the simulator's cycle mode gives for one subgraph (run/simulator.py)
Report = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ProfiledSubgraph:
    """One accelerator subgraph: its program, and what the simulator's cycle mode counted on it."""

    compiled: CompiledSubgraph
    profile: Profile

    def __repr__(self) -> str:
        return f"<ProfiledSubgraph '{self.compiled.artefact.symbol[:60]}': {self.profile['cycles']:,} cycles>"


def make_report(
    model: str,
    hw: HwConfig,
    subgraphs: Sequence[ProfiledSubgraph],
    rejections: Sequence[Rejection],
    boundary: Boundary,
    quantized: QuantizedModel,
) -> Report:
    """``report.json`` as a dictionary. The layers' cycles sum to ``cycles``, each layer's stalls to its cycles."""
    layers = [entry for each in subgraphs for entry in layer_entries(each)]
    once = [int(each.profile["cycles"]) for each in subgraphs]
    cycles, runs = sum(once), boundary.runs or (boundary.batch,) * len(once)
    ideal = sum(layer["macs"] / _rate(hw, layer) for layer in layers if layer["macs"])
    dram_keys = ("weights", "activations_read", "activations_written", "program")
    dram_bytes = {key: sum(int(each.profile["dram_bytes"][key]) for each in subgraphs) for key in dram_keys}
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
        "fallback": [
            {"name": r.name, "op": r.op, "macs": r.macs // boundary.batch, "reason": r.reason, "fix": r.fix}
            for r in rejections
        ],
        "shared_scales": [_shared_scale(part) for part in quantized.unlike],
        "ranges": dict(quantized.ranges),
        "drop": None if quantized.drop is None else asdict(quantized.drop),
        "search": None if quantized.chosen is None else search_entry(quantized.chosen),
    }


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
    """One entry per layer of a subgraph; a layer that needs no instruction has no cycles."""
    counted = {int(entry["layer"]): entry for entry in subgraph.profile["layers"]}
    entries = []
    for index, facts in enumerate(subgraph.compiled.layers):
        machine = counted.get(index, {"cycles": 0, "stalls": {}})
        entries.append(
            {
                "name": facts.name,
                "op": facts.op,
                "weight_bits": facts.weight_bits,
                "activation_bits": facts.activation_bits,
                "macs": facts.macs,
                "cycles": int(machine["cycles"]),
                "stalls": {cause: int(machine["stalls"].get(cause, 0)) for cause in STALLS},
                "weight_count": facts.weight_count,
                "quantized_bytes": facts.quantized_bytes,
                "stream_bytes": facts.stream_bytes,
                "codecs": facts.codecs,
                "entropy_bits": facts.entropy_bits,
            }
        )
    return entries


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


def timeline(subgraphs: Sequence[ProfiledSubgraph], clock_mhz: int) -> dict[str, Any]:
    """``timeline.json`` for Perfetto: one process per subgraph, one thread per engine, times in microseconds."""
    from ..machine.isa import decode, isa

    engines = list(isa().engines)
    events: list[dict[str, Any]] = []
    begin = 0
    for process, subgraph in enumerate(subgraphs):
        artefact, trace = subgraph.compiled.artefact, subgraph.profile["trace"]
        events.append({"ph": "M", "name": "process_name", "pid": process, "args": {"name": artefact.symbol}})
        for thread, engine in enumerate(engines):
            events.append({"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": engine}})
        columns = (trace[key] for key in ("start", "end", "engine", "layer"))
        for index, (ins, start, end, engine, layer) in enumerate(zip(decode(artefact.program), *columns, strict=True)):
            events.append(
                {
                    "ph": "X",
                    "name": f"{ins.op} {artefact.layers[layer]}",
                    "pid": process,
                    "tid": engine,
                    "ts": (begin + start) / clock_mhz,
                    "dur": (end - start) / clock_mhz,
                    "args": {"instruction": index, "layer": layer, "cycle": begin + start, "cycles": end - start},
                }
            )
        begin += int(subgraph.profile["cycles"])
    return {"displayTimeUnit": "ns", "traceEvents": events}
