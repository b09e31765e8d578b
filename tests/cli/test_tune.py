"""tvmc tune and --tuning-records: on good input, and one line for what is wrong."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from qaccel.cli.main import main
from schedules.test_float import one_node


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    weight = np.random.default_rng(0).standard_normal((16, 4, 1, 1), dtype=np.float32)
    onnx.save(one_node("Conv", [(1, 4, 6, 6)], [weight]), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(arguments))
    return code, *capfd.readouterr()


@pytest.mark.wide
def test_tune_goes_on_and_compile_takes_the_records(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for trials in ("2", "4"):
        code, out, err = run(capfd, "tune", "model.onnx", "--target", "llvm", "-o", "records", "--trials", trials)
        assert (code, err) == (0, "") and out.startswith(f"{trials} measurements of 1 functions")
    code, out, _ = run(
        capfd, "compile", "model.onnx", "--target", "llvm", "--tuning-records", "records", "-o", "m.so", "-v"
    )
    assert code == 0 and "by record, TilePlan(" in out and ": node" in out
    code, out, _ = run(capfd, "compile", "model.onnx", "--target", "llvm", "-o", "m.so", "-v")
    assert code == 0 and "by rule, TilePlan(" in out
    assert "compiled for this machine's CPU" in out


@pytest.mark.wide
def test_integers_are_tuned_too(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bits = ("--target", "llvm", "--bits", "W4A8")
    code, out, err = run(capfd, "tune", "model.onnx", *bits, "-o", "records", "--trials", "3")
    assert (code, err) == (0, "") and out.startswith("3 measurements of 1 functions")
    np.savez(folder / "x.npz", x0=np.random.default_rng(1).standard_normal((1, 4, 6, 6), dtype=np.float32))
    outputs = []
    for records in (("--tuning-records", "records"), ()):
        code, out, _ = run(capfd, "compile", "model.onnx", *bits, *records, "-o", f"m{len(records)}.so", "-v")
        assert code == 0 and "schedule: conv2d_node: by r" in out and "ConvPlan(" in out
        code, *_ = run(capfd, "run", f"m{len(records)}.so", "--inputs", "x.npz", "--outputs", f"y{len(records)}.npz")
        outputs.append(next(iter(np.load(f"y{len(records)}.npz").values())))
    np.testing.assert_array_equal(*outputs)


def test_a_foreign_triple_gives_a_tar(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "compile", "model.onnx", "--target", "llvm -mtriple=aarch64-linux-gnu", "-o", "m.tar")
    assert (code, err) == (0, "") and (folder / "m.tar").stat().st_size > 0 and "note" not in out


TUNE = ("tune", "model.onnx", "-o", "records", "--target")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*TUNE, "llvm", "--trials", "0"), "--trials 0: must be a whole number, at least 1"),
        ((*TUNE, "llvm", "--trials", "-3"), "--trials -3"),
        (
            (*TUNE, "llvm", "--rpc-tracker", "127.0.0.1:1", "--rpc-key", "k"),
            "the tracker 127.0.0.1:1 cannot be reached",
        ),
        ((*TUNE, "llvm", "--rpc-tracker", "localhost", "--rpc-key", "k"), "must have the form HOST:PORT"),
        ((*TUNE, "llvm", "--rpc-tracker", "localhost:9190"), "belong together"),
        ((*TUNE, "qaccel"), "only the CPU's part is tuned"),
        ((*TUNE, "llvm -mtriple=aarch64-linux-gnu"), "does not run here"),
        ((*TUNE, "llvm -mattr=+nonsense"), "no CPU feature 'nonsense'"),
        (("compile", "model.onnx", "--target", "llvm", "--tuning-records", "nowhere"), "'nowhere' holds no records"),
    ],
)
def test_what_is_wrong_takes_one_line(
    folder: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    code, out, err = run(capfd, *arguments)
    assert code == 1 and "written" not in out
    (line,) = err.splitlines()
    assert line.startswith("error: ") and says in line
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx"]
