"""How many threads TVM's pool gets."""

from __future__ import annotations

import os

import psutil

_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")


def physical_cores() -> int:
    """Cores that this process may use, not counting a core's second thread."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(psutil.cpu_count(logical=False) or allowed, allowed), 1)


def use_all_cores() -> None:
    """One thread per core, unless the user's TVM_NUM_THREADS or OMP_NUM_THREADS says otherwise.

    Left alone, TVM takes half of what the system calls processors, even where none of them is a core's second thread. Works
    until the first parallel loop runs: TVM makes its pool then.
    """
    if not any(name in os.environ for name in _VARIABLES):
        os.environ["TVM_NUM_THREADS"] = str(physical_cores())
