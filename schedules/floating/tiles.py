"""Register tiles: the block of outputs whose sums an inner loop holds in registers, and which block is expected to be fastest."""

from __future__ import annotations

from dataclasses import dataclass

from ..host import L1_WEIGHT_BYTES, L2_BYTES_PER_CYCLE, Host


@dataclass(frozen=True)
class Tile:
    """A block of ``pixels`` neighbours in a row times ``vectors`` of ``lanes`` output channels each."""

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
    """The lanes to use for so many channels: a full vector, or the smallest power of two that still holds all channels."""
    lanes = host.lanes
    while lanes > 1 and lanes // 2 >= channels:
        lanes //= 2
    return lanes


def dividing_lanes(channels: int, host: Host) -> int:
    """The largest power of two, at most a full vector, that divides the number of channels."""
    lanes = host.lanes
    while channels % lanes:
        lanes //= 2
    return lanes


def vector_counts(blocks: int, whole: bool, host: Host) -> list[int]:
    """How many vectors of channels a tile may have, out of ``blocks`` in all.

    Any divisor of ``blocks``. If the last vector is not ``whole``, a tile has all of them, provided that they fit the registers.
    """
    return divisors(blocks, host.accumulators) if whole or blocks > host.accumulators else [blocks]


def tiles_of(width: int, counts: list[int], lanes: int, host: Host) -> list[Tile]:
    """All tiles that fit the registers and a row of ``width`` pixels, with a number of vectors out of ``counts``.

    LLVM holds the weights of all vectors, and one pixel, beside the sums: of a tile that leaves no room for them it spills sums.
    Where all do, there are those of one pixel.
    """
    room = {vectors: min(host.accumulators, host.registers - 1 - vectors) // vectors for vectors in counts}
    tiles = [Tile(pixels, vectors, lanes) for vectors in counts for pixels in range(1, min(room[vectors], width) + 1)]
    return tiles or [Tile(1, vectors, lanes) for vectors in counts]


def cycles_per_output(tile: Tile, width: int, depth: int, host: Host) -> float:
    """Estimates the cycles that one step of a reduction takes for each pixel and each vector of the output.

    ``width``: pixels in a row; ``depth``: steps of the reduction. The core is taken to start two multiply-adds and two loads in
    each cycle. Where the weights of a tile's channels exceed what the first-level cache holds of them, every tile reads them
    from the second-level cache.
    """
    accumulators = tile.pixels * tile.vectors
    arithmetic = max(accumulators, host.fmas_in_flight) / 2
    loads = (tile.pixels + tile.vectors) / 2
    weight_bytes = 4 * tile.lanes * tile.vectors  # in each step
    from_l2 = weight_bytes / L2_BYTES_PER_CYCLE if weight_bytes * depth > L1_WEIGHT_BYTES else 0
    tiles = -(-width // tile.pixels)
    return max(arithmetic, loads, from_l2) * (1 + 1 / (4 * accumulators)) * tiles / (width * tile.vectors)


def best_tile(tiles: list[Tile], width: int, depth: int, host: Host) -> Tile:
    """The tile with the smallest ``cycles_per_output``; among equal ones the tile with the most vectors."""
    return min(tiles, key=lambda tile: (round(cycles_per_output(tile, width, depth, host), 4), -tile.vectors))
