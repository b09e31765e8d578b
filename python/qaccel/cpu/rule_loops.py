"""The rule for everything without a main block: chains folded, the innermost loop in vectors, the outer ones shared."""

from __future__ import annotations

from tvm import s_tir

from .host import Host


def schedule_loops(schedule: s_tir.Schedule, host: Host) -> None:
    """Nothing yet."""
