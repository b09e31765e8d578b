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
from torch_networks import MobileNet, ResNet

SEED = 20
BATCH = 125


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
        network = network_type(data.CLASSES)
        train(network, arguments.epochs)
        export(network, arguments.out / f"{name}.onnx", fold)


if __name__ == "__main__":
    main()
