"""Scale and zero point of a QuantizeLinear or DequantizeLinear as the file has them, and what the machine makes of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..errors import UserError
from ..frontend.graph import attrs_of
from ..machine.isa import isa
from ..machine.numerics import activation_limits

LIMITS = {
    TensorProto.INT4: (-8, 7), TensorProto.UINT4: (0, 15), TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-(1 << 15), (1 << 15) - 1), TensorProto.UINT16: (0, (1 << 16) - 1),
    TensorProto.INT32: (-(1 << 31), (1 << 31) - 1),
    TensorProto.INT2: (-2, 1), TensorProto.UINT2: (0, 3),
}  # fmt: skip
WIDTHS = isa().widths
_TORCH_NODE = "pkg.torch.onnx.fx_node"
_TORCH_LIMITS = re.compile(
    r"quantized_decomposed\.(?:de)?quantize_per_\w+\.\w+\]\(args = \(.*, (-?\d+), (-?\d+), torch\.u?int\d+"
)


@dataclass(frozen=True, eq=False)
class Scales:
    """What integers of the ONNX type ``kind`` within ``lo``..``hi`` mean: ``scale * (q - zero_point)``.

    ``scale`` float32 and ``zero_point`` int64 have the same shape: none for a tensor, the tensor's own rank for an axis or blocks.
    ``block``: how many neighbours along ``axis`` share a scale; 0 for an axis.
    """

    kind: int
    scale: np.ndarray
    zero_point: np.ndarray
    lo: int
    hi: int
    axis: int = 0
    block: int = 0

    @property
    def per_tensor(self) -> bool:
        return self.scale.size == 1

    def same(self, other: Scales) -> bool:
        """Whether both mean the same, whatever limits a Clip has set."""
        return self.kind == other.kind and all(
            a.shape == b.shape and bool((a == b).all())
            for a, b in ((self.scale, other.scale), (self.zero_point, other.zero_point))
        )

    def spread(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Scale (float32) and zero point (int64) of each value of a tensor of ``shape``."""
        scale, zero_point = self.scale, self.zero_point
        if self.block:
            size = shape[self.axis]
            scale, zero_point = (
                np.repeat(each, self.block, axis=self.axis).take(range(size), axis=self.axis)
                for each in (scale, zero_point)
            )
        return np.broadcast_to(scale, shape), np.broadcast_to(zero_point, shape)


def scales_of(
    node: onnx.NodeProto, shape: tuple[int, ...], kind: int, consts: Mapping[str, np.ndarray]
) -> Scales:  # fmt: skip
    """Those of a QuantizeLinear or DequantizeLinear on a tensor of ``shape``, whose integers are of the ONNX type ``kind``.

    Raises UserError naming the node where they are computed at run time, do not fit, or are no scales.
    """
    where = f"node '{node.name}' ({node.op_type})"
    if kind not in LIMITS:
        raise UserError(
            f"{where}: integers of type {TensorProto.DataType.Name(kind)}; known are those of 4, 8, 16 bits and int32: "
            "quantize the float model with such"
        )
    given = [name for name in node.input[1:3] if name]
    for name, what in zip(given, ("scale", "zero point"), strict=False):
        if name not in consts:
            raise UserError(
                f"{where}: its {what} '{name}' is computed when the model runs; only constant ones compile: "
                "export the model with static quantization"
            )
    scale = np.asarray(consts[given[0]], np.float32)
    lo, hi = _within_torch(node, *LIMITS[kind])
    zero_point = np.asarray(consts[given[1]], np.int64) if len(given) > 1 else np.zeros(scale.shape, np.int64)
    bad = scale[~(np.isfinite(scale) & (scale > 0))]
    if bad.size:
        raise UserError(f"{where}: its scale is {bad.reshape(-1)[0]:g}; scales are positive finite numbers")
    out = zero_point[(zero_point < lo) | (zero_point > hi)]
    if out.size or kind == TensorProto.INT32 and zero_point.any():
        value = int((out if out.size else zero_point).reshape(-1)[0])
        limits = f"{lo}..{hi}" if kind != TensorProto.INT32 else "0 alone"
        raise UserError(f"{where}: its zero point is {value}; {TensorProto.DataType.Name(kind).lower()} has {limits}")
    attrs = attrs_of(node)
    axis, block = int(attrs.get("axis", 1)), int(attrs.get("block_size", 0))
    if zero_point.shape != scale.shape and zero_point.size != scale.size:
        raise UserError(f"{where}: {scale.size} scales and {zero_point.size} zero points do not fit each other")
    zero_point = zero_point.reshape(scale.shape)
    if scale.size == 1:
        return Scales(kind, scale.reshape(()), zero_point.reshape(()), lo, hi)
    if not -len(shape) <= axis < len(shape):
        raise UserError(f"{where}: its axis is {axis}, and the tensor has {len(shape)} dimensions")
    axis %= len(shape)
    if block:
        wanted = tuple(-(-size // block) if k == axis else size for k, size in enumerate(shape))
        if scale.shape != wanted:
            raise UserError(
                f"{where}: scales of {list(scale.shape)} for blocks of {block} along axis {axis} of {list(shape)}; needed are "
                f"{list(wanted)}"
            )
        return Scales(kind, scale, zero_point, lo, hi, axis, block)
    if scale.shape != (shape[axis],):
        raise UserError(
            f"{where}: {scale.size} scales along axis {axis}, which has {shape[axis]} channels in a tensor of {list(shape)}"
        )
    full = [-1 if k == axis else 1 for k in range(len(shape))]
    return Scales(kind, scale.reshape(full), zero_point.reshape(full), lo, hi, axis)


def _within_torch(node: onnx.NodeProto, lo: int, hi: int) -> tuple[int, int]:
    """The limits cut to those that the node had in PyTorch, whose exporter keeps them only in the text beside the node."""
    for entry in node.metadata_props:
        found = _TORCH_LIMITS.search(entry.value) if entry.key == _TORCH_NODE else None
        if found is not None:
            lo, hi = max(lo, int(found[1])), min(hi, int(found[2]))
    return lo, hi


def kind_of(array: np.ndarray) -> int:
    """The ONNX type of an array."""
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def placed(lo: int, hi: int, zero_point: int) -> tuple[int, int]:
    """The machine's width for integers from ``lo`` to ``hi``, and what to subtract from them so that it holds them signed."""
    for bits in WIDTHS:
        least, most = activation_limits(bits)
        half = 1 << (bits - 1)
        for shift in (0, half, lo + half):
            if least <= lo - shift and hi - shift <= most and least <= zero_point - shift <= most:
                return bits, shift
    raise UserError(f"integers from {lo} to {hi} around {zero_point} do not fit 16 bits")


def weight_bits(centred: np.ndarray, lo: int, hi: int) -> int | None:
    """The machine's width for constants whose zero point is subtracted, declared within ``lo``..``hi``: that of their type, or
    the next that holds them; None beyond 16 bits."""
    least, most = (int(centred.min()), int(centred.max())) if centred.size else (0, 0)
    declared = max(1, math.ceil(math.log2(hi - lo + 1)))
    for bits in WIDTHS:
        first, last = activation_limits(bits)
        if bits >= declared and first <= least and most <= last:
            return bits
    return None
