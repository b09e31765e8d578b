"""Rounding of weights to integers, one channel at a time, without data."""

from __future__ import annotations

import numpy as np


def balanced(scaled: np.ndarray, limit: int) -> np.ndarray:
    """Integers for ``scaled`` [OC, taps, IC] (weights in units of their scale), each one of its two neighbours.

    Nearest integers first; then in every kernel [taps], and after that in every output channel, the fewest and closest
    weights go to their other neighbour that bring the sum of the rounding errors to at most half a unit. What such a
    sum multiplies is the mean of the inputs, which is far from zero behind a Relu.
    Source: Guo et al., "SQuant", ICLR 2022 (steps K and C). Returns int64 within +-limit.
    """
    integers = np.clip(np.rint(scaled), -limit, limit).astype(np.int64)
    integers -= _moves(integers - scaled, integers, limit, axis=1)
    error = integers - scaled
    per_kernel = error.sum(axis=1)
    toward = np.sign(per_kernel.sum(axis=1, keepdims=True))
    # Of each kernel the weight that is cheapest to move; the kernels with the largest sums move theirs.
    gain = np.where(_can_move(error, integers, limit, toward[:, None, :]), error * toward[:, None, :], -1.0)
    tap = gain.argmax(axis=1)
    movable = np.take_along_axis(gain, tap[:, None, :], axis=1)[:, 0] > 0
    rank = np.argsort(np.argsort(-np.where(movable, per_kernel * toward, -np.inf), axis=1), axis=1)
    chosen = movable & (rank < np.rint(np.abs(per_kernel.sum(axis=1, keepdims=True))))
    moved = np.take_along_axis(integers, tap[:, None, :], axis=1)[:, 0] - np.where(chosen, toward, 0).astype(np.int64)
    np.put_along_axis(integers, tap[:, None, :], moved[:, None, :], axis=1)
    return integers


def _moves(error: np.ndarray, integers: np.ndarray, limit: int, axis: int) -> np.ndarray:
    """What to subtract along ``axis`` so that the errors sum to at most a half: -1, 0 or 1 for each weight."""
    total = error.sum(axis=axis, keepdims=True)
    toward = np.sign(total)
    gain = np.where(_can_move(error, integers, limit, toward), error * toward, -np.inf)
    rank = np.argsort(np.argsort(-gain, axis=axis), axis=axis)
    chosen = (rank < np.rint(np.abs(total))) & np.isfinite(gain)
    return np.where(chosen, toward, 0).astype(np.int64)


def _can_move(error: np.ndarray, integers: np.ndarray, limit: int, toward: np.ndarray) -> np.ndarray:
    """Whether the weight's other neighbour lies in the direction that lowers the sum, and within the limit."""
    return (error * toward > 0) & (np.abs(integers - toward) <= limit) & (np.abs(error) <= 0.5)
