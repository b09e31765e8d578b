"""Networks with random weights whose batch normalizations have seen data, and how they are quantized in PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

from qaccel.train import QaccelQuantizer

SHAPE = (1, 3, 16, 16)


class _Block(nn.Module):
    """Two convolutions and what goes around them, itself a convolution with a bias where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        self.na, self.nb = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.around = around if stride != 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.nb(self.b(F.relu(self.na(self.a(x))))) + self.around(x))


def residual() -> nn.Module:
    """A small ResNet."""
    first = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    blocks = _Block(8, 8, 1), _Block(8, 16, 2)
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def mobile() -> nn.Module:
    """A small MobileNet."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        return [depthwise, nn.BatchNorm2d(inputs), nn.ReLU6(), pointwise, nn.BatchNorm2d(outputs), nn.ReLU6()]

    layers = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), *block(8, 16, 1), *block(16, 24, 2)
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Dropout(0.1), nn.Flatten(), nn.Linear(24, 10))


def warmed(net: nn.Module, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    """The network for inference, after its batch normalizations have seen data (seed 0)."""
    torch.manual_seed(0)
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(8, *shape[1:]) * 1.5)
    return net.eval()


def samples(shape: tuple[int, ...], count: int, seed: int = 1) -> list[torch.Tensor]:
    """Random inputs."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * 1.5 for _ in range(count)]


def exported(net: nn.Module, shape: tuple[int, ...] = SHAPE) -> torch.export.ExportedProgram:
    """The network as torch exports it."""
    return torch.export.export(net, (torch.randn(shape),))


def converted(net: nn.Module, plan: Any, shape: tuple[int, ...] = SHAPE, training: bool = False) -> fx.GraphModule:
    """The network quantized by a plan: after training, whose weights no step moves, or after calibration."""
    net.train(training)
    shape = (2, *shape[1:]) if training else shape
    prepared = (prepare_qat_pt2e if training else prepare_pt2e)(exported(net, shape).module(), QaccelQuantizer(plan))
    for sample in samples(shape, 8):
        prepared(sample)
    if training:
        move_exported_model_to_eval(prepared)
    return convert_pt2e(prepared)
