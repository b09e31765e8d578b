"""Cascades: consecutive layers run stripe by stripe, so that of the maps between them only some rows are in SRAM at a time.

Stripes are counted by rows of the last layer's output. What the layers before it make in a stripe is what that needs, less what
the stripes before have made. No row is made twice: the rows that the next stripe reads again stay (its halo).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...machine.isa import field_maximum
from ...machine.layer_cost import LayerWork
from ..extents import RowsRead, Span, align
from ..layers import AnyLayer, LayerGraph, MoveLayer
from .tiles.tiling import Tiling

Stripes = tuple[tuple[Span, ...], ...]
Reads = Callable[[int, int], RowsRead]  # by layer and which of its inputs


@dataclass(frozen=True)
class Ring:
    """The rows of a map that are in SRAM: at most ``rows``, one after the other, from a first one on that moves.

    Stripe k reads and writes rows from ``keeps[k]`` to before ``ends[k]``; those from ``ends[k - 1]`` on are new. Where they do not
    fit behind the first row any more, ``keeps[k]`` becomes the first row: those that exist from there on are copied to the front.
    """

    map: int
    rows: int
    keeps: tuple[int, ...]
    ends: tuple[int, ...]

    def shifts(self) -> list[tuple[int, int, int]]:
        """(stripe, first row, rows) of each copy to the front."""
        return self._shifts

    @cached_property
    def _shifts(self) -> list[tuple[int, int, int]]:
        found, base, made = [], 0, 0
        for stripe, (keep, end) in enumerate(zip(self.keeps, self.ends, strict=True)):
            if end - base > self.rows:
                found.append((stripe, keep, made - keep))
                base = keep
            made = end
        return found

    def late_stripes(self) -> list[tuple[int, bool]]:
        """Stripes whose new rows have their place only when the stripe before is done with it, and whether rows must be copied away
        from there before."""
        found, base = [], 0
        for stripe, keep, copied in self.shifts():
            made, end = self.ends[stripe - 1] if stripe else 0, self.ends[stripe]
            if end > made and end - keep > self.keeps[stripe - 1] - base:
                found.append((stripe, copied > 0 and end - keep > keep - base))
            base = keep
        return found


@dataclass(frozen=True)
class Cascade:
    """Layers ``first`` and following; ``stripes[k][i]``: which rows layer ``first + i`` makes in stripe k, as (begin, rows).

    ``rings`` are of the maps between the layers and of what they read from DRAM; ``tilings`` of the layers cut one stripe.
    ``weight_bytes``: what all its weights take of the weight buffer if they stay there from the first stripe to the last; 0: they
    are decoded anew for every stripe. ``opening``: how many rows of the first stripe the first layer makes at a time: it
    need not wait for all that it reads from DRAM. ``work``: what all of it does, ``phases`` by layer, in all stripes,
    with what is moved for it.
    """

    first: int
    stripes: Stripes
    rings: tuple[Ring, ...]
    tilings: tuple[Tiling, ...]
    weight_bytes: int
    opening: int
    work: LayerWork
    phases: tuple[tuple[LayerWork, ...], ...]

    @property
    def last(self) -> int:
        """Its last layer."""
        return self.first + len(self.tilings) - 1

    def inside(self, graph: LayerGraph) -> list[int]:
        """Maps between its layers."""
        return [graph.layers[step].output for step in range(self.first, self.last)]


def has_stripes(layer: AnyLayer, graph: LayerGraph) -> bool:
    """Whether a layer may be in a cascade together with others: the COPY of its maps' rows must be one instruction."""
    widest, longest = field_maximum("COPY", "channels"), field_maximum("COPY", "w")
    maps = [graph.maps[index] for index in (*layer.inputs, layer.output)]
    return not isinstance(layer, MoveLayer) and all(m.pixel_bytes <= widest and m.w <= longest for m in maps)


def map_name(graph: LayerGraph, index: int) -> str:
    """A map's name; what enters the subgraph, which has none of the network's, is called after who reads it first."""
    if index not in graph.inputs:
        return graph.maps[index].name
    return f"input of {next(layer.name for layer in graph.layers if index in layer.inputs)}"


def ring_bytes(ring: Ring, graph: LayerGraph) -> int:
    """SRAM bytes of a ring."""
    return align(ring.rows * graph.maps[ring.map].row_bytes)


def cut_stripes(graph: LayerGraph, first: int, last: int, rows: int, reads: Reads) -> np.ndarray:
    """Stripes of at most ``rows`` rows of the last layer's output: int64 [stripes + 1, layers], how many rows each layer has made
    before each stripe, and in the end. Each layer before the last must be read by one of those after it."""
    layers = graph.layers[first : last + 1]
    heights = [graph.maps[layer.output].h for layer in layers]
    count = -(-heights[-1] // rows)
    ends = {layers[-1].output: np.minimum(np.arange(1, count + 1) * rows, heights[-1])}
    made = np.zeros((count + 1, len(layers)), int)
    for position in reversed(range(len(layers))):
        layer = layers[position]
        end = ends[layer.output]
        end[-1] = heights[position]  # rows that nobody reads are made, too
        made[1:, position] = end
        for which, source in enumerate(layer.inputs):
            read = reads(first + position, which).end[end]
            ends[source] = np.maximum(ends[source], read) if source in ends else read
    return made


def cut_ring(graph: LayerGraph, first: int, made: np.ndarray, index: int, reads: Reads) -> Ring:
    """The smallest ring of a map, made in the cascade or outside of it, that it can do with. ``made``: `cut_stripes`."""
    layers = graph.layers[first : first + made.shape[1]]
    keep, end = np.full(len(made) - 1, graph.maps[index].h), np.zeros(len(made) - 1, int)
    for position, layer in enumerate(layers):
        begins, ends = made[:-1, position], made[1:, position]
        for which, source in enumerate(layer.inputs):
            if source == index:
                read, idle = reads(first + position, which), begins == ends
                done = idle & (begins == graph.maps[layer.output].h)
                keep = np.where(done, keep, np.minimum(keep, read.first[begins]))
                end = np.where(idle, end, np.maximum(end, read.end[ends]))
    maker = next((position for position, layer in enumerate(layers) if layer.output == index), None)
    end = np.maximum.accumulate(end) if maker is None else made[1:, maker]
    keep[0] = 0
    keep[1:] = np.minimum(keep[1:], end[:-1])
    return Ring(index, int((end - keep).max()), tuple(keep.tolist()), tuple(end.tolist()))


def as_stripes(made: np.ndarray) -> Stripes:
    """What `cut_stripes` gives, stripe by stripe."""
    begins, rows = made[:-1].tolist(), np.diff(made, axis=0).tolist()
    return tuple(tuple(zip(*each, strict=True)) for each in zip(begins, rows, strict=True))
