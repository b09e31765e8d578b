"""Transposes compose, cancel, and move through other operators until they meet: NHWC graphs become NCHW ones.

They move down, towards the outputs, except those that hang on a graph input, which move up to it. So nothing moves to
and fro, and a network written in the other layout keeps one Transpose at its input and one at its output at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from ...graph import ROUNDED, Graph, attrs_of, fresh_name, pruned, remade, substitute
from .turned import CONCAT, ELEMENTWISE, ONE_OPERAND, REDUCTIONS, UNARY, turned

ABSORBING = ELEMENTWISE | CONCAT | set(ONE_OPERAND) | {"Transpose"}


def transposes(graph: Graph) -> Graph:
    """One sweep down, one up, and what is left before a dense layer into its weights."""
    return into_dense(hoisted(pruned(sunk(graph))))


def into_dense(graph: Graph) -> Graph:
    """Transpose, flattening Reshape, Gemm or MatMul with constant weights: the weights' rows are reordered instead."""
    producers, uses = graph.producers(), graph.uses()
    consts, types = dict(graph.consts), dict(graph.types)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        flat = producers.get(node.input[0]) if node.op_type in ("Gemm", "MatMul") else None
        turn = producers.get(flat.input[0]) if flat is not None and flat.op_type in ("Reshape", "Flatten") else None
        weight = consts.get(node.input[1]) if turn is not None and turn.op_type == "Transpose" else None
        if flat is None or turn is None or weight is None or weight.ndim != 2 or attrs_of(node).get("transA"):
            nodes.append(node)
            continue
        shape, flat_shape = graph.shape(turn.output[0]), graph.shape(flat.output[0])
        perm = perm_of(turn, len(shape))
        if len(flat_shape) != 2 or flat_shape[0] != shape[0] or perm[0] != 0 or uses[flat.output[0]] != 1:
            nodes.append(node)
            continue
        inverse = [perm.index(a) for a in range(len(perm))]
        rows = np.arange(flat_shape[1]).reshape(1, *shape[1:]).transpose(inverse).reshape(-1)
        turned_weight = weight[:, rows] if attrs_of(node).get("transB") else weight[rows]
        names = [fresh_name(f"{node.name}_{what}", {**consts, **types}) for what in ("rows", "flat_shape", "flat")]
        consts[names[0]], consts[names[1]] = turned_weight, np.asarray(flat_shape, np.int64)
        types[names[2]] = graph.types[flat.output[0]]
        nodes.append(helper.make_node("Reshape", [turn.input[0], names[1]], [names[2]], name=flat.name))
        nodes.append(remade(node, [names[2], names[0], *node.input[2:]]))
        nodes = [n for n in nodes if n is not flat]
    return replace(graph, nodes=tuple(nodes), consts=consts, types=types)


@dataclass
class _Sweep:
    """What one forward sweep has made so far."""

    graph: Graph
    nodes: list[onnx.NodeProto]
    consts: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    producers: dict[str, onnx.NodeProto]
    names: set[str]

    @staticmethod
    def of(graph: Graph) -> _Sweep:
        shapes = {name: kind[0] for name, kind in graph.types.items()}
        shapes |= {name: tuple(value.shape) for name, value in graph.consts.items()}
        return _Sweep(graph, [], dict(graph.consts), shapes, {}, {n.name for n in graph.nodes})

    def add(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)
        self.producers.update({o: node for o in node.output if o})

    def name(self, base: str) -> str:
        name = fresh_name(base, self.names)
        self.names.add(name)
        return name

    def tensor(self, base: str, shape: Iterable[int]) -> str:
        name = fresh_name(base, self.shapes)
        self.shapes[name] = tuple(shape)
        return name

    def const(self, base: str, value: np.ndarray) -> str:
        name = self.tensor(base, value.shape)
        self.consts[name] = value
        return name


def sunk(graph: Graph) -> Graph:
    """Every Transpose as far down as it goes; a Transpose that moves only axes of size 1 is a Reshape."""
    sweep = _Sweep.of(graph)
    readers, from_input = _readers(graph), _near_input(graph)[0]
    alias: dict[str, str] = {}
    for original in graph.nodes:
        node = original
        if any(i in alias for i in node.input):
            node = remade(node, [alias.get(i, i) for i in node.input])
        if node.op_type == "Transpose":
            _compose(node, sweep, alias)
            continue
        above: dict[str, onnx.NodeProto] = {}
        for name in node.input:
            turn = sweep.producers.get(name)
            if turn is None or turn.op_type != "Transpose" or turn.input[0] in from_input:
                continue
            if len(readers.get(name, [])) < 2 or ABSORBING.issuperset(readers[name]):
                above[name] = turn
        if not above or not _sink(node, above, sweep):
            sweep.add(node)
    return substitute(replace(graph, nodes=tuple(sweep.nodes), consts=sweep.consts, types=_types(sweep)), alias)


def _readers(graph: Graph) -> dict[str, list[str]]:
    """The operators that read each tensor, as it is or rounded; "" for the user."""
    readers: dict[str, list[str]] = {}
    for name in graph.outputs:
        readers.setdefault(name, []).append("")
    for node in reversed(graph.nodes):
        for name in node.input:
            own = readers.get(node.output[0], []) if node.op_type == ROUNDED else [node.op_type]
            readers.setdefault(name, []).extend(own)
    return readers


def _types(sweep: _Sweep) -> dict[str, tuple[tuple[int, ...], int]]:
    types = dict(sweep.graph.types)
    for name, shape in sweep.shapes.items():
        if name not in sweep.consts:
            types.setdefault(name, (shape, onnx.TensorProto.FLOAT))  # folding infers them again
    return types


def perm_of(node: onnx.NodeProto, rank: int) -> list[int]:
    """The permutation of a Transpose of a tensor of this rank."""
    return list(attrs_of(node).get("perm", range(rank - 1, -1, -1)))


def is_reshape(shape: tuple[int, ...], perm: list[int]) -> bool:
    """Whether a Transpose moves axes of size 1 only."""
    moved = [p for p in perm if shape[p] != 1]
    return moved == sorted(moved)


def _compose(node: onnx.NodeProto, sweep: _Sweep, alias: dict[str, str]) -> None:
    """A Transpose together with the one above it."""
    source = node.input[0]
    shape = sweep.shapes[source]
    perm = perm_of(node, len(shape))
    first = sweep.producers.get(source)
    if first is not None and first.op_type == "Transpose":
        source, inner = first.input[0], perm_of(first, len(shape))
        perm, shape = [inner[p] for p in perm], sweep.shapes[first.input[0]]
    if perm == sorted(perm):
        alias[node.output[0]] = alias.get(source, source)
    elif is_reshape(shape, perm):
        target = sweep.const(f"{node.output[0]}_shape", np.asarray([shape[p] for p in perm], np.int64))
        sweep.add(helper.make_node("Reshape", [source, target], list(node.output), name=node.name))
    else:
        sweep.add(remade(node, [source], perm=perm))


def _sink(node: onnx.NodeProto, above: dict[str, onnx.NodeProto], sweep: _Sweep) -> bool:
    """Writes the node before the Transposes above it, and one Transpose behind; False if it cannot."""
    if len([o for o in node.output if o]) != 1:
        return False
    op = node.op_type
    first = next(iter(above.values()))
    perm = perm_of(first, len(sweep.shapes[first.input[0]]))
    if op == "Reshape" or op in ("MatMul", "Gemm"):
        return False
    if op in ELEMENTWISE | CONCAT:
        if op not in CONCAT and len(sweep.shapes[node.output[0]]) != len(perm):
            return False
        inputs = [_untransposed(name, k, node, above, perm, sweep) for k, name in enumerate(node.input)]
        if any(i is None for i in inputs):
            return False
        new = remade(node, [_const_made(i, sweep) for i in inputs if i is not None])
        if op in CONCAT:
            new = remade(new, axis=perm[attrs_of(node)["axis"] % len(perm)])
        rest = perm
    elif op in ONE_OPERAND and node.input[0] in above and len(above) == 1:
        source = first.input[0]
        values = [sweep.consts.get(i) if i else None for i in node.input]
        if any(i and i not in sweep.consts for i in node.input[1:]):
            return False
        found = turned(node, perm, values, sweep.graph.opset)
        if found is None:
            return False
        operands = [source]
        for k, value in enumerate(found.operands):
            old = node.input[k + 1] if k + 1 < len(node.input) else ""
            operands.append(
                "" if value is None else old if value is values[k + 1] else sweep.const(f"{old}_turned", value)
            )
        new, rest = remade(node, operands, **found.attrs), found.perm
    else:
        return False
    out_shape = sweep.shapes[node.output[0]]
    if rest == sorted(rest):
        sweep.add(new)
        return True
    before = [0] * len(rest)
    for k, p in enumerate(rest):
        before[p] = out_shape[k]
    middle = sweep.tensor(f"{node.output[0]}_moved", before)
    sweep.add(remade(new, outputs=[middle]))
    turn = helper.make_node(
        "Transpose", [middle], list(node.output), name=sweep.name(f"{node.name}_transpose"), perm=rest
    )
    if is_reshape(tuple(before), rest):
        target = sweep.const(f"{node.output[0]}_shape", np.asarray(out_shape, np.int64))
        turn = helper.make_node("Reshape", [middle, target], list(node.output), name=turn.name)
    sweep.add(turn)
    return True


def _const_made(value: str | np.ndarray, sweep: _Sweep) -> str:
    return value if isinstance(value, str) else sweep.const("turned", value)


def _untransposed(
    name: str, position: int, node: onnx.NodeProto, above: dict[str, onnx.NodeProto], perm: list[int], sweep: _Sweep
) -> str | np.ndarray | None:
    """An operand of an element-wise node as it was before the Transpose `perm`; None where that takes a Transpose."""
    if name == "" or node.op_type in UNARY and position > 0:
        return name
    inverse = [perm.index(a) for a in range(len(perm))]
    if name in above:
        turn = above[name]
        same = perm_of(turn, len(sweep.shapes[turn.input[0]])) == perm
        return turn.input[0] if same else None
    shape = sweep.shapes[name]
    if name in sweep.consts:
        value = sweep.consts[name]
        if value.size == 1 and value.ndim <= 1 and node.op_type not in CONCAT:
            return name
        if value.ndim > len(perm):
            return None
        return np.ascontiguousarray(value.reshape((1,) * (len(perm) - value.ndim) + value.shape).transpose(inverse))
    full = (1,) * (len(perm) - len(shape)) + shape
    if len(full) != len(perm) or node.op_type == "PRelu" and position > 0 and len(shape) != len(perm):
        return None
    if not is_reshape(full, inverse):
        return None
    wanted = tuple(full[a] for a in inverse)
    if wanted == shape:
        return name
    target = sweep.const(f"{name}_shape", np.asarray(wanted, np.int64))
    out = sweep.tensor(f"{name}_turned", wanted)
    sweep.add(helper.make_node("Reshape", [name, target], [out], name=sweep.name(f"{node.name}_operand")))
    return out


def _near_input(graph: Graph) -> tuple[set[str], set[str]]:
    """What a Transpose can move up from: tensors that hang on one graph input, or on a Transpose of one, through a
    chain of operators that nothing else reads; and the tensors where such chains begin."""
    uses = graph.uses()
    begins = set(graph.inputs)
    begins |= {n.output[0] for n in graph.nodes if n.op_type == "Transpose" and n.input[0] in graph.inputs}
    near = set(begins)
    for node in graph.nodes:
        data = [i for i in node.input if i and i not in graph.consts]
        passable = node.op_type in ABSORBING - {"Transpose"} - set(REDUCTIONS)
        if passable and len(data) == 1 and data[0] in near and (data[0] in begins or uses[data[0]] == 1):
            near.update(o for o in node.output if o)
    return near, begins


def hoisted(graph: Graph) -> Graph:
    """Transposes of what little hangs on an input, moved up to it; those that meet a Transpose compose with it."""
    near, begins = _near_input(graph)
    producers, uses = graph.producers(), graph.uses()
    for turn in graph.nodes:
        if turn.op_type != "Transpose" or turn.input[0] not in near or turn.input[0] in begins:
            continue
        chain: list[onnx.NodeProto] = []
        tensor = turn.input[0]
        while tensor not in begins and uses[tensor] == 1:
            chain.append(producers[tensor])
            tensor = _data(chain[-1], graph)
        if tensor not in begins:
            continue
        new = _chain_below(turn, tensor, chain[::-1], graph)
        if new is not None:
            return new  # positions have changed; the next sweep takes the next one
    return graph


def _chain_below(turn: onnx.NodeProto, tensor: str, chain: list[onnx.NodeProto], graph: Graph) -> Graph | None:
    """The graph with `turn` at the graph input `tensor` instead of behind `chain`.

    Each operator of the chain reads Transpose-inverse(Transpose(input)), and sinking the inverse leaves it nothing.
    """
    rank = len(graph.shape(tensor))
    perm = perm_of(turn, rank)
    if any(len(graph.shape(n.output[0])) != rank for n in chain):
        return None
    inverse = [perm.index(a) for a in range(rank)]
    sweep = _Sweep.of(graph)
    shape = graph.shape(tensor)
    up = sweep.tensor(f"{tensor}_turned", [shape[p] for p in perm])
    back = sweep.tensor(f"{tensor}_back", shape)
    members = {n.name for n in chain}
    first = [
        helper.make_node("Transpose", [tensor], [up], name=sweep.name(f"{tensor}_transpose"), perm=perm),
        helper.make_node("Transpose", [up], [back], name=sweep.name(f"{tensor}_back"), perm=inverse),
    ]
    sweep.add(first[0])
    sweep.producers[back] = first[1]
    current = back
    for node in chain:
        node = remade(node, [current if i == tensor or i == _data(node, graph) else i for i in node.input])
        above = {current: sweep.producers[current]}
        if sweep.producers[current].op_type != "Transpose" or not _sink(node, above, sweep):
            return None
        current = node.output[0]
    last = sweep.producers[current]
    if last.op_type != "Transpose":
        return None
    rest = [n for n in graph.nodes if n.name not in members and n.name != turn.name]
    begin = 1 + max((k for k, n in enumerate(rest) if tensor in n.output), default=-1)
    nodes = (*rest[:begin], *sweep.nodes, *rest[begin:])
    alias = {turn.output[0]: last.input[0]}
    return substitute(replace(graph, nodes=nodes, consts=sweep.consts, types=_types(sweep)), alias)


def _data(node: onnx.NodeProto, graph: Graph) -> str:
    return next(i for i in node.input if i and i not in graph.consts)
