"""The quantized function under construction. It has each tensor of the source function in float, as integers, or both."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
from tvm import relax

from ...dialect import kinds, names, operators
from ...dialect.operators import Clamp, Quantization, RoundedAttrs
from ...dialect.quantized import RealLayer, TablePart
from ...errors import CompilerFault
from ...model import Given
from .given import check_on_machine, reach_of, rounding_of
from .joins import LATER, Joins
from .layout import Layout, arranged, canonical, offsets, order_of, outer, transposed
from .match import Node
from .moving import Held, copied, move
from .spans.spans import Spans
from .weights import NotQuantizable, activation_quantization


class Emitter:
    """Builds the new function. A variable called ``var`` is one of the source function.

    ``floats`` has what the new function computes in float32 for a source variable, ``held`` what it has as integers; a tensor
    is quantized or dequantized when the first reader asks for the other form. ``tuples`` are the tuples that source
    variables stand for, ``same`` the variables that are only another name. ``demands`` says how many bits the widest
    reader of a tensor asks for. ``notes`` are lines for the user; ``in_float`` says by node why it stays in float.
    """

    def __init__(
        self,
        builder: relax.BlockBuilder,
        spans: Spans,
        nodes: Iterable[Node],
        demands: dict[relax.Var, int],
        batch: int,
        masked: Collection[str],
        joins: Joins,
        given: Given | None = None,
    ) -> None:
        self.builder = builder
        self.batch = batch  # the network's own
        self.masked = masked  # nodes whose values Softmax alone reads
        self.joins = joins
        self.spans = spans
        self.given = given if given is not None else Given({}, {}, {}, False)
        self.demands = demands
        self.floats: dict[relax.Var, relax.Expr] = {}
        self.held: dict[relax.Var, Held] = {}
        self.tuples: dict[relax.Var, relax.Tuple] = {}
        self.same: dict[relax.Var, relax.Var] = {}
        self.notes: list[str] = []
        self.layers: dict[str, RealLayer] = {}  # layers whose weights are rounded here
        self.table_spans: dict[str, tuple[float, float, float, float]] = {}  # of tables that interpolate
        self.levels: dict[str, tuple[TablePart, ...]] = {}  # of functions that read several scales
        self.orders: dict[str, np.ndarray] = {}  # as in `QuantizedModel`
        self.in_float: dict[str, str] = {}
        self.roundings: dict[relax.Var, Node] = {}  # float tensors that are rounded as given when someone reads them
        self.idle: set[relax.Var] = set()  # given roundings of integers that they do not change
        self._dequantized: set[relax.Var] = set()  # what ``floats`` has from integers
        self._requantized: dict[tuple[relax.Var, Quantization, Clamp], relax.Var] = {}
        self._copies: dict[tuple[relax.Var, int], Held] = {}
        self._moves: dict[tuple[relax.Var, Layout, Layout], Held] = {}
        self._nodes = {node.output: node for node in nodes}
        self._names: dict[relax.Var, str] = {}
        for node in self._nodes.values():
            value = node.bindings[-1].value
            # The outputs of one node share its range.
            of_tuple = isinstance(value, relax.TupleGetItem) and self._names.get(value.tuple_value)
            self._names[node.output] = of_tuple or node.range_name

    def name_input(self, var: relax.Var, name: str, value: relax.Expr) -> None:
        """A graph input: its calibrated name and its variable in the new function."""
        self._names[var] = name
        self.floats[var] = value

    def maker(self, var: relax.Var) -> Node | None:
        """The node that gives a tensor, through those that only rename it; None for an input."""
        node = self._nodes.get(var)
        while node is not None and node.kind.renames:
            node = self._nodes.get(node.inputs[0])
        return node

    def made_by(self, var: relax.Var) -> Node | None:
        """The node that gives a tensor; None for an input."""
        return self._nodes.get(var)

    def hold(
        self, var: relax.Var, call: relax.Call, q: Quantization, layout: Layout, span: tuple[float, float]
    ) -> None:
        """Bind a call that computes ``var`` as integers."""
        self.held[var] = Held(self.builder.emit(call), q, layout, span)

    def requantized(self, attrs: RoundedAttrs, source: Held) -> Held:
        """``source`` as the integers that ``attrs`` says: itself, or a copy, one however many tensors it stands for."""
        if source.q == attrs.q and attrs.clamp == Clamp.whole(attrs.bits):
            return source
        key = source.var, attrs.q, attrs.clamp
        if key not in self._requantized:
            copy = operators.RequantizeAttrs(attrs.name, operators.COPY, attrs.q, attrs.clamp, source.q)
            try:
                copy.multiplier()
            except ValueError as error:
                raise NotQuantizable(f"requantization {error}") from None
            self._requantized[key] = self.builder.emit(copy.call(source.var))
        return Held(self._requantized[key], attrs.q, source.layout, reach_of(attrs.q))

    def layout(self, var: relax.Var) -> Layout:
        """How ``var`` lies, or would lie, as integers. Raises NotQuantizable where it cannot."""
        if var in self.held:
            return self.held[var].layout
        if str(var.ty.dtype) != "float32":
            raise NotQuantizable(f"an operand is {var.ty.dtype}, not float32")
        shape = operators.static_shape(var)
        found = self.canonical(shape)
        if found is None:
            raise NotQuantizable(f"an operand has rank {len(shape)}; tensors of 2 dimensions and more can be quantized")
        return found

    def canonical(self, shape: tuple[int, ...]) -> Layout | None:
        """`layout.canonical` for this network's batch."""
        return canonical(shape, self.batch)

    def integers(self, var: relax.Var, bits: int, wanted: Layout | None = None) -> Held:
        """``var`` as integers of that many bits, in the ``wanted`` layout: as it is, copied, moved, or quantized from float."""
        self.rename_late(var)
        if var not in self.held:
            self._quantize(var, max(bits, self.demands.get(var, bits)), wanted)
        held = self.held[var] if self.given.activations else self._of_width(var, self.held[var], bits)
        return held if wanted is None or held.layout == wanted else self._moved(var, held, wanted)

    def rename(self, node: Node) -> None:
        """A reshape or transpose: of a tensor that is there as integers it is another layout of the same ones.

        Of a tensor in float nothing is bound here; that is done when someone reads the result.
        """
        held = self.held.get(node.inputs[0])
        if held is None:
            return
        if node.kind is kinds.RESHAPE or node.output in self.idle:
            self.held[node.output] = held
            return
        turned = transposed(held.layout, operators.static_shape(node.inputs[0]), permutation(node.call))
        if turned is not None:
            self.held[node.output] = replace(held, layout=turned)

    def rename_late(self, var: relax.Var) -> None:
        """As ``rename``, where another reader has had the source quantized since; what is rounded again lies as it does, too."""
        chain: list[Node] = []
        while var not in self.held and var in self._nodes:
            node = self._nodes[var]
            if var in self.roundings:
                attrs, source = rounding_of(self.roundings[var]), self.roundings[var].inputs[0]
                self.rename_late(source)
                if source not in self.held or not attrs.on_machine:
                    return
                self.held[var] = self.requantized(attrs, self.held[source])
            elif node.kind.renames or var in self.idle:
                chain.append(node)
                var = node.inputs[0]
            else:
                return
        if var in self.held:
            for node in reversed(chain):
                self.rename(node)

    def _of_width(self, var: relax.Var, held: Held, bits: int) -> Held:
        if held.q.bits == bits:
            return held
        if (held.var, bits) not in self._copies:
            name = names.copy_of_width(self._names.get(var, str(var.name)), bits)
            q = activation_quantization(*self.spans.copies.get(name, held.span), bits)
            copy = copied(self.builder, name, held, q, Clamp.whole(bits))
            self._copies[held.var, bits] = replace(held, var=copy, q=q)
        return replace(self._copies[held.var, bits], layout=held.layout)

    def _moved(self, var: relax.Var, held: Held, wanted: Layout) -> Held:
        """The same integers in another order."""
        key = held.var, held.layout, wanted
        if key not in self._moves and held.layout.nhwc[0] != wanted.nhwc[0]:
            self._moves[key] = self._regrouped(var, held, wanted)
        elif key not in self._moves:
            shape = operators.static_shape(var)
            codes = arranged(offsets(held.layout, shape), wanted)
            name = f"{self._names.get(var, str(var.name))}.transposed"
            moved = move(self.builder, name, "Transpose", [held], codes, held.q, Clamp.whole(held.q.bits))
            self._moves[key] = replace(held, var=self.builder.emit(moved), layout=wanted)
        return self._moves[key]

    def _regrouped(self, var: relax.Var, held: Held, wanted: Layout) -> Held:
        """The same integers counted as another number of samples, which only the CPU can do: there and back in float."""
        name = f"{self._names.get(var, str(var.name))}.regrouped"
        source, shape = self._dequantize(held, var), operators.static_shape(var)
        return replace(held, var=self._entered(source, shape, name, held.q, wanted), layout=wanted)

    def _entered(
        self, source: relax.Expr, shape: tuple[int, ...], name: str, q: Quantization, wanted: Layout
    ) -> relax.Var:
        """A float tensor of ``shape`` quantized into the layout ``wanted``."""
        axes = order_of(wanted, shape)
        if axes is None:
            shape = outer(wanted)
            axes = order_of(wanted, shape)
            assert axes is not None  # the view is its own
            source = self.builder.emit(relax.op.reshape(source, shape))
        attrs = operators.QuantizeAttrs(name, q, axes, wanted.nhwc)
        return self.builder.emit(attrs.call(source))

    def _quantize(self, var: relax.Var, bits: int, wanted: Layout | None) -> None:
        plan = wanted or self.layout(var)
        root, at_root = self._root(var, plan)
        name = self._names.get(root, str(root.name))
        layout = replace(at_root, nhwc=plan.nhwc)
        if root in self.roundings:
            self.held[var] = replace(self._rounded(root, layout), layout=plan)
            return
        grid = self._grid_of(root) if self.given.activations else None
        if (
            grid is not None
        ):  # its axes mix on the way: in float it is turned, and then it is on the same integers again
            entered = self._entered(self.real(root), operators.static_shape(root), name, grid, layout)
            self.held[var] = Held(entered, grid, plan, reach_of(grid))
            return
        if self.given.activations:
            raise NotQuantizable(
                f"its input '{name}' is not quantized: no QuantizeLinear and DequantizeLinear stand before it"
            )
        span = self.spans.of(name)
        bits = max(
            bits, self.demands.get(root, bits)
        )  # what its other names are read with counts too: it is one tensor
        q = activation_quantization(*self.spans.room(name, bits), bits)
        entered = self._entered(self.real(root), operators.static_shape(root), name, q, layout)
        self.held[var] = Held(entered, q, plan, span)

    def _rounded(self, var: relax.Var, wanted: Layout) -> Held:
        """A float tensor rounded as given. Raises NotQuantizable for integers that the machine has not."""
        attrs = rounding_of(self.roundings[var])
        check_on_machine(attrs)
        before = self.roundings[var].inputs[0]
        if self.is_integers(before):
            return self.requantized(attrs, self.integers(before, attrs.bits, wanted))
        source, shape = self.real(self.roundings[var].inputs[0]), operators.static_shape(var)
        held = Held(self._entered(source, shape, attrs.name, attrs.q, wanted), attrs.q, wanted, reach_of(attrs.q))
        if attrs.clamp == Clamp.whole(attrs.bits):
            return held
        return replace(held, var=copied(self.builder, f"{attrs.name}.clip", held, attrs.q, attrs.clamp))

    def is_integers(self, var: relax.Var) -> bool:
        """Whether a tensor is integers, or rounded to such as given when someone reads it."""
        while var not in self.held and var not in self.roundings:
            node = self._nodes.get(var)
            if var in self.same:
                var = self.same[var]
            elif node is None or not (node.kind.renames or var in self.idle) or var in self.floats:
                return False
            else:
                var = node.inputs[0]
        return True

    def _grid_of(self, var: relax.Var) -> Quantization | None:
        """The integers that a tensor is on which only renames others, in whatever order; None where it is on none."""
        while var not in self.held and var not in self.roundings:
            node = self._nodes.get(var)
            if node is None or not (node.kind.renames or var in self.idle) or not node.inputs:
                return None
            var = node.inputs[0]
        if var in self.held:
            return self.held[var].q
        attrs = rounding_of(self.roundings[var])
        check_on_machine(attrs)
        return attrs.q

    def rounding_behind(self, var: relax.Var) -> Node | None:
        """The rounding of a float tensor that ``var`` only renames; None where there is none."""
        return self.roundings.get(self._root(var, self.layout(var))[0])

    def _root(self, var: relax.Var, found: Layout) -> tuple[relax.Var, Layout]:
        """The float tensor that ``var`` is only a Transpose or Reshape of, and what the layout ``found`` is there."""
        while not (var in self.floats or var in self.held or var in self.roundings) and var in self._nodes:
            node = self._nodes[var]
            if var in self.idle:
                pass
            elif node.kind is kinds.TRANSPOSE:
                turn = permutation(node.call)
                back = tuple(turn.index(axis) for axis in range(len(turn)))
                above = transposed(found, operators.static_shape(var), back)
                if above is None or node.inputs[0] in self.held:
                    break
                found = above
            elif node.kind is not kinds.RESHAPE or node.inputs[0] in self.held:
                break
            var = node.inputs[0]
        return var, found

    def real(self, var: relax.Var) -> relax.Expr:
        """``var`` in float32, dequantized or moved if that is how it is to be had."""
        if var in self.floats:
            return self.floats[var]
        if var in self.same:
            return self.real(self.same[var])
        node = self._nodes.get(var)
        if var in self.roundings and var not in self.held:
            self.floats[var] = self._rounded_in_float(var)
        elif var in self.idle and var not in self.held and node is not None:
            return self.real(node.inputs[0])
        elif node is not None and self.joined_later(var):
            self.in_float.update((each.name, LATER) for each in node.all_nodes)
            self.copy(node)
        elif var in self.held and not self._was_float(var):
            self.floats[var] = self._dequantize(self.held[var], var)
            self._dequantized.add(var)
        elif node is not None and node.kind.renames:
            self.copy(node)
        else:
            raise CompilerFault(f"{var} was not computed")
        return self.floats[var]

    def _rounded_in_float(self, var: relax.Var) -> relax.Expr:
        """A float tensor rounded as given, in float again; a tensor below two dimensions is one row meanwhile."""
        attrs, shape = rounding_of(self.roundings[var]), operators.static_shape(var)
        if attrs.on_machine and len(shape) > 1 and self.is_integers(self.roundings[var].inputs[0]):
            self._quantize(var, attrs.bits, None)
            self._dequantized.add(var)
            return self._dequantize(self.held[var], var)
        source = self.real(self.roundings[var].inputs[0])
        rows = shape if len(shape) > 1 else (1, int(np.prod(shape)))
        source = source if rows == shape else self.builder.emit(relax.op.reshape(source, rows))
        wanted = canonical(rows, rows[0])
        assert wanted is not None
        held = Held(self._entered(source, rows, attrs.name, attrs.q, wanted), attrs.q, wanted, reach_of(attrs.q))
        if attrs.clamp != Clamp.whole(attrs.bits):
            held = replace(held, var=copied(self.builder, f"{attrs.name}.clip", held, attrs.q, attrs.clamp))
        if attrs.on_machine and rows == shape:
            self.held[var] = held
        value = self._dequantize(held, var, rows)
        self._dequantized.add(var)
        return value if rows == shape else self.builder.emit(relax.op.reshape(value, shape))

    def _was_float(self, var: relax.Var) -> bool:
        """Whether ``var`` is only a Transpose or Reshape of a tensor that no integer operation made, or of a join."""
        while var not in self.floats and var in self._nodes and self._nodes[var].kind.renames:
            var = self._nodes[var].inputs[0]
        return self.joined_later(var) or (var in self.floats and var not in self._dequantized)

    def joined_later(self, var: relax.Var) -> bool:
        """Whether ``var`` in float is to be made of its parts in float; a move may be there as integers too."""
        return var in self.joins.apart and (self._nodes[var].kind is kinds.MOVE or var not in self.held)

    def _dequantize(self, held: Held, var: relax.Var, shape: tuple[int, ...] | None = None) -> relax.Expr:
        """``held`` as the float tensor ``var``: dequantized, turned to the source's order, reshaped if axes were merged."""
        shape = operators.static_shape(var) if shape is None else shape
        view, order = shape, order_of(held.layout, shape)
        if order is None:
            view = outer(held.layout)
            order = order_of(held.layout, view)
            assert order is not None  # the view is its own
        attrs = operators.DequantizeAttrs(
            self._names.get(var, str(var.name)), held.q, tuple(order.index(axis) for axis in range(len(order))),
            tuple(view[axis] for axis in order),
        )  # fmt: skip
        value = self.builder.emit(attrs.call(held.var))
        return value if view == shape else self.builder.emit(relax.op.reshape(value, shape))

    def copy(self, node: Node) -> None:
        """The node in float, its bindings as they were, and those of the clamps that it had taken in.

        What rounds its output, or the node itself if it is a rounding, waits for a reader.
        """
        rounding = (node,) if node.kind is kinds.ROUNDED else node.rounded
        self.roundings |= {each.output: each for each in rounding}
        for binding in (b for each in (node, *node.clamps) if each not in rounding for b in each.bindings):
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
