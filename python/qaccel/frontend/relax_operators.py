"""Relax operators in ONNX: each function writes the nodes of one call and returns the name of its (first) output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import helper
from tvm import relax

if TYPE_CHECKING:
    from qaccel.frontend.relax_to_onnx import Translation

Operator: TypeAlias = "Callable[[relax.Call, Translation], str]"


def shape_of(expr: relax.Expr) -> list[int]:
    """Static shape; a TypeError or AttributeError where there is none."""
    return [int(v) for v in expr.ty.shape]


def ints(values: Any) -> list[int]:
    """Numbers of Relax as integers; nothing for None."""
    return [int(getattr(v, "value", v)) for v in values] if values is not None else []


def number(expr: Any) -> float:
    """A scalar operand."""
    return float(getattr(expr, "value", expr))


def _order(layout: str, wanted: str) -> list[int]:
    """The transposition from one layout to another."""
    return [layout.index(letter) for letter in wanted]


def _plain(op: str) -> Operator:
    return lambda call, to: to.node(op, [to.tensor(a) for a in call.args])


def _windowed(op: str, data: str, kernel: str, attrs: Callable[[Any], dict[str, Any]]) -> Operator:
    """A convolution in any layout, as a channels-first one between Transposes; `data`, `kernel`: ONNX's layouts."""

    def translate(call: relax.Call, to: Translation) -> str:
        a = call.attrs
        x = to.transpose(to.tensor(call.args[0]), _order(a.data_layout, data))
        w = to.transpose(to.tensor(call.args[1]), _order(a.kernel_layout, kernel))
        spatial = len(data) - 2
        y = to.node(
            op, [x, w], strides=ints(a.strides), pads=_pads(a.padding, spatial), dilations=ints(a.dilation),
            group=int(a.groups), **attrs(a),
        )  # fmt: skip
        return to.transpose(y, _order(data, a.out_layout or a.data_layout))

    return translate


def _pads(padding: Any, spatial: int) -> list[int]:
    """One number, one per axis, or before and after all axes."""
    pads = ints(padding)
    return pads * 2 * spatial if len(pads) == 1 else pads * 2 if len(pads) == spatial else pads


def _pool(op: str, layout: str) -> Operator:
    def translate(call: relax.Call, to: Translation) -> str:
        a = call.attrs
        attrs: dict[str, Any] = {"strides": ints(a.strides), "pads": _pads(a.padding, len(layout) - 2)}
        attrs |= {"kernel_shape": ints(a.pool_size), "ceil_mode": int(a.ceil_mode)}
        x = to.transpose(to.tensor(call.args[0]), _order(a.layout, layout))
        dtype = np.dtype(str(call.ty.dtype))
        if op == "MaxPool":
            y = to.node(op, [x], dilations=ints(a.dilation), **attrs)
        elif any(d != 1 for d in ints(a.dilation)):
            raise ValueError("dilated average")
        elif dtype.kind == "f":
            y = to.node(op, [x], count_include_pad=int(a.count_include_pad), **attrs)
        else:  # of quantized values: TFLite rounds the mean
            values = to.node("Cast", [x], to=onnx.TensorProto.FLOAT)
            mean = to.node(op, [values], count_include_pad=int(a.count_include_pad), **attrs)
            y = to.node("Cast", [to.node("Round", [mean])], to=helper.np_dtype_to_tensor_dtype(dtype))
        return to.transpose(y, _order(layout, a.out_layout or a.layout))

    return translate


def _adaptive_average(layout: str) -> Operator:
    """Windows of equal size where the sizes divide."""

    def translate(call: relax.Call, to: Translation) -> str:
        a = call.attrs
        x = to.transpose(to.tensor(call.args[0]), _order(a.layout, layout))
        sizes = [shape_of(call.args[0])[a.layout.index(letter)] for letter in layout[2:]]
        wanted = ints(a.output_size) or sizes
        wanted = wanted * len(sizes) if len(wanted) == 1 else wanted
        if any(size % out for size, out in zip(sizes, wanted, strict=True)):
            raise ValueError("windows of different sizes")
        kernel = [size // out for size, out in zip(sizes, wanted, strict=True)]
        y = to.node("AveragePool", [x], kernel_shape=kernel, strides=kernel)
        return to.transpose(y, _order(layout, a.out_layout or a.layout))

    return translate


def _prelu(call: relax.Call, to: Translation) -> str:
    """TFLite's frontend flattens the data and gives every value a slope of its own: both are undone."""
    data, slope, axis = call.args[0], to.value(call.args[1]), int(call.attrs.axis)
    source: Any = to.values.get(data)
    shape = shape_of(data)
    if slope is None:
        raise ValueError("computed slopes")
    if len(shape) == 1 and isinstance(source, relax.Call) and source.op.name == "relax.reshape":
        shape = shape_of(source.args[0])
        slopes = np.broadcast_to(slope, (int(np.prod(shape)),)).reshape(shape)
        for k in range(len(shape)):
            if np.array_equal(slopes, np.broadcast_to(slopes.take([0], k), slopes.shape)):
                slopes = slopes.take([0], k)
        y = to.node("PRelu", [to.tensor(source.args[0]), to.const(slopes)])
        return to.reshape(y, shape_of(call))
    per_axis = slope.reshape([-1 if k == axis % len(shape) else 1 for k in range(len(shape))])
    return to.node("PRelu", [to.tensor(data), to.const(per_axis)])


def _scaled(op: str, *attributes: str) -> Operator:
    """An operator whose attributes have the names of ONNX's."""
    return lambda call, to: to.node(
        op, [to.tensor(call.args[0])], **{name: getattr(call.attrs, name) for name in attributes}
    )


def _clip(call: relax.Call, to: Translation) -> str:
    dtype = np.dtype(str(call.ty.dtype))
    bounds = [to.const(number(a), dtype) for a in call.args[1:]]
    return to.node("Clip", [to.tensor(call.args[0]), *bounds])


def _silu(call: relax.Call, to: Translation) -> str:
    x = to.tensor(call.args[0])
    return to.node("Mul", [x, to.node("Sigmoid", [x])])


def _gelu(call: relax.Call, to: Translation) -> str:
    x, dtype = to.tensor(call.args[0]), np.dtype(str(call.ty.dtype))
    gate = to.node("Erf", [to.node("Mul", [x, to.const(0.5**0.5, dtype)])])
    return to.node(
        "Mul", [to.node("Mul", [x, to.const(0.5, dtype)]), to.node("Add", [gate, to.const(1, dtype)])]
    )  # fmt: skip


def _rsqrt(call: relax.Call, to: Translation) -> str:
    return to.node("Reciprocal", [to.node("Sqrt", [to.tensor(call.args[0])])])


def _reshape(call: relax.Call, to: Translation) -> str:
    return to.reshape(to.tensor(call.args[0]), shape_of(call))


def _permute(call: relax.Call, to: Translation) -> str:
    rank = len(shape_of(call))
    axes = ints(call.attrs.axes) or list(range(rank))[::-1]
    return to.transpose(to.tensor(call.args[0]), [a % rank for a in axes])


def _fields(expr: relax.Expr, to: Translation) -> Sequence[relax.Expr]:
    made = to.values.get(expr, expr) if isinstance(expr, relax.Var) else expr
    if not isinstance(made, relax.Tuple):
        raise ValueError("a computed tuple")
    return list(made.fields)


def _concat(call: relax.Call, to: Translation) -> str:
    axis = int(call.attrs.axis) if call.attrs.axis is not None else 0
    return to.node("Concat", [to.tensor(f) for f in _fields(call.args[0], to)], axis=axis)


def _split(call: relax.Call, to: Translation) -> str:
    axis = int(call.attrs.axis)
    sizes = [int(field.shape[axis]) for field in call.ty.fields]
    return to.node(
        "Split", [to.tensor(call.args[0]), to.const(sizes, np.int64)], outputs=len(sizes), axis=axis
    )  # fmt: skip


def _strided_slice(call: relax.Call, to: Translation) -> str:
    lists = [ints(field.value if hasattr(field, "value") else field for field in a.fields) for a in call.args[1:]]
    axes, begins, ends = lists[:3]
    steps = lists[3] if len(lists) > 3 else [1] * len(axes)
    return to.node(
        "Slice", [to.tensor(call.args[0]), *(to.const(v, np.int64) for v in (begins, ends, axes, steps))]
    )  # fmt: skip


def _take(call: relax.Call, to: Translation) -> str:
    axis = call.attrs.axis
    if axis is None:
        raise ValueError("of the flattened tensor")
    return to.node("Gather", [to.tensor(call.args[0]), to.tensor(call.args[1])], axis=int(axis))


def _pad(call: relax.Call, to: Translation) -> str:
    widths, dtype = ints(call.attrs.pad_width), np.dtype(str(call.ty.dtype))
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[call.attrs.pad_mode]
    amounts = to.const(widths[0::2] + widths[1::2], np.int64)
    more = [to.const(float(call.attrs.pad_value), dtype)] if mode == "constant" else []
    return to.node("Pad", [to.tensor(call.args[0]), amounts, *more], mode=mode)


def _resize(call: relax.Call, to: Translation) -> str:
    a = call.attrs
    x = to.transpose(to.tensor(call.args[0]), _order(a.layout, "NCHW"))
    sizes = [shape_of(call)[a.layout.index(letter)] for letter in "NCHW"]
    mode = {"nearest_neighbor": "nearest", "linear": "linear", "cubic": "cubic"}[a.method]
    rounding = str(a.rounding_method) or ("round" if a.coordinate_transformation_mode == "align_corners" else "floor")
    if mode == "nearest" and rounding == "round":  # halves go to the even neighbour, which ONNX's Resize cannot say
        for axis, letter in enumerate("NCHW"):
            x = _nearest_even(x, shape_of(call.args[0])[a.layout.index(letter)], sizes[axis], axis, call, to)
        return to.transpose(x, _order("NCHW", a.layout))
    y = to.node(
        "Resize", [x, "", "", to.const(sizes, np.int64)], mode=mode,
        coordinate_transformation_mode=a.coordinate_transformation_mode,
        nearest_mode=rounding if mode == "nearest" else "floor", cubic_coeff_a=float(a.cubic_alpha),
        exclude_outside=int(a.cubic_exclude),
    )  # fmt: skip
    return to.transpose(y, _order("NCHW", a.layout))


def _nearest_even(x: str, size: int, wanted: int, axis: int, call: relax.Call, to: Translation) -> str:
    """Nearest neighbours along one axis, positions rounded half to even."""
    if size == wanted:
        return x
    out, scale = np.arange(wanted, dtype=np.float32), np.float32(size / wanted)
    positions = {
        "asymmetric": out * scale,
        "half_pixel": (out + 0.5) * scale - 0.5,
        "align_corners": out * np.float32((size - 1) / max(1, wanted - 1)),
    }[str(call.attrs.coordinate_transformation_mode)]
    indices = np.clip(np.rint(positions), 0, size - 1).astype(np.int64)
    return to.node("Gather", [x, to.const(indices)], axis=axis)


def _reduce(op: str) -> Operator:
    def translate(call: relax.Call, to: Translation) -> str:
        axes = ints(call.attrs.axis) or list(range(len(shape_of(call.args[0]))))
        x, keep = to.tensor(call.args[0]), int(call.attrs.keepdims)
        if op == "ReduceSum":
            return to.node(op, [x, to.const(axes, np.int64)], keepdims=keep)
        return to.node(op, [x], axes=axes, keepdims=keep)

    return translate


def _cast(call: relax.Call, to: Translation) -> str:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(str(call.attrs.dtype)))
    return to.node("Cast", [to.tensor(call.args[0])], to=kind)


def _expand(call: relax.Call, to: Translation) -> str:
    return to.node("Expand", [to.tensor(call.args[0]), to.const(shape_of(call), np.int64)])


def _layer_norm(call: relax.Call, to: Translation) -> str:
    rank, axes = len(shape_of(call)), ints(call.attrs.axes)
    first = min(a % rank for a in axes)
    if sorted(a % rank for a in axes) != list(range(first, rank)) or not (call.attrs.center and call.attrs.scale):
        raise ValueError("not the last axes")
    return to.node("LayerNormalization", [to.tensor(a) for a in call.args], axis=first, epsilon=call.attrs.epsilon)


def _attention(call: relax.Call, to: Translation) -> str:
    """softmax(q k^T scale [+ bias]) v on [batch, sequence, heads, size]."""
    if len(call.args) > 4 or call.attrs.causal_mask or call.attrs.window_size:
        raise ValueError("masked attention")
    q, k, v = (to.transpose(to.tensor(a), [0, 2, 1, 3]) for a in call.args[:3])
    scale = call.attrs.scale
    factor = number(scale) if scale is not None else shape_of(call.args[0])[-1] ** -0.5
    scores = to.node("MatMul", [to.node("Mul", [q, to.const(factor, np.float32)]), to.transpose(k, [0, 1, 3, 2])])
    if len(call.args) == 4:
        scores = to.node("Add", [scores, to.tensor(call.args[3])])
    return to.transpose(to.node("MatMul", [to.node("Softmax", [scores], axis=-1), v]), [0, 2, 1, 3])


def _dequantized(call: relax.Call, q: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    along = [-1 if k == int(call.attrs.axis) % q.ndim else 1 for k in range(q.ndim)] if scale.ndim else []
    exact = (q.astype(np.float64) - zero.reshape(along if zero.ndim else [])) * scale.reshape(along)
    return exact.astype(str(call.attrs.out_dtype))


# Constants that these make are stored as such: weights must be constant for the import to see a layer in them.
FOLDED: dict[str, Callable[..., np.ndarray]] = {
    "relax.dequantize": _dequantized,
    "relax.reshape": lambda call, x: x.reshape(shape_of(call)),
    "relax.broadcast_to": lambda call, x: np.broadcast_to(x, shape_of(call)),
    "relax.permute_dims": lambda call, x: x.transpose(ints(call.attrs.axes) or None),
    "relax.astype": lambda call, x: x.astype(str(call.attrs.dtype)),
}


def _quantize(op: str) -> Operator:
    def translate(call: relax.Call, to: Translation) -> str:
        folded = to.value(call) if op == "DequantizeLinear" else None
        if folded is not None:
            return to.const(folded)
        x, scale = (to.tensor(a) for a in call.args[:2])
        integers = np.dtype(str(call.ty.dtype if op == "QuantizeLinear" else call.args[0].ty.dtype))
        value = to.value(call.args[2])
        if value is None:
            raise ValueError("a computed zero point")
        return to.node(op, [x, scale, to.const(value, integers)], axis=int(call.attrs.axis))

    return translate


OPERATORS: dict[str, Operator] = {
    f"relax.{name}": operator
    for name, operator in {
        **{relax_op: _plain(op) for relax_op, op in {
            "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "maximum": "Max", "minimum": "Min",
            "power": "Pow", "matmul": "MatMul", "where": "Where", "nn.relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh",
            "erf": "Erf", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "negative": "Neg", "floor": "Floor",
            "ceil": "Ceil", "round": "Round", "sign": "Sign", "sin": "Sin", "cos": "Cos", "equal": "Equal",
            "greater": "Greater", "less": "Less", "greater_equal": "GreaterOrEqual", "less_equal": "LessOrEqual",
            "logical_and": "And", "logical_or": "Or", "logical_not": "Not",
        }.items()},
        "nn.conv2d": _windowed("Conv", "NCHW", "OIHW", lambda a: {}),
        "nn.conv1d": _windowed("Conv", "NCW", "OIW", lambda a: {}),
        "nn.conv2d_transpose": _windowed(
            "ConvTranspose", "NCHW", "IOHW", lambda a: {"output_padding": _pads(a.output_padding, 1)}
        ),
        "nn.conv1d_transpose": _windowed(
            "ConvTranspose", "NCW", "IOW", lambda a: {"output_padding": ints(a.output_padding)}
        ),
        "nn.max_pool2d": _pool("MaxPool", "NCHW"),
        "nn.max_pool1d": _pool("MaxPool", "NCW"),
        "nn.avg_pool2d": _pool("AveragePool", "NCHW"),
        "nn.avg_pool1d": _pool("AveragePool", "NCW"),
        "nn.adaptive_avg_pool2d": _adaptive_average("NCHW"),
        "nn.adaptive_avg_pool1d": _adaptive_average("NCW"),
        "nn.prelu": _prelu,
        "nn.leakyrelu": _scaled("LeakyRelu", "alpha"),
        "nn.softmax": _scaled("Softmax", "axis"),
        "nn.log_softmax": _scaled("LogSoftmax", "axis"),
        "nn.silu": _silu,
        "nn.gelu": _gelu,
        "nn.pad": _pad,
        "nn.layer_norm": _layer_norm,
        "nn.attention": _attention,
        "nn.attention_bias": _attention,
        "clip": _clip,
        "rsqrt": _rsqrt,
        "reshape": _reshape,
        "squeeze": _reshape,
        "expand_dims": _reshape,
        "flatten": _reshape,
        "permute_dims": _permute,
        "concat": _concat,
        "split": _split,
        "strided_slice": _strided_slice,
        "take": _take,
        "image.resize2d": _resize,
        "mean": _reduce("ReduceMean"),
        "sum": _reduce("ReduceSum"),
        "max": _reduce("ReduceMax"),
        "min": _reduce("ReduceMin"),
        "astype": _cast,
        "broadcast_to": _expand,
        "quantize": _quantize("QuantizeLinear"),
        "dequantize": _quantize("DequantizeLinear"),
    }.items()
}  # fmt: skip
