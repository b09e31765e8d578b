"""Rewrites of spatial operators on the ONNX graph, so that few forms are left for what follows.

One-dimensional windows become two-dimensional ones, resizing to the nearest and padding by copies become Gather,
DepthToSpace and its like become Reshape and Transpose, Split becomes Slices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qaccel.frontend.graph import Graph, attrs_of, fresh_name, remade

WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool")


class Rewriter:
    """Collects the nodes and constants that replace one node; the last one writes its output."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.consts = dict(graph.consts)
        self.nodes: list[onnx.NodeProto] = []
        self.names = {node.name for node in graph.nodes}
        self.tensors = set(graph.types) | set(graph.consts)

    def const(self, name: str, value: np.ndarray) -> str:
        """A new constant."""
        key = fresh_name(name, self.tensors)
        self.tensors.add(key)
        self.consts[key] = value
        return key

    def node(self, op: str, inputs: list[str], name: str, output: str = "", **attributes: Any) -> str:
        """A new node; its output's name."""
        unique = fresh_name(name, self.names)
        self.names.add(unique)
        result = output or fresh_name(f"{unique}_out", self.tensors)
        self.tensors.add(result)
        self.nodes.append(helper.make_node(op, inputs, [result], name=unique, **attributes))
        return result

    def reshape(self, source: str, shape: list[int], name: str, output: str = "") -> str:
        """A Reshape to a constant shape."""
        return self.node("Reshape", [source, self.const(f"{name}_shape", np.asarray(shape, np.int64))], name, output)


def spatial(graph: Graph) -> Graph:
    """All rewrites of this file; the result has to be folded again."""
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        rewrite = _REWRITES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        kept = len(rewriter.nodes)
        rewriter.names.discard(node.name)  # what takes the node's place may take its name
        if rewrite is None or not rewrite(node, rewriter):
            del rewriter.nodes[kept:]
            rewriter.nodes.append(node)
        rewriter.names.add(node.name)
    return replace(graph, nodes=tuple(rewriter.nodes), consts=rewriter.consts)


def _one_dimensional(node: onnx.NodeProto, rewriter: Rewriter) -> bool:
    """[N, C, L] as [N, C, 1, L]."""
    graph = rewriter.graph
    shape = graph.shape(node.input[0])
    if len(shape) != 3 or sum(1 for o in node.output if o) != 1:
        return False
    inputs = list(node.input)
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = graph.consts.get(node.input[1])
        if weight is None:
            return False
        inputs[1] = rewriter.const(f"{node.input[1]}_plane", weight[:, :, None, :])
    attrs = attrs_of(node)
    changed: dict[str, Any] = {
        key: [1, *attrs[key]] for key in ("kernel_shape", "strides", "dilations") if key in attrs
    }
    for key in ("output_padding",):
        if key in attrs:
            changed[key] = [0, *attrs[key]]
    if "pads" in attrs:
        changed["pads"] = [0, attrs["pads"][0], 0, attrs["pads"][1]]
    if "output_shape" in attrs or attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return False
    out = node.output[0]
    n, c, length = shape
    inputs[0] = rewriter.reshape(node.input[0], [n, c, 1, length], f"{node.name}_as_plane")
    result = fresh_name(f"{out}_plane", rewriter.tensors)
    rewriter.tensors.add(result)
    rewriter.nodes.append(remade(node, inputs, [result], **changed))
    rewriter.reshape(result, list(graph.shape(out)), f"{node.name}_as_line", out)
    return True


def _depth_to_space(node: onnx.NodeProto, rewriter: Rewriter) -> bool:
    attrs = attrs_of(node)
    n, c, h, w = rewriter.graph.shape(node.input[0])
    b = int(attrs["blocksize"])
    crd = attrs.get("mode", "DCR") == "CRD"
    shape, turn = (
        ([n, c // (b * b), b, b, h, w], [0, 1, 4, 2, 5, 3])
        if crd
        else ([n, b, b, c // (b * b), h, w], [0, 3, 4, 1, 5, 2])
    )
    split = rewriter.reshape(node.input[0], shape, f"{node.name}_blocks")
    turned = rewriter.node("Transpose", [split], f"{node.name}_turn", perm=turn)
    rewriter.reshape(turned, [n, c // (b * b), h * b, w * b], node.name + "_joined", node.output[0])
    return True


def _space_to_depth(node: onnx.NodeProto, rewriter: Rewriter) -> bool:
    n, c, h, w = rewriter.graph.shape(node.input[0])
    b = int(attrs_of(node)["blocksize"])
    split = rewriter.reshape(node.input[0], [n, c, h // b, b, w // b, b], f"{node.name}_blocks")
    turned = rewriter.node("Transpose", [split], f"{node.name}_turn", perm=[0, 3, 5, 1, 2, 4])
    rewriter.reshape(turned, [n, c * b * b, h // b, w // b], node.name + "_joined", node.output[0])
    return True


def _split(node: onnx.NodeProto, rewriter: Rewriter) -> bool:
    graph = rewriter.graph
    if graph.opset < 10:
        return False
    axis = int(attrs_of(node).get("axis", 0)) % len(graph.shape(node.input[0]))
    begin = 0
    for k, output in enumerate(node.output):
        if not output:
            return False
        end = begin + graph.shape(output)[axis]
        bounds = [rewriter.const(f"{node.name}_bound", np.asarray([v], np.int64)) for v in (begin, end, axis)]
        rewriter.node("Slice", [node.input[0], *bounds], f"{node.name}:{k}", output)
        begin = end
    return True


def _pad(node: onnx.NodeProto, rewriter: Rewriter) -> bool:
    """Edge, reflect and wrap as Gather along each padded axis; negative amounts as a Slice first."""
    graph, attrs = rewriter.graph, attrs_of(node)
    shape = graph.shape(node.input[0])
    amounts = attrs.get("pads") or attrs.get("paddings")
    axes = list(range(len(shape)))
    if amounts is None:
        if node.input[1] not in graph.consts:
            return False
        amounts = graph.consts[node.input[1]].reshape(-1).tolist()
        if len(node.input) > 3 and node.input[3]:
            if node.input[3] not in graph.consts:
                return False
            axes = [int(a) % len(shape) for a in graph.consts[node.input[3]].reshape(-1)]
    count = len(axes)
    mode = attrs.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode == "constant":
        if min(amounts, default=0) >= 0 and count == len(shape):
            return False
        if min(amounts, default=0) >= 0 and graph.opset >= 11:
            full = [0] * (2 * len(shape))
            for k, axis in enumerate(axes):
                full[axis], full[axis + len(shape)] = amounts[k], amounts[k + count]
            key = rewriter.const(f"{node.name}_pads", np.asarray(full, np.int64))
            rewriter.nodes.append(remade(node, [node.input[0], key, *node.input[2:3]]))
            return True
        return False
    source = node.input[0]
    changed = [k for k in range(count) if amounts[k] or amounts[k + count]]
    for place, k in enumerate(changed):
        size = shape[axes[k]]
        numbers = np.arange(size)
        before, after = amounts[k], amounts[k + count]
        numbers = np.pad(numbers, (max(before, 0), max(after, 0)), mode=mode)  # type: ignore[arg-type]
        numbers = numbers[max(-before, 0) : len(numbers) - max(-after, 0)]
        indices = rewriter.const(f"{node.name}_cells", numbers.astype(np.int64))
        last = place == len(changed) - 1
        name = node.name if last else f"{node.name}_axis{axes[k]}"
        source = rewriter.node("Gather", [source, indices], name, node.output[0] if last else "", axis=axes[k])
    if not changed:
        rewriter.node("Identity", [source], node.name, node.output[0])
    return True


def _resize(node: onnx.NodeProto, rewriter: Rewriter) -> bool:
    """Nearest resizing as Gather with the indices that ONNX defines."""
    graph, attrs = rewriter.graph, attrs_of(node)
    mode = attrs.get("mode", "nearest")
    shape, target = graph.shape(node.input[0]), graph.shape(node.output[0])
    how = attrs.get("coordinate_transformation_mode", "half_pixel")
    if shape == target and how != "tf_crop_and_resize":
        rewriter.node("Identity", [node.input[0]], node.name, node.output[0])
        return True
    if (mode.decode() if isinstance(mode, bytes) else mode) != "nearest":
        return False
    scales = _scales(node, graph)
    legacy = node.op_type == "Upsample" or graph.opset < 11
    how = "asymmetric" if legacy else how
    rounding = "floor" if legacy else attrs.get("nearest_mode", "round_prefer_floor")
    if how == "tf_crop_and_resize":
        return False
    source = node.input[0]
    changed = [axis for axis in range(len(shape)) if shape[axis] != target[axis]]
    for place, axis in enumerate(changed):
        scale = scales[axis] if scales is not None else target[axis] / shape[axis]
        numbers = nearest_cells(shape[axis], target[axis], scale, str(how), str(rounding))
        indices = rewriter.const(f"{node.name}_cells", numbers)
        last = place == len(changed) - 1
        name = node.name if last else f"{node.name}_axis{axis}"
        source = rewriter.node("Gather", [source, indices], name, node.output[0] if last else "", axis=axis)
    if not changed:
        rewriter.node("Identity", [source], node.name, node.output[0])
    return True


def _scales(node: onnx.NodeProto, graph: Graph) -> list[float] | None:
    """Scales by axis where the node states them; None where it states sizes, or only some axes."""
    if node.op_type == "Upsample" and graph.opset < 9:
        return [float(v) for v in attrs_of(node)["scales"]]
    position = 1 if node.op_type == "Upsample" or graph.opset < 11 else 2
    if len(node.input) <= position or node.input[position] not in graph.consts:
        return None
    values = [float(v) for v in graph.consts[node.input[position]].reshape(-1)]
    axes = attrs_of(node).get("axes")
    if not values:
        return None
    if axes is None:
        return values
    rank = len(graph.shape(node.input[0]))
    full = [1.0] * rank
    for axis, value in zip(axes, values, strict=True):
        full[axis % rank] = value
    return full


def nearest_cells(size: int, outputs: int, scale: float, how: str, rounding: str) -> np.ndarray:
    """The input position of every output position, int64 (ONNX Resize, mode nearest)."""
    at = np.arange(outputs, dtype=np.float64)
    if how == "align_corners":
        place = at * (size - 1) / (outputs - 1) if outputs > 1 else np.zeros(1)
    elif how == "asymmetric":
        place = at / scale
    elif how == "pytorch_half_pixel" and outputs == 1:
        place = np.zeros(1)
    elif how == "half_pixel_symmetric":
        adjusted = outputs / (scale * size)
        place = size / 2 * (1 - adjusted) + (at + 0.5) / scale - 0.5
    else:
        place = (at + 0.5) / scale - 0.5
    if rounding == "floor":
        cells = np.floor(place)
    elif rounding == "ceil":
        cells = np.ceil(place)
    elif rounding == "round_prefer_ceil":
        cells = np.floor(place + 0.5)
    else:
        cells = np.ceil(place - 0.5)
    return np.clip(cells, 0, size - 1).astype(np.int64)


_REWRITES = {
    **dict.fromkeys(WINDOWED, _one_dimensional),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
