"""The quantized dialect: our own Relax operators, the attributes they carry, and how to read them back.

All tensors between ``qaccel.quantize`` and ``qaccel.dequantize`` are rank 4, NHWC. Carriers are int8 for values of 4
and 8 bits and int16 for 16 bits; the bits, scales and zero points are attributes of the calls that make and use a
tensor, so they live in the IR and survive passes and JSON. A real value is ``scale * (q - zero_point)``; every scale is
exactly a float32. Importing this module registers the operators.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import ir, relax
from tvm.ir import _ffi_api

from ..errors import CompilerFault, UserError
from .attributes import BITS as BITS
from .attributes import ELTWISE_KINDS as ELTWISE_KINDS
from .attributes import POOL_KINDS as POOL_KINDS
from .attributes import ConvAttrs as ConvAttrs
from .attributes import DequantizeAttrs as DequantizeAttrs
from .attributes import EltwiseAttrs as EltwiseAttrs
from .attributes import MoveAttrs as MoveAttrs
from .attributes import PoolAttrs as PoolAttrs
from .attributes import Quantization as Quantization
from .attributes import QuantizeAttrs as QuantizeAttrs
from .attributes import RequantizeAttrs as RequantizeAttrs
from .attributes import TableAttrs as TableAttrs
from .attributes import carrier as carrier

Attrs = (
    QuantizeAttrs | DequantizeAttrs | ConvAttrs | PoolAttrs | EltwiseAttrs | RequantizeAttrs | TableAttrs | MoveAttrs
)
_CLASSES: tuple[type[Any], ...] = (
    QuantizeAttrs, DequantizeAttrs, ConvAttrs, PoolAttrs, EltwiseAttrs, RequantizeAttrs, TableAttrs, MoveAttrs,
)  # fmt: skip
_BY_OPERATOR = {cls.operator: cls for cls in _CLASSES}


def is_quantized(expr: object) -> bool:
    """Whether ``expr`` is a call of one of this dialect's operators."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op) and expr.op.name in _BY_OPERATOR


def read(call: relax.Call) -> Attrs:
    """The attributes of a call of this dialect. Raises CompilerFault if it is not one, or an attribute is missing."""
    if not is_quantized(call):
        raise CompilerFault(f"{getattr(call, 'op', call)} is not an operator of the quantized dialect")
    cls = _BY_OPERATOR[call.op.name]
    attrs = call.attrs
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if attrs is None or field.name not in attrs:
            raise CompilerFault(f"{call.op.name}: attribute {field.name} is missing")
        value = attrs[field.name]
        kind = str(field.type)
        if kind.startswith("tuple"):
            values[field.name] = tuple((float if "float" in kind else int)(item) for item in value)
        else:
            values[field.name] = {"str": str, "int": int, "float": float, "bool": bool}[kind](value)
    return cls(**values)


def inputs_of(attrs: Attrs) -> tuple[Quantization, ...]:
    """What the quantized activation operands of a call are read as, in their order; none for quantize."""
    if isinstance(attrs, QuantizeAttrs):
        return ()
    if isinstance(attrs, DequantizeAttrs):
        return (Quantization(attrs.bits, attrs.scale, attrs.zero_point),)
    if isinstance(attrs, EltwiseAttrs):
        first = Quantization(attrs.a_bits, attrs.a_scale, attrs.a_zero_point)
        return (first, Quantization(attrs.b_bits, attrs.b_scale, attrs.b_zero_point))
    if isinstance(attrs, MoveAttrs):
        each = zip(attrs.in_bits, attrs.in_scales, attrs.in_zero_points, strict=True)
        return tuple(Quantization(*fields) for fields in each)
    bits = attrs.activation_bits if isinstance(attrs, ConvAttrs | PoolAttrs) else attrs.in_bits
    return (Quantization(bits, attrs.in_scale, attrs.in_zero_point),)


def output_of(attrs: Attrs) -> Quantization | None:
    """What the result's integers mean; None for dequantize."""
    if isinstance(attrs, DequantizeAttrs):
        return None
    if isinstance(attrs, QuantizeAttrs):
        return Quantization(attrs.bits, attrs.scale, attrs.zero_point)
    return Quantization(attrs.out_bits, attrs.out_scale, attrs.out_zero_point)


def call(attrs: Attrs, *args: relax.Expr) -> relax.Call:
    """Call of the operator that ``attrs`` belongs to, as the functions below make it; its span names the node."""
    node = ir.make_node("ir.DictAttrs", **{f.name: _plain(getattr(attrs, f.name)) for f in dataclasses.fields(attrs)})
    span = ir.Span(ir.SourceName(attrs.name), 0, 0, 0, 0)
    return relax.Call(ir.Op.get(attrs.operator), list(args), node, span=span)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def quantize(x: relax.Expr, attrs: QuantizeAttrs) -> relax.Call:
    """Call of ``qaccel.quantize`` on a float32 tensor."""
    return call(attrs, x)


def dequantize(q: relax.Expr, attrs: DequantizeAttrs) -> relax.Call:
    """Call of ``qaccel.dequantize``; the result is float32."""
    return call(attrs, q)


def conv2d(
    q: relax.Expr, weight: np.ndarray, bias: np.ndarray, weight_scale: np.ndarray, attrs: ConvAttrs
) -> relax.Call:
    """Call of ``qaccel.conv2d``; the arrays (OHWI, [OC], [OC], any dtype that holds them exactly) become constants."""
    constants = (
        weight.astype(carrier(attrs.weight_bits)), bias.astype(np.int32), weight_scale.astype(np.float32),
    )  # fmt: skip
    return call(attrs, q, *(relax.const(np.ascontiguousarray(value)) for value in constants))


def pool2d(q: relax.Expr, attrs: PoolAttrs) -> relax.Call:
    """Call of ``qaccel.pool2d``."""
    return call(attrs, q)


def eltwise(a: relax.Expr, b: relax.Expr, attrs: EltwiseAttrs) -> relax.Call:
    """Call of ``qaccel.eltwise``; the result has the shape of ``a``."""
    return call(attrs, a, b)


def requantize(q: relax.Expr, attrs: RequantizeAttrs) -> relax.Call:
    """Call of ``qaccel.requantize``."""
    return call(attrs, q)


def table(q: relax.Expr, values: np.ndarray, attrs: TableAttrs) -> relax.Call:
    """Call of ``qaccel.table``; ``values`` becomes a constant of the carrier that the ISA's TABLE has."""
    dtype = "int16" if attrs.in_bits == 16 else carrier(attrs.out_bits)
    return call(attrs, q, relax.const(np.ascontiguousarray(values.astype(dtype))))


def move(sources: Sequence[relax.Expr], attrs: MoveAttrs) -> relax.Call:
    """Call of ``qaccel.move``."""
    return call(attrs, *sources)


def constant(expr: relax.Expr) -> np.ndarray:
    """The array of a constant operand. Raises CompilerFault if it is none."""
    if not isinstance(expr, ir.GenericConst):
        raise CompilerFault(f"an operand that must be a constant is {type(expr).__name__}")
    return expr.value.numpy()


def static_shape(expr: relax.Expr) -> tuple[int, ...]:
    """The shape of a typed expression as integers. Raises UserError if a dimension is symbolic."""
    shape = expr.ty.shape
    if shape is None or any(not isinstance(dim, int | tvm.tirx.IntImm) for dim in shape):
        raise UserError(f"a tensor has the symbolic shape {shape}; fix it with --input-shapes")
    return tuple(int(dim) for dim in shape)


def window_output(
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Rows and pixels that a window gives over ``size`` = (rows, pixels) with padding (top, left, bottom, right)."""
    totals = (padding[0] + padding[2], padding[1] + padding[3])
    return (
        (size[0] + totals[0] - dilation[0] * (kernel[0] - 1) - 1) // strides[0] + 1,
        (size[1] + totals[1] - dilation[1] * (kernel[1] - 1) - 1) // strides[1] + 1,
    )


def _infer(call: relax.Call, _builder: object) -> relax.TensorType:
    """Result type of any call of the dialect, from its operands' shapes and its attributes."""
    attrs = read(call)
    if isinstance(attrs, QuantizeAttrs):
        return relax.TensorType(attrs.shape, carrier(attrs.bits))
    if isinstance(attrs, DequantizeAttrs):
        return relax.TensorType([attrs.shape[axis] for axis in attrs.axes], "float32")
    if isinstance(attrs, MoveAttrs):
        return relax.TensorType(attrs.shape, carrier(attrs.out_bits))
    n, h, w, c = static_shape(call.args[0])
    if isinstance(attrs, ConvAttrs):
        o, kh, kw, _ = static_shape(call.args[1])
        h, w = window_output((h, w), (kh, kw), attrs.strides, attrs.padding, attrs.dilation)
        c = o
    elif isinstance(attrs, PoolAttrs):
        h, w = window_output((h, w), attrs.kernel, attrs.strides, attrs.padding, attrs.dilation)
    return relax.TensorType((n, h, w, c), carrier(attrs.out_bits))


def register() -> None:
    """Register the operators with TVM; doing it again changes nothing."""
    known = set(ir.Op.list_op_names())
    for cls in _CLASSES:
        if cls.operator in known:
            continue
        _ffi_api.RegisterOp(cls.operator, (cls.__doc__ or "").split("\n")[0])
        _set_attr(cls.operator, "FInferType", _infer)
        _set_attr(cls.operator, "FPurity", True)


def _set_attr(operator: str, key: str, value: bool | Callable[..., Any]) -> None:
    ir.register_op_attr(operator, key, value)


register()
