"""What a plan of bits costs on the machine: the type in which whoever compiles answers whoever chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .quantized import QuantizedModel


@dataclass(frozen=True)
class LayerCost:
    """Of one layer: its cycles of the simulated program, and the bytes of its weight streams. ``name``: of its operation;
    ``waits_for_weights``: for more than half of its cycles it waits for them to come from DRAM."""

    name: str
    cycles: int
    stream_bytes: int
    waits_for_weights: bool = False


@dataclass(frozen=True)
class PlanCost:
    """Of a whole network, one sample: ``cycles`` on the simulator; ``bytes`` of streams, parameter records and tables.

    ``fallback_macs``: multiply-adds that stay on the CPU, which no cycle counts.
    """

    cycles: int
    bytes: int
    layers: tuple[LayerCost, ...]
    fallback_macs: int


Price = Callable[[QuantizedModel], PlanCost]
