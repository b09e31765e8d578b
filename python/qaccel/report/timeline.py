"""``timeline.json`` for Perfetto: engines, layers, and counters of SRAM and DRAM over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..machine.isa import isa
from .subgraphs import ProfiledSubgraph, Tenancy, dram_bytes_per_cycle, layer_runs, tenancies

Event = dict[str, Any]


def timeline(subgraphs: Sequence[ProfiledSubgraph], clock_mhz: int) -> dict[str, Any]:
    """One process per subgraph, one after the other: a thread per engine and one of layers, times in microseconds.

    Counters: bytes of SRAM in use by kind of block, and bytes that DRAM moves a cycle, read and written.
    """
    events: list[Event] = []
    begin = 0
    for process, subgraph in enumerate(subgraphs):
        for event in _events(subgraph):
            if "ts" in event:
                event["ts"] = (begin + event["ts"]) / clock_mhz
            if "dur" in event:
                event["args"]["cycle"] += begin
                event["dur"] /= clock_mhz
            events.append({**event, "pid": process})
        begin += int(subgraph.profile["cycles"])
    return {"displayTimeUnit": "ns", "traceEvents": events}


def _events(subgraph: ProfiledSubgraph) -> Iterator[Event]:
    """Of one subgraph, in cycles from its begin."""
    artefact, engines = subgraph.compiled.artefact, list(isa().engines)
    yield {"ph": "M", "name": "process_name", "args": {"name": artefact.symbol}}
    for thread, name in enumerate((*engines, "LAYERS")):
        yield {"ph": "M", "name": "thread_name", "tid": thread, "args": {"name": name}}
    for index, (ins, start, end, engine, layer) in enumerate(subgraph.traced()):
        yield _slice(
            f"{ins.op} {artefact.layers[layer]}",
            engine,
            {"instruction": index, "layer": layer, "cycle": start, "cycles": end - start},
        )
    for layer, start, end in layer_runs(subgraph):
        facts = subgraph.compiled.layers[layer]
        told = {"op": facts.op, "post": facts.post[0] if facts.post else "", "macs": facts.macs}
        yield _slice(
            artefact.layers[layer], len(engines), {"layer": layer, **told, "cycle": start, "cycles": end - start}
        )
    for cycle, by_kind in _in_use(tenancies(subgraph)):
        yield {"ph": "C", "name": "SRAM bytes", "ts": cycle, "args": by_kind}
    for cycle, read, written in dram_bytes_per_cycle(subgraph):
        yield {"ph": "C", "name": "DRAM bytes per cycle", "ts": cycle, "args": {"read": read, "written": written}}


def _slice(name: str, thread: int, args: dict[str, Any]) -> Event:
    return {"ph": "X", "name": name, "tid": thread, "ts": args["cycle"], "dur": args["cycles"], "args": args}


def _in_use(found: Sequence[Tenancy]) -> Iterator[tuple[int, dict[str, int]]]:
    """(cycle, bytes by kind of block from there on)."""
    changes: dict[int, dict[str, int]] = {}
    for each in found:
        for cycle, size_bytes in ((each.begin, each.block.size_bytes), (each.end, -each.block.size_bytes)):
            at = changes.setdefault(cycle, {})
            at[each.block.kind] = at.get(each.block.kind, 0) + size_bytes
    now = dict.fromkeys(sorted({each.block.kind for each in found}), 0)
    for cycle in sorted(changes):
        now = {kind: value + changes[cycle].get(kind, 0) for kind, value in now.items()}
        yield cycle, now
