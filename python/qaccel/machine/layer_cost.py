"""Time of a whole layer before there are instructions: what its engines need, and how far they overlap. An estimate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cost import Work, bytes_beats, work_cycles
from .hw import HwConfig
from .isa import isa


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """What a layer does in all: COMPUTE instructions (each kind of work and how often), transfers and what they cost.

    ``load_beats`` and ``store_beats`` are cycles of the DRAM channel (`cost.box_beats`); ``weight_bytes`` are of streams, each one
    run. ``first_bytes`` are fetched before anything is computed, ``last_bytes`` stored after.
    """

    computes: tuple[tuple[Work, int], ...]
    loads: int
    load_beats: int
    weight_loads: int
    weight_bytes: int
    decode_cycles: int
    stores: int
    store_beats: int
    first_bytes: int
    last_bytes: int


@dataclass(frozen=True)
class EngineCycles:
    """Cycles that each engine, and the DRAM channel, is busy with a layer."""

    compute: int
    load: int
    loadw: int
    store: int
    dram: int


def engine_cycles(layer: LayerWork, hw: HwConfig) -> EngineCycles:
    """Estimate of what each engine needs for a layer by itself."""
    start, bus = hw.start_up_cycles, hw.dram_bytes_per_cycle
    fetch = layer.weight_loads * hw.dram_latency_cycles + layer.weight_bytes // bus
    # Instructions are fetched through the same channel, which is what makes many small tiles dear.
    instructions = sum(count for _, count in layer.computes) + layer.loads + layer.weight_loads + layer.stores
    program_bytes = instructions * isa().instruction_bytes
    return EngineCycles(
        compute=sum(count * work_cycles(work, hw) for work, count in layer.computes),
        load=layer.loads * (start.load + hw.dram_latency_cycles) + layer.load_beats,
        loadw=layer.weight_loads * start.loadw + max(fetch, layer.decode_cycles),
        store=layer.stores * (start.store + hw.dram_latency_cycles) + layer.store_beats,
        dram=layer.load_beats + layer.store_beats + (layer.weight_bytes + program_bytes) // bus,
    )


def layer_cycles(layer: LayerWork, hw: HwConfig) -> int:
    """Estimate: perfect overlap of the engines, plus the first tile's fetch and the last one's store, which nothing hides."""
    busy = engine_cycles(layer, hw)
    slowest = max(busy.compute, busy.load, busy.loadw, busy.store, busy.dram)
    return slowest + (layer.first_bytes + layer.last_bytes) // hw.dram_bytes_per_cycle


def sram_stream_cycles(layer: LayerWork, hw: HwConfig) -> int:
    """Cycles that LOADW would be busy with a layer if all its streams lay in SRAM."""
    fetch = -(-layer.weight_bytes // hw.stream_read_bytes_per_cycle)
    return layer.weight_loads * hw.start_up_cycles.loadw + max(fetch, layer.decode_cycles)


def block_cycles(size_bytes: int, hw: HwConfig) -> int:
    """Cycles of a LOAD_RAW of that many bytes that has the DRAM channel to itself."""
    return hw.start_up_cycles.load + hw.dram_latency_cycles + bytes_beats(size_bytes, hw)


@dataclass(frozen=True)
class WeightWaits:
    """By layer: cycles that COMPUTE waits for LOADW, and that LOADW waits for room in the weight buffer meanwhile."""

    compute: tuple[int, ...]
    loadw: tuple[int, ...]


def weight_waits(
    layers: Sequence[LayerWork], weight_bytes: Sequence[int], hw: HwConfig, holds: Mapping[int, int] | None = None
) -> WeightWaits:
    """Estimate of how COMPUTE and LOADW wait for each other: LOADW goes on with later layers as far as the buffer holds them.

    ``weight_bytes``: what a layer's weights take in the weight buffer. ``holds``: by number of a layer, how long before its end
    LOADW may go on with those behind it at the earliest.
    """
    waits, ends, fetched = [], [0], 0
    gaps = []  # (begin, end) of LOADW's waits
    oldest = held = 0  # the first layer whose weights are still kept, and what is kept from there on
    for layer, size in zip(layers, weight_bytes, strict=True):
        busy, count = engine_cycles(layer, hw), max(1, layer.weight_loads)
        end = ends[-1] + busy.compute
        if size:
            held += size
            while held > hw.weight_buffer_bytes and oldest < len(ends) - 1:
                held -= weight_bytes[oldest]
                oldest += 1
            begin = max(fetched, ends[oldest])
            gaps.append((fetched, begin))
            fetched = begin + busy.loadw
            # The first tile must be there before anything is computed, the last one before the last part of it.
            first, last = begin + busy.loadw // count + busy.compute, fetched + busy.compute // count
            end = max(end, first, last)
        waits.append(end - ends[-1] - busy.compute)
        ends.append(end)
        if holds and len(waits) - 1 in holds:
            fetched = max(fetched, end - holds[len(waits) - 1])
    gaps.append((fetched, ends[-1]))
    idle = [0] * len(waits)
    for begin, end in gaps:
        at = bisect_right(ends, begin) - 1
        while at < len(idle) and ends[at] < end:
            idle[at] += max(0, min(end, ends[at + 1]) - max(begin, ends[at]))
            at += 1
    return WeightWaits(tuple(waits), tuple(idle))


def cycles_in_turn(layers: Sequence[LayerWork], weight_bytes: Sequence[int], hw: HwConfig) -> list[int]:
    """Estimate for layers one after the other: what COMPUTE works and waits for: weights as in `weight_waits`, maps from DRAM."""
    found = []
    for layer, wait in zip(layers, weight_waits(layers, weight_bytes, hw).compute, strict=True):
        busy, unhidden = engine_cycles(layer, hw), layer.first_bytes * (layer.loads > 0) + layer.last_bytes
        found.append(max(busy.compute + wait, busy.load, busy.store) + unhidden // hw.dram_bytes_per_cycle)
    return found


def network_cycles(layers: Sequence[LayerWork], weight_bytes: Sequence[int], hw: HwConfig) -> int:
    """The sum of `cycles_in_turn`; at the least what LOADW takes if it waits for every other transfer."""
    return max(sum(cycles_in_turn(layers, weight_bytes, hw)), loadw_cycles(layers, hw))


def loadw_cycles(layers: Sequence[LayerWork], hw: HwConfig) -> int:
    """Cycles that LOADW takes for all layers if it waits for every other transfer."""
    busy = [engine_cycles(layer, hw) for layer in layers]
    own = sum(layer.weight_bytes for layer in layers) // hw.dram_bytes_per_cycle
    return sum(each.loadw + each.dram for each in busy) - own
