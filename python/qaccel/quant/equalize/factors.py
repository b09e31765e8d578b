"""Factors that make a network's channels alike, group by group of tensors, where the modelled error falls by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...options import BitWidths
from ..calibrate.channels import Channels
from .classes import Classes
from .errors import LEAST, Tensor, Weights, rounded, total

# Powers of a channel's reach and of its largest weight to try: (1, 0) makes all channels reach as far, (0.5, 0.5) is the root rule
# of arXiv 1906.04721, section 4.1, and (0, 1) makes all weights as large.
POWERS = ((1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0), (0.75, 0.0), (0.5, 0.0), (0.25, 0.0))
ROOM = 2.0  # how much farther than in the samples a channel may reach before it is the one that reaches farthest
LEAST_GAIN = 0.02  # of the modelled error: less is not worth another scale


def factors_of(classes: Classes, seen: Mapping[str, Channels], widths: Callable[[str], BitWidths]) -> np.ndarray:
    """By class, what its channels are to be divided by: a power of two, 1 where nothing is gained."""
    tensors, weights = rounded(classes, seen, widths)
    factors = np.ones(classes.count)
    group_of = _groups(classes)
    reach, largest = _reaches(classes, tensors), _largest_weights(classes, weights)
    for group in np.unique(group_of):
        own = (group_of == group) & ~classes.fixed
        if not own.any():
            continue
        inside = [t for t in tensors if (group_of[t.classes] == group).any()]
        beside = [w for w in weights if (group_of[w.classes] == group).any()]
        error = total(inside, beside, factors)
        for powers in POWERS:
            tried = factors.copy()
            tried[own] = _tried(reach[own], largest[own], powers)
            after = total(inside, beside, tried)
            if after < (1 - LEAST_GAIN) * error:
                error, factors = after, tried
    return factors


def _tried(reach: np.ndarray, largest: np.ndarray, powers: tuple[float, float]) -> np.ndarray:
    """Powers of two near reach^a / largest^b, the greatest of them 1; 1 for what has no values."""
    alive = reach > 0
    made = powers[0] * np.log2(np.where(alive, reach, 1.0)) - powers[1] * np.log2(largest)
    return np.where(alive, np.exp2(np.rint(made - made[alive].max(initial=-np.inf))), 1.0) if alive.any() else reach + 1


def _groups(classes: Classes) -> np.ndarray:
    """By class, the group of those that tensors bring together."""
    pairs = [np.stack([np.broadcast_to(own[:1], own.shape), own]) for own in classes.of.values() if len(own)]
    first, second = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), int)
    links = coo_array((np.ones(len(first)), (first, second)), shape=(classes.count, classes.count))
    return connected_components(links, directed=False)[1]


def _reaches(classes: Classes, tensors: list[Tensor]) -> np.ndarray:
    """By class, how far it may reach, as a share of what its tensors do; 0 for those that have no values."""
    reach = np.zeros(classes.count)
    for each in tensors:
        far = np.maximum(each.hi, -each.lo)
        np.maximum.at(reach, each.classes, np.minimum(ROOM * far / max(far.max(), LEAST), 1.0))
    return reach


def _largest_weights(classes: Classes, weights: list[Weights]) -> np.ndarray:
    """By class, the largest weight that multiplies it, as a share of the largest of its output."""
    largest = np.zeros(classes.count)
    for each in weights:
        share = (each.largest / np.maximum(each.largest.max(axis=2, keepdims=True), LEAST)).max(axis=1)
        np.maximum.at(largest, each.classes.reshape(-1), share.reshape(-1))
    return np.where(largest > 0, largest, 1.0)
