"""Padding: auto_pad, ceil_mode and output_shape as explicit pads; Pad nodes merged into the layer that reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..graph import Graph, attrs_of, fresh_name, remade
from .expand.moves import pad_amounts

LOWEST = -3.4e38  # about the least float32: exporters pad with it, or with minus infinity, before a maximum


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
    if node.op_type == "ConvTranspose":
        return _transposed_with_pads(node, graph), None
    if node.op_type not in ("Conv", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv"):
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
            total = max((-(-size[axis] // strides[axis]) - 1) * strides[axis] + spans[axis] - size[axis], 0)
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
    return remade(node, drop=["auto_pad"], **new), own


def _transposed_with_pads(node: onnx.NodeProto, graph: Graph) -> onnx.NodeProto:
    """ConvTranspose whose auto_pad and output_shape are pads and output_padding."""
    attrs = attrs_of(node)
    size = graph.shape(node.input[0])[2:]
    rank = len(size)
    kernel = list(attrs.get("kernel_shape") or graph.shape(node.input[1])[2:])
    strides = list(attrs.get("strides", [1] * rank))
    dilations = list(attrs.get("dilations", [1] * rank))
    beyond = list(attrs.get("output_padding", [0] * rank))
    mode = attrs.get("auto_pad", "NOTSET")
    pads = list(attrs.get("pads", [0] * 2 * rank)) if mode == "NOTSET" else [0] * 2 * rank
    wanted = attrs.get("output_shape")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [s * t for s, t in zip(size, strides, strict=True)]
    if wanted is not None:
        for axis in range(rank):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            total = (size[axis] - 1) * strides[axis] + beyond[axis] + span - wanted[-rank:][axis]
            beyond[axis] += max(0, -total)
            small, large = max(total, 0) // 2, max(total, 0) - max(total, 0) // 2
            pads[axis], pads[axis + rank] = (small, large) if mode == "SAME_UPPER" else (large, small)
    extra = {"output_padding": beyond} if any(beyond) else {}
    return remade(node, drop=["auto_pad", "output_shape", "output_padding"], kernel_shape=kernel, strides=strides,
                  dilations=dilations, pads=pads, **extra)  # fmt: skip


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
    attrs, amounts = attrs_of(node), pad_amounts(pad, graph)
    if attrs_of(pad).get("mode", "constant") != "constant" or amounts is None:
        return None
    rank, value = len(graph.shape(pad.input[0])), float(amounts[2])
    before, after = amounts[0][2:], amounts[1][2:]
    if min(*amounts[0], *amounts[1]) < 0 or any(amounts[0][:2]) or any(amounts[1][:2]):
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
        if any(own) or not shorter or value > LOWEST and not (value == 0 and floor):
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
