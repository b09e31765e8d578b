"""Sums of two tensors of at most 8 bits: every pair of operands, against NumPy's integers, on every kind of CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qaccel.dialect import operators as o
from qaccel.schedules.integer import elementwise

from .kernels import CPUS, run, runs_here, vectors

SEED = 11
SHAPE = (1, 1, 256, 256)


def random_sum(rng: np.random.Generator) -> o.EltwiseAttrs:
    """Scales up to e^2 apart, any zero points, clamped at zero every other time."""
    scales = 0.02 * np.exp(rng.uniform(-1, 1, 3)).astype(np.float32)
    a, b, result = (o.Quantization(8, float(scale), int(rng.integers(-128, 128))) for scale in scales)
    lowest = result.zero_point if rng.random() < 0.5 else -128
    return o.EltwiseAttrs("s", "Add", result, o.Clamp(lowest, 127), str(rng.choice(["add", "sub"])), a, b)


def halves(scale: float, bits: int) -> o.EltwiseAttrs:
    """Every other sum lies on a half, so that half of these round up and half down."""
    whole = o.Quantization(8, scale, 3)
    operand = o.Quantization(bits, scale / 2, -1)
    return o.EltwiseAttrs("s", "Add", whole, o.Clamp(-128, 127), "add", operand, operand)


def exact(attrs: o.EltwiseAttrs, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """In int64, one rounding with halves to even."""
    ma, mb, shift = attrs.multipliers()
    first = (a.astype(np.int64) - attrs.a.zero_point) * ma
    second = (b.astype(np.int64) - attrs.b.zero_point) * mb
    total, half = first + second if attrs.kind == "add" else first - second, 1 << (shift - 1)
    floor = total >> shift
    rest = total - (floor << shift)
    rounded = floor + ((rest > half) | ((rest == half) & (floor % 2 == 1)))
    return np.clip(rounded + attrs.result.zero_point, attrs.clamp.lo, attrs.clamp.hi)


def check(cpu: str, attrs: o.EltwiseAttrs) -> str:
    """All pairs are exact; gives the function's text."""
    lowest, highest = -(1 << (attrs.a.bits - 1)), 1 << (attrs.a.bits - 1)
    values = np.resize(np.arange(lowest, highest, dtype=np.int8), 256)
    a, b = (np.ascontiguousarray(v).reshape(SHAPE) for v in np.meshgrid(values, values))
    kernel = elementwise.eltwise(vectors(cpu), attrs, SHAPE, SHAPE)
    np.testing.assert_array_equal(run(cpu, kernel, SHAPE, "int8", a, b), exact(attrs, a, b), err_msg=str(attrs))
    return str(kernel[0])


@pytest.mark.parametrize("cpu", [pytest.param(c, marks=() if runs_here(c) else pytest.mark.skip) for c in CPUS])
def test_any_scales(cpu: str) -> None:
    """In words of 32 bits."""
    rng = np.random.default_rng(SEED)
    for _ in range(2):
        assert "float64" not in check(cpu, random_sum(rng))


def test_a_start_that_is_slightly_off_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thousandth of what a unit of the result is."""
    of = elementwise._WordSum.of

    def off(attrs: o.EltwiseAttrs) -> elementwise._WordSum | None:
        words = of(attrs)
        return words and replace(words, start=words.start + (1 << words.bits >> 10))

    monkeypatch.setattr(elementwise._WordSum, "of", staticmethod(off))
    with pytest.raises(AssertionError, match="not equal"):
        check("plain", random_sum(np.random.default_rng(SEED)))


@pytest.mark.parametrize("bits", [4, 8])
def test_halves(bits: int) -> None:
    """Where no start rounds all pairs right, float64 does."""
    assert "float64" in check("plain", halves(0.25, bits))


def test_one_operand_is_all() -> None:
    """Everything clamped to one value, and a factor of zero."""
    result = o.Quantization(8, 0.02, 0)
    a, b = o.Quantization(8, 0.02, 5), o.Quantization(8, 2e-9, 1)
    check("plain", o.EltwiseAttrs("s", "Add", result, o.Clamp(-128, 127), "sub", a, b))
    check("plain", o.EltwiseAttrs("s", "Add", result, o.Clamp(7, 7), "add", a, a))
