"""What instructions change: the memories and the open accumulators of one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..hw import HwConfig
from .memory import Memory


@dataclass
class Accumulators:
    """``shape``: what the next instruction must have in common; ``acc`` [h, w, c]; ``hit`` [h, w]: some tap existed."""

    shape: tuple[Any, ...]
    acc: np.ndarray
    hit: np.ndarray


@dataclass
class State:
    """Of the machine ``hw``. ``accumulators``: None while none are open."""

    hw: HwConfig
    dram: Memory
    sram: Memory
    weights: Memory
    accumulators: Accumulators | None = None
