"""Training runs of the benches: images that are turned and shifted at random, a float network, the same for its integers, and scores.

The data sets: CIFAR-10 of SHARED (JPEG copies; classes in alphabetical order, (pixel - 128) / 128), and the digits of tests/networks.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_accuracy import cifar
from torch import Tensor, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

import qaccel
from networks import data
from qaccel.train import QaccelQuantizer, fit

BATCH = 128
SHIFT = 3  # pixels, at most
SEED = 2026


@dataclass(frozen=True)
class Images:
    """Training images in random order, once for each time it is iterated: (images float32 [BATCH, 3, 32, 32], classes).

    Each is shifted by up to SHIFT pixels, borders mirrored, and if ``flips`` every other one is turned left to right.
    """

    images: np.ndarray
    classes: np.ndarray
    flips: bool
    rng: np.random.Generator

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.rng.permutation(len(self.images))[: len(self) * BATCH].reshape(-1, BATCH)
        for chosen in order:
            moved = torch.from_numpy(self._moved(self.images[chosen]))
            yield moved.contiguous(memory_format=torch.channels_last), torch.from_numpy(self.classes[chosen])

    def _moved(self, images: np.ndarray) -> np.ndarray:
        n, channels, size, _ = images.shape
        if self.flips:
            images = np.where(self.rng.random((n, 1, 1, 1)) < 0.5, images[..., ::-1], images)
        wide = np.pad(images, ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="reflect")
        down, right = self.rng.integers(0, 2 * SHIFT + 1, (2, n, 1)) + np.arange(size)
        which = np.arange(n)[:, None, None, None], np.arange(channels)[None, :, None, None]
        return wide[(*which, down[:, None, :, None], right[:, None, None, :])]


@dataclass(frozen=True)
class Task:
    """A data set: ``train()`` gives the images to train on, in the same order each time; ``calibration``, ``test``, ``labels``."""

    train: Callable[[], Images]
    calibration: np.ndarray
    test: np.ndarray
    labels: np.ndarray


def cifar10(shared: Path, held_out: int = 0) -> Task:
    """All 50,000 training images and the 10,000 test images. ``held_out`` of the training images in place of the test images, while
    settings are looked for."""
    images, classes = cifar(shared / "data" / "cifar10.tar.gz", "train")
    order = np.random.default_rng(SEED).permutation(len(images))
    kept, apart = order[held_out:], order[:held_out]
    calibration = images[kept[:256]]
    test = (images[apart], classes[apart]) if held_out else cifar(shared / "data" / "cifar10.tar.gz", "test")
    return Task(lambda: Images(images[kept], classes[kept], True, np.random.default_rng(SEED)), calibration, *test)


def digits() -> Task:
    """The digits of tests/networks; all 50,000, 2,000 to test."""
    train, test = data.load("train"), data.load("test")
    return Task(
        lambda: Images(train["images"], train["labels"], False, np.random.default_rng(SEED)),
        data.load("calibration", 256)["images"], test["images"], test["labels"],
    )  # fmt: skip


@dataclass(frozen=True)
class Taken:
    """Minutes of a training run, on the clock and of all cores' work."""

    wall: float
    cpu: float

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.wall + other.wall, self.cpu + other.cpu)

    def __str__(self) -> str:
        return f"{self.wall:.1f} min ({self.cpu:.1f} CPU min)"


def float_trained(network: nn.Module, task: Task, epochs: int, rate: float) -> tuple[nn.Module, Taken]:
    """A copy of a float network, trained on by the labels."""
    torch.manual_seed(SEED)
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    taken = _timed(lambda: fit(network, task.train(), epochs, rate=rate))
    return network.eval(), taken


def trained(
    network: nn.Module, teacher: nn.Module, plan: Any, task: Task, epochs: int, rate: float, path: Path, **how: Any
) -> Taken:
    """Train a float network for the integers of a plan, for as long, and write the converted program as .pt2. ``how``: as `fit`."""
    torch.manual_seed(SEED)
    network = copy.deepcopy(network).to(memory_format=torch.channels_last).train()
    example = (torch.zeros(BATCH, *task.test.shape[1:]).contiguous(memory_format=torch.channels_last),)
    prepared = prepare_qat_pt2e(torch.export.export(network, example).module(check_guards=False), QaccelQuantizer(plan))
    taken = _timed(lambda: fit(prepared, task.train(), epochs, rate=rate, teacher=teacher, **how))
    save(prepared, path, example[0][:1])
    return taken


def save(prepared: nn.Module, path: Path, example: Tensor) -> None:
    """Convert what was prepared and write it as a .pt2 for one image at a time."""
    torch.export.save(torch.export.export(convert_pt2e(prepared), (example.contiguous(),)), str(path))


def _timed(run: Callable[[], object]) -> Taken:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Taken((time.perf_counter() - wall) / 60, (time.process_time() - cpu) / 60)


def float_top1(network: nn.Module, task: Task) -> float:
    """Percent of the test images that a float network gets right."""
    with torch.no_grad():
        hits = [network(torch.from_numpy(part)).argmax(1) for part in np.array_split(task.test, 40)]
    return 100 * float((torch.cat(hits).numpy() == task.labels).mean())


def top1(model: Any, task: Task) -> float:
    """Percent of the test images that our integers get right; on this machine's CPU, which computes what the simulator does."""
    module = qaccel.compile(model, target="llvm")
    (name,) = (each["name"] for each in module.metadata["inputs"])
    (scores,) = module.run({name: task.test}).values()
    return 100 * float((scores.argmax(-1) == task.labels).mean())
