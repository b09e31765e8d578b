"""Rounding that pays for bits: error and length of the weight stream together, in the closed form of `lattice`.

Minimised is the squared error of the layer's outputs, plus ``worth`` for each bit, as in CERWU (arXiv 2505.18758).
A bit is one of an ideal order-0 code for the layer's integers, which the machine's codecs come near.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from .lattice import Choose, carried, descended, fitted_scales, nearest, searched_scales

ROUNDS = 2  # of rounding with prices and counting anew
SHARES = (0.0, 0.35, 0.7, 1.0)  # how far steps follow the size of a channel's weights
FACTORS = (0.7, 1.0, 1.4)  # of the step that theory says


def priced_weights(
    target: np.ndarray, gram: np.ndarray, start: np.ndarray, limit: int, worth: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `lattice.round_weights`, with ``worth`` the error of all channels together that a bit is worth.

    Steps are those of the least sum after rounding to nearest, of some that lie between two rules: one step for all channels, which
    adds the least error, and one in proportion to the channel's weights, whose symbols a common code fits best.
    """
    scale = _steps(target, gram, searched_scales(target, gram, start, limit), limit, worth)
    q = nearest(target, scale, limit)
    for _ in range(ROUNDS):
        q = carried(target, gram, scale, cheapest(q, limit, worth))
        q = descended(target, gram, q, scale, cheapest(q, limit, worth))
    scale = fitted_scales(target, gram, q, scale)
    return descended(target, gram, q, scale, cheapest(q, limit, worth)), scale


def _steps(target: np.ndarray, gram: np.ndarray, least: np.ndarray, limit: int, worth: float) -> np.ndarray:
    """Scales [G, M] of the least error and bits; none is below ``least``, which reaches the largest weight."""
    # At many levels the error s^2 / 12 of a step and its log2 balance here; a weight's error counts as those after it leave it.
    alone = 2 * np.log(np.einsum("gkk->gk", np.linalg.cholesky(gram))).mean(axis=1)
    balanced = np.sqrt(6 * worth / (math.log(2) * np.exp(alone)))[:, None]
    own = np.sqrt(np.square(target).mean(axis=2))
    own = np.where(own > 0, own / np.exp(np.log(own[own > 0]).mean()), 1.0)
    best, cost = least, math.inf
    for share, factor in product(SHARES, FACTORS):
        scale = np.maximum(least, np.minimum(factor * balanced * own**share, least * limit))
        q = nearest(target, scale, limit)
        # Carrying on leaves of the error of nearest rounding what the input alone, given the others, has of it.
        error = float((np.square(target - q * scale[..., None]).sum(axis=2) * np.exp(alone)[:, None]).sum())
        _, counts = np.unique(q, return_counts=True)
        total = error - worth * float((counts * np.log2(counts / q.size)).sum())
        if total < cost:
            best, cost = scale, total
    return best


def cheapest(q: np.ndarray, limit: int, worth: float) -> Choose:
    """The whole number within +-limit near a value for which error and bits, each ``worth`` so much, are least together.

    Bits are those of the symbols of ``q``, counted with those that do not occur as half.
    """
    counts = np.bincount((q + limit).astype(np.int64).reshape(-1), minlength=2 * limit + 1) + 0.5
    prices = -worth * np.log2(counts / counts.sum())

    def choose(value: np.ndarray, size: np.ndarray) -> np.ndarray:
        near = np.clip(np.rint(value), -limit, limit)
        inward = near - np.sign(near)
        tried = np.stack([near, inward, inward - np.sign(inward), np.zeros_like(near)])
        cost = size * (value - tried) ** 2 + prices[(tried + limit).astype(np.int64)]
        return np.take_along_axis(tried, np.argmin(cost, axis=0)[None], axis=0)[0]

    return choose
