"""Grouped convolutions: their groups packed into dense ones, which is what the array computes."""

from __future__ import annotations

from math import ceil

import numpy as np

from ...machine.cost import ConvWork, work_cycles
from ...machine.hw import HwConfig
from ..layers import ConvPart, FeatureMap


def group_parts(
    weight: np.ndarray, groups: int, weight_bits: int, x: FeatureMap, y: FeatureMap, hw: HwConfig
) -> tuple[ConvPart, ...]:
    """Groups packed into block-diagonal dense convolutions.

    So many groups at once as fill the array best; and as many as it takes for every part to begin on a whole byte.
    """
    kernel = weight.transpose(1, 2, 3, 0)  # OHWI to HWIO
    ic, oc = kernel.shape[2], kernel.shape[3] // groups
    if groups == 1:
        return (ConvPart(0, 0, kernel),)
    columns = hw.array_columns(weight_bits)

    def cycles(count: int) -> int:
        work = ConvWork(
            kernel_h=kernel.shape[0], kernel_w=kernel.shape[1], in_channels=ic * count,
            out_h=y.h, out_w=y.w, out_channels=oc * count,
            weight_bits=weight_bits, in_bits=x.bits, out_bits=y.bits, finish=1,
        )  # fmt: skip
        return ceil(groups / count) * work_cycles(work, hw)

    aligned = [
        n for n in range(1, groups + 1) if n == groups or (n * ic * x.bits % 8 == 0 and n * oc * y.bits % 8 == 0)
    ]
    count = min((n for n in aligned if n <= max(columns, aligned[0])), key=cycles)
    parts = []
    for first in range(0, groups, count):
        size = min(count, groups - first)
        dense = np.zeros((*kernel.shape[:2], size * ic, size * oc), np.int32)
        for g in range(size):
            columns_of = slice((first + g) * oc, (first + g + 1) * oc)
            dense[:, :, g * ic : (g + 1) * ic, g * oc : (g + 1) * oc] = kernel[..., columns_of]
        parts.append(ConvPart(first * ic, first * oc, dense))
    return tuple(parts)
