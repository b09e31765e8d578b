"""Damaged programs and weight streams: an error of one line or a result, the same again, and nothing worse."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from machine import weight_kinds
from qaccel.errors import QaccelError
from qaccel.machine.interpreter import streams
from qaccel.machine.isa import decode, isa
from qaccel.machine.simulator import simulate
from qaccel.machine.streams import DecodedStream, WeightTile, decode_stream, encode_stream
from qaccel.npu.access import with_forwarding
from reference.programs import random_program
from target.corpus import SMALL, random_artefact
from tiers import wide_after

CORPUS, MUTATIONS, STREAM_MUTATIONS = 45, 20_000, 100_000
WIDTHS_AND_RESERVED = (4, 8, 16, 32)


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


@pytest.mark.parametrize("seed", wide_after(9, range(27)))
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


@pytest.mark.parametrize("seed", wide_after(1, range(4)))
def test_damaged_streams_decode_or_fail(seed: int) -> None:
    """Bits flipped and bytes cut, mostly in the table, with a right checksum; sometimes the fields of LOADW as well."""
    rng = np.random.default_rng([seed, 7])
    ran = failed = 0
    for kind in weight_kinds.KINDS.values():
        for bits in (4, 8, 16):
            columns = int(rng.integers(1, 40))
            tile = WeightTile(kind(rng, int(rng.integers(1, 60)), columns, bits), columns, bits)
            stream = encode_stream(tile, SMALL)
            for _ in range(20):
                damaged = bytearray(stream[: len(stream) - int(rng.choice([0, 0, 0, 1, 5]))])
                for _ in range(rng.integers(0, 4)):
                    end = len(damaged) if rng.random() < 0.3 else min(len(damaged), streams.HEADER_BYTES + 40)
                    bit = int(rng.integers(0, 8 * end))
                    damaged[bit // 8] ^= 1 << bit % 8
                sealed = streams.sealed(damaged[0] % 64, WIDTHS_AND_RESERVED[damaged[0] // 64], bytes(damaged[5:]))
                count, rows = (
                    max(1, size + int(rng.choice([0, 0, 0, -1, 1, 500]))) for size in (tile.weights.size, columns)
                )
                results = [decoded(sealed, count, rows, bits) for _ in range(2)]
                assert results[0] == results[1]
                ran, failed = ran + (results[0] is not None), failed + (results[0] is None)
    assert ran > 100 and failed > 500


def decoded(stream: bytes, count: int, row_weights: int, bits: int) -> DecodedStream | None:
    """Nothing if the stream is refused."""
    try:
        return decode_stream(stream, count, row_weights, bits, SMALL)
    except QaccelError as error:
        assert re.fullmatch(r"(raw )?stream[^\n]+", str(error))
        return None


def sanitized(build: Path, target: str, repo_root: Path) -> Path:
    """One of the C++ fuzzers, built with AddressSanitizer and UndefinedBehaviorSanitizer."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    options = ["-DQACCEL_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([cmake, "-S", repo_root, "-B", build, *options], check=True, capture_output=True)
    subprocess.run([cmake, "--build", build, "--target", target, "-j", "2"], check=True, capture_output=True)
    return build / target


def test_post_stages_are_among_what_is_damaged() -> None:
    """Both kinds of instructions forward to both that take it, in many of the fuzzer's artefacts."""
    pairs: Counter[tuple[str, str]] = Counter()
    for seed in range(CORPUS):
        taken = with_forwarding(decode(random_artefact(seed).program))
        pairs += Counter((before.op, ins.op) for ins, before in taken if before is not None)
    assert set(pairs) == {(by, to) for by in ("CONV", "DEPTHWISE") for to in ("ELTWISE", "TABLE")}
    assert min(pairs.values()) >= 5


@pytest.mark.slow
def test_damaged_artefacts_under_the_sanitizers(tmp_path: Path, repo_root: Path) -> None:
    fuzzer, corpus = sanitized(tmp_path / "build", "fuzz_program", repo_root), tmp_path / "corpus"
    corpus.mkdir()
    for seed in range(CORPUS):
        (corpus / f"{seed:03d}.qaccel").write_bytes(random_artefact(seed).to_bytes())
    done = subprocess.run([fuzzer, corpus, "1", str(MUTATIONS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    ran = re.match(rf"{MUTATIONS} mutations, (\d+) still ran, (\d+) kinds of errors", done.stdout)
    assert ran and int(ran[1]) > MUTATIONS // 50 and int(ran[2]) > 60, done.stdout[:200]
    for message in ("forwarded are", "takes what is forwarded"):
        assert message in done.stdout


@pytest.mark.slow
def test_damaged_streams_under_the_sanitizers(tmp_path: Path, repo_root: Path) -> None:
    fuzzer = sanitized(tmp_path / "build", "fuzz_streams", repo_root)
    done = subprocess.run([fuzzer, "1", str(STREAM_MUTATIONS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    ran = re.match(rf"{STREAM_MUTATIONS} mutations, (\d+) still decoded, (\d+) kinds of errors", done.stdout)
    assert ran and int(ran[1]) > STREAM_MUTATIONS // 20 and int(ran[2]) >= 18, done.stdout[:200]
