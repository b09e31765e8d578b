"""Operators that put values elsewhere, and the two that need it to compute: transposed convolution and linear resizing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import ir, relax

from ...dialect import kinds, names, operators
from ...dialect.kinds import Kind
from ...dialect.operators import Clamp, ConvAttrs, Quantization
from ...dialect.pieces import interleaved
from .emitter import Emitter
from .joins import UNLIKE, run
from .layers import Rule, bias_of, integer_weights, output, pads, pair, plane_layouts
from .layout import Layout, arranged, canonical, layout, offsets, order_of
from .match import Node, NodeBits
from .moving import Held, move, pieced
from .weights import NotQuantizable, quantize_real

NEAR_A_TIE = 2.0**-14  # of a step: what float32 may be off on sums of 8-bit values
LARGER_BY = (
    0.0,
    *(1 / k for k in range(128, 192)),
)  # of itself: what a scale may grow so that no sum is this near to a tie


def _move(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """Whatever only moves values: what goes where is found by moving the values' numbers.

    What takes a join to pieces moves the values of its parts.
    """
    chain = emitter.joins.undone.get(node.output, (node,))
    variables = list(dict.fromkeys(emitter.joins.reads(node)))
    width = _width_of(node, variables, bits.activation, emitter)
    sources = [emitter.integers(var, width) for var in variables]
    if not sources:
        raise NotQuantizable("all of its operands are constant")
    result = operators.static_shape(node.output)
    target = _like(sources[0].layout, operators.static_shape(node.inputs[0]), result) or emitter.canonical(result)
    if target is None:
        raise NotQuantizable(f"its result has the shape {list(result)}; two dimensions and more can be quantized")
    if any(held.layout.nhwc[0] != target.nhwc[0] for held in sources):
        # Windows, time steps or states that were samples of their own become rows of the network's samples again.
        target = emitter.canonical(result) or target
        wanted = [emitter.canonical(operators.static_shape(var)) for var in variables]
        sources = [emitter.integers(var, width, each) for var, each in zip(variables, wanted, strict=True)]
    values: dict[relax.Var, np.ndarray] = {}
    total = 0
    for var, held in zip(variables, sources, strict=True):
        values[var] = (offsets(held.layout, operators.static_shape(var)) + total).astype(np.float64)
        total += values[var].size
    unread = {var for each in chain for var in each.inputs} - {each.output for each in chain} - set(variables)
    others = {var: np.zeros(operators.static_shape(var)) for var in unread}
    # What stays when all numbers are raised is no value of an operand but a constant that fills.
    numbers, raised = (run(chain, others | {var: v + step for var, v in values.items()}) for step in (0, total))
    filled = numbers == raised
    constants = np.unique(numbers[filled])
    same = width == bits.activation and all(held.q == sources[0].q for held in sources)
    lo, hi = sources[0].span
    if emitter.given.activations:
        kept = same and all(_exactly(float(value), sources[0].q) for value in constants)
        out = output(node, bits.out, emitter, sources[0].q if kept else None)
        q, span, whole = out.q, out.span, out.clamp
    elif same and not any(not lo <= value <= hi for value in constants):
        q, span = sources[0].q, (min(held.span[0] for held in sources), max(held.span[1] for held in sources))
        whole = Clamp.whole(q.bits)
    else:
        out = output(node, bits.out, emitter)
        q, span = out.q, out.span
        whole = Clamp.whole(q.bits)
    codes = numbers.astype(np.int64) if not filled.any() else np.where(filled, 0, numbers).astype(np.int64)
    codes[filled] = -1 - np.searchsorted(constants, numbers[filled])
    fills = [quantize_real(float(value), q) for value in constants]
    arrangement = arranged(codes, target)
    call = move(emitter.builder, node.name, node.op, sources, arrangement, q, whole, fills)
    emitter.hold(node.output, call, q, target, span)


def _exactly(value: float, q: Quantization) -> bool:
    """Whether integers hold a real value as it is."""
    return float((quantize_real(value, q) - q.zero_point) * np.float32(q.scale)) == value


def _width_of(node: Node, variables: Sequence[relax.Var], asked: int, emitter: Emitter) -> int:
    """At which width a move reads: a piece of less range than its source from the source's own bits, if there are more."""
    widths = {emitter.held[var].q.bits if var in emitter.held else asked for var in variables}
    if emitter.given.activations or len(widths) > 1 or max(widths, default=asked) <= asked:
        return asked
    lows, highs = zip(*(emitter.held[var].span for var in variables), strict=True)
    lo, hi = emitter.spans.of(node.range_name)
    return widths.pop() if hi - lo < UNLIKE * (max(highs) - min(lows)) else asked


def _like(held: Layout, shape: tuple[int, ...], result: tuple[int, ...]) -> Layout | None:
    """For a result of the source's rank, the order of axes that the source has."""
    order = order_of(held, shape)
    if order is None or len(shape) != len(result) or not 3 <= len(shape) <= 4:
        return None
    sizes, wanted = [[s[axis] for axis in order] for s in (shape, result)]
    if len(shape) == 3:
        sizes.insert(1, 1)
        wanted.insert(1, 1)
    return layout(result, order, tuple(wanted)) if tuple(sizes) == held.nhwc else None


@dataclass(frozen=True)
class Phase:
    """Along one axis, every stride-th output of a transposed convolution, which a convolution of stride 1 computes.

    ``taps`` says which element of the transposed kernel each element of that convolution's kernel is; -1 is a zero. It gives
    ``outputs`` values over an input with ``before`` and ``after`` cells of padding.
    """

    taps: tuple[int, ...]
    before: int
    after: int
    outputs: int


def phases(size: int, outputs: int, kernel: int, stride: int, dilation: int, pad: int) -> list[Phase]:
    """A transposed convolution along one axis, output position ``stride * t + phase`` by phase.

    Output y sums kernel[k] * input[i] over y = i * stride + k * dilation - pad (ONNX ConvTranspose).
    """
    found = []
    for phase in range(stride):
        count = max(0, -(-(outputs - phase) // stride))
        at = {
            (phase + pad - k * dilation) // stride: k
            for k in range(kernel)
            if (phase + pad - k * dilation) % stride == 0
        }
        # The window reaches from the tap farthest back to the one farthest ahead, and over the input at its own position.
        first, last = min([*at, 0]), max([*at, 0])
        last += max(0, size - count - last)
        after = count - 1 + last - (size - 1)
        first = min(first, last - after)  # padding is smaller than the window
        taps = tuple(at.get(place, -1) for place in range(first, last + 1))
        found.append(Phase(taps, -first, after, count))
    return found


def _conv_transpose(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """One convolution for each phase of the strides, their outputs interleaved."""
    call, attrs = node.call, node.call.attrs
    if (str(attrs.data_layout), str(attrs.kernel_layout)) != ("NCHW", "IOHW") or not isinstance(
        call.args[1], ir.GenericConst
    ):
        raise NotQuantizable("its weights are computed at run time, or it is not in NCHW layout")
    kernel = operators.constant(call.args[1])  # [IC, OC / groups, kernel_h, kernel_w]
    groups = int(attrs.groups)
    ic, per_group, kh, kw = kernel.shape
    weight = kernel.reshape(groups, ic // groups, per_group, kh, kw).transpose(0, 2, 3, 4, 1)
    weight = weight.reshape(groups * per_group, kh, kw, ic // groups)
    result, wanted = plane_layouts(node)
    source = emitter.integers(node.inputs[0], bits.activation, wanted)
    out = output(node, bits.out, emitter)
    made = integer_weights(node, bits, emitter, source.q, out.q, weight, bias_of(node, (len(weight), 1, 1), emitter))
    top, left, _, _ = pads(attrs.padding)
    (sh, sw), (dh, dw) = pair(attrs.strides), pair(attrs.dilation)
    _, h, w, _ = source.layout.nhwc
    rows = phases(h, result.nhwc[1], kh, sh, dh, top)
    pixels = phases(w, result.nhwc[2], kw, sw, dw, left)
    parts: list[Held] = []
    for r, row in enumerate(rows):
        for p, pixel in enumerate(pixels):
            if not (row.outputs and pixel.outputs):
                continue
            name = node.name if sh * sw == 1 else names.phase(node.name, r, p)
            padding = row.before, pixel.before, row.after, pixel.after
            conv = ConvAttrs(
                name, node.op, out.q, out.clamp, source.q, (1, 1), padding, (1, 1), groups, bits.weight
            )  # fmt: skip
            part = conv.call(source.var, taken(made.weight, row.taps, pixel.taps), made.bias, made.scale)
            nhwc = (result.nhwc[0], row.outputs, pixel.outputs, len(weight))
            parts.append(Held(emitter.builder.emit(part), out.q, layout(nhwc, range(4), nhwc), out.span))
    _interleave(node, emitter, parts, rows, pixels, result, out.q, out.span)


def taken(weight: np.ndarray, rows: Sequence[int], pixels: Sequence[int]) -> np.ndarray:
    """The taps of a kernel OHWI that a phase has, zeros where it has none."""
    padded = np.pad(weight, ((0, 0), (0, 1), (0, 1), (0, 0)))  # index -1 is the zeros at the end
    return padded[:, list(rows)][:, :, list(pixels)]


def _interleave(
    node: Node, emitter: Emitter, parts: list[Held], rows: Iterable[Phase], pixels: Iterable[Phase], result: Layout,
    q: Quantization, span: tuple[float, float],
) -> None:  # fmt: skip
    rows, pixels = list(rows), list(pixels)
    if len(parts) == 1 and len(rows) * len(pixels) == 1:
        emitter.hold(node.output, parts[0].var, q, result, span)
        return
    rows, pixels = [r for r in rows if r.outputs], [p for p in pixels if p.outputs]
    sizes = [(row.outputs, pixel.outputs) for row in rows for pixel in pixels]
    pieces = interleaved(sizes, (len(rows), len(pixels)), result.nhwc[2], result.nhwc[3])
    call = pieced(emitter.builder, node.name, node.op, parts, pieces, result.nhwc, q, Clamp.whole(q.bits))
    emitter.hold(node.output, call, q, result, span)


def _resize(node: Node, bits: NodeBits, emitter: Emitter) -> None:
    """Linear resizing by whole factors: every phase is a small fixed kernel, its weights exact fractions.

    It has a range of its own, as a pool has. On the scale of its input many sums would lie exactly between two integers, where
    floating point rounds either way: then its own is a little larger.
    """
    attrs = node.call.attrs
    mode = str(attrs.coordinate_transformation_mode)
    result, wanted = plane_layouts(node)
    factors = [o // i for o, i in zip(result.nhwc[1:3], wanted.nhwc[1:3], strict=True)]
    whole = all(o == i * f for o, i, f in zip(result.nhwc[1:3], wanted.nhwc[1:3], factors, strict=True))
    if str(attrs.layout) != "NCHW" or not whole or mode not in ("half_pixel", "asymmetric", "pytorch_half_pixel"):
        raise NotQuantizable(
            f"linear resizing from {list(wanted.nhwc[1:3])} to {list(result.nhwc[1:3])} ({mode}) is not by a whole factor "
            "in half_pixel or asymmetric coordinates"
        )
    source = emitter.integers(node.inputs[0], bits.activation, wanted)
    n, h, w, c = source.layout.nhwc
    edged = arranged(np.pad(offsets(source.layout, (n, c, h, w)), ((0, 0), (0, 0), (1, 1), (1, 1)), "edge"),
                     canonical((n, c, h + 2, w + 2), n) or wanted)  # fmt: skip
    whole_range = Clamp.whole(source.q.bits)
    padded = emitter.builder.emit(
        move(emitter.builder, f"{node.name}.edge", "Pad", [source], edged, source.q, whole_range)
    )
    kernels = [_linear_kernels(f, mode == "asymmetric") for f in factors]
    out = output(node, bits.out, emitter)
    largest = max(int(k.max()) for k, _ in kernels[0]) * max(int(k.max()) for k, _ in kernels[1])
    weight_bits = next(b for b in (8, 16) if largest < 1 << (b - 1))
    cells = kernels[0][0][1] * kernels[1][0][1]
    unit = np.float32(1.0 / cells)
    if not emitter.given.activations:
        out = output(node, bits.out, emitter, _off_ties(source.q, out.q, cells))
    parts: list[Held] = []
    for r, (vertical, _) in enumerate(kernels[0]):
        for p, (horizontal, _) in enumerate(kernels[1]):
            weight = np.broadcast_to((vertical[:, None] * horizontal[None, :])[None, :, :, None], (c, 3, 3, 1))
            conv = ConvAttrs(
                names.phase(node.name, r, p), node.op, out.q, out.clamp, source.q, (1, 1), (0, 0, 0, 0), (1, 1), c,
                weight_bits,
            )  # fmt: skip
            part = conv.call(padded, weight, np.zeros(c), np.full(c, unit))
            parts.append(
                Held(emitter.builder.emit(part), out.q, layout((n, h, w, c), range(4), (n, h, w, c)), out.span)
            )
    rows, pixels = ([Phase((), 0, 0, size)] * f for size, f in zip((h, w), factors, strict=True))
    _interleave(node, emitter, parts, rows, pixels, result, out.q, out.span)


def _off_ties(source: Quantization, q: Quantization, cells: int) -> Quantization:
    """``q``, or the next larger scale on which no whole number of ``cells``-th steps of ``source`` lies between two integers.

    Then rounding in float32 gives what exact rounding does. Of 16 bits float32 holds no such sum, whatever the scale.
    """
    if source.bits == 16:
        return q
    sums = np.arange(source.reach * cells + 1) / cells
    for more in LARGER_BY:
        wider = replace(q, scale=float(np.float32(q.scale * (1 + more))))
        steps = sums * source.ratio(wider)
        if np.abs(steps - np.floor(steps) - 0.5).min() > NEAR_A_TIE:
            return wider
    return q


def _linear_kernels(factor: int, asymmetric: bool) -> list[tuple[np.ndarray, int]]:
    """By phase: weights of the cells before, at and after an input cell, as whole numbers over the second value."""
    unit = factor if asymmetric else 2 * factor
    found = []
    for phase in range(factor):
        # Position of the output between inputs, in 1 / unit: phase / factor, or (phase + 0.5) / factor - 0.5.
        place = phase if asymmetric else 2 * phase + 1 - factor
        weights = np.zeros(3, np.int64)
        below = place // unit
        weights[1 + below] = unit - (place - below * unit)
        if place - below * unit:
            weights[2 + below] = place - below * unit
        found.append((weights, unit))
    return found


MOVE_RULES: dict[Kind, Rule] = {
    kinds.MOVE: _move,
    kinds.NEAREST: _move,
    kinds.CONV_TRANSPOSE: _conv_transpose,
    kinds.RESIZE: _resize,
}
