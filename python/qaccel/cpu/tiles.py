"""Register tiles: how many pixels and vectors of output channels an inner loop holds in accumulators."""

from __future__ import annotations

from dataclasses import dataclass

from .host import Host

_LATENCY = 8  # multiply-adds that must be under way to hide their latency


@dataclass(frozen=True)
class Tile:
    """``pixels`` along a row times ``vectors`` of ``lanes`` channels."""

    pixels: int
    vectors: int
    lanes: int


def divisors(number: int, most: int) -> list[int]:
    """The divisors of ``number`` up to ``most``, ascending."""
    return [k for k in range(1, min(number, most) + 1) if number % k == 0]


def round_up(number: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-number // step) * step


def vector_lanes(channels: int, host: Host) -> int:
    """Lanes for that many channels: a full vector, or the power of two that holds fewer of them."""
    lanes = host.lanes
    while lanes > 1 and lanes // 2 >= channels:
        lanes //= 2
    return lanes


def dividing_lanes(channels: int, host: Host) -> int:
    """The widest power of two, up to a vector, that divides the channels."""
    lanes = host.lanes
    while channels % lanes:
        lanes //= 2
    return lanes


def vector_counts(blocks: int, whole: bool, host: Host) -> list[int]:
    """How many vectors of channels a tile may take: divisors of ``blocks``, or all if the last is not ``whole``."""
    return divisors(blocks, host.accumulators) if whole or blocks > host.accumulators else [blocks]


def cycles_per_pixel(tile: Tile, width: int) -> float:
    """An estimate for one step of the reduction, a pixel and a vector of it, at two multiply-adds and two loads a cycle."""
    accumulators = tile.pixels * tile.vectors
    arithmetic = max(accumulators, _LATENCY) / 2
    loads = (tile.pixels + tile.vectors) / 2
    tiles = -(-width // tile.pixels)
    return max(arithmetic, loads) * (1 + 1 / (4 * accumulators)) * tiles / (width * tile.vectors)


def best_tile(width: int, counts: list[int], lanes: int, host: Host) -> Tile:
    """The tile with the least estimate; of equals the one with the most vectors."""
    choices = [
        Tile(pixels, vectors, lanes)
        for vectors in counts
        for pixels in range(1, max(host.accumulators // vectors, 1) + 1)
        if pixels <= width
    ]
    return min(choices, key=lambda tile: (round(cycles_per_pixel(tile, width), 4), -tile.vectors))
