"""What --emit-program writes can be replayed from the files alone."""

import json
from pathlib import Path

import numpy as np
import pytest

import qaccel
import small_models
from qaccel.machine.hw import config_from_dict
from qaccel.machine.isa import assemble, encode
from qaccel.machine.simulator import simulate
from qaccel.pipeline import Compiled
from qaccel.run.replay.package import write_program


def replay(folder: Path) -> None:
    """Build the DRAM image from the memory map, run it, compare with the golden outputs."""
    layout = json.loads((folder / "memory_map.json").read_text())
    dram = np.zeros(layout["dram_bytes"], np.uint8)
    ranges = []
    for entry in (layout["program"], layout["constants"], *layout["inputs"]):
        data = np.frombuffer((folder / entry.get("file", entry.get("golden"))).read_bytes(), np.uint8)
        assert data.size == entry.get("bytes", entry.get("dram_bytes"))
        dram[entry["dram_addr"] : entry["dram_addr"] + data.size] = data
        ranges.append((entry["dram_addr"], entry["dram_addr"] + data.size))
    program = (folder / "program.bin").read_bytes()
    hw = config_from_dict(layout["hw"], "memory_map.json")
    simulate(
        hw, program, dram, initialised=ranges, program_addr=layout["program"]["dram_addr"], layers=layout["layers"]
    )
    for entry in layout["outputs"]:
        expected = (folder / entry["golden"]).read_bytes()
        assert dram[entry["dram_addr"] : entry["dram_addr"] + entry["dram_bytes"]].tobytes() == expected
    assert encode(assemble((folder / "program.asm").read_text())) == program


def write(compiled: Compiled, folder: Path) -> None:
    write_program(folder, [s.compiled.artefact for s in compiled.subgraphs], compiled.golden_inputs())


def golden(folder: Path, file: str, channels: int) -> np.ndarray:
    """8-bit integers [pixels, channels]."""
    return np.frombuffer((folder / "golden" / file).read_bytes(), np.int8).reshape(-1, channels).astype(np.int64)


@pytest.mark.parametrize("bits", ["W8A8", "W4A4", "W16A16"])
def test_one_subgraph(tmp_path: Path, bits: str):
    model = small_models.chain()
    compiled = qaccel.compile(model, calibration_data=small_models.samples(model), bits=bits).compiled
    write(compiled, tmp_path / "program")
    replay(tmp_path / "program")


def test_several_subgraphs(tmp_path: Path):
    model = small_models.interrupted()
    compiled = qaccel.compile(model, calibration_data=small_models.samples(model)).compiled
    write(compiled, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qaccel_0", "qaccel_1"]
    for folder in tmp_path.iterdir():
        replay(folder)


@pytest.mark.parametrize("io_dtype", ["float32", "int8", "uint8"])
def test_golden_inputs_are_the_first_calibration_sample(tmp_path: Path, io_dtype: str):
    """And golden outputs are what the module makes of it."""
    model = small_models.chain()
    data = small_models.samples(model, 5)
    module = qaccel.compile(model, calibration_data=data, bits=8, io_dtype=io_dtype)
    write(module.compiled, tmp_path)
    offset = 128 if io_dtype == "uint8" else 0  # of the caller's integers over the machine's
    (entry,), (out,) = module.metadata["inputs"], module.metadata["outputs"]
    x = np.clip(np.rint(data["x"][0] / np.float32(entry["scale"])) + entry["zero_point"] - offset, -128, 127)
    np.testing.assert_array_equal(golden(tmp_path, "input_0.bin", 3), x.transpose(1, 2, 0).reshape(-1, 3))
    given = data["x"][:1] if io_dtype == "float32" else (x + offset).astype(io_dtype)[None]
    y = module.run({"x": given})["y"]
    if io_dtype == "float32":
        y = np.rint(y / np.float32(out["scale"])) + out["zero_point"]
    np.testing.assert_array_equal(golden(tmp_path, "output_0.bin", 10), y.astype(np.int64) - offset)
    replay(tmp_path)


def test_later_subgraphs_get_what_those_before_deliver(tmp_path: Path):
    model = small_models.interrupted()
    data = small_models.samples(model)
    module = qaccel.compile(model, calibration_data=data, bits=8)
    write(module.compiled, tmp_path)
    (out,) = module.metadata["outputs"]
    y = module.run({name: value[:1] for name, value in data.items()})[out["name"]]
    integers = np.rint(y[0].transpose(1, 2, 0) / np.float32(out["scale"])) + out["zero_point"]
    last = golden(tmp_path / "qaccel_1", "output_0.bin", y.shape[1])
    np.testing.assert_array_equal(last, integers.reshape(last.shape))


def test_without_data_the_sample_is_made_up_and_no_zeros(tmp_path: Path):
    model = small_models.chain(batch=2)
    compiled = qaccel.compile(model, input_range=(-1, 1), bits="W8A8").compiled
    write(compiled, tmp_path / "a")
    write(compiled, tmp_path / "b")
    values = golden(tmp_path / "a", "input_0.bin", 3)
    assert len(np.unique(values)) > 100
    for path in (tmp_path / "a" / "golden").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "golden" / path.name).read_bytes()
    replay(tmp_path / "a")
