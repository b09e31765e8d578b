"""What the CPU's passes hand over to be scheduled: a module of fused functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import tvm

from .kernels import PlannedKernel


@dataclass(frozen=True, eq=False)
class Fused:
    """A network after fusion and before scheduling.

    ``mod``: the Relax program and the fused PrimFuncs that it calls. ``layers``: for each PrimFunc, by its name, the names of
    the network's layers that it computes. ``kernels``: the PrimFuncs on integers that have several plans, by name; in ``mod`` they
    are made by the rule's.
    """

    mod: tvm.IRModule
    layers: Mapping[str, tuple[str, ...]]
    kernels: Mapping[str, PlannedKernel] = field(default_factory=dict)
