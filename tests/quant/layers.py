"""Small ONNX models for the quantizer's tests, and single outputs computed in plain Python integers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qaccel.dialect import operators
from qaccel.frontend.import_onnx import import_onnx
from qaccel.machine import numerics
from qaccel.model import Model
from qaccel.quant.calibrate.ranges import Ranges, calibrate

PAIRS = [(w, a) for w in (4, 8, 16) for a in (4, 8, 16)]


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, ...]],
    outputs: list[str],
    constants: dict[str, np.ndarray],
    opset: int = 13,
) -> onnx.ModelProto:
    """A float32 model; output shapes are inferred."""
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def node(op: str, name: str, inputs: list[str], **attributes: object) -> onnx.NodeProto:
    """A node whose output has its name."""
    return helper.make_node(op, inputs, [name], name=name, **attributes)


def prepared(made: onnx.ModelProto, seed: int = 0, samples: int = 4) -> tuple[Model, Ranges, dict[str, np.ndarray]]:
    """The model imported and calibrated on normal samples, and these samples."""
    imported = import_onnx(made)
    rng = np.random.default_rng(seed)
    data = {spec.name: rng.normal(0.2, 1, (samples, *spec.shape[1:])).astype(np.float32) for spec in imported.inputs}
    return imported, calibrate(imported, data), data


def conv_model(rng: np.random.Generator, relu: str = "", size: int = 9) -> onnx.ModelProto:
    """One random convolution: dense, grouped or depthwise, any stride, dilation and padding, maybe clamped."""
    groups = int(rng.choice([1, 1, 2, 4]))
    per_group = int(rng.integers(1, 4))
    channels, out = groups * per_group, groups * int(rng.integers(1, 4))
    kernel = [int(v) for v in rng.integers(1, 4, 2)]
    weight = rng.normal(size=(out, per_group, *kernel)).astype(np.float32) * rng.uniform(0.01, 2, (out, 1, 1, 1))
    attributes = {
        "strides": [int(v) for v in rng.integers(1, 3, 2)], "dilations": [int(v) for v in rng.integers(1, 3, 2)],
        "pads": [int(v) for v in rng.integers(0, 3, 4)], "group": groups, "kernel_shape": kernel,
    }  # fmt: skip
    constants = {"w": weight.astype(np.float32), "b": rng.normal(size=out).astype(np.float32)}
    nodes = [node("Conv", "conv", ["x", "w", "b"], **attributes)]
    last = "conv"
    if relu:
        constants |= {"lo": np.float32(0), "hi": np.float32(1.5)}
        nodes.append(node("Relu", "act", ["conv"]) if relu == "Relu" else node("Clip", "act", ["conv", "lo", "hi"]))
        last = "act"
    return model(nodes, {"x": (1, channels, size, size + 2)}, [last], constants)


def conv_output(
    attrs: operators.ConvAttrs,
    q: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    scale: np.ndarray,
    at: tuple[int, int, int, int],
) -> int:
    """One output (n, y, x, channel) of a quantized convolution, in Python integers."""
    n, y, x, channel = at
    _, kernel_h, kernel_w, per_group = weight.shape
    group = channel // (len(weight) // attrs.groups)
    acc = int(bias[channel])
    for ky in range(kernel_h):
        for kx in range(kernel_w):
            row = y * attrs.strides[0] - attrs.padding[0] + ky * attrs.dilation[0]
            column = x * attrs.strides[1] - attrs.padding[1] + kx * attrs.dilation[1]
            if not (0 <= row < q.shape[1] and 0 <= column < q.shape[2]):
                continue
            for c in range(per_group):
                value = int(q[n, row, column, group * per_group + c]) - attrs.source.zero_point
                acc += value * int(weight[channel, ky, kx, c])
    ratio = numerics.output_scale_ratio(attrs.source.scale, float(scale[channel]), attrs.result.scale)
    multiplier, shift = numerics.multiplier_and_shift(ratio)
    return numerics.requantize(acc, multiplier, shift, attrs.result.zero_point, attrs.clamp.lo, attrs.clamp.hi)
