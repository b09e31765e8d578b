"""Places found by search: valid, and as low as OR-Tools or brute force find, or as proven that there are none."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from qaccel.npu.plan.pack import Packing, live_bytes, pack
from qaccel.npu.plan.place import Block, Places, place

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

SEED = 20261130
# What MiniMalloc's README shows: (id, lower, upper, size) and a capacity of 12, which first fit, largest first, does not reach.
SHOWN = [("b1", 0, 3, 4), ("b2", 3, 9, 4), ("b3", 0, 9, 4), ("b4", 9, 21, 4), ("b5", 0, 21, 4)]


def check(blocks: list[Block], places: Places | None, capacity: int) -> None:
    assert places is not None and places.keys() == {block.key for block in blocks}
    for number, a in enumerate(blocks):
        assert 0 <= places[a.key] <= capacity - a.size_bytes
        for b in blocks[:number]:
            apart = places[a.key] + a.size_bytes <= places[b.key] or places[b.key] + b.size_bytes <= places[a.key]
            assert apart or a.last < b.first or b.last < a.first, (a, b)


def few_blocks(seed: int) -> list[Block]:
    """Seven of them, at five moments."""
    rng = np.random.default_rng([SEED, 7, seed])
    begins, lengths, sizes = rng.integers(0, 5, 7), rng.integers(1, 4, 7), 16 * rng.integers(1, 6, 7)
    return [Block(("map", k), int(sizes[k]), int(begins[k]), int(begins[k] + lengths[k] - 1)) for k in range(7)]


def filled(seed: int) -> list[Block]:
    """Blocks that take 192 bytes at each of six moments: many such sets have no packing in 192."""
    rng, blocks, left = np.random.default_rng([SEED, 12, seed]), list[Block](), np.full(6, 12)
    for _ in range(12):
        first = int(rng.integers(0, 6))
        last = min(6, first + int(rng.integers(1, 5)))
        room = left[first:last].min()
        if room:
            size = int(rng.integers(1, min(room, 6) + 1))
            left[first:last] -= size
            blocks.append(Block(("map", len(blocks)), 16 * size, first, last - 1))
    rest = [(moment, int(units)) for moment, units in enumerate(left) if units]
    return blocks + [Block(("map", len(blocks) + k), 16 * units, m, m) for k, (m, units) in enumerate(rest)]


def brute_force(blocks: list[Block]) -> int:
    """The least peak: of all orders in which each block is put as low as those before it let it."""
    best = sum(block.size_bytes for block in blocks)
    for order in itertools.permutations(blocks):
        placed: list[tuple[Block, int]] = []
        for block in order:
            beside = sorted((a, a + o.size_bytes) for o, a in placed if o.first <= block.last and block.first <= o.last)
            addr = 0
            for begin, end in beside:
                if addr + block.size_bytes <= begin:
                    break
                addr = max(addr, end)
            placed.append((block, addr))
        best = min(best, max(a + b.size_bytes for b, a in placed))
    return best


def test_what_minimalloc_shows() -> None:
    blocks = [Block(("map", k), size, lower, upper - 1) for k, (_, lower, upper, size) in enumerate(SHOWN)]
    found = pack(blocks, 12, 1000)
    assert found.proven
    check(blocks, found.places, 12)
    assert pack(blocks, 11, 1000) == Packing(None, True, 0)  # what lives at one time takes more


@pytest.mark.parametrize("seed", [85, 87, 91, 171, 381, 495])
def test_the_least_peak_of_few_blocks_by_brute_force(seed: int) -> None:
    """Where first fit does not reach it."""
    blocks = few_blocks(seed)
    least = brute_force(blocks)
    assert place(blocks, least)[1] in blocks
    found = pack(blocks, least, 10_000)
    check(blocks, found.places, least)
    below = pack(blocks, least - 1, 10_000)
    assert below.places is None and below.proven


# By OR-Tools 9.15 (CP-SAT), proven.
PEAKS = {109: 208, 314: 208, 579: 224, 622: 208, 1: 192, 2: 192, 3: 192}


@pytest.mark.parametrize("seed", PEAKS)
def test_the_least_peak_of_sets_without_a_gap(seed: int) -> None:
    blocks, peak = filled(seed), PEAKS[seed]
    found = pack(blocks, peak, 50_000)
    check(blocks, found.places, peak)
    below = pack(blocks, peak - 1, 50_000)
    assert below.places is None and below.proven
    assert live_bytes(blocks) == 192


def test_peaks_beside_or_tools() -> None:
    pytest.importorskip("ortools", reason="the extra qaccel[test] has OR-Tools")
    import bench_packing

    assert {seed: bench_packing.or_tools_peak(filled(seed), 20) for seed in PEAKS} == {
        s: (p, True) for s, p in PEAKS.items()
    }


def test_as_many_steps_as_it_may_take_and_no_more() -> None:
    blocks, least = filled(622), PEAKS[622]
    steps = pack(blocks, least, 50_000).steps
    few = pack(blocks, least, steps - 1)
    assert few.places is None and not few.proven and few.steps <= steps - 1
    assert pack(blocks, least, steps) == pack(blocks, least, 50_000)


def test_a_wrong_floor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: blocks forget what they were put on."""
    from qaccel.npu.plan import pack as module

    monkeypatch.setattr(module.np, "maximum", _Forgetful(np.maximum))
    blocks = filled(622)
    found = pack(blocks, PEAKS[622] - 1, 50_000)
    assert not (found.places is None and found.proven)


class _Forgetful:
    def __init__(self, real: np.ufunc) -> None:
        self.reduceat = real.reduceat
        self._real = real

    def __call__(self, a: np.ndarray, b: object) -> np.ndarray:
        return a if np.ndim(b) == 0 else self._real(a, b)
