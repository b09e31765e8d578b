"""What the plan fetches ahead of the layers that need it, while the program is written; and what it holds back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from ...machine.isa import Instruction, params_record
from ..layers import AnyLayer, ChannelParams, ConvLayer, DepthwiseLayer, LayerGraph, table_of
from ..plan.ahead import Records
from ..plan.allocate import Allocation


def channel_records(params: ChannelParams, begin: int, count: int) -> bytes:
    """Parameter records of a range of channels (ISA manual, "numerics")."""
    part = slice(begin, begin + count)
    records = np.zeros(count, params_record())
    records["bias"], records["multiplier"] = params.bias[part], params.multiplier[part]
    records["shift"] = params.shift[part]
    return records.tobytes()


def own_records(layer: AnyLayer) -> bytes:
    """All parameter records of a layer, then its table."""
    if isinstance(layer, ConvLayer | DepthwiseLayer):
        return channel_records(layer.params, 0, len(layer.params.bias)) + table_of(layer)
    return table_of(layer)


class Ahead:
    """Merged records: where those of a layer lie, loaded by then."""

    def __init__(
        self, graph: LayerGraph, records: tuple[Records, ...],
        constant: Callable[[object, Callable[[], bytes]], tuple[int, int]], emit: Callable[..., int],
    ) -> None:  # fmt: skip
        self._graph, self._constant, self._emit = graph, constant, emit
        self._of = {step: each for each in records for step in each.offsets}
        self._waiting: defaultdict[int, list[Records]] = defaultdict(list)
        for each in records:
            self._waiting[each.step].append(each)
        self._loaded: dict[int, int] = {}  # by address of the records: the instruction

    def records(self, step: int) -> tuple[int, int] | None:
        """SRAM address of a layer's records, or of its table alone, and the loading instruction; None where it loads its own."""
        merged = self._of.get(step)
        return None if merged is None else (merged.addr + merged.offsets[step], self._load(merged))

    def go_on(self, step: int) -> None:
        """Fetch what is to be fetched while a layer is in work: called behind its own loads."""
        for records in self._waiting.pop(step, ()):
            self._load(records)

    def _load(self, records: Records) -> int:
        first = min(records.offsets)
        if first not in self._loaded:
            layers = self._graph.layers
            dram_addr, size = self._constant(
                ("records", first), lambda: b"".join(own_records(layers[step]) for step in records.offsets)
            )
            place = {"dram_addr": dram_addr, "sram_addr": records.addr, "bytes": size}
            self._loaded[first] = self._emit("LOAD_RAW", layer=first, **place)
        return self._loaded[first]


def held_back(instructions: Sequence[Instruction], allocation: Allocation) -> list[tuple[int, int]]:
    """(LOADW, LOAD) of each hold of the plan. Behind the first map, the weights of the first tile have come as well."""
    last_layer = {c.first: c.last for c in allocation.cascades}
    found = []
    of_layer = np.array([each["layer"] for each in instructions])
    for hold in allocation.holds:
        within = (of_layer >= hold.step) & (of_layer <= last_layer.get(hold.step, hold.step))
        own = np.flatnonzero(within).tolist()
        loads = [i for i in own if instructions[i].op == "LOAD"]
        if not loads:
            continue
        if hold.behind_last:
            load, behind = loads[-1], own[-1]
        else:
            load, behind = loads[0], next(i for i in own if instructions[i].engine == "COMPUTE")
        later = range(max(load, behind) + 1, len(instructions))
        held = next((i for i in later if instructions[i].op == "LOADW"), None)
        if held is not None:
            found.append((held, load))
    return found
