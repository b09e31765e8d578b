"""Which rule schedules a fused function: register tiles and depthwise windows by annotation, everything else by its loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.schedule import SBlockRV

from .host import Host, host_of
from .kernels import RULE
from .rule_depthwise import DepthwisePlan, depthwise_plans, schedule_depthwise
from .rule_loops import schedule_loops
from .rule_tile import TilePlan, schedule_tile, tile_plans

SCHEDULED = "tirx.is_scheduled"
_OPAQUE = 8
Plan = TilePlan | DepthwisePlan
_PLANS: dict[str, Callable[..., list[Any]]] = {"tile": tile_plans, "depthwise": depthwise_plans}
_RULES: dict[str, Callable[..., None]] = {"tile": schedule_tile, "depthwise": schedule_depthwise}


@tvm.transform.module_pass(opt_level=0, name="ScheduleByRule")
class ScheduleByRule:
    """Every PrimFunc that is not scheduled yet gets the schedule of its rule."""

    def __init__(self, target: tvm.target.Target) -> None:
        self.host = host_of(target)

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Functions that are opaque to fusion or carry ``tirx.is_scheduled`` are left as they are."""
        functions = dict(mod.functions_items())
        for var, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc) and not is_scheduled(function):
                functions[var] = scheduled(function, self.host).with_attr(SCHEDULED, True)
        return tvm.IRModule(functions, attrs=mod.attrs)


def is_scheduled(function: tirx.PrimFunc) -> bool:
    """Whether whoever made the function scheduled it."""
    attrs = function.attrs
    return bool(attrs) and (bool(attrs.get(SCHEDULED, False)) or int(attrs.get("op_pattern", 0)) == _OPAQUE)


def scheduled(function: tirx.PrimFunc, host: Host) -> tirx.PrimFunc:
    """The function with the schedule of its rule."""
    symbol = function.attrs.get("global_symbol", None) if function.attrs else None
    schedule = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    apply_rule(schedule, host)
    result = schedule.mod["main"]
    return result.with_attr("global_symbol", symbol) if symbol else result.without_attr("global_symbol")


def plans(function: tirx.PrimFunc, host: Host) -> list[Plan]:
    """What may be chosen for the function, the rule's own choice first; empty if its rule leaves no choice."""
    schedule = s_tir.Schedule(function.with_attr("global_symbol", "main"))
    main = main_block(schedule)
    return [] if main is None else _PLANS[_rule(schedule, main)](schedule, main, host)


def apply_rule(schedule: s_tir.Schedule, host: Host, plan: Plan | None = None) -> None:
    """The rule of the function ``main`` in ``schedule``, applied to it; ``plan`` None: the rule's own choice."""
    main = main_block(schedule)
    if main is None:
        schedule_loops(schedule, host)
        return
    rule = _rule(schedule, main)
    _RULES[rule](schedule, main, host, plan or _PLANS[rule](schedule, main, host)[0])


def _rule(schedule: s_tir.Schedule, main: SBlockRV) -> str:
    return str(schedule.get(main).annotations[RULE])


def main_block(schedule: s_tir.Schedule) -> SBlockRV | None:
    """The block that carries a rule's name."""
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        if RULE in schedule.get(block).annotations:
            return block
    return None
