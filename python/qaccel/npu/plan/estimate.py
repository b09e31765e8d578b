"""What a plan takes by the cost model: its layers and cascades in turn, what is fetched ahead of them and what is held back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ...machine.hw import HwConfig
from ...machine.timeline import Turn, turn_cycles
from ..layers import LayerGraph
from .ahead import Unit, turns_of, units_of
from .allocate import Allocation
from .stock import stocked_streams


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
