"""Runs of a network among samples: how many there are, the first of them, and whether they differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...model import Model


def runs_of(model: Model, samples: Mapping[str, np.ndarray]) -> int:
    """How many runs of the network the samples are for."""
    own = {spec.name: spec.shape[0] for spec in model.inputs if spec.shape}
    return min((len(samples[name]) // size for name, size in own.items()), default=1)


def batch_of(model: Model) -> int:
    """How many samples a run of the network takes."""
    return max((spec.shape[0] for spec in model.inputs if spec.shape), default=1)


def first_runs(model: Model, samples: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """The samples of the first runs."""
    own = {spec.name: spec.shape[0] for spec in model.inputs if spec.shape}
    return {name: value[: most * own[name]] if name in own else value for name, value in samples.items()}


def alike(model: Model, samples: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """A warning where samples tell no more than one would: runs that are all the same, or a single one of equal values."""
    own = {spec.name: spec.shape[0] for spec in model.inputs if spec.shape}
    runs = runs_of(model, samples)
    used = {name: samples[name][: runs * size] for name, size in own.items()}
    if runs > 1:
        same = all(np.array_equal(used[name][size:], used[name][:-size]) for name, size in own.items())
    else:
        same = bool(own) and all(value.size and value.min() == value.max() for value in used.values())
    if not same:
        return ()
    what = (
        f"the {runs} calibration samples do not differ"
        if runs > 1
        else "the values of the calibration sample do not differ"
    )
    return (
        f"warning: {what}: ranges are of what they hold alone, and an estimated drop means nothing; give samples such as the "
        "network will see",
    )
