"""What is gathered of channels: ends of all samples, means and variances of the first ones, whatever comes at once."""

import numpy as np
import pytest

from qaccel.quant.calibrate.channels import ChannelSums

CHANNELS = 3


def gathered(value: np.ndarray, at_once: int) -> ChannelSums:
    sums = ChannelSums()
    for start in range(0, len(value), at_once):
        sums.extremes("x", value[start : start + at_once])
        sums.add("x", value[start : start + at_once])
    return sums


@pytest.mark.parametrize("shape", [(24, CHANNELS), (24, CHANNELS, 5, 4)])
@pytest.mark.parametrize("at_once", [1, 5, 16, 24])
def test_sixteen_samples_say_means_and_variances(shape: tuple[int, ...], at_once: int) -> None:
    value = np.random.default_rng(0).normal(2.0, 3.0, shape).astype(np.float32)
    value[20, 1] = 100.0  # too late for mean and variance, not for the ends
    found = gathered(value, at_once).values["x"]
    axes = tuple(axis for axis in range(value.ndim) if axis != 1)
    first = value[:16].astype(np.float64)
    np.testing.assert_allclose(found.mean, first.mean(axis=axes), rtol=1e-5)
    np.testing.assert_allclose(found.variance, first.var(axis=axes), rtol=1e-4)
    np.testing.assert_array_equal(found.hi, np.maximum(value.max(axis=axes), 0))
    np.testing.assert_array_equal(found.lo, np.minimum(value.min(axis=axes), 0))
