"""DFT and STFT with constant parameters: a product with the Fourier matrix, a convolution by its windowed rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from ...graph import Graph, attrs_of
from ...inputs import check_constant
from ...writer import Writer


def _dft(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Along one axis of [..., 1 or 2]: real and imaginary parts lie side by side in rows of one product."""
    check_constant(node, node.input[1:], graph)
    attrs, source = attrs_of(node), node.input[0]
    shape, out_shape = graph.shape(source), graph.shape(node.output[0])
    given = [graph.consts.get(name) if name else None for name in [*node.input[1:], "", ""][:2]]
    if out_shape[-1] != 2:
        return False
    axis = int(given[1].reshape(())) if given[1] is not None else attrs.get("axis", 1 if graph.opset < 20 else -2)
    axis %= len(shape)
    size, parts, bins = shape[axis], shape[-1], out_shape[axis]
    length = int(given[0].reshape(())) if given[0] is not None else size
    matrix = _fourier(length, bins, bool(attrs.get("inverse", 0)))[:size, :parts]
    full = np.zeros((size, parts, bins, 2))
    full[: len(matrix)] = matrix
    rows = [k for k in range(len(shape) - 1) if k != axis]
    order = [*rows, axis, len(shape) - 1]
    turned = writer.transpose(source, order, f"{node.name}_last")
    flat = writer.reshape(turned, [*(shape[k] for k in rows), size * parts], f"{node.name}_flat")
    weight = writer.const(f"{node.name}_matrix", full.reshape(size * parts, bins * 2), np.float32)
    made = writer.node("MatMul", [flat, weight], f"{node.name}_product")
    split = writer.reshape(made, [*(shape[k] for k in rows), bins, 2], f"{node.name}_parts")
    writer.transpose(split, [order.index(k) for k in range(len(shape))], node.name, node.output[0])
    return True


def _stft(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """Of [batch, length, 1 or 2]: a convolution over the length, one output channel for each bin's real and imaginary part."""
    check_constant(node, node.input[1:], graph)
    step, window, length = (graph.consts.get(name) for name in [*node.input[1:], "", ""][:3])
    batch, size, parts = graph.shape(node.input[0])
    frames, bins = graph.shape(node.output[0])[1:3]
    given = length.reshape(()) if length is not None else window.size if window is not None else 0
    if step is None or not given:
        return False
    taps = int(given)
    kernel = _fourier(taps, bins, False)[:, :parts]
    if window is not None:
        kernel = kernel * window.reshape(-1, 1, 1, 1)
    weight = writer.const(
        f"{node.name}_kernel", kernel.transpose(3, 2, 1, 0).reshape(2 * bins, parts, taps), np.float32
    )
    signal = writer.transpose(node.input[0], [0, 2, 1], f"{node.name}_channels")
    made = writer.node("Conv", [signal, weight], f"{node.name}_conv", strides=[int(step.reshape(()))])
    split = writer.reshape(made, [batch, 2, bins, frames], f"{node.name}_parts")
    writer.transpose(split, [0, 3, 2, 1], node.name, node.output[0])
    return True


def _fourier(length: int, bins: int, inverse: bool) -> np.ndarray:
    """[time, part of the input, bin, part of the output] float64 of a transform of that length."""
    angle = 2 * np.pi * (np.outer(np.arange(length), np.arange(bins)) % length) / length
    cos, sin = np.cos(angle), np.sin(angle) * (1 if inverse else -1)
    matrix = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    return matrix / length if inverse else matrix


EXPANSIONS: dict[str, Callable[[onnx.NodeProto, Graph, Writer], bool]] = {"DFT": _dft, "STFT": _stft}
