"""Inputs for calibration where the user has no data: the range is known or guessed, the content is made up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..frontend.import_onnx import TensorSpec
from .calibrate import Ranges

# Made-up inputs excite a network less than real ones; 16-bit activations can spare the two bits that this costs.
HEADROOM = 4.0


def synthetic_inputs(
    specs: Sequence[TensorSpec], input_range: tuple[float, float], samples: int, seed: int = 0, guessed: bool = False
) -> dict[str, np.ndarray]:
    """``samples`` made-up samples per input within ``input_range``, along axis 0, in the input's element type.

    Flat ones at both ends first, then flat per channel, then patterns from coarse to fine: white noise alone averages
    out in the first convolution. Integer inputs are rounded and kept within their type; where the range is only
    ``guessed``, those of 8 bits take all values of theirs.
    """
    rng = np.random.default_rng(seed)
    made = {}
    for spec in specs:
        lo, hi = input_range
        if guessed and spec.dtype in ("int8", "uint8"):
            lo, hi = float(np.iinfo(spec.dtype).min), float(np.iinfo(spec.dtype).max)
        shape = spec.shape[1:]
        values = [_sample(rng, k, shape) for k in range(samples * (spec.shape[0] if spec.shape else 1))]
        array: np.ndarray = lo + (hi - lo) * np.stack(values).reshape(-1, *shape)
        dtype = np.dtype(spec.dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            array = np.clip(np.rint(array), limits.min, limits.max)
        elif dtype.kind == "b":
            array = array > (lo + hi) / 2
        made[spec.name] = array.astype(dtype) if spec.shape else array.astype(dtype).reshape(())
    return made


def _sample(rng: np.random.Generator, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """One sample within 0..1."""
    if index < 2:
        return np.full(shape, float(index))
    if len(shape) < 2 or index % 4 == 2:
        return np.broadcast_to(rng.random((*shape[:1], *(1 for _ in shape[1:]))), shape)
    cell = 1 << (index % 5)
    coarse = rng.random((shape[0], *(-(-size // cell) for size in shape[1:])))
    for axis in range(1, len(shape)):
        coarse = np.repeat(coarse, cell, axis=axis)
    return coarse[tuple(slice(size) for size in shape)]


def widened(ranges: Ranges, exact: Sequence[str] = ()) -> Ranges:
    """Ranges from synthetic inputs with HEADROOM; those named in ``exact`` are known and stay."""
    values = {
        name: (lo, hi) if name in exact else (lo * HEADROOM, hi * HEADROOM) for name, (lo, hi) in ranges.values.items()
    }
    return Ranges(values, "synthetic", ranges.samples)
