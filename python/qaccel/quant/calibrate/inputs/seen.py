"""What calibration saw of a network's inputs: range, mean and deviation, of all values and of each channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ....dialect.quantized import InputSeen
from ....model import TensorSpec

MOST_CHANNELS = 16  # beyond them the figures of each are no help
MOST_SHOWN = 3  # inputs in the line for people
PIECE = 64  # samples at once, so that temporaries stay small


def inputs_seen(specs: Sequence[TensorSpec], samples: Mapping[str, np.ndarray]) -> tuple[InputSeen, ...]:
    """One entry for each float input, of samples along axis 0."""
    return tuple(
        seen(spec.name, samples[spec.name], channel_axis(spec.shape))
        for spec in specs
        if np.dtype(spec.dtype).kind == "f" and spec.shape and samples[spec.name].size
    )


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Which axis of an input of this shape its channels are: the last where that has 1 or 3 and the second has not."""
    if len(shape) < 3:
        return None
    return len(shape) - 1 if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3) else 1


def seen(name: str, values: np.ndarray, axis: int | None) -> InputSeen:
    """The figures of one input. Sums are taken in float64, the deviation is the population's."""
    channels = 1 if axis is None else values.shape[axis]
    lo, hi = np.full(channels, np.inf), np.full(channels, -np.inf)
    sums, squares, count = np.zeros(channels), np.zeros(channels), 0
    # Squares are taken around the first sample's mean: of values far from zero they would lose the digits.
    centre = float(np.mean(values[:1], dtype=np.float64))
    for start in range(0, len(values), PIECE):
        part = values[start : start + PIECE]
        flat = part.reshape(1, -1) if axis is None else np.moveaxis(part, axis, 0).reshape(channels, -1)
        real = flat.astype(np.float64) - centre
        lo, hi = np.minimum(lo, flat.min(1)), np.maximum(hi, flat.max(1))
        sums, squares, count = sums + real.sum(1), squares + (real**2).sum(1), count + flat.shape[1]
    means = sums / count
    deviations = np.sqrt(np.maximum(squares / count - means**2, 0.0))
    mean = means.mean()
    deviation = np.sqrt(max(float((squares / count).mean() - mean**2), 0.0))
    each = () if axis is None or channels > MOST_CHANNELS else zip(lo, hi, means + centre, deviations, strict=True)
    return InputSeen(
        name, len(values), float(lo.min()), float(hi.max()), float(mean + centre), float(deviation),
        tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in each),
    )  # fmt: skip


def line(entries: Sequence[InputSeen]) -> str:
    """What calibration saw, in one line."""
    shown = "; ".join(
        f"'{e.name}' {e.lo:.3g} to {e.hi:.3g}, mean {e.mean:.3g}, deviation {e.deviation:.3g}"
        for e in entries[:MOST_SHOWN]
    )
    more = f"; and {len(entries) - MOST_SHOWN} more inputs" if len(entries) > MOST_SHOWN else ""
    return f"calibration saw {entries[0].samples} samples: {shown}{more}"
