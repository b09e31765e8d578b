"""Places of SRAM blocks by search, where first fit finds none: depth first, and exact but for the number of steps that it may take.

As MiniMalloc does it (Moffitt, ASPLOS 2023): blocks get their places from the bottom up, each at the lowest address that those
before it leave, so that of all packings only those without gaps are looked at. What is left of each moment must have room above its
floor, or the search turns back. Moments that no block links any more are packed each for itself.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .place import Block, Places

_NEVER = 1 << 60
# Orders of blocks that may have one address: by lifetime, by size times lifetime, by what lives beside them at most.
_ORDERS = ("wat", "taw", "twa")

Part = tuple[
    np.ndarray, int, int, int, int
]  # blocks in order, first moment, the one after the last, least address, and place there


class _Lasting(Protocol):
    """A block, wherever it may lie."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...


@dataclass(frozen=True)
class Packing:
    """``places``: None where there is none (``proven``), or none was found in so many ``steps``."""

    places: Places | None
    proven: bool
    steps: int


def live_bytes(blocks: Sequence[_Lasting]) -> int:
    """The most bytes of blocks that live at one time: no packing takes less."""
    changes: dict[int, int] = {}
    for block in blocks:
        changes[block.first] = changes.get(block.first, 0) + block.size_bytes
        changes[block.last + 1] = changes.get(block.last + 1, 0) - block.size_bytes
    most = now = 0
    for moment in sorted(changes):
        now += changes[moment]
        most = max(most, now)
    return most


def pack(blocks: Sequence[Block], capacity_bytes: int, most_steps: int) -> Packing:
    """Addresses of all blocks below ``capacity_bytes``, found in a number of steps of which each places one block."""
    if live_bytes(blocks) > capacity_bytes:
        return Packing(None, True, 0)
    if not blocks:
        return Packing({}, True, 0)
    search, limit = _Search(blocks, capacity_bytes), len(blocks)
    while search.steps < most_steps:
        limit *= 2  # so that an order that does not serve takes no more than its share
        for order in _ORDERS:
            found = search.run(order, min(limit, most_steps - search.steps))
            if found:
                addresses = search.addresses.tolist()
                return Packing({b.key: a for b, a in zip(blocks, addresses, strict=True)}, True, search.steps)
            if found is False:
                return Packing(None, True, search.steps)
    return Packing(None, False, search.steps)


def least_capacity(blocks: Sequence[Block], most_steps: int, share: float) -> tuple[int, Places | None]:
    """The least capacity at which a packing is found, to a ``share`` of the most bytes that live at one time, and it."""
    grain = max(int(share * live_bytes(blocks)), 1)
    least = live_bytes(blocks)
    below, above, places = least, 2 * least, None
    while below < above:
        tried = below if places is None and below == least else (below + above) // 2
        found = pack(blocks, tried, most_steps).places
        if found is not None:
            above, places = tried, found
        else:
            below = tried + grain
    return above, places


class _Search:
    """Blocks and moments by number. A moment is a set of blocks that live at one time and that no later one adds to."""

    def __init__(self, blocks: Sequence[Block], capacity_bytes: int) -> None:
        self.capacity_bytes, self.steps, self._left = capacity_bytes, 0, 0
        self.size = np.array([block.size_bytes for block in blocks])
        self.width = np.array([block.last - block.first + 1 for block in blocks])
        moments = list(_moments(blocks))
        self.begin, self.end = np.zeros(len(blocks), int), np.zeros(len(blocks), int)
        for moment, members in reversed(list(enumerate(moments))):
            self.begin[members] = moment
        for moment, members in enumerate(moments):
            self.end[members] = moment + 1
        self.members = np.concatenate(moments)
        self.starts = np.cumsum([0, *map(len, moments)])
        beside = (self.begin[:, None] < self.end) & (self.begin < self.end[:, None])
        np.fill_diagonal(beside, False)
        self.beside = [np.flatnonzero(row) for row in beside]
        self.addresses = np.zeros(len(blocks), np.int64)
        self.lowest = np.zeros(len(blocks), np.int64)  # of those without place: below is no room for them
        self.placed = np.zeros(len(blocks), bool)
        self.floor = np.zeros(len(moments), np.int64)
        self.missing = np.zeros(len(moments), np.int64)  # bytes of those without place
        self.links = np.zeros(len(moments), np.int64)  # how many of those live in a moment and in the next
        for begin, end, size in zip(self.begin, self.end, self.size, strict=True):
            self.missing[begin:end] += size
            self.links[begin : end - 1] += 1

    def run(self, order: str, most_steps: int) -> bool | None:
        """Whether there is a packing; None where the steps are used up. ``order``: w width, a area, t what lives beside, each."""
        self._order, self._left = order, most_steps
        stack: list[Generator[Part, bool | None, bool | None]] = [
            self._search(*part) for part in reversed(list(self._parts(np.arange(len(self.size)), 0, len(self.floor))))
        ]
        while stack:  # the parts that are independent from the start
            found = self._finish(stack.pop())
            if not found:
                return found
        return True

    def _finish(self, search: Generator[Part, bool | None, bool | None]) -> bool | None:
        """What a search gives; those that it asks for are kept in a list, since they may be as deep as there are blocks."""
        stack, answer = [search], None
        while stack:
            try:
                part = stack[-1].send(answer)
            except StopIteration as done:
                stack.pop()
                answer = done.value
            else:
                stack.append(self._search(*part))
                answer = None
        return answer

    def _ordered(self, blocks: np.ndarray) -> np.ndarray:
        ranges = np.stack((self.begin[blocks], self.end[blocks]), axis=1).ravel()
        keys = {
            "w": self.width[blocks],
            "a": self.width[blocks] * self.size[blocks],
            "t": np.maximum.reduceat(np.append(self.missing, 0), ranges)[::2],
        }
        return blocks[np.lexsort((blocks, *(-keys[letter] for letter in reversed(self._order))))]

    def _parts(self, blocks: np.ndarray, begin: int, end: int) -> Iterator[Part]:
        """What no block links is packed by itself."""
        cuts = np.flatnonzero(self.links[begin : end - 1] == 0) + begin + 1
        for first, last in zip((begin, *cuts), (*cuts, end), strict=True):
            own = blocks[(self.begin[blocks] >= first) & (self.begin[blocks] < last)]
            if len(own):
                yield self._ordered(own), int(first), int(last), 0, 0

    def _search(
        self, blocks: np.ndarray, begin: int, end: int, least: int, position: int
    ) -> Generator[Part, bool | None, bool | None]:
        """Whether the blocks of some moments have room, none below an address, nor before a ``position`` in their order at it."""
        if self._left <= 0:
            return None
        self._left -= 1
        self.steps += 1
        addresses = self.lowest[blocks]
        # Behind the end of one that would have room below, a gap would stay.
        possible = (addresses >= least) & (addresses < (addresses + self.size[blocks]).min())
        possible[:position] &= addresses[:position] > least
        # What comes later lies no lower.
        possible &= addresses <= self.capacity_bytes - self.missing[begin:end].max()
        options = np.flatnonzero(possible)
        options = options[np.argsort(addresses[options], kind="stable")]
        members, starts = self._members(begin, end)
        for option in options.tolist():
            block, address = int(blocks[option]), int(addresses[option])
            first, last, top = self.begin[block], self.end[block], address + int(self.size[block])
            beside = self.beside[block]
            beside = beside[~self.placed[beside]]
            saved, floor = self.lowest[beside], self.floor[begin:end].copy()
            self.placed[block], self.lowest[block] = True, _NEVER
            self.lowest[beside] = np.maximum(saved, top)
            self.floor[first:last] = top
            self.missing[first:last] -= self.size[block]
            self.links[first : last - 1] -= 1
            found: bool | None = False
            if self._has_room(begin, end, address, members, starts):
                self.addresses[block] = address
                rest = np.concatenate((blocks[:option], blocks[option + 1 :]))
                if not len(rest):
                    found = True
                elif self.links[first : last - 1].all():
                    found = yield rest, begin, end, address, option
                else:
                    found = True
                    for part in list(self._parts(rest, begin, end)):
                        found = yield part
                        if not found:
                            break
            self.links[first : last - 1] += 1
            self.missing[first:last] += self.size[block]
            self.floor[begin:end] = floor
            self.lowest[beside] = saved
            self.placed[block], self.lowest[block] = False, address
            if found is not False:
                return found
            if not len(beside):
                break  # nothing lies above it: another address would not help
        return False

    def _members(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Blocks of some moments, one moment after the other, and where each begins."""
        first, last = self.starts[begin], self.starts[end]
        return self.members[first:last], self.starts[begin:end] - first

    def _has_room(self, begin: int, end: int, least: int, members: np.ndarray, starts: np.ndarray) -> bool:
        """Whether what is missing in each of some moments may have room above its floor and the lowest place of any of it."""
        lowest = np.minimum.reduceat(self.lowest[members], starts)
        lowest[lowest == _NEVER] = 0
        floor = np.maximum(np.maximum(self.floor[begin:end], least), lowest)
        return bool((floor + self.missing[begin:end]).max() <= self.capacity_bytes)


def _moments(blocks: Sequence[Block]) -> Iterator[np.ndarray]:
    """The largest sets of blocks that live at one time, in order."""
    events = sorted(
        [(block.first, 1, number) for number, block in enumerate(blocks)]
        + [(block.last + 1, 0, number) for number, block in enumerate(blocks)]
    )
    living: set[int] = set()
    grown = False
    for _, begins, number in events:
        if begins:
            living.add(number)
        else:
            if grown:
                yield np.array(sorted(living))
            living.remove(number)
        grown = bool(begins)
