"""The quantized function under construction: every source tensor in float, as integers, or both, made when needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tvm import relax

from ..errors import QaccelError
from ..numerics import activation_limits
from . import operators
from .calibrate import Ranges
from .match import Node
from .operators import Quantization
from .weights import NotQuantizable, activation_quantization

Shape = tuple[int, ...]
NCHW_TO_NHWC = (0, 2, 3, 1)
NHWC_TO_NCHW = (0, 3, 1, 2)


@dataclass(frozen=True)
class Layout:
    """How a source tensor lies as NHWC: transposed by ``axes``, then reshaped to ``nhwc``.

    ``flat`` marks a plane [N, C, H, W] that the source has as [N, C * H * W]: element-wise operations pass it on and a
    matrix product takes it as a convolution over the whole plane.
    """

    nhwc: Shape
    axes: tuple[int, ...]
    flat: bool = False


@dataclass(frozen=True)
class Held:
    """A tensor as integers: NHWC variable, what they mean, how the source tensor lies in it, range in real values."""

    var: relax.Var
    q: Quantization
    layout: Layout
    span: tuple[float, float]


def layout_of(shape: Shape) -> Layout | None:
    """Layout of [N, C, H, W], [N, C] or [N, S, C] tensors; None for other ranks."""
    if len(shape) == 4:
        return Layout(tuple(shape[axis] for axis in NCHW_TO_NHWC), NCHW_TO_NHWC)
    if len(shape) == 2:
        return Layout((shape[0], 1, 1, shape[1]), (0, 1))
    if len(shape) == 3:
        return Layout((shape[0], 1, shape[1], shape[2]), (0, 1, 2))
    return None


def reshaped(layout: Layout, shape: Shape) -> Layout | None:
    """Layout after a reshape of the source tensor to ``shape`` that moves nothing, or None."""
    n, h, w, c = layout.nhwc
    if not shape or shape[0] != n:
        return None
    target = layout_of(shape)
    if layout.flat:
        return layout_of(shape) if shape == (n, c, h, w) else None
    if target is not None and target.nhwc == layout.nhwc and (h * w == 1 or len(shape) == len(layout.axes)):
        return target
    if shape == (n, c * h * w) and len(layout.axes) == 4:
        return replace(layout, flat=True)
    return None


class Emitter:
    """Bindings of the new function. Variables named ``var`` are those of the source function."""

    def __init__(
        self, builder: relax.BlockBuilder, ranges: Ranges, nodes: Iterable[Node], demands: dict[relax.Var, int]
    ) -> None:
        self.builder = builder
        self.ranges = ranges
        self.demands = demands
        self.floats: dict[relax.Var, relax.Expr] = {}
        self.held: dict[relax.Var, Held] = {}
        self.tuples: dict[relax.Var, relax.Tuple] = {}
        self.same: dict[relax.Var, relax.Var] = {}
        self.notes: list[str] = []
        self.in_float: dict[str, str] = {}
        self._copies: dict[tuple[relax.Var, int], Held] = {}
        self._nodes = {node.output: node for node in nodes}
        self._names: dict[relax.Var, str] = {node.output: node.range_name for node in self._nodes.values()}

    def name_input(self, var: relax.Var, name: str, value: relax.Expr) -> None:
        """A graph input: its calibrated name and its variable in the new function."""
        self._names[var] = name
        self.floats[var] = value

    def span_of(self, name: str) -> tuple[float, float]:
        """The calibrated range of an input or node. Raises QaccelError if there is none."""
        if name not in self.ranges.values:
            raise QaccelError(f"{name}: calibration gave no range for its output; calibrate the same model")
        lo, hi = self.ranges.values[name]
        return float(lo), float(hi)

    def hold(
        self, var: relax.Var, call: relax.Call, q: Quantization, layout: Layout, span: tuple[float, float]
    ) -> None:
        """Bind a call that computes ``var`` as integers."""
        self.held[var] = Held(self.builder.emit(call), q, layout, span)

    def layout(self, var: relax.Var) -> Layout:
        """How ``var`` lies, or would lie, as integers. Raises NotQuantizable where it cannot."""
        if var in self.held:
            return self.held[var].layout
        if str(var.ty.dtype) != "float32":
            raise NotQuantizable(f"an operand is {var.ty.dtype}, not float32")
        found = layout_of(operators.static_shape(var))
        if found is None:
            raise NotQuantizable(f"an operand has rank {len(operators.static_shape(var))}; 2 to 4 can be quantized")
        return found

    def integers(self, var: relax.Var, bits: int) -> Held:
        """``var`` as integers of that many bits: as it is, by a requantizing copy, or quantized from float."""
        if var not in self.held:
            self._quantize(var, max(bits, self.demands.get(var, bits)))
        held = self.held[var]
        if held.q.bits == bits:
            return held
        if (held.var, bits) not in self._copies:
            q = activation_quantization(*held.span, bits)
            attrs = operators.RequantizeAttrs(
                f"{self._names.get(var, str(var.name))}.to{bits}", "Requantize", held.q.bits, held.q.scale,
                held.q.zero_point, q.bits, q.scale, q.zero_point, *activation_limits(bits),
            )  # fmt: skip
            copy = self.builder.emit(operators.requantize(held.var, attrs))
            self._copies[held.var, bits] = replace(held, var=copy, q=q)
        return replace(self._copies[held.var, bits], layout=held.layout)

    def _quantize(self, var: relax.Var, bits: int) -> None:
        layout = self.layout(var)
        root, axes = self._moved_from(var, layout)
        name = self._names.get(root, str(root.name))
        span = self.span_of(name)
        q = activation_quantization(*span, bits)
        attrs = operators.QuantizeAttrs(name, q.scale, q.zero_point, bits, axes, layout.nhwc)
        self.hold(var, operators.quantize(self.real(root), attrs), q, layout, span)

    def _moved_from(self, var: relax.Var, layout: Layout) -> tuple[relax.Var, tuple[int, ...]]:
        """A tensor that ``var`` is only a Transpose or Reshape of, and the axes that lead from it to NHWC."""
        axes = layout.axes
        shape = operators.static_shape(var)
        while var not in self.floats and var not in self.held and var in self._nodes:
            node = self._nodes[var]
            source = operators.static_shape(node.inputs[0]) if node.inputs else ()
            if node.kind == "transpose":
                turn = permutation(node.call)
                axes = tuple(turn[axis] for axis in axes)
            elif node.kind == "reshape" and _in_order(shape, axes) and source[:1] == shape[:1]:
                axes = tuple(range(len(source)))
            else:
                break
            var, shape = node.inputs[0], source
        return var, axes

    def real(self, var: relax.Var) -> relax.Expr:
        """``var`` in float32, dequantized or moved if that is how it is to be had."""
        if var in self.floats:
            return self.floats[var]
        if var in self.same:
            return self.real(self.same[var])
        node = self._nodes.get(var)
        turned = node is not None and node.kind == "transpose" and node.inputs[0] in self.held
        if var in self.held and not self.held[var].layout.flat:
            self.floats[var] = self._dequantize(self.held[var], tuple(range(len(var.ty.shape.values))), var)
        elif node is not None and turned and not self.held[node.inputs[0]].layout.flat:
            self.floats[var] = self._dequantize(self.held[node.inputs[0]], permutation(node.call), node.inputs[0])
        elif node is not None and node.kind in ("reshape", "transpose"):
            self.in_float[node.name] = "it moves values in a way that integers in NHWC order cannot follow"
            self.copy(node)
        elif var in self.held:
            self.floats[var] = self._plane(var)
        else:
            raise QaccelError(f"internal: {var} was not computed")
        return self.floats[var]

    def _plane(self, var: relax.Var) -> relax.Expr:
        """A flat tensor in float: dequantized as its plane, then reshaped."""
        held = self.held[var]
        n, h, w, c = held.layout.nhwc
        attrs = operators.DequantizeAttrs(
            str(var.name), held.q.scale, held.q.zero_point, held.q.bits, NHWC_TO_NCHW, (n, h, w, c)
        )
        plane = self.builder.emit(operators.dequantize(held.var, attrs))
        return self.builder.emit(relax.op.reshape(plane, (n, c * h * w)))

    def _dequantize(self, held: Held, turn: tuple[int, ...], var: relax.Var) -> relax.Var:
        """``held`` in its source layout, then transposed by ``turn``."""
        axes = held.layout.axes
        shape = held.layout.nhwc if len(axes) == 4 else tuple(operators.static_shape(var)[axis] for axis in axes)
        back = tuple(axes.index(axis) for axis in turn)
        attrs = operators.DequantizeAttrs(
            self._names.get(var, str(var.name)), held.q.scale, held.q.zero_point, held.q.bits, back, shape
        )
        return self.builder.emit(operators.dequantize(held.var, attrs))

    def copy(self, node: Node) -> None:
        """The node in float, its bindings as they were, and those of the clamps that it had taken in."""
        for binding in (b for each in (node, *node.clamps) for b in each.bindings):
            value = self._replaced(binding.value)
            self.floats[binding.var] = self.builder.emit(value, str(binding.var.name))

    def _replaced(self, expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Var):
            return self.real(expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._replaced(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self._replaced(expr.tuple_value), expr.index)
        if isinstance(expr, relax.Call):
            return relax.Call(expr.op, [self._replaced(a) for a in expr.args], expr.attrs, expr.ty_args, expr.span)
        return expr

    def result(self, expr: relax.Expr) -> relax.Expr:
        """The function's result with every variable in float."""
        return self._replaced(self.tuples.get(expr, expr) if isinstance(expr, relax.Var) else expr)


def permutation(call: relax.Call) -> tuple[int, ...]:
    """Axes of a ``permute_dims``; reversed if it names none."""
    rank = len(operators.static_shape(call.args[0]))
    axes = call.attrs.axes
    return tuple(range(rank))[::-1] if axes is None else tuple(int(axis) % rank for axis in axes)


def _in_order(shape: Shape, axes: tuple[int, ...]) -> bool:
    """Whether transposing by ``axes`` moves nothing: the axes of more than one element keep their order."""
    longer = [axis for axis in axes if shape[axis] > 1]
    return longer == sorted(longer)
