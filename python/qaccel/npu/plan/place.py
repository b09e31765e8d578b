"""Places of SRAM blocks: first fit by lifetime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Places = dict[tuple[object, ...], int]


@dataclass(frozen=True)
class Block:
    """``size_bytes`` of SRAM from the ``first`` to the ``last`` layer; ``key`` says what for."""

    key: tuple[object, ...]
    size_bytes: int
    first: int
    last: int


def place(blocks: Sequence[Block], capacity_bytes: int) -> tuple[Places, Block | None]:
    """First fit, largest first, or else in another order; the first block that does not fit is returned beside what was placed."""
    orders: tuple[Callable[[Block], int], ...] = (
        lambda b: -b.size_bytes,
        lambda b: -b.size_bytes * (b.last - b.first + 1),
        lambda b: b.first - b.last,
        lambda b: b.first,
    )
    failures = []
    for order in orders:
        places, failed = _first_fit(
            sorted(blocks, key=lambda b: (order(b), -b.size_bytes, b.first, str(b.key))), capacity_bytes
        )
        if failed is None:
            return places, None
        failures.append(failed)
    return {}, failures[0]


def _first_fit(blocks: Sequence[Block], capacity_bytes: int) -> tuple[Places, Block | None]:
    """The blocks in this order, each as low as possible; and the first one that has no room."""
    placed: list[tuple[Block, int]] = []
    for block in blocks:
        addr = lowest(block, placed, capacity_bytes)
        if addr is None:
            return {}, block
        placed.append((block, addr))
    return {block.key: addr for block, addr in placed}, None


def lowest(block: Block, placed: Iterable[tuple[Block, int]], capacity_bytes: int) -> int | None:
    """The lowest address at which a block has room beside what lives at the same time; None if there is none."""
    taken = sorted(
        (addr, addr + other.size_bytes)
        for other, addr in placed
        if other.first <= block.last and block.first <= other.last
    )
    addr = 0
    for begin, end in taken:
        if addr + block.size_bytes <= begin:
            break
        addr = max(addr, end)
    return addr if addr + block.size_bytes <= capacity_bytes else None
