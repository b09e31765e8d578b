"""Constants of a model that came quantized: their integers, what they mean, and what a layer that reads them is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ..frontend.graph import Graph, attrs_of
from ..frontend.passes.fold import run_alone
from ..model import GivenWeights
from .scales import Scales, weight_bits

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Operators that only put values elsewhere: what they do to a constant they do to its integers and its scales.
MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat", "Identity", "Expand", "Gather")


@dataclass(frozen=True, eq=False)
class FixedIntegers:
    """An integer constant before its DequantizeLinear; a Clip has set ``lo`` and ``hi``, or its type."""

    values: np.ndarray
    lo: int
    hi: int


@dataclass(frozen=True, eq=False)
class Fixed:
    """A real constant ``scale * centred``: ``centred`` int64 and ``scale`` float32 of the same shape.

    ``bits``: what its type, or a Clip, says that it has, on the machine; None where the machine has no such width.
    ``block``: how many neighbours share a scale, where blocks do.
    """

    centred: np.ndarray
    scale: np.ndarray
    bits: int | None
    zero_point: int
    block: int = 0

    @property
    def real(self) -> np.ndarray:
        """As DequantizeLinear gives it, float32."""
        return (self.centred.astype(np.float32) * self.scale).astype(np.float32)

    @property
    def exact(self) -> np.ndarray:
        """The same in float64."""
        return self.centred * self.scale.astype(np.float64)


def quantized(values: np.ndarray, scales: Scales) -> FixedIntegers:
    """A float constant behind a QuantizeLinear."""
    scale, zero_point = scales.spread(values.shape)
    with np.errstate(all="ignore"):
        steps = np.nan_to_num(np.rint(values.astype(np.float32) / scale), nan=0.0)
    integers = np.clip(steps.astype(np.float64) + zero_point, scales.lo, scales.hi)
    return FixedIntegers(integers.astype(np.int64), scales.lo, scales.hi)


def dequantized(integers: FixedIntegers, scales: Scales) -> Fixed:
    """An integer constant behind a DequantizeLinear."""
    scale, zero_point = scales.spread(integers.values.shape)
    centred = integers.values - zero_point
    farthest = int(zero_point.reshape(-1)[np.argmax(np.abs(zero_point))]) if zero_point.size else 0
    bits = weight_bits(centred, integers.lo, integers.hi)
    return Fixed(centred, np.ascontiguousarray(scale), bits, farthest, scales.block)


def moved(node: onnx.NodeProto, operands: Sequence[Fixed | np.ndarray], graph: Graph) -> Fixed | None:
    """What a node of MOVES in ``graph`` makes of constants; None where ONNX's reference cannot run it."""
    fixed = [each for each in operands if isinstance(each, Fixed)]
    names = [name for name in node.input if name]
    made = []
    for part in ("centred", "scale"):
        arrays: list[Any] = [getattr(each, part) if isinstance(each, Fixed) else each for each in operands]
        values = run_alone(node, dict(zip(names, arrays, strict=True)), graph.opsets, graph.ir_version)
        if values is None:
            return None
        made.append(values[node.output[0]])
    bits = None if any(each.bits is None for each in fixed) else max(each.bits or 0 for each in fixed)
    farthest = max((each.zero_point for each in fixed), key=abs)
    return Fixed(made[0], made[1], bits, farthest, max(each.block for each in fixed))


def weights_of(node: onnx.NodeProto, position: int, fixed: Fixed) -> GivenWeights:
    """What a layer is told of its weights, operand ``position`` of it."""
    rows = _by_channel(node, position, fixed.scale)
    if fixed.bits is None:
        reason = (
            f"its weights less their zero point {fixed.zero_point} do not fit 16 bits; export them with zero point 0"
        )
        return GivenWeights(rows[:, :1].reshape(-1), 16, reason)
    if (rows != rows[:, :1]).any():
        what = f"block-wise scales (blocks of {fixed.block})" if fixed.block else "scales that differ within a channel"
        reason = f"its weights have {what}, the machine has one scale for each output channel; quantize them so"
        return GivenWeights(rows[:, :1].reshape(-1), fixed.bits, reason)
    return GivenWeights(rows[:, 0].copy(), fixed.bits)


def _by_channel(node: onnx.NodeProto, position: int, scale: np.ndarray) -> np.ndarray:
    """[output channels, values of each] of an array of a layer's weights."""
    attrs = attrs_of(node)
    if node.op_type == "PRelu":
        return scale.reshape(-1, 1)
    if node.op_type == "Conv":
        return scale.reshape(len(scale), -1)
    if node.op_type == "ConvTranspose":
        groups = int(attrs.get("group", 1))
        parts = scale.reshape(groups, len(scale) // groups, scale.shape[1], -1)
        return parts.transpose(0, 2, 1, 3).reshape(groups * scale.shape[1], -1)
    if scale.ndim < 2:
        return scale.reshape(1, -1)
    turned = bool(attrs.get("transB" if position else "transA"))
    last = (position == 1) != turned
    return np.moveaxis(scale, -1 if last else -2, 0).reshape(scale.shape[-1 if last else -2], -1)
