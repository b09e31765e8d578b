"""Every wrong use gives its exit code and one line with a way out, and leaves nothing behind."""

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qaccel
import small_models
from cli.wrong_uses import COMMANDS, PYTHON, Place, files
from processes import environment
from qaccel.cli.main import main
from qaccel.cpu.compile import compile_cpu

# How a line says what to do, or what would have been right.
WAY_OUT = re.compile(
    r"\b(give|add|drop|use|choose|must|copy|compile|export|create|name|need(ed)?|expected|remove|run|send|make room|tvmc tune|numpy\.savez|"
    r"did you mean|one of|none of|such as|it has|it knows|keys are|inputs are|passes are|the verbs are|check|accelerator has|"
    r"classes 0 to|is a file|it must)\b"
)
LONGEST_LINE = 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    files(folder)
    return folder


@pytest.fixture(scope="module")
def place() -> Place:
    proto = small_models.chain()
    network = qaccel.quantize(proto, calibration_data=small_models.samples(proto))
    return Place(proto, network, qaccel.compile(network), small_models.samples(proto, 8)["x"])


@pytest.fixture(autouse=True)
def _nothing_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    before = tree(folder)
    yield
    assert tree(folder) == before


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    stats = {path: path.stat() for path in folder.rglob("*")}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def check_line(line: str, says: tuple[str, ...]) -> None:
    for text in says:
        assert text in line
    assert WAY_OUT.search(line), line
    assert "internal error" not in line and "array(" not in line
    assert len(line) <= LONGEST_LINE, line


def check_error(err: str, code: int, says: tuple[str, ...]) -> None:
    """One line, after the usage where it was that."""
    *before, line = err.splitlines()
    if code == 2:
        assert before[0].startswith("usage: tvmc") and all(each.startswith(" ") for each in before[1:]), err
        assert re.match(r"tvmc( \w+)?: error: ", line)
        for text in says:
            assert text in line
    else:
        assert before == [], err
        assert line.startswith("error: ")
        check_line(line, says)


def test_there_are_a_hundred():
    assert len(COMMANDS) + len(PYTHON) >= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    line, wanted, says = COMMANDS[name]
    capfd.readouterr()
    try:
        code = main(shlex.split(line.format(so="module.so")))
    except SystemExit as stop:
        code = stop.code
    out, err = capfd.readouterr()
    assert code == wanted, out + err
    assert "written" not in out
    check_error(err, code, says)


@pytest.mark.parametrize("name", PYTHON)
def test_python(name: str, place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    call, says = PYTHON[name]
    with pytest.raises(qaccel.UserError) as caught:
        call(place)
    (line,) = str(caught.value).splitlines()
    check_line(line, says)
    assert capfd.readouterr() == ("", "")


def in_a_process(folder: Path, *arguments: str, **how) -> tuple[int, str]:
    """(exit code, standard error) of tvmc in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "qaccel.cli.main", *arguments], cwd=folder, stderr=subprocess.PIPE, text=True, timeout=300,
        env=environment(folder.parent), **how,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.wide
def test_a_triple_that_llvm_would_die_of(folder: Path) -> None:
    code, err = in_a_process(folder, "compile", "model.onnx", "--target", "llvm -mtriple=foo-bar", "-o", "out.tar")
    assert code == 1
    check_error(err, 1, ("'foo'", "it knows"))


@pytest.mark.wide
@pytest.mark.parametrize("arguments", [("inspect", "module.so"), ("run", "module.so"), ("--help",)])
def test_standard_output_is_full(folder: Path, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        code, err = in_a_process(folder, *arguments, stdout=full)
    assert code == 1
    check_error(err, 1, ("No space left on device", "send it elsewhere"))


@pytest.mark.wide
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "module.so", "-o", "out.npz"), ("module 'module.so' needs a copy", "make room there")),
        (("compile", "model.onnx", "--target=qaccel", "-o", "out.so"), ("output 'out.so'", "make room")),
    ],
)
def test_the_disk_is_full(folder: Path, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    """As far as a process can be kept from writing: to files of no byte."""

    def no_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    code, err = in_a_process(folder, *arguments, stdout=subprocess.PIPE, preexec_fn=no_bytes)
    assert code == 1
    check_error(err, 1, says)


@pytest.mark.wide
@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_descriptor_is_no_fault(folder: Path, closed: int) -> None:
    command = f"{sys.executable} -m qaccel.cli.main run module.so {closed}>&-"
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment(folder.parent), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("fails", [False, True])
def test_what_libraries_write_is_dropped_beside_an_error_alone(
    fails: bool, folder: Path, tmp_path: Path, capfd, monkeypatch
) -> None:
    def noisy(mod, *_):
        os.write(2, b"a library's warning\n")
        if fails:
            raise qaccel.UserError("what is wrong; use another")
        return compile_cpu(mod, *_)

    monkeypatch.setattr("qaccel.link.compile_cpu", noisy)
    code = main(["compile", "model.onnx", "--target=llvm", "-o", str(tmp_path / "m.tar")])
    assert (code, capfd.readouterr().err) == (
        (1, "error: what is wrong; use another\n") if fails else (0, "a library's warning\n")
    )


def test_run_without_inputs_fills_them_the_same_way_each_time(folder: Path, capfd) -> None:
    shown = []
    for _ in range(2):
        assert main(["run", "module.so"]) == 0
        shown.append(capfd.readouterr().out)
    assert shown[0] == shown[1]
    note, line = shown[0].splitlines()
    assert note == "note: no --inputs: x filled at random (seed 0); the outputs mean nothing"
    values = np.fromstring(line.split("[[")[1].rstrip("]"), sep=",")
    assert line.startswith("y float32 [1, 10]") and values.std() > 0.1


def test_a_range_below_zero_needs_no_equals_sign(folder: Path, capfd, tmp_path: Path) -> None:
    for given in (["--input-range", "-3,3"], ["--input-range=-3,3"]):
        assert main(["compile", "model.onnx", "--target=qaccel", "-o", str(tmp_path / "m.so"), *given]) == 0
        assert "synthetic inputs in -3..3" in capfd.readouterr().out
