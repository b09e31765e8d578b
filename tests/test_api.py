import dataclasses
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
from frontend.onnx_models import ort_run
from processes import run_python
from qaccel.backend import register
from qaccel.cli.main import main
from qaccel.quant.calibrate.ranges import calibrate


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
    assert (Path(qaccel.__file__).parent / "py.typed").is_file()
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


def test_a_module_of_a_file_says_what_it_can(quantized, tmp_path: Path):
    module = qaccel.compile(quantized)
    loaded = qaccel.load(module.export_library(tmp_path / "module.so"))
    assert loaded.disassemble() == module.disassemble() == module.code("asm")
    assert loaded.report.layers == module.report.layers and type(loaded.report) is qaccel.Report
    for call in (loaded.timeline, lambda: loaded.write_report(tmp_path / "report")):
        with pytest.raises(qaccel.UserError, match="compile it again with --report DIR"):
            call()
    loaded.loaded.metadata["report"]["layers"][0]["cycles"] = "many"
    with pytest.raises(qaccel.UserError, match=r"damaged: its report has 'many' at layers\[0\].cycles"):
        _ = qaccel.Module(loaded=loaded.loaded).report


def test_loaded_module_cannot_be_exported_again(quantized, tmp_path: Path):
    qaccel.compile(quantized).export_library(tmp_path / "module.so")
    with pytest.raises(qaccel.QaccelError, match="copy that file"):
        qaccel.load(tmp_path / "module.so").export_library(tmp_path / "other.so")


def test_target_names_the_accelerator(quantized):
    assert qaccel.compile(quantized, target="qaccel -config=qaccel-1024, llvm").report["hw"]["name"] == "qaccel-1024"
    assert qaccel.compile(quantized, "qaccel-64", "qaccel, llvm -mcpu=native").report["hw"]["name"] == "qaccel-64"
    with pytest.raises(qaccel.UserError, match="given twice"):
        qaccel.compile(quantized, "qaccel-64", "qaccel -config=qaccel-64, llvm")


def test_llvm_is_the_cpu_alone(chain, quantized, data):
    """The float model as it is, a quantized one in the integers of the accelerator."""
    floating = qaccel.compile(chain, target="llvm")
    exact = ort_run(chain, {"x": data["x"][:1]})["y"]
    np.testing.assert_allclose(floating.run({"x": data["x"][0]})["y"], exact, rtol=1e-4, atol=1e-5)
    integers = qaccel.compile(quantized, target="llvm -mcpu=native")
    assert integers.metadata["target"] == "llvm -mcpu=native"
    np.testing.assert_array_equal(integers.run(data)["y"], quantized.run(data)["y"])
    for module in (floating, integers):
        assert module.artefacts == []
        with pytest.raises(qaccel.UserError, match="CPU alone"):
            _ = module.report
    with pytest.raises(qaccel.UserError, match="is the CPU alone; give 'qaccel, llvm' or drop hw"):
        qaccel.compile(chain, "qaccel-64", "llvm")


def test_compile_writes_what_tvmc_writes(chain, data, tmp_path: Path):
    """The same network by both doors: the same program, QDQ file, assembly, Relax and golden data."""
    onnx.save(chain, tmp_path / "chain.onnx")
    np.savez(tmp_path / "data.npz", **data)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    module = qaccel.compile(
        tmp_path / "chain.onnx", target="qaccel -config=qaccel-64", calibration_data=tmp_path / "data.npz", bits=(4, 8),
        input_shapes={"x": (1, 3, 16, 16)}, model_format="onnx", output=ours / "m.tar", report=ours / "report",
        emit_qdq=ours / "qdq.onnx", emit_program=ours / "program", dump_code=("relax", "asm"),
    )  # fmt: skip
    names = ("m.tar", "qdq.onnx", "program", "report", "m.tar.relax", "m.tar.asm")
    assert module.written == tuple(ours / name for name in names)
    code = main([
        "compile", str(tmp_path / "chain.onnx"), "--target=qaccel -config=qaccel-64", "--bits=W4A8", "--calibration-data",
        str(tmp_path / "data.npz"), "--input-shapes=x:[1,3,16,16]", "--model-format=onnx", "-o", str(theirs / "m.tar"),
        "--report", str(theirs / "report"), "--emit-qdq", str(theirs / "qdq.onnx"), "--emit-program",
        str(theirs / "program"), "--dump-code=relax,asm",
    ])  # fmt: skip
    assert code == 0
    files = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    compared = [
        path for path in files if path.suffix != ".tar" and path.parts[0] != "report"
    ]  # those hold compile times
    assert {"program.bin", "memory_map.json", "qdq.onnx", "m.tar.asm", "m.tar.relax"} <= {
        path.name for path in compared
    }
    for path in compared:
        assert (ours / path).read_bytes() == (theirs / path).read_bytes(), path
    assert module.code("asm") == (ours / "m.tar.asm").read_text()
    loaded = qaccel.load(ours / "m.tar")
    assert loaded.code("asm") == module.code("asm")
    with pytest.raises(qaccel.UserError, match="has no Relax"):
        loaded.code("relax")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": "llvm", "report": "r"}, "--report needs the accelerator"),
        ({"target": "llvm", "emit_program": "p"}, "--emit-program needs the accelerator"),
        ({"target": "llvm", "emit_qdq": "q.onnx"}, "--emit-qdq is for a quantized model"),
        ({"dump_code": ("asm",)}, "give its output"),
        ({"dump_code": ("ptx",), "output": "m.so"}, "'ptx' is unknown"),
        ({"output": "m.onnx"}, "must end in .so or .tar"),
        ({"tuning_records": "nowhere"}, "holds no records"),
        ({"model_format": "caffe"}, "--model-format caffe"),
        ({"calibration": "magic"}, "--calibration magic"),
        ({"target": "vulkan"}, "unknown kind 'vulkan'"),
    ],
)
def test_what_does_not_fit_is_found_before_the_work(chain, tmp_path: Path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qaccel.pipeline.import_model", lambda *_: pytest.fail("the work began"))
    monkeypatch.setattr("qaccel.pipeline.import_for_cpu", lambda *_: pytest.fail("the work began"))
    with pytest.raises(qaccel.UserError, match=says):
        qaccel.compile(chain, **arguments)
    assert list(tmp_path.iterdir()) == []


def broken(*_, **__):
    raise ZeroDivisionError("oops\nand more")


@pytest.mark.parametrize(
    ("place", "stage", "call"),
    [
        ("qaccel.pipeline.import_model", "import", lambda q, chain, path: qaccel.quantize(chain)),
        ("qaccel.pipeline.measure", "calibrate", lambda q, chain, path: qaccel.quantize(chain)),
        ("qaccel.pipeline.partition", "partition", lambda q, chain, path: qaccel.compile(q)),
        ("qaccel.pipeline.compile_subgraph", "codegen", lambda q, chain, path: qaccel.compile(q)),
        ("qaccel.api.options_of", "compile", lambda q, chain, path: qaccel.compile(q)),
        ("qaccel.networks.write_report", "report", lambda q, chain, path: qaccel.compile(q, report=path / "r")),
        ("qaccel.api.execute.load", "load", lambda q, chain, path: qaccel.load("m.so")),
        ("qaccel.quantized_network.write_qdq", "emit QDQ", lambda q, chain, path: q.save_onnx(path / "q.onnx")),
        ("qaccel.quantized_network.run_model", "run", lambda q, chain, path: q.run(np.zeros((1, 3, 16, 16)))),
        ("qaccel.run.execute.check_inputs", "run", lambda q, chain, path: qaccel.compile(q).run({})),
        (
            "qaccel.relax_idioms.import_relax",
            "partition_for_qaccel",
            lambda q, chain, path: qaccel.partition_for_qaccel(q.quantized.model.mod),
        ),
        ("qaccel.networks.load_labelled", "evaluate", lambda q, chain, path: qaccel.compile(q).evaluate("d.npz")),
        (
            "qaccel.networks.export_library",
            "export",
            lambda q, chain, path: qaccel.compile(q).export_library(path / "m.so"),
        ),
    ],
)
def test_what_is_unexpected_is_a_fault_with_its_stage(
    quantized, chain, tmp_path: Path, monkeypatch, place, stage, call
):
    monkeypatch.setattr(place, broken)
    with pytest.raises(qaccel.CompilerFault) as caught:
        call(quantized, chain, tmp_path)
    assert caught.value.stage == stage
    assert str(caught.value).startswith(
        f"internal error in the stage '{stage}': ZeroDivisionError: oops and more; this is"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_mistakes_of_the_calling_program_stay_type_errors(chain):
    for call in (qaccel.compile, qaccel.quantize):
        with pytest.raises(TypeError, match="colour"):
            call(chain, colour="red")


def test_keyboard_interrupt_passes(chain, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("qaccel.pipeline.measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        qaccel.compile(chain)


def objects_of(value, found: dict[type, object]) -> None:
    """One object of each of qaccel's dataclasses that hangs on ``value``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value) not in found:
            found[type(value)] = value
            for field in dataclasses.fields(value):
                objects_of(getattr(value, field.name), found)
    elif isinstance(value, tuple | list):
        for item in value[:2]:
            objects_of(item, found)


def test_reprs_are_short(chain, quantized, data, tmp_path: Path):
    """What a person sees who types the name of an object; `repr(module)` once had 306,334 characters."""
    module = qaccel.compile(quantized, output=tmp_path / "m.tar")
    cycles = f"{module.report['cycles']:,} cycles"
    layers = len(module.report["layers"])
    assert repr(module) == f"<Module '{quantized.name}': qaccel-256, {layers} layers, {cycles}>"
    assert repr(qaccel.load(tmp_path / "m.tar")) == repr(module)
    assert repr(quantized) == f"<QuantizedNetwork '{quantized.name}': 3 layers with weights, W8A8>"
    assert repr(qaccel.compile(chain, target="llvm -mcpu=native")) == f"<Module '{quantized.name}': llvm -mcpu=native>"
    ranges = calibrate(quantized.quantized.model, data)
    found: dict[type, object] = {}
    objects_of([module, ranges], found)
    objects_of([quantized, module.runner], found)
    names = {kind.__name__ for kind in found}
    assert {"Module", "QuantizedNetwork", "Compiled", "Linked", "Runner", "QuantizedModel", "Artefact"} <= names
    assert {"CompiledSubgraph", "Ranges", "Partitioned", "HwConfig", "CompileOptions", "ProfiledSubgraph"} <= names
    for value in found.values():
        assert len(repr(value)) < 200 and "\n" not in repr(value), type(value)


@pytest.mark.wide
def test_the_library_is_silent_until_it_is_listened_to(chain, tmp_path: Path):
    onnx.save(chain, tmp_path / "chain.onnx")
    code = "import logging, sys, qaccel\n{}\nqaccel.compile('chain.onnx')"
    assert run_python(code.format(""), tmp_path) == ""
    listens = "logging.basicConfig(level='DEBUG', stream=sys.stdout, format='%(name)s|%(message)s')"
    lines = run_python(code.format(listens), tmp_path).splitlines()
    for start in ("qaccel.stages|partition: begins", "qaccel.stages|quantize: 0.", "qaccel.npu.codegen|conv1: tile "):
        assert any(line.startswith(start) for line in lines), start


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


def test_the_only_input_needs_no_name(chain, quantized, data):
    module = qaccel.compile(quantized)
    for call in (module.run, quantized.run):
        by_name = call(data)["y"]
        np.testing.assert_array_equal(call(data["x"])["y"], by_name)
        np.testing.assert_array_equal(call(data["x"][2])["y"], by_name[2:3])


@pytest.mark.parametrize("form", ["array", "arrays", "feeds", "generator", "batches"])
def test_calibration_data_of_any_form_gives_the_same_network(chain, quantized, data, form: str):
    x = data["x"]
    given = {
        "array": x, "arrays": list(x), "feeds": [{"x": each} for each in x], "generator": ({"x": each} for each in x),
        "batches": [{"x": x[:4]}, {"x": x[4:]}],
    }[form]  # fmt: skip
    other = qaccel.quantize(chain, calibration_data=given)
    tvm.ir.assert_structural_equal(other.quantized.mod, quantized.quantized.mod)


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
