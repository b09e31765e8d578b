"""Values among the calibration samples that are nobody's: a broken sensor's 10000 beside values of 4.

One such value in the input is enough to spoil a method that is made to cut tails. A convolution spreads it over its whole kernel
and all channels, so that far more than a percentile's tail stands out behind it; to the squared error it outweighs all other
values together; and the bins of a histogram between such extremes are wider than all the rest. So they are looked for where they
enter, in the inputs, by the gap between them and all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....model import TensorSpec

# How many times the largest of all other values an outlier is; values that run on without such a gap are the data's own tail.
GAP = 30.0
MOST_VALUES = 0.01  # of an input that can be outliers,
MOST_SAMPLES = 0.25  # or of the samples that can be so as a whole
VALUES, SAMPLES, PLACE = "values", "samples", "place"  # kinds of outliers


@dataclass(frozen=True)
class Outliers:
    """Of one input: ``samples`` that hold outliers, by their place along axis 0; the farthest of them, ``value``, in ``sample``.

    ``others``: the largest magnitude of all other values. ``kind``: VALUES, few enough to be clipped alone; SAMPLES that stand out
    as a whole; or a PLACE where most samples have such values, which is data on a scale of its own and no outlier.
    """

    name: str
    samples: tuple[int, ...]
    sample: int
    value: float
    others: float
    kind: str

    def note(self, method: str) -> str:
        """What to tell the user."""
        count = len(self.samples)
        more = f", one of {count} samples with such values" if count > 1 else ""
        if self.kind == PLACE:
            done = "as it does at that place in most samples, it is taken as data, and the others have few steps left at 8 bits"
        elif method == "minmax":
            done = "minmax holds it: calibrate without it, or with --calibration percentile, entropy or mse"
        elif self.kind == VALUES:
            done = f"{method} takes it as {self.others:.4g}"
        else:
            done = f"{method} goes without the sample"
        return (
            f"calibration data: sample {self.sample} of '{self.name}' has the value {self.value:.6g}{more}, where all others "
            f"are within {self.others:.4g}; {done}"
        )


def find_outliers(specs: Sequence[TensorSpec], data: Mapping[str, np.ndarray]) -> tuple[Outliers, ...]:
    """The outliers of each input that has any. Only inputs of real numbers are looked at."""
    found = []
    for spec in specs:
        array = data[spec.name]
        if spec.shape and array.dtype.kind == "f" and len(array) > 1:
            size = np.abs(array).reshape(len(array), -1)
            limit, kind = _limit_of_values(size)
            if limit is None:
                limit, kind = _limit(np.sort(size.max(axis=1)), int(MOST_SAMPLES * len(size))), SAMPLES
            if limit is not None:
                found.append(_outliers(spec.name, array, size, limit, kind))
    return tuple(found)


def _outliers(name: str, array: np.ndarray, size: np.ndarray, limit: float, kind: str) -> Outliers:
    samples = np.flatnonzero(size.max(axis=1) > limit)
    sample, place = np.unravel_index(int(size.argmax()), size.shape)
    value = float(array.reshape(size.shape)[sample, place])
    return Outliers(name, tuple(map(int, samples)), int(sample), value, limit, kind)


def _limit_of_values(size: np.ndarray) -> tuple[float | None, str]:
    """The largest magnitude below the gap, where few values are above it, and their kind; ``size`` [samples, values]."""
    few = int(MOST_VALUES * size.size)
    # The mean is at most the few times the largest, and the others' largest: where it is more, there is no gap.
    if not few or size.mean() > (MOST_VALUES + 1 / GAP) * size.max():
        return None, VALUES
    limit = _limit(np.sort(np.partition(size, -few - 1, axis=None)[-few - 1 :]), few)
    at_one_place = limit is not None and (size > limit).mean(axis=0).max() > 1 / 2
    return limit, PLACE if at_one_place else VALUES


def _limit(rising: np.ndarray, most: int) -> float | None:
    """The last value before a gap, with at most so many behind it; zeros are no values to compare with."""
    tail = rising[-most - 1 :]
    gaps = np.flatnonzero((tail[1:] > GAP * tail[:-1]) & (tail[:-1] > 0))
    return float(tail[gaps[0]]) if gaps.size else None


def without(
    specs: Sequence[TensorSpec], data: Mapping[str, np.ndarray], found: Sequence[Outliers]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The samples without outliers, and those that hold them, by input name.

    Single values are clipped to the largest of the others; whole samples are left out, and with each all of its batch.
    """
    own = {spec.name: spec.shape[0] for spec in specs if spec.shape}
    clean = dict(data)
    runs = min((len(data[name]) // size for name, size in own.items()), default=0)
    held, dropped = np.zeros(runs, bool), np.zeros(runs, bool)
    for each in (each for each in found if each.kind != PLACE):
        at = np.unique(np.array(each.samples) // own[each.name])
        held[at] = True
        if each.kind == SAMPLES:
            dropped[at] = True
        else:
            clean[each.name] = np.clip(data[each.name], -each.others, each.others)

    def taken(arrays: Mapping[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
        return {name: v[np.repeat(kept, own[name])] if name in own else v for name, v in arrays.items()}

    return taken(clean, ~dropped), taken(data, held)
