"""What a plan takes by the cost model, its layers and cascades in turn, what is fetched ahead of them and what is held back; and
the quickest of several plans."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ...errors import UserError
from ...machine.hw import HwConfig
from ...machine.timeline import Turn, turn_cycles
from ..layers import LayerGraph
from .ahead import Unit, turns_of, units_of
from .allocate import Allocation, allocate
from .schedule.wishes import NOTHING, Wishes
from .stock import stocked_streams

# Of SRAM, in sixteenths: what is chosen for less of it has room to lie in.
LESS_SRAM = (15, 14, 12)


def quickest_plan(graph: LayerGraph, hw: HwConfig, wishes: Wishes = NOTHING) -> Allocation:
    """The plan of `allocate`. Where a cascade that it chose found no place, so that all was chosen in vain, plans for less SRAM are
    made until one has all its cascades, and the quickest of them is taken. Raises UserError as `allocate` does."""
    plans = [allocate(graph, hw, wishes)]
    for sixteenths in LESS_SRAM:
        if not plans[-1].lost_cascades:
            break
        try:
            plans.append(allocate(graph, replace(hw, sram_bytes=hw.sram_bytes * sixteenths // 16), wishes))
        except UserError:
            break  # a layer, or what is asked for, needs more; the plan that there is stands
    if len(plans) == 1:
        return plans[0]
    return min(plans, key=lambda plan: sum(cycles for _, cycles in planned_cycles(graph, plan, hw)))


def planned_cycles(graph: LayerGraph, allocation: Allocation, hw: HwConfig) -> list[tuple[Unit, int]]:
    """The layers and cascades of a plan in order, each with the estimate of its cycles."""
    units, turns = planned_turns(graph, allocation)
    return list(zip(units, turn_cycles(turns, hw), strict=True))


def planned_turns(graph: LayerGraph, allocation: Allocation) -> tuple[list[Unit], list[Turn]]:
    """The layers and cascades of a plan in order, and each in its turn."""
    units = units_of(graph, allocation.tilings, allocation.cascades)
    merged = {step for records in allocation.records for step in records.offsets}
    held = {hold.step: hold.place for hold in allocation.holds}
    stocks = {stock.layer: stock for stock in allocation.stocks}
    fetched = Counter[int]()  # by layer: bytes of stocks that come while it is in work
    for stock in allocation.stocks:
        for step, _, size in stock.pieces:
            fetched[step] += size
    blocks = Counter[int]()  # the same of merged records
    for records in allocation.records:
        blocks[records.step] += records.size_bytes
    turns = []
    for unit, turn in zip(units, turns_of(graph, allocation.tilings, allocation.cascades, units), strict=True):
        turn = replace(
            turn,
            work=unit.own_work(merged),
            ahead_bytes=fetched[unit.first],
            block_bytes=blocks[unit.first],
        )
        if unit.first in stocks:  # its streams come first of all, and not stripe by stripe
            stock = stocks[unit.first]
            turn = replace(turn, stocked=stocked_streams(stock, unit.work), refilled=stock.refilled, phases=())
        if unit.first in held:
            turn = replace(turn, held=held[unit.first])
        turns.append(turn)
    return units, turns
