"""Blocks of SRAM that are used in turn, and what lies in each while the program is written."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Slots:
    """SRAM blocks used in turn. ``held``, by block: the name of what lies in it and the instruction that put it there, or None."""

    addresses: tuple[int, ...]
    held: list[tuple[object, int] | None] = field(default_factory=list)
    turn: int = 0

    def find(self, key: object) -> tuple[int, int] | None:
        for addr, entry in zip(self.addresses, self.held, strict=False):
            if entry is not None and entry[0] == key:
                return addr, entry[1]
        return None

    def put(self, key: object, index: int) -> None:
        self.held = self.held or [None] * len(self.addresses)
        self.held[self.turn] = (key, index)
        self.turn = (self.turn + 1) % len(self.addresses)

    @property
    def next_addr(self) -> int:
        return self.addresses[self.turn]
