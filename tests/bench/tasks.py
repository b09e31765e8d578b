"""Labelled images for the benches that train: CIFAR-10 of SHARED, and the digits of tests/networks; and top-1 on them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_accuracy import cifar

import qaccel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from networks import data

SEED = 2026
CALIBRATION = 256  # images
TRAINING_DIGITS = 15_000


@dataclass(frozen=True)
class Task:
    """``train()`` gives images float32 [N, 3, 32, 32] and classes to train on; they may be turned left to right if ``flips``.
    ``calibration`` images; ``test`` images and their ``labels``."""

    train: Callable[[], tuple[np.ndarray, np.ndarray]]
    flips: bool
    calibration: np.ndarray
    test: np.ndarray
    labels: np.ndarray


def cifar10(shared: Path, held_out: int = 0) -> Task:
    """JPEG copies, classes in alphabetical order, (pixel - 128) / 128: 50,000 to train on and 10,000 to test; or the last ``held_out`` of
    a seeded permutation of the training images in the place of the test images, while settings are looked for."""
    archive = shared / "data" / "cifar10.tar.gz"
    images, classes = cifar(archive, "train")
    order = np.random.default_rng(SEED).permutation(len(images))
    kept, apart = order[: len(order) - held_out], order[len(order) - held_out :]
    test = (images[apart], classes[apart]) if held_out else cifar(archive, "test")
    return Task(lambda: (images[kept], classes[kept]), True, images[kept[:CALIBRATION]], *test)


def digits() -> Task:
    """15,000 to train on, fewer than the networks have seen, and 2,000 to test, of other digits."""
    test, calibration = data.load("test"), data.load("calibration", CALIBRATION)["images"]
    return Task(_training_digits, False, calibration, test["images"], test["labels"])


@functools.lru_cache(maxsize=1)
def _training_digits() -> tuple[np.ndarray, np.ndarray]:
    train = data.load("train", TRAINING_DIGITS)
    return train["images"], train["labels"]


def top1(model: Any, task: Task) -> float:
    """Percent of the test images that a model gets right, compiled for this machine's CPU: that computes the simulator's integers."""
    return percent(classes(model, task), task.labels)


def classes(model: Any, task: Task) -> np.ndarray:
    """The first class of each test image, by the integers of a model that is compiled for this machine's CPU."""
    module = qaccel.compile(model, target="llvm")
    (name,) = (each["name"] for each in module.metadata["inputs"])
    (scores,) = module.run({name: task.test}).values()
    return scores.argmax(-1)


def percent(found: np.ndarray, wanted: np.ndarray) -> float:
    """How many of the images have the wanted class."""
    return 100 * float((found == wanted).mean())
