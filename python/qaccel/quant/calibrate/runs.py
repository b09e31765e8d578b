"""Runs of a network among samples: how many there are, and the first of them."""

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
