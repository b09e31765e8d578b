"""Models that are no static graphs, on the CPU alone: TVM's importer takes them, or the refusal stays."""

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

import qaccel
from frontend.onnx_models import model, node, ort_run
from processes import run_python
from qaccel import link
from qaccel.api import Module
from qaccel.errors import CompilerFault, QaccelError
from qaccel.frontend.graph import NotStatic
from qaccel.frontend.import_model import import_for_cpu
from qaccel.options import CompileOptions, parse_target
from qaccel.pipeline import compile_model
from qaccel.stages import Stages


def compiled(proto: onnx.ModelProto) -> Module:
    options = CompileOptions(target=parse_target("llvm"))
    return Module(compile_model(proto, options, "m", Stages(False)))


def test_sizes_that_depend_on_data_run_on_the_cpu_and_are_said():
    proto = model([node("Relu", ["x"], ["r"]), node("NonZero", ["r"], ["y"])], {}, (3, 4))
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    module = compiled(proto)
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    assert np.array_equal(module.run({"x": x})["y"], ort_run(proto, {"x": x})["y"])
    assert module.metadata["outputs"][0]["shape"] == [-1, -1]
    assert "imported as it is by TVM" in module.notes[0] and "NonZero" in module.notes[0]
    with pytest.raises(QaccelError, match="NonZero.*is not known before the model runs.*--target llvm"):
        qaccel.compile(proto, input_range=(-1, 1))  # the accelerator needs a static graph


def test_branches_chosen_at_run_time():
    def branch(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 3))
        return helper.make_graph([node(op, ["x"], [name])], name, [], [out])

    proto = model(
        [node("If", ["c"], ["y"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg"))], {}, (2, 3)
    )
    proto.graph.input.insert(0, helper.make_tensor_value_info("c", TensorProto.BOOL, ()))
    x = np.random.default_rng(2).standard_normal((2, 3)).astype(np.float32)
    module = compiled(proto)
    for condition in (True, False):
        feeds = {"c": np.array(condition), "x": x}
        assert np.array_equal(module.run(feeds)["y"], ort_run(proto, feeds)["y"])


RUN_BOTH = """
import sys, numpy as np, qaccel
module, x = qaccel.load(sys.argv[1]), np.load(sys.argv[2])
np.savez(sys.argv[3], **{str(c): module.run({"c": np.array(c), "x": x})["y"] for c in (True, False)})
"""


def test_branches_with_memory_of_their_own(tmp_path):
    """TVM's plan of memory gave the second branch what only the first allocates: in a process of its own, which died of it."""

    def branch(name: str, *weights: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4, 4, 4))
        inner = [node("Conv", ["x", weights[0]], [f"{name}0"]), node("Conv", [f"{name}0", weights[1]], [name])]
        return helper.make_graph(inner, name, [], [out])

    rng = np.random.default_rng(3)
    weights = {name: rng.standard_normal((4, 4, 1, 1)).astype(np.float32) for name in ("v", "w")}
    choose = node("If", ["c"], ["y"], then_branch=branch("a", "v", "w"), else_branch=branch("b", "w", "v"))
    proto = model([choose], weights, (1, 4, 4, 4))
    proto.graph.input.insert(0, helper.make_tensor_value_info("c", TensorProto.BOOL, ()))
    compiled(proto).export_library(tmp_path / "m.so")
    x = rng.standard_normal((1, 4, 4, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    run_python(RUN_BOTH, tmp_path, "m.so", "x.npy", "y.npz")
    got = np.load(tmp_path / "y.npz")
    for condition in (True, False):
        wanted = ort_run(proto, {"c": np.array(condition), "x": x})["y"]
        np.testing.assert_allclose(got[str(condition)], wanted, rtol=1e-5, atol=1e-6)


def test_the_refusal_stays_where_tvm_would_give_other_numbers():
    limits = {"n": np.array([3], np.int64), "iou": np.array([0.5], np.float32), "score": np.array([0.1], np.float32)}
    shapes = {"b": (1, 4, 4), "s": (1, 1, 4)}
    good = model([node("NonMaxSuppression", ["b", "s", "n", "iou", "score"], ["y"])], limits, shapes)
    assert import_for_cpu(good, None, None)[1]
    missing = model([node("NonMaxSuppression", ["b", "s", "n"], ["y"])], limits, shapes)
    with pytest.raises(NotStatic):
        import_for_cpu(missing, None, None)
    further = model(
        [node("NonZero", ["x"], ["i"]), node("LayerNormalization", ["x", "w"], ["y", "mean"])],
        {"w": np.ones(4, np.float32)}, (3, 4), ("i", "y", "mean"),
    )  # fmt: skip
    with pytest.raises(QaccelError):
        import_for_cpu(further, None, None)


def test_a_symbolic_input_is_still_to_be_fixed_by_the_user():
    proto = model([node("NonZero", ["x"], ["y"])], {}, (1, "width"))
    with pytest.raises(QaccelError, match="--input-shapes"):
        import_for_cpu(proto, None, None)
    assert import_for_cpu(proto, {"x": (1, 5)}, None)[0].inputs[0].shape == (1, 5)


def test_no_inputs_and_no_elements():
    constant = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "v")
    proto = model([node("Constant", [], ["y"], value=constant)], {}, {})
    assert np.array_equal(compiled(proto).run({})["y"], numpy_helper.to_array(constant))
    with pytest.raises(QaccelError, match="no inputs"):
        qaccel.compile(proto)
    empty = model([node("Reshape", ["x", "s"], ["y"], allowzero=1)], {"s": np.array([3, 4, 0])}, (0, 3, 4))
    imported, _ = import_for_cpu(empty, None, None)
    machine = relax.VirtualMachine(link.build(imported.mod, tvm.target.Target("llvm"), {}).executable, tvm.cpu())
    assert machine["main"](tvm.runtime.tensor(np.zeros((0, 3, 4), np.float32))).numpy().shape == (3, 4, 0)


def test_what_tvm_cannot_compile_is_one_line():
    proto = model([node("ReduceMax", ["x", "axes"], ["y"])], {"axes": np.array([0])}, (2, 3), opset=20)
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.elem_type = TensorProto.BOOL
    with pytest.raises(CompilerFault, match="in the stage 'link'") as caught:
        compiled(proto)
    assert "\n" not in str(caught.value)
