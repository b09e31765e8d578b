"""Modules run where there is no compiler, and several threads run one each."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import qaccel
import small_models
from processes import environment, run_python
from qaccel.cli.main import VERBS, WITHOUT_COMPILER

# Loads and runs, as an application would, and says what that took into the process.
APPLICATION = """
import json, sys
import numpy as np
import qaccel
outputs = qaccel.load(sys.argv[1]).run(dict(np.load(sys.argv[2])))
np.savez(sys.argv[3], **outputs)
maps = open("/proc/self/maps").read()
print(json.dumps({"modules": sorted(sys.modules), "compiler": "libtvm_compiler" in maps, "runtime": "libtvm_runtime" in maps}))
"""
IMPORT = """
import json, sys
before = set(sys.modules)
import tvm
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# What only compiling needs, of other packages and of ours.
PACKAGES = ("onnx", "scipy", "bokeh", "torch", "xgboost", "rich", "tornado")
ROOMS = ("api", "pipeline", "frontend", "quant", "qdq", "npu", "cpu", "link", "report", "dialect", "options")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """Folder with module.so and module.tar of a network with a layer on the CPU, in.npz, and the expected outputs."""
    folder = tmp_path_factory.mktemp("module")
    model = small_models.interrupted()
    data = small_models.samples(model)
    module = qaccel.compile(model, calibration_data=data, bits=8)
    for suffix in ("so", "tar"):
        module.export_library(folder / f"module.{suffix}")
    one = {name: value[:1] for name, value in data.items()}
    np.savez(folder / "in.npz", **one)
    return folder, module.run(one)


@pytest.mark.parametrize("suffix", ["so", pytest.param("tar", marks=pytest.mark.wide)])
@pytest.mark.parametrize("runtime_only", [True, False])
def test_running_loads_no_compiler(exported, monkeypatch: pytest.MonkeyPatch, suffix: str, runtime_only: bool):
    folder, expected = exported
    monkeypatch.setenv("TVM_USE_RUNTIME_LIB", str(int(runtime_only)))
    found = json.loads(run_python(APPLICATION, folder, f"module.{suffix}", "in.npz", "out.npz"))
    outputs = np.load(folder / "out.npz")
    for name, value in expected.items():
        np.testing.assert_array_equal(outputs[name], value)
    rooms = [f"qaccel.{room}" for room in ROOMS]
    assert not [name for name in found["modules"] if name in rooms or name.split(".")[0] in PACKAGES]
    assert "qaccel.run.execute" in found["modules"]
    assert found["runtime"]
    assert found["compiler"] != runtime_only
    assert ("tvm.relax" in found["modules"]) != runtime_only


def test_import_tvm_takes_little_of_qaccel_with_it(tmp_path: Path):
    """What `import tvm` calls reads neither configs nor instruction set; `tests/bench/bench_import.py` measures the time."""
    taken = json.loads(run_python(IMPORT, tmp_path))
    assert [name for name in taken if name.startswith("qaccel.")] == [
        "qaccel.backend", "qaccel.errors", "qaccel.machine", "qaccel.machine.hw_spec", "qaccel.machine.isa_spec",
        "qaccel.machine.native", "qaccel.version",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["compile", "quantize", "analyze", "explore", "partition_for_qaccel"])
def test_compiling_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv("TVM_USE_RUNTIME_LIB", "1")
    with pytest.raises(qaccel.UserError, match="TVM_USE_RUNTIME_LIB=1 keeps TVM's compiler out.*unset it"):
        getattr(qaccel, name)


@pytest.mark.wide
@pytest.mark.parametrize(
    "words",
    [
        ["compile", "model.onnx", "--target=qaccel"],
        ["tune", "model.onnx", "--target=llvm", "--output", "records", "--trials", "1"],
        ["analyze", "model.onnx", "--calibration-data", "in.npz"],
        ["explore", "model.onnx", "--sweep", "rows=8"],
        ["evaluate", "module.so", "--data", "in.npz"],
        ["run", "module.so", "--reference", "model.onnx"],
        ["run", "module.so", "--dump-tensors", "tensors"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_verbs_without_a_compiler_say_so(exported, words: list[str]):
    assert words[0] not in WITHOUT_COMPILER or len(words) > 2
    assert _tvmc(exported[0], *words) == (
        1,
        "error: TVM_USE_RUNTIME_LIB=1 keeps TVM's compiler out, so modules can be loaded and run and nothing else; unset it\n",
    )


@pytest.mark.wide
@pytest.mark.parametrize("words", [["run", "module.so", "--profile", "--print-top", "1"], ["inspect", "module.so"]])
def test_verbs_that_need_the_runtime_alone(exported, words: list[str]):
    assert words[0] in WITHOUT_COMPILER and words[0] in VERBS
    assert _tvmc(exported[0], *words) == (0, "")


def _tvmc(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code and standard error of ``tvmc`` with TVM's runtime alone."""
    env = {**environment(folder), "TVM_USE_RUNTIME_LIB": "1"}
    command = [sys.executable, "-m", "qaccel.cli.main", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.parametrize("suffix", ["so", pytest.param("tar", marks=pytest.mark.wide)])
def test_threads_with_an_instance_each(exported, suffix: str):
    """They run at once on inputs of their own, and each gets what it gets alone."""
    folder, _ = exported
    count, rounds = 3, 20
    data = small_models.samples(small_models.interrupted(), count * rounds, seed=5)
    alone = qaccel.load(folder / f"module.{suffix}").run(data)
    together: dict[int, list[dict[str, np.ndarray]]] = {}
    begin = threading.Barrier(count)

    def work(index: int) -> None:
        module = qaccel.load(folder / f"module.{suffix}")
        begin.wait(60)
        together[index] = [
            module.run({name: value[at : at + 1] for name, value in data.items()})
            for at in range(index, count * rounds, count)
        ]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(together) == list(range(count)), "a thread failed"
    for name, value in alone.items():
        assert len(np.unique(value, axis=0)) == count * rounds, "samples could be mistaken for each other"
        for index, outputs in together.items():
            got = np.concatenate([each[name] for each in outputs])
            np.testing.assert_array_equal(got, value[index::count])
