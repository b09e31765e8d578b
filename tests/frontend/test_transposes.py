"""Graphs in NHWC, as TensorFlow's exporters write them: few Transposes are left, the values are those of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from frontend.checks import assert_equals_onnx_runtime, f, i, onnx_ops
from frontend.onnx_models import model, node

TO_NCHW, TO_NHWC = {"perm": [0, 3, 1, 2]}, {"perm": [0, 2, 3, 1]}
CONSTS: dict[str, np.ndarray] = {
    "w1": f(8, 3, 3, 3), "g1": f(8), "b1": f(8), "w2": f(8, 1, 3, 3), "g2": f(8), "b2": f(8), "w3": f(8, 8, 1, 1),
    "g3": f(8), "b3": f(8), "lo": np.float32(0), "hi": np.float32(6), "pads": i(0, 0, 0, 0, 0, 1, 1, 0), "fw": f(8, 10),
    "fb": f(10), "mean": f(3), "sd": f(3), "sw": f(8, 2), "sw2": f(2, 8), "s4": i(-1, 1, 1, 8), "slope": f(1, 1, 8),
    "cpad": i(0, 0, 0, 0, 0, 0, 0, 3), "i1": i(1), "i9": i(9), "i3": i(3), "up": np.array([1, 1, 2, 2], np.float32),
    "rows": i(1, -1, 8), "flat": i(1, 128), "big": f(128, 5), "half": np.float32(0.5), "two": np.float32(2),
    "pick": i(2, 0, 1), "tiles": i(1, 1, 2, 1),
}  # fmt: skip


def conv(source: str, out: str, weight: str, **attrs: Any) -> list[onnx.NodeProto]:
    return [
        node("Transpose", [source], [f"{out}_t"], **TO_NCHW),
        node("Conv", [f"{out}_t", weight], [f"{out}_c"], **attrs),
        node("Transpose", [f"{out}_c"], [out], **TO_NHWC),
    ]


def affine(source: str, out: str, k: int) -> list[onnx.NodeProto]:
    return [node("Mul", [source, f"g{k}"], [f"{out}_m"]), node("Add", [f"{out}_m", f"b{k}"], [out])]


SAME: dict[str, Any] = {"pads": [1, 1, 1, 1]}
# name: nodes, input shape, Transposes left
GRAPHS: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], int]] = {
    "classifier with everything": (
        [
            node("Sub", ["x", "mean"], ["x1"]), node("Mul", ["x1", "sd"], ["x2"]), node("Pad", ["x2", "pads"], ["x3"]),
            *conv("x3", "c1", "w1", strides=[2, 2]), *affine("c1", "d1", 1), node("Clip", ["d1", "lo", "hi"], ["e1"]),
            *conv("e1", "c2", "w2", group=8, **SAME), *affine("c2", "d2", 2), node("PRelu", ["d2", "slope"], ["e2"]),
            *conv("e2", "c3", "w3"), *affine("c3", "d3", 3), node("Add", ["d3", "e1"], ["r"]),
            node("ReduceMean", ["r"], ["m"], axes=[1, 2], keepdims=0), node("MatMul", ["m", "sw"], ["m1"]),
            node("Relu", ["m1"], ["m2"]), node("MatMul", ["m2", "sw2"], ["m3"]), node("Sigmoid", ["m3"], ["m4"]),
            node("Reshape", ["m4", "s4"], ["m5"]), node("Mul", ["r", "m5"], ["r2"]),
            node("Concat", ["r2", "e1"], ["cc"], axis=3), node("Slice", ["cc", "i1", "i9", "i3"], ["s"]),
            node("ReduceMean", ["s"], ["gp"], axes=[1, 2], keepdims=0), node("MatMul", ["gp", "fw"], ["l"]),
            node("Add", ["l", "fb"], ["l2"]), node("Softmax", ["l2"], ["y"], axis=-1),
        ],
        (1, 16, 16, 3), 1,
    ),
    "squeeze-excite by convolutions": (
        [
            *conv("x", "c1", "w1", **SAME), node("Relu", ["c1"], ["a"]),
            node("ReduceMean", ["a"], ["m"], axes=[1, 2], keepdims=1), *conv("m", "c3", "w3"),
            node("HardSigmoid", ["c3"], ["h"]), node("Mul", ["a", "h"], ["b"]), node("Softmax", ["b"], ["sm"], axis=-1),
            node("Pad", ["sm", "cpad"], ["pp"]), node("ReduceMax", ["pp"], ["y"], axes=[3], keepdims=1),
        ],
        (1, 8, 8, 3), 1,
    ),
    "pyramid, rows of boxes": (
        [
            *conv("x", "c1", "w1", strides=[2, 2], **SAME), node("Relu", ["c1"], ["a"]), *conv("a", "c3", "w3", strides=[2, 2]),
            node("Transpose", ["c3"], ["u"], **TO_NCHW), node("Resize", ["u", "", "up"], ["v"], mode="nearest"),
            node("Transpose", ["v"], ["vv"], **TO_NHWC), node("Add", ["vv", "a"], ["s"]),
            node("Reshape", ["s", "rows"], ["o1"]), node("Reshape", ["c3", "rows"], ["o2"]),
            node("Concat", ["o1", "o2"], ["y"], axis=1),
        ],
        (1, 8, 8, 3), 3,
    ),
    "flattened before a dense layer": (
        [*conv("x", "c1", "w1", strides=[2, 2], **SAME), node("Reshape", ["c1", "flat"], ["r"]), node("MatMul", ["r", "big"], ["y"])],
        (1, 8, 8, 3), 1,
    ),
    "wrapped for NCHW callers": (
        [
            node("Transpose", ["x"], ["a"], **TO_NHWC), *conv("a", "c1", "w1"), node("Relu", ["c1"], ["r"]),
            node("Transpose", ["r"], ["y"], **TO_NCHW),
        ],
        (1, 3, 8, 8), 0,
    ),
    "split, joined, the best class": (
        [
            *conv("x", "c1", "w1", **SAME), node("Split", ["c1"], ["s1", "s2"], axis=3),
            node("Concat", ["s2", "s1"], ["s"], axis=-1), node("ArgMax", ["s"], ["am"], axis=3), node("Cast", ["am"], ["y"], to=1),
        ],
        (1, 8, 8, 3), 1,
    ),
    "swish spelled out, pool, square": (
        [
            *conv("x", "c1", "w1", **SAME), node("Mul", ["c1", "half"], ["h"]), node("Sigmoid", ["h"], ["s"]),
            node("Mul", ["c1", "s"], ["sw_"]), *conv("sw_", "c3", "w3"), node("Add", ["c3", "sw_"], ["z"]),
            node("Transpose", ["z"], ["zz"], **TO_NCHW), node("MaxPool", ["zz"], ["mp"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Transpose", ["mp"], ["mq"], **TO_NHWC), node("Pow", ["mq", "two"], ["y"]),
        ],
        (1, 8, 8, 3), 2,
    ),
    "picked and tiled": (
        [
            *conv("x", "c1", "w1", **SAME), node("Gather", ["c1", "pick"], ["g"], axis=3), node("Tile", ["g", "tiles"], ["t"]),
            *conv("t", "y", "w1"),
        ],
        (1, 8, 8, 3), 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", GRAPHS)
def test_transposes_vanish(what: str) -> None:
    nodes, shape, left = GRAPHS[what]
    imported = assert_equals_onnx_runtime(model(nodes, CONSTS, shape, opset=13), 3e-5)
    assert onnx_ops(imported).count("Transpose") <= left


def test_a_transpose_of_channels_stays() -> None:
    """Nothing to cancel with: a graph without another layout keeps what it has."""
    proto = model(
        [node("Transpose", ["x"], ["a"], perm=[0, 2, 1]), node("MatMul", ["a", "w"], ["y"])], {"w": f(3, 2)}, (1, 3, 5)
    )
    assert onnx_ops(assert_equals_onnx_runtime(proto)) == ["Transpose", "MatMul"]
