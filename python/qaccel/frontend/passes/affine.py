"""Folding of per-channel affine operators (BatchNormalization, Mul, Add, Sub, Div by a constant) into the layer before.

After a convolution y = conv(x, w) + b, an affine step a*y + c is conv(x, a*w) + (a*b + c); a and c are computed in
float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from ...errors import UserError
from ...model import Given
from ..graph import Graph, attrs_of, fresh_name, remade

Affine = tuple[np.ndarray, np.ndarray, str]  # gain[C], shift[C] in float64, the tensor they apply to


def fold_affine(graph: Graph) -> Graph:
    """Folds affine steps into Conv, ConvTranspose, Gemm and MatMul; a BatchNormalization left over is Mul and Add.

    A convolution whose weights came quantized takes in an addition alone.
    """
    uses, producers = graph.uses(), graph.producers()
    consts, given = dict(graph.consts), graph.given
    replaced: dict[str, onnx.NodeProto | None] = {}
    extra: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        affine = _affine(node, graph)
        if affine is None:
            continue
        gain, shift, source = affine
        layer = producers.get(source)
        layer = replaced.get(layer.name, layer) if layer is not None else None
        if layer is not None and layer.output[0] == source and uses[source] == 1:
            if given is not None and layer.name in given.weights:
                taken = _with_bias(layer, gain, shift, list(node.output[:1]), consts, given)
                if taken is not None:
                    replaced[layer.name], given = taken
                    replaced[node.name] = None
                    producers[node.output[0]] = taken[0]
                continue
            folded = _folded(layer, gain, shift, list(node.output[:1]), consts, graph)
            if folded is not None:
                replaced[layer.name] = folded
                replaced[node.name] = None
                producers[node.output[0]] = folded
                continue
        if node.op_type == "BatchNormalization":
            extra[node.name] = _mul_add(node, gain, shift, consts, graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        now = replaced.get(node.name, node)
        nodes += extra.get(node.name, [] if now is None else [now])
    return replace(graph, nodes=tuple(nodes), consts=consts, given=given)


def with_statistics(graph: Graph) -> Graph:
    """The folded graph with what its BatchNormalizations say of their outputs: bias and |scale| are mean and standard
    deviation of every channel over the training data. Source: Nagel et al., arXiv 1906.04721, section 4.2.1.
    """
    found = {}
    for node in graph.nodes:
        if node.op_type == "BatchNormalization" and all(i in graph.consts for i in node.input[1:3]):
            scale, bias = (np.asarray(graph.consts[i], np.float64) for i in node.input[1:3])
            found[node.output[0]] = (bias, np.abs(scale))
    return replace(graph, statistics=found)


def _affine(node: onnx.NodeProto, graph: Graph) -> Affine | None:
    """What the node does to each channel (axis 1), or None if it is no such step."""
    if node.op_type == "BatchNormalization":
        return _batch_norm(node, graph)
    if node.op_type not in ("Mul", "Add", "Sub", "Div") or graph.types[node.output[0]][1] != onnx.TensorProto.FLOAT:
        return None
    first, second = node.input
    if second in graph.consts and first not in graph.consts:
        source, value, swapped = first, graph.consts[second], False
    elif first in graph.consts and second not in graph.consts:
        source, value, swapped = second, graph.consts[first], True
    else:
        return None
    shape = graph.shape(source)
    if graph.shape(node.output[0]) != shape or len(shape) < 2:
        return None
    full = (1,) * (len(shape) - value.ndim) + value.shape
    if any(size != 1 and axis != 1 for axis, size in enumerate(full)):
        return None
    exact = graph.given.biases.get(node.name) if graph.given is not None else None
    value = exact if exact is not None and exact.size == value.size else value
    v = np.broadcast_to(value.astype(np.float64).reshape(-1), shape[1])
    one, zero = np.ones_like(v), np.zeros_like(v)
    if node.op_type == "Div" and (swapped or np.any(v == 0)):
        return None
    steps = {"Mul": (v, zero), "Add": (one, v), "Sub": (-one, v) if swapped else (one, -v)}
    gain, shift = steps[node.op_type] if node.op_type != "Div" else (1.0 / v, zero)
    return gain, shift, source


def _batch_norm(node: onnx.NodeProto, graph: Graph) -> Affine | None:
    attrs = attrs_of(node)
    if attrs.get("training_mode") or attrs.get("spatial", 1) != 1 or attrs.get("is_test", 1) != 1:
        raise UserError(f"node '{node.name}': BatchNormalization in training mode; export the model for inference")
    if not all(i in graph.consts for i in node.input[1:]):
        return None
    scale, bias, mean, var = (graph.consts[i].astype(np.float64).reshape(-1) for i in node.input[1:5])
    gain = scale / np.sqrt(var + attrs.get("epsilon", 1e-5))
    if not np.all(np.isfinite(gain)):
        raise UserError(
            f"node '{node.name}': BatchNormalization has a variance of {float(np.nanmin(var)):g}; "
            "it must not be negative"
        )
    return gain, bias - mean * gain, node.input[0]


def _folded(
    layer: onnx.NodeProto,
    gain: np.ndarray,
    shift: np.ndarray,
    outputs: list[str],
    consts: dict[str, np.ndarray],
    graph: Graph,
) -> onnx.NodeProto | None:
    """`layer` with the affine step in its weights and bias, which are added to `consts`; None if it cannot take it."""
    if layer.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or layer.input[1] not in consts:
        return None
    if len(layer.input) > 2 and layer.input[2] and layer.input[2] not in consts:
        return None
    attrs = attrs_of(layer)
    weight = consts[layer.input[1]]
    if weight.dtype != np.float32:
        return None
    has_bias = len(layer.input) > 2 and bool(layer.input[2])
    bias = consts[layer.input[2]].astype(np.float64) if has_bias else np.zeros(())
    drop: tuple[str, ...] = ()
    if layer.op_type == "Conv":
        scaled = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
    elif layer.op_type == "ConvTranspose":
        groups = attrs.get("group", 1)
        grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        scaled = (grouped * gain.reshape(groups, 1, -1, 1)).reshape(weight.shape)
    else:
        if weight.ndim != 2 or len(graph.shape(layer.input[0])) != 2:
            return None
        weight = weight.T if attrs.get("transB") else weight
        if bias.size not in (1, weight.shape[1]) or bias.ndim == 2 and bias.shape[0] != 1:
            return None
        scaled = weight * (attrs.get("alpha", 1.0) * gain)
        bias = bias.reshape(-1) * attrs.get("beta", 1.0)
        drop = ("alpha", "beta", "transB")
    names = []
    new_bias = np.broadcast_to(bias * gain + shift, gain.shape)
    for suffix, value in (("weight", scaled), ("bias", new_bias)):
        name = fresh_name(f"{layer.name}_folded_{suffix}", consts)
        consts[name] = np.ascontiguousarray(value, np.float32)
        names.append(name)
    folded = remade(layer, [layer.input[0], *names], outputs, drop)
    if layer.op_type == "MatMul":
        folded.op_type = "Gemm"
    return folded


def _with_bias(
    layer: onnx.NodeProto, gain: np.ndarray, shift: np.ndarray, outputs: list[str], consts: dict[str, np.ndarray], given: Given
) -> tuple[onnx.NodeProto, Given] | None:  # fmt: skip
    """A convolution whose weights came quantized with the shift in its bias, which is added to `consts` and exactly to what is
    given; None for a gain, because its integers and scales are not ours to change, and for matrix products."""
    has_bias = len(layer.input) > 2 and bool(layer.input[2])
    if layer.op_type not in ("Conv", "ConvTranspose") or np.any(gain != 1) or has_bias and layer.input[2] not in consts:
        return None
    old = consts[layer.input[2]].astype(np.float64) if has_bias else np.zeros(())
    exact = given.biases.get(layer.name, old).reshape(old.shape) + shift
    name = fresh_name(f"{layer.name}_bias", consts)
    consts[name] = exact.astype(np.float32)
    made = remade(layer, [*layer.input[:2], name], outputs)
    return made, replace(given, biases={**given.biases, layer.name: exact})


def _mul_add(
    node: onnx.NodeProto, gain: np.ndarray, shift: np.ndarray, consts: dict[str, np.ndarray], graph: Graph
) -> list[onnx.NodeProto]:
    """BatchNormalization as Mul and Add with constants [C,1,1,..]; the Add keeps the node's name."""
    rank = len(graph.shape(node.input[0]))
    names = []
    for suffix, value in (("gain", gain), ("shift", shift)):
        name = fresh_name(f"{node.name}_{suffix}", consts)
        consts[name] = value.astype(graph.consts[node.input[1]].dtype).reshape(1, -1, *[1] * (rank - 2))
        names.append(name)
    taken = {n.name for n in graph.nodes} | set(graph.inputs)
    scaled = fresh_name(f"{node.output[0]}_scaled", graph.types)
    return [
        helper.make_node("Mul", [node.input[0], names[0]], [scaled], name=fresh_name(f"{node.name}_mul", taken)),
        helper.make_node("Add", [scaled, names[1]], [node.output[0]], name=node.name),
    ]
