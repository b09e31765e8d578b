"""Instructions that wait for others although they share no data."""

from __future__ import annotations

from collections.abc import Sequence

from ...machine.isa import Instruction
from ..plan.allocate import Allocation


def held_back(instructions: Sequence[Instruction], allocation: Allocation) -> list[tuple[int, int]]:
    """(LOADW, LOAD) of each hold of the plan. Behind the first map, the weights of the first tile have come as well."""
    last_layer = {c.first: c.last for c in allocation.cascades}
    found = []
    for hold in allocation.holds:
        own = [
            i
            for i, each in enumerate(instructions)
            if hold.step <= each["layer"] <= last_layer.get(hold.step, hold.step)
        ]
        loads = [i for i in own if instructions[i].op == "LOAD"]
        if not loads:
            continue
        if hold.behind_last:
            load, behind = loads[-1], own[-1]
        else:
            load, behind = loads[0], next(i for i in own if instructions[i].engine == "COMPUTE")
        held = (i for i in range(max(load, behind) + 1, len(instructions)) if instructions[i].op == "LOADW")
        found += [(index, load) for index in list(held)[:1]]
    return found
