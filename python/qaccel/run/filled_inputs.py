"""Inputs for a module where the user has none: made up, and the same every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UserError, did_you_mean

SEED = 0
FILL_MODES = ("zeros", "ones", "random")


def filled_inputs(entries: Sequence[Mapping[str, Any]], mode: str = "random") -> dict[str, np.ndarray]:
    """One batch by input name, for inputs as a module's metadata has them, filled as one of FILL_MODES says.

    Random values are evenly spread over what the quantized input can hold; where that is not known, standard normal. Integers
    that stand for no real values are 0 or 1, which any index or length may be. Raises UserError for another mode.
    """
    if mode not in FILL_MODES:
        raise UserError(f"--fill-mode {mode!r} is unknown; use {', '.join(FILL_MODES)}{did_you_mean(mode, FILL_MODES)}")
    rng = np.random.default_rng(SEED)
    if mode == "random":
        return {entry["name"]: _random(rng, entry) for entry in entries}
    return {entry["name"]: np.full(tuple(entry["shape"]), mode == "ones", entry["dtype"]) for entry in entries}


def _random(rng: np.random.Generator, entry: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        least, most = (np.iinfo(dtype).min, np.iinfo(dtype).max) if "scale" in entry else (0, 1)
        return rng.integers(least, most, shape, dtype, endpoint=True)
    if "scale" not in entry:
        return rng.standard_normal(shape).astype(dtype)
    half = 1 << (entry["bits"] - 1)
    lo, hi = (entry["scale"] * (end - entry["zero_point"]) for end in (-half, half - 1))
    return rng.uniform(lo, hi, shape).astype(dtype)
