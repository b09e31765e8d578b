"""Lowering: one accelerator subgraph of quantized Relax becomes layer operations with integer constants.

Scales end here: what is left of them is a multiplier and a shift per channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir.expr import GenericConst

from ...dialect import operators
from ...dialect.pieces import unflattened
from ...errors import CompilerFault, UserError
from ...machine import numerics
from ...machine.hw import HwConfig
from ...machine.streams import pack, pack_pixels
from ...relax_tools import bindings
from ..layers import (
    AnyLayer,
    ChannelParams,
    ConvLayer,
    CopyLayer,
    DepthwiseLayer,
    EltwiseLayer,
    FeatureMap,
    LayerGraph,
    MoveLayer,
    PoolLayer,
    TableLayer,
    Window,
)
from .groups import group_parts


def lower(function: relax.Function, symbol: str, hw: HwConfig) -> LayerGraph:
    """LayerGraph of a Relax function whose body is one dataflow block of ``qaccel.*`` calls.

    Raises UserError naming the node if a scale cannot be expressed, CompilerFault if a call should not have been given to it.
    """
    maps: list[FeatureMap] = []
    index_of: dict[relax.Var, int] = {}
    layers: list[AnyLayer] = []
    steps = bindings(function)
    quantization = _input_quantization(steps)

    def add_map(var: relax.Var, name: str, bits: int, zero_point: int, data: bytes | None = None) -> int:
        _, h, w, c = (int(d) for d in var.ty.shape.values)
        maps.append(FeatureMap(name, h, w, c, bits, zero_point, data))
        return len(maps) - 1

    for param in function.params:
        if param not in quantization:
            raise CompilerFault(f"{symbol}: input {param.name} is used by no operation")
        index_of[param] = add_map(param, param.name, *quantization[param])

    outputs: list[int] = []
    tuples: dict[relax.Var, list[relax.Expr]] = {}
    for binding in steps:
        if isinstance(binding.value, relax.Tuple):
            tuples[binding.var] = list(binding.value.fields)
            continue
        if isinstance(binding.value, relax.Var):
            index_of[binding.var] = index_of[binding.value]
            continue
        attrs = operators.read(binding.value)
        sources = []
        for argument, q in zip(binding.value.args, operators.inputs_of(attrs), strict=False):
            if isinstance(argument, GenericConst):
                data = operators.constant(argument)
                _, h, w, c = shape = (1,) * (4 - data.ndim) + data.shape
                packed = pack_pixels(data.reshape(shape), q.bits)
                maps.append(FeatureMap(f"{attrs.name}.constant", h, w, c, q.bits, q.zero_point, packed))
                sources.append(len(maps) - 1)
            else:
                sources.append(index_of[argument])
        result_of = operators.output_of(attrs)
        if result_of is None or type(attrs) not in _LOWERERS:
            raise CompilerFault(f"{attrs.name}: {attrs.operator} does not run on the accelerator")
        target = add_map(binding.var, attrs.name, result_of.bits, result_of.zero_point)
        layers.append(_LOWERERS[type(attrs)](binding.value, attrs, maps, tuple(sources), target, hw))
        index_of[binding.var] = target
    result = function.body.body
    fields = tuples.get(result) or (list(result.fields) if isinstance(result, relax.Tuple) else [result])
    outputs = [index_of[f] for f in fields]
    return LayerGraph(symbol, tuple(maps), tuple(layers), tuple(index_of[p] for p in function.params), tuple(outputs))


def _input_quantization(steps: list[relax.Binding]) -> dict[relax.Var, tuple[int, int]]:
    """Width and zero point of each variable, as its first consumer reads it."""
    found: dict[relax.Var, tuple[int, int]] = {}
    for binding in steps:
        if isinstance(binding.value, relax.Call):
            operands = operators.inputs_of(operators.read(binding.value))
            for argument, q in zip(binding.value.args, operands, strict=False):
                if isinstance(argument, relax.Var):
                    found.setdefault(argument, (q.bits, q.zero_point))
    return found


def _scales(name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` gives; a scale that no multiplier expresses becomes the user's error."""
    try:
        return make()
    except ValueError as error:
        raise UserError(f"{name}: requantization {error}; use wider activations or calibrate on other data") from None


def _window(kernel: tuple[int, int], attrs: operators.ConvAttrs | operators.PoolAttrs) -> Window:
    top, left, bottom, right = attrs.padding
    return Window(*kernel, *attrs.strides, *attrs.dilation, top, left, bottom, right)


def _common(a: Any, sources: tuple[int, ...], target: int) -> tuple[str, str, tuple[int, ...], int, int, int]:
    return a.name, a.op, sources, target, a.clamp.lo, a.clamp.hi


def _lower_conv(
    call: relax.Call,
    attrs: operators.ConvAttrs,
    maps: list[FeatureMap],
    sources: tuple[int, ...],
    target: int,
    hw: HwConfig,
) -> AnyLayer:
    weight = operators.constant(call.args[1]).astype(np.int32)  # OHWI
    bias, weight_scale = operators.constant(call.args[2]), operators.constant(call.args[3])
    multipliers, shifts = _scales(attrs.name, lambda: attrs.multipliers(weight_scale))
    params = ChannelParams(bias.astype(np.int32), multipliers.astype(np.uint32), shifts.astype(np.uint8))
    x, y = maps[sources[0]], maps[target]
    window = _window((weight.shape[1], weight.shape[2]), attrs)
    macs = y.h * y.w * weight.size
    common = _common(attrs, sources[:1], target)
    if attrs.groups == x.c == y.c and attrs.groups > 1:
        kernels = weight[..., 0].transpose(1, 2, 0)
        return DepthwiseLayer(*common, window, attrs.weight_bits, params, kernels, macs)
    parts = group_parts(weight, attrs.groups, attrs.weight_bits, x, y, hw)
    return ConvLayer(*common, window, attrs.weight_bits, parts, params, weight, macs)


def _lower_pool(
    call: relax.Call,
    attrs: operators.PoolAttrs,
    maps: list[FeatureMap],
    sources: tuple[int, ...],
    target: int,
    hw: HwConfig,
) -> AnyLayer:
    del call, hw
    # 1/n folds into the multiplier: one rounding of the exact sum.
    counts = [1] if attrs.kind == "max" else range(1, attrs.kernel[0] * attrs.kernel[1] + 1)
    scales = _scales(attrs.name, lambda: {n: attrs.multiplier(n) for n in counts})
    kind = "max" if attrs.kind == "max" else "sum"
    window = _window(tuple(attrs.kernel), attrs)  # type: ignore[arg-type]
    return PoolLayer(*_common(attrs, sources, target), window, kind, bool(attrs.count_include_pad), scales)


def _lower_eltwise(
    call: relax.Call,
    attrs: operators.EltwiseAttrs,
    maps: list[FeatureMap],
    sources: tuple[int, ...],
    target: int,
    hw: HwConfig,
) -> AnyLayer:
    del call, hw
    y, first = maps[target], maps[sources[0]]
    multiplier, b_multiplier, shift = _scales(attrs.name, attrs.multipliers)
    if (first.h, first.w, first.c) != (y.h, y.w, y.c):
        if attrs.kind == "sub":
            raise CompilerFault(f"{attrs.name} (Sub): the first operand is broadcast")
        sources = sources[::-1]
        if attrs.kind != "mul":
            multiplier, b_multiplier = b_multiplier, multiplier
    second = maps[sources[1]]
    scalar = second.c == 1 and y.c > 1
    common, lesser = _common(attrs, sources, target), frozenset(attrs.lesser)
    return EltwiseLayer(*common, attrs.kind, scalar, multiplier, b_multiplier, shift, lesser)


def _lower_copy(
    call: relax.Call,
    attrs: operators.RequantizeAttrs,
    maps: list[FeatureMap],
    sources: tuple[int, ...],
    target: int,
    hw: HwConfig,
) -> AnyLayer:
    del call, maps, hw
    return CopyLayer(*_common(attrs, sources, target), *_scales(attrs.name, attrs.multiplier))


def _lower_table(
    call: relax.Call,
    attrs: operators.TableAttrs,
    maps: list[FeatureMap],
    sources: tuple[int, ...],
    target: int,
    hw: HwConfig,
) -> AnyLayer:
    del maps, hw
    entries = operators.constant(call.args[1]).astype(np.int32)
    table = pack(entries, 16 if attrs.source.bits == 16 or attrs.result.bits == 16 else 8)
    limits = numerics.activation_limits(attrs.result.bits)
    return TableLayer(attrs.name, attrs.op, sources[:1], target, *limits, table, attrs.knots, attrs.origin)


def _lower_move(
    call: relax.Call,
    attrs: operators.MoveAttrs,
    maps: list[FeatureMap],
    sources: tuple[int, ...],
    target: int,
    hw: HwConfig,
) -> AnyLayer:
    del call, hw
    y = maps[target]
    scales = _scales(attrs.name, attrs.multipliers)
    for fill in attrs.fills:  # one pixel of the constant, repeated
        pixel = np.full((1, 1, 1, y.c), fill, operators.carrier(y.bits))
        maps.append(FeatureMap(f"{attrs.name}.fill", 1, 1, y.c, y.bits, y.zero_point, pack_pixels(pixel, y.bits)))
        scales.append(numerics.multiplier_and_shift(1.0))
        sources = (*sources, len(maps) - 1)
    return MoveLayer(*_common(attrs, sources, target), tuple(unflattened(attrs.pieces)), tuple(scales))


_LOWERERS: dict[type, Callable[..., AnyLayer]] = {
    operators.ConvAttrs: _lower_conv,
    operators.PoolAttrs: _lower_pool,
    operators.EltwiseAttrs: _lower_eltwise,
    operators.RequantizeAttrs: _lower_copy,
    operators.TableAttrs: _lower_table,
    operators.MoveAttrs: _lower_move,
}
