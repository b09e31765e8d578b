"""The simulator against the reference interpreter: random programs, the whole of DRAM, nothing off by anything."""

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qaccel.errors import QaccelError
from qaccel.machine.interpreter.interpreter import run
from qaccel.machine.interpreter.memory import MachineError
from qaccel.machine.isa import decode, isa
from qaccel.machine.native import library_path
from qaccel.machine.simulator import simulate
from qaccel.npu.check.program import DramMap, check_instructions
from reference.programs import PAIRS, RandomProgram, random_program
from tiers import wide_after

COUNT = 360  # a multiple of the nine width pairs and the three configs
CHUNK = 45


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    try:
        library_path()
    except QaccelError as error:
        pytest.skip(str(error))


def interpreted(case: RandomProgram, seed: int | None) -> np.ndarray:
    dram = case.dram.copy()
    run(case.hw, case.program, dram, initialised=case.initialised, read_only=case.read_only, seed=seed)
    return dram


def simulated(case: RandomProgram, mode: str) -> np.ndarray:
    dram = case.dram.copy()
    ranges = {"initialised": case.initialised, "read_only": case.read_only, "program_addr": case.program_addr}
    simulate(case.hw, case.program, dram, mode=mode, **ranges)
    return dram


def check_seed(seed: int) -> None:
    """One program: checker, interpreter in two orders, simulator in both modes."""
    case = random_program(seed)
    check_instructions(case.instructions, case.hw, DramMap(case.dram, tuple(case.initialised), tuple(case.read_only)))
    expected = interpreted(case, None)
    assert not np.array_equal(expected, case.dram), "the program stores nothing"
    np.testing.assert_array_equal(interpreted(case, seed), expected, "another order of the engines")
    for mode in ("functional", "cycle"):
        np.testing.assert_array_equal(simulated(case, mode), expected, mode)


def check_seeds(begin: int, end: int) -> None:
    for seed in range(begin, end):
        try:
            check_seed(seed)
        except Exception as error:
            raise AssertionError(f"random program {seed}") from error


@pytest.mark.parametrize("begin", wide_after(1, range(0, COUNT, CHUNK)))
def test_random_programs(begin: int) -> None:
    check_seeds(begin, begin + CHUNK)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(9))
def test_many_random_programs(part: int) -> None:
    each = -(-int(os.environ.get("QACCEL_PROGRAM_CASES", "9000")) // 9)
    check_seeds(COUNT + part * each, COUNT + (part + 1) * each)


def outcome(action: Callable[[], np.ndarray]) -> tuple[np.ndarray | None, str]:
    """DRAM after the run, or the error."""
    try:
        return action(), ""
    except (QaccelError, MachineError) as error:
        return None, str(error)


def flip_bit(case: RandomProgram, rng: np.random.Generator) -> tuple[RandomProgram, bool]:
    """One bit of program or constants is another one; and whether the manual leaves open if that bit matters.

    It does for fields of the output where ``finish`` is 0: the simulator looks at them only where they are used.
    """
    words, dram = bytearray(case.program), case.dram.copy()
    size = isa().instruction_bytes
    begin, end = case.read_only[0]
    if rng.random() < 0.2 and end > begin:
        dram[rng.integers(begin, end)] ^= 1 << int(rng.integers(8))
        return replace(case, dram=dram), False
    index = int(rng.integers(len(case.instructions)))
    ins = case.instructions[index]
    used = isa().formats[ins.op].bits
    bit = int(rng.integers(used if rng.random() < 0.95 else 8 * size))
    words[index * size + bit // 8] ^= 1 << bit % 8
    name = next((f.name for f in isa().formats[ins.op].fields if f.offset <= bit < f.offset + f.bits), "")
    unused = not ins.values.get("finish", 1) and name in ("out_bits", "out_zero_point", "clamp_lo", "clamp_hi")
    dram[case.program_addr :] = np.frombuffer(bytes(words), np.uint8)
    return replace(case, dram=dram), unused


def check_damage(seed: int) -> None:
    """One bit wrong: checker, interpreter and simulator agree on whether it is an error, and on the result if not."""
    case, unclear = flip_bit(random_program(seed, steps=4), np.random.default_rng([seed, 1]))
    memory = DramMap(case.dram, tuple(case.initialised), tuple(case.read_only))
    words = case.dram[case.program_addr :].tobytes()

    def interpreter() -> np.ndarray:
        dram = case.dram.copy()
        run(case.hw, words, dram, initialised=case.initialised, read_only=case.read_only)
        return dram

    def simulator(mode: str) -> np.ndarray:
        dram = case.dram.copy()
        ranges = {"initialised": case.initialised, "read_only": case.read_only, "program_addr": case.program_addr}
        simulate(case.hw, words, dram, mode=mode, **ranges)
        return dram

    def checker() -> np.ndarray:
        check_instructions(decode(words), case.hw, memory)
        return case.dram

    expected, reference_error = outcome(interpreter)
    _, checker_error = outcome(checker)
    for mode in ("functional", "cycle"):
        result, error = outcome(lambda mode=mode: simulator(mode))
        assert checker_error or not error, f"{mode}: {error}, which the checker passed"
        if not error and not reference_error:
            np.testing.assert_array_equal(result, expected, mode)
        # The interpreter runs one order and sees no race.
        agree = bool(error) == bool(reference_error) or "race" in error
        assert agree or unclear, f"{mode}: {error or 'no error'}; interpreter: {reference_error or 'no error'}"
    assert checker_error or not reference_error, f"{reference_error}, which the checker passed"


def check_damages(begin: int, end: int) -> None:
    for seed in range(begin, end):
        try:
            check_damage(seed)
        except Exception as error:
            raise AssertionError(f"damaged program {seed}: {error}") from error


@pytest.mark.parametrize("begin", wide_after(1, range(0, COUNT, CHUNK)))
def test_damaged_programs(begin: int) -> None:
    check_damages(begin, begin + CHUNK)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(9))
def test_many_damaged_programs(part: int) -> None:
    each = -(-int(os.environ.get("QACCEL_PROGRAM_CASES", "9000")) // 9)
    check_damages(COUNT + part * each, COUNT + (part + 1) * each)


def test_programs_cover_the_instruction_set() -> None:
    """Every width pair as often as any other; every operation, source, kind, chain and kind of view occurs."""
    seen: dict[str, int] = {}
    pairs = dict.fromkeys(PAIRS, 0)
    for seed in range(90):
        for ins in random_program(seed).instructions:
            facts = [ins.op, *(f"{key}={ins[key]}" for key in ("kind", "source") if key in ins.values)]
            if ins.op in ("CONV", "DEPTHWISE", "POOL"):
                facts += [f"{ins.op} accumulate"] * ins["accumulate"]
                facts += [f"{ins.op} out {ins['out_bits']}"] * ins["finish"]
            if ins.op == "CONV":
                pairs[ins["weight_bits"], ins["in_bits"]] += 1
            if ins.op == "ELTWISE":
                facts += ["b_scalar"] * ins["b_scalar"] + ["in place"] * (ins["in_addr"] == ins["out_addr"])
                facts += ["repeats a row"] * (ins["b_row_stride"] == 0)
            if ins.op == "LOAD" and ins["pad_left"]:
                facts.append(f"pad {ins['pad_bits']}")
            for fact in facts:
                seen[fact] = seen.get(fact, 0) + 1
    wanted = ["LOAD_RAW", "STORE", "COPY", "TABLE", "source=dram", "source=sram", "pad 4", "pad 8", "pad 16"]
    wanted += [f"kind={kind}" for kind in ("max", "sum", "add", "sub", "mul", "min")]
    wanted += [f"{op} accumulate" for op in ("CONV", "DEPTHWISE", "POOL")] + ["b_scalar", "in place", "repeats a row"]
    wanted += [f"{op} out {bits}" for op in ("CONV", "DEPTHWISE", "POOL") for bits in (4, 8, 16)]
    assert [fact for fact in wanted if seen.get(fact, 0) < 2] == []
    assert min(pairs.values()) >= 10
