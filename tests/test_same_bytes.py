"""The same input gives the same bytes: across checkouts, folders, hash seeds, threads, and a cold or warm cache."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import qaccel
import small_models
from networks import data
from qaccel.machine.hw import target_dir
from qaccel.machine.native import library_path

# Compiles a trained network, and one whose middle runs on the CPU, each twice: the second time with ranges from the cache.
SCRIPT = """
import sys
from pathlib import Path
import qaccel
from qaccel.cli.main import main

here = Path.cwd()
print(Path(qaccel.__file__).parent)
for name, options in (("mobilenet", ["--bits", "W4A8"]), ("interrupted", ["--calibration", "mse"])):
    for kind in ("so", "tar"):
        made = here / f"{name}_{kind}"
        made.mkdir()
        assert main([
            "compile", f"{name}.onnx", "--target", f"qaccel -config={here / 'small.toml'}, llvm", "--calibration-data",
            f"{name}.npz", *options, "-o", str(made / f"module.{kind}"), "--emit-qdq", str(made / "qdq.onnx"),
            "--emit-program", str(made / "program"), "--report", str(made / "report"),
        ]) == 0
"""
TIMES = "report/compile_seconds.json"


def other_checkout(folder: Path) -> Path:
    """A copy of the package with its machine and library."""
    shutil.copytree(
        Path(qaccel.__file__).parent, folder / "qaccel", ignore=shutil.ignore_patterns("__pycache__", "target")
    )
    target = folder / "qaccel" / "target"
    shutil.copytree(target_dir(), target, ignore=shutil.ignore_patterns("lib", "src", "build"))
    (target / "lib").mkdir()
    shutil.copy(library_path(), target / "lib")
    return folder


def start(folder: Path, package: Path, hash_seed: int, threads: int) -> subprocess.Popen[str]:
    """Compiles in ``folder``, with an empty cache in it."""
    folder.mkdir(parents=True)
    shutil.copy(data.HERE / "mobilenet.onnx", folder)
    np.savez(folder / "mobilenet.npz", **{data.INPUT_NAME: data.load("calibration", 8)["images"]})
    onnx.save(small_models.interrupted(), folder / "interrupted.onnx")
    np.savez(folder / "interrupted.npz", **small_models.samples(small_models.interrupted()))
    shutil.copy(target_dir() / "configs" / "qaccel-64.toml", folder / "small.toml")
    variables = {"PYTHONPATH": str(package), "PYTHONHASHSEED": str(hash_seed), "QACCEL_CACHE": str(folder / "cache")}
    variables |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS"), str(threads))
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=folder, env=os.environ | variables, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@pytest.mark.wide
def test_all_files_are_the_same(tmp_path: Path):
    packages = [Path(qaccel.__file__).parents[1], other_checkout(tmp_path / "copy")]
    folders = [tmp_path / "one", tmp_path / "another" / "longer_folder"]
    processes = [start(folders[k], packages[k], hash_seed=k + 1, threads=k + 1) for k in range(2)]
    for package, process in zip(packages, processes, strict=True):
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert said.splitlines()[0] == str(package / "qaccel")
        assert said.count("known from before") == 2  # each network's second time
    times = set()
    for name in ("mobilenet", "interrupted"):
        made = [files_of(folder / f"{name}_{kind}") for folder in folders for kind in ("so", "tar")]
        times |= {each.pop(TIMES) for each in made}
        (cold, warm), (other_cold, other_warm) = made[:2], made[2:]
        assert differing(cold, other_cold) == set(), name
        assert differing(warm, other_warm) == set(), name
        assert differing(cold, warm) == {"module.so", "module.tar"}, name
        kinds = {"qdq.onnx", "report/report.json", "report/layers.csv", "report/timeline.json", "report/report.html"}
        assert kinds < cold.keys() and all(cold.values())
        assert any(each.endswith("program.bin") for each in cold) and any("golden" in each for each in cold)
        for name, contents in cold.items():
            assert str(tmp_path).encode() not in contents, name
    assert len(times) > 1  # what differs between two runs is in that file
