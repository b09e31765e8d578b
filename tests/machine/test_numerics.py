"""The machine's arithmetic against exact fractions. Python rounds a Fraction half to even."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaccel.machine.isa import isa, limits
from qaccel.machine.numerics import (
    MULTIPLIER_BITS,
    SHIFT_MAX,
    accumulator_width,
    activation_limits,
    common_multipliers,
    multiplier_and_shift,
    output_scale_ratio,
    requantize,
    rounding_shift,
)

ACCUMULATORS = st.integers(-(1 << 63), (1 << 63) - 1)
SHIFTS = st.integers(0, SHIFT_MAX)
MULTIPLIERS = st.integers(0, (1 << MULTIPLIER_BITS) - 1)
SCALES = st.floats(min_value=2.0**-96, max_value=2.0**31, exclude_max=True, width=32)


def test_the_instructions_hold_every_multiplier_and_shift() -> None:
    fields = {field.name: field for field in isa().formats["POOL"].fields}
    assert limits(fields["multiplier"]) == (0, (1 << MULTIPLIER_BITS) - 1)
    assert limits(fields["shift"]) == (0, SHIFT_MAX)


def test_activation_limits() -> None:
    assert [activation_limits(bits) for bits in (4, 8, 16)] == [(-8, 7), (-128, 127), (-32768, 32767)]


@pytest.mark.parametrize("weight_bits", [4, 8, 16])
@pytest.mark.parametrize("activation_bits", [4, 8, 16])
def test_accumulator_width(weight_bits: int, activation_bits: int) -> None:
    expected = 48 if 16 in (weight_bits, activation_bits) else 32
    assert accumulator_width(weight_bits, activation_bits, 48) == expected


@given(st.integers(-(1 << 80), 1 << 80), SHIFTS)
def test_rounding_shift_rounds_exactly_once(value: int, shift: int) -> None:
    assert rounding_shift(value, shift) == round(Fraction(value, 1 << shift))


@given(st.integers(-(1 << 60), 1 << 60), st.integers(1, SHIFT_MAX), st.sampled_from([-1, 0, 1]))
def test_rounding_shift_at_ties_and_beside_them(whole: int, shift: int, beside: int) -> None:
    value = (whole << shift) + (1 << (shift - 1)) + beside
    assert rounding_shift(value, shift) == round(Fraction(value, 1 << shift))
    if beside == 0:
        assert rounding_shift(value, shift) % 2 == 0


def test_rounding_shift_by_hand() -> None:
    assert [rounding_shift(value, 1) for value in range(-5, 6)] == [-2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2]
    assert [rounding_shift(value, 2) for value in (-7, -6, -5, -2, 2, 5, 6, 7)] == [-2, -2, -1, 0, 0, 1, 2, 2]
    assert rounding_shift(-5, 0) == -5
    assert type(rounding_shift(3, 1)) is int


@given(SCALES)
def test_a_float32_scale_is_represented_exactly(scale: float) -> None:
    multiplier, shift = multiplier_and_shift(scale)
    assert 1 << (MULTIPLIER_BITS - 1) <= multiplier < 1 << MULTIPLIER_BITS
    assert 0 <= shift <= SHIFT_MAX
    assert Fraction(multiplier, 1 << shift) == Fraction(scale)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1.0, (1 << 30, 30)),
        (0.5, (1 << 30, 31)),
        (1.5, (3 << 29, 30)),
        (float(2**30), (1 << 30, 0)),
        (2.0**-97, (1 << 30, 127)),
        (2.0**-98, (0, 0)),  # below what the shift reaches
        (float(np.finfo(np.float32).smallest_subnormal), (0, 0)),
        (float(np.nextafter(np.float32(2**31), np.float32(0))), ((1 << 31) - 128, 0)),
    ],
)
def test_multiplier_and_shift_by_hand(scale: float, expected: tuple[int, int]) -> None:
    assert multiplier_and_shift(scale) == expected


@pytest.mark.parametrize("scale", [0.0, -0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_must_be_positive_and_finite(scale: float) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        multiplier_and_shift(scale)


@pytest.mark.parametrize("scale", [2.0**31, 3.0e38])
def test_a_scale_must_be_below_two_to_the_31(scale: float) -> None:
    with pytest.raises(ValueError, match=r"must be below 2\*\*31"):
        multiplier_and_shift(scale)


@given(ACCUMULATORS, MULTIPLIERS, SHIFTS, st.sampled_from([4, 8, 16]), st.data())
def test_requantize(acc: int, multiplier: int, shift: int, bits: int, data: st.DataObject) -> None:
    low, high = activation_limits(bits)
    zero_point = data.draw(st.integers(low, high))
    lo = data.draw(st.integers(low, high))
    hi = data.draw(st.integers(lo, high))
    exact = zero_point + round(Fraction(acc * multiplier, 1 << shift))
    assert requantize(acc, multiplier, shift, zero_point, lo, hi) == sorted((lo, exact, hi))[1]


def test_requantize_with_a_vanishing_scale_gives_the_zero_point() -> None:
    assert requantize(123456, *multiplier_and_shift(1e-40), -7, -128, 127) == -7


@given(*[st.floats(min_value=2.0**-20, max_value=2.0**20, width=32)] * 3)
def test_output_scale_ratio_rounds_to_float32_after_each_operation(a: float, w: float, o: float) -> None:
    product = np.float32(Fraction(a) * Fraction(w))  # a float32 product is exact in float64, so this rounds once
    assert output_scale_ratio(a, w, o) == float(product / np.float32(o))


@given(SCALES, SCALES)
def test_common_multipliers(first: float, second: float) -> None:
    multipliers = common_multipliers((first, second))
    shift = multipliers[2]
    assert (multipliers[1], multipliers[0], shift) == common_multipliers((second, first))
    for ratio, multiplier in zip((first, second), multipliers, strict=False):
        assert 0 <= multiplier < 1 << MULTIPLIER_BITS
        assert abs(Fraction(multiplier, 1 << shift) - Fraction(ratio)) <= Fraction(1, 2 << shift)
    larger = max(first, second)
    assert Fraction(max(multipliers[:2]), 1 << shift) == Fraction(larger)


def test_common_multipliers_by_hand() -> None:
    assert common_multipliers((1.0, 0.5)) == (1 << 30, 1 << 29, 30)
    assert common_multipliers((2.0**-40, 1.0)) == (0, 1 << 30, 30)
    assert common_multipliers((2.0**-31, 1.0)) == (0, 1 << 30, 30)  # half of the last place: to even
    assert common_multipliers((3 * 2.0**-31, 1.0)) == (2, 1 << 30, 30)
    with pytest.raises(ValueError, match="positive and finite"):
        common_multipliers((0.0, 0.0))
