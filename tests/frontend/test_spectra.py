"""DFT and STFT as products and convolutions: the values of ONNX Runtime and NumPy."""

import numpy as np
import onnx
import pytest

import qaccel
from frontend.onnx_models import model, node, ort_run

RNG = np.random.default_rng(8)


@pytest.mark.parametrize(
    ("opset", "parts", "how"),
    [
        (17, 1, {}), (17, 1, {"onesided": 1}), (17, 2, {"inverse": 1}),
        (20, 1, {"length": 20}), (20, 2, {"length": 10}), (20, 2, {"axis": 2}),
    ],
)  # fmt: skip
def test_dft(opset: int, parts: int, how: dict) -> None:
    shape, axis = (2, 16, 3, parts), how.get("axis", 1)
    consts = {"axis": np.array(axis)} | ({"length": np.array(how["length"])} if "length" in how else {})
    length = "length" if "length" in how else ""
    attrs = {key: value for key, value in how.items() if key in ("onesided", "inverse")}
    if opset < 20:
        proto = model([node("DFT", ["x", length], ["y"], axis=axis, **attrs)], consts, shape, opset=opset)
    else:
        proto = model([node("DFT", ["x", length, "axis"], ["y"], **attrs)], consts, shape, opset=opset)
    x = RNG.standard_normal(shape).astype("f4")
    real = x[..., 0] + 1j * x[..., 1] if parts == 2 else x[..., 0]
    wanted = (np.fft.ifft if "inverse" in how else np.fft.fft)(real, how.get("length"), axis)
    if how.get("onesided"):
        wanted = wanted[:, : wanted.shape[1] // 2 + 1]
    got = qaccel.compile(proto, target="llvm").run({"x": x})["y"]
    np.testing.assert_allclose(got, np.stack([wanted.real, wanted.imag], -1), atol=1e-4)


@pytest.mark.parametrize(("window", "parts", "onesided"), [(True, 1, 1), (False, 1, 0), (True, 2, 0)])
def test_stft(window: bool, parts: int, onesided: int) -> None:
    consts = {"step": np.array(24), "n": np.array(64)} | ({"window": np.hanning(64).astype("f4")} if window else {})
    names = ["x", "step", "window" if window else "", "" if window else "n"]
    proto = model([node("STFT", names, ["y"], onesided=onesided)], consts, (2, 256, parts))
    x = RNG.standard_normal((2, 256, parts)).astype("f4")
    got = qaccel.compile(proto, target="llvm").run({"x": x})["y"]
    np.testing.assert_allclose(got, ort_run(proto, {"x": x})["y"], atol=2e-4)


def test_on_the_accelerator() -> None:
    """One-sided, as it is where nothing is said, which ONNX's inference does not know."""
    consts = {"step": np.array(24), "window": np.hanning(64).astype("f4")}
    proto = model([node("STFT", ["x", "step", "window"], ["y"], name="stft")], consts, (1, 256, 1))
    x = RNG.standard_normal((8, 256, 1)).astype("f4")
    module = qaccel.compile(proto, calibration_data={"x": x}, bits="W16A16")
    assert not module.report.fallback
    wanted, got = ort_run(proto, {"x": x[:1]})["y"], module.run({"x": x[:1]})["y"]
    assert 10 * np.log10(np.square(wanted).sum() / np.square(got - wanted).sum()) > 70


@pytest.mark.parametrize("computed", [False, True])
def test_an_axis_that_is_not_known_is_refused_with_what_can_be_done(computed: bool) -> None:
    proto = model([node("DFT", ["x", "", "axis"], ["y"], name="dft")], {}, (1, 16, 1), opset=20)
    if computed:
        proto.graph.node.insert(0, node("ArgMax", ["x"], ["largest"], axis=1, keepdims=0))
        proto.graph.node.insert(1, node("Squeeze", ["largest"], ["axis"]))
    else:
        proto.graph.input.append(onnx.helper.make_tensor_value_info("axis", onnx.TensorProto.INT64, []))
    way_out = "make it a constant before export" if computed else 'fix it with --input-values "axis:VALUE"'
    with pytest.raises(qaccel.UserError, match=f"node 'dft': DFT compiles where 'axis' is a constant.*{way_out}"):
        qaccel.compile(proto)
    if not computed:
        assert not qaccel.compile(proto, input_values={"axis": 1}).report.fallback
