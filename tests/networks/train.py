"""Train the two networks of this folder and export them to ONNX: `python train.py resnet mobilenet`.

Needs torch 2.13 and onnxscript, which are no dependencies of the project; one thread, about ten minutes for each.
The images come from data.py. resnet.onnx keeps its BatchNormalization nodes; in mobilenet.onnx they are folded into the
convolutions.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import data
import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

SEED = 20
BATCH = 125


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

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 16, 3)
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(
            Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 64, 1)
        )
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, data.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to scores [N, 10]."""
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

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3, 16, 3, 2), nn.ReLU6())
        shapes = [(16, 16, 1, 1), (16, 24, 1, 4), (24, 24, 1, 4), (24, 40, 2, 4), (40, 40, 1, 4), (40, 64, 2, 4)]
        self.blocks = nn.Sequential(*(InvertedResidual(*shape) for shape in shapes), InvertedResidual(64, 64, 1, 4))
        self.head = nn.Sequential(convolution(64, 160, 1), nn.ReLU6())
        self.average = nn.AvgPool2d(4)
        self.classifier = nn.Linear(160, data.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to scores [N, 10]."""
        x = self.average(self.head(self.blocks(self.stem(x))))
        return self.classifier(torch.flatten(x, 1))


def tensors(split: str) -> tuple[Tensor, Tensor]:
    """A split's images and labels."""
    loaded = data.load(split)
    return torch.from_numpy(loaded["images"]), torch.from_numpy(loaded["labels"])


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    network.eval()
    with torch.no_grad():
        hits = [network(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return 100 * torch.cat(hits).float().mean().item()


def train(network: nn.Module, epochs: int) -> None:
    """AdamW with a one-cycle rate and label smoothing on all training images, `epochs` times."""
    images, labels = tensors("train")
    held_out = tensors("test")
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    begin = time.time()
    for epoch in range(epochs):
        network.train()
        for chosen in torch.randperm(len(images)).split(BATCH):
            scores = network(images[chosen].to(memory_format=torch.channels_last))
            loss = functional.cross_entropy(scores, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: test {accuracy(network, *held_out):.2f}% ({time.time() - begin:.0f} s)", flush=True)


def export(network: nn.Module, path: Path, fold: bool) -> None:
    """Write ONNX at opset 18 with a symbolic batch.

    `fold` uses PyTorch's newer exporter, which puts the batch normalizations into the convolutions; else the older one,
    which can leave them. Both are what users bring.
    """
    network.eval().to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, data.SIZE, data.SIZE)
    names: dict[str, Any] = {"input_names": [data.INPUT_NAME], "output_names": [data.OUTPUT_NAME], "opset_version": 18}
    if fold:
        dynamic = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(network, (example,), path, dynamic_shapes=dynamic, dynamo=True, external_data=False, **names)
    else:
        axes = {data.INPUT_NAME: {0: "batch"}, data.OUTPUT_NAME: {0: "batch"}}
        keep = torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(network, (example,), path, dynamic_axes=axes, training=keep, dynamo=False, **names)
    model = onnx.load(path)
    # The exporter's notes hold source paths and stack traces.
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    for initializer in model.graph.initializer:
        initializer.doc_string = ""
        del initializer.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    weights = sum(int(np.prod(i.dims)) for i in model.graph.initializer)
    print(f"{path.name}: {path.stat().st_size} bytes, {weights} parameters")


NETWORKS = {"resnet": (ResNet, False), "mobilenet": (MobileNet, True)}


def main() -> None:
    """Train and export the networks named on the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("networks", nargs="+", choices=sorted(NETWORKS))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=data.HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.networks:
        torch.manual_seed(SEED)
        network_type, fold = NETWORKS[name]
        network = network_type()
        train(network, arguments.epochs)
        export(network, arguments.out / f"{name}.onnx", fold)


if __name__ == "__main__":
    main()
