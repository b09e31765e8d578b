"""The quantized function under construction. It has each tensor of the source function in float, as integers, or both."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from ...dialect import kinds, names, operators
from ...dialect.operators import Clamp, Quantization
from ...dialect.pieces import MOST_PIECES, Piece, flattened, pieces_of, whole_bytes
from ...errors import CompilerFault
from .joins import LATER, Joins
from .layout import Layout, arranged, canonical, offsets, order_of, transposed
from .match import Node
from .spans import Spans
from .weights import NotQuantizable, activation_quantization


@dataclass(frozen=True)
class Held:
    """A tensor of the source function that the new function has as integers.

    ``var`` is their variable, NHWC; ``q`` says what they mean. ``layout`` says at which row, pixel and channel each value
    of the source tensor is found. ``span`` is the least and the greatest real value that the tensor is expected to have.
    """

    var: relax.Var
    q: Quantization
    layout: Layout
    span: tuple[float, float]


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
    ) -> None:
        self.builder = builder
        self.batch = batch  # the network's own
        self.masked = masked  # nodes whose values Softmax alone reads
        self.joins = joins
        self.spans = spans
        self.demands = demands
        self.floats: dict[relax.Var, relax.Expr] = {}
        self.held: dict[relax.Var, Held] = {}
        self.tuples: dict[relax.Var, relax.Tuple] = {}
        self.same: dict[relax.Var, relax.Var] = {}
        self.notes: list[str] = []
        self.in_float: dict[str, str] = {}
        self._dequantized: set[relax.Var] = set()  # what ``floats`` has from integers
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
        if var not in self.held:
            self._quantize(var, max(bits, self.demands.get(var, bits)), wanted)
        held = self._of_width(var, self.held[var], bits)
        return held if wanted is None or held.layout == wanted else self._moved(var, held, wanted)

    def _of_width(self, var: relax.Var, held: Held, bits: int) -> Held:
        if held.q.bits == bits:
            return held
        if (held.var, bits) not in self._copies:
            q = activation_quantization(*held.span, bits)
            name = names.copy_of_width(self._names.get(var, str(var.name)), bits)
            copy = self._copied(name, held, q, Clamp.whole(bits))
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
            moved = self.move(name, "Transpose", [held], codes, held.q, Clamp.whole(held.q.bits))
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
            shape = _outer(wanted)
            axes = order_of(wanted, shape)
            assert axes is not None  # the view is its own
            source = self.builder.emit(relax.op.reshape(source, shape))
        attrs = operators.QuantizeAttrs(name, q, axes, wanted.nhwc)
        return self.builder.emit(attrs.call(source))

    def move(
        self, name: str, op: str, sources: Sequence[Held], codes: np.ndarray, q: Quantization, clamp: Clamp,
        fills: Sequence[int] = (),
    ) -> relax.Call:  # fmt: skip
        """A call of ``qaccel.move``.

        ``codes`` int64 [N, H, W, C]: which value each output is, counted through all sources' values in NHWC order, or
        -1 - k for ``fills[k]``. Raises NotQuantizable where it takes too many pieces or mixes samples.
        """
        sizes = [int(np.prod(held.layout.nhwc)) for held in sources]
        bases = np.cumsum([0, *sizes])
        batch = codes.shape[0]
        if any(held.layout.nhwc[0] != batch for held in sources):
            raise NotQuantizable("it moves values between samples of a batch")
        source = np.searchsorted(bases[1:], codes, side="right")
        source = np.where(codes < 0, len(sources) - 1 - codes, source)
        sample = np.array([*(size // batch for size in sizes), *(0 for _ in fills)], np.int64)[source]
        place = codes - np.array([*bases[:-1], *(-1 - k for k in range(len(fills)))], np.int64)[source]
        first = place[:1]
        if not np.array_equal(place, first + np.arange(batch).reshape(-1, 1, 1, 1) * sample):
            raise NotQuantizable("it moves values between samples of a batch")
        depth = np.array([*(held.layout.nhwc[3] for held in sources), *(1 for _ in fills)], np.int64)[source[0]]
        if ((first < 0) | (first >= sample[:1]))[source[:1] < len(sources)].any():
            raise NotQuantizable("it moves values between samples of a batch")
        filled = source[0] >= len(sources)
        channel = np.where(filled, np.arange(codes.shape[3]), first[0] % depth)
        pieces = pieces_of(source[0], np.where(filled, 0, first[0] // depth), channel)
        if pieces is None:
            raise NotQuantizable(f"its values move in more than {MOST_PIECES} strided pieces")
        return self.pieced(name, op, sources, pieces, codes.shape, q, clamp, fills)

    def pieced(
        self, name: str, op: str, sources: Sequence[Held], pieces: Sequence[Piece], shape: Sequence[int], q: Quantization,
        clamp: Clamp, fills: Sequence[int] = (),
    ) -> relax.Call:  # fmt: skip
        """A call of ``qaccel.move`` from its pieces; ``shape`` NHWC. 4-bit values that share bytes move as 8-bit ones."""
        bits = {held.q.bits for held in sources}
        if min(bits | {q.bits}) == 4 and not all(
            whole_bytes(p, min(bits), q.bits, shape[3]) for p in pieces
        ):  # fmt: skip
            return self._pieced_wide(name, op, sources, pieces, shape, q, clamp, fills)
        attrs = operators.MoveAttrs(
            name, op, q, clamp, tuple(shape), tuple(held.q for held in sources), tuple(fills), flattened(pieces)
        )
        try:
            attrs.multipliers()
        except ValueError as error:
            raise NotQuantizable(f"requantization {error}") from None
        return attrs.call(*(held.var for held in sources))

    def _pieced_wide(
        self, name: str, op: str, sources: Sequence[Held], pieces: Sequence[Piece], shape: Sequence[int], q: Quantization,
        clamp: Clamp, fills: Sequence[int],
    ) -> relax.Call:  # fmt: skip
        """As ``pieced``, between copies that hold the same integers in 8 bits."""
        wide = []
        for k, held in enumerate(sources):
            same = replace(held.q, bits=max(held.q.bits, 8))
            if same != held.q:
                copy = self._copied(f"{name}.wide{k}", held, same, Clamp.whole(held.q.bits))
                held = replace(held, var=copy, q=same)
            wide.append(held)
        if q.bits > 4:
            return self.pieced(name, op, wide, pieces, shape, q, clamp, fills)
        result = replace(q, bits=8)
        moved = self.builder.emit(self.pieced(f"{name}.moved", op, wide, pieces, shape, result, clamp, fills))
        return operators.RequantizeAttrs(name, op, q, clamp, result).call(moved)

    def _copied(self, name: str, held: Held, wanted: Quantization, clamp: Clamp) -> relax.Var:
        """A copy of the integers under another quantization."""
        attrs = operators.RequantizeAttrs(name, "Requantize", wanted, clamp, held.q)
        return self.builder.emit(attrs.call(held.var))

    def _quantize(self, var: relax.Var, bits: int, wanted: Layout | None) -> None:
        plan = wanted or self.layout(var)
        root, at_root = self._root(var, plan)
        name = self._names.get(root, str(root.name))
        span = self.spans.of(name)
        q = activation_quantization(*self.spans.room(name, bits), bits)
        entered = self._entered(
            self.real(root), operators.static_shape(root), name, q, replace(at_root, nhwc=plan.nhwc)
        )
        self.held[var] = Held(entered, q, plan, span)

    def _root(self, var: relax.Var, found: Layout) -> tuple[relax.Var, Layout]:
        """The float tensor that ``var`` is only a Transpose or Reshape of, and what the layout ``found`` is there."""
        while var not in self.floats and var not in self.held and var in self._nodes:
            node = self._nodes[var]
            if node.kind is kinds.TRANSPOSE:
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
        if node is not None and self._joined_later(var):
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

    def _was_float(self, var: relax.Var) -> bool:
        """Whether ``var`` is only a Transpose or Reshape of a tensor that no integer operation made, or of a join."""
        while var not in self.floats and var in self._nodes and self._nodes[var].kind.renames:
            var = self._nodes[var].inputs[0]
        return self._joined_later(var) or (var in self.floats and var not in self._dequantized)

    def _joined_later(self, var: relax.Var) -> bool:
        """Whether ``var`` in float is to be made of its parts in float; a move may be there as integers too."""
        return var in self.joins.apart and (self._nodes[var].kind is kinds.MOVE or var not in self.held)

    def _dequantize(self, held: Held, var: relax.Var) -> relax.Expr:
        """``held`` as the float tensor ``var``: dequantized, turned to the source's order, reshaped if axes were merged."""
        shape = operators.static_shape(var)
        view, order = shape, order_of(held.layout, shape)
        if order is None:
            view = _outer(held.layout)
            order = order_of(held.layout, view)
            assert order is not None  # the view is its own
        attrs = operators.DequantizeAttrs(
            self._names.get(var, str(var.name)), held.q, tuple(order.index(axis) for axis in range(len(order))),
            tuple(view[axis] for axis in order),
        )  # fmt: skip
        value = self.builder.emit(attrs.call(held.var))
        return value if view == shape else self.builder.emit(relax.op.reshape(value, shape))

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


def _outer(held: Layout) -> tuple[int, ...]:
    """The view with the batch in front, where it is 1 as well."""
    return held.view if held.nhwc[0] != 1 else (1, *held.view)
