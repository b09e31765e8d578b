"""What the CPU's passes hand to the schedules: a module of fused functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tvm


@dataclass(frozen=True, eq=False)
class Fused:
    """``mod`` calls fused functions that no rule has scheduled yet; ``layers``: names of the network's that each computes."""

    mod: tvm.IRModule
    layers: Mapping[str, tuple[str, ...]]
