"""The paper's grids of weights that our compiler does not make itself, emulated: one scale per tensor, and zero points.

Weights of the float model are rounded to the grid beforehand and then carried at 16 bits, where another rounding adds less than a
hundredth of a step of 8 bits; everything else is our quantizer's, with no pass but rounding to nearest.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

GRIDS = ("asym-layer", "sym-layer", "asym-chan", "sym-chan")


def folded(model: Path) -> onnx.ModelProto:
    """A model whose batch normalizations ONNX Runtime has put into the convolutions, as the paper does before it rounds."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def on_grid(model: onnx.ModelProto, bits: int, grid: str) -> onnx.ModelProto:
    """A copy in which the weights of convolutions and products lie on a grid of GRIDS."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    constants = {each.name: each for each in copied.graph.initializer}
    for node in copied.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in constants:
            turned = {each.name: helper.get_attribute_value(each) for each in node.attribute}.get("transB", 0)
            axis = 0 if node.op_type == "Conv" or turned else 1
            held = constants[node.input[1]]
            weight = np.moveaxis(numpy_helper.to_array(held), axis, 0)
            made = np.moveaxis(rounded(weight, bits, grid), 0, axis)
            held.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(made), held.name))
    return copied


def rounded(weight: np.ndarray, bits: int, grid: str) -> np.ndarray:
    """Weights [output channels, ...] rounded to the nearest of the grid; ranges hold all of them and 0."""
    over = tuple(range(weight.ndim)) if grid.endswith("layer") else tuple(range(1, weight.ndim))
    exact = weight.astype(np.float64)
    if grid.startswith("sym"):
        top = 2 ** (bits - 1) - 1
        step = np.maximum(np.abs(exact).max(over, keepdims=True) / top, np.finfo(np.float32).tiny)
        return (np.rint(exact / step) * step).astype(np.float32)
    low, high = np.minimum(exact.min(over, keepdims=True), 0), np.maximum(exact.max(over, keepdims=True), 0)
    step = np.maximum((high - low) / (2**bits - 1), np.finfo(np.float32).tiny)
    zero_point = np.rint(-low / step)
    return ((np.clip(np.rint(exact / step) + zero_point, 0, 2**bits - 1) - zero_point) * step).astype(np.float32)
