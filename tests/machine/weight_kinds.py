"""Weights of many kinds, as integers [rows, columns] within their width."""

from collections.abc import Callable

import numpy as np

Rng = np.random.Generator


def _clipped(values: np.ndarray, bits: int) -> np.ndarray:
    half = 1 << (bits - 1)
    return np.clip(np.rint(values), -half, half - 1).astype(np.int64)


def uniform(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    half = 1 << (bits - 1)
    return rng.integers(-half, half, (rows, columns))


def gaussian(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    return _clipped(rng.normal(0, (1 << bits) / 10, (rows, columns)), bits)


def laplace(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    return _clipped(rng.laplace(0, (1 << bits) / 20, (rows, columns)), bits)


def one_sided(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    return _clipped(rng.exponential((1 << bits) / 20, (rows, columns)) - (1 << (bits - 2)), bits)


def pruned(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    return uniform(rng, rows, columns, bits) * (rng.random((rows, columns)) < 0.08)


def palette(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    return rng.choice(uniform(rng, 1, min(12, 1 << (bits - 1)), bits)[0], (rows, columns))


def per_channel(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    """Channels of very different spread, every fifth one dead."""
    spread = np.exp(rng.uniform(-3, 0, columns)) * (1 << bits) / 5 * (np.arange(columns) % 5 > 0)
    return _clipped(rng.normal(0, 1, (rows, columns)) * spread, bits)


def dead_channels(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    """Two of three are."""
    return gaussian(rng, rows, columns, bits) * (np.arange(columns) % 3 == 0)


def almost_nothing(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    return uniform(rng, rows, columns, bits) * (rng.random((rows, columns)) < 0.001)


def constant(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    return np.full((rows, columns), uniform(rng, 1, 1, bits)[0, 0])


def all_zero(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    return np.zeros((rows, columns), np.int64)


def two_symbols(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    return np.where(rng.random((rows, columns)) < 0.03, *uniform(rng, 1, 2, bits)[0])


def extremes(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    half = 1 << (bits - 1)
    return rng.choice([-half, 1 - half, half - 1], (rows, columns), p=[0.1, 0.3, 0.6])


def few_outliers(rng: Rng, rows: int, columns: int, bits: int) -> np.ndarray:
    small = rng.integers(-1, 2, (rows, columns))
    return np.where(rng.random((rows, columns)) < 0.01, uniform(rng, rows, columns, bits), small)


KINDS: dict[str, Callable[[Rng, int, int, int], np.ndarray]] = {
    "uniform": uniform,
    "gaussian": gaussian,
    "laplace": laplace,
    "one sided": one_sided,
    "pruned": pruned,
    "palette": palette,
    "per channel": per_channel,
    "dead channels": dead_channels,
    "almost nothing": almost_nothing,
    "constant": constant,
    "all zero": all_zero,
    "two symbols": two_symbols,
    "extremes": extremes,
    "few outliers": few_outliers,
}


def _of_entropy(rng: Rng) -> tuple[np.ndarray, int]:
    """Geometric on both sides of zero: 1.5 bits each."""
    chances = 0.19 ** np.abs(np.arange(-20, 21))
    chances /= chances.sum()
    assert abs(-(chances * np.log2(chances)).sum() - 1.5) < 0.01
    return rng.choice(np.arange(-20, 21), 1 << 16, p=chances), 8


# 64 Ki weights and their width.
BARS: dict[str, Callable[[Rng], tuple[np.ndarray, int]]] = {
    "1.5 bits": _of_entropy,
    "pruned 90%": lambda rng: (_clipped(rng.normal(0, 30, 1 << 16), 8) * (rng.random(1 << 16) < 0.1), 8),
    "palette of 16": lambda rng: (rng.choice(rng.permutation(255)[:16] - 127, 1 << 16, p=_weights_of(16)), 8),
    "int4 Gaussian": lambda rng: (np.clip(_clipped(rng.normal(0, 2.2, 1 << 16), 4), -7, 7), 4),
}


def _weights_of(count: int) -> np.ndarray:
    weights = 1 / np.arange(1, count + 1)
    return weights / weights.sum()
