"""Which rule schedules a fused function: register tiles and depthwise windows by annotation, everything else by its loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

from ..database import PLAN, Records
from ..host import Host
from .depthwise import DepthwisePlan, depthwise_plans, schedule_depthwise
from .kernels import RULE
from .loop_nests import schedule_loops
from .loops import extents
from .register_tile import TilePlan, schedule_tile, tile_plans

SCHEDULED = "tirx.is_scheduled"
_OPAQUE = 8
Plan = TilePlan | DepthwisePlan
_PLANS: dict[str, Callable[..., list[Any]]] = {"tile": tile_plans, "depthwise": depthwise_plans}
_RULES: dict[str, Callable[..., None]] = {"tile": schedule_tile, "depthwise": schedule_depthwise}


@dataclass(frozen=True)
class Choice:
    """How a function is scheduled: ``source`` is "record" or "rule"; ``plan`` what either chose, empty for a rule without a choice.

    ``layers``: the network's, by name, that it computes.
    """

    function: str
    source: str
    plan: str
    layers: tuple[str, ...] = ()


def schedule_all(
    mod: tvm.IRModule, host: Host, records: Sequence[Records] = ()
) -> tuple[tvm.IRModule, tuple[Choice, ...]]:
    """Every PrimFunc that is not scheduled yet with the schedule of a record, else with that of its rule.

    Functions that are opaque to fusion or carry ``tirx.is_scheduled`` are left as they are.
    """
    functions, choices = dict(mod.functions_items()), []
    for var, function in mod.functions_items():
        if not isinstance(function, tirx.PrimFunc) or is_scheduled(function):
            continue
        offered = plans(function, host)
        wanted = [plan for each in records if (plan := each.plan(function)) is not None]
        tuned = next((plan for text in wanted for plan in offered if str(plan) == text), None)
        chosen = tuned or next(iter(offered), None)
        schedule = s_tir.Schedule(function.with_attr("global_symbol", "main"))
        apply_rule(schedule, host, chosen)
        result = schedule.mod["main"].with_attr(SCHEDULED, True)
        symbol = function.attrs.get("global_symbol", None) if function.attrs else None
        functions[var] = result.with_attr("global_symbol", symbol) if symbol else result.without_attr("global_symbol")
        choices.append(Choice(var.name_hint, "record" if tuned else "rule", str(chosen or "")))
    return tvm.IRModule(functions, attrs=mod.attrs), tuple(choices)


def is_scheduled(function: tirx.PrimFunc) -> bool:
    """Whether whoever made the function scheduled it."""
    attrs = function.attrs
    return bool(attrs) and (bool(attrs.get(SCHEDULED, False)) or int(attrs.get("op_pattern", 0)) == _OPAQUE)


def plans(function: tirx.PrimFunc, host: Host) -> list[Plan]:
    """What may be chosen for the function, the rule's own choice first; empty if its rule leaves no choice."""
    schedule = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    main = main_block(schedule)
    return [] if main is None else _PLANS[_rule(schedule, main)](schedule, main, host)


def loop_extents(function: tirx.PrimFunc) -> list[int]:
    """How often the loops of the function's main block run; empty if it has none."""
    schedule = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    main = main_block(schedule)
    return [] if main is None else extents(schedule, schedule.get_loops(main))


def apply_rule(schedule: s_tir.Schedule, host: Host, plan: Plan | None) -> None:
    """The rule of the function ``main`` in ``schedule``, applied to it; ``plan`` is None where the rule has no choice."""
    main = main_block(schedule)
    if main is None or plan is None:
        schedule_loops(schedule, host)
        return
    schedule.annotate(main, PLAN, str(plan))
    _RULES[_rule(schedule, main)](schedule, main, host, plan)


def _rule(schedule: s_tir.Schedule, main: SBlockRV) -> str:
    return str(schedule.get(main).annotations[RULE])


def main_block(schedule: s_tir.Schedule) -> SBlockRV | None:
    """The block that carries a rule's name."""
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        if RULE in schedule.get(block).annotations:
            return block
    return None
