"""Linear Resize: ONNX Runtime on the file that is written gives the machine's integers, all of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cases.nets import Net, scalar
from qaccel.emulate.integers import run_model
from qaccel.frontend.import_onnx import import_onnx
from qaccel.options import BitWidths, TargetOptions, options_of
from qaccel.pipeline import quantize_model
from qaccel.qdq.write import qdq_model
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.quantize import quantize
from qaccel.stages import Stages
from qdq.test_round_trip import check, unoptimized
from tiers import wide_after

CASES = [("asymmetric", 2), ("half_pixel", 4), ("asymmetric", 4), ("half_pixel", 2), ("asymmetric", 3)]


@pytest.mark.parametrize("activation_bits", [4, 8])
@pytest.mark.parametrize(("mode", "factor"), wide_after(2, CASES))
def test_no_output_differs(mode: str, factor: int, activation_bits: int) -> None:
    """Of an asymmetric one the range is that of its input, so that without care a twentieth of its sums are ties."""
    node = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], "resize", mode="linear", coordinate_transformation_mode=mode
    )
    scales = numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "scales")
    graph = helper.make_graph(
        [node], "resize", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 12 * factor, 12 * factor])], [scales],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    imported = import_onnx(model)
    data = {"x": np.random.default_rng(8).normal(0.3, 1, (8, 3, 12, 12)).astype(np.float32)}
    q = quantize(imported, calibrate(imported, data), BitWidths(8, activation_bits))
    written = qdq_model(q)
    onnx.checker.check_model(written, full_check=True)
    session = unoptimized(written)
    wanted = np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in data["x"]])
    np.testing.assert_array_equal(run_model(q, data)["y"], wanted)
    check(q)


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners"])
def test_on_integers_it_is_rounded_to_them(mode: str) -> None:
    """As ONNX Runtime's quantizer writes it in its operator format. What lies between two integers is rounded, not cut off."""
    net = Net(13)
    scale, zero = scalar(0.05), np.array(100, "u1")
    q = net("QuantizeLinear", "x", scale, zero)
    made = net("Resize", q, "", np.array([1, 1, 2, 2], "f4"), mode="linear", coordinate_transformation_mode=mode)
    net("Relu", net("DequantizeLinear", made, scale, zero), out="y")
    model = net.model({"x": [1, 3, 6, 6]}, {"y": [1, 3, 12, 12]})
    x = np.random.default_rng(8).normal(0.3, 2, (1, 3, 6, 6)).astype(np.float32)

    steps = Net(13)
    steps("Resize", "x", "", np.array([1, 1, 2, 2], "f4"), out="y", mode="linear", coordinate_transformation_mode=mode)
    exact = unoptimized(steps.model({"x": [1, 3, 6, 6]}, {"y": [1, 3, 12, 12]}))
    (between,) = exact.run(None, {"x": np.clip(np.rint(x / 0.05), -100, 155)})
    assert (np.abs(between - np.trunc(between)) > 0.6).any()  # where cutting off is seen
    network = quantize_model(model, options_of(TargetOptions()), Stages())
    np.testing.assert_allclose(run_model(network, {"x": x})["y"], np.maximum(np.rint(between), 0) * 0.05, atol=1e-5)
    again = quantize_model(
        model, options_of(TargetOptions(), bits=16, requantize=True, calibration_data={"x": x}), Stages()
    )
    np.testing.assert_allclose(run_model(again, {"x": x})["y"], np.maximum(between, 0) * 0.05, atol=0.06)
