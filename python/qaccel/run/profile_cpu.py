"""Where a module's time on the CPU goes, function by function."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from .execute import Runner

_RUNTIME = "vm.builtin."  # the virtual machine's own: allocation, checks


@dataclass(frozen=True)
class FunctionTime:
    """One function: how often a run calls it, and microseconds of all these calls together. Layers that are equal share one."""

    name: str
    calls: int
    microseconds: float


def profile_cpu(module: Runner, inputs: Mapping[str, np.ndarray], runs: int) -> list[FunctionTime]:
    """Means over ``runs`` runs after one to warm up, the slowest function first; the virtual machine's own work as one.

    Raises UserError if ``inputs`` do not fit, or hold no sample, or if the module runs on another machine.
    """
    if module.remote is not None:
        raise UserError("functions of the CPU are timed on this machine only; profile without --rpc-tracker")
    module.run(inputs)
    seconds: dict[str, float] = {}
    calls: dict[str, int] = {}
    begun = [0.0]

    def observe(_function: Any, name: str, before: bool, _result: Any, *_arguments: Any) -> int:
        if before:
            begun[0] = time.perf_counter()
        else:
            key = _RUNTIME if name.startswith(_RUNTIME) else name
            seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - begun[0]
            calls[key] = calls.get(key, 0) + 1
        return 0

    module.vm.set_instrument(observe)
    try:
        for _ in range(runs):
            module.run(inputs)
    finally:
        module.vm.set_instrument(lambda *_: 0)
    if not seconds:
        raise UserError("the module calls no function; there is nothing to profile")
    rows = [
        FunctionTime("virtual machine" if name == _RUNTIME else name, calls[name] // runs, 1e6 * spent / runs)
        for name, spent in seconds.items()
    ]
    return sorted(rows, key=lambda row: -row.microseconds)


def profile_text(rows: list[FunctionTime]) -> str:
    """A table, one function a line."""
    total = sum(row.microseconds for row in rows)
    lines = [f"{'us':>10}  {'share':>6}  {'calls':>5}  function"]
    lines += [
        f"{row.microseconds:10.1f}  {100 * row.microseconds / total:5.1f}%  {row.calls:5d}  {row.name}" for row in rows
    ]
    return "\n".join([*lines, f"{total:10.1f}  100.0%         all"])
