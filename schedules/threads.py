"""How many threads TVM's thread pool gets."""

from __future__ import annotations

import os

import psutil

_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")


def physical_cores() -> int:
    """The number of cores that this process may use; a core with two hardware threads counts once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(psutil.cpu_count(logical=False) or allowed, allowed), 1)


def use_all_cores() -> None:
    """Gives TVM one thread per core, unless the user has set TVM_NUM_THREADS or OMP_NUM_THREADS.

    By itself TVM starts half as many threads as the system has processors, also where every processor is a core. Call this
    before the first parallel loop runs: TVM creates its pool there, once.
    """
    if not any(name in os.environ for name in _VARIABLES):
        os.environ["TVM_NUM_THREADS"] = str(physical_cores())
