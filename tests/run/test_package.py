"""What --emit-program writes can be replayed from the files alone."""

import json
from pathlib import Path

import numpy as np
import pytest

import qaccel
import small_models
from qaccel.hw import config_from_dict
from qaccel.isa import assemble, encode
from qaccel.run.package import write_program
from qaccel.run.simulator import simulate


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


@pytest.mark.parametrize("bits", ["W8A8", "W4A4", "W16A16"])
def test_one_subgraph(tmp_path: Path, bits: str):
    model = small_models.chain()
    compiled = qaccel.compile(model, calibration_data=small_models.samples(model), bits=bits).compiled
    write_program(tmp_path / "program", [s.compiled.artefact for s in compiled.subgraphs])
    replay(tmp_path / "program")


def test_several_subgraphs(tmp_path: Path):
    model = small_models.interrupted()
    compiled = qaccel.compile(model, calibration_data=small_models.samples(model)).compiled
    write_program(tmp_path, [s.compiled.artefact for s in compiled.subgraphs])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qaccel_0", "qaccel_1"]
    for folder in tmp_path.iterdir():
        replay(folder)
