"""Programs of torch.export with the operators of PT2E quantization: bits, scales and zero points of the file, on the accelerator."""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import qaccel
from cases.nets import macs_on_the_cpu
from qaccel.errors import UserError

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchao") is None:
    pytest.skip("the packages torch and torchao are not installed", allow_module_level=True)

import torch

importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")  # defines the operators
OPS = torch.ops.quantized_decomposed
LIMITS = {8: (-128, 127, torch.int8), 4: (-8, 7, torch.int8), 16: (-32768, 32767, torch.int16)}
pytestmark = pytest.mark.wide  # whole compilations


class Net(torch.nn.Module):
    """A convolution and a product with float biases, every activation quantized to ``bits``, weights to ``weight_bits``."""

    def __init__(self, weight_bits: int, bits: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight_bits, self.bits = weight_bits, bits
        top = LIMITS[weight_bits][1]
        self.register_buffer("a", torch.randint(-top, top + 1, (8, 3, 3, 3), dtype=torch.int8))
        self.register_buffer("b", torch.randint(-top, top + 1, (5, 8), dtype=torch.int8))
        self.register_buffer("a_scale", (torch.rand(8) + 1) / top / 4)
        self.register_buffer("b_scale", (torch.rand(5) + 1) / top / 2)
        self.a_bias, self.b_bias = torch.nn.Parameter(torch.randn(8) / 4), torch.nn.Parameter(torch.randn(5) / 4)

    def weight(self, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        least, most, _ = LIMITS[self.weight_bits]
        zero = torch.zeros(len(scale), dtype=torch.int64)
        return OPS.dequantize_per_channel(values, scale, zero, 0, least, most, torch.int8)

    def rounded(self, x: torch.Tensor, reach: float) -> torch.Tensor:
        least, most, kind = LIMITS[self.bits]
        how = reach / most, 3 if self.bits == 8 else 0, least, most, kind
        return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *how), *how)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.conv2d(self.rounded(x, 3.0), self.weight(self.a, self.a_scale), self.a_bias)
        x = torch.nn.functional.max_pool2d(self.rounded(torch.relu(x), 6.0), 6)
        x = torch.nn.functional.linear(x.flatten(1), self.weight(self.b, self.b_scale), self.b_bias)
        return self.rounded(x, 12.0)


def saved(net: torch.nn.Module, path: Path) -> Path:
    torch.export.save(torch.export.export(net.eval(), (torch.randn(1, 3, 8, 8),)), str(path))
    return path


@pytest.mark.parametrize(("weight_bits", "bits"), [(8, 8), (4, 8), (8, 16), (4, 4)])
def test_bits_and_integers_are_those_of_the_program(weight_bits: int, bits: int, tmp_path: Path) -> None:
    """One step off at most, where PyTorch's sums in float32 are at a tie."""
    net = Net(weight_bits, bits)
    module = qaccel.compile(saved(net, tmp_path / "m.pt2"))
    assert macs_on_the_cpu(module) == {}
    layers = [each for each in module.report["layers"] if each["macs"] and each["op"] in ("Conv", "Gemm", "MatMul")]
    assert [(each["weight_bits"], each["activation_bits"]) for each in layers] == [(weight_bits, bits)] * 2
    samples = torch.randn(16, 1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    (name,) = (each["name"] for each in module.metadata["inputs"])
    got = np.concatenate([next(iter(module.run({name: each.numpy()}).values())) for each in samples])
    wanted = np.concatenate([net(each).detach().numpy() for each in samples])
    off = np.abs(np.rint((got.astype("f8") - wanted) / (12.0 / LIMITS[bits][1])))
    assert off.max() <= 1 and (off == 0).mean() >= 0.95


def test_without_torchao_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Net(8, 8), tmp_path / "m.pt2")
    monkeypatch.setitem(sys.modules, "torchao.quantization.pt2e.quantize_pt2e", None)
    with pytest.raises(UserError, match=r"quantized by torchao.*pip install qaccel\[train\]"):
        qaccel.compile(path)
