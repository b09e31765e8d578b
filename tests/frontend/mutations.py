"""Damaged and nonsensical ONNX models: bytes changed, nodes, operands, attributes and types swapped around."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from frontend.onnx_models import model, node

RNG = np.random.default_rng(70)


def rich_model() -> onnx.ModelProto:
    """A network of most kinds of operators that the import rewrites."""

    def f(*shape: int) -> np.ndarray:
        return RNG.standard_normal(shape).astype(np.float32)

    nodes = [
        node("Pad", ["x", "pads"], ["p"], mode="reflect"),
        node("Conv", ["p", "w", "b"], ["c"], name="conv", strides=[2, 2], auto_pad="SAME_UPPER"),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        node("HardSwish", ["n"], ["h"]),
        node("GlobalAveragePool", ["h"], ["g"]),
        node("Conv", ["g", "w1"], ["e"], name="gate"),
        node("HardSigmoid", ["e"], ["e1"], alpha=0.2),
        node("Mul", ["h", "e1"], ["q"]),
        node("Resize", ["q", "", "scales"], ["r"], mode="nearest"),
        node("ConvTranspose", ["q", "wt"], ["t"], strides=[2, 2]),
        node("Concat", ["r", "t"], ["k"], axis=1),
        node("Split", ["k", "parts"], ["k1", "k2"], axis=1),
        node("MaxPool", ["k1"], ["mp"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", ["mp"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Concat", ["batch", "minus"], ["target"], axis=0),
        node("Reshape", ["mp", "target"], ["flat"]),
        node("Gemm", ["flat", "fw", "fb"], ["fc"], transB=1),
        node("Softmax", ["fc"], ["y"], axis=-1),
        node("Transpose", ["k2"], ["nhwc"], perm=[0, 2, 3, 1]),
        node("ReduceMean", ["nhwc"], ["z"], axes=[1, 2], keepdims=0),
    ]
    consts = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": f(8, 3, 3, 3), "b": f(8), "s": f(8), "m": f(8),
        "v": np.abs(f(8)) + 0.1, "w1": f(8, 8, 1, 1), "scales": np.array([1, 1, 2, 2], np.float32), "wt": f(8, 8, 2, 2),
        "parts": np.array([4, 12]), "zero": np.array([0]), "minus": np.array([-1]), "fw": f(5, 4 * 25), "fb": f(5),
    }  # fmt: skip
    return model(nodes, consts, (1, 3, 8, 8), ("y", "z"))


def mutated(proto: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """A copy with one to three changes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for _ in range(int(rng.integers(1, 4))):
        CHANGES[int(rng.integers(len(CHANGES)))](copy.graph, rng)
    return copy


def _pick(items, rng: np.random.Generator):
    return items[int(rng.integers(len(items)))]


def _drop_node(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    if len(graph.node) > 1:
        del graph.node[int(rng.integers(len(graph.node)))]


def _operand(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    tensors = [o for n in graph.node for o in n.output] + [t.name for t in graph.initializer] + ["x", "", "nothing"]
    target = _pick(graph.node, rng)
    if target.input:
        target.input[int(rng.integers(len(target.input)))] = _pick(tensors, rng)


def _operand_count(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    target = _pick(graph.node, rng)
    if rng.integers(2) and target.input:
        del target.input[-1]
    else:
        target.input.append(_pick([t.name for t in graph.initializer], rng))


def _op_type(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    others = ["Relu", "LSTM", "Loop", "TopK", "Einsum", "Cast", "Where", "Squeeze", "Expand", "Slice", "DepthToSpace"]
    _pick(graph.node, rng).op_type = _pick([*others, *(n.op_type for n in graph.node)], rng)


def _attribute(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    target = _pick([n for n in graph.node if n.attribute] or graph.node, rng)
    if not target.attribute:
        return
    attribute = _pick(target.attribute, rng)
    if attribute.type == AttributeProto.INTS:
        values = [int(v) for v in attribute.ints]
        values[int(rng.integers(len(values)))] = int(_pick([-7, -1, 0, 1, 2, 3, 1 << 40], rng))
        attribute.ints[:] = values[: int(rng.integers(1, len(values) + 1))]
    elif attribute.type == AttributeProto.INT:
        attribute.i = int(_pick([-9, -1, 0, 1, 2, 5, 1 << 40], rng))
    elif attribute.type == AttributeProto.STRING:
        attribute.s = _pick([b"", b"SAME_LOWER", b"cubic", b"edge", b"\xff\xfe"], rng)
    else:
        attribute.f = float(_pick([0.0, -1.0, float("inf"), float("nan"), 1e30], rng))


def _constant(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    tensor = _pick(graph.initializer, rng)
    value = onnx.numpy_helper.to_array(tensor)
    kind = int(rng.integers(5))
    if kind == 0:
        value = value.reshape(-1)[: max(1, value.size // 2)]
    elif kind == 1:
        value = value.astype(np.int32 if value.dtype.kind == "f" else np.float32)
    elif kind == 2:
        value = value * value.dtype.type(-3)
    elif kind == 3:
        value = value.reshape(1, *value.shape)
    else:
        value = np.full(value.shape, np.nan if value.dtype.kind == "f" else 1 << 40, value.dtype)
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))


def _input_type(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    kinds = [TensorProto.FLOAT16, TensorProto.INT8, TensorProto.STRING, TensorProto.BOOL, TensorProto.FLOAT, 77]
    shape = _pick(
        [(1, 3, 8, 8), (2, 3, 8, 8), (1, 3, 1, 1), (0, 3, 8, 8), (3,), (), (1, "c", 8, 8), (1, 3, 999999, 8)], rng
    )
    graph.input[0].CopyFrom(helper.make_tensor_value_info("x", int(_pick(kinds, rng)), shape))


def _outputs(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    graph.output[0].name = _pick([o for n in graph.node for o in n.output] + ["x", "w", "nothing"], rng)


CHANGES = (_drop_node, _operand, _operand_count, _op_type, _attribute, _constant, _input_type, _outputs)
