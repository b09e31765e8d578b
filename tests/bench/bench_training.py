"""Training for the accelerator's integers: MLTK's ResNet-8 on CIFAR-10 at W8A8, W4A8 and W4A4 beside the same network fine-tuned in float.

`python tests/bench/bench_training.py SHARED [--float-epochs 3] [--epochs 2] [--folder KEPT] [--threads 1] [--held-out 0]`. SHARED holds
models/mltk_image_classification.onnx and data/cifar10.tar.gz. Needs the extra ``qaccel[train]``.

All networks share their first epochs: MLTK's weights fine-tuned in float by the labels. Then each goes on for the same number of epochs
over the same images: one in float, by the labels; the others for their integers, by the labels and by what the shared
network says (distillation). So float has been trained for as long as they. Top-1 is that of the compiled module's integers on the 10,000
test images; minutes are those of both parts. Networks that lie in --folder already are not trained again. --held-out N puts N training
images in the place of the test images, to look for settings. What ends in MISSED fails its bar, and so does the script.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torchao
from tasks import Task, cifar10, classes, percent
from training import float_top1, float_trained, taken, trained

import qaccel
from networks import torch_networks
from qaccel.train import QaccelQuantizer

FLOAT_RATE, RATE = 0.05, 0.02
LARGEST_DROPS_POINTS = {"W8A8": 0.1, "W4A8": 0.7, "W4A4": 4.0}
LARGEST_CPU_MINUTES = 60.0  # 30 minutes of two cores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--float-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where trained networks are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=0)
    parser.add_argument("--bits", nargs="*", default=list(LARGEST_DROPS_POINTS), choices=list(LARGEST_DROPS_POINTS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("qaccel.train").setLevel(logging.INFO)
    print(
        f"{date.today()}, qaccel {qaccel.__version__}, torch {torch.__version__}, torchao {torchao.__version__}, "
        f"{platform.machine()}, {arguments.threads} of {os.cpu_count()} cores, "
        f"{arguments.float_epochs} + {arguments.epochs} epochs"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return 0 if _compared(arguments, folder) else 1


def _compared(arguments: argparse.Namespace, folder: Path) -> bool:
    task = cifar10(arguments.shared, arguments.held_out)
    start = torch_networks.resnet8(arguments.shared / "models" / "mltk_image_classification.onnx")
    paths = {name: folder / f"{name}.pt" for name in ("shared", "float")} | {
        bits: folder / f"{bits}.pt2" for bits in arguments.bits
    }
    shared = float_trained(start, task, arguments.float_epochs, FLOAT_RATE, paths["shared"])
    reference = float_trained(shared, task, arguments.epochs, RATE, paths["float"])
    for bits in arguments.bits:
        trained(shared, QaccelQuantizer(bits), task, arguments.epochs, RATE, paths[bits])
    minutes = {name: taken(path) + taken(paths["shared"]) for name, path in paths.items()}
    exact = float_top1(reference, task)
    print(
        f"{len(task.labels)} images, float {exact:.2f}%, {minutes['float']}; "
        f"after the shared epochs {float_top1(shared, task):.2f}%, as it came {float_top1(start, task):.2f}%"
    )
    good = True
    for bits in arguments.bits:
        chosen = classes(paths[bits], task)
        found, agreement = percent(chosen, task.labels), percent(chosen, _in_torch(paths[bits], task))
        within = found >= exact - LARGEST_DROPS_POINTS[bits] and minutes[bits].cpu <= LARGEST_CPU_MINUTES
        print(
            f"{bits} {found:.2f}%, {found - exact:+.2f} points (bar {-LARGEST_DROPS_POINTS[bits]:+.1f}), {minutes[bits]}, "
            f"PyTorch's classes of the converted program on {agreement:.2f}% of the images"
            f"{'' if within else ' MISSED'}",
            flush=True,
        )
        good &= within
    return good


def _in_torch(path: Path, task: Task) -> np.ndarray:
    """The first class of each test image by the converted program as PyTorch runs it."""
    program = torch.export.load(path).module()
    (shape,) = (node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder")
    with torch.no_grad():
        scores = [program(part) for part in torch.from_numpy(task.test).split(int(shape[0]))]
    return torch.cat(scores).argmax(-1).numpy()


if __name__ == "__main__":
    sys.exit(main())
