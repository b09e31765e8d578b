"""Register tiles: how many pixels and vectors of output channels an inner loop holds in accumulators."""

from __future__ import annotations

from dataclasses import dataclass

from ..host import Host

_LATENCY = 8  # multiply-adds that must be under way to hide their latency
_FIRST_CACHE_BYTES = 24 * 1024  # of it that weights may take
_SECOND_CACHE_BYTES_PER_CYCLE = 24


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


def tiles_of(width: int, counts: list[int], lanes: int, host: Host) -> list[Tile]:
    """All tiles that fit the registers and a row of ``width``."""
    return [
        Tile(pixels, vectors, lanes)
        for vectors in counts
        for pixels in range(1, min(max(host.accumulators // vectors, 1), width) + 1)
    ]


def cycles_per_output(tile: Tile, width: int, depth: int) -> float:
    """An estimate for one step of the reduction, a pixel and a vector of it, at two multiply-adds and two loads a cycle.

    Weights of a block of channels that the first cache does not hold come from the second for every tile.
    """
    accumulators = tile.pixels * tile.vectors
    arithmetic = max(accumulators, _LATENCY) / 2
    loads = (tile.pixels + tile.vectors) / 2
    weight_bytes = 4 * tile.lanes * tile.vectors
    from_second = weight_bytes / _SECOND_CACHE_BYTES_PER_CYCLE if weight_bytes * depth > _FIRST_CACHE_BYTES else 0
    tiles = -(-width // tile.pixels)
    return max(arithmetic, loads, from_second) * (1 + 1 / (4 * accumulators)) * tiles / (width * tile.vectors)


def best_tile(tiles: list[Tile], width: int, depth: int) -> Tile:
    """The tile with the least estimate; of equals the one with the most vectors."""
    return min(tiles, key=lambda tile: (round(cycles_per_output(tile, width, depth), 4), -tile.vectors))
