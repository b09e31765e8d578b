"""Seeded faults: what of the compiler could stop working without a wrong result, which only the golden table shows.

Each is applied at run time. The places that are changed are named as text, the only ones here that are inside the package.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import qaccel
from golden import estimates, table
from qaccel.machine.streams import raw_streams

TIMELINE = "qaccel.machine.timeline"
ALLOCATE = "qaccel.npu.plan.allocate"
PLANNER = "qaccel.npu.plan.cascade"
CONSTANTS = "qaccel.quant.passes.constants"
CODEGEN = "qaccel.npu.codegen"
LOWER = "qaccel.npu.lower.from_relax"
PASSES = "qaccel.quant.passes.PASSES"
SCHEDULE = "qaccel.npu.emit.builder"
SYNTHETIC = "qaccel.quant.calibrate.inputs.synthetic"
HOST = "qaccel.schedules.host"


@dataclass(frozen=True)
class Fault:
    """``golden`` names the file that shows it, ``measure`` the part of it that is measured, ``fact`` a line that changes:
    its network, target, bits, quantity and subject."""

    name: str
    golden: str
    measure: Callable[[], list[str]]
    fact: tuple[str, str, str, str, str]
    apply: Callable[[pytest.MonkeyPatch], None]


def _accelerator(network: str, config: str, bits: str) -> list[str]:
    quantized = qaccel.quantize(table.model_of(network), table.data_of(network), bits=bits, effort="fast")
    return list(table.accelerator(network, config, bits, quantized))


def _cycles(name: str, network: str, config: str, bits: str, apply: Callable[[pytest.MonkeyPatch], None]) -> Fault:
    """A fault that costs or saves cycles of the whole network."""
    fact = (network, config, bits, "cycles", "-")
    return Fault(name, f"{network}_{bits}", partial(_accelerator, *fact[:3]), fact, apply)


def _wrapped(module: str, name: str, wrapper: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """A function of a module, replaced by one that is given the original and its arguments."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(f"{module}.{name}", partial(wrapper, getattr(importlib.import_module(module), name)))

    return apply


def _estimate(name: str, network: str, config: str, bits: str, apply: Callable[[pytest.MonkeyPatch], None]) -> Fault:
    """A fault that moves the estimate of the whole network."""
    measure = partial(estimates.measure, network, bits, (config,))
    return Fault(name, f"{network}_estimates", measure, (network, config, bits, "estimate_error", "network"), apply)


def _any_bias(patch: pytest.MonkeyPatch) -> None:
    """A bias may leave int32 and the accumulator."""
    patch.setattr(f"{CONSTANTS}._INT32", np.iinfo(np.int64))
    patch.setattr(f"{CONSTANTS}.accumulator_width", lambda *bits: 63)


def _set(name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """An attribute by its dotted name."""
    return lambda patch: patch.setattr(name, value)


def _one_group_each(group_parts: Callable[..., Any], *args: Any) -> Any:
    """No more groups at once than whole bytes ask for: as on an array of one column, which more would not fill better."""
    *rest, hw = args
    return group_parts(*rest, replace(hw, cols=1))


def _slow_writes(plan_layer: Callable[..., Any], layer: Any, maps: Any, hw: Any, *rest: Any) -> Any:
    """Tiles are planned for half the bandwidth into SRAM."""
    return plan_layer(layer, maps, replace(hw, sram_write_bytes_per_cycle=hw.sram_write_bytes_per_cycle // 2), *rest)


def _half_the_latency(plan_layer: Callable[..., Any], layer: Any, maps: Any, hw: Any, *rest: Any) -> Any:
    """Tiles are planned for a DRAM that answers twice as fast."""
    return plan_layer(layer, maps, replace(hw, dram_latency_cycles=hw.dram_latency_cycles // 2), *rest)


def _single_buffered(plan_layer: Callable[..., Any], *args: Any) -> Any:
    """One copy of each block for inputs and outputs: a tile is fetched only when the tile before is done with its place."""
    tiling = plan_layer(*args)
    return tiling and replace(tiling, in_slots=1, out_slots=1)


def _as_if_raw(estimate_streams: Callable[..., Any], matrices: Any, hw: Any) -> Any:
    """Tiles are planned for weights that nothing compresses."""
    return [raw_streams(bits, hw) for _, bits in matrices]


def _biases(network: str) -> list[str]:
    return table.biases(
        network, "W8A8", qaccel.quantize(table.model_of(network), table.data_of(network), bits="W8A8", effort="fast")
    )


FAULTS = (
    _cycles(
        "no map stays in SRAM", "resnet", "qaccel-256", "W8A8", _set(f"{ALLOCATE}._lifetimes", lambda graph: {})
    ),
    _cycles(
        "weights that belong together wrap around the buffer's end", "mobilenet", "qaccel-64", "W8A8",
        _set(f"{SCHEDULE}.ProgramBuilder.reserve_weights", lambda self, total_bytes: None),
    ),
    _cycles(
        "records not fetched ahead", "resnet", "qaccel-256", "W8A8",
        _set(f"{ALLOCATE}.merge_records", lambda graph, units, taken, hw: ((), taken)),
    ),
    _cycles("streams not fetched ahead", "resnet", "qaccel-256", "W8A8", _set(f"{ALLOCATE}.stock_streams", lambda *args: ())),
    _cycles("weights never held back", "mobilenet", "qaccel-64", "W4A8", _set(f"{ALLOCATE}.find_holds", lambda *args: ())),
    _cycles("groups not packed", "grouped", "qaccel-256", "W8A8", _wrapped(LOWER, "group_parts", _one_group_each)),
    _cycles("planned for slow writes", "expanding", "qaccel-256", "W4A8", _wrapped(PLANNER, "plan_layer", _slow_writes)),
    _cycles("planned for half the latency", "grouped", "qaccel-256", "W8A8", _wrapped(PLANNER, "plan_layer", _half_the_latency)),
    _cycles("not double-buffered", "grouped", "qaccel-256", "W8A8", _wrapped(PLANNER, "plan_layer", _single_buffered)),
    _cycles("planned for raw weights", "resnet", "qaccel-256", "W8A8", _wrapped(CODEGEN, "estimate_streams", _as_if_raw)),
    _cycles(
        "no pixels made as one", "resnet", "qaccel-256", "W4A8", _set(f"{CODEGEN}.with_wide_pixels", lambda graph, *_: graph)
    ),
    _estimate(
        "stocks not counted on", "resnet", "qaccel-256", "W8A8", _set("qaccel.npu.plan.estimate.stocked_streams", lambda *_: 0)
    ),
    _estimate("weights anywhere in the buffer", "resnet", "qaccel-256", "W8A8", _set("qaccel.machine.layer_cost.WeightBuffer.put", lambda *_: 0)),
    _estimate("records cost nothing", "resnet", "qaccel-1024", "W8A8", _set(f"{TIMELINE}._Timeline._fetch_blocks", lambda *_: 0)),
    _cycles("channels not ordered", "mobilenet", "qaccel-64", "W8A8", _set(f"{CODEGEN}.order_channels", lambda graph: graph)),
    Fault(
        "biases may overflow", "rounded_W8A8", partial(_biases, "rounded"), ("rounded", "-", "W8A8", "bias_least", "conv"),
        _any_bias,
    ),
    Fault(
        "biases not corrected", "rounded_W8A8", partial(_biases, "rounded"), ("rounded", "-", "W8A8", "bias_least", "conv"),
        _set(PASSES, ()),
    ),
    Fault(
        "half the headroom without data", "mobilenet_no_data", partial(table.ranges, "mobilenet"),
        ("mobilenet", "-", "no-data", "range_hi", "image"), _set(f"{SYNTHETIC}.HEADROOM", 2.0),
    ),
    Fault(
        "latency of the CPU forgotten", "resnet_cpu", partial(table.measure_cpu, "resnet", ("cascadelake",)),
        ("resnet", "cascadelake", "float", "schedule", "fused_conv2d5_add5_relu3"), _set(f"{HOST}.FMAS_IN_FLIGHT", 1),
    ),
)  # fmt: skip
