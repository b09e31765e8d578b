"""Time of layers that come one after the other: when each engine is done with what it has to do for each. An estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

from .cost import bytes_beats
from .hw import HwConfig
from .isa import isa
from .layer_cost import (
    EngineCycles,
    LayerWork,
    WeightBuffer,
    WeightTile,
    block_cycles,
    engine_cycles,
    sram_stream_cycles,
)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What one layer of a cascade does in all stripes; its weights take ``weight_bytes`` of their buffer, in ``weight_tiles``
    tiles. What it stores has so many ``places``. ``rows``: that it makes in each stripe."""

    work: LayerWork
    weight_bytes: int
    weight_tiles: int
    places: int
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A layer or a cascade in its turn among others.

    Its weights take ``weight_bytes`` of the weight buffer, in ``weight_tiles`` tiles. ``stocked``: how many of its streams wait in
    SRAM; ``refilled``: those after them have come there by then, too. ``ahead_bytes``: of streams for later turns that LOAD fetches
    meanwhile; ``block_bytes``: of records for them, which come by one LOAD behind its own. ``held``: LOADW goes on with other
    weights behind its "first" or its "last" load. ``phases``: of a cascade, its layers, which come in turn in each stripe.
    """

    work: LayerWork
    weight_bytes: int
    weight_tiles: int
    stocked: int = 0
    refilled: bool = False
    ahead_bytes: int = 0
    block_bytes: int = 0
    held: Literal["first", "last"] | None = None
    phases: tuple[Phase, ...] = ()


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
STRIPES = 8  # of a cascade are followed
QUEUES = 2  # that fill up at first, while the others get an instruction now and then


class _Timeline:
    """When each engine is done with what came so far. While COMPUTE works, the others fetch what comes after."""

    def __init__(self, turns: Sequence[Turn], hw: HwConfig) -> None:
        self.turns, self.hw = turns, hw
        begin = hw.dram_latency_cycles + bytes_beats(isa().instruction_bytes, hw)
        self.compute = self.load = self.loadw = self.store = float(begin)
        self._buffer = WeightBuffer(hw.weight_buffer_bytes)
        self._blocks: list[_Block] = []
        self._coming = [number for number, turn in enumerate(turns) if turn.block_bytes]
        self._ends: list[float] = []  # of the turns that came

    def with_turn(self, position: int, turn: Turn) -> _Timeline:
        """The engines as they are, to go on with another turn in the place of one that has not begun."""
        other = copy(self)
        other.turns = [*self.turns[:position], turn, *self.turns[position + 1 :]]
        other._buffer, other._ends = copy(self._buffer), [*self._ends]
        other._coming = [*self._coming]
        other._blocks = [copy(block) for block in self._blocks]
        return other

    def run(self, position: int) -> float:
        """Let the engines do what a turn needs; gives when COMPUTE is done with it."""
        self._fetch_blocks(position, position)
        turn = self.turns[position]
        if turn.phases:
            self._follow_stripes(position)
        else:
            self._follow_steps(position)
        if turn.held == "last":
            self.loadw = max(self.loadw, self.load)
        self.loadw += turn.ahead_bytes // self.hw.dram_bytes_per_cycle
        self._ends.append(self.compute)
        self._fetch_blocks(position, position + 1)
        return self.compute

    def _follow_steps(self, position: int) -> None:
        """What a turn does, in steps that are all alike."""
        turn = self.turns[position]
        work, busy = turn.work, engine_cycles(turn.work, self.hw)
        tiles, streams = max(1, work.tiles), work.weight_loads
        parts = max(1, streams, work.rounds if work.loads else 1, tiles if work.loads or work.stores else 1)
        steps = min(STEPS, parts)
        ahead, behind = (max(2, 2 * steps // max(1, n)) for n in (work.rounds or tiles, work.stores))
        first, rest, maps = self._loads(position, busy)
        stores = self._stores(work, busy)
        weights = _Streams(turn, self, _beats_beside(work, busy, self.hw), turn.stocked, turn.refilled)
        # By step. Records have their places before the turn, maps have not.
        ends, stored = [self.compute if maps else 0.0] * ahead, [self.store] * behind
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

    def _follow_stripes(self, position: int) -> None:
        """What a cascade does, layer by layer in the first stripes; the others take as long as the last of these."""
        turn = self.turns[position]
        work, busy, stripes = turn.work, engine_cycles(turn.work, self.hw), len(turn.phases[0].rows)
        first, rest, maps = self._loads(position, busy)
        late = rest * busy.exposed / max(1, busy.load)
        beside, stays = _beats_beside(work, busy, self.hw), work.weight_passes > 1
        layers = [_Layer(phase, self, beside, stays) for phase in turn.phases]
        stores = self._stores(work, busy)
        ends = [self.compute if maps else 0.0] * 2  # there is room for the rows of two stripes
        marks = []
        for stripe in range(min(stripes, STRIPES)):
            if work.loads:
                self.load = max(self.load, ends[stripe]) + ((rest - late) / (stripes - 1) if stripe else first)
                if stripe and late:
                    self.load = max(self.load, self.compute) + late / (stripes - 1)
            for layer in layers:
                layer.make(stripe, self.load if work.loads else 0, stores * layer.store_share(busy))
                if turn.held == "first":
                    self.loadw = max(self.loadw, self.load)
            ends.append(self.compute)
            marks.append(self.compute)
        if stripes > STRIPES:
            self._go_on((stripes - STRIPES) * (marks[-1] - marks[STRIPES // 2 - 1]) / (STRIPES - STRIPES // 2), turn)
        for layer in layers:
            layer.streams.used(self.compute)
        if work.stores:
            self.store = max(self.store, self.compute + stores / max(1, work.tiles))

    def _go_on(self, cycles: float, turn: Turn) -> None:
        """Let each engine that works for all of a cascade be so much further."""
        self.compute += cycles
        self.load += cycles if turn.work.loads else 0
        self.store += cycles if turn.work.stores else 0
        if turn.work.weight_passes == 1:
            self.loadw += cycles if turn.work.weight_loads else 0
            self._buffer.later(cycles)

    def _loads(self, position: int, busy: EngineCycles) -> tuple[float, float, bool]:
        """Cycles of the loads that must be there before a turn computes anything, and of those after them; whether the former have
        maps among them."""
        turn, hw = self.turns[position], self.hw
        work, stream = turn.work, turn.work.weight_bytes // max(1, turn.work.weight_loads)
        beats = max(
            (work.first_bytes - stream) / hw.dram_bytes_per_cycle,
            work.load_beats / max(1, work.rounds or work.tiles, work.weight_loads),
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
        meanwhile = max(0, work.store_beats - work.last_bytes / hw.dram_bytes_per_cycle)
        rest += _in_turn(max(0, work.load_beats - beats), meanwhile, pauses)
        return first, rest, work.first_bytes > stream

    def _stores(self, work: LayerWork, busy: EngineCycles) -> float:
        """Cycles of the stores of a turn."""
        pauses = work.loads * (self.hw.start_up_cycles.load + self.hw.dram_latency_cycles)
        meanwhile = max(0, work.load_beats - work.first_bytes / self.hw.dram_bytes_per_cycle)
        return busy.store + _in_turn(work.store_beats, meanwhile, pauses)

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

    def _fetch_blocks(self, position: int, after: int) -> None:
        """Let LOAD fetch the records that may come before a turn is done, behind no loads of turns from ``after`` on."""
        while self._coming:
            number = self._coming[0]
            begin = self._dispatched(number, position)
            if begin is None or any(turn.work.loads for turn in self.turns[after : number + 1]):
                return
            begin, size = max(self.load, begin), self.turns[number].block_bytes
            self.load = begin + block_cycles(size, self.hw)
            self._blocks.append(_Block(begin, self.load, size / self.hw.dram_bytes_per_cycle))
            del self._coming[0]

    def _dispatched(self, number: int, position: int) -> float | None:
        """When what comes behind a turn is dispatched: once COMPUTE has room in its queue for what comes before it. None if that is
        after a turn at a ``position``."""
        room = self.hw.queue_entries
        for before in range(number, -1, -1):
            work = self.turns[before].work
            count = sum(times for _, times in work.computes)
            if count > room:
                if before > position:
                    return None
                begin = self._ends[before - 1] if before else 0.0
                return begin + engine_cycles(work, self.hw).compute * (count - room) / count
            room -= count
        return 0.0

    def shared(self, begin: float, end: float, beats: float) -> float:
        """Cycles that a stream of so many beats waits for blocks that LOAD fetches meanwhile, in turn with it."""
        lost = 0.0
        for block in self._blocks:
            if begin < block.end and block.begin < end + lost:
                taken = min(block.beats, beats, end + lost - block.begin)
                lost, block.beats, block.end = lost + taken, block.beats - taken, block.end + taken
        return lost

    def room(self, tile: WeightTile, together_bytes: int) -> float:
        """When a tile, given a place in the weight buffer, may be decoded into it."""
        return self._buffer.put(tile, together_bytes)


def _beats_beside(work: LayerWork, busy: EngineCycles, hw: HwConfig) -> float:
    """Beats of the channel beside each of the streams of a turn."""
    return (busy.dram - work.weight_bytes // hw.dram_bytes_per_cycle) / max(1, work.weight_loads)


def _in_turn(beats: float, others: float, pauses: float) -> float:
    """Cycles that a transfer waits for ``others`` of another engine, which does not ask for the channel in its ``pauses``."""
    return min(beats * others / max(1, others + pauses), others)


@dataclass(eq=False)
class _Block:
    """Records that LOAD fetches from ``begin`` to ``end``; ``beats`` of the channel that LOADW has not waited for."""

    begin: float
    end: float
    beats: float


class _Streams:
    """The weight streams of a turn, fetched one after the other as soon as the weight buffer has room."""

    def __init__(
        self, turn: Turn | Phase, timeline: _Timeline, others: float, stocked: int = 0, refills: bool = False
    ) -> None:
        """``others``: beats of the channel beside each stream, which take turns with it; the rest as of a `Turn`."""
        self._turn, self._timeline = turn, timeline
        work, hw = turn.work, timeline.hw
        count = max(1, work.weight_loads)
        beats = work.weight_bytes / count / hw.dram_bytes_per_cycle
        self._beats = beats
        self._fetch_cycles = hw.dram_latency_cycles + beats + min(beats, others)
        self._decode_cycles = work.decode_cycles / count
        self._from_sram = sram_stream_cycles(work, hw) / count
        self._refill = hw.start_up_cycles.load + hw.dram_latency_cycles + beats
        self._stocked, self._refills = stocked, refills
        self._refilled = 0.0
        self._ready = 0.0
        self._count = 0
        self._in_use: list[WeightTile] = []

    def fetched(self, count: int) -> float:
        """When so many are decoded."""
        while self._count < count:
            self._fetch()
        return self._ready

    def _fetch(self) -> None:
        turn, timeline = self._turn, self._timeline
        tile = WeightTile(-(-turn.weight_bytes // max(1, turn.weight_tiles)), used=timeline.compute)
        begin = max(timeline.loadw, timeline.room(tile, 0 if self._count else turn.weight_bytes))
        if self._count < self._stocked:
            timeline.loadw = begin + self._from_sram
            self._refilled = self._refilled or timeline.loadw
        elif self._refills:
            self._refilled += self._refill
            timeline.loadw = max(begin, self._refilled) + self._from_sram
        else:
            start, cycles = timeline.hw.start_up_cycles.loadw, self._fetch_cycles
            cycles += timeline.shared(begin, begin + start + cycles, self._beats)
            timeline.loadw = begin + start + max(cycles, self._decode_cycles)
        self._ready = timeline.loadw
        self._count += 1
        self._in_use.append(tile)

    def used(self, time: float) -> None:
        """COMPUTE is done by then with what has been fetched."""
        for tile in self._in_use:
            tile.used = time
        self._in_use = []


class _Layer:
    """A layer of a cascade, stripe by stripe."""

    def __init__(self, phase: Phase, timeline: _Timeline, beside: float, stays: bool) -> None:
        """``beside``: as ``others`` of its streams; ``stays``: whether its weights do from the first stripe on."""
        work, makes = phase.work, sum(rows > 0 for rows in phase.rows)
        self._timeline, self._phase, self._stays = timeline, phase, stays
        self._busy = engine_cycles(work, timeline.hw)
        self._count = work.weight_loads if stays else work.weight_loads / makes  # of streams in a stripe
        self._fetched = 0.0  # of all of them, before this stripe
        self._steps = min(STEPS, max(1, round(self._count), work.stores // makes))
        self._stored = [timeline.store] * phase.places
        self.streams = _Streams(phase, timeline, beside)

    def store_share(self, busy: EngineCycles) -> float:
        """Its part of what a cascade stores."""
        return self._busy.store / busy.store if busy.store else 0

    def make(self, stripe: int, loaded: float, stores: float) -> None:
        """A stripe of it. ``loaded``: when its inputs are there; ``stores``: cycles of STORE in all stripes."""
        timeline, rows = self._timeline, self._phase.rows
        if not rows[stripe]:
            return
        part = rows[stripe] / sum(rows) / self._steps
        for step in range(1, self._steps + 1):
            count = math.ceil(self._fetched + self._count * step / self._steps - 1e-9)
            begin = max(timeline.compute, self.streams.fetched(count), loaded)
            if stores:
                begin = max(begin, self._stored[-self._phase.places])
            timeline.compute = begin + self._busy.compute * part
            if not self._stays:
                self.streams.used(timeline.compute)
            if stores:
                timeline.store = max(timeline.store, timeline.compute) + stores * part
                self._stored.append(timeline.store)
        self._fetched += self._count
        if self._stays:
            self._count = 0
