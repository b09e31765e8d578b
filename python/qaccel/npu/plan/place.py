"""Places of SRAM blocks: first fit by lifetime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Places = dict[tuple[str | int, ...], int]  # addresses by key


@dataclass(frozen=True)
class Block:
    """``size_bytes`` of SRAM from the ``first`` to the ``last`` layer; ``key`` says what for.

    ("map", map), ("ring", first layer, map), ("in", layer, which input, slot), ("out", layer, slot), ("param", layer, slot),
    ("table", layer), ("between", layer), ("records", first layer that has some), ("stock", layer, which piece).
    """

    key: tuple[str | int, ...]
    size_bytes: int
    first: int
    last: int


Taken = Sequence[tuple[Block, int]]  # blocks and their addresses


def place(blocks: Sequence[Block], capacity_bytes: int, given: Places | None = None) -> tuple[Places, Block | None]:
    """First fit, largest first, or else in another order; the first block that does not fit is returned beside what was placed.

    ``given``: where some lie in any case.
    """
    given = given or {}
    orders: tuple[Callable[[Block], int], ...] = (
        lambda b: -b.size_bytes,
        lambda b: -b.size_bytes * (b.last - b.first + 1),
        lambda b: b.first - b.last,
        lambda b: b.first,
    )
    failures = []
    for order in orders:
        places, failed = _first_fit(
            sorted(blocks, key=lambda b: (order(b), -b.size_bytes, b.first, str(b.key))), capacity_bytes, given
        )
        if failed is None:
            return places, None
        failures.append(failed)
    return {}, failures[0]


def _first_fit(blocks: Sequence[Block], capacity_bytes: int, given: Places) -> tuple[Places, Block | None]:
    """The blocks in this order, each as low as possible but for ``given`` ones; and the first one that has no room."""
    placed = [(block, given[block.key]) for block in blocks if block.key in given]
    for block in blocks:
        if block.key in given:
            continue
        addr = lowest(block, placed, capacity_bytes)
        if addr is None:
            return {}, block
        placed.append((block, addr))
    return {block.key: addr for block, addr in placed}, None


def lowest(block: Block, placed: Taken, capacity_bytes: int) -> int | None:
    """The lowest address at which a block has room beside what lives at the same time; None if there is none."""
    addr = 0
    for begin, end in _living(block.first, block.last, placed):
        if addr + block.size_bytes <= begin:
            break
        addr = max(addr, end)
    return addr if addr + block.size_bytes <= capacity_bytes else None


def gaps(first: int, last: int, placed: Taken, capacity_bytes: int) -> list[tuple[int, int]]:
    """(address, bytes) of what is free from one layer to another."""
    found, addr = [], 0
    for begin, end in (*_living(first, last, placed), (capacity_bytes, capacity_bytes)):
        if begin > addr:
            found.append((addr, begin - addr))
        addr = max(addr, end)
    return found


def _living(first: int, last: int, placed: Taken) -> list[tuple[int, int]]:
    """(begin, end) of what lives at some time from one layer to another, by address."""
    return sorted((a, a + other.size_bytes) for other, a in placed if other.first <= last and first <= other.last)
