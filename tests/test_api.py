import importlib.metadata
import json
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest
import tvm
from tvm import relax

import qaccel
import small_models
from frontend.onnx_models import model, node, ort_run
from processes import run_python
from qaccel.backend import register


@pytest.fixture(scope="module")
def chain() -> onnx.ModelProto:
    return small_models.chain()


@pytest.fixture(scope="module")
def data(chain: onnx.ModelProto) -> dict[str, np.ndarray]:
    return small_models.samples(chain, 16)


@pytest.fixture(scope="module")
def quantized(chain: onnx.ModelProto, data: dict[str, np.ndarray]) -> qaccel.QuantizedNetwork:
    return qaccel.quantize(chain, calibration_data=data)


def test_version_is_that_of_the_project():
    assert importlib.metadata.version("qaccel") == qaccel.__version__


def test_every_public_name_is_there():
    for name in qaccel.__all__:
        assert hasattr(qaccel, name)
        assert name in dir(qaccel)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = qaccel.nonsense


def test_import_of_the_package_is_light(tmp_path: Path):
    code = "import sys, qaccel; print(sorted({'tvm', 'onnx', 'numpy', 'scipy', 'rich'} & set(sys.modules)))"
    assert run_python(code, tmp_path) == "[]\n"


def test_import_of_tvm_stays_light(tmp_path: Path):
    code = "import sys, tvm; print(sorted({'onnx', 'rich', 'PIL', 'qaccel.pipeline'} & set(sys.modules)), 'qaccel' in sys.modules)"
    assert run_python(code, tmp_path) == "[] True\n"


def test_quantize_gives_the_plan(quantized: qaccel.QuantizedNetwork):
    widths = {"weight_bits": 8, "activation_bits": 8}
    assert quantized.plan == {"conv1": widths, "conv2": widths, "classifier": widths}


@pytest.mark.parametrize("bits", [{"conv2": {"weight_bits": 4, "activation_bits": 8}}, "W4A8", (4, 8), 16])
def test_bits(chain: onnx.ModelProto, data: dict[str, np.ndarray], bits):
    plan = qaccel.quantize(chain, calibration_data=data, bits=bits).plan
    weight_bits = 16 if bits == 16 else 4
    assert plan["conv2"]["weight_bits"] == weight_bits
    assert plan["conv1"]["weight_bits"] == (8 if isinstance(bits, dict) else weight_bits)


def test_save_onnx(quantized: qaccel.QuantizedNetwork, tmp_path: Path):
    quantized.save_onnx(tmp_path / "qdq.onnx")
    model = onnx.load(tmp_path / "qdq.onnx")
    onnx.checker.check_model(model)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    with pytest.raises(qaccel.QaccelError, match="does not exist"):
        quantized.save_onnx(tmp_path / "missing" / "qdq.onnx")


def test_module_gives_the_integers_of_the_quantized_network(quantized, data, tmp_path: Path):
    module = qaccel.compile(quantized)
    expected = quantized.run(data)
    np.testing.assert_array_equal(module.run(data)["y"], expected["y"])
    module.export_library(tmp_path / "module.tar")
    loaded = qaccel.load(tmp_path / "module.tar")
    np.testing.assert_array_equal(loaded.run(data)["y"], expected["y"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["module.tar"]


def test_report_survives_export(quantized, tmp_path: Path):
    module = qaccel.compile(quantized, hw="qaccel-64", report=tmp_path / "report")
    module.export_library(tmp_path / "module.so")
    loaded = qaccel.load(tmp_path / "module.so")
    ours, theirs = dict(module.report), dict(loaded.report)
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == ours
    assert list(json.loads((tmp_path / "report" / "compile_seconds.json").read_text())) == list(module.compile_seconds)
    assert loaded.compile_seconds == {}
    assert ours == theirs
    assert theirs["hw"]["name"] == "qaccel-64"


def test_loaded_module_cannot_be_exported_again(quantized, tmp_path: Path):
    qaccel.compile(quantized).export_library(tmp_path / "module.so")
    with pytest.raises(qaccel.QaccelError, match="copy that file"):
        qaccel.load(tmp_path / "module.so").export_library(tmp_path / "other.so")


def test_target_names_the_accelerator(quantized):
    assert qaccel.compile(quantized, target="qaccel -config=qaccel-1024, llvm").report["hw"]["name"] == "qaccel-1024"
    assert qaccel.compile(quantized, "qaccel-64", "llvm -mcpu=native").report["hw"]["name"] == "qaccel-64"
    with pytest.raises(qaccel.QaccelError, match="given twice"):
        qaccel.compile(quantized, "qaccel-64", "qaccel, llvm")


def test_quantized_network_takes_no_bits(quantized, data):
    with pytest.raises(qaccel.QaccelError, match="quantized already"):
        qaccel.compile(quantized, bits=8)
    with pytest.raises(qaccel.QaccelError, match="quantized already"):
        qaccel.compile(quantized, calibration_data=data)


def test_without_data_activations_have_16_bits(chain: onnx.ModelProto, data: dict[str, np.ndarray]):
    module = qaccel.compile(chain)
    assert [note for note in module.notes if "a guess" in note and "W8A16" in note]
    assert {(layer["weight_bits"], layer["activation_bits"]) for layer in module.report["layers"]} == {(8, 16), (0, 16)}
    exact = onnx.reference.ReferenceEvaluator(chain)
    for k in range(4):
        y = exact.run(None, {"x": data["x"][k : k + 1]})[0]
        np.testing.assert_allclose(module.run({"x": data["x"][k]})["y"], y, atol=0.01 * np.abs(y).max())


def test_given_input_range_is_taken_at_its_word(chain: onnx.ModelProto):
    module = qaccel.compile(chain, input_range=(-8, 8))
    assert not [note for note in module.notes if "a guess" in note]
    assert module.metadata["inputs"][0]["scale"] == pytest.approx(8 / (1 << 15), rel=1e-3)


def test_several_inputs_and_outputs(tmp_path: Path):
    model = small_models.several()
    data = small_models.samples(model)
    quantized = qaccel.quantize(model, calibration_data=data)
    module = qaccel.compile(quantized)
    outputs = module.run(data)
    assert list(outputs) == ["sum", "clipped"]
    expected = quantized.run(data)
    for name in outputs:
        np.testing.assert_array_equal(outputs[name], expected[name])
    assert [entry["name"] for entry in module.metadata["inputs"]] == ["a", "b"]


def test_batch_is_an_outer_loop(data: dict[str, np.ndarray]):
    single = qaccel.compile(small_models.chain(), calibration_data=data)
    batched = qaccel.compile(small_models.chain(batch=4), calibration_data=data)
    np.testing.assert_array_equal(batched.run(data)["y"], single.run(data)["y"])
    ours, theirs = batched.report, single.report
    assert ours["batch"] == 4
    assert ours["cycles"] == theirs["cycles"]
    assert ours["cycles_per_batch"] == 4 * theirs["cycles"]
    assert ours["bound_cycles"] == theirs["bound_cycles"]


def test_symbolic_batch(data: dict[str, np.ndarray]):
    module = qaccel.compile(small_models.chain(batch="N"), calibration_data=data)
    assert module.metadata["inputs"][0]["shape"] == [1, 3, 16, 16]
    wide = qaccel.compile(small_models.chain(batch="N"), calibration_data=data, input_shapes={"x": (2, 3, 16, 16)})
    np.testing.assert_array_equal(wide.run(data)["y"], module.run(data)["y"])


def test_bad_run_data(quantized):
    module = qaccel.compile(quantized)
    with pytest.raises(qaccel.QaccelError, match="no array named 'x'"):
        module.run({"z": np.zeros((1, 3, 16, 16), np.float32)})
    with pytest.raises(qaccel.QaccelError, match="'x'"):
        module.run({"x": np.zeros((1, 3, 16, 15), np.float32)})


def test_tvm_idioms(quantized, data):
    """Partition, then build with the registered pipeline, as any TVM user would."""
    register()
    mod = qaccel.partition_for_qaccel(quantized.quantized.mod, hw="qaccel-64")
    executable = relax.build(mod, tvm.target.Target({"kind": "llvm"}), relax_pipeline=relax.get_pipeline("qaccel"))
    vm = relax.VirtualMachine(executable, tvm.cpu())
    y = vm["main"](tvm.runtime.tensor(data["x"][:1])).numpy()
    np.testing.assert_array_equal(y, quantized.run({"x": data["x"][:1]})["y"])


def test_pipeline_partitions_what_is_not_partitioned(quantized, data):
    register()
    pipeline = relax.get_pipeline("qaccel", hw="qaccel-1024")
    executable = relax.build(quantized.quantized.mod, tvm.target.Target({"kind": "llvm"}), relax_pipeline=pipeline)
    vm = relax.VirtualMachine(executable, tvm.cpu())
    y = vm["main"](tvm.runtime.tensor(data["x"][:1])).numpy()
    np.testing.assert_array_equal(y, quantized.run({"x": data["x"][:1]})["y"])


def test_inputs_of_other_batches_and_scalars_calibrate_and_run():
    """A recurrent state [2, 1, 8], a scalar and data of batch 1 side by side, as speech networks have them; batch 3 alone."""
    nodes = [
        node("Gather", ["state", "one"], ["s"], axis=0),
        node("MatMul", ["x", "w"], ["m"]),
        node("Add", ["m", "s"], ["a"]),
        node("Mul", ["a", "gain"], ["y"]),
    ]
    rng = np.random.default_rng(6)
    consts = {"one": np.array(1), "w": rng.standard_normal((8, 8)).astype(np.float32)}
    proto = model(nodes, consts, {"x": (1, 8), "state": (2, 1, 8), "gain": ()})
    data = {
        "x": rng.standard_normal((5, 8)).astype(np.float32),
        "state": rng.standard_normal((10, 1, 8)).astype(np.float32),
        "gain": np.array(0.5, np.float32),
    }
    one = {"x": data["x"][:1], "state": data["state"][:2], "gain": data["gain"]}
    wanted = ort_run(proto, one)["y"]
    for options in ({"calibration_data": data, "bits": "W16A16"}, {"input_range": (-3, 3)}):
        got = qaccel.compile(proto, **options).run(one)["y"]
        assert got.shape == wanted.shape and np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()
    three = model([node("MatMul", ["x", "w"], ["y"])], consts, (3, 8))
    samples = {"x": rng.standard_normal((66, 8)).astype(np.float32)}
    assert qaccel.compile(three, calibration_data=samples).run({"x": samples["x"][:3]})["y"].shape == (3, 8)
