"""Integer kernels by themselves: built for a CPU that this machine can imitate, run, and compared with NumPy's integers."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import tvm

from qaccel.dialect import operators as o
from qaccel.machine import numerics
from qaccel.schedules.integer.conv import conv2d
from qaccel.schedules.integer.depthwise import depthwise, is_depthwise
from qaccel.schedules.integer.vectors import Vectors, vectors_of
from qaccel.schedules.kernels import PlannedKernel

# What each adds: SSE2, AVX2, AVX-VNNI, AVX-512, VNNI, VBMI. "plain" is any CPU's code: what an unknown one gets.
CPUS = ("x86-64", "haswell", "alderlake", "skylake-avx512", "cascadelake", "icelake-server", "plain")
_NEEDS = {
    "x86-64": ["sse2"], "haswell": ["avx2", "fma"], "alderlake": ["avxvnni"], "skylake-avx512": ["avx512bw"],
    "cascadelake": ["avx512vnni"], "icelake-server": ["avx512vbmi"], "plain": [],
}  # fmt: skip


@functools.cache
def target(cpu: str) -> tvm.target.Target:
    return tvm.target.Target({"kind": "llvm"} if cpu == "plain" else {"kind": "llvm", "mcpu": cpu})


def vectors(cpu: str) -> Vectors:
    return Vectors.anywhere() if cpu == "plain" else vectors_of(target(cpu))


@functools.cache
def runs_here(cpu: str) -> bool:
    """Whether this machine has the features of that CPU that the kernels use."""
    flags: set[str] = set()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((set(line.split()[2:]) for line in lines if line.startswith("flags")), set())
    return set(_NEEDS[cpu]) <= {name.replace("_", "") for name in flags}


def run(cpu: str, kernel: tuple, shape: tuple[int, ...], dtype: str, *inputs: np.ndarray) -> np.ndarray:
    """The output of a kernel (function, constants)."""
    function, constants = kernel
    module = tvm.compile(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), target(cpu))
    out = tvm.runtime.tensor(np.zeros(shape, dtype))
    module["main"](*(tvm.runtime.tensor(np.ascontiguousarray(array)) for array in (*inputs, *constants)), out)
    return out.numpy()


def exact(attrs: o.ConvAttrs, q: np.ndarray, weight: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A convolution in int64, tap by tap; a scale as the fraction that it is, rounded in Python's integers."""
    oc, kh, kw, per_group = weight.shape
    top, left, bottom, right = attrs.padding
    centred = np.pad(q.astype(np.int64) - attrs.source.zero_point, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, columns = attrs.window((kh, kw)).output(*q.shape[1:3])
    sums = np.tile(bias.astype(np.int64), (len(q), rows, columns, 1))
    for y in range(kh):
        for x in range(kw):
            at_y, at_x = y * attrs.dilation[0], x * attrs.dilation[1]
            part = centred[:, at_y:, at_x:][:, :: attrs.strides[0], :: attrs.strides[1]][:, :rows, :columns]
            for group in range(attrs.groups):
                here = slice(group * (oc // attrs.groups), (group + 1) * (oc // attrs.groups))
                taken = part[..., group * per_group : (group + 1) * per_group]
                sums[..., here] += taken @ weight[here, y, x].astype(np.int64).T
    multipliers, shifts = attrs.multipliers(scale)
    made = [
        numerics.requantize(
            int(value),
            int(multipliers[k % oc]),
            int(shifts[k % oc]),
            attrs.result.zero_point,
            attrs.clamp.lo,
            attrs.clamp.hi,
        )
        for k, value in enumerate(sums.reshape(-1))
    ]
    return np.array(made).reshape(sums.shape).astype(o.carrier(attrs.result.bits))


def conv_kernel(
    cpu: str, attrs: o.ConvAttrs, q: np.ndarray, weight: np.ndarray, bias: np.ndarray, scale: np.ndarray
) -> PlannedKernel:
    """The kernel that legalization takes."""
    weight = weight.astype(o.carrier(attrs.weight_bits))
    build = depthwise if is_depthwise(attrs, q.shape, weight) else conv2d
    return build(vectors(cpu), attrs, q.shape, weight, bias, scale)


def check_conv(
    cpu: str, attrs: o.ConvAttrs, q: np.ndarray, weight: np.ndarray, bias: np.ndarray, scale: np.ndarray, plans: int = 0
) -> None:
    """The kernel by the rule's plan, and by so many others drawn at random, gives the same integers as `exact`."""
    expected = exact(attrs, q, weight, bias, scale)
    kernel = conv_kernel(cpu, attrs, q, weight, bias, scale)
    drawn = np.random.default_rng(len(kernel.plans)).permutation(len(kernel.plans) - 1)[:plans] + 1
    for plan in [kernel.plans[0], *(kernel.plans[k] for k in drawn)]:
        got = run(cpu, kernel.build(plan), expected.shape, str(expected.dtype), q)
        np.testing.assert_array_equal(got, expected, err_msg=str(plan))
