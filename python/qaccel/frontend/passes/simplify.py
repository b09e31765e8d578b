"""Rewrites of the folded ONNX graph that leave its function unchanged; each is a pass Graph -> Graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from ..graph import Graph, fresh_name, pruned, substitute
from .affine import fold_affine
from .expand.functions import expand
from .fold import fold
from .layout.one_dimensional import planes_down, to_two_dimensions
from .layout.transposes import transposes
from .pads import explicit_pads, merge_pad

RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}


def simplify(graph: Graph) -> Graph:
    """All passes, until nothing changes. Takes a folded graph and gives a folded graph."""
    graph = _repeated(fold(explicit_pads(graph)), (expand,))
    graph = _repeated(graph, (fold_affine, merge_pad, transposes, reshapes))
    flat = to_two_dimensions(graph)
    if flat.nodes == graph.nodes:
        return graph
    return _repeated(fold(flat), (planes_down, transposes, reshapes))


def _repeated(graph: Graph, passes: tuple[Callable[[Graph], Graph], ...]) -> Graph:
    """The passes one after the other until none changes anything."""
    for _ in range(100):  # every pass removes nodes or moves one down, so this ends far sooner
        before = graph.nodes
        for each in passes:
            changed = pruned(each(graph))
            graph = fold(changed) if changed.nodes != graph.nodes else graph
        if graph.nodes == before:
            return graph
    return graph


def reshapes(graph: Graph) -> Graph:
    """Reshape, Flatten, Squeeze and Unsqueeze become one Reshape to a constant shape, or nothing."""
    producers = graph.producers()
    consts = dict(graph.consts)
    alias: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type not in RESHAPES or node.input[0] in consts:
            nodes.append(node)
            continue
        first = producers.get(node.input[0])
        source = first.input[0] if first is not None and first.op_type in RESHAPES else node.input[0]
        shape = graph.shape(node.output[0])
        if graph.shape(source) == shape:
            alias[node.output[0]] = source
            continue
        done = node.op_type == "Reshape" and source == node.input[0] and node.input[1] in consts
        if done and tuple(consts[node.input[1]].tolist()) == shape and 0 not in shape:
            nodes.append(node)
            continue
        target = fresh_name(f"{node.output[0]}_shape", consts)
        consts[target] = np.asarray(shape, np.int64)
        keep_zero = {"allowzero": 1} if 0 in shape and graph.opset >= 14 else {}
        nodes.append(helper.make_node("Reshape", [source, target], list(node.output), name=node.name, **keep_zero))
    return substitute(replace(graph, nodes=tuple(nodes), consts=consts), alias)
