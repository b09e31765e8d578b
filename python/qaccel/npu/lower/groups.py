"""Grouped convolutions: their groups packed into dense ones, which is what the array computes."""

from __future__ import annotations

from math import ceil

import numpy as np

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
    taps, pixels = kernel.shape[0] * kernel.shape[1], y.h * y.w
    rows, columns = hw.array_rows(x.bits), hw.array_columns(weight_bits)

    def cycles(count: int) -> int:
        slices, column_groups = ceil(taps * ic * count / rows), ceil(oc * count / columns)
        return ceil(groups / count) * (hw.start_up_cycles.compute + slices * column_groups * pixels)

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
