"""Operators that move data, spelled with Slice, Gather, Reshape, Transpose and Pad; Resize by weights where it has to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from ...graph import Graph, attrs_of, remade
from ...writer import Writer
from .resampling import Resampling, resampling

TVM_LINEAR_MODES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")


def _split(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Split -> one Slice per output: NAME:0, NAME:1, ..."""
    axis = attrs_of(node).get("axis", 0) % max(1, len(graph.shape(node.input[0])))
    start = 0
    for k, out in enumerate(node.output):
        end = start + (graph.shape(out)[axis] if out else 0)
        if out:
            writer.slice(node.input[0], [start], [end], [axis], f"{node.name}:{k}", out)
        start = end
    return True


def _concat(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Operands without values are left out: TVM cannot store them."""
    full = [name for name in node.input if 0 not in graph.shape(name)]
    if not full or len(full) == len(node.input):
        return False
    if len(full) == 1:
        writer.node("Identity", full, node.name, node.output[0])
    else:
        writer.keep(remade(node, full))
    return True


def slice_bounds(node: onnx.NodeProto, graph: Graph) -> dict[int, tuple[int, int, int]] | None:
    """First index, end and step of a Slice by axis, as Python's range; None where they are not constant."""
    attrs = attrs_of(node)
    shape = graph.shape(node.input[0])
    given: list[list[int] | None] = [attrs.get("starts"), attrs.get("ends"), attrs.get("axes"), None]
    for k, name in enumerate(node.input[1:]):
        if name and name not in graph.consts:
            return None
        if name:
            given[k] = graph.consts[name].reshape(-1).tolist()
    starts, ends, axes, steps = given
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else [a % len(shape) for a in axes]
    steps = steps or [1] * len(starts)
    return {a: slice(s, e, t).indices(shape[a]) for s, e, a, t in zip(starts, ends, axes, steps, strict=True)}


def _slice(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """A Slice that runs backwards is a Gather."""
    bounds = slice_bounds(node, graph)
    if bounds is None or all(step > 0 for _, _, step in bounds.values()) or 0 in graph.shape(node.output[0]):
        return False
    source = node.input[0]
    for k, (axis, (start, end, step)) in enumerate(bounds.items()):
        last = k == len(bounds) - 1
        name, out = (node.name, node.output[0]) if last else (f"{node.name}_axis{axis}", "")
        source = writer.gather(source, range(start, end, step), axis, name, out)
    return True


def pad_amounts(node: onnx.NodeProto, graph: Graph) -> tuple[list[int], list[int], Any] | None:
    """Cells before and after every axis, and the value, of a Pad; None where they are not constant."""
    attrs = attrs_of(node)
    rank = len(graph.shape(node.input[0]))
    if graph.opset < 11:
        amounts = [int(v) for v in attrs.get("pads", [0] * 2 * rank)]
        return amounts[:rank], amounts[rank:], attrs.get("value", 0.0)
    if any(i and i not in graph.consts for i in node.input[1:]):
        return None
    given = [graph.consts[i].reshape(-1) if i else None for i in node.input[1:]] + [None] * 3
    amounts = [int(v) for v in given[0]] if given[0] is not None else []
    axes = [int(a) % rank for a in given[2]] if given[2] is not None else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = amounts[k], amounts[k + len(axes)]
    return before, after, given[1][0] if given[1] is not None else 0


def _pad(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Constant: negative amounts become a Slice, `axes` all axes. Edge, reflect and wrap: a Gather per axis."""
    found = pad_amounts(node, graph)
    if found is None:
        return False
    before, after, value = found
    mode = attrs_of(node).get("mode", "constant")
    shape = graph.shape(node.input[0])
    if mode != "constant":
        axes = [k for k in range(len(shape)) if before[k] or after[k]]
        source = node.input[0]
        for k, axis in enumerate(axes):
            name, out = (node.name, node.output[0]) if k == len(axes) - 1 else (f"{node.name}_axis{axis}", "")
            indices = _mirrored(np.arange(shape[axis]), before[axis], after[axis], mode)
            if indices is None:
                return False
            source = writer.gather(source, indices, axis, name, out)
        if not axes:
            writer.node("Identity", [source], node.name, node.output[0])
        return True
    full = graph.opset < 18 or len(node.input) < 4 or not node.input[3]
    if min(before + after, default=0) >= 0:
        if not any(before + after):
            writer.node("Identity", [node.input[0]], node.name, node.output[0])
            return True
        if full:
            return False
        writer.pad(node.input[0], before + after, value, node.name, node.output[0])
        return True
    axes = [k for k in range(len(shape)) if min(before[k], after[k]) < 0]
    starts = [max(0, -before[k]) for k in axes]
    ends = [shape[k] - max(0, -after[k]) for k in axes]
    rest = [max(0, v) for v in before + after]
    if any(s >= e for s, e in zip(starts, ends, strict=True)):
        return False
    cut = writer.slice(
        node.input[0], starts, ends, axes, node.name if not any(rest) else f"{node.name}:cut",
        "" if any(rest) else node.output[0],
    )  # fmt: skip
    if any(rest):
        writer.pad(cut, rest, value, node.name, node.output[0])
    return True


def _mirrored(line: np.ndarray, before: int, after: int, mode: str) -> list[int] | None:
    """Indices of a padded axis; cells are cut off first where the amounts are negative."""
    line = line[max(0, -before) : len(line) - max(0, -after)]
    if len(line) == 0 or mode not in ("edge", "reflect", "wrap"):
        return None
    kind: Any = mode
    return np.pad(line, (max(0, before), max(0, after)), mode=kind).tolist()


def _depth_to_space(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    n, c, h, w = graph.shape(node.input[0])
    block = attrs_of(node)["blocksize"]
    depth = c // (block * block)
    if attrs_of(node).get("mode", "DCR") == "DCR":
        split, perm = [n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2]
    else:
        split, perm = [n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3]
    parts = writer.reshape(node.input[0], split, f"{node.name}:in")
    turned = writer.transpose(parts, perm, node.name)
    writer.reshape(turned, [n, depth, h * block, w * block], f"{node.name}:out", node.output[0])
    return True


def _space_to_depth(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    n, c, h, w = graph.shape(node.input[0])
    block = attrs_of(node)["blocksize"]
    parts = writer.reshape(node.input[0], [n, c, h // block, block, w // block, block], f"{node.name}:in")
    perm = [0, 1, 3, 5, 2, 4] if attrs_of(node).get("mode", "DCR") == "CRD" else [0, 3, 5, 1, 2, 4]
    turned = writer.transpose(parts, perm, node.name)
    writer.reshape(turned, [n, c * block * block, h // block, w // block], f"{node.name}:out", node.output[0])
    return True


def _resize(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Nearest -> a Gather per axis. Linear and cubic stay where TVM means the same; otherwise weights per axis."""
    how = resampling(node, graph)
    if how is None or 0 in how.sizes_in + how.sizes_out:
        return False
    axes = how.changed
    if not axes:
        writer.node("Identity", [node.input[0]], node.name, node.output[0])
        return True
    outside = how.coordinates == "tf_crop_and_resize" and any(
        how.positions(a).min() < 0 or how.positions(a).max() > how.sizes_in[a] - 1 for a in axes
    )
    if outside or how.mode != "nearest" and by_tvm(how):
        return False
    source = node.input[0]
    for k, axis in enumerate(axes):
        name, out = (node.name, node.output[0]) if k == len(axes) - 1 else (f"{node.name}_axis{axis}", "")
        if how.mode == "nearest":
            source = writer.gather(source, how.indices(axis).tolist(), axis, name, out)
        elif how.mode == "linear" and not how.antialias:
            source = _interpolated(source, how, axis, writer, graph.types[node.input[0]][1], name, out)
        else:
            weights = _axis_weights(node, how, axis, graph)
            source = _weighted(source, weights, len(how.sizes_in), axis, writer, name, out)
    return True


def by_tvm(how: Resampling) -> bool:
    """Whether one resize2d of TVM computes this Resize; it takes its scales from the sizes."""
    plane = len(how.sizes_in) == 4 and set(how.changed) <= {2, 3}
    corners = how.coordinates == "align_corners"  # the scale does not matter there, but TVM divides by size - 1
    if not plane or how.antialias or not all(how.exact(a) or corners for a in (2, 3)):
        return False
    if corners and min(how.sizes_out[2:]) == 1:
        return False
    if how.mode == "cubic":
        return how.coordinates in TVM_LINEAR_MODES and not how.exclude_outside
    return how.mode == "linear" and how.coordinates in TVM_LINEAR_MODES


def _interpolated(source: str, how: Resampling, axis: int, writer: Writer, onnx_dtype: int, name: str, out: str) -> str:
    """x[low] * (1 - weight) + x[high] * weight along one axis."""
    low, high, weight = how.neighbours(axis)
    shape = [-1] + [1] * (len(how.sizes_in) - axis - 1)
    dtype = helper.tensor_dtype_to_np_dtype(onnx_dtype)
    parts = []
    for label, index, part in (("low", low, 1 - weight), ("high", high, weight)):
        taken = writer.gather(source, index.tolist(), axis, f"{name}:{label}")
        factor = writer.const(f"{name}_{label}_weight", part.reshape(shape), dtype)
        parts.append(writer.node("Mul", [taken, factor], f"{name}:{label}_part"))
    return writer.node("Add", parts, name, out)


def _axis_weights(node: onnx.NodeProto, how: Resampling, axis: int, graph: Graph) -> np.ndarray:
    """[in, out] such that row · weights is the Resize along one axis: the reference applied to the identity."""
    size = how.sizes_in[axis]
    attrs = {k: v for k, v in attrs_of(node).items() if k not in ("axes", "keep_aspect_ratio_policy", "scales")}
    one = remade(node, ["x", "roi", "scales"], ["y"], drop=[a.name for a in node.attribute], **attrs)
    by_size = how.exact(axis) or how.coordinates == "align_corners"
    if by_size:  # a rounded scale might lose the last output
        one = remade(one, ["x", "roi", "", "sizes"])
    inputs = [helper.make_tensor_value_info(n, 7 if n == "sizes" else 1, None) for n in one.input if n]
    proto = helper.make_graph([one], "weights", inputs, [helper.make_tensor_value_info("y", 1, None)])
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", max(graph.opset, 11))], ir_version=8)
    start, end = how.rois[axis]
    feeds: dict[str, np.ndarray] = {
        "x": np.eye(size, dtype=np.float32),
        "roi": np.asarray([0, start, 1, end], np.float32),
    }
    if by_size:
        feeds["sizes"] = np.asarray([size, how.sizes_out[axis]], np.int64)
    else:
        feeds["scales"] = np.asarray([1, how.scales[axis]], np.float32)
    return np.asarray(ReferenceEvaluator(model).run(None, feeds)[0], np.float32)


def _weighted(source: str, weights: np.ndarray, rank: int, axis: int, writer: Writer, name: str, out: str) -> str:
    perm = [*(a for a in range(rank) if a != axis), axis]
    back = [perm.index(a) for a in range(rank)]
    key = writer.const(f"{name}_weights", weights)
    last = axis == rank - 1
    turned = source if last else writer.transpose(source, perm, f"{name}:in")
    product = writer.node("MatMul", [turned, key], name, out if last else "")
    return product if last else writer.transpose(product, back, f"{name}:out", out)


def _range(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Of computed ends, and a length that the model states: start + delta * [0, 1, ...]."""
    start, delta = node.input[0], node.input[2]
    (length,), kind = graph.types[node.output[0]]
    if not length:
        return False
    steps = np.arange(length).astype(helper.tensor_dtype_to_np_dtype(kind))
    if delta in graph.consts:
        scaled = writer.const(f"{node.name}_steps", steps * graph.consts[delta].reshape(()))
    else:
        scaled = writer.node("Mul", [delta, writer.const(f"{node.name}_steps", steps)], f"{node.name}_steps")
    writer.node("Add", [start, scaled], node.name, node.output[0])
    return True


EXPANSIONS: dict[str, Callable[[onnx.NodeProto, Graph, Writer], bool]] = {
    "Concat": _concat,
    "Split": _split,
    "Range": _range,
    "Slice": _slice,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Resize": _resize,
    "Upsample": _resize,
}
