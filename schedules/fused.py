"""What the CPU's passes hand over to be scheduled: a module of fused functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tvm


@dataclass(frozen=True, eq=False)
class Fused:
    """A network after fusion and before scheduling.

    ``mod``: the Relax program and the fused PrimFuncs that it calls. ``layers``: for each PrimFunc, by its name, the names of
    the network's layers that it computes.
    """

    mod: tvm.IRModule
    layers: Mapping[str, tuple[str, ...]]
