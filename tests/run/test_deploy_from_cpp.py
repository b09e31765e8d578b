"""The C++ program of tutorials/06_deploy_from_cpp: Python's integers and cycles, without Python and without a compiler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi.libinfo
from tvm.libinfo import find_libtvm_runtime

import qaccel
import small_models
from qaccel.host import host_target
from qaccel.options import parse_target
from qaccel.schedules.features import absent, extensions

pytestmark = pytest.mark.wide

SOURCES = Path(__file__).resolve().parents[2] / "tutorials" / "06_deploy_from_cpp"
# What a program holds that links TVM's runtime and does nothing. Linux tells the peak of a process only to itself.
NOTHING = """
#include <fstream>
#include <iostream>
int main() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "VmHWM:" && status >> word) std::cout << word << std::endl;
  }
}
"""
# Code that the program, TVM's runtime and the accelerator's library touch (a module of one Relu takes 0.84 MB), stacks, SRAM and
# weight buffer as far as the network touches them, and what simulating takes.
FIXED_BYTES = 15 << 16


def tool(name: str) -> str:
    """Its path: beside the Python that runs, or on PATH. Skips where it is not installed."""
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    build = tmp_path_factory.mktemp("cpp")
    cmake, ninja = tool("cmake"), tool("ninja")
    tool("g++")
    arguments = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([cmake, "-S", SOURCES, "-B", build, *arguments], check=True, capture_output=True)
    subprocess.run([cmake, "--build", build], check=True, capture_output=True)
    return build / "deploy"


@pytest.fixture(scope="module", params=["chain", "interrupted", "several"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """An exported module loaded by Python, its file, and one sample."""
    model = getattr(small_models, request.param)()
    data = small_models.samples(model)
    path = tmp_path_factory.mktemp(request.param) / "module.so"
    qaccel.compile(model, calibration_data=data, bits=8, output=path)
    return qaccel.load(path), path, {name: value[:1] for name, value in data.items()}


@pytest.mark.slow
def test_one_static_executable(tmp_path: Path):
    """Module, runtime and simulator in a program that loads no library; $TVM_SOURCE_DIR is a checkout of TVM 0.27."""
    sources = os.environ.get("TVM_SOURCE_DIR")
    if sources is None:
        pytest.skip("$TVM_SOURCE_DIR names no checkout of TVM's sources")
    model = small_models.interrupted()
    data = small_models.samples(model)
    qaccel.compile(model, calibration_data=data, bits=8, output=tmp_path / "module.tar")
    module = qaccel.load(tmp_path / "module.tar")
    one = data["x"][:1]
    np.save(tmp_path / "x.npy", one)
    arguments = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DPython_EXECUTABLE={sys.executable}"]
    arguments += [f"-DMODULE={tmp_path / 'module.tar'}", f"-DTVM_SOURCE_DIR={sources}", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
    build = tmp_path / "build"
    subprocess.run([tool("cmake"), "-S", SOURCES / "static", "-B", build, *arguments], check=True, capture_output=True)
    subprocess.run([tool("cmake"), "--build", build], check=True, capture_output=True)
    program = build / "deploy_static"
    listed = subprocess.run([tool("ldd"), program], capture_output=True, text=True)
    assert "not a dynamic executable" in listed.stdout + listed.stderr
    done = run(program, f"x={tmp_path / 'x.npy'}", "--outputs", tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "output_0.npy"), module.run({"x": one})["y"])
    assert figure(done.stdout, "cycles") == module.report["cycles"]


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def figure(output: str, name: str) -> int:
    (line,) = [line for line in output.splitlines() if line.startswith(name + " ")]
    return int(line.split()[1])


def libraries(file: Path | str) -> set[str]:
    """Names of all that the system's loader loads for a program or library, itself included."""
    listed = subprocess.run([tool("ldd"), file], check=True, capture_output=True, text=True).stdout
    return {Path(line.split()[0]).name for line in listed.splitlines() if line.strip()} | {Path(file).name}


def test_same_integers_and_cycles_as_python(program: Path, network, tmp_path: Path):
    module, path, one = network
    expected = module.run(one)
    files = []
    for name, value in one.items():
        np.save(tmp_path / f"{name}.npy", value)
        files.append(f"{name}={tmp_path / name}.npy")
    done = run(program, path, *files, "--outputs", tmp_path)
    assert done.returncode == 0, done.stderr
    for index, (name, value) in enumerate(expected.items()):
        got = np.load(tmp_path / f"output_{index}.npy")
        assert got.dtype == value.dtype
        np.testing.assert_array_equal(got, value)
        assert f"{name} float32 {list(value.shape)} " in done.stdout
    assert figure(done.stdout, "cycles") == module.report["cycles"]


def test_inputs_are_bytes_or_zeros(program: Path, network, tmp_path: Path):
    """The first input from a file of bytes, all others zeros, which it says."""
    module, path, one = network
    first, *others = one
    one[first].tofile(tmp_path / "first.bin")
    expected = module.run({name: value if name == first else np.zeros_like(value) for name, value in one.items()})
    done = run(program, path, f"{first}={tmp_path / 'first.bin'}", "--outputs", tmp_path)
    assert done.returncode == 0, done.stderr
    for index, value in enumerate(expected.values()):
        np.testing.assert_array_equal(np.load(tmp_path / f"output_{index}.npy"), value)
    assert [line for line in done.stdout.splitlines() if line.startswith("note")] == [
        f"note: no {name}=FILE; it is zeros" for name in others
    ]


def test_no_compiler_and_no_python_is_linked(program: Path):
    needed = libraries(program)
    assert {"libtvm_runtime.so", "libtvm_ffi.so", "libqaccel_sim.so"} <= needed
    assert not [name for name in needed if "compiler" in name or "python" in name or "LLVM" in name]
    compiler = Path(find_libtvm_runtime()).with_name("libtvm_compiler.so")
    assert "libtvm_compiler.so" in libraries(compiler), "the check above would not see it"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage"),
        (["missing.so"], "missing.so"),
        (["module.so", "nothing=x.npy"], "no input 'nothing'"),
        (["module.so", "x=missing.npy"], "'missing.npy' cannot be read"),
        (["module.so", "x=short.bin"], "holds 4 bytes, must be 3072"),
        (["module.so", "x=wrong.npy"], "(1, 3, 8, 16)"),
        (["module.so", "--input"], "neither NAME=FILE nor --outputs DIR"),
    ],
)
def test_errors_are_one_line(program: Path, tmp_path: Path, arguments: list[str], said: str):
    model = small_models.chain()
    qaccel.compile(model, calibration_data=small_models.samples(model), bits=8, output=tmp_path / "module.so")
    (tmp_path / "short.bin").write_bytes(bytes(4))
    np.save(tmp_path / "wrong.npy", np.zeros((1, 3, 8, 16), np.float32))
    done = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if arguments else 2)
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_a_module_of_a_larger_cpu_is_refused(program: Path, tmp_path: Path):
    """What Python says, too; for a CPU of fewer extensions it runs."""
    path = tmp_path / "module.so"
    for cpu, larger in (("graniterapids", True), ("x86-64", False)):
        target = f"qaccel, llvm -mcpu={cpu}"
        missing = absent(extensions(host_target(parse_target(target))))
        if larger and not missing:
            pytest.skip(f"this machine is a {cpu}")
        qaccel.compile(small_models.interrupted(), target=target).export_library(path)
        done = run(program, path)
        assert done.returncode == int(larger), done.stderr
        if larger:
            with pytest.raises(qaccel.UserError) as refused:
                qaccel.load(path)
            assert f"error: {refused.value}" == done.stderr.strip().replace("error: ", "error: module ")


def test_memory_is_little_more_than_file_and_dram(program: Path, resnet_path: Path, calibration_data, tmp_path: Path):
    """What it takes beyond an empty program: twice file, DRAM, inputs and outputs, and a fixed amount."""
    qaccel.compile(resnet_path, calibration_data=calibration_data, bits=8, effort="fast", output=tmp_path / "module.so")
    (tmp_path / "nothing.cc").write_text(NOTHING)
    linked = [find_libtvm_runtime(), tvm_ffi.libinfo.find_libtvm_ffi()]
    folders = [f"-Wl,-rpath,{Path(library).parent}" for library in linked]
    subprocess.run(
        [tool("g++"), tmp_path / "nothing.cc", "-o", tmp_path / "nothing", "-Wl,--no-as-needed", *linked, *folders],
        check=True,
    )
    empty = 1024 * int(subprocess.run([tmp_path / "nothing"], check=True, capture_output=True).stdout)
    report = qaccel.load(tmp_path / "module.so").report
    taken = figure(run(program, tmp_path / "module.so").stdout, "memory") - empty
    ends = 4 * (3 * 32 * 32 + 10)
    data = (tmp_path / "module.so").stat().st_size + report["memory"]["dram_footprint_bytes"] + ends
    assert 0 < taken <= 2 * data + FIXED_BYTES
