"""Integers for a layer's weights that give the least squared error of its outputs: a closest vector in a lattice.

All arrays have a leading axis of groups G that share no inputs: one for a dense layer, one per channel for a depthwise one. M are
the output channels of a group, K its weights per channel. Errors are (w - s q)^T H (w - s q) of a channel, H [G, K, K] positive
definite, the second moments of what the weights multiply.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# (values in steps [G, M], what a squared step of error costs [G, M]) -> whole numbers [G, M]
Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]
SCALES = np.linspace(0.6, 1.05, 24)  # of the scale that just reaches the largest weight
ROUNDS = 3  # of coordinate descent and scale in turn
BLOCK = 64  # weights whose error is carried on together
BEAM_WEIGHTS = 32  # per channel, at most: then several ways to round go on side by side,
BEAM_LIMIT = 7  # where integers are as small as this: among more there is always one that is close
BEAM = 8
STARTS = np.linspace(0.65, 1.1, 10)  # scales that such a channel starts from, of that which reaches its largest weight
NEIGHBOURS = 4  # whole numbers that each of them tries


def nearest(target: np.ndarray, scale: np.ndarray, limit: int) -> np.ndarray:
    """Each weight rounded by itself, within +-limit: float64 whole numbers [G, M, K]."""
    return np.clip(np.rint(target / scale[..., None]), -limit, limit)


def errors(target: np.ndarray, q: np.ndarray, scale: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """(w - s q)^T H (w - s q) of each channel [G, M]."""
    off = target - q * scale[..., None]
    return np.einsum("gmk,gmk->gm", off @ gram, off)


def round_weights(target: np.ndarray, gram: np.ndarray, start: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers [G, M, K] within +-limit and scales [G, M] for real ``target`` [G, M, K]; ``start`` [G, M] are scales that reach
    the largest weight of each channel."""
    if target.shape[2] > BEAM_WEIGHTS or limit > BEAM_LIMIT:
        scale = searched_scales(target, gram, start, limit)
        return _settled(target, gram, carried(target, gram, scale, closest(limit)), scale, limit)
    best, scales, least = np.zeros_like(target), start, np.full(start.shape, np.inf)
    for factor in STARTS:
        q, scale = _settled(target, gram, beamed(target, gram, start * factor, limit), start * factor, limit)
        found = errors(target, q, scale, gram)
        better = found < least
        best, scales = np.where(better[..., None], q, best), np.where(better, scale, scales)
        least = np.minimum(found, least)
    return best, scales


def _settled(
    target: np.ndarray, gram: np.ndarray, q: np.ndarray, scale: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales after ROUNDS of fitting the scale and putting each integer where it is best."""
    for _ in range(ROUNDS):
        scale = fitted_scales(target, gram, q, scale)
        q = descended(target, gram, q, scale, closest(limit))
    return q, scale


def searched_scales(target: np.ndarray, gram: np.ndarray, start: np.ndarray, limit: int) -> np.ndarray:
    """Of some scales up to ``start``, that of the least error after rounding to nearest [G, M]."""
    best, least = start, errors(target, nearest(target, start, limit), start, gram)
    for factor in SCALES:
        scale = start * factor
        found = errors(target, nearest(target, scale, limit), scale, gram)
        best, least = np.where(found < least, scale, best), np.minimum(found, least)
    return best


def fitted_scales(target: np.ndarray, gram: np.ndarray, q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The scale of least error for given integers, q^T H w / q^T H q (COMQ, arXiv 2403.07134, section 3); ``scale`` where it is
    not positive."""
    moved = q @ gram
    over = np.einsum("gmk,gmk->gm", moved, q)
    best = np.einsum("gmk,gmk->gm", moved, target) / np.where(over > 0, over, 1.0)
    return np.where((over > 0) & (best > 0.5 * scale), best, scale)


def closest(limit: int) -> Choose:
    """The whole number within +-limit that is closest."""
    return lambda value, _: np.clip(np.rint(value), -limit, limit)


def carried(target: np.ndarray, gram: np.ndarray, scale: np.ndarray, choose: Choose) -> np.ndarray:
    """Weight after weight rounded, its error carried on into those that follow (GPTQ, arXiv 2210.17323), those first whose
    inputs are the largest. It is Babai's nearest plane."""
    order = np.argsort(-np.einsum("gkk->gk", gram), axis=1, kind="stable")
    back = np.argsort(order, axis=1)
    turned = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2)
    left = np.take_along_axis(target, np.repeat(order[:, None, :], target.shape[1], 1), 2)
    # upper[k, k:] / upper[k, k]: how the weights after k take up an error of weight k.
    upper = np.linalg.cholesky(np.linalg.inv(turned)).transpose(0, 2, 1)
    count = target.shape[2]
    q = np.empty_like(left)
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        made = np.empty((*left.shape[:2], last - first))
        for k in range(first, last):
            q[:, :, k] = choose(left[:, :, k] / scale, (scale / upper[:, k, k][:, None]) ** 2)
            error = (left[:, :, k] - q[:, :, k] * scale) / upper[:, k, k][:, None]
            left[:, :, k:last] -= error[:, :, None] * upper[:, None, k, k:last]
            made[:, :, k - first] = error
        left[:, :, last:] -= made @ upper[:, first:last, last:]
    return np.take_along_axis(q, np.repeat(back[:, None, :], target.shape[1], 1), 2)


def beamed(target: np.ndarray, gram: np.ndarray, scale: np.ndarray, limit: int) -> np.ndarray:
    """As `carried`, but the BEAM best ways so far go on with NEIGHBOURS each: for few weights nearly always the best."""
    groups, channels, count = target.shape
    order = np.argsort(np.einsum("gkk->gk", gram), axis=1, kind="stable")  # from the last to the first
    back = np.argsort(order, axis=1)
    turned = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2)
    wanted = np.take_along_axis(target, np.repeat(order[:, None, :], channels, 1), 2) / scale[..., None]
    upper = np.linalg.cholesky(turned).transpose(0, 2, 1)  # error = |upper (w - q)|^2
    ways = np.zeros((groups, channels, 1, count))
    costs = np.zeros((groups, channels, 1))
    for k in range(count - 1, -1, -1):
        off = wanted[:, :, None, k + 1 :] - ways[:, :, :, k + 1 :]
        row = upper[:, k, k + 1 :] / upper[:, k, k][:, None]
        centre = wanted[:, :, None, k] + np.einsum("gmbk,gk->gmb", off, row)
        first = np.clip(np.floor(centre) - (NEIGHBOURS - 2) // 2, -limit, limit - NEIGHBOURS + 1)
        tried = first[..., None] + np.arange(NEIGHBOURS)
        cost = costs[..., None] + (upper[:, k, k][:, None, None, None] * (centre[..., None] - tried)) ** 2
        flat = cost.reshape(groups, channels, -1)
        kept = min(BEAM, flat.shape[2])
        index = np.argsort(flat, axis=2, kind="stable")[:, :, :kept]
        costs = np.take_along_axis(flat, index, 2)
        ways = np.take_along_axis(ways, np.repeat((index // NEIGHBOURS)[..., None], count, 3), 2)
        ways[:, :, :, k] = np.take_along_axis(tried.reshape(groups, channels, -1), index, 2)
    return np.take_along_axis(ways[:, :, 0], np.repeat(back[:, None, :], channels, 1), 2)


def descended(target: np.ndarray, gram: np.ndarray, q: np.ndarray, scale: np.ndarray, choose: Choose) -> np.ndarray:
    """Each integer in turn put where the error, or what ``choose`` makes of it, is least given the others: it never grows."""
    q = q.copy()
    count = target.shape[2]
    diagonal = np.einsum("gkk->gk", gram)
    slope = (target - q * scale[..., None]) @ gram
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        within = slope[:, :, first:last].copy()
        moved = np.empty_like(within)
        for k in range(first, last):
            size = diagonal[:, k][:, None] * scale
            best = choose(q[:, :, k] + within[:, :, k - first] / size, size * scale)
            step = (best - q[:, :, k]) * scale
            q[:, :, k] = best
            within -= step[:, :, None] * gram[:, None, k, first:last]
            moved[:, :, k - first] = step
        slope -= moved @ gram[:, first:last]
    return q
