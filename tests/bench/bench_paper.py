"""The tables of Krishnamoorthi's paper (arXiv 1806.08342) for our networks: one command.

`python tests/bench/bench_paper.py [SHARED] [--epochs 1] [--no-training] [--folder KEPT] [--networks resnet ...]`. Always on resnet.onnx and
mobilenet.onnx of tests/networks and their 2,000 test images; with SHARED also MLTK's ResNet-8 and that MobileNet trained anew, on CIFAR-10's
10,000. Training needs the extra ``qaccel[train]``; without it those columns say so. Networks in --folder are not trained again.

asym-layer, sym-layer, asym-chan, sym-chan: weights with one scale per tensor or per output channel, with a zero point or without, rounded
to nearest; activations always one asymmetric scale per tensor, minmax of 256 calibration images. The machine has sym-chan; the others are
emulated with weights carried at 16 bits (weight_grids.py). "ours" is what `tvmc compile` makes, with its passes. Trained networks start from
the float one, MLTK's from that after some epochs in float on these images (as in bench_training.py), and are taught by what they start from;
"float, as long" is that one trained on for as many epochs. All top-1 are of integers that our CPU path computes, those of the simulator.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from bench_cpu_int8 import ours, peer
from sides import Side, measured
from tasks import Task, cifar10, digits, top1
from weight_grids import GRIDS, folded, on_grid

import qaccel

HERE = Path(__file__).resolve().parents[1] / "networks"
BITS = ("W8A8", "W4A8", "W4A4")
ROUNDS = 10  # of timing
RATE = 0.01
FIRST_EPOCHS, FIRST_RATE = 3, 0.05  # in float, of what was trained elsewhere
MOBILENET_EPOCHS, MOBILENET_RATE = 8, 0.1  # from nothing, on CIFAR-10
# arXiv 1806.08342, tables 2, 4 and 5: float; after training asym-chan and sym-layer are not given.
PAPER = {
    ("MobileNetV1", "W8A8"): {"float": 70.9, "asym-layer": 0.1, "asym-chan": 70.3, "sym-chan": 59.1, "QAT asym-layer": 70.0, "QAT sym-chan": 70.7},
    ("MobileNetV1", "W4A8"): {"float": 70.9, "asym-layer": 2.0, "sym-chan": 0.1, "QAT sym-chan": 65.0},
    ("MobileNetV2", "W8A8"): {"float": 71.9, "asym-layer": 0.1, "asym-chan": 69.7, "sym-chan": 69.8, "QAT asym-layer": 70.9, "QAT sym-chan": 71.1},
    ("MobileNetV2", "W4A8"): {"float": 71.9, "asym-layer": 0.1, "sym-chan": 0.1, "QAT sym-chan": 62.0},
    ("ResNet-v1-50", "W8A8"): {"float": 75.2, "asym-layer": 75.0, "asym-chan": 75.2, "sym-chan": 75.1, "QAT asym-layer": 75.0, "QAT sym-chan": 75.0},
    ("ResNet-v1-50", "W4A8"): {"float": 75.2, "asym-layer": 0.2, "sym-chan": 54.0, "QAT sym-chan": 73.2},
}  # fmt: skip
COLUMNS = ("float", *GRIDS, "ours", "float, as long", "QAT asym-layer", "QAT sym-chan")
PAPER_SIZE, PAPER_SPEED = "4 times smaller", "2 to 3 times faster"


@dataclass(frozen=True)
class Network:
    """A float network: its file, its data, its PyTorch copy where PyTorch is there, and the epochs of float training that come first."""

    name: str
    model: Path
    task: Task
    copy: Any
    first_epochs: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, nargs="?")
    parser.add_argument("--epochs", type=int, default=1, help="of training for integers")
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--folder", type=Path, help="where trained networks are kept")
    parser.add_argument("--networks", nargs="*", help="only these")
    arguments = parser.parse_args()
    missing = [each for each in ("torch", "torchao") if importlib.util.find_spec(each) is None]
    trains = not arguments.no_training and not missing
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(
            f"{date.today()}, qaccel {qaccel.__version__}, onnxruntime {onnxruntime.__version__}, {platform.machine()}, {os.cpu_count()} cores; "
            + (
                f"trained {arguments.epochs} epochs"
                if trains
                else f"not trained{': no ' + missing[0] if missing else ''}"
            )
        )
        networks = [
            make()
            for name, make in _networks(arguments.shared, folder, trains).items()
            if name in (arguments.networks or [name])
        ]
        print(f"\ntop-1, %\n\n| network | bits | {' | '.join(COLUMNS)} |\n{'|---' * (2 + len(COLUMNS))}|", flush=True)
        for network in networks:
            for bits, row in _rows(network, arguments.epochs, folder, trains):
                _print_row(network.name, bits, row)
        for (name, bits), row in PAPER.items():
            _print_row(f"paper: {name}, ImageNet", bits, row)
        _costs(networks)


def _print_row(name: str, bits: str, row: dict[str, float]) -> None:
    cells = [f"{row[column]:.2f}" if column in row else "–" for column in COLUMNS]
    print(f"| {name} | {bits} | {' | '.join(cells)} |", flush=True)


def _networks(shared: Path | None, folder: Path, trains: bool) -> dict[str, Callable[[], Network]]:
    """What makes each network, by its name; that of the last one trains it."""
    if trains:
        from networks import torch_networks

    def of_repository(name: str) -> Network:
        path = HERE / f"{name}.onnx"
        return Network(name, path, digits(), getattr(torch_networks, name)(path) if trains else None)

    def resnet8(shared: Path) -> Network:
        path = shared / "models" / "mltk_image_classification.onnx"
        copy = torch_networks.resnet8(path) if trains else None
        return Network("ResNet-8", path, cifar10(shared), copy, FIRST_EPOCHS)

    def mobilenet(shared: Path) -> Network:
        import training

        path, task = folder / "cifar_mobilenet.onnx", cifar10(shared)
        network = training.mobilenet(task, MOBILENET_EPOCHS, MOBILENET_RATE, path)
        return Network("MobileNet on CIFAR-10", path, task, network)

    networks = {name: partial(of_repository, name) for name in ("resnet", "mobilenet")}
    if shared is not None:
        networks["ResNet-8"] = partial(resnet8, shared)
    if shared is not None and trains:
        networks["MobileNet on CIFAR-10"] = partial(mobilenet, shared)
    return networks


def _rows(network: Network, epochs: int, folder: Path, trains: bool) -> Iterator[tuple[str, dict[str, float]]]:
    float_top1 = top1(network.model, network.task)
    plain = folded(network.model)
    as_long = None
    if trains:
        import training

        start = network.copy
        if network.first_epochs:
            path = folder / f"{network.name}_start.pt"
            start = training.float_trained(start, network.task, network.first_epochs, FIRST_RATE, path)
        longer = training.float_trained(start, network.task, epochs, RATE, folder / f"{network.name}_float.pt")
        as_long = training.float_top1(longer, network.task)
    for bits in BITS:
        row = {"float": float_top1}
        weight_bits, activation_bits = int(bits[1]), int(bits[3])
        for grid in GRIDS:
            emulated = grid != "sym-chan"
            model = on_grid(plain, weight_bits, grid) if emulated else plain
            row[grid] = _rounded(model, network, (16 if emulated else weight_bits, activation_bits), [])
        row["ours"] = _rounded(network.model, network, (weight_bits, activation_bits), None)
        if as_long is not None:
            row["float, as long"] = as_long
            kinds = {"asym-layer": training.LayerWise, "sym-chan": training.QaccelQuantizer}
            for grid, kind in kinds.items():
                if (bits, grid) == ("W4A4", "asym-layer"):  # the paper has none either
                    continue
                path = folder / f"{network.name}_{bits}_{grid}.pt2"
                training.trained(start, kind(bits), network.task, epochs, RATE, path)
                row[f"QAT {grid}"] = top1(path, network.task)
        yield bits, row


def _rounded(model: Path | onnx.ModelProto, network: Network, bits: Sequence[int], passes: list[str] | None) -> float:
    return top1(qaccel.quantize(model, network.task.calibration, bits=tuple(bits), passes=passes), network.task)


def _costs(networks: Sequence[Network]) -> None:
    print(f"\nsize and speed on this CPU, one thread (paper: {PAPER_SIZE}, {PAPER_SPEED} on a phone's CPU)\n")
    print(
        "| network | weights float | W8A8 | W4A8 | onnxruntime float | our float | our W8A8 | faster than onnxruntime, than ours |"
    )
    print("|---" * 8 + "|")
    for network in networks:
        sizes = [
            qaccel.compile(network.model, calibration_data=network.task.calibration, bits=bits).report["weights"]
            for bits in ("W8A8", "W4A8")
        ]
        whole = sizes[0]["float_bytes"]
        shown = [f"{each['quantized_bytes'] / 1e3:.0f} kB, 1/{whole / each['quantized_bytes']:.1f}" for each in sizes]
        with tempfile.TemporaryDirectory() as name:
            samples = network.task.calibration[:8]
            sides = [Side(peer, network.model, samples[:1], 1)] + [
                Side(ours, network.model, samples, Path(name), bits, 1) for bits in (None, "8")
            ]
            theirs, ours_float, integers = (1e3 * float(np.median(each)) for each in measured(sides, ROUNDS))
        print(
            f"| {network.name} | {whole / 1e3:.0f} kB | {shown[0]} | {shown[1]} | {theirs:.3f} ms | {ours_float:.3f} ms | "
            f"{integers:.3f} ms | {theirs / integers:.1f}, {ours_float / integers:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
