"""Shapes and constants of an ONNX graph in one forward walk.

Every node is inferred with ONNX's own type inference, given the values of its small constant inputs; a node whose
inputs are all constant is evaluated with ONNX's reference implementation. Shape arithmetic (Shape, Gather, Slice,
Concat, Cast, ...) therefore disappears as soon as the input shapes are static.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ...errors import UserError, one_line
from ..graph import DOMAIN, Graph, NotStatic, TensorType, attrs_of, const_type, fresh_name, pruned, remade, substitute
from ..inputs import fixing
from . import contrib, subgraphs

# A constant larger than its operands (Expand, Tile, ConstantOfShape, ...) is only stored below this size.
GROWN_CONSTANT_BYTES = 1 << 30
# Constants up to this many elements are shown to shape inference (shapes, axes, pads, scales).
SHAPE_OPERAND_ELEMENTS = 4096
LARGEST_TENSOR_ELEMENTS = (1 << 31) - 1  # of an activation; what is larger is a damaged file or a wrong shape
# Random values must not be frozen, and a quantized constant must keep its integers and its scale.
NEVER_FOLDED = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
    "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip
# Sized by operands that are rarely computed; where they are, the model's own word on the result's shape is taken. What
# is sized by the data itself (NonZero, Compress, Unique) has no static shape, whatever one test input gave.
SIZED_BY_OPERANDS = {
    "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split", "Tile", "Expand", "Pad", "Resize", "Upsample", "TopK", "OneHot",
    "Range", "ConstantOfShape", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
}  # fmt: skip
# Functions of ONNX that its inference knows nothing of; their output has the type of their first operand.
KEEPS_TYPE = {
    "GroupNormalization", "MeanVarianceNormalization", "LpNormalization", "Shrink", "RMSNormalization",
    "RotaryEmbedding",
}  # fmt: skip


def fold(graph: Graph) -> Graph:
    """Static types for all tensors; constant nodes evaluated; Identity, Dropout, Cast to the same type dropped.

    Raises UserError for a node whose output shape depends on data, for training-mode Dropout and for control flow
    that does not fold.
    """
    consts = dict(graph.consts)
    types: dict[str, TensorType] = {name: graph.types[name] for name in graph.inputs}
    alias: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    pending = list(reversed(graph.nodes))
    taken = {name for n in graph.nodes for name in n.output} | set(consts) | set(graph.inputs)
    while pending:
        node = pending.pop()
        if any(i in alias for i in node.input):
            node = remade(node, inputs=[alias.get(i, i) for i in node.input])
        written_out = _written_out(node, consts, types, taken, graph.opset)
        if written_out:
            pending.extend(reversed(written_out))
            continue
        if contrib.is_known(node):
            ranks = {
                i: len((const_type(consts[i]) if i in consts else types[i])[0])
                for i in node.input
                if i in {**consts, **types}
            }
            pending.extend(reversed(contrib.spelled_out(node, ranks, graph.opset)))
            continue
        if node.op_type == "STFT" and "onesided" not in attrs_of(node):
            node = remade(node, onesided=1)  # the default, which ONNX's inference takes for 0
        _refuse_control_flow(node, nodes, types, graph)
        source = _passed_through(node, types, consts, graph.opset)
        if source is not None:
            alias[node.output[0]] = source
            if node.op_type == "Dropout" and len(node.output) > 1 and node.output[1]:
                shape = consts[source].shape if source in consts else types[source][0]
                consts[node.output[1]] = np.ones(shape, np.bool_)  # nothing is dropped
            continue
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            consts[node.output[0]] = _constant_value(node)
            continue
        values = _evaluate(node, consts, types, graph)
        if values is not None:
            consts.update(values)
            continue
        try:
            types.update(_infer(node, consts, types, graph))
        except NotStatic as refusal:
            sizes = node.input if node.op_type == "Range" else node.input[1:]
            way_out = refusal.way_out or fixing(sizes, nodes, types, graph.inputs) or _BY_TVM
            raise NotStatic(refusal.reason, way_out) from refusal
        nodes.append(node)
    for out in graph.outputs:  # a constant output is an Identity of a constant with another name
        if out in consts:
            alias[out] = fresh_name(f"{out}_value", consts)
            consts[alias[out]] = consts.pop(out)
    return pruned(substitute(replace(graph, nodes=tuple(nodes), consts=consts, types=types), alias))


_BY_TVM = (
    ": cut it off and run it behind the module, or take --target llvm without --bits and data, for which TVM may import it as "
    "it is"
)


def _written_out(
    node: onnx.NodeProto, consts: Mapping[str, np.ndarray], types: Mapping[str, TensorType], taken: set[str], opset: int
) -> list[onnx.NodeProto]:
    """The graph within an If, Loop or Scan as nodes of its own; empty where it depends on data. `taken` grows by its tensors."""
    if node.domain not in ("", "ai.onnx"):
        return []
    if node.op_type == "If" and node.input[0] in consts:
        return subgraphs.branch(node, bool(consts[node.input[0]].reshape(-1)[0]), taken)
    if node.op_type == "Loop":
        return subgraphs.loop_step(node, consts, taken, opset)
    if node.op_type == "Scan":
        shapes = {name: consts[name].shape if name in consts else types[name][0] for name in node.input if name}
        return subgraphs.scan_steps(node, shapes, taken, opset)
    return []


def _refuse_control_flow(
    node: onnx.NodeProto, nodes: list[onnx.NodeProto], types: Mapping[str, TensorType], graph: Graph
) -> None:
    """Loops, and branches whose condition is not constant, cannot be compiled to a static program."""
    what = {
        "If": "chooses between two graphs by a value known only when the model runs",
        "Loop": "repeats a graph a number of times that is known only when the model runs",
        "Scan": "repeats a graph over batches (opset 8), or no times at all",
    }.get(node.op_type)
    if what is not None and node.domain in ("", "ai.onnx"):
        deciding = node.input[: 1 if node.op_type == "If" else 2]
        way_out = fixing(deciding, nodes, types, graph.inputs)
        raise NotStatic(
            f"node '{node.name}': {node.op_type} {what}; only static graphs compile"
            f"{way_out or ': export the model without control flow'}"
        )


def _passed_through(
    node: onnx.NodeProto, types: Mapping[str, TensorType], consts: Mapping[str, np.ndarray], opset: int
) -> str | None:
    """The input that this node merely repeats, or None."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Identity":
        return node.input[0]
    if node.op_type == "Dropout":
        training = len(node.input) > 2 and node.input[2] and bool(np.any(consts.get(node.input[2], True)))
        ratio = consts.get(node.input[1], 0.5) if len(node.input) > 1 and node.input[1] else 0.5
        if training and np.any(ratio != 0):
            raise UserError(
                f"node '{node.name}': Dropout in training mode cannot be compiled; export the model for inference"
            )
        # What the mask of inference is, opsets before 12 leave open.
        return node.input[0] if opset >= 12 or len(node.output) == 1 or not node.output[1] else None
    if node.op_type == "Cast":
        name = node.input[0]
        dtype = const_type(consts[name])[1] if name in consts else types[name][1] if name in types else None
        return name if dtype == attrs_of(node)["to"] else None
    return None


def _constant_value(node: onnx.NodeProto) -> np.ndarray:
    """The array of a Constant node, whichever of its attributes holds it."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(attribute), np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(attribute), np.int64)
    raise UserError(
        f"node '{node.name}': Constant holds no numeric tensor; sparse and string constants are unsupported"
    )


def _evaluate(
    node: onnx.NodeProto, consts: Mapping[str, np.ndarray], types: Mapping[str, TensorType], graph: Graph
) -> dict[str, np.ndarray] | None:
    """Values of a node whose inputs are constants, or of Shape and Size of anything; None if it stays in the graph."""
    if node.op_type in NEVER_FOLDED or any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
        return None
    if node.op_type == "Clip" and node.input[0] in consts and consts[node.input[0]].dtype in (np.int8, np.uint8):
        return None  # it says how many bits quantized weights have
    if node.op_type == "Shape" and node.input[0] in types:
        attrs = attrs_of(node)
        shape = types[node.input[0]][0]
        return {node.output[0]: np.asarray(shape[attrs.get("start", 0) : attrs.get("end", len(shape))], np.int64)}
    if node.op_type == "Size" and node.input[0] in types:
        return {node.output[0]: np.asarray(np.prod(types[node.input[0]][0], dtype=np.int64))}
    if not all(i == "" or i in consts for i in node.input):
        return None
    used = {i: consts[i] for i in node.input if i}
    if not _small_enough(node, used, graph):
        return None
    arrays = run_alone(node, used, graph.opsets, graph.ir_version)
    return arrays if arrays is not None and all(a.dtype != object for a in arrays.values()) else None


def run_alone(
    node: onnx.NodeProto, inputs: Mapping[str, np.ndarray], opsets: Iterable[tuple[str, int]], ir_version: int
) -> dict[str, np.ndarray] | None:
    """The outputs of one node by name, as ONNX's reference computes them; None where it does not implement the node."""
    given = [helper.make_tensor_value_info(name, const_type(value)[1], value.shape) for name, value in inputs.items()]
    outputs = [name for name in node.output if name]
    graph = helper.make_graph([node], "alone", given, [onnx.ValueInfoProto(name=name) for name in outputs])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*each) for each in opsets], ir_version=ir_version
    )
    try:
        results = ReferenceEvaluator(model).run(None, dict(inputs))
    except Exception:  # noqa: BLE001 - the reference raises anything for what it does not implement
        return None
    return {name: np.asarray(result) for name, result in zip(outputs, results, strict=True)}


def _small_enough(node: onnx.NodeProto, used: Mapping[str, np.ndarray], graph: Graph) -> bool:
    """Whether the outputs, as far as they can be inferred beforehand, are worth storing."""
    inferred = _inferred(node, used, {}, graph)
    operand_bytes = sum(v.nbytes for v in used.values())
    for kind in inferred.values():
        dims = [d.dim_value for d in kind.tensor_type.shape.dim]
        result_bytes = int(np.prod(dims, dtype=np.float64)) * 8 if all(d > 0 for d in dims) else 0
        if result_bytes > max(GROWN_CONSTANT_BYTES, 2 * operand_bytes):
            return False
    return True


def _inferred(
    node: onnx.NodeProto, consts: Mapping[str, np.ndarray], types: Mapping[str, TensorType], graph: Graph
) -> dict[str, onnx.TypeProto]:
    """What ONNX's inference says of one node; empty where there is no schema or it fails."""
    versions = dict(graph.opsets)
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return {}
    kinds, data = {}, {}
    for name in node.input:
        if name in consts:
            shape, dtype = const_type(consts[name])
            if consts[name].size <= SHAPE_OPERAND_ELEMENTS:
                data[name] = numpy_helper.from_array(np.asarray(consts[name]), name)
        elif name in types:
            shape, dtype = types[name]
        else:
            continue
        kinds[name] = helper.make_tensor_type_proto(dtype, shape)
    opsets = [helper.make_opsetid(*o) for o in graph.opsets]
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, kinds, data, opset_imports=opsets, ir_version=graph.ir_version
        )
        known = schema.has_type_and_shape_inference_function or not schema.has_function
        return found if known else _inferred_by_function(node, kinds, opsets)
    except KeyError as missing:
        raise UserError(f"node '{node.name}': input {missing} is written by no node before it") from missing
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as err:
        raise UserError(f"node '{node.name}' ({node.op_type}) is inconsistent: {one_line(err)}") from err


def _inferred_by_function(
    node: onnx.NodeProto, kinds: Mapping[str, onnx.TypeProto], opsets: list[onnx.OperatorSetIdProto]
) -> dict[str, onnx.TypeProto]:
    """The same for an operator that ONNX only defines by others (GreaterOrEqual before opset 16): what they infer."""
    inputs = [onnx.ValueInfoProto(name=name, type=kind) for name, kind in kinds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    model = helper.make_model(helper.make_graph([node], "one", inputs, outputs), opset_imports=opsets)
    made = onnx.shape_inference.infer_shapes(model).graph.output
    return {info.name: info.type for info in made if info.HasField("type")}


def _infer(
    node: onnx.NodeProto, consts: Mapping[str, np.ndarray], types: Mapping[str, TensorType], graph: Graph
) -> dict[str, TensorType]:
    """Static types of a node's outputs."""
    if contrib.is_border(node) or node.domain == DOMAIN:
        return {node.output[0]: _border_type(node, consts, types)}
    inferred = _inferred(node, consts, types, graph)
    found: dict[str, TensorType] = {}
    for position, out in enumerate(node.output):
        if not out:
            continue
        kind = inferred.get(out)
        if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
            shape = None
        else:
            dims = kind.tensor_type.shape.dim
            shape = tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None
        if shape is None and position > 0 and _unused_extra(node):
            continue
        if shape is None and node.op_type in KEEPS_TYPE and node.input[0] in types:
            found[out] = types[node.input[0]]
            continue
        if shape is None and out in graph.declared and node.op_type in SIZED_BY_OPERANDS:
            found[out] = graph.declared[out]
            continue
        if kind is not None and (kind.HasField("sequence_type") or kind.HasField("optional_type")):
            raise NotStatic(
                f"node '{node.name}': output '{out}' of {node.op_type} is a sequence or an optional; only tensors compile",
                ": export the model without them",
            )
        if shape is None:
            raise NotStatic(
                f"node '{node.name}': the shape of output '{out}' of {node.op_type} (opset {graph.opset}, domain "
                f"'{node.domain or 'ai.onnx'}') is not known before the model runs; only static shapes compile"
            )
        if min(shape, default=0) < 0:
            given = types[node.input[0]][0] if node.input[0] in types else ()
            raise UserError(
                f"node '{node.name}': output '{out}' of {node.op_type} would have the shape {list(shape)}: its operand of "
                f"{list(given)} is smaller than its window; give larger --input-shapes"
            )
        if math.prod(shape) > LARGEST_TENSOR_ELEMENTS:
            raise UserError(
                f"node '{node.name}': output '{out}' of {node.op_type} would have the shape {list(shape)}; the limit is "
                f"{LARGEST_TENSOR_ELEMENTS} elements: mend the model or give smaller --input-shapes"
            )
        assert kind is not None
        if (
            node.op_type == "Reshape"
            and node.input[0] in types
            and math.prod(types[node.input[0]][0]) != math.prod(shape)
        ):
            raise UserError(
                f"node '{node.name}' (Reshape) is inconsistent: a tensor of {list(types[node.input[0]][0])} cannot take the shape "
                f"{list(shape)}"
            )
        found[out] = (shape, kind.tensor_type.elem_type)
    return found


def _border_type(node: onnx.NodeProto, consts: Mapping[str, np.ndarray], types: Mapping[str, TensorType]) -> TensorType:
    """The type of what is quantized, dequantized or rounded; scales may be of types that ONNX's inference does not know."""

    def type_of(name: str) -> TensorType:
        if name not in consts and name not in types:
            raise UserError(f"node '{node.name}': input '{name}' is written by no node before it")
        return const_type(consts[name]) if name in consts else types[name]

    kind = onnx.TensorProto.FLOAT
    if node.op_type == "QuantizeLinear":
        has_zero_point = len(node.input) > 2 and node.input[2]
        stated = attrs_of(node).get("output_dtype", 0) or onnx.TensorProto.UINT8
        kind = type_of(node.input[2])[1] if has_zero_point else stated
    return type_of(node.input[0])[0], kind


def _unused_extra(node: onnx.NodeProto) -> bool:
    """Whether further outputs only matter in training: old BatchNormalization statistics, Dropout's mask."""
    return node.op_type in ("BatchNormalization", "Dropout")
