"""Rows of a feature map in SRAM while the program is written: where each lies, and which instructions wrote it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ..layers import FeatureMap


class SramRows:
    """A map that lies in SRAM as a whole, or those of its rows that are in a ring: from ``base`` on, at most ``rows``."""

    def __init__(self, feature_map: FeatureMap, addr: int, rows: int) -> None:
        self.map, self.addr, self.rows = feature_map, addr, rows
        self.base = 0
        self._writers: defaultdict[int, set[int]] = defaultdict(set)

    def address(self, y: int) -> int:
        """Of the first byte of a row."""
        return self.addr + (y - self.base) * self.map.row_bytes

    def writers(self, y: int, rows: int) -> frozenset[int]:
        """The instructions whose data lie in some rows."""
        return frozenset().union(*(self._writers[row] for row in range(y, y + rows)))

    def wrote(self, y: int, rows: int, instructions: Iterable[int]) -> None:
        """Note who wrote something into some rows."""
        for row in range(y, y + rows):
            self._writers[row].update(instructions)

    def moved(self, y: int, rows: int, instruction: int) -> None:
        """Note that an instruction copied these rows to where they are from now on."""
        for row in range(y, y + rows):
            self._writers[row] = {instruction}
