"""What a plan takes by the cost model: its layers and cascades in turn, what is fetched ahead of them and what is held back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ...machine.hw import HwConfig
from ...machine.layer_cost import together
from ...machine.timeline import Phase, Turn, turn_cycles
from ..layers import LayerGraph
from .ahead import Unit, units_of
from .allocate import Allocation
from .stock import buffered_bytes, stocked_streams
from .tiles.tiling import weight_buffer_bytes, weight_tile_count


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
    cascades = {cascade.first: cascade for cascade in allocation.cascades}
    layers = list(zip(graph.layers, allocation.tilings, strict=True))
    counts = [weight_tile_count(*each) for each in layers]
    turns = []
    for unit, size in zip(units, buffered_bytes(graph, allocation.tilings, units), strict=True):
        turn = Turn(
            work=unit.own_work(merged),
            weight_bytes=size,
            weight_tiles=sum(counts[unit.first : unit.last + 1]),
            ahead_bytes=fetched[unit.first],
            block_bytes=blocks[unit.first],
        )
        if unit.first in stocks:
            stock = stocks[unit.first]
            turn = replace(turn, stocked=stocked_streams(stock, unit.work), refilled=stock.refilled)
        elif unit.first in cascades:
            cascade = cascades[unit.first]
            parts = [
                Phase(
                    work=together(works), weight_bytes=weight_buffer_bytes(layer, tiling),
                    weight_tiles=weight_tile_count(layer, tiling), places=tiling.out_slots,
                    rows=tuple(stripe[number][1] for stripe in cascade.stripes),
                )
                for number, works in enumerate(cascade.phases)
                for layer, tiling in [layers[unit.first + number]]
            ]  # fmt: skip
            turn = replace(turn, phases=tuple(parts))
        if unit.first in held:
            turn = replace(turn, held=held[unit.first])
        turns.append(turn)
    return units, turns
