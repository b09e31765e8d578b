"""PyTorch networks for the training tests, benches and tutorials, with the weights of ONNX files. Needs torch.

`resnet8(path)` is MLTK's ResNet-8, `mobilenet(path)` the MobileNet of this folder; both can be trained on as they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias, padded to keep the size, and its batch normalization."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.conv2 = convolution(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        return functional.relu(self.conv2(functional.relu(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, max-pool, five residual blocks, global average pool, one Gemm."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = convolution(3, 16, 3)
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(
            Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 64, 1)
        )
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to scores [N, classes]."""
        x = self.blocks(self.pool(functional.relu(self.stem(x))))
        return self.classifier(torch.flatten(self.average(x), 1))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [convolution(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand, convolution(hidden, hidden, 3, stride, hidden), nn.ReLU6(), convolution(hidden, outputs, 1)
        )
        self.shortcut = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        return x + self.layers(x) if self.shortcut else self.layers(x)


class MobileNet(nn.Module):
    """MobileNetV2 in small: stem, seven inverted residual blocks, 1x1 head, average pool, one Gemm."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3, 16, 3, 2), nn.ReLU6())
        shapes = [(16, 16, 1, 1), (16, 24, 1, 4), (24, 24, 1, 4), (24, 40, 2, 4), (40, 40, 1, 4), (40, 64, 2, 4)]
        self.blocks = nn.Sequential(*(InvertedResidual(*shape) for shape in shapes), InvertedResidual(64, 64, 1, 4))
        self.head = nn.Sequential(convolution(64, 160, 1), nn.ReLU6())
        self.average = nn.AvgPool2d(4)
        self.classifier = nn.Linear(160, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to scores [N, classes]."""
        x = self.average(self.head(self.blocks(self.stem(x))))
        return self.classifier(torch.flatten(x, 1))


class ResNet8(nn.Module):
    """Three residual stages of 16, 32 and 64 channels for 3x32x32 images. A stride of 2 pads below and on the right, as TensorFlow's "same"."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(3, 16, 3, 1), (16, 16, 3, 1), (16, 16, 3, 1), (16, 32, 3, 2), (32, 32, 3, 1), (16, 32, 1, 2), (32, 64, 3, 2), (64, 64, 3, 1), (32, 64, 1, 2)]  # fmt: skip
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel, stride, 1 if kernel == 3 and stride == 1 else 0)
            for inputs, outputs, kernel, stride in shapes
        )
        # The shortcuts, convolutions 5 and 8, have none.
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, eps=1e-3) for n in (16, 16, 16, 32, 32, 64, 64))
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to scores [N, 10] before the softmax."""
        conv, norm, relu = self.convolutions, self.norms, functional.relu
        x = relu(norm[0](conv[0](x)))
        x = relu(x + norm[2](conv[2](relu(norm[1](conv[1](x))))))
        for first, second, shortcut, n in ((3, 4, 5, 3), (6, 7, 8, 5)):
            inner = relu(norm[n](conv[first](functional.pad(x, (0, 1, 0, 1)))))
            x = relu(conv[shortcut](x) + norm[n + 1](conv[second](inner)))
        return self.classifier(functional.avg_pool2d(x, 8).flatten(1))


def initializers(path: Path) -> dict[str, Tensor]:
    """The constants of an ONNX file by name."""
    graph = onnx.load(path).graph
    return {each.name: torch.from_numpy(np.array(numpy_helper.to_array(each))) for each in graph.initializer}


def resnet8(path: Path) -> ResNet8:
    """MLTK's image classifier, whose last Softmax is left out; batch normalizations are there."""
    network, found = ResNet8(), initializers(path)

    def named(kind: str, k: int) -> str:
        return kind if k == 0 else f"{kind}_{k}"

    state = {"classifier.weight": found["dense_w"].T.contiguous(), "classifier.bias": found["dense_b"]}
    for k in range(len(network.convolutions)):
        for ours, theirs in (("weight", "w"), ("bias", "b")):
            state[f"convolutions.{k}.{ours}"] = found[f"{named('conv2d', k)}_{theirs}"]
    for k in range(len(network.norms)):
        for ours, theirs in (("weight", "g"), ("bias", "bb"), ("running_mean", "m"), ("running_var", "v")):
            state[f"norms.{k}.{ours}"] = found[f"{named('batch_normalization', k)}_{theirs}"]
        state[f"norms.{k}.num_batches_tracked"] = torch.tensor(0)
    network.load_state_dict(state)
    return network.eval()


def resnet(path: Path) -> nn.Module:
    """The ResNet of this folder with the weights of resnet.onnx; batch normalizations are there."""
    found = initializers(path)
    # The exporter has written constants that are equal once.
    found |= {node.output[0]: found[node.input[0]] for node in onnx.load(path).graph.node if node.op_type == "Identity"}
    network = ResNet(len(found["classifier.bias"]))
    missing, _ = network.load_state_dict(found, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return network.eval()


def mobilenet(path: Path) -> nn.Module:
    """The MobileNet of `train.py` with the weights of mobilenet.onnx, where batch normalizations are folded already."""
    found = {name.replace("weight_bias", "bias"): value for name, value in initializers(path).items()}
    network = folded(MobileNet(len(found["classifier.bias"])))
    network.load_state_dict({name: found[name] for name in network.state_dict()})
    return network


def folded(network: nn.Module) -> nn.Module:
    """A copy whose batch normalizations lie in the convolutions before them: it trains several times faster in PT2E's simulation."""
    return fuse(network.eval())
