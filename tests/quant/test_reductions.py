"""Sums, maxima and means over any axes but the batch, and planes beyond the largest kernel, on the accelerator."""

import numpy as np
import pytest

import qaccel
from frontend.onnx_models import model, node, ort_run
from tiers import wide_after

CASES = {
    "sum over the plane": (node("ReduceSum", ["x", "plane"], ["y"], name="r"), (1, 6, 9, 11)),
    "sum over channels": (node("ReduceSum", ["x", "channels"], ["y"], name="r", keepdims=0), (1, 6, 9, 11)),
    "maximum over channels": (node("ReduceMax", ["x"], ["y"], name="r", axes=[1]), (1, 20, 5, 7)),
    "maximum over rows": (node("ReduceMax", ["x"], ["y"], name="r", axes=[2], keepdims=0), (1, 4, 12, 7)),
    "maximum over features": (node("ReduceMax", ["x"], ["y"], name="r", axes=[-1]), (3, 40)),
    "maximum of a wide plane": (node("GlobalMaxPool", ["x"], ["y"], name="r"), (1, 3, 300, 8)),
    "mean of a wide plane": (node("GlobalAveragePool", ["x"], ["y"], name="r"), (1, 3, 8, 300)),
    "maximum of a large line": (node("GlobalMaxPool", ["x"], ["y"], name="r"), (1, 4, 1024)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bits", wide_after(1, ["W8A8", "W16A16"]))
def test_on_the_accelerator(name: str, bits: str):
    """Nothing on the CPU; the machine gives the same integers as NumPy; 16 bits are close to ONNX Runtime."""
    reduction, shape = CASES[name]
    proto = model([reduction], {"plane": np.array([2, 3]), "channels": np.array([1])}, shape, opset=13)
    rng = np.random.default_rng(len(name))
    data = {"x": rng.standard_normal((4 * shape[0], *shape[1:])).astype(np.float32)}
    quantized = qaccel.quantize(proto, calibration_data=data, bits=bits)
    module = qaccel.compile(quantized)
    assert module.report["fallback"] == []
    one = {"x": data["x"][: shape[0]]}
    got = module.run(one)["y"]
    assert np.array_equal(got, quantized.run(one)["y"])
    wanted = ort_run(proto, one)["y"]
    assert got.shape == wanted.shape
    noise = 10 * np.log10(np.square(wanted).sum() / max(np.square(got - wanted).sum(), 1e-30))
    assert noise > (25 if bits == "W8A8" else 65)
