"""1-D convolutions and pools as 2-D ones of height 1, and Reshapes of that kind moved down: passes Graph -> Graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from ...graph import Graph, attrs_of, remade
from ...writer import Writer
from .turned import CONCAT, ELEMENTWISE, UNARY

LAYERS = ("Conv", "ConvTranspose")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


def to_two_dimensions(graph: Graph) -> Graph:
    """[N,C,L] -> Reshape [N,C,1,L] -> the 2-D node under the same name -> Reshape back."""
    writer = Writer(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if not _is_one_dimensional(node, graph):
            nodes.append(node)
            continue
        inputs = list(node.input)
        n, c, length = graph.shape(inputs[0])
        inputs[0] = writer.reshape(inputs[0], [n, c, 1, length], f"{node.name}:in")
        attrs, new = attrs_of(node), dict[str, Any]()
        fill = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0}
        for name, value in fill.items():
            if name in attrs:
                new[name] = [value, *attrs[name]]
        if "pads" in attrs:
            new["pads"] = [0, attrs["pads"][0], 0, attrs["pads"][1]]
        if node.op_type in LAYERS:
            weight = graph.consts[inputs[1]]
            inputs[1] = writer.const(f"{node.name}_weight", weight[:, :, None])
        n, c, length = graph.shape(node.output[0])
        middle = writer.tensor(f"{node.output[0]}_plane")
        writer.keep(remade(node, inputs, [middle], **new))
        writer.reshape(middle, [n, c, length], f"{node.name}:out", node.output[0])
        nodes += writer.take()
    return replace(graph, nodes=tuple(nodes), consts=writer.consts)


def _is_one_dimensional(node: onnx.NodeProto, graph: Graph) -> bool:
    if node.op_type not in LAYERS + POOLS or len(graph.shape(node.input[0])) != 3 or len(node.output) != 1:
        return False
    attrs = attrs_of(node)
    if attrs.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attrs or attrs.get("storage_order"):
        return False
    return node.op_type in POOLS or node.input[1] in graph.consts


def planes_down(graph: Graph) -> Graph:
    """Moves Reshapes [N,C,1,L] -> [N,C,L] down, so that element-wise operators stay beside the layer they follow."""
    writer = Writer(graph)
    plane_of: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type == "Reshape" and _is_line(graph.shape(node.input[0]), graph.shape(node.output[0])):
            plane_of[node.output[0]] = node.input[0]
            nodes.append(node)
            continue
        inputs = _on_planes(node, plane_of, graph, writer)
        if inputs is None:
            nodes.append(node)
            continue
        out = node.output[0]
        middle = writer.tensor(f"{out}_plane")
        axis = attrs_of(node).get("axis")
        moved = {"axis": axis % 3 + (axis % 3 == 2)} if node.op_type in CONCAT and axis is not None else {}
        nodes.append(remade(node, inputs, [middle], **moved))
        writer.reshape(middle, list(graph.shape(out)), f"{node.name}:out", out)
        nodes += writer.take()
        plane_of[out] = middle
    return replace(graph, nodes=tuple(nodes), consts=writer.consts)


def _is_line(plane: tuple[int, ...], line: tuple[int, ...]) -> bool:
    return len(plane) == 4 and len(line) == 3 and plane[2] == 1 and (*plane[:2], plane[3]) == line


def _on_planes(node: onnx.NodeProto, plane_of: dict[str, str], graph: Graph, writer: Writer) -> list[str] | None:
    """The operands of an element-wise node or Concat as planes; None where some operand is none."""
    if node.op_type not in ELEMENTWISE | CONCAT or len(node.output) != 1 or len(graph.shape(node.output[0])) != 3:
        return None
    if not any(i in plane_of for i in node.input):
        return None
    inputs = []
    for position, name in enumerate(node.input):
        value = graph.consts.get(name)
        if name in plane_of:
            inputs.append(plane_of[name])
        elif name == "" or node.op_type in UNARY and position > 0:
            inputs.append(name)
        elif value is not None and value.ndim <= 1 and node.op_type not in CONCAT:
            inputs.append(name)  # the last axis is the last axis
        elif value is not None and value.ndim <= 3:
            inputs.append(writer.const(f"{name}_plane", np.expand_dims(value, -2)))
        else:
            return None
    return inputs
