"""Places of a layer's output at which rounding looks: what the float model gives there, and the integers that make it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...dialect import kernels, operators
from ...dialect.quantized import RealLayer

ROWS_PER_WEIGHT = 6  # more places than are asked for where a channel has many weights


class Rows:
    """Places of one layer, ``each`` in every sample: the larger of ``wanted`` and ROWS_PER_WEIGHT for each weight of a channel in
    all, or all that there are.

    ``runs``: of the model's own batch; ``seed``: for the draw, which is another one in each sample.
    """

    def __init__(self, real: RealLayer, runs: int, wanted: int, seed: int) -> None:
        n, self._height, self._width, _ = real.nhwc
        samples, pixels = runs * n, self._height * self._width
        wanted = max(wanted, ROWS_PER_WEIGHT * real.weight[0].size)
        self.each = min(pixels, -(-wanted // samples))
        rng = np.random.default_rng(seed)
        self._places = np.stack([np.sort(rng.permutation(pixels)[: self.each]) for _ in range(samples)])
        self._parts: list[np.ndarray] = []
        self._seen = 0

    def add(self, value: np.ndarray) -> None:
        """Takes the float outputs NHWC of the next samples."""
        flat = value.reshape(len(value), -1, value.shape[3])
        places = self._places[self._seen : self._seen + len(value)]
        self._parts.append(np.take_along_axis(flat, places[:, :, None], axis=1).reshape(-1, value.shape[3]))
        self._seen += len(value)

    @property
    def full(self) -> bool:
        """Whether all samples were seen: what the float executor computes as a whole with other nodes is not."""
        return self._seen == len(self._places)

    def outputs(self, groups: int) -> np.ndarray:
        """The float outputs at the places, float32 [G, M, rows]."""
        values = np.concatenate(self._parts)
        return np.ascontiguousarray(values.T).reshape(groups, -1, len(values))

    def patches(self, attrs: operators.ConvAttrs, kernel: tuple[int, ...], given: Sequence[np.ndarray]) -> np.ndarray:
        """What the weights of each group multiply there: integers minus zero point, float32 [G, K, rows].

        ``given``: the layer's input NHWC, pass by pass.
        """
        window = attrs.window((kernel[0], kernel[1]))
        parts, seen = [], 0
        for q in given:
            rows, columns = np.divmod(self._places[seen : seen + len(q)], self._width)
            seen += len(q)
            around = kernels.padded(q, window.pads, attrs.source.zero_point)
            view = kernels.windows(around, window, (self._height, self._width))
            parts.append(view[np.arange(len(q))[:, None], rows, columns].reshape(-1, *kernel[:2], q.shape[3]))
        patches = np.concatenate(parts)
        grouped = patches.reshape(len(patches), -1, attrs.groups, patches.shape[3] // attrs.groups)
        turned = grouped.transpose(2, 1, 3, 0).astype(np.float32, order="C")
        turned -= attrs.source.zero_point
        return turned.reshape(attrs.groups, -1, len(patches))
