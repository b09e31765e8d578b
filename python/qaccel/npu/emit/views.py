"""Parts of feature maps: as ranges of their axes, and as they lie in SRAM."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """Part of a feature map in SRAM, and the instructions that wrote it."""

    addr: int
    row_stride: int
    pixel_stride: int
    rows: int
    pixels: int
    pad_top: int
    pad_left: int
    writers: frozenset[int]

    def fields(self, prefix: str) -> dict[str, int]:
        return {
            f"{prefix}_addr": self.addr,
            f"{prefix}_row_stride": self.row_stride,
            f"{prefix}_pixel_stride": self.pixel_stride,
        }


@dataclass(frozen=True)
class Box:
    """A range of rows, pixels and channels."""

    y: int
    rows: int
    x: int
    pixels: int
    c: int
    channels: int
