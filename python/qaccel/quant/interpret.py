"""Quantized Relax in NumPy, in exact integers: the accuracy preview, and an oracle sharing no code with the machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import tvm
from tvm import ir, relax

from ..errors import QaccelError
from ..frontend.import_onnx import node_name
from ..numerics import activation_limits
from . import numpy_kernels as kernels
from . import operators
from .float_plan import TvmNode, holds_tensors
from .float_rules import RULES
from .pieces import positions, unflattened
from .rescale import Ending, requantize, rounded

Observer = Callable[[str, np.ndarray], None]
Correct = Callable[[operators.ConvAttrs, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
CallSubgraph = Callable[[str, list[np.ndarray]], Sequence[np.ndarray]]
BATCH = 64  # samples in one pass
FLOAT32_EXACT, FLOAT64_EXACT = 1 << 24, 1 << 53


def run_quantized(
    mod: tvm.IRModule,
    inputs: Mapping[str, np.ndarray],
    observe: Observer | None = None,
    correct: Correct | None = None,
    subgraph: CallSubgraph | None = None,
) -> dict[str, np.ndarray]:
    """Runs ``main``; inputs by parameter name, outputs by position ("0", "1", ...).

    Axis 0 may be any multiple of the module's own batch. ``observe(name, integers)`` gets every integer result, NHWC,
    in the carrier's dtype, under the name of its operation (more than once where samples run in several passes).
    ``correct(attributes, sums, weight, bias, weight_scale)`` gives the bias that a convolution is to have instead; ``sums`` are
    its products summed over all samples, NHWC, without the bias. ``subgraph(symbol, operands)`` runs an accelerator subgraph of
    a partitioned module and gives its results.
    Raises QaccelError for a missing input, a wrong shape, or a float operator without a NumPy rule.
    """
    function = mod["main"]
    arrays = {}
    for param in function.params:
        if param.name not in inputs:
            raise QaccelError(f"input '{param.name}' is missing")
        arrays[param.name] = np.asarray(inputs[param.name], dtype=str(param.ty.dtype))
    shapes = {param.name: operators.static_shape(param) for param in function.params}
    own = {shape[:1] for shape in shapes.values()}
    factors = {arrays[name].shape[0] / shape[0] for name, shape in shapes.items() if shape and arrays[name].shape} or {
        1.0
    }
    good = all(arrays[name].shape[1:] == shape[1:] for name, shape in shapes.items())
    if not good or len(factors) != 1 or not min(factors).is_integer() or min(factors) < 1:
        raise QaccelError(f"inputs of shapes {[v.shape for v in arrays.values()]} do not fit {list(shapes.values())}")
    together = _all_batched(function) and len(own) == 1
    step = BATCH if together else 1
    parts = [
        {
            name: v[first * shapes[name][0] : (first + step) * shapes[name][0]] if v.shape else v
            for name, v in arrays.items()
        }
        for first in range(0, int(min(factors)), step)
    ]
    # A bias is corrected by all samples at once, so the passes then go from layer to layer side by side.
    groups = [parts] if correct is not None else [[part] for part in parts]
    pieces = [piece for group in groups for piece in _run(mod, group, observe, correct, subgraph)]
    return {str(k): np.concatenate([np.atleast_1d(piece[k]) for piece in pieces]) for k in range(len(pieces[0]))}


def _all_batched(function: relax.Function) -> bool:
    """Whether several samples can run in one pass: float operators in between are of kinds that keep axis 0 apart."""
    apart = {
        "relax.nn.relu", "relax.clip", "relax.nn.conv2d", "relax.nn.max_pool2d", "relax.nn.avg_pool2d", "relax.reshape",
    }  # fmt: skip
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if operators.is_quantized(value):
                attrs = operators.read(value)
                if isinstance(attrs, operators.QuantizeAttrs | operators.DequantizeAttrs) and attrs.axes[0] != 0:
                    return False
            if not isinstance(value, relax.Call) or operators.is_quantized(value):
                continue
            name = value.op.name if isinstance(value.op, ir.Op) else ""
            softmax = name == "relax.nn.softmax" and int(value.attrs.axis) != 0
            if name not in apart and not softmax:
                return False
    return True


Values = dict[relax.Var, Any]


def _run(
    mod: tvm.IRModule,
    parts: Sequence[Mapping[str, np.ndarray]],
    observe: Observer | None,
    correct: Correct | None,
    subgraph: CallSubgraph | None,
) -> list[list[np.ndarray]]:
    """The results of each part, all of them taken from binding to binding together."""
    function = mod["main"]
    passes: list[Values] = [{param: arrays[param.name] for param in function.params} for arrays in parts]
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    last = _last_reads(bindings)
    for k, binding in enumerate(bindings):
        attrs = operators.read(binding.value) if operators.is_quantized(binding.value) else None
        if correct is not None and isinstance(attrs, operators.ConvAttrs):
            _corrected(attrs, binding, passes, correct)
        else:
            for values in passes:
                values[binding.var] = _value(binding, attrs, mod, values, subgraph)
        for values in passes:
            if observe is not None and attrs is not None and not isinstance(attrs, operators.DequantizeAttrs):
                observe(attrs.name, values[binding.var])
            for var in last.get(k, ()):
                values.pop(var)
    results = [_value_of(function.body.body, values) for values in passes]
    return [list(result) if isinstance(result, tuple) else [result] for result in results]


def _value_of(expr: relax.Expr, values: Values) -> Any:
    if isinstance(expr, relax.Var):
        return values[expr]
    if isinstance(expr, relax.Tuple):
        return tuple(_value_of(field, values) for field in expr.fields)
    if isinstance(expr, relax.TupleGetItem):
        return _value_of(expr.tuple_value, values)[expr.index]
    return operators.constant(expr) if isinstance(expr, ir.GenericConst) else expr


def _value(
    binding: relax.Binding, attrs: operators.Attrs | None, mod: tvm.IRModule, values: Values, subgraph: CallSubgraph | None
) -> Any:  # fmt: skip
    call = binding.value
    if attrs is not None:
        return _OPERATIONS[type(attrs)](attrs, *(_value_of(arg, values) for arg in call.args))
    if isinstance(call, relax.Call) and isinstance(call.op, ir.GlobalVar) and subgraph is not None:
        results = subgraph(call.op.name_hint, [_value_of(arg, values) for arg in call.args])
        return results if isinstance(call.ty, relax.TupleType) else results[0]
    if isinstance(call, relax.Call):
        return _float(binding, mod, lambda expr: _value_of(expr, values))
    return _value_of(call, values)


def _corrected(attrs: operators.ConvAttrs, binding: relax.Binding, passes: list[Values], correct: Correct) -> None:
    """A convolution with the bias that ``correct`` gives for the sums of all passes."""
    q, *constants = binding.value.args
    weight, bias, weight_scale = (operators.constant(arg) for arg in constants)
    sums = [_sums(attrs, _value_of(q, values), weight) for values in passes]
    bias = correct(attrs, sums[0] if len(sums) == 1 else np.concatenate(sums), weight, bias, weight_scale)
    for values, each in zip(passes, sums, strict=True):
        values[binding.var] = requantize(each, attrs.multipliers(weight_scale), _ending(attrs), bias=bias)


def _last_reads(bindings: list[relax.Binding]) -> dict[int, list[relax.Var]]:
    """Which arrays no later call reads, by position; only of calls that are followed by none of another form."""
    at: dict[relax.Var, int] = {}
    for k, binding in enumerate(bindings):
        value = binding.value
        operands = value.args if isinstance(value, relax.Call) else []
        keep = not isinstance(value, relax.Call) or any(isinstance(a, relax.Tuple) for a in operands)
        if keep:
            return {}
        at.update({arg: k for arg in operands if isinstance(arg, relax.Var)})
        at.setdefault(binding.var, len(bindings))
    dead: dict[int, list[relax.Var]] = {}
    for var, k in at.items():
        dead.setdefault(k, []).append(var)
    return dead


def _float(binding: relax.Binding, mod: tvm.IRModule, value_of: Callable[[relax.Expr], Any]) -> Any:
    """The value of a float operator: by its NumPy rule, or the operator compiled by TVM."""
    call = binding.value
    rule = RULES.get(call.op.name) if isinstance(call.op, ir.Op) else None
    kernel = rule(call) if rule is not None else None
    if kernel is None:
        compiled = _compiled(binding, mod)
        return compiled(*(value_of(var) for var in compiled.operands))
    return kernel(*(value_of(arg) for arg in call.args if holds_tensors(arg)))


@lru_cache(maxsize=256)
def _compiled(binding: relax.Binding, mod: tvm.IRModule) -> TvmNode:
    """One operator without a NumPy rule, its tuple of results taken apart."""
    group, results = [binding], (binding.var,)
    if isinstance(binding.value.ty, relax.TupleType):
        parts = [relax.Var(f"part{k}", field) for k, field in enumerate(binding.value.ty.fields)]
        group += [relax.VarBinding(part, relax.TupleGetItem(binding.var, k)) for k, part in enumerate(parts)]
        results = tuple(parts)
    return TvmNode(node_name(binding.value), group, results, mod)


def _quantize(attrs: operators.QuantizeAttrs, x: np.ndarray) -> np.ndarray:
    lo, hi = activation_limits(attrs.bits)
    with np.errstate(all="ignore"):
        ratio = np.rint(np.asarray(x, np.float32) / np.float32(attrs.scale))
        q = np.clip(np.nan_to_num(ratio, nan=0.0), lo - attrs.zero_point, hi - attrs.zero_point).astype(np.int32)
    q = (q + attrs.zero_point).astype(operators.carrier(attrs.bits))
    shape = _batched(len(q), attrs.shape) if attrs.axes[0] == 0 else attrs.shape
    return np.ascontiguousarray(q.transpose(attrs.axes)).reshape(shape)


def _dequantize(attrs: operators.DequantizeAttrs, q: np.ndarray) -> np.ndarray:
    real = (q.astype(np.int32) - attrs.zero_point).astype(np.float32) * np.float32(attrs.scale)
    outer = attrs.shape[0] * q.size // math.prod(attrs.shape)  # the batch at hand, and what may be merged with it
    return real.reshape(outer, *attrs.shape[1:]).transpose(attrs.axes)


def _batched(batch: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` with the batch at hand."""
    return (batch, *shape[1:])


def _conv(
    attrs: operators.ConvAttrs, q: np.ndarray, weight: np.ndarray, bias: np.ndarray, weight_scale: np.ndarray
) -> np.ndarray:
    return requantize(_sums(attrs, q, weight), attrs.multipliers(weight_scale), _ending(attrs), bias=bias)


def accumulate(attrs: operators.ConvAttrs, q: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The exact accumulators, bias included, int64 NHWC."""
    return _sums(attrs, q, weight).astype(np.int64) + bias.astype(np.int64)


def _sums(attrs: operators.ConvAttrs, q: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Products summed, NHWC: exact integers, in a float type where no sum can reach its mantissa."""
    lo, hi = activation_limits(attrs.activation_bits)
    reach = max(hi - attrs.in_zero_point, attrs.in_zero_point - lo)
    largest = int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1).max()) * reach
    dtype: Any = np.float32 if largest < FLOAT32_EXACT else np.float64 if largest < FLOAT64_EXACT else np.int64
    window = kernels.Window(weight.shape[1:3], attrs.strides, attrs.dilation, attrs.padding)
    centred = q.astype(dtype)
    centred -= attrs.in_zero_point
    kernel = weight.transpose(0, 3, 1, 2).astype(dtype)
    return kernels.conv2d(centred.transpose(0, 3, 1, 2), kernel, window, attrs.groups).transpose(0, 2, 3, 1)


def _pool(attrs: operators.PoolAttrs, q: np.ndarray) -> np.ndarray:
    window = kernels.Window(attrs.kernel, attrs.strides, attrs.dilation, attrs.padding)
    out = window.output(q.shape[1], q.shape[2])
    centred = q.astype(np.int64) - attrs.in_zero_point
    if attrs.kind == "max":
        least = int(np.iinfo(np.int32).min)
        taps = kernels.windows(kernels.padded(centred, attrs.padding, least), window, out)
        return requantize(taps.max(axis=(3, 4)), attrs.multiplier(1), _ending(attrs))
    sums = kernels.windows(kernels.padded(centred, attrs.padding, 0), window, out).sum(axis=(3, 4))
    counts = tap_counts(attrs, q.shape[1:3], out)
    result = np.empty(sums.shape, operators.carrier(attrs.out_bits))
    for count in np.unique(counts):
        chosen = counts == count
        result[:, chosen] = requantize(sums[:, chosen], attrs.multiplier(int(count)), _ending(attrs))
    return result


def tap_counts(attrs: operators.PoolAttrs, size: tuple[int, ...], out: tuple[int, int]) -> np.ndarray:
    """What each window of an average divides by, int64 [rows, pixels]."""
    if attrs.count_include_pad:
        return np.full(out, attrs.kernel[0] * attrs.kernel[1], np.int64)
    per_axis = []
    for axis in (0, 1):
        first = np.arange(out[axis])[:, None] * attrs.strides[axis] - attrs.padding[axis]
        taps = first + np.arange(attrs.kernel[axis])[None, :] * attrs.dilation[axis]
        per_axis.append(((taps >= 0) & (taps < size[axis])).sum(axis=1))
    return per_axis[0][:, None] * per_axis[1][None, :]


def _eltwise(attrs: operators.EltwiseAttrs, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    first = a.astype(np.int64) - attrs.a_zero_point
    second = b.astype(np.int64) - attrs.b_zero_point
    ma, mb, shift = attrs.multipliers()
    if attrs.kind == "mul":
        return requantize(first * second, (ma, shift), _ending(attrs))
    combine = {"add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum}[attrs.kind]
    zero_point, lo, hi, dtype = _ending(attrs)
    return np.clip(rounded(combine(first * ma, second * mb), shift) + zero_point, lo, hi).astype(dtype)


def _move(attrs: operators.MoveAttrs, *sources: np.ndarray) -> np.ndarray:
    batch = len(sources[0])
    made = [
        requantize(q.astype(np.int64) - zero_point, scale, _ending(attrs)).reshape(batch, -1, q.shape[-1])
        for q, zero_point, scale in zip(sources, attrs.in_zero_points, attrs.multipliers(), strict=True)
    ]
    shape = _batched(batch, attrs.shape)
    result = np.zeros((batch, shape[1] * shape[2], shape[3]), operators.carrier(attrs.out_bits))
    for piece in unflattened(attrs.pieces):
        pixel, channel = positions(piece, source=False)
        run = channel[..., None] + np.arange(piece.channels)
        if piece.source >= len(made):
            result[:, pixel[..., None], run] = attrs.fills[piece.source - len(made)]
            continue
        from_pixel, from_channel = positions(piece, source=True)
        values = made[piece.source][:, from_pixel[..., None], from_channel[..., None] + np.arange(piece.channels)]
        result[:, pixel[..., None], run] = values
    return result.reshape(shape)


def _requantize(attrs: operators.RequantizeAttrs, q: np.ndarray) -> np.ndarray:
    return requantize(q.astype(np.int64) - attrs.in_zero_point, attrs.multiplier(), _ending(attrs))


def _table(attrs: operators.TableAttrs, q: np.ndarray, table: np.ndarray) -> np.ndarray:
    index = q.astype(np.int64) + (1 << (attrs.in_bits - 1))
    if attrs.in_bits != 16:
        return table[index].astype(operators.carrier(attrs.out_bits))
    entries = table.astype(np.int64)
    low, part = index >> 7, index & 127
    return rounded(entries[low] * (128 - part) + entries[low + 1] * part, 7).astype(operators.carrier(attrs.out_bits))


def _ending(
    attrs: operators.ConvAttrs
    | operators.PoolAttrs
    | operators.EltwiseAttrs
    | operators.RequantizeAttrs
    | operators.MoveAttrs,
) -> Ending:
    """What `requantize` ends with: zero point, clamp, dtype of the result."""
    return attrs.out_zero_point, attrs.clamp_lo, attrs.clamp_hi, operators.carrier(attrs.out_bits)


_OPERATIONS: dict[type, Callable[..., np.ndarray]] = {
    operators.QuantizeAttrs: _quantize,
    operators.DequantizeAttrs: _dequantize,
    operators.ConvAttrs: _conv,
    operators.PoolAttrs: _pool,
    operators.EltwiseAttrs: _eltwise,
    operators.RequantizeAttrs: _requantize,
    operators.TableAttrs: _table,
    operators.MoveAttrs: _move,
}
