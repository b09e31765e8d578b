"""An analysis in the terminal and as JSON: what a network loses by its quantization, and why."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ..options import BitWidths
from ..quant.analysis.analyze import Analysis, Source
from .tables import Column, print_table


def print_sources(analysis: Analysis, most: int) -> None:
    """The estimated drop, and the sources of error that cost most."""
    drop = analysis.drop
    judged = "held out" if drop.held_out else "that calibrated it"
    print(f"estimated drop: {drop.points:.2f} +- {drop.error:.2f} points on {drop.samples} samples {judged}")
    shown = analysis.sources[:most]
    columns = (
        Column("node", tuple(each.finding.node for each in shown), text=True),
        Column("of", tuple(each.finding.what for each in shown), dropped=3, text=True),
        Column("bits", tuple(str(each.finding.bits) for each in shown)),
        Column("dB", tuple(_number(each.finding.db) for each in shown)),
        Column("points alone", tuple(f"{each.points:.2f}" for each in shown)),
        Column("cause", tuple(f"{each.finding.cause}: {each.finding.detail}" for each in shown), dropped=2, text=True),
        Column("remedy", tuple(each.finding.remedy or "-" for each in shown), dropped=4, text=True),
        Column("gains", tuple(_gain(each) for each in shown), dropped=1),
    )
    print_table(f"sources of error, on {analysis.samples} samples", columns)
    if len(analysis.sources) > most:
        print(f"and {len(analysis.sources) - most} more, which cost less; -v shows them")


def print_tensors(analysis: Analysis) -> None:
    """Every tensor: signal to error in dB of its own rounding, of its layer's weights, and of all that came before."""
    tensors = analysis.tensors
    columns = (
        Column("node", tuple(each.node for each in tensors), text=True),
        Column("op", tuple(each.op for each in tensors), dropped=1, text=True),
        Column("weight bits", tuple("-" if each.weight_bits is None else str(each.weight_bits) for each in tensors)),
        Column("bits", tuple(str(each.q.bits) for each in tensors)),
        Column("weights dB", tuple("-" if each.weights_db is None else _number(each.weights_db) for each in tensors)),
        Column("rounded dB", tuple(_number(each.rounded_db) for each in tensors)),
        Column("accumulated dB", tuple(_number(each.accumulated_db) for each in tensors)),
    )
    print_table("tensors", columns)


def analysis_json(analysis: Analysis) -> str:
    """Everything that was measured: ``drop``, ``sources`` and ``tensors``; what is infinite is null."""
    sources = [
        {**asdict(each.finding), "points": each.points, "gain_points": each.gain_points} for each in analysis.sources
    ]
    made = {"drop": asdict(analysis.drop), "samples": analysis.samples, "sources": sources}
    return json.dumps(_finite({**made, "tensors": [asdict(each) for each in analysis.tensors]}), indent=1)


def plan_with_remedy(analysis: Analysis) -> dict[str, BitWidths]:
    """The bits that were analyzed, with those that the remedy of the worst source asks for."""
    remedy = next((each.finding.plan for each in analysis.sources if each.finding.plan), {})
    return {**analysis.quantized.plan, **remedy}


def _gain(source: Source) -> str:
    points = "" if source.gain_points is None else f"{source.gain_points:.2f} points, "
    return f"{points}{source.finding.gain_db:.0f} dB" if source.finding.remedy else "-"


def _number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "inf" if value > 0 else "-inf"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
