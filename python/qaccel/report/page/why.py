"""Why a layer costs what it costs, in a sentence: what most of its cycles went to, and by how much the machine forces that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...machine.hw import HwConfig
from ..record.schema import STALLS
from ..text import cure_text

Layer = Mapping[str, Any]

CAUSES = {
    "compute": "compute", "activation_load": "activations loaded", "weight_load": "weights loaded", "decode": "weights decoded",
    "store": "activations stored", "wait": "waiting",
}  # fmt: skip


def main_cause(layer: Layer) -> str:
    """What most of a layer's cycles went to; the empty string for one that takes none."""
    return max(STALLS, key=lambda cause: layer["stalls"][cause]) if layer["cycles"] else ""


def why(layer: Layer, hw: HwConfig) -> str:
    """One sentence for the page."""
    cause = main_cause(layer)
    if not cause:
        return "It takes no cycles."
    share = f"{100 * layer['stalls'][cause] / layer['cycles']:.0f}%"
    return f"{share} {CAUSES[cause]}: {_DETAILS[cause](layer, hw)}.{_bound(layer)}{_cures(layer)}"


def _bound(layer: Layer) -> str:
    gap = layer["gap_percent"]["cycles"]
    return "" if gap is None else f" No plan takes less than {layer['bound_cycles']:,}; it is {gap:.0f}% above."


def _cures(layer: Layer) -> str:
    """What would help, as estimated."""
    if not layer["cures"]:
        return ""
    named = [f"{cure['cycles']:,} by {cure_text(cure)}" for cure in layer["cures"]]
    return f" Cycles that could be saved, estimated: {', or '.join(named)}."


def _compute(layer: Layer, hw: HwConfig) -> str:
    if not layer["macs"]:
        return f"{layer['op']} multiplies nothing; its values pass through the compute engine"
    rate = hw.macs_per_cycle(layer["weight_bits"], layer["activation_bits"])
    return (
        f"{layer['macs']:,} MACs, of which the array does at most {rate:,} a cycle at these bits; over all its cycles the layer "
        f"keeps {100 * layer['utilization']:.0f}% of the multipliers busy"
    )


def _weights(layer: Layer, hw: HwConfig) -> str:
    moved = layer["dram_bytes"]["weights"]
    again = (
        f", its {layer['stream_bytes']:,} B of streams more than once" if layer["stream_bytes"] * 1.5 < moved else ""
    )
    return f"{moved:,} B of weights and parameters come from DRAM at {hw.dram_bytes_per_cycle} B a cycle{again}"


def _decode(layer: Layer, hw: HwConfig) -> str:
    streams = f"{layer['weight_count']:,} weights in {layer['stream_bytes']:,} B of streams"
    return f"{streams} pass {hw.decoder_lanes} lanes of the decoder"


def _load(layer: Layer, hw: HwConfig) -> str:
    return f"{layer['dram_bytes']['activations_read']:,} B of maps that do not stay in SRAM come from DRAM"


def _store(layer: Layer, hw: HwConfig) -> str:
    return f"{layer['dram_bytes']['activations_written']:,} B of maps that do not stay in SRAM go to DRAM"


def _wait(layer: Layer, hw: HwConfig) -> str:
    return "no engine has work that it may begin; memory's latency and start-ups pass"


_DETAILS = {
    "compute": _compute, "activation_load": _load, "weight_load": _weights, "decode": _decode, "store": _store, "wait": _wait,
}  # fmt: skip
