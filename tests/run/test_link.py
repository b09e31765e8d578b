import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax, rpc

import qaccel
import small_models
from processes import environment, run_python
from qaccel.errors import QaccelError
from qaccel.export import export_library
from qaccel.host import host_target
from qaccel.options import parse_target
from tiers import wide_after

MODELS = {"interrupted": small_models.interrupted, "chain": small_models.chain, "several": small_models.several}

# A process that knows nothing of qaccel: TVM's own loading and its virtual machine.
FRESH = """
import json, sys
import numpy as np
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
data = np.load(sys.argv[2])
vm = relax.VirtualMachine(tvm.runtime.load_module(sys.argv[1]), tvm.cpu())
metadata = json.loads(str(vm["qaccel_metadata"]()))
result = vm["main"](*(tvm.runtime.tensor(data[entry["name"]]) for entry in metadata["inputs"]))
results = [result] if len(metadata["outputs"]) == 1 else list(result)
np.savez(sys.argv[3], **{entry["name"]: value.numpy() for entry, value in zip(metadata["outputs"], results)})
"""

SERVER = """
import sys, tvm
from tvm import rpc
server = rpc.Server("127.0.0.1", int(sys.argv[1]), int(sys.argv[1]) + 1)
print("ready", flush=True)
sys.stdin.readline()
server.terminate()
"""


@pytest.fixture(scope="module", params=wide_after(1, MODELS))
def network(request: pytest.FixtureRequest):
    """Module, inputs of one sample, and expected outputs."""
    model = MODELS[request.param]()
    data = small_models.samples(model)
    quantized = qaccel.quantize(model, calibration_data=data)
    one = {name: value[:1] for name, value in data.items()}
    return qaccel.compile(quantized), one, quantized.run(one)


@pytest.mark.parametrize("suffix", wide_after(1, ["so", "tar"]))
def test_module_loads_in_a_fresh_process(network, tmp_path: Path, suffix: str):
    module, one, expected = network
    path = module.export_library(tmp_path / f"module.{suffix}")
    np.savez(tmp_path / "in.npz", **one)
    run_python(FRESH, tmp_path, path, "in.npz", "out.npz")
    outputs = np.load(tmp_path / "out.npz")
    assert set(outputs.files) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(outputs[name], value)


@pytest.mark.wide
def test_module_runs_over_rpc(network, tmp_path: Path):
    """Uploaded to a server in another process, which finds the loader through `import tvm`."""
    module, one, expected = network
    path = module.export_library(tmp_path / "module.so")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        env=environment(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        session = _connect(port)
        session.upload(str(path))
        vm = relax.VirtualMachine(session.load_module("module.so"), session.cpu(0))
        metadata = json.loads(str(vm["qaccel_metadata"]()))
        arrays = [tvm.runtime.tensor(one[entry["name"]], session.cpu(0)) for entry in metadata["inputs"]]
        vm.set_input("main", *arrays)
        vm.invoke_stateful("main")
        result = vm.get_outputs("main")
        results = [result] if len(expected) == 1 else list(result)
        for value, name in zip(results, expected, strict=True):
            np.testing.assert_array_equal(value.numpy(), expected[name])
        assert vm.time_evaluator("invoke_stateful", session.cpu(0), number=2)("main").mean > 0
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.terminate()
        server.wait(30)


def _connect(port: int) -> rpc.RPCSession:
    # The server takes the first free port from the one it was given on.
    for attempt in range(20):
        try:
            return rpc.connect("127.0.0.1", port, session_timeout=60)
        except RuntimeError:
            if attempt == 19:
                raise
            time.sleep(0.1)
    raise AssertionError


def test_float_module_for_the_cpu_alone(tmp_path: Path):
    from qaccel import pipeline
    from qaccel.emulate.executor import execute
    from qaccel.options import CompileOptions
    from qaccel.stages import Stages

    model = small_models.chain()
    compiled = pipeline.compile_model(model, CompileOptions(parse_target("llvm")), "chain", Stages())
    data = small_models.samples(model, 2)
    path = export_library(compiled.executable, tmp_path / "float.so")
    module = qaccel.load(path)
    np.testing.assert_allclose(module.run(data)["y"], execute(compiled.model, data)["y"], rtol=1e-4, atol=1e-5)
    with pytest.raises(QaccelError, match="CPU alone"):
        _ = module.report


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("llvm", {"kind": "llvm"}),
        ("llvm -mcpu=native", {"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()}),
        ("llvm -mcpu=skylake -num-cores=2", {"kind": "llvm", "mcpu": "skylake", "num-cores": 2}),
        ("llvm -mattr=+avx2,+fma", {"kind": "llvm", "mattr": ["+avx2", "+fma"]}),
    ],
)
def test_host_target(text: str, expected: dict):
    target = host_target(parse_target(text))
    assert target.kind.name == expected.pop("kind")
    for name, value in expected.items():
        attribute = target.attrs[name]
        assert (list(attribute) if isinstance(value, list) else attribute) == value


def test_native_of_another_machine():
    with pytest.raises(QaccelError, match="native is this machine"):
        host_target(parse_target("llvm -mcpu=native -mtriple=aarch64-linux-gnu"))


def test_cross_compiled_host_part(tmp_path: Path):
    """A .tar holds object files for the triple; a .so needs the triple's linker."""
    model = small_models.chain()
    module = qaccel.compile(model, target="qaccel, llvm -mtriple=aarch64-linux-gnu", input_range=(-3, 3))
    assert module.export_library(tmp_path / "module.tar").is_file()
    with pytest.raises(QaccelError, match=r"aarch64-linux-gnu-g\+\+.*or write a \.tar"):
        module.export_library(tmp_path / "module.so")
    assert [path.name for path in tmp_path.iterdir()] == ["module.tar"]


def test_failed_link_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = qaccel.compile(small_models.chain(), input_range=(-3, 3))
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(QaccelError, match="cannot link"):
        module.export_library(tmp_path / "module.so")
    assert list(tmp_path.iterdir()) == []


def test_export_replaces_the_old_module(tmp_path: Path):
    (tmp_path / "module.so").write_text("old")
    qaccel.compile(small_models.chain(), input_range=(-3, 3)).export_library(tmp_path / "module.so")
    assert (tmp_path / "module.so").read_bytes()[:4] == b"\x7fELF"


def test_the_module_carries_the_weights_once(resnet_path: Path, tmp_path: Path):
    """As streams in the artefact; what RunCodegen keeps beside it would be another copy."""
    module = qaccel.compile(resnet_path, input_range=(-1, 1))
    module.export_library(tmp_path / "m.so")
    (subgraph,) = module.compiled.subgraphs
    artefact_bytes = len(subgraph.compiled.artefact.to_bytes())
    rest_bytes = (tmp_path / "m.so").stat().st_size - artefact_bytes
    assert rest_bytes < module.report["weights"]["quantized_bytes"] / 2


@pytest.mark.parametrize("suffix", [".so", ".tar"])
@pytest.mark.parametrize("target", ["qaccel", "llvm"])
def test_a_file_that_was_written_again_is_the_new_module(target: str, suffix: str, tmp_path: Path) -> None:
    """A module loaded in the process that loaded the file's earlier content gives the present content's results."""
    path = tmp_path / f"module{suffix}"
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 2, 2, 2)
    kept = []
    for factor in (1.0, -3.0):
        weight = numpy_helper.from_array(np.full((1, 2, 1, 1), factor, np.float32), "w")
        ends = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x.shape), ("y", (1, 1, 2, 2)))
        ]
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], "conv")], "net", ends[:1], ends[1:], [weight]
        )
        data = {} if target == "llvm" else {"calibration_data": {"x": x}}
        qaccel.compile(helper.make_model(graph), target=target, **data).export_library(path)
        module = qaccel.load(path)
        kept.append((module, module.run({"x": x})["y"]))
        np.testing.assert_allclose(kept[-1][1], factor * x.sum(axis=1, keepdims=True), atol=0.1)
    for module, result in kept:
        np.testing.assert_array_equal(module.run({"x": x})["y"], result)
