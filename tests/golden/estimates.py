"""How far the cost model's estimate of a plan lies from what the simulator counts for its program."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import qaccel
from golden import table
from qaccel.machine.hw import HwConfig, load_config
from qaccel.npu.codegen import compile_layers, planned
from qaccel.npu.layers import LayerGraph
from qaccel.npu.lower.from_relax import lower
from qaccel.npu.partition.partition import partition, subgraph_functions
from qaccel.npu.plan.estimate import planned_cycles
from qaccel.run.program import profile

COUNTED = 0.01  # a layer's part of the cycles from which on its error counts
BARS = {"network": 1.5, "median": 3.0, "worst": 15.0}  # per cent
CONFIGS = ("qaccel-64", "qaccel-256", "qaccel-1024")
BITS = ("W8A8", "W4A8")


def subgraphs(quantized: qaccel.QuantizedNetwork, hw: HwConfig) -> list[LayerGraph]:
    """The layers of each subgraph of a quantized network."""
    q = quantized.quantized
    parts = partition(q.mod, hw, q.unquantized)
    functions = subgraph_functions(parts.mod)
    return [lower(functions[symbol], symbol, hw) for symbol in parts.subgraphs]


def errors(layers: Sequence[LayerGraph], hw: HwConfig) -> dict[str, float]:
    """Estimates over what the simulator counts, in per cent: of the whole ``network``, signed; of each layer or cascade that counts, the
    ``median`` and the ``worst``."""
    pairs: list[tuple[int, int]] = []
    for graph in layers:
        whole, allocation = planned(graph, hw)
        counted = {
            each["layer"]: int(each["cycles"])
            for each in profile(compile_layers(graph, hw, proven=False).artefact, trace=False)["layers"]
        }
        pairs += [
            (cycles, sum(counted.get(step, 0) for step in range(unit.first, unit.last + 1)))
            for unit, cycles in planned_cycles(whole, allocation, hw)
        ]
    estimate, cycles = (sum(column) for column in zip(*pairs, strict=True))
    sizes = [abs(100 * (a / b - 1)) for a, b in pairs if b > COUNTED * cycles]
    return {"network": 100 * (estimate / cycles - 1), "median": statistics.median(sizes), "worst": max(sizes)}


def missed(found: dict[str, float]) -> list[str]:
    """Which of the errors are above their bars."""
    return [name for name, bar in BARS.items() if abs(found[name]) > bar]


def measure(network: str, bits: str, configs: Sequence[str] = CONFIGS) -> list[str]:
    """Lines of the golden table."""
    quantized = qaccel.quantize(table.model_of(network), table.data_of(network), bits=bits, effort="fast")
    return [
        table.line(network, config, bits, "estimate_error", name, f"{value:.2f}")
        for config in configs
        for name, value in errors(subgraphs(quantized, load_config(config)), load_config(config)).items()
    ]
