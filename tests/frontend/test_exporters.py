"""Networks in the spellings of PaddlePaddle and PyTorch, and BatchNormalization in odd places, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from frontend.checks import assert_equals_onnx_runtime, f, i, onnx_ops
from frontend.onnx_models import model, node
from qaccel.errors import QaccelError
from qaccel.frontend.import_onnx import import_onnx

CONSTS: dict[str, np.ndarray] = {
    "w1": f(8, 3, 3, 3), "g": f(8), "b": f(8), "m": f(8), "v": np.abs(f(8)) + 0.1, "w2": f(8, 1, 3, 3),
    "three": np.array([3], np.float32), "six": np.array([6], np.float32), "zero": np.float32(0), "top": np.float32(6),
    "wf": f(8, 10), "bf": f(10), "i0": i(0), "i1": i(1), "i2": i(2), "i4": i(4), "m1": i(-1), "w3": f(8, 8, 1, 1),
    "w": f(6, 8), "s": i(2, 8, 1, 1),
}  # fmt: skip
BN = ["g", "b", "m", "v"]


def hard_swish(source: str, out: str) -> list[onnx.NodeProto]:
    return [
        node("Add", [source, "three"], [f"{out}_a"]),
        node("Clip", [f"{out}_a", "zero", "top"], [f"{out}_b"]),
        node("Mul", [source, f"{out}_b"], [f"{out}_c"]),
        node("Div", [f"{out}_c", "six"], [out]),
    ]


def paddle(height: int | str, width: int | str) -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w1"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], dilations=[1, 1], group=1),
        node("BatchNormalization", ["c", *BN], ["bn"], epsilon=1e-5), *hard_swish("bn", "h"),
        node("Conv", ["h", "w2"], ["d"], group=8, pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["d", *BN], ["bd"]), *hard_swish("bd", "h2"),
        node("Shape", ["h"], ["sh"]), node("Slice", ["sh", "i2", "i4", "i0"], ["hw"]),
        node("Shape", ["h2"], ["sh2"]), node("Slice", ["sh2", "i0", "i2", "i0"], ["nc"]),
        node("Concat", ["nc", "hw"], ["size"], axis=0),
        node("Resize", ["h2", "", "", "size"], ["up"], mode="nearest", coordinate_transformation_mode="asymmetric",
             nearest_mode="floor"),
        node("Concat", ["up", "h"], ["cat"], axis=1), node("GlobalAveragePool", ["up"], ["gp"]), node("Shape", ["gp"], ["s0"]),
        node("Slice", ["s0", "i0", "i1", "i0"], ["n"]), node("Concat", ["n", "m1"], ["to"], axis=0),
        node("Reshape", ["gp", "to"], ["fl"]), node("MatMul", ["fl", "wf"], ["mm"]), node("Add", ["mm", "bf"], ["lg"]),
        node("Softmax", ["lg"], ["y"], axis=1),
    ]  # fmt: skip
    return model(nodes, CONSTS, ("N", 3, height, width), outputs=("y", "cat"), opset=13)


def test_paddle() -> None:
    imported = assert_equals_onnx_runtime(paddle(32, 48))
    assert {"Shape", "Slice", "BatchNormalization", "Div", "Resize"}.isdisjoint(onnx_ops(imported))
    with pytest.raises(QaccelError, match=r'--input-shapes "x:\[1,3,224,224\]"'):
        import_onnx(paddle("H", "W"))
    assert import_onnx(paddle("H", "W"), {"x": (1, 3, 64, 64)}).outputs[1].shape == (1, 16, 32, 32)


ODD = {
    "before a padded convolution": [
        node("BatchNormalization", ["x", *BN], ["n"]), node("Conv", ["n", "w3"], ["y"], pads=[1, 1, 1, 1]),
    ],
    "after a join": [node("Concat", ["x", "x"], ["n"], axis=2), node("BatchNormalization", ["n", *BN], ["y"])],
    "twice": [node("BatchNormalization", ["x", *BN], ["n"]), node("BatchNormalization", ["n", *BN], ["y"])],
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_batch_norm_in_odd_places(what: str) -> None:
    imported = assert_equals_onnx_runtime(model(ODD[what], CONSTS, (1, 8, 5, 5)))
    assert "BatchNormalization" not in onnx_ops(imported)


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 3)])
def test_batch_norm_of_other_ranks(shape: tuple[int, ...]) -> None:
    assert_equals_onnx_runtime(model([node("BatchNormalization", ["x", *BN], ["y"])], CONSTS, shape))


def test_batch_norm_after_a_reshaped_product() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["n"]),
        node("Reshape", ["n", "s"], ["r"]),
        node("BatchNormalization", ["r", *BN], ["y"]),
    ]
    assert_equals_onnx_runtime(model(nodes, CONSTS, (2, 6)))


def test_noise() -> None:
    """Identity, Dropout, Cast there and back to the same type, Constants as nodes."""
    value = helper.make_tensor("value", 1, [8], np.arange(8, dtype=np.float32))
    nodes = [
        node("Constant", [], ["k"], value=value), node("Identity", ["x"], ["a"]), node("Cast", ["a"], ["b_"], to=1),
        node("Dropout", ["b_"], ["c"]), node("Reshape", ["k", "s8"], ["k4"]), node("Mul", ["c", "k4"], ["d"]), node("Identity", ["d"], ["y"]),
    ]  # fmt: skip
    imported = assert_equals_onnx_runtime(model(nodes, {"s8": i(1, 8, 1, 1)}, (1, 8, 3, 3)))
    assert onnx_ops(imported) == ["Mul"]


def test_resize_without_its_operands_at_opset_11() -> None:
    nodes = [node("Resize", ["x", "", "", "size"], ["y"], mode="nearest")]
    imported = import_onnx(model(nodes, {"size": i(1, 2, 6, 6)}, (1, 2, 3, 3), opset=11))
    assert set(onnx_ops(imported)) == {"Gather"}


def test_a_function_of_the_dynamo_exporter() -> None:
    """Local functions of another domain are inlined; allowzero and optional outputs are understood."""
    body = helper.make_function(
        "pkg.onnxscript", "silu", ["v"], ["r"], [node("Sigmoid", ["v"], ["g"]), node("Mul", ["v", "g"], ["r"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    nodes = [
        node("Conv", ["x", "w1"], ["c"], auto_pad="NOTSET", pads=[1, 1, 1, 1]),
        helper.make_node("silu", ["c"], ["d"], domain="pkg.onnxscript"),
        node("ReduceMean", ["d", "axes"], ["e"], keepdims=1, noop_with_empty_axes=0),
        node("Reshape", ["e", "flat"], ["y"], allowzero=1),
    ]
    proto = model(nodes, {"w1": CONSTS["w1"], "axes": i(-1, -2), "flat": i(1, 8)}, (1, 3, 8, 8), opset=18)
    proto.functions.append(body)
    proto.opset_import.append(helper.make_opsetid("pkg.onnxscript", 1))
    imported = assert_equals_onnx_runtime(proto)
    assert onnx_ops(imported) == ["Conv", "Sigmoid", "Mul", "ReduceMean", "Reshape"]
