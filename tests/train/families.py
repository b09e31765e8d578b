"""Small programs, one for each family of operators that torch exports and the accelerator has, each between two convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Family:
    """What happens between the convolutions, to a tensor of 8 channels, and the modules that it needs; ``size``: rows and pixels."""

    middle: Callable[..., torch.Tensor]
    modules: Callable[[], dict[str, nn.Module]] = field(default=dict)
    size: int = 13


class Net(nn.Module):
    """A convolution, the family, and another convolution where its result still has the channels."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.family, self.first, self.last = family, nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 5, 3)
        self.own = nn.ModuleDict(family.modules())
        self.factor = nn.Parameter(torch.randn(8, 6))
        self.offset = nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.family.middle(self.first(x), self)
        return self.last(y) if y.dim() == 4 and y.shape[1] == 8 else y


def built(name: str) -> tuple[Net, tuple[int, ...]]:
    """The network of a family, and the shape of its input."""
    family = FAMILIES[name]
    return Net(family).eval(), (1, 4, family.size, family.size)


def _linear(inputs: int) -> Callable[[], dict[str, nn.Module]]:
    return lambda: {"l": nn.Linear(inputs, 7)}


def _excited(x: torch.Tensor, net: Net) -> torch.Tensor:
    inner = F.relu(net.own["u"](F.adaptive_avg_pool2d(x, 1)))
    return x * F.hardsigmoid(net.own["v"](inner))


FAMILIES = {
    "depthwise": Family(lambda x, n: n.own["d"](x), lambda: {"d": nn.Conv2d(8, 8, 3, padding=1, groups=8)}),
    "grouped": Family(lambda x, n: n.own["d"](x), lambda: {"d": nn.Conv2d(8, 8, 3, padding=1, groups=2)}),
    "transposed": Family(lambda x, n: n.own["d"](x), lambda: {"d": nn.ConvTranspose2d(8, 8, 4, 2, 1)}),
    "conv, bias, batch norm, relu6": Family(
        lambda x, n: F.relu6(n.own["b"](n.own["d"](x))), lambda: {"d": nn.Conv2d(8, 8, 1), "b": nn.BatchNorm2d(8)}
    ),
    "linear, relu, linear": Family(
        lambda x, n: n.own["m"](F.relu(n.own["l"](x.mean([2, 3])))),
        lambda: {"l": nn.Linear(8, 7), "m": nn.Linear(7, 3, bias=False)},
    ),
    "product with a parameter": Family(lambda x, n: F.relu(x.mean([2, 3]) @ n.factor + n.offset)),
    "relu": Family(lambda x, n: F.relu(x)),
    "relu6": Family(lambda x, n: F.relu6(x)),
    "clamp": Family(lambda x, n: torch.clamp(x, -0.5, 0.8)),
    "hardswish": Family(lambda x, n: F.hardswish(x)),
    "hardsigmoid": Family(lambda x, n: F.hardsigmoid(x)),
    "sigmoid": Family(lambda x, n: torch.sigmoid(x)),
    "silu": Family(lambda x, n: F.silu(x)),
    "tanh": Family(lambda x, n: torch.tanh(x)),
    "gelu": Family(lambda x, n: F.gelu(x)),
    "elu": Family(lambda x, n: F.elu(x)),
    "leaky relu": Family(lambda x, n: F.leaky_relu(x, 0.1)),
    "prelu": Family(lambda x, n: n.own["p"](x), lambda: {"p": nn.PReLU(8)}),
    "add": Family(lambda x, n: x + F.relu(x)),
    "add a constant": Family(lambda x, n: x + 0.5),
    "subtract": Family(lambda x, n: x - F.max_pool2d(x, 3, 1, 1)),
    "multiply": Family(lambda x, n: x * torch.sigmoid(x.mean([2, 3], keepdim=True))),
    "multiply a constant": Family(lambda x, n: F.relu(x) * 0.3),
    "a factor behind a layer": Family(lambda x, n: x * 0.3),
    "maximum": Family(lambda x, n: torch.maximum(x, F.relu(x) * 0.5)),
    "squeeze and excite": Family(_excited, lambda: {"u": nn.Conv2d(8, 4, 1), "v": nn.Conv2d(4, 8, 1)}),
    "concat": Family(lambda x, n: torch.cat([F.relu(x[:, :4]), F.avg_pool2d(x, 3, 1, 1)[:, 4:]], 1)),
    "chunk": Family(lambda x, n: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "slice": Family(lambda x, n: x[:, :, 1:-1, ::2]),
    "max pool": Family(lambda x, n: F.max_pool2d(x, 2)),
    "average pool": Family(lambda x, n: F.avg_pool2d(x, 2)),
    "adaptive average": Family(lambda x, n: n.own["l"](F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1)), _linear(8)),
    "adaptive average of windows": Family(lambda x, n: F.adaptive_avg_pool2d(F.relu(x), 6), size=12),
    "adaptive maximum": Family(lambda x, n: n.own["l"](F.adaptive_max_pool2d(F.relu(x), 1).flatten(1)), _linear(8)),
    "mean": Family(lambda x, n: n.own["l"](x.mean([2, 3])), _linear(8)),
    "flatten": Family(lambda x, n: n.own["l"](F.max_pool2d(x, 4).flatten(1)), _linear(72)),
    "reshape": Family(lambda x, n: n.own["l"](x.reshape(1, 8, -1).transpose(1, 2)), _linear(8)),
    "permute": Family(lambda x, n: x.permute(0, 1, 3, 2)),
    "pad": Family(lambda x, n: F.pad(F.relu(x), (1, 2, 1, 1))),
    "pad with a value": Family(lambda x, n: F.pad(F.relu(x), (1, 2, 1, 1), value=0.7)),
    "pad by reflection": Family(lambda x, n: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "upsample, nearest": Family(lambda x, n: F.interpolate(x, scale_factor=2)),
    "upsample, linear": Family(lambda x, n: F.interpolate(x, scale_factor=2, mode="bilinear")),
}
