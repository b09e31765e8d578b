"""What the weights of a layer should be: a ridge regression of the float outputs on the integer inputs.

Arrays as in `lattice`: G groups, M channels of a group, K weights of a channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Ridges towards the float weights to choose from, of the Gram matrix's mean diagonal.
RIDGES = (0.05, 0.2, 1.0, 5.0, 25.0)
PLACES = 12  # of a sample that count as independent of each other: neighbouring pixels are alike


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of centred inputs and outputs in two halves of the samples.

    ``grams`` [G, K, K] are those of the inputs, ``both`` [G, M, K] of outputs with inputs.
    ``independent``: how many rows tell something new. ``input_means`` [G, K] and ``output_means`` [G, M] are those of all samples.
    """

    grams: tuple[np.ndarray, np.ndarray]
    both: tuple[np.ndarray, np.ndarray]
    independent: int
    input_means: np.ndarray
    output_means: np.ndarray

    @classmethod
    def of(cls, inputs: np.ndarray, outputs: np.ndarray, each: int) -> Moments:
        """Of float32 inputs [G, K, rows] and outputs [G, M, rows], ``each`` rows of a sample; the arrays are centred in place."""
        means = [values.mean(axis=2, dtype=np.float64) for values in (inputs, outputs)]
        for values, mean in zip((inputs, outputs), means, strict=True):
            values -= mean[..., None].astype(np.float32)
        half = inputs.shape[2] // each // 2 * each
        halves = [(inputs[:, :, part], outputs[:, :, part]) for part in (slice(half), slice(half, None))]
        first, second = [(_product(x, x), _product(y, x)) for x, y in halves]
        independent = inputs.shape[2] // each * min(each, PLACES)
        return cls((first[0], second[0]), (first[1], second[1]), independent, *means)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.transpose(0, 2, 1)).astype(np.float64)


def regression(weight: np.ndarray, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """(target [G, M, K], Gram matrix [G, K, K]): real ``weight`` [G, M, K] moved to where it gives the float outputs best.

    The ridge is that of RIDGES whose regression on either half of the samples does best on the other half. The Gram matrix is
    damped by as much of its mean diagonal as a channel has weights per independent row: fewer rows than weights say little of
    what other samples will be like.
    """
    gram, both = sum(moments.grams), sum(moments.both)
    assert isinstance(gram, np.ndarray)
    size = np.einsum("gkk->gk", gram).mean(axis=1)
    unit = np.where(size > 0, size, 1.0)[:, None, None] * np.eye(gram.shape[1])
    off = [b - weight @ g for g, b in zip(moments.grams, moments.both, strict=True)]

    def left_out(ridge: float) -> Iterator[float]:
        for one, other in ((0, 1), (1, 0)):
            moved = _solved(moments.grams[one] + ridge / 2 * unit, off[one])
            yield float(((moved @ moments.grams[other] - 2 * off[other]) * moved).sum())

    ridge = min(RIDGES, key=lambda each: sum(left_out(each))) if moments.grams[0].any() else RIDGES[-1]
    return weight + _solved(gram + ridge * unit, both - weight @ gram), gram + gram.shape[
        1
    ] / moments.independent * unit


def _solved(gram: np.ndarray, off: np.ndarray) -> np.ndarray:
    """off [G, M, K] times the inverse of gram [G, K, K]."""
    return np.linalg.solve(gram, off.transpose(0, 2, 1)).transpose(0, 2, 1)
