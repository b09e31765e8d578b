"""Roundings moved up, on the canonical graph: what only moves values, or picks the largest, may stand before its QuantizeLinear.

Rounding is monotone, so that it commutes with a MaxPool, and with everything that puts values elsewhere. Rounded before as well as
behind, the tensor is integers from the layer that makes it on, and nothing has changed.
"""

from __future__ import annotations

from dataclasses import replace

import onnx

from ..frontend.graph import ROUNDED, Graph, attrs_of, fresh_name, remade
from ..frontend.passes.fold import fold
from .interpolated import span_of

_ONE_OPERAND = {
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "GlobalMaxPool", "ReduceMax", "Slice", "Pad", "Gather",
    "Expand", "Tile", "DepthToSpace", "SpaceToDepth",
}  # fmt: skip
_CLAMPS = {"Relu", "Clip"}


def settled(graph: Graph) -> Graph:
    """The graph with a ROUNDED before each operator that commutes with the ROUNDED behind it, where there was none."""
    if graph.given is None or not graph.given.activations:
        return graph
    changed = True
    while changed:
        graph, changed = _once(graph)
    assert graph.given is not None
    spans = {node.name: span for node in graph.nodes if (span := span_of(node.doc_string)) is not None}
    return replace(graph, given=replace(graph.given, spans=spans))


def _once(graph: Graph) -> tuple[Graph, bool]:
    makers, uses = graph.producers(), graph.uses()
    on_grid = _on_grid(graph)
    wanted: dict[tuple[str, str], onnx.NodeProto] = {}  # (node, operand that is no integers) -> the ROUNDED to copy
    for node in graph.nodes:
        if node.op_type != ROUNDED:
            continue
        tensor = node.input[0]
        while tensor in makers and makers[tensor].op_type in _CLAMPS and uses[tensor] == 1:
            tensor = makers[tensor].input[0]
        mover = makers.get(tensor)
        if mover is None or uses[tensor] != 1 or len(mover.output) != 1:
            continue
        for name in _moved(mover):
            if name not in on_grid and name not in graph.consts:
                wanted[mover.name, name] = node
    if not wanted:
        return graph, False
    nodes: list[onnx.NodeProto] = []
    names, tensors = {n.name for n in graph.nodes} | set(graph.inputs), set(graph.types) | set(graph.consts)
    made: dict[tuple[str, str], str] = {}
    before = {(n.input[0], _said(n)): n for n in graph.nodes if n.op_type == ROUNDED}
    placed: set[str] = set()
    for node in graph.nodes:
        renamed = {}
        for name in dict.fromkeys(node.input):
            rounding = wanted.get((node.name, name))
            if rounding is None:
                continue
            key = name, _said(rounding)
            if key in before:  # the same tensor is rounded so already: once is enough
                made[key] = before[key].output[0]
                if before[key].name not in placed:
                    placed.add(before[key].name)
                    nodes.append(before[key])
            elif key not in made:
                made[key] = fresh_name(f"{name}_rounded", tensors)
                label = fresh_name(f"{rounding.name}_before", names)
                tensors.add(made[key])
                names.add(label)
                copy = remade(rounding, [name], [made[key]])
                copy.name = label
                nodes.append(copy)
            renamed[name] = made[key]
        if node.name not in placed:
            placed.add(node.name)
            nodes.append(remade(node, [renamed.get(name, name) for name in node.input]) if renamed else node)
    return fold(replace(graph, nodes=tuple(nodes))), True


def _said(rounding: onnx.NodeProto) -> str:
    return str(sorted(attrs_of(rounding).items()))


def _moved(node: onnx.NodeProto) -> list[str]:
    """The operands whose values a node only moves, or picks from."""
    if node.op_type == "Concat":
        return list(dict.fromkeys(node.input))
    nearest = node.op_type in ("Resize", "Upsample") and attrs_of(node).get("mode", "nearest") in (
        "nearest",
        b"nearest",
    )
    return [node.input[0]] if node.op_type in _ONE_OPERAND or nearest else []


def _on_grid(graph: Graph) -> set[str]:
    """Tensors whose values are those of integers already: rounded, or moved, picked or clamped from such ones."""
    found: set[str] = set()
    for node in graph.nodes:
        moved = _moved(node) or (list(node.input[:1]) if node.op_type in _CLAMPS else [])
        if node.op_type == ROUNDED or moved and all(name in found or name in graph.consts for name in moved):
            found.update(node.output)
    return found
