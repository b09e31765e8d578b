"""Two tensors, or a tensor and constants, element by element: operands of different shapes and orders brought together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import ir, relax

from ...dialect import kinds, names, operators
from ...dialect.kinds import ELTWISE_KINDS, Kind
from ...dialect.operators import Clamp, EltwiseAttrs, Quantization, RequantizeAttrs
from ...dialect.rescale import CONSTANT_BITS, quantize_constant
from ...machine.numerics import activation_limits
from .emitter import Emitter, Held
from .layers import Output, Rule, expressible, output
from .layout import Layout, arranged, offsets
from .match import Node, NodeBits
from .weights import NotQuantizable, activation_quantization


def _eltwise(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    kind = ELTWISE_KINDS[node.call.op.name]
    first, second = node.call.args
    if isinstance(second, ir.GenericConst):
        _with_constant(node, bits, emitter, kind, operators.constant(second), constant_first=False)
    elif isinstance(first, ir.GenericConst):
        _with_constant(node, bits, emitter, kind, operators.constant(first), constant_first=True)
    else:
        _of_two(node, bits, emitter, kind)


def _with_constant(
    node: Node, bits: NodeBits, emitter: Emitter, kind: str, value: np.ndarray, constant_first: bool
) -> None:
    shape = operators.static_shape(node.output)
    if value.dtype.kind != "f":
        raise NotQuantizable(f"its constant is {value.dtype}, not float32")
    a = _whole(node, emitter, node.inputs[0], bits.activation, shape)
    out = output(node, bits.out, emitter)
    if node.range_name in emitter.masked:
        value = _within_reach(node.call.op.name, value, a.q, out, constant_first)
    if not np.isfinite(value).all():
        raise NotQuantizable("its constant holds values that are not finite numbers")
    if kind == "sub":
        if constant_first:
            a = _negated(node, emitter, a)
        else:
            value = -value
        kind = "add"
    vector = _reduced(arranged(np.broadcast_to(value, shape), a.layout))
    if vector.shape[0] != 1:
        ours = emitter.canonical(shape)
        if (vector != vector[:1]).any() and ours is not None and ours.nhwc[0] < len(vector):
            a = emitter.integers(node.inputs[0], bits.activation, ours)
            vector = _reduced(arranged(np.broadcast_to(value, shape), a.layout))
        if (vector != vector[:1]).any():
            raise NotQuantizable("its constant differs between the samples of a batch")
        vector = vector[:1]
    q = activation_quantization(float(vector.min()), float(vector.max()), CONSTANT_BITS)
    integers = np.ascontiguousarray(quantize_constant(vector, q.scale))
    _emit(node, emitter, kind, a, relax.const(integers), q, out)


def _within_reach(name: str, value: np.ndarray, a: Quantization, out: Output, constant_first: bool) -> np.ndarray:
    """A constant with what lies so far out that the output is at its end whatever the operand is brought to where that begins.

    A mask of -inf or -1e9 would otherwise take the whole scale of the constant.
    """
    least, most = (float(end - a.zero_point) * a.scale for end in activation_limits(a.bits))
    lo, hi = (float(end - out.q.zero_point) * out.q.scale for end in activation_limits(out.q.bits))
    if name == "relax.subtract":
        ends = (lo + least, hi + most) if constant_first else (least - hi, most - lo)
    elif name == "relax.add":
        ends = lo - most, hi - least
    elif name in ("relax.maximum", "relax.minimum"):
        ends = lo, hi
    else:
        return value
    return np.clip(value, *ends)


def _of_two(node: Node, bits: NodeBits, emitter: Emitter, kind: str) -> None:
    shape = operators.static_shape(node.output)
    first, second = node.call.args
    whole = [operators.static_shape(var) == shape for var in (first, second)]
    swap = not whole[0] and whole[1] and kind != "sub"
    if swap:
        first, second, whole = second, first, whole[::-1]
    # The order in memory is that of an operand which is integers already.
    both = all(whole) and first not in emitter.held and second in emitter.held
    wanted = emitter.layout(second) if both else None
    a = _whole(node, emitter, first, bits.activation, shape, wanted)
    if whole[1]:
        b = emitter.integers(second, bits.activation, a.layout)
    else:
        b = _spread(node, emitter, second, bits.activation, shape, a.layout)
    out = output(node, bits.out, emitter)
    _emit(node, emitter, kind, a, b.var, b.q, out)


def _emit(
    node: Node, emitter: Emitter, kind: str, a: Held, b: relax.Expr, b_q: Quantization, out: Output
) -> None:  # fmt: skip
    attrs = EltwiseAttrs(node.name, node.op, out.q, out.clamp, kind, a.q, b_q)
    expressible(attrs.multipliers)
    emitter.hold(node.output, attrs.call(a.var, b), out.q, a.layout, out.span)


def _whole(
    node: Node, emitter: Emitter, var: relax.Var, bits: int, shape: tuple[int, ...], wanted: Layout | None = None
) -> Held:
    """An operand in the shape of the result, repeated if it is smaller."""
    if operators.static_shape(var) == shape:
        return emitter.integers(var, bits, wanted)
    full = emitter.canonical(shape)
    if full is None:
        raise NotQuantizable(f"its result has the shape {list(shape)}; two dimensions and more can be quantized")
    return _spread(node, emitter, var, bits, shape, full, reduce=False)


def _spread(
    node: Node, emitter: Emitter, var: relax.Var, bits: int, shape: tuple[int, ...], full: Layout, reduce: bool = True
) -> Held:
    """An operand that is smaller than the result, in the order of memory ``full``.

    With ``reduce``, as one row, pixel or value, which the machine itself repeats; else repeated to the whole shape.
    """
    held = emitter.integers(var, bits)
    codes = arranged(np.broadcast_to(offsets(held.layout, operators.static_shape(var)), shape), full)
    codes = _reduced(codes) if reduce else codes
    if codes.shape == held.layout.nhwc and np.array_equal(codes.reshape(-1), np.arange(codes.size)):
        return held
    if codes.shape[0] != held.layout.nhwc[0]:
        raise NotQuantizable("an operand is shared by the samples of a batch")
    name = f"{node.name}.{'repeated' if codes.size > held_size(held) else 'operand'}"
    call = emitter.move(name, "Expand", [held], codes, held.q, Clamp.whole(held.q.bits))
    return replace(held, var=emitter.builder.emit(call), layout=replace(full, nhwc=codes.shape))


def held_size(held: Held) -> int:
    """How many values a tensor has."""
    return int(np.prod(held.layout.nhwc))


def _reduced(values: np.ndarray) -> np.ndarray:
    """[N, H, W, C] with each of H, W and C cut to one where the values along it are all the same."""
    for axis in (1, 2, 3):
        one = np.take(values, [0], axis=axis)
        if values.shape[axis] > 1 and (values == one).all():
            values = one
    return values


def _negated(node: Node, emitter: Emitter, a: Held) -> Held:
    """-a, exactly: the integers of at most 16 bits around zero, times -1."""
    q = Quantization(CONSTANT_BITS, a.q.scale, 0)
    one = Quantization(CONSTANT_BITS, 1.0, 0)
    minus_one = relax.const(np.full((1, 1, 1, 1), -1, operators.carrier(one.bits)))
    name = names.step(node.name, names.NEGATIVE)
    attrs = EltwiseAttrs(name, "Neg", q, Clamp.whole(q.bits), "mul", a.q, one)
    return replace(a, var=emitter.builder.emit(attrs.call(a.var, minus_one)), q=q)


def _prelu(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """max(x, 0) + slope * min(x, 0) with a slope per channel: both halves exact, one rounding each for product and sum."""
    shape = operators.static_shape(node.output)
    slope_of, axis = node.call.args[1], int(node.call.attrs.axis) % len(shape)
    if not isinstance(slope_of, ir.GenericConst):
        raise NotQuantizable("its slopes are computed at run time")
    slopes = operators.constant(slope_of).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    x = emitter.integers(node.inputs[0], bits.activation)
    out = output(node, bits.out, emitter)
    vector = _reduced(arranged(np.broadcast_to(slopes, shape), x.layout))[:1]
    slope = activation_quantization(float(vector.min()), float(vector.max()), CONSTANT_BITS)
    wide = Quantization(CONSTANT_BITS, x.q.scale, 0)
    to_zero = Clamp(Clamp.whole(wide.bits).lo, 0)
    from_zero = Clamp(x.q.zero_point, Clamp.whole(x.q.bits).hi)
    negative = RequantizeAttrs(names.step(node.name, names.NEGATIVE), "Min", wide, to_zero, x.q)
    positive = RequantizeAttrs(names.step(node.name, names.POSITIVE), "Max", x.q, from_zero, x.q)
    reach = float(np.abs(vector).max()) * x.q.reach * x.q.scale
    part = activation_quantization(-reach, reach, CONSTANT_BITS)
    name = names.step(node.name, names.PRODUCT)
    product = EltwiseAttrs(name, "Mul", part, Clamp.whole(part.bits), "mul", wide, slope)
    expressible(product.multipliers)
    integers = quantize_constant(vector, slope.scale)
    below = emitter.builder.emit(negative.call(x.var))
    scaled = emitter.builder.emit(product.call(below, relax.const(np.ascontiguousarray(integers))))
    above = emitter.builder.emit(positive.call(x.var))
    total = EltwiseAttrs(node.name, node.op, out.q, out.clamp, "add", x.q, part)
    expressible(total.multipliers)
    emitter.hold(node.output, total.call(above, scaled), out.q, x.layout, out.span)


ELTWISE_RULES: dict[Kind, Rule] = {kinds.ELTWISE: _eltwise, kinds.PRELU: _prelu}
