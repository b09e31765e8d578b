"""Formats beside ONNX: PyTorch's exported programs where torch is there, and one clear line where a package or a file is missing."""

import importlib.util

import numpy as np
import pytest

from qaccel.emulate.executor import execute
from qaccel.errors import QaccelError
from qaccel.frontend.import_model import import_model

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_TFLITE = importlib.util.find_spec("tflite") is not None


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_the_package_is_named(tmp_path):
    (tmp_path / "m.pt2").write_bytes(b"")
    with pytest.raises(QaccelError, match="pip install torch"):
        import_model(tmp_path / "m.pt2", None, None)


@pytest.mark.skipif(HAS_TFLITE, reason="tflite is installed")
def test_without_tflite_the_package_is_named(tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"")
    with pytest.raises(QaccelError, match="pip install tflite"):
        import_model(tmp_path / "m.tflite", None, None)


def test_a_missing_file_and_shapes_for_a_format_that_has_its_own(tmp_path):
    with pytest.raises(QaccelError, match="no such file"):
        import_model(tmp_path / "m.pt2", None, None)
    with pytest.raises(QaccelError, match="the shapes of a torch model are in its file"):
        import_model(tmp_path / "m.pt2", {"x": (1, 3)}, None)


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
@pytest.mark.parametrize("kind", ["plain", "mobile", "upsampling", "squeeze", "attention"])
def test_exported_programs_give_what_torch_gives(tmp_path, kind):
    import torch
    from torch import nn

    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.down, self.up = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(4, 8)

        def forward(self, x):
            y = nn.functional.silu(self.conv(x))
            gate = torch.sigmoid(self.up(torch.relu(self.down(y.mean((2, 3))))))
            wide = nn.functional.interpolate(y * gate.view(1, 8, 1, 1), scale_factor=2, mode="bilinear")
            return torch.cat([wide, -wide], 1)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.norm, self.head = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.Linear(16, 5)
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
            self.feed = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

        def forward(self, x):
            y = self.patch(x).flatten(2).transpose(1, 2)
            z = self.norm(y)
            y = y + self.attention(z, z, z, need_weights=False)[0]
            return self.head((y + self.feed(y)).mean(1))

    torch.manual_seed(0)
    nets = {
        "squeeze": Squeeze(),
        "attention": Attention(),
        "plain": nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
        ),
        "mobile": nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Hardswish(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.SiLU(),
            nn.Conv2d(8, 4, 1), nn.LeakyReLU(0.1), nn.Hardsigmoid(),
        ),
        "upsampling": nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), nn.ReLU6(),
            nn.Upsample(scale_factor=2, mode="nearest"),
        ),
    }  # fmt: skip
    net = nets[kind].eval()
    x = torch.randn(1, 3, 16, 16)
    torch.export.save(torch.export.export(net, (x,)), str(tmp_path / "m.pt2"))
    model = import_model(tmp_path / "m.pt2", None, None)
    (result,) = execute(model, {model.inputs[0].name: x.numpy()}).values()
    assert model.onnx_model.graph.node, "it went through ONNX, so that its passes could work on it"
    expected = net(x).detach().numpy()
    assert np.abs(result - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.skipif(not HAS_TFLITE, reason="tflite is not installed")
def test_a_tflite_convolution_equals_numpy(tmp_path):
    rng = np.random.default_rng(4)
    weights, bias = rng.standard_normal((6, 1, 1, 4)).astype(np.float32), rng.standard_normal(6).astype(np.float32)
    (tmp_path / "m.tflite").write_bytes(tflite_convolution(weights, bias, (1, 5, 5, 4)))
    model = import_model(tmp_path / "m.tflite", None, None)
    x = rng.standard_normal((1, 5, 5, 4)).astype(np.float32)
    (result,) = execute(model, {model.inputs[0].name: x}).values()
    np.testing.assert_allclose(result, np.maximum(x @ weights[:, 0, 0].T + bias, 0), rtol=1e-5, atol=1e-5)
    assert [n.op_type for n in model.operators] == ["Transpose", "Conv", "Relu", "Transpose"]
    (tmp_path / "cut.tflite").write_bytes((tmp_path / "m.tflite").read_bytes()[:200])
    with pytest.raises(QaccelError):
        import_model(tmp_path / "cut.tflite", None, None)


def tflite_convolution(weights: np.ndarray, bias: np.ndarray, shape: tuple[int, ...]) -> bytes:
    """A flatbuffer of one CONV_2D [OC, KH, KW, IC] with a fused Relu on an NHWC input, VALID padding."""
    import flatbuffers
    import tflite

    b = flatbuffers.Builder(1024)

    def vector(start, items):
        start(b, len(items))
        for item in reversed(items):
            b.PrependUOffsetTRelative(item)
        return b.EndVector()

    def numbers(values):
        return b.CreateNumpyVector(np.asarray(values, np.int32))

    buffers = []
    for data in (b"", weights.tobytes(), bias.tobytes()):
        content = b.CreateByteVector(data) if data else None
        tflite.BufferStart(b)
        if content is not None:
            tflite.BufferAddData(b, content)
        buffers.append(tflite.BufferEnd(b))
    out = (*shape[:3], weights.shape[0])
    tensors = []
    for name, dims, buffer in (("x", shape, 0), ("w", weights.shape, 1), ("b", bias.shape, 2), ("y", out, 0)):
        label, dimensions = b.CreateString(name), numbers(dims)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, dimensions)
        tflite.TensorAddType(b, tflite.TensorType.FLOAT32)
        tflite.TensorAddBuffer(b, buffer)
        tflite.TensorAddName(b, label)
        tensors.append(tflite.TensorEnd(b))
    tflite.Conv2DOptionsStart(b)
    tflite.Conv2DOptionsAddPadding(b, tflite.Padding.VALID)
    tflite.Conv2DOptionsAddStrideW(b, 1)
    tflite.Conv2DOptionsAddStrideH(b, 1)
    tflite.Conv2DOptionsAddDilationWFactor(b, 1)
    tflite.Conv2DOptionsAddDilationHFactor(b, 1)
    tflite.Conv2DOptionsAddFusedActivationFunction(b, tflite.ActivationFunctionType.RELU)
    options = tflite.Conv2DOptionsEnd(b)
    inputs, outputs = numbers([0, 1, 2]), numbers([3])
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, 0)
    tflite.OperatorAddInputs(b, inputs)
    tflite.OperatorAddOutputs(b, outputs)
    tflite.OperatorAddBuiltinOptionsType(b, tflite.BuiltinOptions.Conv2DOptions)
    tflite.OperatorAddBuiltinOptions(b, options)
    operators = vector(tflite.SubGraphStartOperatorsVector, [tflite.OperatorEnd(b)])
    all_tensors, first, last = vector(tflite.SubGraphStartTensorsVector, tensors), numbers([0]), numbers([3])
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, all_tensors)
    tflite.SubGraphAddInputs(b, first)
    tflite.SubGraphAddOutputs(b, last)
    tflite.SubGraphAddOperators(b, operators)
    subgraphs = vector(tflite.ModelStartSubgraphsVector, [tflite.SubGraphEnd(b)])
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, tflite.BuiltinOperator.CONV_2D)
    tflite.OperatorCodeAddBuiltinCode(b, tflite.BuiltinOperator.CONV_2D)
    tflite.OperatorCodeAddVersion(b, 1)
    codes = vector(tflite.ModelStartOperatorCodesVector, [tflite.OperatorCodeEnd(b)])
    all_buffers = vector(tflite.ModelStartBuffersVector, buffers)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, subgraphs)
    tflite.ModelAddBuffers(b, all_buffers)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    return bytes(b.Output())
