"""Convolutions with kernels beyond what the machine takes, as speech networks begin with (short-time Fourier transforms)."""

from __future__ import annotations

import numpy as np
import onnx

from ....machine.isa import field_maximum
from ...graph import Graph, attrs_of, remade
from ...writer import Writer

LARGEST_KERNEL = field_maximum("CONV", "kernel_h")


def shorten(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """A Conv of a kernel beyond the machine's becomes one of a shorter kernel over more channels, exactly."""
    return fold_stride(node, graph, writer) or split_taps(node, graph, writer)


def split_taps(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """A Conv of K taps along an axis: copies of its input shifted by T taps become channels, so that T taps are left.

    The kernel gets zeros up to a multiple of T, and so does the input's end.
    """
    attrs, shape, weight = attrs_of(node), graph.shape(node.input[0]), graph.consts.get(node.input[1])
    if weight is None or attrs.get("auto_pad", "NOTSET") != "NOTSET" or len(shape) > 4:
        return False
    spatial = len(shape) - 2
    long = [axis for axis in range(spatial) if weight.shape[2 + axis] > LARGEST_KERNEL]
    if not long:
        return False
    axis = long[0]
    kernel, groups = weight.shape[2 + axis], int(attrs.get("group", 1))
    copies = -(-kernel // LARGEST_KERNEL)
    taps = -(-kernel // copies)
    pads = [int(pad) for pad in attrs.get("pads", [0] * 2 * spatial)]
    stride, dilation = (int(attrs.get(name, [1] * spatial)[axis]) for name in ("strides", "dilations"))
    read = (graph.shape(node.output[0])[2 + axis] - 1) * stride + (taps - 1) * dilation + 1
    before, size = pads[axis], shape[2 + axis]
    after = max((copies - 1) * taps * dilation + read - before - size, 0)
    source = node.input[0]
    if before or after:
        amounts = [0] * 2 * len(shape)
        amounts[2 + axis], amounts[len(shape) + 2 + axis] = before, after
        source = writer.pad(source, amounts, np.zeros((), weight.dtype), f"{node.name}:pad")
    begins = [copy * taps * dilation for copy in range(copies)]
    shifted = [
        writer.slice(source, [begin], [begin + read], [2 + axis], f"{node.name}:shift{copy}")
        for copy, begin in enumerate(begins)
    ]
    deep = writer.node("Concat", shifted, f"{node.name}:deep", axis=1)
    channels = shape[1]
    if groups > 1:  # the copies of a group's channels lie together
        order = np.arange(copies * channels).reshape(copies, groups, -1).transpose(1, 0, 2).reshape(-1)
        deep = writer.gather(deep, order.tolist(), 1, f"{node.name}:order")
    fill = [(0, 0)] * weight.ndim
    fill[2 + axis] = (0, copies * taps - kernel)
    filled = np.pad(weight, fill)
    parts = np.split(filled, copies, axis=2 + axis)
    key = writer.const(f"{node.name}_split", np.concatenate(parts, axis=1))
    pads[axis] = pads[spatial + axis] = 0
    kernel_shape = [taps if k == axis else size for k, size in enumerate(weight.shape[2:])]
    writer.keep(remade(node, [deep, key, *node.input[2:]], kernel_shape=kernel_shape, pads=pads))
    return True


def fold_stride(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """A Conv over [N, C, L] or [N, C, 1, L] with stride s: s steps of the line become channels, K taps ceil(K / s).

    Exact; the kernel gets zeros up to a multiple of s, and so does the line's end.
    """
    attrs, shape, weight = attrs_of(node), graph.shape(node.input[0]), graph.consts.get(node.input[1])
    if weight is None or weight.shape[-1] <= LARGEST_KERNEL or attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return False
    spatial = len(shape) - 2
    pads, out = attrs.get("pads", [0] * 2 * spatial), graph.shape(node.output[0])
    if spatial == 2 and (shape[2] != 1 or weight.shape[2] != 1 or pads[0] or pads[2]) or spatial > 2:
        return False
    stride, before, outputs = int(attrs.get("strides", [1])[-1]), int(pads[spatial - 1]), out[-1]
    if stride == 1 or attrs.get("dilations", [1])[-1] != 1:
        return False
    shape, weight = (*shape[:2], shape[-1]), weight.reshape(*weight.shape[:2], -1)
    taps = -(-weight.shape[2] // stride)
    length = stride * (outputs + taps - 1)
    n, channels, line = shape
    source = node.input[0]
    kept = min(line, length - before)  # what lies behind the last window is not read
    if kept < line:
        source = writer.slice(source, [0], [kept], [spatial + 1], f"{node.name}:cut")
    if before or length - before - kept:
        amounts = [*[0] * (spatial + 1), before, *[0] * (spatial + 1), length - before - kept]
        source = writer.pad(source, amounts, np.zeros((), weight.dtype), f"{node.name}:pad")
    rows = writer.reshape(source, (n, channels, length // stride, stride), f"{node.name}:rows")
    turned = writer.transpose(rows, [0, 1, 3, 2], f"{node.name}:turn")
    deep = writer.reshape(turned, (n, channels * stride, length // stride), f"{node.name}:deep")
    filled = np.pad(weight, [(0, 0), (0, 0), (0, taps * stride - weight.shape[2])])
    folded = filled.reshape(*weight.shape[:2], taps, stride).transpose(0, 1, 3, 2).reshape(len(weight), -1, taps)
    key = writer.const(f"{node.name}_folded", folded)
    made = writer.node(
        "Conv", [deep, key, *node.input[2:]], node.name, node.output[0] if spatial == 1 else "", kernel_shape=[taps],
        group=int(attrs.get("group", 1)),
    )  # fmt: skip
    if spatial == 2:
        writer.reshape(made, out, f"{node.name}:plane", node.output[0])
    return True
