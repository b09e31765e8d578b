"""Rewrites of the folded ONNX graph that leave its function unchanged; each is a pass Graph -> Graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qaccel.frontend.affine import fold_affine
from qaccel.frontend.expand import expand
from qaccel.frontend.fold import fold
from qaccel.frontend.graph import Graph, attrs_of, fresh_name, pruned, remade, substitute
from qaccel.frontend.one_dimensional import to_two_dimensions

# Element-wise operators of one operand (with attributes or constant operands only) that commute with any Transpose.
UNARY = {
    "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "HardSigmoid", "HardSwish", "Softplus", "Softsign",
    "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Erf", "Sign", "Gelu", "Mish", "Celu",
}  # fmt: skip
RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}


def simplify(graph: Graph) -> Graph:
    """All passes, until nothing changes. Takes a folded graph and gives a folded graph."""
    graph = _repeated(fold(explicit_pads(graph)), (expand,))
    graph = _repeated(graph, (fold_affine, merge_pad, transposes, reshapes))
    flat = to_two_dimensions(graph)
    if flat.nodes == graph.nodes:
        return graph
    return _repeated(fold(flat), (transposes, reshapes))


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


def explicit_pads(graph: Graph) -> Graph:
    """auto_pad and ceil_mode become pads.

    Cells that rounding up adds do not count in a mean, even in one that counts its padding: there the padding becomes
    a Pad of its own.
    """
    consts = dict(graph.consts)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        pool, own = _with_pads(node, graph)
        if own is not None:
            top, left, bottom, right = own
            amounts = [0, 0, top, left, 0, 0, bottom, right]
            names = fresh_name(f"{node.name}_pad", {n.name for n in graph.nodes}), f"{node.output[0]}_padded"
            source, padded = node.input[0], fresh_name(names[1], graph.types)
            if graph.opset < 11:
                nodes.append(helper.make_node("Pad", [source], [padded], name=names[0], pads=amounts))
            else:
                key = fresh_name(f"{padded}_pads", consts)
                consts[key] = np.asarray(amounts, np.int64)
                nodes.append(helper.make_node("Pad", [source, key], [padded], name=names[0]))
            pool = remade(pool, [padded])
        nodes.append(pool)
    return replace(graph, nodes=tuple(nodes), consts=consts)


def _with_pads(node: onnx.NodeProto, graph: Graph) -> tuple[onnx.NodeProto, list[int] | None]:
    """The node with explicit pads, and what a Pad before it has to add (top, left, bottom, right), if anything."""
    if node.op_type not in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv"):
        return node, None
    attrs = attrs_of(node)
    size = graph.shape(node.input[0])[2:]
    rank = len(size)
    kernel = list(attrs.get("kernel_shape") or graph.shape(node.input[3 if node.op_type == "QLinearConv" else 1])[2:])
    strides = attrs.get("strides", [1] * rank)
    dilations = attrs.get("dilations", [1] * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    mode = attrs.get("auto_pad", "NOTSET")
    pads = list(attrs.get("pads", [0] * 2 * rank)) if mode == "NOTSET" else [0] * 2 * rank
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(rank):
            if node.op_type == "ConvTranspose":
                extra = attrs.get("output_padding", [0] * rank)[axis]
                wanted = attrs["output_shape"][axis] if "output_shape" in attrs else size[axis] * strides[axis]
                total = (size[axis] - 1) * strides[axis] + extra + spans[axis] - wanted
            else:
                total = (-(-size[axis] // strides[axis]) - 1) * strides[axis] + spans[axis] - size[axis]
            if node.op_type == "ConvTranspose" and total < 0:
                return node, None
            total = max(total, 0)
            small, large = total // 2, total - total // 2
            upper = mode == "SAME_UPPER"
            pads[axis], pads[axis + rank] = (small, large) if upper else (large, small)
    new: dict[str, Any] = {"pads": pads}
    own: list[int] | None = None
    if attrs.get("ceil_mode") and mode == "NOTSET":
        exact = _ceil_pads(size, kernel, spans, strides, pads)
        extra = [] if exact is None else [e - p for e, p in zip(exact, pads, strict=True)]
        if exact is not None and (not attrs.get("count_include_pad") or max(extra) <= 0):
            new = {"pads": exact, "ceil_mode": 0}
        elif exact is not None and not any(pads):
            new = {"pads": exact, "ceil_mode": 0, "count_include_pad": 0}
        elif exact is not None and rank == 2:
            own = [min(e, p) for e, p in zip(exact, pads, strict=True)]
            new = {"pads": [max(e, 0) for e in extra], "ceil_mode": 0, "count_include_pad": 0}
    elif attrs.get("ceil_mode"):
        new["ceil_mode"] = 0
    if node.op_type == "Conv":
        new |= {"kernel_shape": kernel, "strides": list(strides), "dilations": list(dilations)}
    drop = ["auto_pad"] + (["output_shape"] if node.op_type == "ConvTranspose" else [])
    return remade(node, drop=drop, **new), own


def _ceil_pads(
    size: tuple[int, ...], kernel: list[int], spans: list[int], strides: list[int], pads: list[int]
) -> list[int] | None:
    """Pads with which floor rounding gives the windows of ceil rounding; None where there are none that ONNX allows.

    A window that would start in the padding after the data is dropped, as ONNX and PyTorch do.
    """
    exact = list(pads)
    rank = len(size)
    for axis in range(rank):
        length = size[axis] + pads[axis] + pads[axis + rank]
        count = -(-(length - spans[axis]) // strides[axis]) + 1
        if (count - 1) * strides[axis] >= size[axis] + pads[axis]:
            count -= 1
        extra = (count - 1) * strides[axis] + spans[axis] - length
        # Cells left over behind the last window are dropped by rounding down anyway, unless a window fits into them.
        exact[axis + rank] += 0 if -strides[axis] < extra < 0 else extra
        if not 0 <= exact[axis + rank] < max(kernel[axis], pads[axis + rank] + 1):
            return None
    return exact


def merge_pad(graph: Graph) -> Graph:
    """A constant spatial Pad goes into the Conv or pool that alone reads it, where its value is theirs.

    Conv pads with 0; AveragePool with 0 that counts; MaxPool with minus infinity, or with 0 where its input is not
    negative and every window still covers data.
    """
    uses, producers = graph.uses(), graph.producers()
    nodes = []
    for node in graph.nodes:
        pad = producers.get(node.input[0]) if node.op_type in ("Conv", "AveragePool", "MaxPool") else None
        merged = _merged(node, pad, graph) if pad is not None and uses[node.input[0]] == 1 else None
        nodes.append(merged or node)
    return replace(graph, nodes=tuple(nodes))


def _merged(node: onnx.NodeProto, pad: onnx.NodeProto, graph: Graph) -> onnx.NodeProto | None:
    if pad.op_type != "Pad":
        return None
    pad_attrs, attrs = attrs_of(pad), attrs_of(node)
    if pad_attrs.get("mode", "constant") != "constant":
        return None
    rank = len(graph.shape(pad.input[0]))
    amounts = pad_attrs.get("pads")
    value = pad_attrs.get("value", 0.0)
    if amounts is None:
        if pad.input[1] not in graph.consts or len(pad.input) > 3 and pad.input[3]:
            return None
        amounts = graph.consts[pad.input[1]].reshape(-1).tolist()
        if len(pad.input) > 2 and pad.input[2]:
            if pad.input[2] not in graph.consts:
                return None
            value = float(graph.consts[pad.input[2]].reshape(-1)[0])
    before, after = amounts[2:rank], amounts[rank + 2 :]
    if len(amounts) != 2 * rank or min(amounts) < 0 or any(amounts[:2]) or any(amounts[rank : rank + 2]):
        return None
    own = attrs.get("pads", [0] * 2 * (rank - 2))
    if attrs.get("ceil_mode"):
        return None
    extra: dict[str, Any] = {}
    if node.op_type == "AveragePool":
        if value != 0 or any(own) and not attrs.get("count_include_pad"):
            return None
        extra = {"count_include_pad": 1}
    elif node.op_type == "MaxPool":
        shorter = all(max(b, a) < k for b, a, k in zip(before, after, attrs["kernel_shape"], strict=True))
        source = graph.producers().get(pad.input[0])
        floor = source is not None and source.op_type in ("Relu", "Sigmoid")
        if any(own) or not shorter or value != -np.inf and not (value == 0 and floor):
            return None
    elif value != 0:
        return None
    else:
        # Padding of a whole kernel and more is no padding that hardware has; it stays a Pad.
        dilations = attrs.get("dilations", [1] * len(before))
        spans = [(k - 1) * d + 1 for k, d in zip(graph.shape(node.input[1])[2:], dilations, strict=True)]
        merged = [a + b for a, b in zip(own, before + after, strict=True)]
        if any(amount >= span for amount, span in zip(merged, spans * 2, strict=True)):
            return None
    return remade(node, [pad.input[0], *node.input[1:]], pads=[a + b for a, b in zip(own, before + after, strict=True)],
                  **extra)  # fmt: skip


def transposes(graph: Graph) -> Graph:
    """Transposes compose, cancel, move down through element-wise operators towards each other, or become a Reshape."""
    uses, producers = graph.uses(), graph.producers()
    readers = {i: n for n in graph.nodes for i in n.input}
    consts, types = dict(graph.consts), dict(graph.types)
    alias: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        above = [producers.get(i) for i in node.input]
        first = above[0] if above else None
        if node.op_type == "Transpose":
            shape = graph.shape(node.input[0])
            perm = _perm(node, len(shape))
            source = node.input[0]
            if first is not None and first.op_type == "Transpose":
                source, inner = first.input[0], _perm(first, len(shape))
                perm = [inner[p] for p in perm]
                shape = graph.shape(source)
            moved = [p for p in perm if shape[p] != 1]
            if perm == sorted(perm):
                alias[node.output[0]] = source
            elif moved == sorted(moved):
                target = fresh_name(f"{node.output[0]}_shape", consts)
                consts[target] = np.asarray([shape[p] for p in perm], np.int64)
                nodes.append(helper.make_node("Reshape", [source, target], list(node.output), name=node.name))
            else:
                nodes.append(remade(node, [source], perm=perm))
            continue
        pulled = _pulled(node, above, readers, uses, graph)
        if pulled is None:
            nodes.append(node)
            continue
        inputs, perm = pulled
        middle = fresh_name(f"{node.output[0]}_moved", types)
        types[middle] = (graph.shape(inputs[0]), graph.types[node.output[0]][1])
        turn = helper.make_node("Transpose", [middle], list(node.output), name=_turn_name(node.name, nodes), perm=perm)
        nodes += [remade(node, inputs, [middle]), turn]
    return substitute(replace(graph, nodes=tuple(nodes), consts=consts, types=types), alias)


def _turn_name(name: str, nodes: list[onnx.NodeProto]) -> str:
    return fresh_name(f"{name}_transpose", {n.name for n in nodes})


def _perm(node: onnx.NodeProto, rank: int) -> list[int]:
    return list(attrs_of(node).get("perm", range(rank - 1, -1, -1)))


def _pulled(
    node: onnx.NodeProto,
    above: list[onnx.NodeProto | None],
    readers: dict[str, onnx.NodeProto],
    uses: dict[str, int],
    graph: Graph,
) -> tuple[list[str], list[int]] | None:
    """Inputs and permutation with which an element-wise node can run before the Transposes above it.

    Only towards another Transpose or element-wise operator, so that nothing moves to and fro.
    """
    out = node.output[0] if node.output else ""
    below = readers.get(out)
    if uses[out] != 1 or below is None or below.op_type not in UNARY | {"Transpose", "Add", "Mul", "Sub"}:
        return None
    if any(p is not None and p.op_type == "Transpose" and uses[p.output[0]] != 1 for p in above):
        return None
    turned = [p for p in above if p is not None and p.op_type == "Transpose"]
    if node.op_type in UNARY and turned and above[0] is not None and above[0] is turned[0]:
        source = turned[0].input[0]
        return [source, *node.input[1:]], _perm(turned[0], len(graph.shape(source)))
    if node.op_type in ("Add", "Mul", "Sub") and len(turned) == 2:
        sources = [p.input[0] for p in turned]
        perms = [_perm(p, len(graph.shape(s))) for p, s in zip(turned, sources, strict=True)]
        if perms[0] == perms[1] and graph.shape(sources[0]) == graph.shape(sources[1]):
            return sources, perms[0]
    return None


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
