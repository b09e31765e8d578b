"""What the machine can take: one limit, one function that returns a verdict. Its docstring is its line in the manual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from ...dialect import operators
from ...dialect.pieces import unflattened, whole_bytes
from ...machine.hw import HwConfig
from ...machine.isa import field_maximum
from ..extents import valid_taps
from ..layers import (
    AnyLayer,
    ChannelParams,
    ConvLayer,
    ConvPart,
    CopyLayer,
    DepthwiseLayer,
    FeatureMap,
    MoveLayer,
    PoolLayer,
    Window,
)
from ..plan.tiles.tile import fitting_working_bytes


@dataclass(frozen=True)
class Verdict:
    """Whether an operation runs on the accelerator, else why not. ``too_large``: a larger config would take it."""

    ok: bool
    reason: str = ""
    too_large: bool = False


OK = Verdict(True)
_Shape = Sequence[int]


def check_call(call: relax.Call, hw: HwConfig) -> Verdict:
    """Whether a call of the quantized dialect runs on the accelerator, else the first limit that it breaks."""
    attrs = operators.read(call)
    operands = [operators.static_shape(argument) for argument in call.args]
    activations = operands[: len(operators.inputs_of(attrs))]
    kernel = (operands[1][1], operands[1][2]) if isinstance(attrs, operators.ConvAttrs) else None
    return check_op(attrs, activations, operators.static_shape(call), hw, kernel)


def check_op(
    attrs: object, in_shapes: Sequence[_Shape], out_shape: _Shape, hw: HwConfig, kernel: tuple[int, int] | None = None
) -> Verdict:
    """The same from attributes and NHWC shapes of the activations; ``kernel`` (rows, pixels) of a convolution."""
    if not isinstance(attrs, operators.IntegerAttrs):
        return Verdict(False, "quantize and dequantize run on the CPU")
    if isinstance(attrs, operators.PoolAttrs):
        kernel = attrs.kernel
    for rule, kinds in RULES:
        if not isinstance(attrs, kinds):
            continue
        verdict = rule(Case(attrs, tuple(in_shapes), out_shape, kernel, hw))
        if not verdict.ok:
            return verdict
    return OK


@dataclass(frozen=True)
class Case:
    """One operation that a rule judges: attributes of the dialect, NHWC shapes, kernel (rows, pixels) if it has one."""

    attrs: Any
    in_shapes: tuple[_Shape, ...]
    out_shape: _Shape
    kernel: tuple[int, int] | None
    hw: HwConfig


def feature_map_sizes(case: Case) -> Verdict:
    """Tensors have four dimensions, each of height, width and channels from 1 to 65,535."""
    limit = field_maximum("CONV", "in_h")
    for shape in [*case.in_shapes, case.out_shape]:
        if len(shape) != 4:
            return Verdict(False, f"tensor of {len(shape)} dimensions, must have 4")
        if not all(1 <= size <= limit for size in shape[1:]):
            return Verdict(False, f"tensor of {list(shape[1:])}, each must be 1 to {limit}")
    return OK


def kernel_size(case: Case) -> Verdict:
    """Kernels, strides and dilations are 1 to 255 in each direction."""
    assert case.kernel is not None
    limit = field_maximum("CONV", "kernel_h")
    for what, values in (("kernel", case.kernel), ("stride", case.attrs.strides), ("dilation", case.attrs.dilation)):
        if not all(1 <= value <= limit for value in values):
            return Verdict(False, f"{what} of {list(values)}, each must be 1 to {limit}")
    return OK


def padding_size(case: Case) -> Verdict:
    """Padding on each side is smaller than the (dilated) kernel, so that every window touches the input."""
    assert case.kernel is not None
    for axis in (0, 1):
        extent = (case.kernel[axis] - 1) * case.attrs.dilation[axis] + 1
        pads = case.attrs.padding[axis], case.attrs.padding[axis + 2]
        if max(pads) >= extent or min(pads) < 0:
            return Verdict(False, f"padding {list(case.attrs.padding)} is not below the dilated kernel of {extent}")
    return OK


def pooling_taps(case: Case) -> Verdict:
    """Every pooling window has a tap inside the input (a dilated one may step over it)."""
    assert case.kernel is not None
    for axis in (0, 1):
        size, outputs = case.in_shapes[0][1 + axis], case.out_shape[1 + axis]
        fixed = case.attrs.strides[axis], case.kernel[axis], case.attrs.dilation[axis], case.attrs.padding[axis], size
        for position in range(outputs):
            if valid_taps(position, *fixed) == 0:
                where = f"{'row' if axis == 0 else 'pixel'} {position}"
                return Verdict(False, f"the window at {where} lies in the padding altogether")
    return OK


def broadcast(case: Case) -> Verdict:
    """Element-wise operands have the output's shape; one of them may have a single row, pixel or channel (Sub: the second)."""
    target = tuple(case.out_shape[1:])
    full = [tuple(shape[1:]) == target for shape in case.in_shapes]
    small = [all(size in (1, whole) for size, whole in zip(shape[1:], target, strict=True)) for shape in case.in_shapes]
    if not ((full[0] and small[1]) or (full[1] and small[0] and case.attrs.kind != "sub")):
        shapes = [list(shape[1:]) for shape in case.in_shapes]
        return Verdict(False, f"operands of {shapes}: one must be whole, the other whole or of size 1 where it repeats")
    return OK


def whole_bytes_move(case: Case) -> Verdict:
    """What moves begins and ends on whole bytes: 4-bit channels move in pairs, or with the whole pixel."""
    maps = _feature_maps(case)
    for piece in unflattened(case.attrs.pieces):
        source = maps[piece.source] if piece.source < len(maps) - 1 else maps[-1]
        if not whole_bytes(piece, source.bits, maps[-1].bits, maps[-1].c):
            return Verdict(
                False, "its 4-bit values move by odd numbers of channels; 8-bit activations move by themselves"
            )
    return OK


def fits(case: Case) -> Verdict:
    """Some tiling of the layer fits the config's SRAM, weight buffer, line buffer and accumulators."""
    maps = _feature_maps(case)
    if isinstance(case.attrs, operators.MoveAttrs):  # the fills lie before the output
        maps = (*maps[:-1], *(replace(maps[-1], h=1, w=1) for _ in case.attrs.fills), maps[-1])
    layer, hw = _skeleton(case, maps), case.hw
    needed = fitting_working_bytes(layer, maps, hw)
    if needed is None:
        buffers = f"weight_buffer_bytes {hw.weight_buffer_bytes} and line_buffer_bytes {hw.line_buffer_bytes}"
        return Verdict(False, f"no tile fits {buffers} of {hw.name}", too_large=True)
    if needed > hw.sram_bytes:
        return Verdict(
            False, f"the smallest tile needs {needed} bytes of SRAM, {hw.name} has {hw.sram_bytes}", too_large=True
        )
    return OK


def _feature_maps(case: Case) -> tuple[FeatureMap, ...]:
    """Activations in, activation out."""
    bits = [q.bits for q in operators.inputs_of(case.attrs)] + [case.attrs.result.bits]
    shapes = [*case.in_shapes, case.out_shape]
    return tuple(FeatureMap("", s[1], s[2], s[3], width, 0) for s, width in zip(shapes, bits, strict=True))


def _skeleton(case: Case, maps: tuple[FeatureMap, ...]) -> AnyLayer:
    """A layer of the operation's sizes, without its numbers."""
    output = len(maps) - 1
    common = ("", "", tuple(range(output)), output, 0, 0)
    attrs, kernel = case.attrs, case.kernel
    if isinstance(attrs, operators.MoveAttrs):
        return MoveLayer(*common, tuple(unflattened(attrs.pieces)), ())
    if kernel is None:
        return CopyLayer(*common, 0, 0)
    top, left, bottom, right = attrs.padding
    (stride_h, stride_w), (dilation_h, dilation_w) = attrs.strides, attrs.dilation
    window = Window(*kernel, stride_h, stride_w, dilation_h, dilation_w, top, left, bottom, right)
    if isinstance(attrs, operators.PoolAttrs):
        kind = "max" if attrs.kind == "max" else "sum"
        return PoolLayer(*common, window, kind, bool(attrs.count_include_pad), {})
    assert isinstance(attrs, operators.ConvAttrs)
    x, y = maps[0], maps[output]
    empty = np.zeros(0, np.int32)
    params = ChannelParams(empty, empty, empty)
    if attrs.groups == x.c == y.c and attrs.groups > 1:
        shape = (*kernel, y.c)
        return DepthwiseLayer(*common, window, attrs.weight_bits, params, np.broadcast_to(np.int32(0), shape), 0)
    # Groups are packed at least two at a time where 4-bit channels need it; twice the size covers that.
    pack = min(attrs.groups, 2)
    shape4 = (*kernel, x.c // attrs.groups * pack, y.c // attrs.groups * pack)
    part = ConvPart(0, 0, np.broadcast_to(np.int32(0), shape4))
    return ConvLayer(*common, window, attrs.weight_bits, (part,), params, empty, 0)


RULES: tuple[tuple[Callable[[Case], Verdict], tuple[type, ...]], ...] = (
    (feature_map_sizes, (operators.IntegerAttrs,)),
    (kernel_size, (operators.WindowAttrs,)),
    (padding_size, (operators.WindowAttrs,)),
    (pooling_taps, (operators.PoolAttrs,)),
    (broadcast, (operators.EltwiseAttrs,)),
    (whole_bytes_move, (operators.MoveAttrs,)),
    (fits, (operators.IntegerAttrs,)),
)
