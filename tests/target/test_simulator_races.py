"""Races between strided accesses of DRAM, against sets of bytes."""

import numpy as np
import pytest

from qaccel.errors import QaccelError
from qaccel.machine.isa import Instruction, encode, instruction
from qaccel.machine.simulator import simulate
from target.machine import HW

DRAM_BYTES = 4096
SOURCE, TARGET = 0, 1 << 16  # in SRAM: what is stored, where loads go


def random_view(rng: np.random.Generator, step: int) -> dict[str, int]:
    """Pixels ``step`` apart, rows a multiple of it, as parts of one tensor have; without a step anything."""
    pixel_bytes, rows, pixels = int(rng.integers(1, 9)), int(rng.integers(1, 6)), int(rng.integers(1, 12))
    pixel_stride = step or int(rng.integers(pixel_bytes, 30))
    row_stride = step * int(rng.integers(12, 14)) if step else int(rng.integers(pixels * pixel_stride, 400))
    span = (rows - 1) * row_stride + (pixels - 1) * pixel_stride + pixel_bytes
    return {
        "dram_addr": int(rng.integers(0, DRAM_BYTES - span)),
        "dram_row_stride": row_stride,
        "dram_pixel_stride": pixel_stride,
        "rows": rows,
        "pixels": pixels,
        "pixel_bytes": pixel_bytes,
    }


def touched(view: dict[str, int]) -> set[int]:
    return {
        view["dram_addr"] + row * view["dram_row_stride"] + pixel * view["dram_pixel_stride"] + byte
        for row in range(view["rows"])
        for pixel in range(view["pixels"])
        for byte in range(view["pixel_bytes"])
    }


def transfer(op: str, view: dict[str, int], sram_addr: int, **semaphores: int) -> Instruction:
    row = view["pixels"] * view["pixel_bytes"]
    dense = {"sram_addr": sram_addr, "sram_row_stride": row, "sram_pixel_stride": view["pixel_bytes"]}
    return instruction(op, **view, **dense, **semaphores)


def race(loads: list[dict[str, int]], stores: list[dict[str, int]], mode: str) -> bool:
    """Whether the machine finds one. The first instruction gives the stores what they store; nothing else is ordered."""
    first = instruction("LOAD_RAW", dram_addr=0, sram_addr=SOURCE, bytes=DRAM_BYTES, signal0=1)
    program = [first, *(transfer("LOAD", view, TARGET) for view in loads)]
    program += [transfer("STORE", view, SOURCE, wait0=1 if i == 0 else 0) for i, view in enumerate(stores)]
    dram = np.zeros(2 * DRAM_BYTES, np.uint8)
    try:
        simulate(HW, encode(program), dram, mode=mode, initialised=[(0, dram.size)], program_addr=DRAM_BYTES)
    except QaccelError as error:
        assert "race: " in str(error) and " of DRAM" in str(error)
        return True
    return False


@pytest.mark.parametrize("mode", ["functional", "cycle"])
def test_races_are_where_bytes_are_shared(mode: str) -> None:
    """The stores come after a load of everything, which they wait for: that one is no race."""
    rng = np.random.default_rng(0)
    found = 0
    for case in range(300):
        step = (0, 40, 64)[case % 3]
        loads = [random_view(rng, step) for _ in range(2)]
        stores = [random_view(rng, step) for _ in range(2)]
        expected = bool(set.union(*map(touched, loads)) & set.union(*map(touched, stores)))
        assert race(loads, stores, mode) == expected, case
        found += expected
    assert 60 < found < 240


def single(addr: int) -> dict[str, int]:
    return {"dram_addr": addr, "rows": 1, "pixels": 1, "pixel_bytes": 1}


@pytest.mark.wide
@pytest.mark.parametrize(("stored", "expected"), [(0, True), (1, False), (2 * 600, True), (2 * 600 + 1, False)])
def test_races_with_an_access_long_ago(stored: int, expected: bool) -> None:
    """More accesses that nothing waits for than are kept as views."""
    loads = [single(2 * (i // 10)) for i in range(10_000)]
    for view in loads:
        view |= {"dram_row_stride": 1, "dram_pixel_stride": 1}
    assert race(loads, [single(stored) | {"dram_row_stride": 1, "dram_pixel_stride": 1}], "functional") == expected
