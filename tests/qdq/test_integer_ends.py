"""Models whose inputs and outputs are integers keep them in the file that is written: read again, the same program and ends."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qaccel.options import TargetOptions, options_of
from qaccel.pipeline import quantize_model
from qaccel.qdq.write import qdq_model
from qaccel.stages import Stages
from qdq.test_round_trip import check, unoptimized
from tiers import wide_after

ZERO_POINTS = {"int8": -3, "uint8": 120, "int16": 0, "uint16": 1 << 15}
PAIRS = [("uint8", "int8"), ("int16", "uint16"), *((a, b) for a in ZERO_POINTS for b in ZERO_POINTS)]


def integer_model(entry: str, end: str, second: bool = False) -> onnx.ModelProto:
    """A convolution from integers to integers; with ``second`` the result is read again, by a Relu of an output of its own."""
    rng = np.random.default_rng(4)
    constants = {
        "xs": np.float32(0.05), "xz": np.array(ZERO_POINTS[entry], entry), "ys": np.float32(0.07),
        "yz": np.array(ZERO_POINTS[end], end), "w": rng.integers(-127, 128, (5, 4, 3, 3)).astype(np.int8),
        "ws": np.float32(0.01), "wz": np.int8(0), "b": rng.integers(-900, 900, 5).astype(np.int32),
        "bs": np.float32(0.05) * np.float32(0.01),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xr"], "x_real"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wr"], "w_real"),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["br"], "b_real"),
        helper.make_node("Conv", ["xr", "wr", "br"], ["c"], "conv"),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["y"], "y_rounded"),
    ]
    outputs = ["y"]
    if second:
        nodes += [
            helper.make_node("DequantizeLinear", ["y", "ys", "yz"], ["yr"], "y_real"),
            helper.make_node("Relu", ["yr"], ["r"], "relu"),
            helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["z"], "z_rounded"),
        ]
        outputs.append("z")

    def kind(dtype: str) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    graph = helper.make_graph(
        nodes, "integers", [helper.make_tensor_value_info("x", kind(entry), [1, 4, 6, 6])],
        [helper.make_tensor_value_info(name, kind(end), [1, 5, 4, 4]) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(("entry", "end"), wide_after(2, PAIRS))
def test_ends_stay_integers(entry: str, end: str, second: bool) -> None:
    model = integer_model(entry, end, second)
    q = quantize_model(model, options_of(TargetOptions()), Stages())
    written = qdq_model(q)
    for ours, theirs in zip((*written.graph.input, *written.graph.output), (*model.graph.input, *model.graph.output), strict=True):  # fmt: skip
        assert (ours.name, ours.type.tensor_type.elem_type) == (theirs.name, theirs.type.tensor_type.elem_type)
    again = quantize_model(written, options_of(TargetOptions()), Stages())
    assert q.model.given is not None and again.model.given is not None
    assert again.model.given.ends == q.model.given.ends
    check(q)
    limits = np.iinfo(entry)
    x = np.random.default_rng(1).integers(limits.min, limits.max + 1, (1, 4, 6, 6)).astype(entry)
    for made, wanted in zip(
        unoptimized(written).run(None, {"x": x}), unoptimized(model).run(None, {"x": x}), strict=True
    ):
        np.testing.assert_array_equal(made, wanted)


def test_an_input_that_floats_read_too_stays_float() -> None:
    """The input is read through its scale by an operator on the CPU: there is no QuantizeLinear to leave out."""
    model = integer_model("int8", "int8")
    model.graph.node.insert(3, helper.make_node("Softmax", ["xr"], ["s"], "softmax"))
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 4, 6, 6]))
    written = qdq_model(quantize_model(model, options_of(TargetOptions()), Stages()))
    x = np.random.default_rng(1).integers(-128, 128, (1, 4, 6, 6)).astype(np.int8)
    kind = written.graph.input[0].type.tensor_type.elem_type
    feed = x if kind == TensorProto.INT8 else ((x.astype(np.float32) + 3) * np.float32(0.05)).astype(np.float32)
    for made, wanted in zip(
        unoptimized(written).run(None, {"x": feed}), unoptimized(model).run(None, {"x": x}), strict=True
    ):
        np.testing.assert_array_equal(made, wanted)
