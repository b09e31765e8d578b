"""Formats beside ONNX: PyTorch's exported programs where torch is there, and one clear line where a package or a file is missing."""

import importlib.util

import numpy as np
import pytest

from qaccel.errors import QaccelError
from qaccel.frontend.import_model import import_model
from qaccel.quant.float_executor import execute

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
@pytest.mark.parametrize("kind", ["plain", "mobile", "upsampling"])
def test_exported_programs_give_what_torch_gives(tmp_path, kind):
    import torch
    from torch import nn

    torch.manual_seed(0)
    nets = {
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
    expected = net(x).detach().numpy()
    assert np.abs(result - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
