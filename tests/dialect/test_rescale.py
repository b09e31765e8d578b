"""Whole arrays rescaled, against single exact Python integers: ties, neighbours of ties, wide values, all shifts."""

import numpy as np
import pytest

from qaccel.dialect.rescale import requantize
from qaccel.machine.numerics import rounding_shift


def expected(values: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    m, s = (np.broadcast_to(each, values.shape).reshape(-1).tolist() for each in (multiplier, shift))
    made = [rounding_shift(v * a, b) for v, a, b in zip(values.reshape(-1).tolist(), m, s, strict=True)]
    return np.array(made, object).reshape(values.shape)


LIMITS = -(1 << 31), (1 << 31) - 1


def check(values: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> None:
    wanted = expected(values, multiplier, shift)
    got = requantize(values, (multiplier, shift), (0, *LIMITS, "int64"))
    assert (got == np.clip(wanted, *LIMITS)).all()
    narrow = requantize(values, (multiplier, shift), (-7, -100, 127, "int8"))
    assert narrow.dtype == np.int8
    assert (narrow == np.clip(wanted - 7, -100, 127)).all()
    bias = np.arange(values.shape[-1]) * 1001 - 2000
    if values.ndim > 1:
        moved = requantize(values - bias, (multiplier, shift), (0, *LIMITS, "int64"), bias)
        np.testing.assert_array_equal(moved, got)


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
    assert requantize(values, (0, 0), (3, 0, 5, "int8")).tolist() == [3] * len(values)
    assert requantize(np.zeros((0, 3), np.int64), (np.ones(3), np.zeros(3)), (0, 0, 1, "int8")).shape == (0, 3)


def test_sums_in_float32_are_taken_as_they_are() -> None:
    rng = np.random.default_rng(3)
    sums = rng.integers(-(1 << 24), 1 << 24, (500, 4))
    bias = rng.integers(-(1 << 31), 1 << 31, 4)
    scale = np.array([1 << 30, 1_500_000_001, (1 << 31) - 1, 1 << 30]), np.array([41, 45, 50, 53])
    made = requantize(sums.astype(np.float32), scale, (5, -128, 127, "int8"), bias.astype(np.int32))
    np.testing.assert_array_equal(made, np.clip(expected(sums + bias, *scale) + 5, -128, 127).astype(np.int8))
