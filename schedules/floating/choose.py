"""Chooses the schedule of each fused function.

A function has a main block if it is a convolution or a matrix product: the block is annotated with SCHEDULE_KIND, the kind of
schedule that it is made for, and a plan says how it is scheduled. There is one schedule for all other functions, without a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

from ..database import PLAN, Records
from ..host import Host
from .computations import SCHEDULE_KIND
from .depthwise import DepthwisePlan, depthwise_plans, schedule_depthwise
from .loop_nests import schedule_loops
from .loops import blocks_of, extents
from .register_tile import TilePlan, schedule_tile, tile_plans
from .zeros import without_zeros

SCHEDULED = "tirx.is_scheduled"  # the attribute by which TVM leaves a function as it is
_OPAQUE = 8  # TVM's operator pattern "opaque"
SchedulePlan = TilePlan | DepthwisePlan
# By the kind of schedule: what plans there are, and what schedules a block by one of them.
_PLANS: dict[str, Callable[..., list[Any]]] = {"tile": tile_plans, "depthwise": depthwise_plans}
_SCHEDULERS: dict[str, Callable[..., None]] = {"tile": schedule_tile, "depthwise": schedule_depthwise}


@dataclass(frozen=True)
class Choice:
    """How a function is scheduled.

    ``source``: "record" if tuned records gave the plan, "rule" if it is the default. ``plan``: the plan as text, empty for a
    function without a main block. ``layers``: the names of the network's layers that the function computes.
    """

    function: str
    source: str
    plan: str
    layers: tuple[str, ...] = ()


def schedule_all(
    mod: tvm.IRModule, host: Host, records: Sequence[Records] = ()
) -> tuple[tvm.IRModule, tuple[Choice, ...]]:
    """Schedules every PrimFunc: by the plan of the first of ``records`` that knows the function, else by the default plan.

    Returns the module and a choice for each function that was scheduled. Functions for which ``is_scheduled`` holds stay as
    they are.
    """
    functions, choices = dict(mod.functions_items()), []
    for var, function in mod.functions_items():
        if not isinstance(function, tirx.PrimFunc) or is_scheduled(function):
            continue
        offered = schedule_plans(function, host)
        wanted = [plan for each in records if (plan := each.plan(function)) is not None]
        tuned = next((plan for text in wanted for plan in offered if str(plan) == text), None)
        chosen = tuned or next(iter(offered), None)
        schedule = s_tir.Schedule(function.with_attr("global_symbol", "main"))
        result = apply_plan(schedule, host, chosen).with_attr(SCHEDULED, True)
        symbol = function.attrs.get("global_symbol", None) if function.attrs else None
        functions[var] = result.with_attr("global_symbol", symbol) if symbol else result.without_attr("global_symbol")
        choices.append(Choice(var.name_hint, "record" if tuned else "rule", str(chosen or "")))
    return tvm.IRModule(functions, attrs=mod.attrs), tuple(choices)


def is_scheduled(function: tirx.PrimFunc) -> bool:
    """Whether the function was made with its schedule: it says so, or it is opaque to fusion."""
    attrs = function.attrs
    return bool(attrs) and (bool(attrs.get(SCHEDULED, False)) or int(attrs.get("op_pattern", 0)) == _OPAQUE)


def schedule_plans(function: tirx.PrimFunc, host: Host) -> list[SchedulePlan]:
    """All plans for the function, the default first; empty if it has no main block."""
    schedule = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    main = main_block(schedule)
    return [] if main is None else _PLANS[_kind(schedule, main)](schedule, main, host)


def loop_extents(function: tirx.PrimFunc) -> list[int]:
    """The numbers of iterations of the main block's loops; empty if the function has no main block."""
    schedule = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    main = main_block(schedule)
    return [] if main is None else extents(schedule, schedule.get_loops(main))


def apply_plan(schedule: s_tir.Schedule, host: Host, plan: SchedulePlan | None) -> tirx.PrimFunc:
    """The function ``main``, scheduled by a plan of its own kind; ``plan`` is None if it has no main block."""
    main = main_block(schedule)
    if main is None or plan is None:
        schedule_loops(schedule, host)
        return schedule.mod["main"]
    schedule.annotate(main, PLAN, str(plan))
    _SCHEDULERS[_kind(schedule, main)](schedule, main, host, plan)
    return without_zeros(schedule.mod["main"])


def _kind(schedule: s_tir.Schedule, main: SBlockRV) -> str:
    return str(schedule.get(main).annotations[SCHEDULE_KIND])


def main_block(schedule: s_tir.Schedule) -> SBlockRV | None:
    """The block that is annotated with a kind of schedule, None if there is none."""
    for block in blocks_of(schedule):
        if SCHEDULE_KIND in schedule.get(block).annotations:
            return block
    return None
