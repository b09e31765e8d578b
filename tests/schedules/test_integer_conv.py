"""Convolutions of the CPU against NumPy's int64 and Python's integers, tolerance 0, on every CPU that this machine can imitate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm

from qaccel.dialect import operators as o
from qaccel.machine import numerics
from qaccel.schedules.integer.conv import conv2d
from qaccel.schedules.integer.vectors import vectors_of
from quant.layers import PAIRS
from schedules.kernels import CPUS, check_conv, runs_here, target, vectors
from tiers import wide_after

SOME = ("plain", "haswell", "cascadelake")
HERE = [pytest.param(cpu, marks=pytest.mark.skipif(not runs_here(cpu), reason="not this machine")) for cpu in SOME]


def case(
    rng: np.random.Generator, bits, shape, oc, kernel, strides=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1
):
    """A random convolution whose outputs fill the range of their width; (attributes, q, weight, bias, scale)."""
    weight_bits, activation_bits, out_bits = bits
    weight_lo, weight_hi = numerics.activation_limits(weight_bits)
    lo, hi = numerics.activation_limits(activation_bits)
    weight = rng.integers(weight_lo, weight_hi + 1, (oc, *kernel, shape[3] // groups))
    q = rng.integers(lo, hi + 1, shape).astype(o.carrier(activation_bits))
    zero = 0 if activation_bits == 16 else int(rng.integers(lo, hi + 1))
    reduction = np.prod(weight.shape[1:])
    scale = 2.0 ** (out_bits - weight_bits - activation_bits - np.log2(reduction) / 2 + rng.uniform(-1, 2, oc))
    out_lo, out_hi = numerics.activation_limits(out_bits)
    attrs = o.ConvAttrs(
        "conv", "Conv", o.Quantization(out_bits, 1.0, 0 if out_bits == 16 else -1), o.Clamp(out_lo + 1, out_hi),
        o.Quantization(activation_bits, 1.0, zero), strides, padding, dilation, groups, weight_bits,
    )  # fmt: skip
    bias = rng.integers(-(2 ** (weight_bits + activation_bits)), 2 ** (weight_bits + activation_bits), oc)
    return attrs, q, weight, bias, scale.astype(np.float32)


SHAPES = {
    "one pixel, many channels": dict(shape=(3, 1, 1, 37), oc=150, kernel=(1, 1)),
    "1x1": dict(shape=(1, 5, 7, 24), oc=40, kernel=(1, 1)),
    "1x1, strided": dict(shape=(2, 5, 7, 9), oc=16, kernel=(1, 1), strides=(2, 3)),
    "1x1, strided, blocks shared by tasks": dict(shape=(1, 19, 9, 30), oc=1270, kernel=(1, 1), strides=(2, 2)),
    "first layer": dict(shape=(1, 9, 12, 3), oc=19, kernel=(3, 3), strides=(2, 2), padding=(0, 0, 1, 1)),
    "one channel": dict(shape=(1, 12, 6, 1), oc=3, kernel=(10, 4), padding=(4, 1, 5, 1)),
    "3x3": dict(shape=(1, 8, 6, 20), oc=33, kernel=(3, 3), padding=(1, 1, 1, 1)),
    "dilated": dict(shape=(1, 9, 8, 5), oc=7, kernel=(2, 3), padding=(2, 0, 1, 3), dilation=(2, 2), strides=(1, 2)),
    "whole plane": dict(shape=(2, 4, 3, 6), oc=10, kernel=(4, 3)),
    "groups": dict(shape=(1, 6, 5, 12), oc=18, kernel=(3, 2), groups=3, padding=(1, 1, 0, 0)),
    "wide groups": dict(shape=(1, 4, 4, 10), oc=64, kernel=(1, 3), groups=2),
    "multiplied channels": dict(shape=(1, 6, 5, 5), oc=15, kernel=(3, 3), groups=5, padding=(1, 0, 1, 2)),
    "depthwise": dict(shape=(1, 8, 9, 27), oc=27, kernel=(3, 3), groups=27, padding=(1, 1, 1, 1)),
    "depthwise, strided": dict(shape=(2, 9, 7, 112), oc=112, kernel=(5, 5), groups=112, padding=(1, 2, 2, 1), strides=(2, 2)),
    "depthwise, dilated": dict(shape=(1, 9, 9, 6), oc=6, kernel=(2, 3), groups=6, dilation=(2, 3), strides=(1, 2)),
}  # fmt: skip


def _combinations():
    """Every shape on two CPUs, in the slow tests on all; in the fast tier every fourth shape on one CPU."""
    for k, name in enumerate(SHAPES):
        for n, cpu in enumerate(CPUS):
            marks = [pytest.mark.skipif(not runs_here(cpu), reason="not this machine")]
            if n not in (k % len(CPUS), 4):
                marks.append(pytest.mark.slow)
            elif n != 4 or k % 4 != 1:
                marks.append(pytest.mark.wide)
            yield pytest.param(cpu, name, marks=marks)


@pytest.mark.parametrize(("cpu", "name"), list(_combinations()))
def test_shapes(cpu, name):
    """8 bits, and one other pair of widths drawn by the case's name."""
    rng = np.random.default_rng(len(name) + 100 * CPUS.index(cpu))
    check_conv(cpu, *case(rng, (8, 8, 8), **SHAPES[name]))
    pair = PAIRS[(len(name) + CPUS.index(cpu)) % 9]
    check_conv(cpu, *case(rng, (*pair, int(rng.choice([4, 8, 16]))), **SHAPES[name]))


@pytest.mark.parametrize(("weight_bits", "activation_bits"), wide_after(2, PAIRS))
@pytest.mark.parametrize("name", ["1x1", "3x3", "depthwise"])
def test_extremes(name, weight_bits, activation_bits):
    """All products of one sign and as large as they get: weights and activations at their smallest value, far zero points."""
    turn = len(name) + weight_bits + activation_bits // 4
    cpu = [cpu for cpu in CPUS if runs_here(cpu)][turn % sum(map(runs_here, CPUS))]
    rng = np.random.default_rng(weight_bits + activation_bits)
    attrs, q, weight, bias, scale = case(rng, (weight_bits, activation_bits, 16), **SHAPES[name])
    lo, hi = numerics.activation_limits(activation_bits)
    value, zero = ((lo, hi), (hi, lo))[turn % 2]
    weight[:] = -(1 << (weight_bits - 1))
    attrs = replace(attrs, source=replace(attrs.source, zero_point=0 if activation_bits == 16 else zero))
    check_conv(cpu, attrs, np.full_like(q, value), weight, bias, scale / 64)


@pytest.mark.parametrize("cpu", HERE)
def test_sums_beyond_32_bits_are_exact(cpu):
    """Where the machine would reject a layer for its overflow: the CPU has it, with sums of any size."""
    rng = np.random.default_rng(3)
    attrs, q, weight, _, scale = case(rng, (8, 8, 16), (1, 1, 2, 300), 20, (1, 1))
    bias = rng.choice([-(2**31), 2**31 - 1], 20)
    check_conv(cpu, attrs, q, weight, bias, scale * np.float32(2**-9))
    attrs, q, weight, bias, scale = case(rng, (16, 16, 16), (1, 2, 2, 700), 5, (2, 2))
    for value in (-(2**15), 255):
        check_conv(cpu, attrs, np.full_like(q, -(2**15)), np.full_like(weight, value), bias, scale / 64)


@pytest.mark.parametrize("cpu", HERE)
def test_scales_far_apart(cpu):
    """From all zero to all saturated, and ties: powers of two."""
    rng = np.random.default_rng(4)
    for bits in ((8, 8, 8), (8, 16, 4)):
        attrs, q, weight, bias, _ = case(rng, bits, (1, 3, 5, 8), 40, (1, 1))
        scale = (2.0 ** rng.integers(-60, 14, 40)).astype(np.float32)
        scale[::3] = np.float32(2.0 ** -(bits[0] + bits[1] - 6))
        check_conv(cpu, attrs, q, weight, bias, scale)


@pytest.mark.parametrize("cpu", HERE)
def test_sums_beyond_24_bits_are_exact(cpu):
    """float32 does not hold them; a tie is one unit of the sum away from what is rounded the other way."""
    rng = np.random.default_rng(5)
    attrs, q, _, _, _ = case(rng, (8, 8, 16), (1, 4, 4, 1200), 400, (1, 1))
    weight = rng.integers(100, 128, (400, 1, 1, 1200))
    q = np.maximum(q, 100)
    bias = -weight.sum(axis=(1, 2, 3)) * (110 - attrs.source.zero_point) + rng.integers(-(2**24), 2**24, 400)
    check_conv(cpu, attrs, q, weight, bias, np.full(400, 2.0**-10, np.float32))


def test_the_target_decides():
    assert vectors("cascadelake").bytes4 and not vectors("skylake-avx512").bytes4
    assert vectors("alderlake").vector_bytes == 32 and vectors("alderlake").bytes4
    assert vectors("haswell").bytes4 is None and vectors("x86-64").vector_bytes == 16


def assembly_of(chosen: tvm.target.Target) -> str:
    attrs, q, weight, bias, scale = case(np.random.default_rng(0), (8, 8, 8), **SHAPES["3x3"])
    kernel = conv2d(vectors_of(chosen), attrs, q.shape, weight, bias, scale)
    function, _ = kernel.build(kernel.plans[0])
    module = tvm.compile(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), chosen)
    return module.mod.inspect_source("asm")


@pytest.mark.parametrize(
    ("cpu", "instruction"), [("cascadelake", "zmm"), ("alderlake", "ymm"), ("haswell", None), ("skylake-avx512", None)]
)
def test_x86_code(cpu, instruction):
    lines = [line for line in assembly_of(target(cpu)).splitlines() if "vpdpbusd" in line]
    assert bool(lines) == (instruction is not None)
    assert all(instruction in line for line in lines)


@pytest.mark.parametrize("attributes", [[], ["+dotprod"]])
def test_arm_code(attributes):
    """Compiled only: there is no such machine here. The dot product is used where the CPU has it."""
    assembly = assembly_of(
        tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon", *attributes]})
    )
    assert ("sdot" in assembly) == bool(attributes)
    assert "fmla" in assembly
