"""What would make a layer quicker, and by how much: it is estimated again on another machine, or in other bits.

Nothing is planned anew but the tiles of the layers themselves. A share of the estimate says more than its cycles do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ....errors import UserError
from ....machine.hw import HwConfig, changed_config
from ....machine.isa import isa
from ....machine.layer_cost import LayerWork
from ....machine.streams import StreamEstimate, columns_per_lane
from ....machine.timeline import changed_cycles, turn_cycles
from ...extents import align
from ...layers import AnyLayer, ConvLayer, DepthwiseLayer, LayerGraph, PoolLayer
from ..ahead import Unit
from ..allocate import Allocation
from ..estimate import planned_turns
from ..tiles.tile import tiling_alone

LEAST_SHARE = 0.03  # of a layer's time that a cure must save
MOST = 3  # cures that are named of a layer
FEWEST_ACTIVATION_BITS = 8  # fewer lose too much to be called a cure


@dataclass(frozen=True)
class Cure:
    """A change: ``parameter`` of the config, or "weight_bits" or "activation_bits" of the layer, from ``before`` to ``after``; and
    the ``share`` of the layer's cycles that it saves."""

    parameter: str
    before: int
    after: int
    share: float


def cures_of(graph: LayerGraph, allocation: Allocation, hw: HwConfig) -> dict[int, tuple[Cure, ...]]:
    """By layer, what would save most of its time, the most first. Layers of a cascade share what saves time of the cascade."""
    return _Search(graph, allocation, hw).found()


@dataclass(frozen=True)
class _Try:
    """A change, as in `Cure`, that makes one unit alone do another work."""

    number: int
    parameter: str
    before: int
    after: int
    work: LayerWork


class _Search:
    def __init__(self, graph: LayerGraph, allocation: Allocation, hw: HwConfig) -> None:
        self.graph, self.allocation, self.hw = graph, allocation, hw
        self.units, self.turns = planned_turns(graph, allocation)
        self.cycles = turn_cycles(self.turns, hw)

    def found(self) -> dict[int, tuple[Cure, ...]]:
        cures: dict[int, list[Cure]] = {number: [] for number in range(len(self.units))}
        for parameter, change in _MACHINES.items():
            before = getattr(self.hw, parameter)
            try:
                other = changed_config(self.hw, self.hw.name, {parameter: 2 * before})
            except UserError:
                continue  # no machine may have that
            turns = [
                replace(turn, work=change(self, unit, turn.work, other))
                for unit, turn in zip(self.units, self.turns, strict=True)
            ]
            for number, cycles in enumerate(turn_cycles(turns, other)):
                self._note(cures, number, parameter, before, 2 * before, cycles)
        tries = [
            each for number in range(len(self.units)) for each in (*self._narrower(number), *self._in_sram(number))
        ]
        changes = [(each.number, replace(self.turns[each.number], work=each.work)) for each in tries]
        for each, cycles in zip(tries, changed_cycles(self.turns, changes, self.hw), strict=True):
            self._note(cures, each.number, each.parameter, each.before, each.after, cycles)
        by_layer: dict[int, tuple[Cure, ...]] = {}
        for number, unit in enumerate(self.units):
            best = sorted(cures[number], key=lambda cure: -cure.share)[:MOST]
            by_layer |= dict.fromkeys(range(unit.first, unit.last + 1), tuple(best))
        return by_layer

    def _note(
        self, cures: dict[int, list[Cure]], number: int, parameter: str, before: int, after: int, cycles: int
    ) -> None:
        was = self.cycles[number]
        if was and (was - cycles) / was >= LEAST_SHARE:
            cures[number].append(Cure(parameter, before, after, (was - cycles) / was))

    def _narrower(self, number: int) -> Iterator[_Try]:
        unit, work = self.units[number], self.turns[number].work
        layer = self.graph.layers[unit.first]
        if unit.first != unit.last or not isinstance(layer, ConvLayer | DepthwiseLayer):
            return
        bits, reads = layer.weight_bits, self.graph.maps[layer.inputs[0]].bits
        after = _narrower(bits)
        if after is not None:
            other = self._planned(work, replace(layer, weight_bits=after, streams=_scaled(layer.streams, after / bits)))
            if other is not None:
                yield _Try(number, "weight_bits", bits, after, other)
        after = _narrower(reads)
        if after is not None and after >= FEWEST_ACTIVATION_BITS:
            maps = list(self.graph.maps)
            maps[layer.inputs[0]] = replace(maps[layer.inputs[0]], bits=after, data=None)
            other = self._planned(work, layer, replace(self.graph, maps=tuple(maps)))
            if other is not None:
                yield _Try(number, "activation_bits", reads, after, other)

    def _planned(self, moved: LayerWork, layer: AnyLayer, graph: LayerGraph | None = None) -> LayerWork | None:
        """The work of a layer as another one; what passes DRAM beside its weights stays."""
        tiling = tiling_alone(layer, graph or self.graph, self.hw)
        if tiling is None:
            return None
        return replace(
            tiling.work, loads=moved.loads, load_beats=moved.load_beats, stores=moved.stores, store_beats=moved.store_beats,
            first_bytes=moved.first_bytes, last_bytes=moved.last_bytes, first_loads=moved.first_loads,
        )  # fmt: skip

    def _in_sram(self, number: int) -> Iterator[_Try]:
        """SRAM for all maps that live beside a layer, so that none of them passes DRAM."""
        unit = self.units[number]
        layer = self.graph.layers[unit.first]
        if unit.first != unit.last or not (unit.work.stores or unit.work.load_beats):
            return
        tiling = tiling_alone(layer, self.graph, self.hw)
        if tiling is None:
            return
        made = {each.output: step for step, each in enumerate(self.graph.layers)}
        last = {index: step for step, each in enumerate(self.graph.layers) for index in each.inputs}
        beside = [i for i, step in made.items() if i in last and step <= unit.first <= last[i]]
        needed = sum(align(self.graph.maps[i].total_bytes) for i in beside) + tiling.working_bytes
        if needed > self.hw.sram_bytes:
            yield _Try(number, "sram_bytes", self.hw.sram_bytes, needed, tiling.work)


def _narrower(bits: int) -> int | None:
    """The next width below that the machine has."""
    return max((width for width in isa().widths if width < bits), default=None)


def _scaled(streams: StreamEstimate | None, factor: float) -> StreamEstimate | None:
    return None if streams is None else replace(streams, bytes_per_weight=streams.bytes_per_weight * factor)


def _with_bandwidth(search: _Search, unit: Unit, work: LayerWork, hw: HwConfig) -> LayerWork:
    """The same bytes take fewer cycles of the channel."""
    before, after = search.hw.dram_bytes_per_cycle, hw.dram_bytes_per_cycle
    return replace(
        work, load_beats=-(-work.load_beats * before // after), store_beats=-(-work.store_beats * before // after)
    )


def _with_lanes(search: _Search, unit: Unit, work: LayerWork, hw: HwConfig) -> LayerWork:
    """Streams are written for as many lanes as the decoder has, of which no more than columns have work."""
    layer, tiling = search.graph.layers[unit.first], search.allocation.tilings[unit.first]
    streams = layer.streams if isinstance(layer, ConvLayer | DepthwiseLayer) else None
    if streams is None or streams.lanes < 2:
        return work
    lanes = streams.lanes * hw.decoder_lanes // search.hw.decoder_lanes
    before, after = (columns_per_lane(tiling.tile_oc, each) for each in (streams.lanes, lanes))
    return replace(work, decode_cycles=work.decode_cycles * after // before)


def _with_array(search: _Search, unit: Unit, work: LayerWork, hw: HwConfig) -> LayerWork:
    """Tiles for the larger array, where a layer that is computed on it runs alone."""
    layer = search.graph.layers[unit.first]
    if unit.first != unit.last or not isinstance(layer, ConvLayer | DepthwiseLayer | PoolLayer):
        return work
    tiling = tiling_alone(layer, search.graph, hw)
    return work if tiling is None else replace(work, computes=tiling.work.computes)


def _same(search: _Search, unit: Unit, work: LayerWork, hw: HwConfig) -> LayerWork:
    return work


_MACHINES: Mapping[str, Callable[[_Search, Unit, LayerWork, HwConfig], LayerWork]] = {
    "dram_bytes_per_cycle": _with_bandwidth,
    "decoder_lanes": _with_lanes,
    "rows": _with_array,
    "cols": _with_array,
    "requantize_outputs_per_cycle": _same,
    "sram_read_bytes_per_cycle": _same,
    "sram_write_bytes_per_cycle": _same,
    "weight_read_bytes_per_cycle": _same,
}
