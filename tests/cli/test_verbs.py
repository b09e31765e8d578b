"""The verbs on good input: what they print and write."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import qaccel
import small_models
from qaccel.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    model = small_models.chain()
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "calibration.npz", **small_models.samples(model))
    np.savez(folder / "inputs.npz", **small_models.samples(model, 3))
    np.savez(folder / "labelled.npz", **small_models.samples(model, 6), labels=np.arange(6) % 10)
    onnx.save(small_models.interrupted(), folder / "interrupted.onnx")
    return folder


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def tvmc(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    capfd.readouterr()
    code = main(list(arguments))
    out, err = capfd.readouterr()
    assert code == 0, err
    assert err == ""
    return out


def test_compile_run_evaluate_inspect(folder: Path, capfd):
    out = tvmc(
        capfd, "compile", "model.onnx", "--target=qaccel -config=qaccel-64, llvm -mcpu=native", "-o", "all.so",
        "--calibration-data", "calibration.npz", "--calibration", "mse", "--bits", "W8A8", "--emit-qdq", "qdq.onnx",
        "--emit-program", "program", "--report", "report", "--dump-code", "relax,asm", "--input-shapes", "x:[1,3,16,16]",
    )  # fmt: skip
    report = json.loads((folder / "report" / "report.json").read_text())
    assert f"{report['cycles']:,}" in out
    assert "every operator of the network runs on the accelerator" in out
    onnx.checker.check_model(onnx.load(folder / "qdq.onnx"))
    assert "qaccel.conv2d" in (folder / "all.so.relax").read_text()
    assert "CONV" in (folder / "all.so.asm").read_text()
    assert (folder / "program" / "program.bin").stat().st_size == report["dram_bytes"]["program"]

    out = tvmc(
        capfd, "run", "all.so", "--inputs", "inputs.npz", "--outputs", "outputs.npz", "--print-time", "--profile",
        "--repeat", "2",
    )  # fmt: skip
    assert np.load(folder / "outputs.npz")["y"].shape == (3, 10)
    assert "2 runs" in out
    for layer in report["layers"]:
        assert layer["name"] in out

    out = tvmc(capfd, "evaluate", "all.so", "--data", "labelled.npz", "--reference", "model.onnx")
    assert "samples    6" in out
    assert "agreement" in out

    out = tvmc(capfd, "inspect", "all.so")
    for text in ("qaccel -config=qaccel-64, llvm -mcpu=native", "8 bits, scale", "W8A8", "# qaccel_0", "CONV layer="):
        assert text in out
    layout = json.loads((folder / "program" / "memory_map.json").read_text())
    for entry in (layout["program"], layout["constants"], *layout["inputs"], *layout["outputs"]):
        size = entry.get("bytes", entry.get("dram_bytes"))
        assert f"0x{entry['dram_addr']:08x} {size:>12,} B" in out
    for line, end in (("input", "inputs"), ("output", "outputs")):
        (shown,) = [text for text in out.splitlines() if text.startswith(f"{line:<10} ")]
        (entry,) = qaccel.load(folder / "all.so").metadata[end]
        assert np.float32(shown.split("scale ")[1].split(",")[0]) == np.float32(entry["scale"])
        assert shown.endswith(f"zero point {entry['zero_point']}")


def test_defaults(folder: Path, capfd):
    out = tvmc(capfd, "compile", "model.onnx", "--target=qaccel")
    assert "W8A16" in out
    assert "--calibration-data" in out
    assert (folder / "module.so").is_file()


def test_tar_leaves_nothing_beside_it(folder: Path, capfd):
    tvmc(capfd, "compile", "model.onnx", "--target=qaccel", "-o", "m.tar")
    out = tvmc(capfd, "run", "m.tar", "--inputs", "inputs.npz")
    assert out.startswith("y float32 [3, 10] [[")
    assert [path.name for path in folder.glob("m.*")] == ["m.tar"]


def test_fallback_is_listed(capfd):
    out = tvmc(capfd, "compile", "interrupted.onnx", "--target=qaccel", "-o", "interrupted.so")
    assert "on the CPU" in out
    (line,) = [line for line in out.splitlines() if line.split()[:2] == ["softmax", "Softmax"]]
    assert "replace Softmax" in line


def test_the_cpu_alone(capfd, folder: Path):
    tvmc(capfd, "compile", "model.onnx", "--target=llvm", "-o", "cpu.so")
    tvmc(capfd, "run", "cpu.so", "--inputs", "inputs.npz", "--outputs", "cpu.npz")
    exact = onnx.reference.ReferenceEvaluator(small_models.chain())
    x = small_models.samples(small_models.chain(), 3)["x"]
    expected = np.concatenate([exact.run(None, {"x": sample[None]})[0] for sample in x])
    np.testing.assert_allclose(np.load(folder / "cpu.npz")["y"], expected, rtol=1e-4, atol=1e-5)
    out = tvmc(capfd, "inspect", "cpu.so")
    assert "target     llvm" in out


@pytest.mark.wide
def test_the_cpu_alone_in_integers(capfd, folder: Path):
    """The same integers as the accelerator's, and every verb takes the module."""
    common = ["--calibration-data", "calibration.npz", "--bits", "W4A8"]
    tvmc(capfd, "compile", "model.onnx", "--target=qaccel", "-o", "npu.so", *common)
    tvmc(
        capfd, "compile", "model.onnx", "--target=llvm -mcpu=native", "-o", "integers.so", *common, "--emit-qdq", "qdq.onnx",
        "--dump-code", "relax",
    )  # fmt: skip
    onnx.checker.check_model(onnx.load(folder / "qdq.onnx"))
    assert "qaccel.conv2d" in (folder / "integers.so.relax").read_text()
    for name in ("npu", "integers"):
        tvmc(capfd, "run", f"{name}.so", "--inputs", "inputs.npz", "--outputs", f"{name}.npz")
    np.testing.assert_array_equal(np.load(folder / "integers.npz")["y"], np.load(folder / "npu.npz")["y"])
    assert "agreement" in tvmc(capfd, "evaluate", "integers.so", "--data", "labelled.npz", "--reference", "model.onnx")
    out = tvmc(capfd, "run", "integers.so", "--inputs", "inputs.npz", "--profile", "--repeat", "2")
    assert "conv2d_" in out
    assert "100.0%" in out
    out = tvmc(capfd, "inspect", "integers.so")
    assert "target     llvm -mcpu=native" in out
    assert "8 bits, scale" in out
    tvmc(capfd, "compile", "model.onnx", "--target=llvm", "-o", "guess.so", "--bits", "8", "--io-dtype", "int8")
    assert "int8 [1, 3, 16, 16]" in tvmc(capfd, "inspect", "guess.so")


def test_image_folder(capfd, folder: Path):
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "images" / f"{k}.png")
    tvmc(
        capfd, "compile", "model.onnx", "--target=qaccel", "-o", "images.so", "--calibration-data", "images",
        "--preprocess", "mean=127,scale=128,layout=NCHW",
    )  # fmt: skip
    out = tvmc(capfd, "inspect", "images.so")
    (line,) = [line for line in out.splitlines() if line.startswith("input")]
    assert "8 bits" in line
    assert 1.9 / 255 < float(line.split("scale ")[1].split(",")[0]) < 2.1 / 255


def test_plan(capfd, folder: Path):
    (folder / "plan.json").write_text(json.dumps({"conv2": {"weight_bits": 4, "activation_bits": 8}}))
    tvmc(
        capfd, "compile", "model.onnx", "--target=qaccel", "-o", "plan.so", "--calibration-data", "calibration.npz",
        "--bits", "plan.json", "--report", "plan",
    )  # fmt: skip
    layers = json.loads((folder / "plan" / "report.json").read_text())["layers"]
    assert {layer["name"]: layer["weight_bits"] for layer in layers if layer["weight_count"]} == {
        "conv1": 8, "conv2": 4, "classifier": 8,
    }  # fmt: skip


def test_version(capfd):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert "qaccel" in capfd.readouterr().out
