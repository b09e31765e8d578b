"""Linear Resize: ONNX Runtime on the file that is written gives the machine's integers, all of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qaccel.emulate.integers import run_model
from qaccel.frontend.import_onnx import import_onnx
from qaccel.options import BitWidths
from qaccel.qdq.write import qdq_model
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.quantize import quantize
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
