"""Functions replaced by what they are defined as: those of the model, and operators that ONNX itself spells with others."""

from __future__ import annotations

import onnx
from onnx import helper, inliner, shape_inference

from ...errors import UserError, one_line
from ..inputs import graphs_of

# Operators that neither a converter nor TVM's importer knows.
SPELLED_BY_ONNX = ("Attention", "CausalConvWithState", "CenterCropPad", "LinearAttention", "RotaryEmbedding", "SwiGLU")


def spelled_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without calls of functions. Raises UserError where one cannot be spelled out."""
    if proto.functions:
        try:
            proto = inliner.inline_local_functions(proto)
        except (RuntimeError, ValueError) as err:
            raise UserError(f"the model's local functions cannot be inlined: {one_line(err)}") from err
    found = [node for node in _nodes(proto) if node.op_type in SPELLED_BY_ONNX and node.domain in ("", "ai.onnx")]
    if not found:
        return proto
    names = sorted({(node.domain, node.op_type) for node in found})
    try:  # definitions depend on the types of the operands
        return inliner.inline_selected_functions(_typed(proto), names, False, True)
    except (RuntimeError, ValueError, shape_inference.InferenceError) as err:
        node = found[0]
        raise UserError(
            f"node '{node.name or next(iter(node.output), '')}': {node.op_type} cannot be spelled with other operators "
            f"({one_line(err)}); export the model at an opset that has no such operator"
        ) from err


def _typed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types that the inliner asks for: of constants and of operands left out, too. It knows none of branches."""
    known = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in _nodes(known):
        if node.domain == "com.microsoft" and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = ""  # in the other one ONNX's inference does not know them
    typed = shape_inference.infer_shapes(known)
    for node, own in zip(_nodes(typed), _nodes(proto), strict=True):
        node.domain = own.domain
    for tensor in typed.graph.initializer:
        typed.graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    typed.graph.value_info.append(onnx.ValueInfoProto(name=""))
    return typed


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for graph in graphs_of(proto.graph) for node in graph.node]
