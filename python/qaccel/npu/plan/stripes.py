"""Cascades: consecutive layers run stripe by stripe, so that of the maps between them only some rows are in SRAM at a time.

Stripes are counted by rows of the last layer's output. What the layers before it make in a stripe is what that needs, less what
the stripes before have made. No row is made twice: the rows that the next stripe reads again stay (its halo).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...machine.isa import field_maximum
from ...machine.layer_cost import LayerWork
from ..extents import Span, align, row_reader
from ..layers import AnyLayer, LayerGraph, MoveLayer
from .tiles.tiling import Tiling

Stripes = tuple[tuple[Span, ...], ...]


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
        found, base, made = [], 0, 0
        for stripe, (keep, end) in enumerate(zip(self.keeps, self.ends, strict=True)):
            if end - base > self.rows:
                found.append((stripe, keep, made - keep))
                base = keep
            made = end
        return found


@dataclass(frozen=True)
class Cascade:
    """Layers ``first`` and following; ``stripes[k][i]``: which rows layer ``first + i`` makes in stripe k, as (begin, rows).

    ``rings`` are of the maps between the layers and of what they read from DRAM; ``tilings`` of the layers cut one stripe.
    ``weight_bytes``: what all its weights take of the weight buffer if they stay there from the first stripe to the last; 0: they
    are decoded anew for every stripe. ``opening``: how many rows of the first stripe the first layer makes at a time: it
    need not wait for all that it reads from DRAM.
    """

    first: int
    stripes: Stripes
    rings: tuple[Ring, ...]
    tilings: tuple[Tiling, ...]
    weight_bytes: int
    opening: int
    work: LayerWork

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


def cut_stripes(graph: LayerGraph, first: int, last: int, rows: int) -> Stripes:
    """Stripes of at most ``rows`` rows of the last layer's output. Each layer before it must be read by one of those after it."""
    layers = graph.layers[first : last + 1]
    heights = [graph.maps[layer.output].h for layer in layers]
    inputs = [
        [(source, row_reader(layer, which, graph.maps)) for which, source in enumerate(layer.inputs)]
        for layer in layers
    ]
    count = -(-heights[-1] // rows)
    made = [0] * len(layers)
    stripes = []
    for stripe in range(count):
        ends = {layers[-1].output: min((stripe + 1) * rows, heights[-1])}
        for position in reversed(range(len(layers))):
            layer = layers[position]
            if stripe == count - 1:  # rows that nobody reads are made, too
                ends[layer.output] = heights[position]
            end = ends[layer.output]
            for source, read in inputs[position]:
                ends[source] = max(ends.get(source, 0), sum(read(0, end)) if end else 0)
        now = [max(ends[layer.output], before) for layer, before in zip(layers, made, strict=True)]
        stripes.append(tuple((before, end - before) for before, end in zip(made, now, strict=True)))
        made = now
    return tuple(stripes)


def cut_ring(graph: LayerGraph, first: int, stripes: Stripes, index: int) -> Ring:
    """The smallest ring of a map, made in the cascade or outside of it, that it can do with."""
    layers = graph.layers[first : first + len(stripes[0])]
    maker = next((position for position, layer in enumerate(layers) if layer.output == index), None)
    readers = [
        (position, graph.maps[layer.output].h, row_reader(layer, which, graph.maps))
        for position, layer in enumerate(layers)
        for which, source in enumerate(layer.inputs)
        if source == index
    ]
    keeps, ends = [], []
    end = 0
    for stripe in stripes:
        keep, before = graph.maps[index].h, end
        for position, height, read in readers:
            begin, rows = stripe[position]
            first_row, length = read(begin, max(rows, 1))
            done = rows == 0 and begin == height
            keep = keep if done else min(keep, first_row)
            end = max(end, first_row + length) if rows else end
        if maker is not None:
            end = sum(stripe[maker])
        keeps.append(min(keep, before))
        ends.append(end)
    least = max(end - keep for keep, end in zip(keeps, ends, strict=True))
    return Ring(index, least, tuple(keeps), tuple(ends))
