"""Rounding that pays for bits: fewer of them than coarser steps give at the same error, on the machine's own codecs."""

import numpy as np
import pytest

from qaccel.machine.hw import load_config
from qaccel.machine.streams import WeightTile, encode_stream, entropy_bits
from qaccel.quant.passes import lattice
from qaccel.quant.passes.priced import cheapest, priced_weights


def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(target [1, M, K], gram [1, K, K] of inputs of unlike size that go together, scale [1, M] of 8 bits)."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(1, 800, 96)) @ rng.normal(size=(96, 96)) * rng.uniform(0.2, 2, 96)
    target = rng.laplace(size=(1, 48, 96)) * rng.uniform(0.5, 2, (1, 48, 1))
    return target, inputs.transpose(0, 2, 1) @ inputs / 800, np.abs(target).max(axis=2) / 127


def share(target: np.ndarray, gram: np.ndarray, q: np.ndarray, scale: np.ndarray) -> float:
    """Error over the mean square of the outputs."""
    return float(lattice.errors(target, q, scale, gram).sum()) / power(target, gram)


def power(target: np.ndarray, gram: np.ndarray) -> float:
    """The mean square of the outputs."""
    return float(np.einsum("gmk,gmk->", target @ gram, target))


def test_fewer_bits_than_coarser_steps_at_the_same_error():
    target, gram, start = problem()
    curve = []
    for factor in (1, 2, 4, 8, 16):
        coarse = lattice.carried(target, gram, start * factor, lattice.closest(127))
        curve.append((np.log(share(target, gram, coarse, start * factor)), entropy_bits(coarse)))
    for rate, most in ((1e-8, 1.0), (1e-7, 0.98), (1e-6, 0.975)):
        q, scale = priced_weights(target, gram, start, 127, rate * power(target, gram))
        assert np.array_equal(q, np.rint(q)) and np.abs(q).max() <= 127
        others = np.interp(np.log(share(target, gram, q, scale)), *zip(*curve, strict=True))
        assert entropy_bits(q) < most * others


def test_a_dearer_bit_makes_shorter_streams_and_more_error():
    target, gram, start = problem()
    hw, found = load_config("qaccel-256"), []
    for rate in (1e-10, 1e-8, 1e-6):
        q, scale = priced_weights(target, gram, start, 127, rate * power(target, gram))
        found.append(
            (len(encode_stream(WeightTile(q[0].T.astype(np.int32), 48, 8), hw)), share(target, gram, q, scale))
        )
    sizes, errors = zip(*found, strict=True)
    assert sizes[0] > 1.1 * sizes[1] > 1.21 * sizes[2] and errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("worth", [0.0, 0.05, 1.0])
def test_the_choice_is_the_least_sum(worth):
    """Of all whole numbers, for values within the limit; a symbol that is dear enough gives way to its inward neighbour or to zero."""
    rng = np.random.default_rng(1)
    q, size = np.rint(rng.laplace(scale=2, size=100_000)), np.full((1, 400), 0.7)
    q = q[np.abs(q) <= 7]
    value = rng.uniform(-7, 7, (1, 400))
    chosen = cheapest(q, 7, worth)(value, size)
    counts = np.array([np.sum(q == k) for k in range(-7, 8)]) + 0.5
    costs = size[..., None] * (value[..., None] - np.arange(-7, 8)) ** 2 - worth * np.log2(counts / counts.sum())
    got = np.take_along_axis(costs, (chosen + 7).astype(int)[..., None], 2)[..., 0]
    assert (got <= costs.min(axis=2) + (1e-12 if worth < 0.5 else 0.1)).all()
