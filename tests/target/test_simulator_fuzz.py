"""Damaged programs: an error of one line or a result, the same in both modes, and nothing worse."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qaccel.errors import QaccelError
from qaccel.isa import isa
from qaccel.run.simulator import simulate
from reference.programs import random_program
from target.corpus import SMALL, random_artefact

CORPUS, MUTATIONS = 45, 20_000


def outcome(program: bytes, case, mode: str) -> tuple[bool, bytes]:
    """Whether it ran, and DRAM afterwards."""
    dram = case.dram.copy()
    try:
        simulate(
            case.hw, program, dram, mode=mode, initialised=case.initialised, read_only=case.read_only,
            program_addr=case.program_addr,
        )  # fmt: skip
    except QaccelError as error:
        assert re.fullmatch(r"machine error: [^\n]+", str(error))
        return False, b""
    return True, dram.tobytes()


@pytest.mark.parametrize("seed", range(27))
def test_flipped_bits_end_alike_in_both_modes(seed: int) -> None:
    """Bits of fields that the instruction has, so that most get past the decoder."""
    case = random_program(seed, SMALL, steps=3)
    rng = np.random.default_rng([seed, 99])
    size = isa().instruction_bytes
    for _ in range(40):
        program = bytearray(case.program)
        for _ in range(rng.integers(1, 3)):
            index = rng.integers(len(case.instructions))
            bit = rng.integers(8, isa().formats[case.instructions[index].op].bits)
            program[index * size + bit // 8] ^= 1 << (bit % 8)
        assert outcome(bytes(program), case, "functional") == outcome(bytes(program), case, "cycle")


@pytest.mark.slow
def test_damaged_artefacts_under_the_sanitizers(tmp_path: Path, repo_root: Path) -> None:
    """The C++ fuzzer, built with AddressSanitizer and UndefinedBehaviorSanitizer."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    build, corpus = tmp_path / "build", tmp_path / "corpus"
    options = ["-DQACCEL_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([cmake, "-S", repo_root, "-B", build, *options], check=True, capture_output=True)
    subprocess.run([cmake, "--build", build, "--target", "fuzz_program", "-j", "2"], check=True, capture_output=True)
    corpus.mkdir()
    for seed in range(CORPUS):
        (corpus / f"{seed:03d}.qaccel").write_bytes(random_artefact(seed).to_bytes())
    done = subprocess.run([build / "fuzz_program", corpus, "1", str(MUTATIONS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    ran = re.match(rf"{MUTATIONS} mutations, (\d+) still ran, (\d+) kinds of errors", done.stdout)
    assert ran and int(ran[1]) > MUTATIONS // 50 and int(ran[2]) > 60, done.stdout[:200]
