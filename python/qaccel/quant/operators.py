"""The quantized dialect: our own Relax operators, the attributes they carry, and how to read them back.

All tensors between ``qaccel.quantize`` and ``qaccel.dequantize`` are rank 4, NHWC. Carriers are int8 for values of 4
and 8 bits and int16 for 16 bits; the bits, scales and zero points are attributes of the calls that make and use a
tensor, so they live in the IR and survive passes and JSON. A real value is ``scale * (q - zero_point)``; every scale is
exactly a float32. Importing this module registers the operators.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tvm
from tvm import ir, relax
from tvm.ir import _ffi_api

from ..errors import QaccelError
from ..numerics import common_multipliers, multiplier_and_shift, output_scale_ratio

BITS = (4, 8, 16)
ELTWISE_KINDS = ("add", "sub", "mul", "min", "max")
POOL_KINDS = ("max", "avg")


def carrier(bits: int) -> str:
    """The dtype that carries values of that many bits."""
    return "int16" if bits == 16 else "int8"


@dataclass(frozen=True)
class QuantizeAttrs:
    """``qaccel.quantize(x)``: float32 of any shape -> NHWC ``shape``.

    ``rhe(x / scale) + zero_point`` saturated (float32 division, as ONNX QuantizeLinear), transposed by ``axes``, then
    reshaped to ``shape``. NaN becomes the zero point.
    """

    operator: ClassVar[str] = "qaccel.quantize"
    name: str
    scale: float
    zero_point: int
    bits: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DequantizeAttrs:
    """``qaccel.dequantize(q)``: NHWC -> float32.

    ``(q - zero_point) * scale`` in float32, reshaped to ``shape``, then transposed by ``axes``.
    """

    operator: ClassVar[str] = "qaccel.dequantize"
    name: str
    scale: float
    zero_point: int
    bits: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ConvAttrs:
    """``qaccel.conv2d(q, weight, bias, weight_scale)``.

    ``weight`` int8 or int16 OHWI with I = input channels / groups; ``bias`` int32 [OC] in units of
    ``in_scale * weight_scale[c]``; ``weight_scale`` float32 [OC]. Padding (top, left, bottom, right) counts as zero.
    ``op`` is the ONNX operator that this was: a Gemm is a convolution over [N, 1, 1, C] or over the whole plane.
    """

    operator: ClassVar[str] = "qaccel.conv2d"
    name: str
    op: str
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    weight_bits: int
    activation_bits: int
    in_scale: float
    in_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int

    def multipliers(self, weight_scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per output channel (M int64, s int64), each [OC], from the float32 ``weight_scale`` [OC]."""
        ratios = [output_scale_ratio(self.in_scale, float(scale), self.out_scale) for scale in weight_scale]
        pairs = [multiplier_and_shift(ratio) for ratio in ratios]
        return np.array([m for m, _ in pairs], np.int64), np.array([s for _, s in pairs], np.int64)


@dataclass(frozen=True)
class PoolAttrs:
    """``qaccel.pool2d(q)``: ``kind`` "max" or "avg" over windows of ``kernel``; padding (top, left, bottom, right).

    An average divides by the taps inside the input, or by all taps if ``count_include_pad``.
    """

    operator: ClassVar[str] = "qaccel.pool2d"
    name: str
    op: str
    kind: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    count_include_pad: bool
    activation_bits: int
    in_scale: float
    in_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int

    def multiplier(self, taps: int) -> tuple[int, int]:
        """(M, s) of ``in_scale / out_scale / taps`` in float32; ``taps`` is the average's divisor, 1 for a maximum."""
        ratio = np.float32(self.in_scale) / np.float32(self.out_scale) / np.float32(taps)
        return multiplier_and_shift(float(ratio))


@dataclass(frozen=True)
class EltwiseAttrs:
    """``qaccel.eltwise(a, b)``: ``kind`` add, sub, mul, min or max.

    The result has the shape of ``a``; ``b`` is repeated along each of its dimensions that is 1.
    """

    operator: ClassVar[str] = "qaccel.eltwise"
    name: str
    op: str
    kind: str
    a_bits: int
    a_scale: float
    a_zero_point: int
    b_bits: int
    b_scale: float
    b_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int

    def multipliers(self) -> tuple[int, int, int]:
        """(Ma, Mb, s) as the ISA's ELTWISE takes them; Mb is 0 for mul."""
        if self.kind == "mul":
            multiplier, shift = multiplier_and_shift(output_scale_ratio(self.a_scale, self.b_scale, self.out_scale))
            return multiplier, 0, shift
        out = np.float32(self.out_scale)
        first, second = float(np.float32(self.a_scale) / out), float(np.float32(self.b_scale) / out)
        if multiplier_and_shift(max(first, second)) == (0, 0):
            return 0, 0, 0
        return common_multipliers((first, second))


@dataclass(frozen=True)
class RequantizeAttrs:
    """``qaccel.requantize(q)``: the requantizing copy, also a Relu or Clip that could not join the layer before it."""

    operator: ClassVar[str] = "qaccel.requantize"
    name: str
    op: str
    in_bits: int
    in_scale: float
    in_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int

    def multiplier(self) -> tuple[int, int]:
        """(M, s) of ``in_scale / out_scale`` in float32."""
        return multiplier_and_shift(float(np.float32(self.in_scale) / np.float32(self.out_scale)))


@dataclass(frozen=True)
class TableAttrs:
    """``qaccel.table(q, table)``: look-up of every element as the ISA's TABLE.

    ``table`` is [2**in_bits] of the output's carrier, or int16 [513] for 16-bit inputs (interpolated).
    """

    operator: ClassVar[str] = "qaccel.table"
    name: str
    op: str
    in_bits: int
    in_scale: float
    in_zero_point: int
    out_bits: int
    out_scale: float
    out_zero_point: int


@dataclass(frozen=True)
class MoveAttrs:
    """``qaccel.move(q0, q1, ...)``: values put elsewhere, each source rescaled to the output: NHWC ``shape``.

    ``pieces`` are those of ``pieces.Piece`` one after the other; a piece whose source is number of operands + k repeats
    the constant ``fills[k]``, in output integers, and its steps in the source are 0.
    """

    operator: ClassVar[str] = "qaccel.move"
    name: str
    op: str
    shape: tuple[int, ...]
    in_bits: tuple[int, ...]
    in_scales: tuple[float, ...]
    in_zero_points: tuple[int, ...]
    out_bits: int
    out_scale: float
    out_zero_point: int
    clamp_lo: int
    clamp_hi: int
    fills: tuple[int, ...]
    pieces: tuple[int, ...]

    def multipliers(self) -> list[tuple[int, int]]:
        """(M, s) of every operand's scale over the output's, in float32."""
        return [multiplier_and_shift(float(np.float32(s) / np.float32(self.out_scale))) for s in self.in_scales]


Attrs = (
    QuantizeAttrs | DequantizeAttrs | ConvAttrs | PoolAttrs | EltwiseAttrs | RequantizeAttrs | TableAttrs | MoveAttrs
)
_CLASSES: tuple[type[Any], ...] = (
    QuantizeAttrs, DequantizeAttrs, ConvAttrs, PoolAttrs, EltwiseAttrs, RequantizeAttrs, TableAttrs, MoveAttrs,
)  # fmt: skip
_BY_OPERATOR = {cls.operator: cls for cls in _CLASSES}


@dataclass(frozen=True)
class Quantization:
    """What the integers of one tensor mean."""

    bits: int
    scale: float
    zero_point: int


def is_quantized(expr: object) -> bool:
    """Whether ``expr`` is a call of one of this dialect's operators."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op) and expr.op.name in _BY_OPERATOR


def read(call: relax.Call) -> Attrs:
    """The attributes of a call of this dialect. Raises QaccelError if it is not one, or an attribute is missing."""
    if not is_quantized(call):
        raise QaccelError(f"{getattr(call, 'op', call)} is not an operator of the quantized dialect")
    cls = _BY_OPERATOR[call.op.name]
    attrs = call.attrs
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if attrs is None or field.name not in attrs:
            raise QaccelError(f"{call.op.name}: attribute {field.name} is missing")
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
    """The array of a constant operand. Raises QaccelError if it is none."""
    if not isinstance(expr, ir.GenericConst):
        raise QaccelError(f"an operand that must be a constant is {type(expr).__name__}")
    return expr.value.numpy()


def static_shape(expr: relax.Expr) -> tuple[int, ...]:
    """The shape of a typed expression as integers. Raises QaccelError if a dimension is symbolic."""
    shape = expr.ty.shape
    if shape is None or any(not isinstance(dim, int | tvm.tirx.IntImm) for dim in shape):
        raise QaccelError(f"a tensor has the symbolic shape {shape}; fix it with --input-shapes")
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
