"""The report of a compilation: `record.schema` says what it holds, this how each figure comes about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..dialect.quantized import QuantizedModel, UnlikePart
from ..machine.hw import HwConfig
from ..metadata.make import Boundary, seen_entries
from ..npu.partition.partition import Rejection
from ..npu.plan.pack import live_bytes
from ..npu.plan.price.cures import Cure as PlannedCure
from ..stages import OfThisRun
from .record.record import plain
from .record.schema import (
    DRAM_KINDS,
    REPORT_VERSION,
    STALLS,
    Block,
    Cure,
    DramBytes,
    Fallback,
    Gap,
    Layer,
    Memory,
    Post,
    Report,
    SharedScale,
    Stalls,
    Weights,
)
from .subgraphs import ProfiledSubgraph, tenancies

# By parameter that cures, which stalls it is for; all others are for compute.
CURED = {
    "dram_bytes_per_cycle": ("activation_load", "weight_load", "store"), "decoder_lanes": ("decode", "weight_load"),
    "weight_bits": ("compute", "weight_load", "decode"), "activation_bits": ("compute", "activation_load"),
    "sram_bytes": ("activation_load", "store"),
}  # fmt: skip
LEAST_SAVED = 0.02  # of a layer's cycles, that a cure is named
BITS_OF_FLOAT = 8  # width at which the bound counts the MACs of an operator that has no integer form


def make_report(
    model: str,
    hw: HwConfig,
    subgraphs: Sequence[ProfiledSubgraph],
    rejections: Sequence[Rejection],
    boundary: Boundary,
    quantized: QuantizedModel,
) -> Report:
    """The layers' cycles sum to ``cycles``, each layer's stalls to its cycles."""
    layers: list[Layer] = []
    for number, each in enumerate(subgraphs):
        before = len(layers)
        layers += [
            replace(layer, subgraph=number, sources=tuple(before + source for source in layer.sources))
            for layer in layer_entries(each)
        ]
    once = [int(each.profile["cycles"]) for each in subgraphs]
    cycles, runs = sum(once), boundary.runs or (boundary.batch,) * len(once)
    ideal = sum(layer.macs / _rate(hw, layer) for layer in layers if layer.macs)
    dram_bytes = DramBytes(*(sum(int(each.profile["dram_bytes"][kind]) for each in subgraphs) for kind in DRAM_KINDS))
    constants = sum(len(each.compiled.artefact.constants) for each in subgraphs)
    records_and_tables = constants - sum(layer.stream_bytes for layer in layers)
    least_bytes = bound_dram_bytes(layers, rejections, boundary, records_and_tables)
    least_cycles = bound_cycles(hw, layers, rejections, boundary, least_bytes)
    return Report(
        model=model,
        hw=hw.to_dict(),
        version=REPORT_VERSION,
        calibration=tuple(seen_entries(quantized.seen)),
        subgraphs=len(subgraphs),
        batch=boundary.batch,
        cycles=cycles,
        cycles_per_batch=sum(each * times for each, times in zip(once, runs, strict=True)),
        macs=sum(layer.macs for layer in layers),
        utilization=ideal / cycles if cycles else 0.0,
        bound_cycles=least_cycles,
        bound_dram_bytes=math.ceil(least_bytes),
        gap_percent=Gap(gap_percent(cycles, least_cycles), gap_percent(sum(dram_bytes.values()), least_bytes)),
        latency_ms=cycles / (hw.clock_mhz * 1e3),
        dram_bytes=dram_bytes,
        memory=Memory(
            peak_sram_bytes=max((int(each.profile["peak_sram_bytes"]) for each in subgraphs), default=0),
            live_sram_bytes=max((live_bytes(each.compiled.sram) for each in subgraphs), default=0),
            dram_footprint_bytes=sum(each.compiled.artefact.dram_bytes for each in subgraphs),
        ),
        weights=Weights(
            float_bytes=4 * sum(layer.weight_count for layer in layers),
            quantized_bytes=sum(layer.quantized_bytes for layer in layers),
            stream_bytes=sum(layer.stream_bytes for layer in layers),
            entropy_bits=sum(layer.entropy_bits for layer in layers),
        ),
        layers=tuple(layers),
        sram=tuple(_sram(subgraphs)),
        fallback=tuple(Fallback(r.name, r.op, r.macs // boundary.batch, r.reason, r.fix) for r in rejections),
        shared_scales=tuple(_shared_scale(part) for part in quantized.unlike),
        notes=tuple(note for note in quantized.notes if not isinstance(note, OfThisRun)),
        ranges=plain(quantized.ranges),
        drop=quantized.drop,
        search=quantized.chosen,
    )


def _shared_scale(part: UnlikePart) -> SharedScale:
    return SharedScale(part.join, part.part, part.share, part.bits, part.sqnr_db, plain(part.cure), part.taken)


def layer_entries(subgraph: ProfiledSubgraph) -> list[Layer]:
    """One for each layer of a subgraph, as if it were the only one; a layer that needs no instruction has no cycles."""
    counted = {int(entry["layer"]): entry for entry in subgraph.profile["layers"]}
    hw, entries = subgraph.compiled.artefact.hw, []
    for index, facts in enumerate(subgraph.compiled.layers):
        machine = counted.get(index, {"cycles": 0, "stalls": {}, "dram_bytes": {}})
        cycles = int(machine["cycles"])
        ideal = facts.macs / hw.macs_per_cycle(facts.weight_bits, facts.activation_bits) if facts.macs else 0.0
        kept = (block for block in subgraph.compiled.sram if block.first <= index <= block.last)
        stalls = Stalls(*(int(machine["stalls"].get(cause, 0)) for cause in STALLS))
        moved = DramBytes(*(int(machine["dram_bytes"].get(kind, 0)) for kind in DRAM_KINDS))
        entries.append(
            Layer(
                name=facts.name,
                op=facts.op,
                post=None if facts.post is None else Post(*facts.post),
                input_shapes=facts.input_shapes,
                output_shape=facts.output_shape,
                weight_bits=facts.weight_bits,
                activation_bits=facts.activation_bits,
                macs=facts.macs,
                cycles=cycles,
                utilization=ideal / cycles if cycles else 0.0,
                stalls=stalls,
                dram_bytes=moved,
                sram_bytes=sum(block.size_bytes for block in kept),
                weight_count=facts.weight_count,
                quantized_bytes=facts.quantized_bytes,
                stream_bytes=facts.stream_bytes,
                codecs=facts.codecs,
                entropy_bits=facts.entropy_bits,
                sources=facts.sources,
                cascade=None if facts.cascade is None else subgraph.compiled.layers[facts.cascade].name,
                subgraph=0,
                bound_cycles=facts.bound_cycles,
                bound_dram_bytes=facts.bound_dram_bytes,
                gap_percent=Gap(
                    gap_percent(cycles, facts.bound_cycles), gap_percent(sum(moved.values()), facts.bound_dram_bytes)
                ),
                cures=tuple(cures_in(facts.cures, cycles, stalls)),
            )
        )
    return entries


def cures_in(found: Sequence[PlannedCure], cycles: int, stalls: Stalls) -> list[Cure]:
    """What is left of estimated cures in a layer as it was simulated: none saves more than the stalls that it is for."""
    made = []
    for cure in found:
        causes = CURED.get(cure.parameter, ("compute",))
        saved = min(round(cure.share * cycles), sum(stalls[cause] for cause in causes))
        if saved >= LEAST_SAVED * cycles and saved > 0:
            made.append(Cure(cure.parameter, cure.before, cure.after, saved))
    return sorted(made, key=lambda cure: -cure.cycles)


def _sram(subgraphs: Sequence[ProfiledSubgraph]) -> list[Block]:
    """Who is where in SRAM."""
    found, before = [], 0
    for subgraph in subgraphs:
        for each in tenancies(subgraph):
            block, begin, end = each.block, before + each.begin, before + each.end
            found.append(Block(block.name, block.kind, block.addr, block.size_bytes, begin, end))
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
