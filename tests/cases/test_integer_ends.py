"""Models whose inputs and outputs are integers, with no Q or DQ at their ends: the module takes and gives them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import qaccel
from cases.nets import Net, scalar
from qaccel.errors import UserError
from qdq.networks import every_tensor

TYPES = {"u1": TensorProto.UINT8, "i1": TensorProto.INT8, "i2": TensorProto.INT16, "u2": TensorProto.UINT16}
MIDDLE = {"u1": 128, "i1": 0, "i2": 0, "u2": 1 << 15}


def model_of(kind: str, integer_output: bool, input_zero: int | None = None) -> onnx.ModelProto:
    net = Net(21, 10)
    out = scalar(0.05 if "1" in kind else 0.002), np.array(MIDDLE[kind], kind)
    turned = net("Transpose", "x", perm=[0, 3, 1, 2])
    zero = MIDDLE[kind] if input_zero is None else input_zero
    x = net("DequantizeLinear", turned, scalar(0.03 if "1" in kind else 0.0002), np.array(zero, kind))
    weights = np.random.default_rng(3).integers(-63, 64, (5, 3, 3, 3)).astype("i1")
    y = net("Relu", net("Conv", x, net("DequantizeLinear", weights, scalar(0.01)), pads=[1] * 4))
    q = net("QuantizeLinear", y, *out, out="y" if integer_output else "")
    if not integer_output:
        net("DequantizeLinear", q, *out, out="y")
    ends = (
        {"x": (TYPES[kind], [1, 6, 6, 3])},
        {"y": (TYPES[kind] if integer_output else TensorProto.FLOAT, [1, 5, 6, 6])},
    )
    return net.model(*ends)


def sample(kind: str, seed: int = 0) -> np.ndarray:
    limits = np.iinfo(kind)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, (1, 6, 6, 3)).astype(kind)


@pytest.mark.wide
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("integer_output", [True, False])
def test_types_of_the_ends(kind: str, integer_output: bool) -> None:
    model, x = model_of(kind, integer_output), sample(kind)
    module = qaccel.compile(model, calibration_data={"x": x})
    assert not module.report["fallback"]
    wanted, got = every_tensor(model, x)["y"], module.run({"x": x})["y"]
    assert got.dtype == wanted.dtype
    step = 1 if integer_output else 0.05 if "1" in kind else 0.002
    off = np.abs(got.astype("f8") - wanted) / step
    assert off.max() <= 1.01 and (off > 0.5).mean() <= 0.01
    (entry,) = module.metadata["inputs"]
    assert (entry["dtype"], entry["zero_point"]) == (np.dtype(kind).name, MIDDLE[kind])
    with pytest.raises(UserError, match="float32; the model takes"):
        module.run({"x": x.astype("f4") * 0.5})


def test_quantized_alone_takes_them_too() -> None:
    model, x = model_of("u1", True), sample("u1")
    np.testing.assert_array_equal(qaccel.quantize(model).run({"x": x})["y"], every_tensor(model, x)["y"])


@pytest.mark.wide
def test_uint16_around_zero_runs_on_the_cpu() -> None:
    model, x = model_of("u2", True, input_zero=0), sample("u2")
    module = qaccel.compile(model)
    reason = next(each["reason"] for each in module.report["fallback"] if each["macs"])
    assert "uint16 with zero point 0, and the machine has 32768" in reason
    np.testing.assert_allclose(module.run({"x": x})["y"].astype("i8"), every_tensor(model, x)["y"].astype("i8"), atol=1)
