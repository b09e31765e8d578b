"""Seeded faults in a compiled network: the checker, or the machine, or the outputs must show each."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from npu.check.faults import STATIC, WRONG_RESULT, Case, base_case
from qaccel.errors import CompilerFault, QaccelError
from qaccel.machine.artefact import Artefact
from qaccel.machine.hw import load_config
from qaccel.machine.interpreter.interpreter import run
from qaccel.machine.interpreter.memory import MachineError
from qaccel.machine.isa import Instruction, decode, isa
from qaccel.machine.native import library_path
from qaccel.machine.simulator import simulate
from qaccel.npu.check.program import DramMap, check_instructions, check_program
from reference.programs import random_program


@pytest.fixture(scope="module")
def base() -> Case:
    return base_case()


def checked(case: Case) -> None:
    check_instructions(case.instructions, case.artefact.hw, case.memory, case.artefact.layers, case.intent)


def interpreted(case: Case) -> bytes:
    dram = case.dram.copy()
    run(case.artefact.hw, case.program, dram, initialised=case.defined, read_only=case.read_only)
    return case.outputs(dram)


def simulated(case: Case, mode: str = "functional") -> bytes:
    try:
        library_path()
    except QaccelError as error:
        pytest.skip(str(error))
    dram = case.dram.copy()
    ranges = {"initialised": case.defined, "read_only": case.read_only, "program_addr": case.artefact.program_addr}
    simulate(case.artefact.hw, case.program, dram, mode=mode, **ranges)
    return case.outputs(dram)


def test_base_program_is_right(base: Case) -> None:
    """Each engine has work that overlaps, every layer several tiles, and all agree on the expected integers."""
    checked(base)
    assert {ins.engine for ins in base.instructions} == set(isa().engines)
    assert all(sum(ins.op == op for ins in base.instructions) > 1 for op in ("CONV", "POOL", "ELTWISE", "DEPTHWISE"))
    assert interpreted(base) == base.expected
    assert simulated(base) == simulated(base, "cycle") == base.expected


@pytest.mark.parametrize("name", STATIC)
def test_checker_finds(base: Case, name: str) -> None:
    case = base.copy()
    STATIC[name](case)
    with pytest.raises(CompilerFault, match="program check"):
        checked(case)


@pytest.mark.parametrize("name", WRONG_RESULT)
def test_outputs_show(base: Case, name: str) -> None:
    case = base.copy()
    WRONG_RESULT[name](case)
    try:
        checked(case)
    except QaccelError:
        return
    wrong = interpreted(case)
    assert wrong != base.expected
    assert simulated(case) == wrong


# Fields of which some bits change no output of this network: low bits of a scale, clamps that no value reaches, padding and
# input beyond what a window touches.
SUBTLE = {"multiplier", "b_multiplier", "clamp_lo", "clamp_hi", "pad_bottom", "pad_right", "in_h", "in_w"}


def _inert(ins: Instruction, name: str) -> bool:
    """Whether a field has no effect at all there."""
    rows, pixels = (
        max(ins.values.get(key, 1) for key in keys) for keys in (("rows", "h", "out_h"), ("pixels", "w", "out_w"))
    )
    padded = any(ins.values.get(f"pad_{side}", 0) for side in ("top", "bottom", "left", "right"))
    return (
        name == "layer"
        or (name.endswith("row_stride") and rows == 1 and not padded)
        or (name.endswith("pixel_stride") and pixels == 1 and not padded)
        or (name in ("pad_value", "pad_bits") and not padded)
        or (not ins.values.get("finish", 1) and name.startswith(("out_", "clamp", "param", "multiplier", "shift")))
    )


@pytest.mark.wide
def test_flipped_program_bits(base: Case) -> None:
    """Whatever bit of a field flips: the checker refuses, or the outputs show it, or it cannot matter."""
    rng = np.random.default_rng(1)
    size = isa().instruction_bytes
    refused = 0
    silent = []
    for _ in range(200):
        index = int(rng.integers(len(base.instructions)))
        ins = base.instructions[index]
        field = isa().formats[ins.op].fields[int(rng.integers(len(isa().formats[ins.op].fields)))]
        bit = field.offset + int(rng.integers(field.bits))
        words = bytearray(base.program)
        words[index * size + bit // 8] ^= 1 << bit % 8
        case = base.copy()
        try:
            case.instructions = decode(bytes(words))
            checked(case)
        except QaccelError:
            refused += 1
            continue
        if interpreted(case) == base.expected and not _inert(ins, field.name) and field.name not in SUBTLE:
            silent.append((index, ins.op, field.name, bit - field.offset))
    # A larger window may have the same maximum: the odd flip changes what is computed, but nothing that comes out.
    assert len(silent) <= 2, silent
    assert refused > 100


def test_flipped_artefact_bits(base: Case) -> None:
    """As a file, the program carries a checksum: every single bit is found."""
    data = base.artefact.to_bytes()
    assert Artefact.from_bytes(data, isa().version) == base.artefact
    for position in np.random.default_rng(2).integers(0, 8 * len(data), 200).tolist():
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(QaccelError):
            Artefact.from_bytes(bytes(damaged), isa().version)
    for end in (0, 3, 15, 100, len(data) - 1):
        with pytest.raises(QaccelError):
            Artefact.from_bytes(data[:end], isa().version)


def test_message_names_instruction_and_layer(base: Case) -> None:
    case = base.copy()
    index = case.find("CONV")
    case.add(index, weight_addr=1)
    with pytest.raises(QaccelError) as error:
        checked(case)
    assert f"instruction {index} (CONV, layer conv)" in str(error.value)
    assert "\n" not in str(error.value)


def _narrow_dram(case: Case) -> None:
    case.artefact = replace(case.artefact, dram_bytes=case.artefact.program_addr)


def test_artefact_that_leaves_its_dram(base: Case) -> None:
    case = base.copy()
    check_program(case.artefact, case.intent)
    _narrow_dram(case)
    with pytest.raises(QaccelError, match="DRAM"):
        check_program(case.artefact, case.intent)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda case: case.set(case.find("CONV"), weight_addr=1 << 20), "weights"),
        (lambda case: case.set(case.find("LOAD"), dram_addr=1 << 31), "dram"),
        (lambda case: case.set(case.find("LOAD"), sram_addr=1 << 23), "sram"),
    ],
)
def test_machine_refuses_what_leaves_its_memories(base: Case, fault: Callable[[Case], None], message: str) -> None:
    case = base.copy()
    fault(case)
    with pytest.raises(QaccelError, match=message):
        checked(case)
    with pytest.raises(MachineError):
        interpreted(case)
    with pytest.raises(QaccelError):
        simulated(case)


def test_accumulators_are_bounded_by_the_actual_weights() -> None:
    """A chain of convolutions that stays below the limit instruction by instruction, but not in sum."""
    for seed in range(40):
        case = random_program(seed, load_config("qaccel-64"))
        memory = DramMap(case.dram, tuple(case.initialised), tuple(case.read_only))
        check_instructions(case.instructions, case.hw, memory)
        narrow = replace(case.hw, accumulator_bits=12)
        wide = any(16 in (ins["weight_bits"], ins["in_bits"]) for ins in case.instructions if ins.op == "CONV")
        if wide:
            with pytest.raises(QaccelError, match="accumulator has 12 bits"):
                check_instructions(case.instructions, narrow, memory)


@pytest.mark.bench
def test_checker_is_quick() -> None:
    """3,000 instructions on 512 KiB of SRAM in less than 3 s."""
    import time

    case = random_program(0, load_config("qaccel-256"), steps=1200)
    instructions = case.instructions[:3000]
    begin = time.perf_counter()
    try:
        check_instructions(instructions, case.hw, DramMap(case.dram, tuple(case.initialised), tuple(case.read_only)))
    except QaccelError as error:
        assert "end of the program" in str(error)  # cut off: tokens and accumulators are left
    assert time.perf_counter() - begin < 3
