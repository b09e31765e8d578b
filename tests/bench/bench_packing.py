"""Packing of SRAM: MiniMalloc's challenging instances, and random ones beside OR-Tools.

    python tests/bench/bench_packing.py FOLDER [--random 100] [--seconds 30]

FOLDER has the .csv files (id, lower, upper, size) of benchmarks/challenging in github.com/google/minimalloc; the capacity is in the
file's name (A.1048576.csv). Of each it prints blocks, bytes that live at one time at most, the peak of first fit and of the search,
and seconds. With --random N, as many instances of that size, of the seed below: the least peak that the search finds, and that of
OR-Tools (CP-SAT, NoOverlap2D), where that is installed.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qaccel.npu.plan.pack import least_capacity, live_bytes, pack
from qaccel.npu.plan.place import Block, Places, place

SEED = 20261130
STEPS = 2_000_000
STEPS_OF_RANDOM = 3_000


def read(path: Path) -> list[Block]:
    """The instance in a file; its upper ends are exclusive."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [Block(("map", k), int(r["size"]), int(r["lower"]), int(r["upper"]) - 1) for k, r in enumerate(rows)]


def random_blocks(rng: np.random.Generator, count: int) -> list[Block]:
    """Blocks as networks have them: many short, some long, sizes of a few kibibytes to a share of a mebibyte."""
    blocks = []
    for number in range(count):
        first = int(rng.integers(0, count))
        last = first + int(rng.geometric(1 / rng.choice([2, 6, 40])))
        size = 1024 * int(np.ceil(2 ** rng.uniform(0, 7)))
        blocks.append(Block(("map", number), size, first, min(last, count)))
    return blocks


def check(blocks: list[Block], places: Places) -> int:
    """The peak. Raises AssertionError where two blocks lie at one time and place."""
    for number, a in enumerate(blocks):
        for b in blocks[:number]:
            apart = places[a.key] + a.size_bytes <= places[b.key] or places[b.key] + b.size_bytes <= places[a.key]
            assert apart or a.last < b.first or b.last < a.first, (a, b)
    return max(places[block.key] + block.size_bytes for block in blocks)


def first_fit_peak(blocks: list[Block]) -> int:
    """The least capacity that first fit does with, in one of its orders."""
    below, above = live_bytes(blocks), 4 * live_bytes(blocks)
    while below < above:
        tried = (below + above) // 2
        below, above = (below, tried) if place(blocks, tried)[1] is None else (tried + 1, above)
    return above


def or_tools_peak(blocks: list[Block], seconds: float) -> tuple[int | None, bool]:
    """The least peak that CP-SAT finds in so many seconds, and whether it is proven."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    limit = first_fit_peak(blocks)
    peak = model.new_int_var(live_bytes(blocks), limit, "peak")
    times, places = [], []
    for block in blocks:
        address = model.new_int_var(0, limit - block.size_bytes, "")
        model.add(address + block.size_bytes <= peak)
        times.append(model.new_fixed_size_interval_var(block.first, block.last + 1 - block.first, ""))
        places.append(model.new_fixed_size_interval_var(address, block.size_bytes, ""))
    model.add_no_overlap_2d(times, places)
    model.minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds, solver.parameters.num_workers = seconds, 1
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return (int(solver.objective_value) if found else None), status == cp_model.OPTIMAL


def challenging(folder: Path) -> Iterator[str]:
    """A line for each instance."""
    for path in sorted(folder.glob("*.csv")):
        blocks, capacity = read(path), int(path.stem.split(".")[-1])
        begin, cpu = time.perf_counter(), time.process_time()
        found = pack(blocks, capacity, STEPS)
        seconds, own = time.perf_counter() - begin, time.process_time() - cpu
        peak = "none" if found.places is None else f"{check(blocks, found.places):,}"
        yield (
            f"{path.name:<20} {len(blocks):>4} blocks, live {live_bytes(blocks):>9,}, first fit {first_fit_peak(blocks):>9,}, search "
            f"{peak:>9} of {capacity:,} in {seconds:.1f} s ({own:.1f} s of CPU), {found.steps:,} steps"
        )


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30, help="of OR-Tools for each")
    arguments = parser.parse_args()
    for line in challenging(arguments.folder):
        print(line, flush=True)
    sizes = [154, 170, 203, 213, 215, 296, 308, 316, 374, 409, 454]
    worst = 0.0
    for number in range(arguments.random):
        blocks = random_blocks(np.random.default_rng([SEED, number]), sizes[number % len(sizes)])
        begin = time.process_time()
        ours, places = least_capacity(blocks, STEPS_OF_RANDOM, 0.001)
        seconds, fit = time.process_time() - begin, first_fit_peak(blocks)
        peak = min(fit, ours if places is None else check(blocks, places))
        begin = time.process_time()
        theirs, proven = or_tools_peak(blocks, arguments.seconds)
        more = 100 * (peak / theirs - 1) if theirs else 0.0
        worst = max(worst, more)
        print(
            f"random {number:>3}, {len(blocks)} blocks: live {live_bytes(blocks):,}, first fit {fit:,}, search {peak:,} in {seconds:.1f} s, "
            f"OR-Tools {theirs}{'' if proven else ', not proven'} in {time.process_time() - begin:.1f} s: {more:+.2f}%",
            flush=True,
        )
    if arguments.random:
        print(f"at the most {worst:+.2f}% above OR-Tools")


if __name__ == "__main__":
    main()
