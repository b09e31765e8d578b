"""How each kind of node becomes an operation of the quantized dialect: one small function per kind.

A rule takes the node, its bits and the emitter; it binds the operation, or raises NotQuantizable with the reason why
the node stays in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from tvm import ir, relax

from ..numerics import activation_limits
from . import operators
from .emitter import Emitter, Held, Layout, layout_of, reshaped
from .match import Node
from .operators import Quantization
from .weights import NotQuantizable, activation_quantization, quantize_real, quantize_weights


@dataclass(frozen=True)
class NodeBits:
    """Widths that a node works at: its weights, its inputs, its output."""

    weight: int
    activation: int
    out: int


@dataclass(frozen=True)
class Output:
    """What a node's output integers mean, the clamp in output integers, the range in real values."""

    q: Quantization
    clamp_lo: int
    clamp_hi: int
    span: tuple[float, float]

    @property
    def fields(self) -> tuple[int, float, int, int, int]:
        """out_bits, out_scale, out_zero_point, clamp_lo, clamp_hi as the attributes of the dialect end."""
        return self.q.bits, self.q.scale, self.q.zero_point, self.clamp_lo, self.clamp_hi


Rule = Callable[[Node, NodeBits, Emitter], None]


def output(node: Node, bits: int, emitter: Emitter, q: Quantization | None = None) -> Output:
    """The output of a node after the clamps that it took in; ``q`` where it is not free to choose."""
    span = emitter.span_of(node.range_name)
    q = q or activation_quantization(*span, bits)
    lo, hi = activation_limits(q.bits)
    for clamp in (node, *node.clamps) if node.kind == "clamp" else node.clamps:
        bounds = clamp_bounds(clamp.call)
        low, high = (quantize_real(bound, q) for bound in bounds)
        lo, hi = min(max(lo, low), high), min(max(hi, low), high)
    return Output(q, lo, hi, span)


def clamp_bounds(call: relax.Call) -> tuple[float, float]:
    """Bounds in real values of a Relu or Clip."""
    if call.op.name == "relax.nn.relu":
        return 0.0, float("inf")
    low, high = (_scalar(arg) for arg in call.args[1:3])
    if np.isnan(low) or np.isnan(high):
        raise NotQuantizable("a bound is not a number")
    return low, high


def _scalar(expr: relax.Expr) -> float:
    value = expr.value
    return float(value.value if hasattr(value, "value") else value)


def _conv(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    call, attrs = node.call, node.call.attrs
    if (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCHW", "OIHW") or not _is_constant(call.args[1]):
        raise NotQuantizable("its weights are computed at run time, or it is not in NCHW layout")
    weight = operators.constant(call.args[1]).transpose(0, 2, 3, 1)
    window = Window(_pair(attrs.strides), _pads(attrs.padding), _pair(attrs.dilation), int(attrs.groups))
    bias = _bias(node, (len(weight), 1, 1))
    _weighted(node, bits, emitter, weight, bias, window)


def _gemm(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    data, matrix = node.call.args
    if not (isinstance(data, relax.Var) and _is_constant(matrix)) or len(operators.static_shape(matrix)) != 2:
        raise NotQuantizable("only the product of an activation and a constant matrix can be quantized")
    if len(operators.static_shape(data)) not in (2, 3):
        raise NotQuantizable("its activation must have the shape [N, K] or [N, S, K]")
    layout = emitter.layout(data)
    _, h, w, c = layout.nhwc
    values = operators.constant(matrix)
    if layout.flat:
        weight = values.reshape(c, h, w, -1).transpose(3, 1, 2, 0)
    else:
        weight = values.T.reshape(-1, 1, 1, c)
    _weighted(node, bits, emitter, weight, _bias(node, (len(weight),)), Window())


@dataclass(frozen=True)
class Window:
    """Strides, padding (top, left, bottom, right), dilation and groups of a convolution."""

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def _weighted(
    node: Node, bits: NodeBits, emitter: Emitter, weight: np.ndarray, bias: np.ndarray, window: Window
) -> None:
    """A convolution of real ``weight`` OHWI and ``bias`` [OC]."""
    layout = _result_layout(node)
    source = emitter.integers(node.inputs[0], bits.activation)
    out = output(node, bits.out, emitter)
    made = quantize_weights(weight, bias, bits.weight, source.q, out.q.scale)
    of_all = f"of {len(bias)} channels"
    if made.raised:
        emitter.notes.append(f"{node.name}: {len(made.raised)} {of_all} took a larger weight scale for their bias")
    if made.dead:
        emitter.notes.append(f"{node.name}: {len(made.dead)} {of_all} have no weights left and are constant")
    attrs = operators.ConvAttrs(
        node.name, node.op, window.strides, window.padding, window.dilation, window.groups, bits.weight,
        source.q.bits, source.q.scale, source.q.zero_point, *out.fields,
    )  # fmt: skip
    call = operators.conv2d(source.var, made.weight, made.bias, made.scale, attrs)
    emitter.hold(node.output, call, out.q, layout, out.span)


def _bias(node: Node, shape: tuple[int, ...]) -> np.ndarray:
    """The bias [OC] that the node's second binding adds, broadcast along ``shape``; zeros without one."""
    channels = shape[0]
    if len(node.bindings) == 1:
        return np.zeros(channels)
    value = operators.constant(node.bindings[1].value.args[1])
    try:
        return np.broadcast_to(value, (*(1,) * max(0, value.ndim - len(shape)), *shape)).reshape(-1)
    except ValueError:
        raise NotQuantizable(f"its bias has the shape {list(value.shape)}, not one value per output channel") from None


def _max_pool(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    _pool(node, bits, emitter, "max")


def _avg_pool(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    _pool(node, bits, emitter, "avg")


def _pool(node: Node, bits: NodeBits, emitter: Emitter, kind: str) -> None:
    """A maximum keeps the scale of its input, unless it took in a clamp."""
    attrs = node.call.attrs
    kernel, strides, dilation = _pair(attrs.pool_size), _pair(attrs.strides), _pair(attrs.dilation)
    padding = _pads(attrs.padding)
    if str(attrs.layout) != "NCHW" or bool(attrs.ceil_mode):
        raise NotQuantizable("it is not in NCHW layout, or its ceil_mode adds windows that count fewer values")
    shape, result = operators.static_shape(node.inputs[0]), operators.static_shape(node.bindings[-1].var)
    for axis in (0, 1):
        if _empty_window(shape[2 + axis], result[2 + axis], kernel[axis], strides[axis], dilation[axis], padding[axis]):
            raise NotQuantizable("one of its windows lies wholly in the padding")
    layout = _result_layout(node)
    source = emitter.integers(node.inputs[0], bits.activation)
    keeps = kind == "max" and not node.clamps
    out = output(node, bits.out, emitter, source.q if keeps else None)
    made = operators.PoolAttrs(
        node.name, node.op, kind, kernel, strides, padding, dilation, kind == "avg" and bool(attrs.count_include_pad),
        source.q.bits, source.q.scale, source.q.zero_point, *out.fields,
    )  # fmt: skip
    _expressible(lambda: made.multiplier(1))
    _expressible(lambda: made.multiplier(kernel[0] * kernel[1] if kind == "avg" else 1))
    span = source.span if keeps else out.span
    emitter.hold(node.output, operators.pool2d(source.var, made), out.q, layout, span)


def _empty_window(size: int, outputs: int, kernel: int, stride: int, dilation: int, pad: int) -> bool:
    taps = np.arange(outputs)[:, None] * stride - pad + np.arange(kernel)[None, :] * dilation
    return not bool(((taps >= 0) & (taps < size)).any(axis=1).all())


def _eltwise(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """Two activations of one shape."""
    if len(node.inputs) != 2:
        raise NotQuantizable("an operand is constant; only the sum of two activations can be quantized")
    if operators.static_shape(node.inputs[0]) != operators.static_shape(node.inputs[1]):
        raise NotQuantizable("its operands have different shapes")
    layouts = [emitter.layout(var) for var in node.inputs]
    if layouts[0] != layouts[1]:
        raise NotQuantizable("its operands lie differently in memory: one of them is a flattened plane")
    a, b = (emitter.integers(var, bits.activation) for var in node.inputs)
    out = output(node, bits.out, emitter)
    attrs = operators.EltwiseAttrs(
        node.name, node.op, "add", a.q.bits, a.q.scale, a.q.zero_point, b.q.bits, b.q.scale, b.q.zero_point, *out.fields
    )
    _expressible(attrs.multipliers)
    emitter.hold(node.output, operators.eltwise(a.var, b.var, attrs), out.q, layouts[0], out.span)


def _clamp(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """A Relu or Clip that no layer could take in: a requantizing copy that clamps."""
    layout = emitter.layout(node.inputs[0])
    source: Held = emitter.integers(node.inputs[0], bits.activation)
    out = output(node, bits.out, emitter)
    attrs = operators.RequantizeAttrs(
        node.name, node.op, source.q.bits, source.q.scale, source.q.zero_point, *out.fields
    )
    _expressible(attrs.multiplier)
    emitter.hold(node.output, operators.requantize(source.var, attrs), out.q, layout, out.span)


RULES: dict[str, Rule] = {
    "conv": _conv,
    "gemm": _gemm,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "eltwise": _eltwise,
    "clamp": _clamp,
}
WEIGHTED = ("conv", "gemm")


def reshape(node: Node, emitter: Emitter) -> None:
    """A reshape that moves nothing is another name for the same integers; any other one is left until it is read."""
    held = emitter.held.get(node.inputs[0])
    layout = reshaped(held.layout, operators.static_shape(node.output)) if held is not None else None
    if held is not None and layout is not None:
        emitter.held[node.output] = replace(held, layout=layout)


def _result_layout(node: Node) -> Layout:
    layout = layout_of(operators.static_shape(node.output))
    if layout is None:
        raise NotQuantizable(f"its output has rank {len(operators.static_shape(node.output))}")
    return layout


def _expressible(make: Callable[[], object]) -> None:
    """Raises NotQuantizable where a ratio of scales is too large for a multiplier."""
    try:
        make()
    except ValueError as error:
        raise NotQuantizable(f"requantization {error}") from None


def _pair(values: Iterable[int]) -> tuple[int, int]:
    first, second = (int(value) for value in values)
    return first, second


def _pads(values: Iterable[int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = (int(value) for value in values)
    return top, left, bottom, right


def _is_constant(expr: relax.Expr) -> bool:
    return isinstance(expr, ir.GenericConst)
