"""Semaphores of programs that no compiled network has."""

import numpy as np
import pytest

from qaccel.errors import CompilerFault
from qaccel.machine.hw import load_config
from qaccel.machine.isa import Instruction, encode, instruction, isa
from qaccel.machine.numerics import multiplier_and_shift
from qaccel.machine.simulator import simulate
from qaccel.npu.check.program import DramMap, check_instructions
from qaccel.npu.emit import semaphores

HW = load_config()
BYTES = 16


def loads_then_copies(count: int) -> list[Instruction]:
    """So many blocks loaded, then each copied by an instruction of its own, the first one first, then all stored at once."""
    multiplier, shift = multiplier_and_shift(1.0)
    blocks = range(0, count * BYTES, BYTES)
    total = count * BYTES
    strides = {f"{side}_{kind}_stride": BYTES for side in ("in", "out") for kind in ("row", "pixel")}
    box = {"dram_row_stride": BYTES, "dram_pixel_stride": BYTES, "sram_row_stride": BYTES, "sram_pixel_stride": BYTES}
    one = {**box, "rows": 1, "pixels": 1, "pixel_bytes": BYTES}
    loads = [instruction("LOAD", dram_addr=addr, sram_addr=addr, **one) for addr in blocks]
    copies = [
        instruction(
            "COPY", in_addr=addr, out_addr=total + addr, **strides, h=1, w=1, channels=BYTES, multiplier=multiplier,
            shift=shift, in_bits=8, out_bits=8, clamp_lo=-128, clamp_hi=127,
        )
        for addr in blocks
    ]  # fmt: skip
    store = instruction("STORE", dram_addr=total, sram_addr=total, **{**one, "rows": count})
    return [*loads, *copies, store]


@pytest.mark.parametrize("more", [-1, 0, 1, 2, 3 * isa().semaphore_maximum])
def test_no_semaphore_gets_more_tokens_than_it_holds(more: int) -> None:
    count = isa().semaphore_maximum + more
    total = count * BYTES
    program = semaphores.insert_semaphores(loads_then_copies(count), HW, 2 * total)
    dram = np.zeros(2 * total, np.uint8)
    dram[:total] = np.random.default_rng(count).integers(0, 256, total)
    check_instructions(program, HW, DramMap(dram, [(0, total)], []), ["all"])
    for mode in ("functional", "cycle"):
        code = encode(program)
        ran = np.concatenate([dram, np.frombuffer(code, np.uint8)])
        simulate(HW, code, ran, mode=mode, initialised=[(0, total)], read_only=[], program_addr=2 * total)
        np.testing.assert_array_equal(ran[total : 2 * total], dram[:total])


def test_too_many_tokens_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semaphores, "_merge_tokens", lambda *_: None)
    count = isa().semaphore_maximum + 1
    program = semaphores.insert_semaphores(loads_then_copies(count), HW, 2 * count * BYTES)
    memory = DramMap(np.zeros(2 * count * BYTES, np.uint8), [(0, count * BYTES)], [])
    with pytest.raises(CompilerFault, match="holds its maximum"):
        check_instructions(program, HW, memory, ["all"])
