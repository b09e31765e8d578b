"""Factors that make a network's channels alike, group by group of tensors, where the modelled error falls by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...options import BitWidths
from ..calibrate.channels import Channels
from .classes import Classes
from .errors import Tensor, Weights, rounded, total

# Powers of a channel's reach and of its largest weight to try: (1, 0) makes all channels reach as far, (0.5, 0.5) is the root rule
# of arXiv 1906.04721, section 4.1, and (0, 1) makes all weights as large.
POWERS = ((1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0), (0.75, 0.0), (0.5, 0.0), (0.25, 0.0))
LARGEST = 2.0**16  # factor, and one over it the least
ROOM = 1.25  # how much farther than in the samples a limited channel may reach before its limit is another one
LEAST_GAIN = 0.02  # of the modelled error: less is not worth another scale


def factors_of(classes: Classes, seen: Mapping[str, Channels], widths: Callable[[str], BitWidths]) -> np.ndarray:
    """By class, what its channels are to be divided by: a power of two, 1 where nothing is gained."""
    tensors, weights = rounded(classes, seen, widths)
    factors = np.ones(classes.count)
    least, most = _bounds(classes, seen)
    group_of = _groups(classes)
    reach, largest = _reaches(classes, tensors), _largest_weights(classes, weights)
    for group in np.unique(group_of):
        own = (group_of == group) & (least < most)
        if not own.any():
            continue
        inside = [t for t in tensors if (group_of[t.classes] == group).any()]
        beside = [w for w in weights if (group_of[w.classes] == group).any()]
        error = total(inside, beside, factors)
        for powers in POWERS:
            tried = factors.copy()
            tried[own] = _tried(reach[own], largest[own], powers, least[own], most[own])
            after = total(inside, beside, tried)
            if after < (1 - LEAST_GAIN) * error:
                error, factors = after, tried
    return factors


def _tried(
    reach: np.ndarray, largest: np.ndarray, powers: tuple[float, float], least: np.ndarray, most: np.ndarray
) -> np.ndarray:
    """Powers of two near reach^a / largest^b, the greatest of them 1 where a limit keeps them below."""
    alive = reach > 0
    made = np.zeros(len(reach))
    made[alive] = powers[0] * np.log2(reach[alive]) - powers[1] * np.log2(np.maximum(largest[alive], 1e-12))
    made[alive] -= made[alive].max(initial=-np.inf)
    return np.clip(np.exp2(np.rint(made)), least, most)


def _groups(classes: Classes) -> np.ndarray:
    """By class, the group of those that tensors bring together."""
    pairs = [np.stack([np.broadcast_to(own[:1], own.shape), own]) for own in classes.of.values() if len(own)]
    first, second = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), int)
    links = coo_array((np.ones(len(first)), (first, second)), shape=(classes.count, classes.count))
    return connected_components(links, directed=False)[1]


def _bounds(classes: Classes, seen: Mapping[str, Channels]) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest factor of each class.

    A limit is one of the whole tensor: a channel may be made larger as long as none of its values, with some room, meets it.
    """
    least = np.where(classes.fixed, 1.0, 1 / LARGEST)
    most = np.where(classes.fixed, 1.0, LARGEST)
    for each in classes.limited:
        own = classes.of[each.output]
        most[own] = np.minimum(most[own], 1.0)
        stats = seen.get(classes.names.get(each.output, ""))
        if stats is None or len(stats.lo) != len(own):
            least[own] = 1.0
            continue
        needed = np.zeros(len(own))
        for end, limit in ((stats.hi, each.hi), (-stats.lo, -each.lo)):
            if 0 < limit < np.inf:
                needed = np.maximum(needed, end * ROOM / limit)
        np.maximum.at(least, own, np.minimum(np.exp2(np.ceil(np.log2(np.maximum(needed, 1 / LARGEST)))), 1.0))
    return least, most


def _reaches(classes: Classes, tensors: list[Tensor]) -> np.ndarray:
    """By class, how far it reaches, as a share of what its tensors do; 0 for those that have no values."""
    reach = np.zeros(classes.count)
    for each in tensors:
        far = np.maximum(each.hi, -each.lo)
        np.maximum.at(reach, each.classes, far / max(far.max(), 1e-30))
    return reach


def _largest_weights(classes: Classes, weights: list[Weights]) -> np.ndarray:
    """By class, the largest weight that multiplies it, as a share of the largest of its output."""
    largest = np.zeros(classes.count)
    for each in weights:
        share = (each.largest / np.maximum(each.largest.max(axis=2, keepdims=True), 1e-30)).max(axis=1)
        np.maximum.at(largest, each.classes.reshape(-1), share.reshape(-1))
    return np.where(largest > 0, largest, 1.0)
