"""The search for integers of least output error, beside trying all of them and beside rounding to nearest."""

from itertools import product

import numpy as np
import pytest

from qaccel.quant.passes import lattice


def problem(seed: int, groups: int, channels: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(target [G, M, K], gram [G, K, K] of inputs that go together, scale [G, M] that reaches the largest weight at 4 bits)."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(groups, 200, count)) @ rng.normal(size=(groups, count, count)) + rng.normal(
        size=(groups, 200, 1)
    )
    target = rng.normal(size=(groups, channels, count))
    return target, inputs.transpose(0, 2, 1) @ inputs, np.abs(target).max(axis=2) / 7


def test_few_weights_find_the_closest_vector_of_all():
    target, gram, _ = problem(0, 3, 2, 4)
    limit, scale = 2, np.full((3, 2), 0.6)
    found = lattice.beamed(target, gram, scale, limit)
    grid = np.array(list(product(range(-limit, limit + 1), repeat=4)), float)
    for group, channel in product(range(3), range(2)):
        off = target[group, channel] - scale[group, channel] * grid
        best = np.einsum("nk,kl,nl->n", off, gram[group], off).min()
        mine = lattice.errors(target, found, scale, gram)[group, channel]
        assert mine == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("groups, channels, count", [(1, 20, 100), (8, 1, 9), (2, 5, 40)])
@pytest.mark.parametrize("limit", [7, 127])
def test_each_step_is_better_than_the_one_before(groups, channels, count, limit):
    target, gram, largest = problem(1, groups, channels, count)
    start = largest * 7 / limit
    nearest = lattice.errors(target, lattice.nearest(target, start, limit), start, gram)
    scale = lattice.searched_scales(target, gram, start, limit)
    searched = lattice.errors(target, lattice.nearest(target, scale, limit), scale, gram)
    assert (searched <= nearest).all()
    carried = lattice.carried(target, gram, scale, lattice.closest(limit))
    assert lattice.errors(target, carried, scale, gram).sum() < (0.8 if count > 9 else 0.97) * searched.sum()
    descended = lattice.descended(target, gram, carried, scale, lattice.closest(limit))
    after = lattice.errors(target, descended, scale, gram)
    assert (after <= lattice.errors(target, carried, scale, gram) * (1 + 1e-9)).all()
    fitted = lattice.fitted_scales(target, gram, descended, scale)
    assert (lattice.errors(target, descended, fitted, gram) <= after * (1 + 1e-9)).all()
    q, s = lattice.round_weights(target, gram, start, limit)
    assert np.array_equal(q, np.rint(q)) and np.abs(q).max() <= limit and (s > 0).all()


def test_carrying_on_is_the_plain_recursion():
    """Column after column with the inverse of what is left of the Gram matrix, as the paper's equations 2 and 3 say."""
    target, gram, largest = problem(2, 1, 6, lattice.BLOCK + 30)
    found = lattice.carried(target, gram, largest, lattice.closest(7))[0]
    order = list(np.argsort(-np.diag(gram[0]), kind="stable"))
    left, expected = target[0].copy(), np.zeros_like(target[0])
    while order:
        first, *rest = order
        inverse = np.linalg.inv(gram[0][np.ix_(order, order)])
        expected[:, first] = np.clip(np.rint(left[:, first] / largest[0]), -7, 7)
        error = (left[:, first] - expected[:, first] * largest[0]) / inverse[0, 0]
        left[:, rest] -= error[:, None] * inverse[0, 1:]
        order = rest
    np.testing.assert_array_equal(found, expected)
