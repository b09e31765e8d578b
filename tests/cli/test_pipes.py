"""What reads `tvmc` may stop reading: no error, no trace, and what was to be written is written."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import small_models
from processes import environment
from qaccel.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipes")
    onnx.save(small_models.interrupted(), folder / "model.onnx")
    assert main(["compile", str(folder / "model.onnx"), "--target=qaccel", "-o", str(folder / "m.so")]) == 0
    return folder


def into_closed_pipe(folder: Path, *arguments: str) -> tuple[int, str]:
    """(exit code, standard error) where nobody reads standard output any more."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "qaccel.cli.main", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), stdout=write, stderr=subprocess.PIPE, text=True, timeout=300
    )  # fmt: skip
    os.close(write)
    return done.returncode, done.stderr


@pytest.mark.wide
@pytest.mark.parametrize("arguments", [("inspect", "m.so"), ("--help",), ("compile", "--help")])
def test_a_closed_pipe_ends_quietly(folder: Path, arguments: tuple[str, ...]) -> None:
    assert into_closed_pipe(folder, *arguments) == (0, "")


@pytest.mark.wide
def test_compile_writes_its_module_all_the_same(folder: Path) -> None:
    code, _ = into_closed_pipe(folder, "compile", "model.onnx", "--target=qaccel", "-v", "-o", "piped.so")
    assert code == 0
    assert (folder / "piped.so").is_file()


@pytest.mark.wide
def test_a_reader_of_one_line(folder: Path) -> None:
    """As `tvmc inspect m.so | head -1`: the output is longer than any buffer in between."""
    command = [sys.executable, "-m", "qaccel.cli.main", "inspect", "m.so"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().split() == ["model", "model"]
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0
