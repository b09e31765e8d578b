"""Which feature maps stay in SRAM, and where every SRAM block and DRAM tensor lies.

Maps that pass between layers stay in SRAM while they fit beside the working blocks of every layer during which they live;
the largest of those in the way is sent to DRAM. Blocks are placed first-fit, largest first, by lifetime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UserError
from ...machine.hw import HwConfig
from ..extents import align
from ..layers import LayerGraph
from .tile import KnownTilings, Tiling, plan_layer

DRAM_ALIGN_BYTES = 64


@dataclass(frozen=True)
class LayerBlocks:
    """SRAM addresses of a layer's working blocks: slots of each input, of the output, of parameters; its table."""

    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    params: tuple[int, ...]
    table: int


@dataclass(frozen=True)
class Allocation:
    """``sram_addr`` of resident maps, ``dram_addr`` of the others and of the subgraph's inputs and outputs."""

    tilings: tuple[Tiling, ...]
    blocks: tuple[LayerBlocks, ...]
    sram_addr: dict[int, int]
    dram_addr: dict[int, int]
    dram_bytes: int


@dataclass(frozen=True)
class _Block:
    key: tuple[object, ...]
    size_bytes: int
    first: int
    last: int


def allocate(graph: LayerGraph, hw: HwConfig) -> Allocation:
    """Raises UserError naming a layer that fits in no way."""
    lifetimes = _lifetimes(graph)
    resident = {index for index in lifetimes if align(graph.maps[index].total_bytes) <= hw.sram_bytes}
    shrink = [1.0] * len(graph.layers)
    known: KnownTilings = {}
    while True:
        tilings = _tile_all(graph, hw, lifetimes, resident, shrink, known)
        blocks = _working_blocks(tilings)
        blocks += [_Block(("map", i), align(graph.maps[i].total_bytes), *lifetimes[i]) for i in sorted(resident)]
        placed, failed = _place(blocks, hw.sram_bytes)
        if failed is None:
            break
        # Fragmentation: first make the working blocks of that moment smaller, then send a map to DRAM.
        step = failed.first
        if shrink[step] > 0.3:
            shrink[step] *= 0.75
        elif not _spill(graph, lifetimes, resident, step):
            raise _too_small(graph, step, hw)
    dram_addr, dram_bytes = _dram(graph, resident)
    return Allocation(
        tilings=tuple(tilings),
        blocks=tuple(_layer_blocks(step, tiling, placed) for step, tiling in enumerate(tilings)),
        sram_addr={index: placed["map", index] for index in resident},
        dram_addr=dram_addr,
        dram_bytes=dram_bytes,
    )


def _lifetimes(graph: LayerGraph) -> dict[int, tuple[int, int]]:
    """First and last layer during which each map made and used inside the subgraph must exist."""
    made = {layer.output: step for step, layer in enumerate(graph.layers)}
    last = {index: step for step, layer in enumerate(graph.layers) for index in layer.inputs}
    return {index: (step, max(step, last[index])) for index, step in made.items() if index in last}


def _tile_all(
    graph: LayerGraph,
    hw: HwConfig,
    lifetimes: dict[int, tuple[int, int]],
    resident: set[int],
    shrink: Sequence[float],
    known: KnownTilings,
) -> list[Tiling]:
    """Tile every layer beside the maps that live then, sending maps to DRAM until each fits."""
    step = 0
    tilings: list[Tiling] = []
    while step < len(graph.layers):
        live = sum(align(graph.maps[i].total_bytes) for i in resident if lifetimes[i][0] <= step <= lifetimes[i][1])
        budget = int((hw.sram_bytes - live) * shrink[step])
        tiling = plan_layer(graph.layers[step], graph.maps, hw, frozenset(resident), budget, known)
        if tiling is not None:
            tilings.append(tiling)
            step += 1
            continue
        before = set(resident)
        if not _spill(graph, lifetimes, resident, step):
            raise _too_small(graph, step, hw)
        # Earlier layers that touch the map sent away need another tiling.
        (gone,) = before - resident
        step = min(step, lifetimes[gone][0])
        del tilings[step:]
    return tilings


def _spill(graph: LayerGraph, lifetimes: dict[int, tuple[int, int]], resident: set[int], step: int) -> bool:
    live = [i for i in resident if lifetimes[i][0] <= step <= lifetimes[i][1]]
    if not live:
        return False
    resident.remove(max(live, key=lambda i: (graph.maps[i].total_bytes, i)))
    return True


def _too_small(graph: LayerGraph, step: int, hw: HwConfig) -> UserError:
    layer = graph.layers[step]
    return UserError(
        f"{layer.name} ({layer.op}): no tiling fits {hw.name} (sram_bytes {hw.sram_bytes}, weight_buffer_bytes "
        f"{hw.weight_buffer_bytes}, line_buffer_bytes {hw.line_buffer_bytes}); use a config with more"
    )


def _working_blocks(tilings: Sequence[Tiling]) -> list[_Block]:
    blocks = []
    for step, t in enumerate(tilings):
        sizes: list[tuple[tuple[object, ...], int]] = [
            *((("in", step, i, slot), b) for i, b in enumerate(t.in_slot_bytes) for slot in range(t.in_slots)),
            *((("out", step, slot), t.out_slot_bytes) for slot in range(t.out_slots)),
            *((("param", step, slot), t.param_slot_bytes) for slot in range(t.param_slots)),
            (("table", step), t.table_bytes),
        ]
        # Parameters get their place one layer early, so that they can be fetched while the layer before computes.
        begin = {"param": max(step - 1, 0), "table": max(step - 1, 0)}
        blocks += [_Block(key, align(size), begin.get(str(key[0]), step), step) for key, size in sizes if size]
    return blocks


def _place(blocks: Sequence[_Block], capacity_bytes: int) -> tuple[dict[tuple[object, ...], int], _Block | None]:
    """First fit, largest first; the first block that does not fit is returned beside what was placed."""
    placed: list[tuple[_Block, int]] = []
    for block in sorted(blocks, key=lambda b: (-b.size_bytes, b.first, str(b.key))):
        taken = sorted(
            (addr, addr + other.size_bytes)
            for other, addr in placed
            if other.first <= block.last and block.first <= other.last
        )
        addr = 0
        for begin, end in taken:
            if addr + block.size_bytes <= begin:
                break
            addr = max(addr, end)
        if addr + block.size_bytes > capacity_bytes:
            return {}, block
        placed.append((block, addr))
    return {block.key: addr for block, addr in placed}, None


def _layer_blocks(step: int, tiling: Tiling, placed: dict[tuple[object, ...], int]) -> LayerBlocks:
    return LayerBlocks(
        inputs=tuple(
            tuple(placed["in", step, i, slot] for slot in range(tiling.in_slots)) if size else ()
            for i, size in enumerate(tiling.in_slot_bytes)
        ),
        output=tuple(placed["out", step, slot] for slot in range(tiling.out_slots)) if tiling.out_slot_bytes else (),
        params=tuple(placed["param", step, slot] for slot in range(tiling.param_slots))
        if tiling.param_slot_bytes
        else (),
        table=placed.get(("table", step), 0),
    )


def _dram(graph: LayerGraph, resident: set[int]) -> tuple[dict[int, int], int]:
    """Addresses and total: inputs, outputs, scratch. Scratch is not reused, so that every tensor can be inspected."""
    order = list(dict.fromkeys([*graph.inputs, *graph.outputs]))
    order += [layer.output for layer in graph.layers if layer.output not in resident and layer.output not in order]
    addresses, end = {}, 0
    for index in order:
        addresses[index] = end
        end += -(-graph.maps[index].total_bytes // DRAM_ALIGN_BYTES) * DRAM_ALIGN_BYTES
    return addresses, end
