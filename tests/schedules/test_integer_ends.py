"""Where float32 becomes integers and back: any order of axes against NumPy, and code whose size no extent changes."""

from __future__ import annotations

import numpy as np
import pytest

from qaccel.dialect import operators as o
from qaccel.machine.numerics import activation_limits
from qaccel.schedules.integer.border import dequantize, matrices_of, quantize
from tiers import wide_after

from .kernels import CPUS, run, runs_here, vectors

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
SCALE = 0.03125
# Shape, axes: many and few channels, planes that vectors do not divide or fill, batches, other transpositions.
ENDS = [
    ((1, 40, 5, 7), TO_NHWC), ((2, 3, 6, 11), TO_NHWC), ((1, 5, 3, 1), TO_NHWC), ((2, 2, 1, 2), TO_NHWC),
    ((1, 21, 9, 10), TO_NHWC), ((1, 6, 7, 37), TO_NCHW), ((3, 7, 50), (0, 2, 1)), ((33, 18), (1, 0)),
    ((3, 7, 2, 5), (1, 2, 3, 0)), ((3, 7, 2, 5), (3, 0, 1, 2)), ((2, 3, 4, 5), (0, 1, 2, 3)), ((4, 1, 3, 1), (2, 1, 0, 3)),
]  # fmt: skip


def made(shape: tuple[int, ...], axes: tuple[int, ...], bits: int) -> tuple[o.QuantizeAttrs, o.DequantizeAttrs]:
    """A quantize that transposes, and the dequantize that undoes both."""
    meaning = o.Quantization(bits, SCALE, 0 if bits == 16 else -3)
    turned = tuple(shape[axis] for axis in axes)
    back = tuple(int(axis) for axis in np.argsort(axes))
    return (
        o.QuantizeAttrs(name="q", result=meaning, axes=axes, shape=turned),
        o.DequantizeAttrs(name="d", source=meaning, axes=back, shape=turned),
    )


@pytest.mark.parametrize("cpu", [pytest.param(c, marks=() if runs_here(c) else pytest.mark.skip) for c in CPUS[::-1]])
@pytest.mark.parametrize(("shape", "axes"), ENDS)
@pytest.mark.slow
def test_ends_of_every_cpu(cpu: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    check(cpu, shape, axes, 8)


@pytest.mark.parametrize("bits", [8, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (4, 16))])
@pytest.mark.parametrize(("shape", "axes"), wide_after(5, ENDS))
def test_ends(shape: tuple[int, ...], axes: tuple[int, ...], bits: int) -> None:
    check("plain", shape, axes, bits)


def check(cpu: str, shape: tuple[int, ...], axes: tuple[int, ...], bits: int) -> None:
    """Both directions are exact; NaN becomes the zero point, and what is beyond the range its end."""
    there, back = made(shape, axes, bits)
    x = np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)
    x.reshape(-1)[:3] = np.nan, np.inf, -1e30
    steps = np.where(np.isnan(x), 0, np.rint(x.astype(np.float64) / SCALE)) + there.result.zero_point
    expected = np.clip(steps, *activation_limits(bits)).astype(o.carrier(bits)).transpose(axes)
    isa = vectors(cpu)
    kernels = quantize(isa, there, shape), dequantize(isa, back, there.shape)
    if kernels[0] is None:  # a few transpositions that the schedules leave to TVM
        assert kernels[1] is None and matrices_of(axes, shape) is None
        return
    integers = run(cpu, kernels[0], there.shape, o.carrier(bits), x)
    np.testing.assert_array_equal(integers, expected)
    real = run(cpu, kernels[1], shape, "float32", integers)
    centred = expected.astype(np.int64).transpose(back.axes) - there.result.zero_point
    np.testing.assert_array_equal(real, (centred * SCALE).astype(np.float32))


@pytest.mark.parametrize(
    ("axes", "shape", "matrices"),
    [
        (TO_NHWC, (2, 3, 5, 7), (2, 3, 35)), (TO_NCHW, (2, 3, 5, 7), (2, 15, 7)), (TO_NHWC, (2, 1, 5, 7), None),
        ((1, 0, 2), (3, 4, 5), None), ((1, 0, 2), (3, 4, 1), (1, 3, 4)), ((2, 1, 0), (3, 4, 5), None),
    ],
)  # fmt: skip
def test_what_transposes_matrices(axes: tuple[int, ...], shape: tuple[int, ...], matrices: object) -> None:
    assert matrices_of(axes, shape) == matrices


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(("channels", "more"), [((32, 256), 8192), ((21, 37), 1001)])
def test_code_does_not_grow_with_the_channels(cpu: str, channels: tuple[int, int], more: int) -> None:
    """A float input of 256 x 14 x 14 took 24 s to link: its code was written out for every channel."""
    first: list[int] = []
    for count in (*channels, more):
        there, back = made((1, count, 96, 96), TO_NHWC, 8)
        kernels = quantize(vectors(cpu), there, (1, count, 96, 96)), dequantize(vectors(cpu), back, there.shape)
        sizes = [kernel[0].script().count("\n") for kernel in kernels]
        first = first or sizes
        assert sizes == first


@pytest.mark.parametrize("cpu", CPUS)
def test_code_is_short_whatever_the_extents(cpu: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(4):
        shape = (int(rng.integers(1, 4)), *(int(v) for v in 2 ** rng.uniform(0, 9, 3)))
        for axes in (TO_NHWC, TO_NCHW):
            there, back = made(shape, axes, 8)
            for kernel in (quantize(vectors(cpu), there, shape), dequantize(vectors(cpu), back, there.shape)):
                assert kernel is not None
                assert kernel[0].script().count("\n") < 250, (shape, axes)
