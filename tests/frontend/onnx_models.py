"""Small ONNX models for the tests, and ONNX Runtime as the reference for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def node(op: str, inputs: list[str], outputs: list[str], name: str = "", **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=name, **attrs)


def model(
    nodes: list[onnx.NodeProto],
    consts: dict[str, np.ndarray],
    shape: tuple[int | str | None, ...] | dict[str, tuple],
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
) -> onnx.ModelProto:
    shapes = shape if isinstance(shape, dict) else {"x": shape}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in shapes.items()],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in consts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def ort_run(proto: onnx.ModelProto | str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = proto if isinstance(proto, str) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def worst(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Largest difference, relative to the output's largest magnitude; infinite where names or shapes differ.

    Magnitudes count as at least 0.1: what is left where values of order 1 cancel has no accuracy relative to itself.
    """
    if list(actual) != list(expected) or any(actual[k].shape != expected[k].shape for k in expected):
        return float("inf")
    return max(
        float(np.abs(actual[k] - v).max() / max(np.abs(v).max(), 0.1)) if v.size else 0.0 for k, v in expected.items()
    )
