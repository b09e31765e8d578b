"""Relax operators of layers in ONNX: convolutions and pooling in any layout, Resize, normalizations, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from .translation import Operator, Translation


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
        if op == "MaxPool":
            y = to.node(op, [x], dilations=ints(a.dilation), **attrs)
        elif any(d != 1 for d in ints(a.dilation)) or np.dtype(str(call.ty.dtype)).kind != "f":
            raise ValueError("dilated average, or one of integers, which Relax cuts and does not round")
        else:
            y = to.node(op, [x], count_include_pad=int(a.count_include_pad), **attrs)
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
        quantized = _before(call.args[1], to)
        slope_name = to.const(slopes) if quantized is None else to.tensor(quantized)
        y = to.node("PRelu", [to.tensor(source.args[0]), slope_name])
        return to.reshape(y, shape_of(call))
    per_axis = slope.reshape([-1 if k == axis % len(shape) else 1 for k in range(len(shape))])
    return to.node("PRelu", [to.tensor(data), to.const(per_axis)])


def _before(expr: relax.Expr, to: Translation) -> relax.Expr | None:
    """The dequantized constant that was broadcast and flattened to an operand; None where there is none."""
    made: Any = to.values.get(expr)
    while isinstance(made, relax.Call) and made.op.name in ("relax.reshape", "relax.broadcast_to"):
        expr, made = made.args[0], to.values.get(made.args[0])
    return expr if isinstance(made, relax.Call) and made.op.name == "relax.dequantize" else None


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


def _layer_norm(call: relax.Call, to: Translation) -> str:
    rank, axes = len(shape_of(call)), ints(call.attrs.axes)
    first = min(a % rank for a in axes)
    if sorted(a % rank for a in axes) != list(range(first, rank)) or not (call.attrs.center and call.attrs.scale):
        raise ValueError("not the last axes")
    return to.node("LayerNormalization", [to.tensor(a) for a in call.args], axis=first, epsilon=call.attrs.epsilon)


def _batch_norm(call: relax.Call, to: Translation) -> str:
    """The first of its results, which is all that inference has."""
    a = call.attrs
    if a.training or a.axis != 1:
        raise ValueError("training, or not NCHW")
    data, gain, shift, mean, variance = (to.tensor(each) for each in call.args)
    ones, zeros = (to.const(np.full(shape_of(call.args[1]), v), np.float32) for v in (1, 0))
    scales = [gain if a.scale else ones, shift if a.center else zeros]
    return to.node("BatchNormalization", [data, *scales, mean, variance], epsilon=a.epsilon)


def _group_norm(call: relax.Call, to: Translation) -> str:
    """An instance normalization of the groups' values, then the scale and bias of every channel."""
    a, shape = call.attrs, shape_of(call)
    groups, rank = int(a.num_groups), len(shape)
    if a.channel_axis % rank != 1 or sorted(x % rank for x in ints(a.axes)) != list(range(2, rank)):
        raise ValueError("not NCHW")
    one, zero = (to.const(np.full(groups, v), np.float32) for v in (1, 0))
    flat = to.reshape(to.tensor(call.args[0]), [shape[0], groups, -1])
    made = to.reshape(to.node("InstanceNormalization", [flat, one, zero], epsilon=a.epsilon), shape)
    column = [-1] + [1] * (rank - 2)
    made = to.node("Mul", [made, to.reshape(to.tensor(call.args[1]), column)]) if a.scale else made
    return to.node("Add", [made, to.reshape(to.tensor(call.args[2]), column)]) if a.center else made


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


def _instance_norm(call: relax.Call, to: Translation) -> str:
    a, shape = call.attrs, shape_of(call)
    axes = {x % len(shape) for x in ints(a.axes)} - ({0} if shape[0] == 1 else set())
    if a.channel_axis % len(shape) != 1 or axes != set(range(2, len(shape))):
        raise ValueError("not NCHW")
    return to.node("InstanceNormalization", [to.tensor(x) for x in call.args], epsilon=a.epsilon)


LAYERS: dict[str, Operator] = {
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
    "nn.batch_norm": _batch_norm,
    "nn.dropout": lambda call, to: to.tensor(call.args[0]),
    "nn.layer_norm": _layer_norm,
    "nn.attention": _attention,
    "nn.attention_bias": _attention,
    "nn.group_norm": _group_norm,
    "image.resize2d": _resize,
    "nn.instance_norm": _instance_norm,
}
