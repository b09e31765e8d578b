"""Training for the accelerator's integers: MLTK's ResNet-8 on CIFAR-10 at W8A8, W4A8 and W4A4 beside the same network fine-tuned in float.

`python tests/bench/bench_training.py SHARED [--epochs 3] [--folder KEPT] [--threads 1] [--held-out 0]`. SHARED holds
models/mltk_image_classification.onnx and data/cifar10.tar.gz. Needs the extra ``qaccel[train]``.

Each network starts from MLTK's weights and sees the same training images as often, in the same order; float learns from the labels, and is
then the teacher of the others. Top-1 is that of the compiled module's integers on the 10,000 test images. Networks that lie in --folder
already are not trained again. --held-out N puts N training images in the place of the test images, to look for settings.
What ends in MISSED fails its bar, and so does the script.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
import torchao
from training import Taken, cifar10, float_top1, float_trained, top1, trained

import qaccel
from networks import torch_networks

RATE = 0.05
LARGEST_DROPS_POINTS = {"W8A8": 0.1, "W4A8": 0.7, "W4A4": 4.0}
LARGEST_CPU_MINUTES = 60.0  # 30 minutes of two cores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
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
        f"{platform.machine()}, {arguments.threads} of {os.cpu_count()} cores, {arguments.epochs} epochs"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return 0 if _compared(arguments, folder) else 1


def _compared(arguments: argparse.Namespace, folder: Path) -> bool:
    task = cifar10(arguments.shared, arguments.held_out)
    start = torch_networks.resnet8(arguments.shared / "models" / "mltk_image_classification.onnx")
    teacher, kept = torch_networks.ResNet8().eval(), folder / "float.pt"
    if not kept.is_file():
        network, taken = float_trained(start, task, arguments.epochs, RATE)
        _note(kept, taken)
        torch.save(network.state_dict(), kept)
    teacher.load_state_dict(torch.load(kept))
    teacher.to(memory_format=torch.channels_last)
    for bits in arguments.bits:
        path = folder / f"{bits}.pt2"
        if not path.is_file():
            _note(path, trained(start, teacher, bits, task, arguments.epochs, RATE, path))
    exact = float_top1(teacher, task)
    print(f"{len(task.labels)} images, float {exact:.2f}% (untrained {float_top1(start, task):.2f}%), {_noted(kept)}")
    good = True
    for bits in arguments.bits:
        path = folder / f"{bits}.pt2"
        found, minutes = top1(path, task), _noted(path)
        within = found >= exact - LARGEST_DROPS_POINTS[bits] and minutes.cpu <= LARGEST_CPU_MINUTES
        print(
            f"{bits} {found:.2f}%, {found - exact:+.2f} points (bar {-LARGEST_DROPS_POINTS[bits]:+.1f}), {minutes}"
            f"{'' if within else ' MISSED'}",
            flush=True,
        )
        good &= within
    return good


def _note(path: Path, taken: Taken) -> None:
    path.with_suffix(".json").write_text(json.dumps(asdict(taken)))


def _noted(path: Path) -> Taken:
    return Taken(**json.loads(path.with_suffix(".json").read_text()))


if __name__ == "__main__":
    sys.exit(main())
