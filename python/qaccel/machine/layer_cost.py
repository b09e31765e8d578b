"""Time of a whole layer before there are instructions: what its engines need, and how far they overlap. An estimate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal

from .cost import Work, bytes_beats, work_cycles
from .hw import HwConfig
from .isa import isa


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """What a layer does in all: COMPUTE instructions (each kind of work and how often), transfers and what they cost.

    ``load_beats`` and ``store_beats`` are cycles of the DRAM channel (`cost.box_beats`); ``weight_bytes`` are of streams, each one
    run. ``first_bytes`` are fetched before anything is computed, by ``first_loads`` of the loads; ``last_bytes`` are stored after.
    ``weight_passes``: how often all weights are gone through; from the second time on they are in the buffer.
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
    weight_passes: int = 1

    @property
    def tiles(self) -> int:
        """How many tiles of outputs are finished. An instruction that forwards finishes none, the one that takes it does."""
        return sum(count for each, count in self.computes if _ends_tile(each))

    @property
    def instructions(self) -> int:
        """How many instructions there are for it."""
        return sum(count for _, count in self.computes) + self.loads + self.weight_loads + self.stores


def _ends_tile(work: Work) -> bool:
    return bool(getattr(work, "finish", 1)) and not getattr(work, "forward", 0)


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
    program_bytes = layer.instructions * isa().instruction_bytes
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


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A layer or a cascade in its turn among others.

    Its weights take ``weight_bytes`` of the weight buffer, in ``weight_tiles`` tiles. ``stocked``: how many of its streams wait in
    SRAM; ``refilled``: those after them have come there by then, too. ``ahead_bytes``: of streams for later turns that LOAD fetches
    meanwhile. ``held``: LOADW goes on with other weights behind its "first" or its "last" load.
    """

    work: LayerWork
    weight_bytes: int
    weight_tiles: int
    stocked: int = 0
    refilled: bool = False
    ahead_bytes: int = 0
    held: Literal["first", "last"] | None = None


def turn_cycles(turns: Sequence[Turn], hw: HwConfig) -> list[int]:
    """Estimate of what each takes where they come one after the other: from when the one before has computed until it has."""
    timeline = _Timeline(turns, hw)
    ends = [0.0, *map(timeline.run, range(len(turns)))]
    ends[-1] = max(ends[-1], timeline.store)
    return [round(end) - round(begin) for begin, end in zip(ends, ends[1:], strict=False)]


def changed_cycles(turns: Sequence[Turn], changes: Sequence[tuple[int, Turn]], hw: HwConfig) -> list[int]:
    """By change, what a turn takes that is another one in its place: (number, turn), the numbers ascending."""
    timeline, found = _Timeline(turns, hw), []
    ends = [0.0]  # of the turns that have been followed
    for number, turn in changes:
        ends += map(timeline.run, range(len(ends) - 1, number))
        changed = timeline.with_turn(number, turn)
        last = changed.run(number)
        if number == len(turns) - 1:
            last = max(last, changed.store)
        found.append(round(last) - round(ends[-1]))
    return found


def network_cycles(turns: Sequence[Turn], hw: HwConfig) -> int:
    """Estimate for all of them."""
    return sum(turn_cycles(turns, hw))


STEPS = 128  # a layer is followed in so many steps at most
QUEUES = 2  # that fill up at first, while the others get an instruction now and then


class _Timeline:
    """When each engine is done with what came so far. While COMPUTE works, the others fetch what comes after."""

    def __init__(self, turns: Sequence[Turn], hw: HwConfig) -> None:
        self.turns, self.hw = turns, hw
        begin = hw.dram_latency_cycles + bytes_beats(isa().instruction_bytes, hw)
        self.compute = self.load = self.loadw = self.store = float(begin)
        self._buffer = _WeightBuffer(hw.weight_buffer_bytes)

    def with_turn(self, position: int, turn: Turn) -> _Timeline:
        """The engines as they are, to go on with another turn in the place of one that has not begun."""
        other = copy(self)
        other.turns = [*self.turns[:position], turn, *self.turns[position + 1 :]]
        other._buffer = copy(self._buffer)
        return other

    def run(self, position: int) -> float:
        """Let the engines do what a turn needs; gives when COMPUTE is done with it."""
        turn = self.turns[position]
        work, busy = turn.work, engine_cycles(turn.work, self.hw)
        tiles, streams = max(1, work.tiles), work.weight_loads
        steps = min(STEPS, max(1, streams, tiles if work.loads or work.stores else 1))
        ahead = max(1, 2 * steps // tiles)  # there are two places for each kind of tile
        first, rest, maps = self._loads(position, busy)
        stores = self._stores(work, busy)
        weights = _Streams(turn, self, busy)
        # By step. Records have their places before the turn, maps have not.
        ends, stored = [self.compute if maps else 0.0] * ahead, [self.store] * ahead
        for step in range(steps):
            if work.loads:
                self.load = max(self.load, ends[step]) + (rest / (steps - 1) if step else first)
            ready = weights.fetched(min(streams, -(-(step + 1) * streams * work.weight_passes // steps)))
            if step == 0 and turn.held == "first":
                self.loadw = max(self.loadw, self.load)
            begin = max(self.compute, ready, self.load if work.loads else 0, stored[step] if work.stores else 0)
            self.compute = begin + busy.compute / steps
            ends.append(self.compute)
            if work.weight_passes == 1:
                weights.used(self.compute)
            if work.stores:
                self.store = max(self.store, self.compute) + stores / steps
                stored.append(self.store)
        weights.used(self.compute)
        if work.stores:
            self.store = max(self.store, self.compute + stores / tiles)
        if turn.held == "last":
            self.loadw = max(self.loadw, self.load)
        self.loadw += turn.ahead_bytes // self.hw.dram_bytes_per_cycle
        return self.compute

    def _loads(self, position: int, busy: EngineCycles) -> tuple[float, float, bool]:
        """Cycles of the loads that must be there before a turn computes anything, and of those after them; whether the former have
        maps among them."""
        turn, hw = self.turns[position], self.hw
        work, stream = turn.work, turn.work.weight_bytes // max(1, turn.work.weight_loads)
        beats = max(
            (work.first_bytes - stream) / hw.dram_bytes_per_cycle,
            work.load_beats / max(1, work.tiles, work.weight_loads),
        )
        alone = min(busy.load, work.first_loads * (hw.start_up_cycles.load + hw.dram_latency_cycles) + beats)
        first, rest = alone + min(beats, stream / hw.dram_bytes_per_cycle), busy.load - alone
        if position == 0:
            queued = hw.instruction_buffer_entries + QUEUES * hw.queue_entries
            queued = min(queued, sum(each.work.instructions for each in self.turns))
            first += min(beats, bytes_beats(queued * isa().instruction_bytes, hw))
            first += 0 if turn.held else self._lost(beats)
            rest += 0 if turn.held == "last" else self._lost(max(0, work.load_beats - beats))
        pauses = work.stores * (hw.start_up_cycles.store + hw.dram_latency_cycles)
        rest += _in_turn(max(0, work.load_beats - beats), work.store_beats, pauses)
        return first, rest, work.first_bytes > stream

    def _stores(self, work: LayerWork, busy: EngineCycles) -> float:
        """Cycles of the stores of a turn."""
        pauses = work.loads * (self.hw.start_up_cycles.load + self.hw.dram_latency_cycles)
        return busy.store + _in_turn(work.store_beats, work.load_beats, pauses)

    def _lost(self, beats: float) -> float:
        """Cycles that LOADW, with the streams behind the first turn that it has room for, takes from loads of so many."""
        room, left, lost = self.hw.weight_buffer_bytes - self.turns[0].weight_bytes, beats, 0.0
        pause = self.hw.start_up_cycles.loadw + self.hw.dram_latency_cycles
        for turn in self.turns[1:]:
            room -= turn.weight_bytes
            if room < 0:
                break
            stream = turn.work.weight_bytes / max(1, turn.work.weight_loads) / self.hw.dram_bytes_per_cycle
            for _ in range(turn.work.weight_loads):
                left -= pause
                if left <= 0:
                    return lost
                lost += min(left, stream)
                left -= min(left, stream)
        return lost

    def room(self, tile: _WeightTile, together_bytes: int) -> float:
        """When a tile, given a place in the weight buffer, may be decoded into it."""
        return self._buffer.put(tile, together_bytes)


def _in_turn(beats: float, others: float, pauses: float) -> float:
    """Cycles that a transfer waits for ``others`` of another engine, which does not ask for the channel in its ``pauses``."""
    return min(beats * others / max(1, others + pauses), others)


@dataclass(eq=False)
class _WeightTile:
    """Weights in the buffer; ``used``: when COMPUTE is done with them, as far as that is known."""

    size_bytes: int
    begin: int = 0
    used: float = 0.0


class _WeightBuffer:
    """Tiles lie one behind the other; what does not fit before the end lies at the begin, and so do tiles that stay together."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes, self._end = size_bytes, 0
        self._tiles: list[_WeightTile] = []

    def put(self, tile: _WeightTile, together_bytes: int) -> float:
        """``together_bytes``: of this tile and those that must not be parted from it. Gives when what lay there is not needed any
        more."""
        if self._end + together_bytes > self._size_bytes >= together_bytes:
            self._end = 0
        tile.begin = self._end if self._end + tile.size_bytes <= self._size_bytes else 0
        self._end = tile.begin + tile.size_bytes
        over = [each for each in self._tiles if each.begin < self._end and tile.begin < each.begin + each.size_bytes]
        self._tiles = [each for each in self._tiles if each not in over] + [tile]
        return max((each.used for each in over), default=0.0)


class _Streams:
    """The weight streams of a turn, fetched one after the other as soon as the weight buffer has room."""

    def __init__(self, turn: Turn, timeline: _Timeline, busy: EngineCycles) -> None:
        self._turn, self._timeline = turn, timeline
        work, hw = turn.work, timeline.hw
        count, bus = max(1, work.weight_loads), hw.dram_bytes_per_cycle
        beats, others = work.weight_bytes / count / bus, (busy.dram - work.weight_bytes // bus) / count
        # What else is transferred meanwhile takes turns with a stream.
        fetch = hw.dram_latency_cycles + beats + min(beats, others)
        self._from_dram = hw.start_up_cycles.loadw + max(fetch, work.decode_cycles / count)
        self._from_sram = sram_stream_cycles(work, hw) / count
        self._refill = hw.start_up_cycles.load + hw.dram_latency_cycles + beats
        self._refilled = 0.0
        self._ready = 0.0
        self._count = 0
        self._in_use: list[_WeightTile] = []

    def fetched(self, count: int) -> float:
        """When so many are decoded."""
        while self._count < count:
            self._fetch()
        return self._ready

    def _fetch(self) -> None:
        turn, timeline = self._turn, self._timeline
        tile = _WeightTile(-(-turn.weight_bytes // max(1, turn.weight_tiles)), used=timeline.compute)
        begin = max(timeline.loadw, timeline.room(tile, 0 if self._count else turn.weight_bytes))
        if self._count < turn.stocked:
            timeline.loadw = begin + self._from_sram
            self._refilled = self._refilled or timeline.loadw
        elif turn.refilled:
            self._refilled += self._refill
            timeline.loadw = max(begin, self._refilled) + self._from_sram
        else:
            timeline.loadw = begin + self._from_dram
        self._ready = timeline.loadw
        self._count += 1
        self._in_use.append(tile)

    def used(self, time: float) -> None:
        """COMPUTE is done by then with what has been fetched."""
        for tile in self._in_use:
            tile.used = time
        self._in_use = []
