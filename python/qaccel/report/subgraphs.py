"""A subgraph that was compiled and simulated, and what can be read from both together: when each block of SRAM is in use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import CompilerFault
from ..machine.isa import Instruction, decode
from ..npu.access import accesses, with_forwarding
from ..npu.codegen import CompiledSubgraph, SramBlock

Profile = Mapping[str, Any]  # what the simulator's cycle mode gives for one subgraph (machine/simulator.py)


@dataclass(frozen=True, eq=False)
class ProfiledSubgraph:
    """One accelerator subgraph: its program, and what the simulator's cycle mode counted on it."""

    compiled: CompiledSubgraph
    profile: Profile

    def __repr__(self) -> str:
        return f"<ProfiledSubgraph '{self.compiled.artefact.symbol[:60]}': {self.profile['cycles']:,} cycles>"

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """The program."""
        return tuple(decode(self.compiled.artefact.program))

    def traced(self) -> Iterator[tuple[Instruction, int, int, int, int]]:
        """(instruction, first cycle, the one after its last, number of its engine, number of its layer), in program order."""
        trace = self.profile["trace"]
        columns = (trace[key] for key in ("start", "end", "engine", "layer"))
        return zip(self.instructions, *columns, strict=True)


@dataclass(frozen=True)
class Tenancy:
    """A block of SRAM from the cycle in which it is first touched to the one after it is last touched."""

    block: SramBlock
    begin: int
    end: int


def tenancies(subgraph: ProfiledSubgraph) -> list[Tenancy]:
    """Every block that the program touches, by first cycle. Raises CompilerFault for an access outside of all blocks."""
    blocks, hw = subgraph.compiled.sram, subgraph.compiled.artefact.hw
    by_layer = [
        sorted((block.addr, number) for number, block in enumerate(blocks) if block.first <= layer <= block.last)
        for layer, _ in enumerate(subgraph.compiled.layers)
    ]
    used: dict[int, tuple[int, int]] = {}
    befores = (before for _, before in with_forwarding(subgraph.instructions))
    for (ins, start, end, _, layer), before in zip(subgraph.traced(), befores, strict=True):
        for access in accesses(ins, hw, before):
            if access.memory != "sram":
                continue
            at = bisect_right(by_layer[layer], (access.start, len(blocks))) - 1
            number = by_layer[layer][at][1] if at >= 0 else -1
            if number < 0 or access.start >= blocks[number].addr + blocks[number].size_bytes:
                name = subgraph.compiled.layers[layer].name
                raise CompilerFault(
                    f"report: {name} ({ins.op}): byte {access.start} of SRAM is in no block of the plan"
                )
            begin, stop = used.get(number, (start, end))
            used[number] = min(begin, start), max(stop, end)
    found = [Tenancy(blocks[number], *times) for number, times in used.items()]
    return sorted(found, key=lambda each: (each.begin, each.block.addr))


def layer_runs(subgraph: ProfiledSubgraph) -> list[tuple[int, int, int]]:
    """(layer, first cycle, the one after the last) of each run of a layer's instructions, which together take all cycles once.

    As the simulator counts them: a run begins where the last instruction of the runs before it ends, and what is fetched for a
    layer behind that of the next COMPUTE takes no time from the layers that it passes.
    """
    traced = [(ins.engine, end, layer) for ins, _, end, _, layer in subgraph.traced()]
    ahead, following = [False] * len(traced), len(subgraph.compiled.layers)
    for index in reversed(range(len(traced))):
        engine, _, layer = traced[index]
        if engine == "COMPUTE":
            following = layer
        ahead[index] = engine in ("LOAD", "LOADW") and layer > following
    passed = [each for each, early in zip(traced, ahead, strict=True) if not early]
    runs: list[tuple[int, int, int]] = []
    now = 0
    for _, end, layer in (*passed, *traced):  # what nothing waits for may end last
        if end > now:
            if runs and runs[-1][0] == layer:
                runs[-1] = layer, runs[-1][1], end
            else:
                runs.append((layer, now, end))
            now = end
    return runs


def dram_bytes_per_cycle(subgraph: ProfiledSubgraph) -> list[tuple[int, float, float]]:
    """(cycle, bytes read, bytes written) a cycle from there on: each instruction's bytes spread evenly over its time."""
    hw = subgraph.compiled.artefact.hw
    changes: dict[int, list[float]] = {}
    for ins, start, end, _, _ in subgraph.traced():
        for access in accesses(ins, hw):
            if access.memory != "dram" or end <= start:
                continue
            rate = access.rows * access.pixels * access.run_bytes / (end - start)
            for cycle, sign in ((start, rate), (end, -rate)):
                changes.setdefault(cycle, [0.0, 0.0])[access.write] += sign
    found, now = [], [0.0, 0.0]
    for cycle in sorted(changes):
        now = [value + change for value, change in zip(now, changes[cycle], strict=True)]
        found.append((cycle, round(abs(now[0]), 6), round(abs(now[1]), 6)))
    return found
