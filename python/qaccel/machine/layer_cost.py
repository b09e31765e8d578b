"""Time of a whole layer before there are instructions: what its engines need, and how far they overlap. An estimate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import attrgetter

import numpy as np

from .cost import Work, bytes_beats, work_cycles
from .hw import HwConfig
from .isa import isa


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """What a layer does in all: COMPUTE instructions (each kind of work and how often), transfers and what they cost.

    ``load_beats`` and ``store_beats`` are cycles of the DRAM channel (`cost.box_beats`); ``weight_bytes`` are of streams, each one
    run. ``first_bytes`` are fetched before anything is computed, by ``first_loads`` of the loads; ``last_bytes`` are stored after.
    ``rounds``: so often there is a new tile of the inputs, or new rows, with room for two at a time; 0: all are there already.
    ``weight_passes``: how often all weights are gone through; from the second time on they are in the buffer. ``exposed_loads`` of
    the loads, with ``exposed_beats``, have their place only when COMPUTE has nothing else to do than wait for them.
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
    first_loads: int = 0
    rounds: int = 0
    weight_passes: int = 1
    exposed_loads: int = 0
    exposed_beats: int = 0

    @property
    def tiles(self) -> int:
        """How many tiles of outputs are finished. An instruction that forwards finishes none, the one that takes it does."""
        return sum(count for each, count in self.computes if _ends_tile(each))

    @property
    def instructions(self) -> int:
        """How many instructions there are for it."""
        return sum(count for _, count in self.computes) + self.loads + self.weight_loads + self.stores


def together(works: Sequence[LayerWork]) -> LayerWork:
    """The sum of all, nothing of it first or last."""
    totals = map(sum, zip(*map(attrgetter(*_SUMMED), works), strict=True))
    computes = tuple(each for work in works for each in work.computes)
    return LayerWork(computes=computes, first_bytes=0, last_bytes=0, **dict(zip(_SUMMED, totals, strict=True)))


_SUMMED = (
    "loads", "load_beats", "exposed_loads", "exposed_beats", "weight_loads", "weight_bytes", "decode_cycles", "stores",
    "store_beats",
)  # fmt: skip


def _ends_tile(work: Work) -> bool:
    return bool(getattr(work, "finish", 1)) and not getattr(work, "forward", 0)


@dataclass(frozen=True)
class EngineCycles:
    """Cycles that each engine, and the DRAM channel, is busy with a layer; ``exposed``: of LOAD, while COMPUTE waits for it."""

    compute: int
    load: int
    loadw: int
    store: int
    dram: int
    exposed: int


def engine_cycles(layer: LayerWork, hw: HwConfig) -> EngineCycles:
    """Estimate of what each engine needs for a layer by itself."""
    start, bus = hw.start_up_cycles, hw.dram_bytes_per_cycle
    fetch = layer.weight_loads * hw.dram_latency_cycles + layer.weight_bytes // bus
    # Instructions are fetched through the same channel, which is what makes many small tiles dear.
    program_bytes = layer.instructions * isa().instruction_bytes
    return EngineCycles(
        compute=sum(count * work_cycles(work, hw) for work, count in layer.computes),
        load=layer.loads * (start.load + hw.dram_latency_cycles) + layer.load_beats,
        loadw=layer.weight_loads * start.loadw + max(fetch, layer.decode_cycles),
        store=layer.stores * (start.store + hw.dram_latency_cycles) + layer.store_beats,
        dram=layer.load_beats + layer.store_beats + (layer.weight_bytes + program_bytes) // bus,
        exposed=layer.exposed_loads * (start.load + hw.dram_latency_cycles) + layer.exposed_beats,
    )


def layer_cycles(layer: LayerWork, hw: HwConfig) -> int:
    """Estimate: perfect overlap of the engines but for loads that are exposed, plus the first tile's fetch and the last one's
    store, which nothing hides."""
    busy = engine_cycles(layer, hw)
    slowest = max(busy.compute + busy.exposed, busy.load, busy.loadw, busy.store, busy.dram)
    return slowest + (layer.first_bytes + layer.last_bytes) // hw.dram_bytes_per_cycle


@dataclass(frozen=True, kw_only=True)
class LeastWork:
    """What each of the candidates for a layer does at least: cycles of COMPUTE, and the rest as in `LayerWork`. Arrays that can be
    broadcast. ``end_bytes``: what is fetched before anything is computed, and what is stored after."""

    compute: np.ndarray
    loads: np.ndarray
    load_beats: np.ndarray
    weight_loads: np.ndarray
    weight_bytes: np.ndarray
    stores: np.ndarray
    store_beats: np.ndarray
    end_bytes: np.ndarray


def least_layer_cycles(work: LeastWork, hw: HwConfig) -> np.ndarray:
    """What `layer_cycles` gives at least, by candidate."""
    start, bus, latency = hw.start_up_cycles, hw.dram_bytes_per_cycle, hw.dram_latency_cycles
    load = work.loads * (start.load + latency) + work.load_beats
    loadw = work.weight_loads * (start.loadw + latency) + work.weight_bytes // bus
    store = work.stores * (start.store + latency) + work.store_beats
    dram = work.load_beats + work.store_beats + work.weight_bytes // bus
    return reduce(np.maximum, (work.compute, load, loadw, store, dram)) + work.end_bytes // bus


def after_first_stream(layer: LayerWork) -> LayerWork:
    """The same, but that its first stream has been fetched before its turn."""
    return replace(layer, first_bytes=layer.first_bytes - layer.weight_bytes // max(1, layer.weight_loads))


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


def weight_waits(layers: Sequence[LayerWork], weight_bytes: Sequence[int], hw: HwConfig) -> WeightWaits:
    """Estimate of how COMPUTE and LOADW wait for each other: LOADW goes on with later layers as far as the buffer holds them.

    ``weight_bytes``: what a layer's weights take in the weight buffer.
    """
    waits, ends, fetches = LoadwOrder(layers, weight_bytes, hw).follow({})
    idle = [0] * len(waits)
    fetched = 0
    for fetch_begin, fetch_end in (*fetches, (ends[-1], 0)):
        begin, end, fetched = fetched, fetch_begin, fetch_end
        at = bisect_right(ends, begin) - 1
        while at < len(idle) and ends[at] < end:
            idle[at] += max(0, min(end, ends[at + 1]) - max(begin, ends[at]))
            at += 1
    return WeightWaits(tuple(waits), tuple(idle))


class LoadwOrder:
    """LOADW with the weights of layers in their order, and how COMPUTE waits for it. Arguments as of `weight_waits`."""

    def __init__(self, layers: Sequence[LayerWork], weight_bytes: Sequence[int], hw: HwConfig) -> None:
        self._buffer_bytes = hw.weight_buffer_bytes
        self._layers = []  # cycles of COMPUTE, of LOADW, parts of both, bytes of the weight buffer
        for layer, size in zip(layers, weight_bytes, strict=True):
            busy = engine_cycles(layer, hw)
            self._layers.append((busy.compute, busy.loadw, max(1, layer.weight_loads), size))

    def waits(self, holds: Mapping[int, int]) -> int:
        """Cycles that COMPUTE waits in all. ``holds``: by number of a layer, how long before its end LOADW may go on with those
        behind it at the earliest."""
        return sum(self.follow(holds)[0])

    def follow(self, holds: Mapping[int, int]) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """By layer: cycles that COMPUTE waits; when it begins, and when it is done with the last; begin and end of each fetch."""
        waits, ends, fetches, fetched = [], [0], [], 0
        oldest = held = 0  # the first layer whose weights are still kept, and what is kept from there on
        for number, (compute, loadw, count, size) in enumerate(self._layers):
            end = ends[-1] + compute
            if size:
                held += size
                while held > self._buffer_bytes and oldest < number:
                    held -= self._layers[oldest][3]
                    oldest += 1
                begin = max(fetched, ends[oldest])
                fetched = begin + loadw
                fetches.append((begin, fetched))
                # The first tile must be there before anything is computed, the last one before the last part of it.
                end = max(end, begin + loadw // count + compute, fetched + compute // count)
            waits.append(end - ends[-1] - compute)
            ends.append(end)
            if number in holds:
                fetched = max(fetched, end - holds[number])
        return waits, ends, fetches


@dataclass(eq=False)
class WeightTile:
    """Weights in the buffer; ``used``: when COMPUTE is done with them, as far as that is known."""

    size_bytes: int
    begin: int = 0
    used: float = 0.0


class WeightBuffer:
    """Tiles lie one behind the other; what does not fit before the end lies at the begin, and so do tiles that stay together."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes, self._end = size_bytes, 0
        self._tiles: list[WeightTile] = []

    def put(self, tile: WeightTile, together_bytes: int) -> float:
        """``together_bytes``: of this tile and those that must not be parted from it. Gives when what lay there is not needed any
        more."""
        if self._end + together_bytes > self._size_bytes >= together_bytes:
            self._end = 0
        tile.begin = self._end if self._end + tile.size_bytes <= self._size_bytes else 0
        self._end = tile.begin + tile.size_bytes
        over = [each for each in self._tiles if each.begin < self._end and tile.begin < each.begin + each.size_bytes]
        self._tiles = [each for each in self._tiles if each not in over] + [tile]
        return max((each.used for each in over), default=0.0)

    def later(self, cycles: float) -> None:
        """All tiles are in use so much longer."""
        for tile in self._tiles:
            tile.used += cycles
