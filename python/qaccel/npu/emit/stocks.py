"""Weight streams in SRAM while the program is written: which wait there, and what is fetched next."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..extents import align
from ..plan.allocate import Allocation
from ..plan.stock import Stock
from .weights import Streams, TileName


@dataclass
class _Shelf:
    """A stock by now: ``coming``, tiles in the order of their use; ``held``, by tile: (begin, end, loading instruction). ``piece``,
    ``end``: where the last one was put."""

    stock: Stock
    coming: deque[TileName]
    held: dict[TileName, tuple[int, int, int]] = field(default_factory=dict)
    piece: int = 0
    end: int = 0
    fetched_bytes: int = 0

    def place(self, size: int, step: int) -> int | None:
        """SRAM address where the next stream of so many bytes has room by a step: behind the last one, or in the piece after.

        None if it has none.
        """
        pieces = self.stock.pieces
        for turn in range(len(pieces) + 1):
            at = (self.piece + turn) % len(pieces)
            since, addr, room = pieces[at]
            begin = max(self.end, addr) if turn == 0 else addr
            if begin + size <= addr + room:
                if since > step or any(
                    begin < until and first < begin + size for first, until, _ in self.held.values()
                ):
                    return None
                self.piece, self.end = at, align(begin + size)
                return begin
        return None


class Stocks:
    """The streams that the plan fetches ahead. ``fetch`` emits the load of a stream to an SRAM address."""

    def __init__(self, stocks: tuple[Stock, ...], streams: Streams, fetch: Callable[[TileName, int], int]) -> None:
        self._streams, self._fetch = streams, fetch
        self._shelves = {stock.layer: _Shelf(stock, _in_order(streams, stock.layer)) for stock in stocks}

    def held(self, name: TileName) -> tuple[int, int] | None:
        """SRAM address of a tile's stream, and the loading instruction; None where it comes from DRAM."""
        shelf = self._shelves.get(name.layer)
        if shelf is None or name not in shelf.held:
            return None
        begin, _, index = shelf.held[name]
        return begin, index

    def decoded(self, name: TileName) -> None:
        """The stream is not needed any more; what has room now is fetched, if the plan says so."""
        shelf = self._shelves.get(name.layer)
        if shelf is None:
            return
        if name in shelf.coming:
            shelf.coming.remove(name)
        if shelf.held.pop(name, None) and shelf.stock.refilled:
            self._fill(shelf, name.layer)

    def go_on(self, step: int, share: float) -> None:
        """That part of what is to be fetched while the layer or cascade that begins with a step is in work has its time."""
        for shelf in self._shelves.values():
            now = sum(size for since, _, size in shelf.stock.pieces if since == step)
            if now:
                before = sum(size for since, _, size in shelf.stock.pieces if since < step)
                self._fill(shelf, step, before + share * now)

    def _fill(self, shelf: _Shelf, step: int, until_bytes: float = math.inf) -> None:
        while shelf.coming and shelf.fetched_bytes < until_bytes:
            name = shelf.coming[0]
            size = len(self._streams[name].stream)
            begin = shelf.place(size, step)
            if begin is None:
                return
            index = self._fetch(name, begin)
            shelf.coming.popleft()
            shelf.held[name] = begin, begin + size, index
            shelf.fetched_bytes += size


def _in_order(streams: Mapping[TileName, object], layer: int) -> deque[TileName]:
    """A layer's tiles as its instructions first need them: by part and output channels, then along the reduction."""
    own = [name for name in streams if name.layer == layer]
    return deque(sorted(own, key=lambda name: (name.part, name.out_channel, name.kernel_row, name.in_channel)))


class Pace:
    """How far a layer, or a cascade, has come: by its tiles, of the number that the planner expects."""

    def __init__(self, allocation: Allocation) -> None:
        self._first = {step: step for step in range(len(allocation.tilings))}
        works = {step: tiling.work for step, tiling in enumerate(allocation.tilings)}
        for cascade in allocation.cascades:
            self._first |= {step: cascade.first for step in range(cascade.first, cascade.last + 1)}
            works[cascade.first] = cascade.work
        self._tiles = {step: work.tiles for step, work in works.items()}
        self._done: Counter[int] = Counter()

    def tile_done(self, step: int) -> tuple[int, float]:
        """First layer of what a layer belongs to, and which share of that is done with another tile of the layer."""
        first = self._first[step]
        self._done[first] += 1
        return first, min(1.0, self._done[first] / max(1, self._tiles[first]))
