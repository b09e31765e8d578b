"""Two tensors, or a tensor and constants, element by element: operands of different shapes and orders brought together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import ir, relax

from ...dialect import kinds, names, operators
from ...dialect.kinds import ELTWISE_KINDS, Kind
from ...dialect.operators import Clamp, ConvAttrs, EltwiseAttrs, Quantization
from ...dialect.rescale import CONSTANT_BITS, quantize_constant
from ...machine.numerics import activation_limits
from .emitter import Emitter
from .given import given_constant, given_weights
from .layers import Output, Rule, expressible, output
from .layout import Layout, arranged, offsets
from .match import Node, NodeBits
from .moving import Held, move
from .weights import NotQuantizable, activation_quantization, quantize_weights

SLOPE_BITS = 8  # each of a PRelu's slopes has a scale of its own, so that more bits say nothing more


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
    integers, q = _constant_integers(vector, emitter.given.constants.get(node.name))
    _emit(node, emitter, kind, a, relax.const(integers), q, out)


def _constant_integers(vector: np.ndarray, given: float | None) -> tuple[np.ndarray, Quantization]:
    """A constant operand as integers of 16 bits around zero, on the scale that it came with or on one of its own."""
    if given is not None:
        made = given_constant(vector, given)
        if made is not None:
            return np.ascontiguousarray(made), Quantization(CONSTANT_BITS, given, 0)
    q = activation_quantization(float(vector.min()), float(vector.max()), CONSTANT_BITS)
    return np.ascontiguousarray(quantize_constant(vector, q.scale)), q


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
    call = move(emitter.builder, name, "Expand", [held], codes, held.q, Clamp.whole(held.q.bits))
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
    """x and slope * x: the greater of the two where the slope is at most 1, else the smaller.

    The product has the quantization of the result: each value is rounded once, and where the product saturates so does the result.
    """
    shape = operators.static_shape(node.output)
    slope_of, axis = node.call.args[1], int(node.call.attrs.axis) % len(shape)
    if not isinstance(slope_of, ir.GenericConst):
        raise NotQuantizable("its slopes are computed at run time")
    slopes = operators.constant(slope_of).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    x = emitter.integers(node.inputs[0], bits.activation)
    out = output(node, bits.out, emitter)
    vector = _reduced(arranged(np.broadcast_to(slopes, shape), x.layout))[:1]
    numbers = np.arange(slopes.size).reshape(slopes.shape)
    order = arranged(np.broadcast_to(numbers, shape), x.layout)[0, 0, 0]  # of the slopes along channels
    scaled = _sloped(node, emitter, x, vector, order, out.q)
    _, h, w, channels = x.layout.nhwc
    steep = np.broadcast_to(vector > 1, (1, h, w, channels))
    by_channel = bool((steep == steep[:, :1, :1]).all())

    def chosen(name: str, kind: str, lesser: tuple[int, ...] = ()) -> relax.Call:
        attrs = EltwiseAttrs(name, node.op, out.q, out.clamp, kind, x.q, out.q, lesser)
        expressible(attrs.multipliers)
        return attrs.call(x.var, scaled)

    if steep.all() or not steep.any():
        call = chosen(node.name, "min" if steep.all() else "max")
    elif by_channel and 4 not in (x.q.bits, out.q.bits):  # neighbours of 4 bits share a byte
        call = chosen(node.name, "max", tuple(np.flatnonzero(steep[0, 0, 0]).tolist()))
    else:
        both = [
            Held(emitter.builder.emit(chosen(names.step(node.name, which), kind)), out.q, x.layout, out.span)
            for which, kind in ((names.GREATER, "max"), (names.LESSER, "min"))
        ]
        place = np.arange(held_size(x)).reshape(x.layout.nhwc)
        call = move(emitter.builder, node.name, node.op, both, place + steep * place.size, out.q, out.clamp)
    emitter.hold(node.output, call, out.q, x.layout, out.span)


def _sloped(
    node: Node, emitter: Emitter, x: Held, slopes: np.ndarray, order: np.ndarray, q: Quantization
) -> relax.Var:  # fmt: skip
    """``slopes`` [1, H, W, C], each dimension maybe 1, times ``x``: by channel on weights with scales of their own.

    ``order``: which of the node's slopes each channel takes, if all of its pixels do.
    """
    name = names.step(node.name, names.PRODUCT)
    channels = x.layout.nhwc[3]
    attrs: ConvAttrs | EltwiseAttrs
    if slopes.shape[1:3] == (1, 1):
        weight = np.broadcast_to(slopes.reshape(-1, 1, 1, 1), (channels, 1, 1, 1))
        given = emitter.given.weights.get(node.name)
        emitter.orders[node.name] = order
        if given is not None and given.bits <= SLOPE_BITS and (given.scale.size == 1 or order.max() < given.scale.size):
            scale = given.scale[order] if given.scale.size > 1 else given.scale
            given = replace(given, bits=SLOPE_BITS, scale=scale)
            made = given_weights(weight, np.zeros(channels), given, x.q, q.scale)
        else:
            made = quantize_weights(weight, np.zeros(channels), SLOPE_BITS, x.q, q.scale)
        attrs = ConvAttrs(name, "Mul", q, Clamp.whole(q.bits), x.q, (1, 1), (0, 0, 0, 0), (1, 1), channels, SLOPE_BITS)
        return emitter.builder.emit(attrs.call(x.var, made.weight, made.bias, made.scale))
    slope = activation_quantization(float(slopes.min()), float(slopes.max()), CONSTANT_BITS)
    attrs = EltwiseAttrs(name, "Mul", q, Clamp.whole(q.bits), "mul", x.q, slope)
    expressible(attrs.multipliers)
    return emitter.builder.emit(attrs.call(x.var, relax.const(quantize_constant(slopes, slope.scale))))


ELTWISE_RULES: dict[Kind, Rule] = {kinds.ELTWISE: _eltwise, kinds.PRELU: _prelu}
