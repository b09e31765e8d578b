"""The order in which layers run: where branches of a network may take turns, what lives at one time depends on it.

A search over the sets of layers that may be done looks for the order in which maps go least beyond SRAM, summed over the layers
during which they do; whether such an order is worth it, its plan says. The integers are the same in every order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from ...errors import UserError, did_you_mean
from ...machine.hw import HwConfig
from ..extents import align
from ..layers import AnyLayer, LayerGraph, post_of

MOST_LAYERS = 100  # of a subgraph of which two orders are planned, which takes twice the time
KEPT = 64  # sets of as many layers that are followed


def other_order(graph: LayerGraph, hw: HwConfig) -> LayerGraph | None:
    """The subgraph in the order in which its maps go least beyond SRAM; None where in its own they go no further."""
    if len(graph.layers) > MOST_LAYERS:
        return None
    web = _Web(graph)
    order, beyond = web.least(hw.sram_bytes, KEPT)
    if beyond >= web.beyond(range(len(graph.layers)), hw.sram_bytes):
        return None
    return replace(graph, layers=tuple(graph.layers[step] for step in order))


def in_given_order(graph: LayerGraph, names: Sequence[str], origin: str) -> LayerGraph:
    """The subgraph's layers in the order of ``names``; one that these leave out runs as soon as what it reads is made. Raises
    UserError for a name that is none, or is there twice, and for a layer that reads what is not made yet."""
    layers = {layer.name: layer for layer in graph.layers}
    makers = {layer.output: layer for layer in graph.layers}
    hosts = {post.name: layer.name for layer in graph.layers if (post := post_of(layer)) is not None}
    left = [layer for layer in graph.layers if layer.name not in names]
    run: list[AnyLayer] = []
    made: set[int] = set()

    def take_those_left() -> None:
        while ready := [layer for layer in left if not _missing(layer, makers, made)]:
            left.remove(ready[0])
            run.append(ready[0])
            made.add(ready[0].output)

    take_those_left()
    for name in names:
        if name in hosts:
            raise UserError(f"{origin}: order: {name} runs in the post stage of {hosts[name]}; take it out")
        if name not in layers:
            raise UserError(f"{origin}: order names the layer {name!r}, which there is not{did_you_mean(name, layers)}")
        if layers[name].output in made:
            raise UserError(f"{origin}: order names {name} twice; take one out")
        missing = _missing(layers[name], makers, made)
        if missing:
            raise UserError(f"{origin}: order has {name} before {missing[0]}, whose output it reads; exchange them")
        run.append(layers[name])
        made.add(layers[name].output)
        take_those_left()
    return replace(graph, layers=tuple(run))


def _missing(layer: AnyLayer, makers: Mapping[int, AnyLayer], made: Set[int]) -> list[str]:
    """Layers that make what a layer reads, and have not."""
    return [makers[index].name for index in layer.inputs if index in makers and index not in made]


@dataclass(frozen=True)
class _Reached:
    """The best way to a set of layers: bytes beyond SRAM and bytes alive, summed over its layers, and those alive now; the last
    layer and the way to the rest; which layers may be next."""

    beyond: int
    lived: int
    alive: int
    way: tuple[int, _Reached] | None
    ready: tuple[int, ...]

    @property
    def rank(self) -> tuple[int, int, int]:
        return self.beyond, self.lived, self.alive


class _Web:
    """Which layer needs which; sets of layers are numbers, a bit for each."""

    def __init__(self, graph: LayerGraph) -> None:
        layers: tuple[AnyLayer, ...] = graph.layers
        made = {layer.output: step for step, layer in enumerate(layers)}
        self.makers = [sorted({made[index] for index in layer.inputs if index in made}) for layer in layers]
        self.needs = [sum(1 << each for each in own) for own in self.makers]
        self.readers = [0] * len(layers)
        self.next: list[list[int]] = [[] for _ in layers]
        for step, own in enumerate(self.makers):
            for maker in own:
                self.readers[maker] |= 1 << step
                self.next[maker].append(step)
        # What nobody reads goes to DRAM in any case.
        self.sizes = [
            align(graph.maps[layer.output].total_bytes) if self.readers[step] else 0
            for step, layer in enumerate(layers)
        ]

    def least(self, room_bytes: int, kept: int) -> tuple[tuple[int, ...], int]:
        """The order that goes least beyond ``room_bytes``, of those that are followed, and by how much."""
        ready = tuple(step for step, needs in enumerate(self.needs) if not needs)
        reached = {0: _Reached(0, 0, 0, None, ready)}
        for _ in self.needs:
            further: dict[int, _Reached] = {}
            for done, state in reached.items():
                for step in state.ready:
                    new, after = done | 1 << step, self.after(done, state, step, room_bytes)
                    if new not in further or after.rank < further[new].rank:
                        further[new] = after
            best = sorted(further.items(), key=lambda each: each[1].rank)[:kept]
            reached = dict(best)
        [end] = reached.values()
        order: list[int] = []
        state = end
        while state.way is not None:
            step, state = state.way
            order.append(step)
        return tuple(reversed(order)), end.beyond

    def after(self, done: int, state: _Reached, step: int, room_bytes: int) -> _Reached:
        """The state behind one more layer."""
        done |= 1 << step
        during = state.alive + self.sizes[step]
        freed = sum(self.sizes[maker] for maker in self.makers[step] if not self.readers[maker] & ~done)
        ready = tuple(each for each in state.ready if each != step)
        ready += tuple(each for each in self.next[step] if not self.needs[each] & ~done)
        return _Reached(
            state.beyond + max(0, during - room_bytes), state.lived + during, during - freed, (step, state), ready
        )  # fmt: skip

    def beyond(self, order: Sequence[int], room_bytes: int) -> int:
        """Bytes beyond ``room_bytes`` in an order, summed over its layers."""
        done, state = 0, _Reached(0, 0, 0, None, ())
        for step in order:
            state = self.after(done, state, step, room_bytes)
            done |= 1 << step
        return state.beyond
