"""Bad input gives one line on standard error and exit 1, and leaves nothing behind."""

import json
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import small_models
from processes import run_python
from qaccel.cli.main import main
from qaccel.machine.hw import target_dir


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


def fails(capfd: pytest.CaptureFixture[str], folder: Path, arguments: list[str], *says: str) -> None:
    before = tree(folder)
    capfd.readouterr()
    code = main(arguments)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert code == 1, out + err
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert "internal error" not in lines[0]
    for text in says:
        assert text in lines[0]
    assert "written" not in out
    assert tree(folder) == before


OUTPUTS = [
    "-o",
    "out.so",
    "--report",
    "report",
    "--emit-program",
    "program",
    "--emit-qdq",
    "qdq.onnx",
    "--dump-code",
    "relax,asm",
]
COMPILE = ["compile", "model.onnx", "--target=qaccel", *OUTPUTS]


def test_model_is_missing(folder, capfd):
    fails(capfd, folder, ["compile", "nothing.onnx", "--target=qaccel", *OUTPUTS], "nothing.onnx")


@pytest.mark.parametrize("target", ["qaccel", "llvm"])
@pytest.mark.parametrize("contents", [b"", b"hello, this is no model", bytes(range(256)) * 8])
def test_not_an_onnx_file(folder, capfd, contents, target):
    (folder / "model.onnx").write_bytes(contents)
    fails(capfd, folder, ["compile", "model.onnx", f"--target={target}", "-o", "out.so"], "model.onnx")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_truncated_model(folder, capfd, share):
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: int(share * len(data))])
    fails(capfd, folder, COMPILE)


def test_unsupported_operator(folder, capfd):
    model = small_models.chain()
    model.graph.node[1].op_type = "Bernoulli"
    onnx.save(model, folder / "model.onnx")
    fails(capfd, folder, COMPILE, "relu1", "Bernoulli")


def test_operator_of_another_domain(folder, capfd):
    model = small_models.chain()
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, folder / "model.onnx")
    fails(capfd, folder, COMPILE, "com.example")


@pytest.mark.parametrize("version", [1, 999])
def test_unsupported_opset(folder, capfd, version):
    model = small_models.chain()
    model.opset_import[0].version = version
    onnx.save(model, folder / "model.onnx")
    fails(capfd, folder, COMPILE, "opset", str(version))


def test_wrong_input_shapes(folder, capfd):
    fails(capfd, folder, [*COMPILE, "--input-shapes", "y:[1,3,16,16]"], "y")
    fails(capfd, folder, [*COMPILE, "--input-shapes", "x:[1,5,16,16]"], "x")


CALIBRATION = {
    "name": ({"image": np.zeros((4, 3, 16, 16), np.float32)}, "'x'"),
    "second name": ({"x": np.zeros((4, 3, 16, 16), np.float32), "z": np.zeros(4)}, "'z'"),
    "shape": ({"x": np.zeros((4, 3, 16, 17), np.float32)}, "17"),
    "rank": ({"x": np.zeros((4, 768), np.float32)}, "768"),
    "text": ({"x": np.full((4, 3, 16, 16), "a")}, "x"),
    "complex": ({"x": np.zeros((4, 3, 16, 16), np.complex64)}, "complex64"),
    "empty": ({"x": np.zeros((0, 3, 16, 16), np.float32)}, "x"),
    "NaN": ({"x": np.full((4, 3, 16, 16), np.nan, np.float32)}, "x"),
    "infinite": ({"x": np.full((4, 3, 16, 16), np.inf, np.float32)}, "x"),
}


@pytest.mark.parametrize("case", CALIBRATION)
def test_calibration_data(folder, capfd, case):
    arrays, says = CALIBRATION[case]
    np.savez(folder / "calibration.npz", **arrays)
    fails(capfd, folder, [*COMPILE, "--calibration-data", "calibration.npz"], says)


def test_calibration_data_is_no_archive(folder, capfd):
    (folder / "calibration.npz").write_bytes(b"PK\x03\x04 but no more")
    fails(capfd, folder, [*COMPILE, "--calibration-data", "calibration.npz"], "calibration.npz")
    fails(capfd, folder, [*COMPILE, "--calibration-data", "missing.npz"], "missing.npz")
    (folder / "images").mkdir()
    fails(capfd, folder, [*COMPILE, "--calibration-data", "images"], "images")


def test_flags_that_do_not_fit(folder, capfd):
    fails(capfd, folder, [*COMPILE, "--preprocess", "mean=1"], "--preprocess")
    fails(capfd, folder, [*COMPILE, "--calibration", "magic"], "--calibration", "magic")
    fails(capfd, folder, [*COMPILE, "--bits", "W8A5"], "--bits")
    fails(capfd, folder, [*COMPILE, "--bits", "auto"], "--bits")
    fails(capfd, folder, [*COMPILE, "--input-range", "1"], "--input-range")
    fails(capfd, folder, [*COMPILE, "--dump-code", "ptx"], "ptx")
    fails(capfd, folder, ["compile", "model.onnx", "--target=vulkan", "-o", "out.so"], "vulkan")
    fails(capfd, folder, ["compile", "model.onnx", "--target=llvm -mcpu=i8086", "-o", "out.so"], "i8086")
    fails(capfd, folder, ["compile", "model.onnx", "--target=llvm", "--input-range=0,1", "-o", "out.so"], "add --bits")
    fails(capfd, folder, ["compile", "model.onnx", "--target=llvm", "--emit-qdq=q.onnx", "-o", "out.so"], "--emit-qdq")
    fails(capfd, folder, ["compile", "model.onnx", "--target=llvm", "--report=r", "-o", "out.so"], "--report")
    fails(capfd, folder, ["compile", "model.onnx", "--target=qaccel", "-o", "out.onnx"], ".so or .tar")


def test_plan_with_an_unknown_node(folder, capfd):
    (folder / "plan.json").write_text(json.dumps({"conv9": {"weight_bits": 8, "activation_bits": 8}}))
    fails(capfd, folder, [*COMPILE, "--bits", "plan.json"], "conv9")


CONFIG = (target_dir() / "configs" / "qaccel-64.toml").read_text()


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ("rows = = 8", "TOML"),
        ("name = 'x'", "missing"),
        (CONFIG + "\nflux_capacitors = 3\n", "flux_capacitors"),
        (CONFIG.replace("rows = 8", "rows = 7"), "rows"),
        (CONFIG.replace("rows = 8", "rows = -8"), "rows"),
        (CONFIG.replace("rows = 8", 'rows = "8"'), "rows"),
    ],
)
def test_malformed_config(folder, capfd, contents, says):
    (folder / "mine.toml").write_text(contents)
    arguments = ["compile", "model.onnx", "--target=qaccel -config=mine.toml", *OUTPUTS]
    fails(capfd, folder, arguments, "mine.toml", says)


def test_no_such_config(folder, capfd):
    fails(capfd, folder, ["compile", "model.onnx", "--target=qaccel -config=qaccel-7", *OUTPUTS], "qaccel-7")


def test_output_cannot_be_written(folder, capfd):
    (folder / "file").write_text("")
    fails(capfd, folder, ["compile", "model.onnx", "--target=qaccel", "-o", "missing/out.so"], "missing")
    fails(capfd, folder, ["compile", "model.onnx", "--target=qaccel", "-o", "file/out.so"], "file")
    for flag in ("--report", "--emit-program", "--emit-qdq"):
        fails(
            capfd,
            folder,
            ["compile", "model.onnx", "--target=qaccel", "-o", "out.so", flag, "file/deeper"],
            flag,
            "file",
        )


def test_output_in_a_folder_without_permission(folder, capfd):
    fails(capfd, folder, ["compile", "model.onnx", "--target=qaccel", "-o", "/proc/out.so"], "/proc")


RUN = {
    "name": ({"image": np.zeros((1, 3, 16, 16), np.float32)}, "'x'"),
    "shape": ({"x": np.zeros((1, 3, 16, 17), np.float32)}, "17"),
    "dtype": ({"x": np.full((1, 3, 16, 16), "a")}, "x"),
    "NaN": ({"x": np.full((1, 3, 16, 16), np.nan, np.float32)}, "x"),
}


@pytest.mark.parametrize("case", RUN)
def test_run_data(folder, compiled, capfd, case):
    arrays, says = RUN[case]
    np.savez(folder / "inputs.npz", **arrays)
    fails(capfd, folder, ["run", str(compiled), "--inputs", "inputs.npz", "--outputs", "outputs.npz"], says)


def test_run_places(folder, compiled, capfd):
    module = str(compiled)
    fails(capfd, folder, ["run", module, "--inputs", "missing.npz", "--outputs", "outputs.npz"], "missing.npz")
    fails(capfd, folder, ["run", module, "--inputs", "inputs.npz", "--outputs", "missing/outputs.npz"], "missing")
    fails(capfd, folder, ["run", module, "--inputs", "inputs.npz", "--outputs", "outputs.txt"], "outputs.txt")
    fails(capfd, folder, ["run", module, "--inputs", "inputs.npz", "--repeat", "0"], "--repeat")


def test_module_is_not_one(folder, capfd):
    (folder / "text.so").write_text("no library")
    (folder / "text.tar").write_text("no archive")
    for name in ("missing.so", "text.so", "text.tar", "model.onnx"):
        for verb in (
            ["run", name, "--inputs", "inputs.npz"],
            ["inspect", name],
            ["evaluate", name, "--data", "inputs.npz"],
        ):
            fails(capfd, folder, verb, name)


def test_damaged_program_in_a_module(folder, compiled, capfd):
    """The artefact's checksum finds a byte that was changed."""
    data = bytearray(compiled.read_bytes())
    at = data.index(b"QACC") + 1000
    data[at] ^= 0x40
    (folder / "damaged.so").write_bytes(data)
    fails(capfd, folder, ["run", "damaged.so", "--inputs", "inputs.npz"], "damaged.so")


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


def test_module_of_another_version(folder, compiled, capfd):
    """Both of the accelerator's own container and of the module as a whole."""
    data = bytearray(compiled.read_bytes())
    struct.pack_into("<I", data, data.index(b"QACC") + 4, 77)
    (folder / "container.so").write_bytes(data)
    fails(capfd, folder, ["run", "container.so", "--inputs", "inputs.npz"], "container.so", "77")
    data = compiled.read_bytes()
    assert data.count(b'{"format": 1,') == 1
    (folder / "format.so").write_bytes(data.replace(b'{"format": 1,', b'{"format": 7,'))
    fails(capfd, folder, ["run", "format.so", "--inputs", "inputs.npz"], "format.so", "7", "compile the model again")


def test_evaluate_data(folder, compiled, capfd):
    module = str(compiled)
    samples = small_models.samples(small_models.chain(), 4)

    def fails_on(arrays, *says):
        np.savez(folder / "labelled.npz", **arrays)
        fails(capfd, folder, ["evaluate", module, "--data", "labelled.npz"], *says)

    fails_on(samples, "labels")
    fails_on({**samples, "labels": np.zeros(3, np.int64)}, "3 labels for 4")
    fails_on({**samples, "labels": np.zeros(4)}, "float64")
    fails_on({**samples, "labels": np.full(4, 10)}, "classes 0 to 9")
    np.savez(folder / "labelled.npz", **samples, labels=np.zeros(4, np.int64))
    other = small_models.several()
    onnx.save(other, folder / "other.onnx")
    fails(capfd, folder, ["evaluate", module, "--data", "labelled.npz", "--reference", "other.onnx"], "x")


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
        ("qaccel.cli.compile._print_notes", "compile", ["compile", "model.onnx", "--target=llvm", "-o", "{new}.so"]),
        ("qaccel.run.execute.check_inputs", "run", ["run", "{module}", "--inputs", "inputs.npz"]),
        ("qaccel.api.execute.load", "load", ["run", "{module}", "--inputs", "inputs.npz"]),
        ("qaccel.api.evaluate", "evaluate", ["evaluate", "{module}", "--data", "labelled.npz"]),
        ("qaccel.cli.inspect._memory", "inspect", ["inspect", "{module}"]),
        ("qaccel.frontend.import_model.import_model", "tune", ["tune", "model.onnx", "--target=llvm", "-o", "records"]),
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
    assert "Tiling(" not in err
    assert main(["compile", "model.onnx", "--target=qaccel", "-o", "a.so", "-vv"]) == 0
    err = capfd.readouterr().err
    assert "qaccel.stages: import: begins" in err and "qaccel.npu.codegen: conv1: Tiling(" in err
    assert main(["compile", "model.onnx", "--target=qaccel", "-o", "a.so"]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["compile"],
        ["compile", "model.onnx"],
        ["tune", "model.onnx"],
        ["run", "module.so"],
        ["compile", "model.onnx", "--target=qaccel", "--repo", "x"],
        ["run", "module.so", "--inputs", "i.npz", "--repeat", "many"],
    ],
)
def test_usage(capfd, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: tvmc" in capfd.readouterr().err


def test_types_and_formats_that_are_unknown(folder, capfd):
    fails(
        capfd, folder, ["compile", "model.onnx", "--target=qaccel", "--io-dtype=int4", *OUTPUTS], "int4", "int8, uint8"
    )
    fails(
        capfd,
        folder,
        ["compile", "model.onnx", "--target=qaccel", "--model-format=caffe", *OUTPUTS],
        "caffe",
        "onnx, torch",
    )
    fails(
        capfd,
        folder,
        ["compile", "model.onnx", "--target=llvm", "--io-dtype=int8", "-o", "out.so"],
        "--io-dtype",
        "add --bits",
    )
    fails(capfd, folder, ["compile", "model.onnx", "--target=qaccel", "--io-dtype=int8", *OUTPUTS], "input", "16 bits")


def test_config_too_small_for_a_layer(folder, capfd):
    """Tiling fits almost anything; a pooling window still needs a line of its input."""
    lines = CONFIG.replace('name = "qaccel-64"', 'name = "tiny"').splitlines()
    small = ["line_buffer_bytes = 1" if line.startswith("line_buffer_bytes") else line for line in lines]
    (folder / "tiny.toml").write_text("\n".join(small))
    arguments = ["compile", "model.onnx", "--target=qaccel -config=tiny.toml", *OUTPUTS]
    fails(capfd, folder, arguments, "tiny", "pool1", "line_buffer_bytes 1", "choose a larger config")
