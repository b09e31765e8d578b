"""Whole arrays rescaled, against single exact Python integers: ties, neighbours of ties, wide values, all shifts."""

import numpy as np
import pytest

from qaccel.numerics import rounding_shift
from qaccel.quant.rescale import rescale


def expected(values: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    m, s = (np.broadcast_to(each, values.shape).reshape(-1).tolist() for each in (multiplier, shift))
    made = [rounding_shift(v * a, b) for v, a, b in zip(values.reshape(-1).tolist(), m, s, strict=True)]
    return np.array(made, object).reshape(values.shape)


def check(values: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> None:
    got, wanted = rescale(values, multiplier, shift), expected(values, multiplier, shift)
    within = np.abs(wanted) < 1 << 31
    assert (got == wanted)[within].all()
    assert (np.abs(got) >= 1 << 31)[~within].all()
    assert (np.sign(got) == np.sign(wanted).astype(np.int64))[~within].all()


@pytest.mark.parametrize("bits", [8, 20, 31, 47, 60])
def test_random_values(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for _ in range(20):
        channels = int(rng.integers(1, 9))
        values = rng.integers(-(1 << bits), 1 << bits, (50, channels))
        multiplier = rng.integers(1 << 30, 1 << 31, channels)
        shift = np.clip(30 + bits - rng.integers(2, 33, channels), 0, 127)
        check(values, multiplier, shift)


def test_ties_and_their_neighbours() -> None:
    """Powers of two as multipliers make half of the products of odd numbers exact ties; one more or less is near one."""
    rng = np.random.default_rng(1)
    for shift in (1, 5, 17, 29):
        values = (2 * rng.integers(-(1 << 20), 1 << 20, (40, 6)) + 1) << (shift - 1)
        for step in (-1, 0, 1):
            check(values + step, np.full(6, 1 << 30), np.full(6, 30 + shift))
    # Odd multipliers: the nearest product to a tie that there is.
    for multiplier in ((1 << 31) - 1, (1 << 30) + 1, 1664525 * 1000 + 1):
        inverse = pow(multiplier, -1, 1 << 40)
        near = [((1 << 39) + d) * inverse % (1 << 40) for d in range(-40, 41)]
        values = np.array([v for v in near if v < 1 << 39], np.int64)[:, None]
        check(values, np.array([multiplier]), np.array([40]))


def test_every_shift_and_scalars() -> None:
    values = np.array([0, 1, -1, 255, -(1 << 31), (1 << 31) - 1, 1 << 47, -(1 << 47)])
    for shift in range(128):
        check(values, np.asarray(1_500_000_001), np.asarray(shift))
    assert rescale(values, 0, 0).tolist() == [0] * len(values)
    assert rescale(np.zeros((0, 3), np.int64), np.array([1, 1, 1]), np.array([0, 0, 0])).shape == (0, 3)
