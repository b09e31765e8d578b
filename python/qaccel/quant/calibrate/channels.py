"""What samples show of each channel of a tensor: its ends, its mean and its variance. Channels lie on axis 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROW = 4096  # values that a pass over a channels-last array takes at once
SAMPLES = 16  # that mean and variance are of


@dataclass(frozen=True, eq=False)
class Channels:
    """``lo`` <= 0 <= ``hi`` of all samples, ``mean`` and ``variance`` of the first ones; each float64 [channels]."""

    lo: np.ndarray
    hi: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @property
    def is_sound(self) -> bool:
        """Whether it holds one finite value for each channel, and the ends hold zero."""
        all_of = self.lo, self.hi, self.mean, self.variance
        whole = all(each.ndim == 1 and len(each) == len(self.lo) and np.isfinite(each).all() for each in all_of)
        return whole and bool((self.lo <= 0).all() and (self.hi >= 0).all() and (self.variance >= 0).all())

    def scaled(self, factors: np.ndarray) -> Channels:
        """Of the tensor divided by ``factors`` [channels]."""
        return Channels(self.lo / factors, self.hi / factors, self.mean / factors, self.variance / factors**2)


class ChannelSums:
    """Gathers `Channels` of every tensor [N, C] or [N, C, H, W] that it is shown."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    def extremes(self, name: str, value: np.ndarray) -> tuple[float, float]:
        """The least and greatest value; those of its channels are kept."""
        rows = _rows(value)
        if rows is None:
            return (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
        channels = value.shape[1]
        lo, hi = (each(each(rows, axis=0).reshape(-1, channels), axis=0) for each in (np.min, np.max))
        before = self._ends.get(name, (np.zeros(channels), np.zeros(channels)))
        if len(before[0]) == channels:
            self._ends[name] = np.minimum(before[0], lo), np.maximum(before[1], hi)
        return float(lo.min()), float(hi.max())

    def add(self, name: str, value: np.ndarray) -> None:
        """Takes values into mean and variance, of the first SAMPLES."""
        seen = self._seen.get(name, 0)
        if seen == SAMPLES or not value.ndim:
            return
        value = value[: SAMPLES - seen]
        rows = _rows(value)
        if rows is None:
            return
        self._seen[name] = seen + len(value)
        sums = np.stack([rows.sum(axis=0), np.einsum("rk,rk->k", rows, rows)]).reshape(2, -1, value.shape[1])
        total = sums.sum(axis=1, dtype=np.float64)
        if name not in self._sums or self._sums[name].shape == total.shape:
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0) + value.size // value.shape[1]

    @property
    def values(self) -> dict[str, Channels]:
        """By name."""
        found = {}
        for name, (first, second) in self._sums.items():
            mean = first / self._counts[name]
            lo, hi = self._ends[name]
            if len(lo) == len(mean):
                with np.errstate(invalid="ignore"):  # a mask of -inf has no variance
                    variance = np.maximum(second / self._counts[name] - mean**2, 0.0)
                found[name] = Channels(lo, hi, mean, variance)
        return found


def _rows(value: np.ndarray) -> np.ndarray | None:
    """Values as rows of whole pixels, several of them in a row; None for what has no channels on axis 1."""
    if value.ndim not in (2, 4) or value.dtype != np.float32 or not value.size:
        return None
    pixels = (
        value.reshape(-1, value.shape[1])
        if value.ndim == 2
        else value.transpose(0, 2, 3, 1).reshape(-1, value.shape[1])
    )
    together = 1
    while together * 2 * value.shape[1] <= ROW and len(pixels) % (together * 2) == 0:
        together *= 2
    return pixels.reshape(-1, together * value.shape[1])
