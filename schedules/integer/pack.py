"""Constants of the integer convolutions: weights in the order in which the kernels read them, sums' bounds, corrections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...dialect.operators import ConvAttrs
from .vectors import Vectors, grouped_order


@dataclass(frozen=True)
class Mac:
    """A multiply-accumulate instruction: ``depth`` neighbours of the reduction per 32-bit lane.

    Kernels read activations as ``q - base`` in ``dtype``.
    """

    kind: str  # "bytes4", "signed4", "words2" or "words1"
    depth: int
    dtype: str
    base: int


def mac_of(isa: Vectors, attrs: ConvAttrs) -> Mac:
    """The fastest instruction that the CPU has for a layer's widths."""
    if max(attrs.weight_bits, attrs.source.bits) <= 8:
        if isa.bytes4 is not None:
            return Mac("bytes4", 4, "int8", -128)
        if isa.signed4 is not None:
            return Mac("signed4", 4, "int8", 0)
    return (
        Mac("words2", 2, "int16", attrs.source.zero_point)
        if isa.x86
        else Mac("words1", 1, "int16", attrs.source.zero_point)
    )


def vector_sizes(count: int, bits: int) -> list[int]:
    """``count`` vectors as groups of 4, 2 and 1 (of 2 and 1 for 16-bit outputs), as ``vectors.packed`` takes them."""
    sizes = []
    for size in (4, 2, 1) if bits <= 8 else (2, 1):
        while count >= size:
            sizes.append(size)
            count -= size
    return sizes


def channel_order(isa: Vectors, channels: int, per_block: int, bits: int) -> np.ndarray:
    """Channels in the order of the vectors' lanes, whole blocks of ``per_block`` vectors and a rest; -1 beyond the last."""
    vectors = -(-channels // isa.lanes)
    order: list[int] = []
    while vectors:
        block = min(per_block, vectors)
        for size in vector_sizes(block, bits):
            begin = len(order)
            order += [begin + k for k in grouped_order(isa, size)]
        vectors -= block
    return np.array([c if c < channels else -1 for c in order])


def taken(values: np.ndarray, order: np.ndarray, axis: int = 0) -> np.ndarray:
    """``values`` at ``order`` along an axis; zero where that is -1."""
    found = np.take(values, np.maximum(order, 0), axis=axis)
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.where((order >= 0).reshape(shape), found, np.zeros((), values.dtype))
