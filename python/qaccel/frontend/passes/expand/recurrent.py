"""LSTM, GRU and RNN spelled out step by step: products with constant matrices, tables and products of two tensors.

The formulas are those of the operators' pages in the ONNX standard; gates lie in its order (LSTM: i o f c, GRU: z r h).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ....errors import UserError
from ...graph import Graph, attrs_of
from ...inputs import check_constant
from ...writer import Writer

LONGEST = 512  # steps, over both directions: each becomes about ten nodes
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULT_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
KNOWN_ATTRIBUTES = {"activations", "direction", "hidden_size", "layout", "linear_before_reset", "input_forget"}


@dataclass(frozen=True)
class Direction:
    """One direction of a layer: constants [gates * hidden, in], [gates * hidden, hidden], [gates * hidden] twice."""

    kind: str
    weight: np.ndarray
    recurrent: np.ndarray
    input_bias: np.ndarray
    recurrent_bias: np.ndarray
    activations: tuple[str, ...]
    reset_last: bool  # GRU's linear_before_reset
    batch: int


class _Steps:
    """Writes the nodes of one direction, named NAME:d0:3:what."""

    def __init__(self, writer: Writer, name: str, cell: Direction) -> None:
        self.writer, self.name, self.cell = writer, name, cell
        self.hidden = cell.recurrent.shape[1]
        self.where = name
        self.columns: dict[tuple[int, int], str] = {}

    def do(self, op: str, *operands: str) -> str:
        return self.writer.node(op, operands, f"{self.where}:{op.lower()}")

    def gate(self, source: str, k: int) -> str:
        """The values of one gate, [batch, hidden]."""
        return self.writer.slice(source, [k * self.hidden], [(k + 1) * self.hidden], [1], f"{self.where}:gate{k}")

    def recurrence(self, h: str, first: int, last: int, bias: bool = False) -> str:
        """h times the recurrent matrix of the gates from `first` to before `last` [+ their recurrent bias]."""
        key = first, last
        rows = slice(first * self.hidden, last * self.hidden)
        if key not in self.columns:
            self.columns[key] = self.writer.const(f"{self.name}_recurrent", self.cell.recurrent[rows].T)
        product = self.do("MatMul", h, self.columns[key])
        if not bias:
            return product
        return self.do("Add", product, self.writer.const(f"{self.where}_bias", self.cell.recurrent_bias[rows]))

    def lstm(self, x: str, h: str | None, c: str | None) -> tuple[str, str | None]:
        squash, candidate, output = self.cell.activations
        gates = x if h is None else self.do("Add", x, self.recurrence(h, 0, 4))
        i, o, f = (self.do(squash, self.gate(gates, k)) for k in range(3))
        new = self.do("Mul", i, self.do(candidate, self.gate(gates, 3)))
        cell = new if c is None else self.do("Add", self.do("Mul", f, c), new)
        return self.do("Mul", o, self.do(output, cell)), cell

    def gru(self, x: str, h: str | None, _: str | None) -> tuple[str, str | None]:
        squash, candidate = self.cell.activations
        gates = x if h is None else self.do("Add", self.gate_pair(x), self.recurrence(h, 0, 2))
        z, r = (self.do(squash, self.gate(gates, k)) for k in range(2))
        new = self.gate(x, 2)
        if h is None:
            if self.cell.reset_last:
                bias = self.cell.recurrent_bias[2 * self.hidden :]
                new = self.do("Add", new, self.do("Mul", r, self.writer.const(f"{self.where}_bias", bias)))
            new = self.do(candidate, new)
            return self.do("Sub", new, self.do("Mul", z, new)), None
        if self.cell.reset_last:
            new = self.do("Add", new, self.do("Mul", r, self.recurrence(h, 2, 3, bias=True)))
        else:
            new = self.do("Add", new, self.recurrence(self.do("Mul", r, h), 2, 3))
        new = self.do(candidate, new)
        return self.do("Add", new, self.do("Mul", z, self.do("Sub", h, new))), None

    def gate_pair(self, x: str) -> str:
        return self.writer.slice(x, [0], [2 * self.hidden], [1], f"{self.where}:gates")

    def rnn(self, x: str, h: str | None, _: str | None) -> tuple[str, str | None]:
        return self.do(self.cell.activations[0], x if h is None else self.do("Add", x, self.recurrence(h, 0, 1))), None

    def run(self, data: str, steps: range, h: str | None, c: str | None) -> tuple[dict[int, str], str | None]:
        """The hidden state of every step [batch, hidden], and the last cell state; `data` is [batch, steps, in]."""
        cell, self.where = self.cell, self.name
        bias = cell.input_bias + cell.recurrent_bias
        if cell.kind == "GRU" and cell.reset_last:
            bias[2 * self.hidden :] = cell.input_bias[2 * self.hidden :]
        product = self.do("MatMul", data, self.writer.const(f"{self.name}_weight", cell.weight.T))
        gates = self.do("Add", product, self.writer.const(f"{self.name}_bias", bias))
        step: Callable[..., tuple[str, str | None]] = {"LSTM": self.lstm, "GRU": self.gru, "RNN": self.rnn}[cell.kind]
        states = {}
        for t in steps:
            self.where = f"{self.name}:{t}"
            one = self.writer.slice(gates, [t], [t + 1], [1], f"{self.where}:step")
            x = self.writer.reshape(one, (cell.batch, cell.weight.shape[0]), f"{self.where}:row")
            h, c = step(x, h, c)
            states[t] = h
        return states, c


def recurrent(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """One layer; raises UserError for what has no such form: peepholes, clipped gates, lengths that differ, other activations."""
    check_constant(node, node.input[1:5], graph)
    attrs, kind = attrs_of(node), node.op_type
    given: list[str | None] = [*(i or None for i in node.input), *([None] * 8)][:8]
    data, constants = node.input[0], [graph.consts.get(i) if i else None for i in given]
    weight, matrix, bias = constants[1:4]
    by_batch = bool(attrs.get("layout", 0))
    steps, batch = graph.shape(data)[:2][::-1] if by_batch else graph.shape(data)[:2]
    assert weight is not None and matrix is not None
    lengths, unknown = constants[4], sorted(set(attrs) - KNOWN_ATTRIBUTES)
    _refuse(node, f"the attribute {unknown[0]}" if unknown else "", "export it without")
    _refuse(node, "peepholes" if given[7] else "input_forget" if attrs.get("input_forget") else "", "export it without")
    if lengths is not None and np.any(lengths != steps):
        _refuse(
            node, f"sequence_lens {lengths.reshape(-1).tolist()[:8]}", f"only sequences of all {steps} steps compile"
        )
    ways = {"forward": [1], "reverse": [-1], "bidirectional": [1, -1]}.get(attrs.get("direction", "forward"), [])
    names = attrs.get("activations") or DEFAULT_ACTIVATIONS[kind] * len(ways)
    names = [n.decode() if isinstance(n, bytes) else n for n in names]
    each = len(DEFAULT_ACTIVATIONS[kind])
    other = sorted(set(names) - {"Sigmoid", "Tanh", "Relu"})
    _refuse(node, f"the activation {other[0]}" if other else "", "Sigmoid, Tanh and Relu compile")
    most = LONGEST // max(1, len(ways))
    _refuse(node, f"{steps} steps" if steps > most else "", f"at most {most} compile: give shorter --input-shapes")
    if len(names) != each * len(ways):
        return False
    hidden = matrix.shape[2]
    if bias is None:
        bias = np.zeros((len(ways), 2 * GATES[kind] * hidden), weight.dtype)
    if not by_batch:  # the accelerator takes axis 0 for the batch
        data = writer.transpose(data, [1, 0, 2], f"{node.name}:in")
    sequences, ends, cells = [], [], []
    for d, way in enumerate(ways):
        half = GATES[kind] * hidden
        cell = Direction(
            kind, weight[d], matrix[d], bias[d, :half], bias[d, half:], tuple(names[each * d : each * d + each]),
            bool(attrs.get("linear_before_reset", 0)), batch,
        )  # fmt: skip
        start = [_state(graph, writer, name, d, by_batch, (batch, hidden), node.name) for name in given[5:7]]
        order = range(steps) if way == 1 else range(steps - 1, -1, -1)
        states, last = _Steps(writer, f"{node.name}:d{d}", cell).run(data, order, *start)
        sequences.append([states[t] for t in range(steps)])
        ends.append(states[order[-1]])
        cells.append(last)
    _outputs(node, graph, writer, sequences, ends, cells)
    return True


def _refuse(node: onnx.NodeProto, what: str, way_out: str) -> None:
    """Raises UserError where there is ``what``."""
    if what:
        raise UserError(f"node '{node.name}': {node.op_type} has {what}; {way_out}")


def _state(
    graph: Graph, writer: Writer, name: str | None, d: int, by_batch: bool, shape: tuple[int, int], label: str
) -> str | None:
    """A direction's initial state [batch, hidden]; None where it is zero."""
    if name is None:
        return None
    if name in graph.consts:
        value = graph.consts[name][:, d] if by_batch else graph.consts[name][d]
        return writer.const(f"{name}_{d}", value) if np.any(value) else None
    part = writer.slice(name, [d], [d + 1], [1 if by_batch else 0], f"{label}:start{d}")
    return writer.reshape(part, shape, f"{label}:start{d}:row")


def _outputs(
    node: onnx.NodeProto, graph: Graph, writer: Writer, sequences: list[list[str]], ends: list[str], cells: list[Any]
) -> None:
    """Y [steps, directions, batch, hidden] and the last states [directions, batch, hidden], or with the batch first."""
    y, *last = [*node.output, "", "", ""][:3]
    label = node.name
    by_batch = bool(attrs_of(node).get("layout", 0))
    batch, hidden = (graph.shape(next(o for o in (y, *last) if o))[k] for k in (0 if by_batch else -2, -1))
    if y:
        row = (batch, 1, 1, hidden)
        sides = [_joined(writer, states, row, 1, f"{label}:y", "") for states in sequences]
        whole = _joined(writer, sides, None, 2, f"{label}:y" if not by_batch else label, y if by_batch else "")
        if not by_batch:
            writer.transpose(whole, [1, 2, 0, 3], label, y)
    for name, states in zip(last, (ends, cells), strict=True):
        if name:
            whole = _joined(writer, states, (batch, 1, hidden), 1, f"{label}:last", name if by_batch else "")
            if not by_batch:
                writer.transpose(whole, [1, 0, 2], f"{label}:end", name)


def _joined(writer: Writer, parts: list[str], shape: tuple[int, ...] | None, axis: int, name: str, output: str) -> str:
    """The parts, of the shape given, along an axis."""
    if shape is not None:
        parts = [writer.reshape(part, shape, f"{name}:row") for part in parts]
    if len(parts) > 1:
        return writer.node("Concat", parts, name, output, axis=axis)
    return writer.node("Identity", parts, name, output) if output else parts[0]


EXPANSIONS = {"LSTM": recurrent, "GRU": recurrent, "RNN": recurrent}
