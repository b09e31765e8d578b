"""The least that a layer takes, however it is planned: cycles and bytes of DRAM."""

from __future__ import annotations

from ....machine.cost import CopyWork, work_units
from ....machine.hw import HwConfig
from ...layers import AnyLayer, ConvLayer, DepthwiseLayer, LayerGraph, TableLayer
from ..ahead import record_bytes


def least_cycles(layer: AnyLayer, graph: LayerGraph, hw: HwConfig) -> int:
    """Cycles of the compute engine: of all multipliers at the layer's bits, or of its values on their way out."""
    y = graph.maps[layer.output]
    out = work_units(CopyWork(h=y.h, w=y.w, channels=y.c, in_bits=y.bits, out_bits=y.bits), hw)
    macs = 0
    if isinstance(layer, ConvLayer | DepthwiseLayer):
        macs = -(-layer.macs // hw.macs_per_cycle(layer.weight_bits, graph.maps[layer.inputs[0]].bits))
    values = 0 if isinstance(layer, TableLayer) else out["requantize"]
    return max(macs, values, out["sram_write"])


def least_dram_bytes(step: int, graph: LayerGraph, entropy_bits: float, stream_bytes: int) -> int:
    """What has to pass for a layer: its weights, as entropy or as streams, whichever is less, its parameter records and table, what
    enters the subgraph and is read here first, and what leaves it."""
    layer = graph.layers[step]
    before = {index for each in graph.layers[:step] for index in each.inputs}
    fresh = set(layer.inputs) - before
    entering = sum(graph.maps[i].total_bytes for i in fresh if i in graph.inputs or graph.maps[i].data is not None)
    leaving = graph.maps[layer.output].total_bytes if layer.output in graph.outputs else 0
    return int(min(entropy_bits / 8, stream_bytes)) + record_bytes(layer) + entering + leaving
