"""How each kind of node becomes an operation of the quantized dialect: one small function per kind.

A rule takes the node, its bits and the emitter; it binds the operation, or raises NotQuantizable with the reason why
the node stays in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from tvm import ir, relax

from ...dialect import kinds, operators
from ...dialect.kinds import Kind
from ...dialect.operators import Clamp, Quantization
from ...dialect.quantized import HeldTensor, RealLayer
from ...machine.isa import field_maximum
from ...machine.numerics import activation_limits
from .emitter import Emitter
from .given import check_on_machine, given_output, given_weights, reach_of, rounding_of
from .layout import Layout, arranged, canonical, channels_last, in_place, layout, samples_of, with_channels
from .match import Node, NodeBits
from .moving import Held
from .tables import GOOD_STEPS, Curve, Table, grid_span, how_far_off, make_table, worst_steps
from .weights import (
    NotQuantizable,
    QuantizedWeights,
    activation_quantization,
    quantize_real,
    quantize_weights,
    within_reach,
)


@dataclass(frozen=True)
class Output:
    """What a node's output integers mean, the clamp in output integers, the range in real values."""

    q: Quantization
    clamp: Clamp
    span: tuple[float, float]


LARGEST_KERNEL = field_maximum("CONV", "kernel_h")  # rows or pixels
Rule = Callable[[Node, NodeBits, Emitter], None]


def output(node: Node, bits: int, emitter: Emitter, q: Quantization | None = None) -> Output:
    """The output of a node after the clamps that it took in; ``q`` where it is not free to choose."""
    if emitter.given.activations:
        q, whole = given_output(node, q)
        span, lo, hi = reach_of(q), whole.lo, whole.hi
    else:
        span = emitter.spans.of(node.range_name)
        q = q or activation_quantization(*emitter.spans.room(node.range_name, bits), bits)
        lo, hi = activation_limits(q.bits)
    for clamp in (node, *node.clamps) if node.kind is kinds.CLAMP else node.clamps:
        bounds = clamp_bounds(clamp.call)
        low, high = (quantize_real(bound, q) for bound in bounds)
        lo, hi = min(max(lo, low), high), min(max(hi, low), high)
    return Output(q, Clamp(lo, hi), span)


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
    if (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCHW", "OIHW"):
        raise NotQuantizable("it is not in NCHW layout")
    if not is_constant(call.args[1]):
        raise NotQuantizable("its weights are computed at run time")
    weight = operators.constant(call.args[1]).transpose(0, 2, 3, 1)
    result, wanted = plane_layouts(node)
    geometry = ConvGeometry(pair(attrs.strides), pads(attrs.padding), pair(attrs.dilation), int(attrs.groups))
    bias = bias_of(node, (len(weight), 1, 1), emitter)
    source = emitter.integers(node.inputs[0], bits.activation, wanted)
    _weighted(node, bits, emitter, source, weight, bias, geometry, result)


def _gemm(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """An activation [..., K] times a constant matrix [K, M], as a convolution.

    If the activation is a plane of pixels that was flattened to K values, the kernel has the size of the plane and nothing is
    moved; else the kernel is 1 x 1 over K channels.
    """
    data, matrix = node.call.args
    if not (isinstance(data, relax.Var) and is_constant(matrix)) or len(operators.static_shape(matrix)) != 2:
        raise NotQuantizable("only the product of an activation and a constant matrix can be quantized")
    values = operators.constant(matrix)
    shape = operators.static_shape(data)
    wanted, result = (channels_last(each, emitter.batch) for each in (shape, operators.static_shape(node.output)))
    if wanted is None or result is None:
        raise NotQuantizable(f"its activation has the shape {list(shape)}; two dimensions and more can be quantized")
    plane = _flat_plane(emitter.layout(data), shape) if len(shape) == 2 else None
    if plane is not None:
        emitter.orders[node.name] = plane
        source = emitter.integers(data, bits.activation)
        n, h, w, c = source.layout.nhwc
        weight = values[plane].reshape(h, w, c, -1).transpose(3, 0, 1, 2)
        result = replace(result, nhwc=(n, 1, 1, len(weight)))
    else:
        held = emitter.layout(data)
        weight = values.T.reshape(-1, 1, 1, values.shape[0])
        found = with_channels(held, shape, len(weight))
        source = emitter.integers(data, bits.activation, held if found is not None else wanted)
        result = found or replace(result, nhwc=(*wanted.nhwc[:3], len(weight)))
    _weighted(node, bits, emitter, source, weight, bias_of(node, (len(weight),), emitter), ConvGeometry(), result)


def _flat_plane(held: Layout, shape: tuple[int, ...]) -> np.ndarray | None:
    """If each sample lies as a plane of all its K features: which feature each value of the plane is, in NHWC order; else None."""
    n, h, w, c = held.nhwc
    if n != shape[0] or h * w * c != shape[1] or h * w == 1 or max(h, w) > LARGEST_KERNEL:
        return None
    order = arranged(np.arange(n * shape[1]).reshape(shape), held).reshape(n, -1)
    return order[0] if np.array_equal(order, order[0] + np.arange(n)[:, None] * shape[1]) else None


@dataclass(frozen=True)
class ConvGeometry:
    """How a convolution goes over its input: steps (rows, pixels), padding (top, left, bottom, right), groups."""

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def _weighted(
    node: Node, bits: NodeBits, emitter: Emitter, source: Held, weight: np.ndarray, bias: np.ndarray,
    geometry: ConvGeometry, result: Layout,
) -> None:  # fmt: skip
    """A convolution of real ``weight`` OHWI and ``bias`` [OC]."""
    out = output(node, bits.out, emitter)
    if node.range_name in emitter.masked and node.name not in emitter.given.weights:
        bias = within_reach(bias, weight, source.q, out.q)
    made = integer_weights(node, bits, emitter, source.q, out.q, weight, bias)
    attrs = operators.ConvAttrs(
        node.name, node.op, out.q, out.clamp, source.q, geometry.strides, geometry.padding, geometry.dilation,
        geometry.groups, bits.weight,
    )  # fmt: skip
    call = attrs.call(source.var, made.weight, made.bias, made.scale)
    emitter.hold(node.output, call, out.q, result, out.span)
    if node.name not in emitter.given.weights:
        biased = (*node.added, node)[0].name
        emitter.layers[node.name] = RealLayer(weight, HeldTensor(biased, result.view, result.axes), result.nhwc)


def integer_weights(
    node: Node, bits: NodeBits, emitter: Emitter, source: Quantization, out: Quantization, weight: np.ndarray,
    bias: np.ndarray,
) -> QuantizedWeights:  # fmt: skip
    """Weights and bias of a layer as integers, with a note for the user where channels took a larger scale or lost all weights."""
    if node.name in emitter.given.weights:
        return given_weights(weight, bias, emitter.given.weights[node.name], source, out.scale)
    if emitter.given.activations:
        raise NotQuantizable("its weights are not quantized: no DequantizeLinear stands before them")
    made = quantize_weights(weight, bias, bits.weight, source, out.scale)
    of_all = f"of {len(bias)} channels"
    if made.raised:
        emitter.notes.append(f"{node.name}: {len(made.raised)} {of_all} took a larger weight scale for their bias")
    if made.dead:
        emitter.notes.append(f"{node.name}: {len(made.dead)} {of_all} have no weights left and are constant")
    return made


def bias_of(node: Node, shape: tuple[int, ...], emitter: Emitter) -> np.ndarray:
    """The bias [OC] that the node's second binding adds, broadcast along ``shape``; zeros without one."""
    channels = shape[0]
    if len(node.bindings) == 1:
        return np.zeros(channels)
    value = operators.constant(node.bindings[1].value.args[1])
    exact = emitter.given.biases.get(node.added[0].name if node.added else node.name)
    if exact is not None and exact.size == value.size:
        value = exact.reshape(value.shape)
    try:
        return np.broadcast_to(value, (*(1,) * max(0, value.ndim - len(shape)), *shape)).reshape(-1)
    except ValueError:
        raise NotQuantizable(f"its bias has the shape {list(value.shape)}, not one value per output channel") from None


def _pool(node: Node, bits: NodeBits, emitter: Emitter, kind: str) -> None:
    """A maximum keeps the scale of its input, unless it took in a clamp."""
    attrs = node.call.attrs
    kernel, strides, dilation = pair(attrs.pool_size), pair(attrs.strides), pair(attrs.dilation)
    padding = pads(attrs.padding)
    if str(attrs.layout) != "NCHW" or bool(attrs.ceil_mode):
        raise NotQuantizable("it is not in NCHW layout, or its ceil_mode adds windows that count fewer values")
    shape, result = operators.static_shape(node.inputs[0]), operators.static_shape(node.bindings[-1].var)
    for axis in (0, 1):
        if _empty_window(shape[2 + axis], result[2 + axis], kernel[axis], strides[axis], dilation[axis], padding[axis]):
            raise NotQuantizable("one of its windows lies wholly in the padding")
    if max(kernel) > LARGEST_KERNEL and kernel == shape[2:] and not any(padding):
        _reduce(node, bits, emitter, kind, [2, 3])
        return
    result_layout, wanted = plane_layouts(node)
    source = emitter.integers(node.inputs[0], bits.activation, wanted)
    keeps = node.kind.keeps and not node.clamps
    out = output(node, bits.out, emitter, source.q if keeps else None)
    made = operators.PoolAttrs(
        node.name, node.op, out.q, out.clamp, source.q, strides, padding, dilation, kind, kernel,
        kind == "avg" and bool(attrs.count_include_pad),
    )  # fmt: skip
    expressible(lambda: made.multiplier(1))
    expressible(lambda: made.multiplier(kernel[0] * kernel[1] if kind == "avg" else 1))
    span = source.span if keeps else out.span
    emitter.hold(node.output, made.call(source.var), out.q, result_layout, span)


def _empty_window(size: int, outputs: int, kernel: int, stride: int, dilation: int, pad: int) -> bool:
    taps = np.arange(outputs)[:, None] * stride - pad + np.arange(kernel)[None, :] * dilation
    return not bool(((taps >= 0) & (taps < size)).any(axis=1).all())


def _clamp(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """A Relu or Clip that no layer could take in: a requantizing copy that clamps."""
    source = emitter.integers(node.inputs[0], bits.activation)
    out = output(node, bits.out, emitter, source.q if keeps_grid(node, source.q, emitter) else None)
    attrs = operators.RequantizeAttrs(node.name, node.op, out.q, out.clamp, source.q)
    expressible(attrs.multiplier)
    emitter.hold(node.output, attrs.call(source.var), out.q, source.layout, out.span)


def keeps_grid(node: Node, q: Quantization, emitter: Emitter) -> bool:
    """Whether the bounds of a Relu or Clip are integers of its input, in a model that came quantized: then so is its output."""
    if not emitter.given.activations:
        return False
    bounds = [b for each in (node, *node.clamps) for b in clamp_bounds(each.call) if np.isfinite(b)]
    return all((quantize_real(b, q) - q.zero_point) * np.float32(q.scale) == np.float32(b) for b in bounds)


def _rounded(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """A tensor that came quantized: integers under another scale, or a float tensor that is quantized when it is read."""
    source, attrs = node.inputs[0], rounding_of(node)
    emitter.rename_late(source)
    before = emitter.rounding_behind(source) if source not in emitter.held and emitter.is_integers(source) else None
    if before is not None and replace(rounding_of(before), name="") == replace(attrs, name=""):
        emitter.idle.add(node.output)
        return
    if source not in emitter.held:  # the first reader says in which order its values lie
        emitter.roundings[node.output] = node
        return
    check_on_machine(attrs)
    emitter.held[node.output] = emitter.requantized(attrs, emitter.held[source])


def _table(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """Any function of one value."""
    source = emitter.integers(node.inputs[0], bits.activation)
    out = output(node, bits.out, emitter)
    out, made = _finest_table(node, bits, emitter, source, out)
    if source.q.bits == 16:
        emitter.notes.append(how_far_off(node, source.span, made))
    attrs = operators.TableAttrs(node.name, node.op, out.q, source.q, made.knots, made.origin)
    call = attrs.call(source.var, np.clip(made.values, out.clamp.lo, out.clamp.hi))
    emitter.hold(node.output, call, out.q, source.layout, out.span)


def _finest_table(node: Node, bits: NodeBits, emitter: Emitter, source: Held, out: Output) -> tuple[Output, Table]:
    """The table and its output; of 16 bits, with a wider range for the output where the table is then less far off.

    The entries on either side of the range are interpolated from, so they may have to be in the output's range as well.
    """
    roomy = (
        source.q.reach * source.q.scale / max(*map(abs, source.span), source.q.scale) if source.q.bits == 16 else 1.0
    )
    within, own = (source.span[0] * roomy, source.span[1] * roomy), emitter.given.activations
    lo, hi = out_span = out.span if own else emitter.spans.room(node.range_name, bits.out)
    if node.name in emitter.given.spans:
        within, out_span = emitter.given.spans[node.name][:2], emitter.given.spans[node.name][2:]
    function = Curve(node)
    made = make_table(function, source.q, out.q, within, out_span)
    if source.q.bits == bits.out == 16 and not own and made.off_by > GOOD_STEPS:
        low, high = grid_span(node, source.q, source.span)
        width = hi - lo
        span = max(min(low, lo), lo - width), min(max(high, hi), hi + width)
        wide = output(node, bits.out, emitter, activation_quantization(*span, 16))
        wider = make_table(function, source.q, wide.q, within, out_span)
        if wider.off_by * wide.q.scale < made.off_by * out.q.scale:
            out, made = wide, wider
    if made.off_by > worst_steps(out.q) and node.name not in emitter.given.spans:
        raise NotQuantizable(
            f"a table of 16-bit inputs interpolates between {len(made.values)} entries and would be off by "
            f"{made.off_by:.0f} steps of {out.q.bits} bits; 8-bit activations make its table exact"
        )
    if source.q.bits == 16:
        emitter.table_spans[node.name] = (*within, *out_span)
    return out, made


def _reduction(node: Node, bits: NodeBits, emitter: Emitter, kind: str) -> None:
    """A mean or maximum over any axes but the first."""
    shape = operators.static_shape(node.inputs[0])
    given = node.call.attrs.axis
    axes = sorted({int(axis) % len(shape) for axis in given} if given is not None else range(len(shape)))
    if not axes or axes[0] == 0 and emitter.batch != 1:
        raise NotQuantizable("it reduces over the samples of a batch")
    _reduce(node, bits, emitter, kind, axes)


def _reduce(node: Node, bits: NodeBits, emitter: Emitter, kind: str, axes: list[int]) -> None:
    """A pool over the whole plane, the reduced axes being its rows and pixels. A maximum keeps the scale of its input."""
    shape = operators.static_shape(node.inputs[0])
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    if emitter.canonical(operators.static_shape(node.output)) is None:
        raise NotQuantizable(f"its result has the shape {list(operators.static_shape(node.output))}")
    count = int(np.prod([shape[axis] for axis in axes]))
    first = max((k for k in range(1, LARGEST_KERNEL + 1) if count % k == 0 and k * k <= count), default=1)
    rest = count // first
    # Of several planes in a sample (windows, time steps), each lies below the one before.
    outer = kept[:1] if axes[0] else []
    samples = samples_of(shape, emitter.batch)
    planes = shape[0] // samples if outer else 1
    channels = int(np.prod([shape[axis] for axis in kept[len(outer) :]]))
    order = [*outer, *axes, *kept[len(outer) :]]
    wanted = layout(shape, order, (samples, planes * first, rest, channels))
    before = emitter.layout(node.inputs[0])
    source = emitter.integers(node.inputs[0], bits.activation, in_place(before, wanted, planes))
    if max(source.layout.nhwc[1] // planes, source.layout.nhwc[2]) > LARGEST_KERNEL:
        source = emitter.integers(node.inputs[0], bits.activation, wanted)
    _, first, rest, _ = source.layout.nhwc
    first //= planes
    keeps = node.kind.keeps and not node.clamps
    out = output(node, bits.out, emitter, source.q if keeps else None)
    made = operators.PoolAttrs(
        node.name, node.op, out.q, out.clamp, source.q, (first, rest), (0, 0, 0, 0), (1, 1), kind, (first, rest), False
    )
    expressible(lambda: made.multiplier(first * rest if kind == "avg" else 1))
    result = layout(tuple(shape[axis] for axis in kept), range(len(kept)), (samples, planes, 1, channels))
    span = source.span if keeps else out.span
    emitter.hold(node.output, made.call(source.var), out.q, result, span)


LAYER_RULES: dict[Kind, Rule] = {
    kinds.CONV: _conv,
    kinds.GEMM: _gemm,
    kinds.MAX_POOL: lambda node, bits, emitter: _pool(node, bits, emitter, "max"),
    kinds.AVG_POOL: lambda node, bits, emitter: _pool(node, bits, emitter, "avg"),
    kinds.CLAMP: _clamp,
    kinds.ROUNDED: _rounded,
    kinds.TABLE: _table,
    kinds.MEAN: lambda node, bits, emitter: _reduction(node, bits, emitter, "avg"),
    kinds.MAX: lambda node, bits, emitter: _reduction(node, bits, emitter, "max"),
}


def plane_layouts(node: Node) -> tuple[Layout, Layout]:
    """NHWC layouts of the node's output and first input, both [N, C, H, W]."""
    shapes = [operators.static_shape(var) for var in (node.output, node.inputs[0])]
    result, source = (canonical(shape, shape[0] if shape else 1) for shape in shapes)
    if result is None or source is None:
        raise NotQuantizable(f"its output has the shape {list(shapes[0])}")
    return result, source


def expressible(make: Callable[[], object]) -> None:
    """Raises NotQuantizable where a ratio of scales is too large for a multiplier."""
    try:
        make()
    except ValueError as error:
        raise NotQuantizable(f"requantization {error}") from None


def pair(values: Iterable[int]) -> tuple[int, int]:
    """An attribute of two integers."""
    first, second = (int(value) for value in values)
    return first, second


def pads(values: Iterable[int]) -> tuple[int, int, int, int]:
    """An attribute of four integers: top, left, bottom, right."""
    top, left, bottom, right = (int(value) for value in values)
    return top, left, bottom, right


def is_constant(expr: relax.Expr) -> bool:
    """Whether an operand is a constant."""
    return isinstance(expr, ir.GenericConst)
