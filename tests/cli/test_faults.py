"""Faults of the compiler end with 3 and one line; -v and -vv say what happens."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import small_models
from processes import run_python
from qaccel.cli.main import main
from qaccel.errors import one_line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: model.onnx, calibration.npz, inputs.npz."""
    model = small_models.chain()
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "calibration.npz", **small_models.samples(model))
    np.savez(tmp_path / "inputs.npz", **small_models.samples(model, 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good module of the same model."""
    place = tmp_path_factory.mktemp("compiled")
    onnx.save(small_models.chain(), place / "model.onnx")
    assert main(["compile", str(place / "model.onnx"), "--target=qaccel", "-o", str(place / "module.so")]) == 0
    return place / "module.so"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


LOAD_EACH = """
import sys, qaccel
for path in sys.argv[1:]:
    try:
        qaccel.load(path)
    except qaccel.errors.QaccelError as error:
        print(error)
"""


@pytest.mark.wide
def test_module_that_is_cut_off(folder, compiled):
    """The system's loader would die of it: in a process of its own, so that this would be seen."""
    data = compiled.read_bytes()
    names = []
    for size in (10, 63, 64, 5000, len(data) // 2, len(data) - 1):
        names.append(f"cut{size}.so")
        (folder / names[-1]).write_bytes(data[:size])
    lines = run_python(LOAD_EACH, folder, *names).splitlines()
    assert [line.split("'")[1] for line in lines] == names
    assert all("is cut off at" in line for line in lines)


def test_verbose_adds_the_trace(folder, capfd):
    assert main(["compile", "nothing.onnx", "--target=qaccel", "-v"]) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: ")


REPORT = "this is a fault of qaccel: run again with -v and report the trace together with the model and the command"


@pytest.mark.parametrize(
    ("place", "stage", "arguments"),
    [
        ("qaccel.pipeline.partition", "partition", ["compile", "model.onnx", "--target=qaccel"]),
        (
            "qaccel.cli.verbs.compile._print_notes",
            "compile",
            ["compile", "model.onnx", "--target=llvm", "-o", "{new}.so"],
        ),
        ("qaccel.run.execute.check_inputs", "run", ["run", "{module}", "--inputs", "inputs.npz"]),
        ("qaccel.networks.execute.load", "load", ["run", "{module}", "--inputs", "inputs.npz"]),
        ("qaccel.run.evaluate.evaluate", "evaluate", ["evaluate", "{module}", "--data", "labelled.npz"]),
        ("qaccel.cli.verbs.inspect._memory", "inspect", ["inspect", "{module}"]),
        (
            "qaccel.frontend.import_model.import_model",
            "import",
            ["tune", "model.onnx", "--target=llvm", "-o", "records"],
        ),
    ],
)
def test_fault_of_the_compiler(folder, compiled, capfd, monkeypatch, tmp_path_factory, place, stage, arguments):
    """Whatever goes wrong inside a verb gives one line and exit 3; with -v its trace, too."""

    def broken(*_, **__):
        raise ZeroDivisionError("oops\nand more")

    samples = small_models.samples(small_models.chain(), 4)
    np.savez(folder / "labelled.npz", **samples, labels=np.zeros(4, np.int64))
    new = tmp_path_factory.mktemp("new") / "new"
    arguments = [each.format(module=compiled, new=new) for each in arguments]
    before = tree(folder)
    monkeypatch.setattr(place, broken)
    capfd.readouterr()
    assert main(arguments) == 3
    out, err = capfd.readouterr()
    assert err == f"error: internal error in the stage '{stage}': ZeroDivisionError: oops and more; {REPORT}\n"
    assert "written: " not in out
    assert tree(folder) == before
    assert main([*arguments, "-v"]) == 3
    err = capfd.readouterr().err
    assert "ZeroDivisionError: oops" in err.split("error: internal error")[0] and "Traceback" in err


def test_a_program_that_the_checker_refuses_is_a_fault(folder, capfd, monkeypatch):
    """The finding is not the user's to mend: exit 3, in the stage that made the program."""
    monkeypatch.setattr("qaccel.npu.check.program.first_fault", lambda *_: "is never legal")
    assert main(["compile", "model.onnx", "--target=qaccel", "-o", "out.so"]) == 3
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: internal error in the stage 'codegen': program check: instruction 0 (")
    assert line.endswith(f"): is never legal; {REPORT}")
    assert not (folder / "out.so").exists()


def test_verbose_says_what_happens(folder, capfd):
    """-v the stages with their seconds, -vv what was decided and why; the next command is silent again."""
    assert main(["compile", "model.onnx", "--target=qaccel", "-o", "a.so", "-v"]) == 0
    err = capfd.readouterr().err
    stages = [line.split(": ")[1] for line in err.splitlines() if line.startswith("qaccel.stages: ")]
    assert stages == ["import", "calibrate", "quantize", "partition", "codegen", "profile", "link"]
    assert "conv1: tile" not in err
    assert main(["compile", "model.onnx", "--target=qaccel", "-o", "a.so", "-vv"]) == 0
    err = capfd.readouterr().err
    assert "qaccel.stages: import: begins" in err and "qaccel.npu.codegen: conv1: tile " in err
    assert main(["compile", "model.onnx", "--target=qaccel", "-o", "a.so"]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("inputs of node:\nname: n\n are not  there", "inputs of node: name: n are not there"),
        ('Traceback:\n  File "a.cc", line 1\n    f(x)\nTypeError: x', "TypeError: x"),
        ("x" * 1000, "x" * 300),
        ("", "ValueError"),
    ],
)
def test_what_another_library_says_in_one_line(text, line):
    assert one_line(ValueError(text)) == line
