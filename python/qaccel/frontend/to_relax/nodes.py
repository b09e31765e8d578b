"""The canonical ONNX graph as Relax: one converter per operator, TVM's own importer for the rest.

All bindings of an ONNX node carry its name as their span; the last of them is the node's output.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from ...errors import QaccelError, UserError
from ...relax_tools import known_shape, node_span
from ..graph import Graph
from .node import Node, const
from .operators import CONVERTERS

# TVM's importer fills the further outputs of these with zeros.
FIRST_OUTPUT_ONLY = {"LayerNormalization", "Dropout", "BatchNormalization"}


def to_relax(graph: Graph) -> tvm.IRModule:
    """`main` with one dataflow block, the graph's inputs as parameters, weights as constants."""
    builder = relax.BlockBuilder()
    taken: set[str] = set()
    params = []
    for name in graph.inputs:
        shape, dtype = graph.types[name]
        params.append(relax.Var(_identifier(name, taken), relax.TensorType(shape, _dtype(dtype))))
    exprs: dict[str, relax.Expr] = {name: const(v) for name, v in graph.consts.items() if _plain(v)}
    exprs |= dict(zip(graph.inputs, params, strict=True))
    needed = {name for node in graph.nodes for name in node.input} | set(graph.outputs)
    owner: list[tuple[str, list[relax.Var]]] = []
    with builder.function("main", params=params):
        with builder.dataflow():
            # An exception that left the block open would make the builder warn beside the user's one line.
            failure: QaccelError | None = None
            try:
                for proto in graph.nodes:
                    owner.append((proto.name, _convert(proto, graph, builder, exprs, taken, needed)))
                results = [exprs[name] for name in graph.outputs]
            except QaccelError as err:
                failure, results = err, params
            out = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        builder.emit_func_output(out)
    if failure is not None:
        raise failure
    mod = builder.get()
    mod["main"] = _with_spans(mod["main"], owner)
    return mod


def _convert(
    proto: onnx.NodeProto,
    graph: Graph,
    builder: relax.BlockBuilder,
    exprs: dict[str, relax.Expr],
    taken: set[str],
    needed: set[str],
) -> list[relax.Var]:
    """Emits one node; returns the variables of its outputs. `needed` are all tensors that something reads."""
    unreadable = [i for i in proto.input if i and i not in exprs]
    if unreadable:
        kind = graph.consts[unreadable[0]].dtype if unreadable[0] in graph.consts else "unknown"
        raise UserError(f"node '{proto.name}': operand '{unreadable[0]}' of type {kind} is not supported")
    node = Node(
        proto, graph, builder,
        tuple(exprs[i] if i else None for i in proto.input),
        tuple(graph.consts.get(i) if i else None for i in proto.input),
    )  # fmt: skip
    if proto.op_type == "Identity":
        exprs[proto.output[0]] = exprs[proto.input[0]]
        return []
    converter = CONVERTERS.get(proto.op_type)
    try:
        expr = converter(node) if converter is not None else None
        expr = _by_tvm(node) if expr is None else expr
        if not isinstance(expr, (relax.Var, relax.Tuple, tvm.ir.GenericConst)):
            expr = builder.emit(expr, _identifier(proto.output[0], taken))
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as err:
        reason = " ".join(str(err).split())[:200] or type(err).__name__
        where = f"node '{proto.name}' ({proto.op_type}, opset {graph.opset})"
        raise UserError(f"{where} is inconsistent: {reason}") from err
    if isinstance(expr, relax.Tuple):
        results = list(expr.fields)
    elif isinstance(expr.ty, relax.TupleType):
        results = [builder.emit(relax.TupleGetItem(expr, k)) for k in range(len(expr.ty.fields))]
    else:
        results = [expr]
    results[:1] = [_with_declared_shape(results[0], node)]
    correct = 1 if proto.op_type in FIRST_OUTPUT_ONLY else len(results)
    lost = [o for k, o in enumerate(proto.output) if k >= correct and o in needed]
    if lost:
        readers = [f"node '{each.name}' ({each.op_type})" for each in graph.nodes if lost[0] in each.input]
        reader = readers[0] if readers else "the model's outputs"
        raise UserError(
            f"node '{proto.name}': output {list(proto.output).index(lost[0])} of {proto.op_type} ('{lost[0]}') is not computed, "
            f"and {reader} {'reads' if readers else 'have'} it; cut the model there, or export it without"
        )
    exprs.update({name: result for name, result in zip(proto.output, results, strict=False) if name})
    _check_type(node, results[0])
    return [r for r in [expr, *results] if isinstance(r, relax.Var)]


def _with_declared_shape(result: relax.Expr, node: Node) -> relax.Expr:
    """A result whose shape depends on data gets the one that the model states, checked when the program runs."""
    if (
        known_shape(result) is not None
        or not isinstance(result, relax.Var)
        or not isinstance(result.ty, relax.TensorType)
    ):
        return result
    return node.builder.match_cast(result, relax.TensorType(node.out_shape, node.out_dtype))


def _check_type(node: Node, result: relax.Expr) -> None:
    """The first output has the shape that ONNX gives it; a mismatch would surface far from its cause."""
    shape = known_shape(result)
    if shape != node.out_shape:
        raise UserError(
            f"node '{node.proto.name}' ({node.proto.op_type}, opset {node.graph.opset}): TVM's importer gives shape "
            f"{shape}, ONNX {node.out_shape}; this use of the operator is not supported"
        )


def _by_tvm(node: Node) -> relax.Expr:
    """The node through the converter of TVM's ONNX importer."""
    proto, graph = node.proto, node.graph
    where = f"node '{proto.name}': operator {proto.op_type} (opset {graph.opset})"
    if proto.op_type not in onnx_frontend._get_convert_map():
        raise UserError(f"{where} is supported neither by qaccel nor by TVM; replace it or remove it before export")
    importer = onnx_frontend.ONNXGraphImporter({}, "float32")
    importer.bb = node.builder
    importer.opset = graph.opset
    operands = onnx_frontend.onnx_input(node.args)
    try:
        attrs = importer._parse_attr(proto.attribute)
        attrs["tvm_custom"] = {"name": proto.name, "num_outputs": len(proto.output)}
        return importer._convert_operator(proto.op_type, operands, attrs, graph.opset)
    except Exception as err:  # TVM's converters raise whatever they meet, AssertionError and TypeError too
        reason = " ".join(str(err).split())[:200]
        raise UserError(f"{where} cannot be imported by TVM: {reason or type(err).__name__}") from err


def _with_spans(function: relax.Function, owner: list[tuple[str, list[relax.Var]]]) -> relax.Function:
    """The function with each call naming its node.

    Nodes were emitted in order, so the bindings after the nodes before and up to a node's last output are that node's.
    """
    block = function.body.blocks[0]
    position = {binding.var: k for k, binding in enumerate(block.bindings)}
    names = [""] * len(block.bindings)
    done = 0
    for name, results in owner:
        end = max((position[r] + 1 for r in results if r in position), default=0)
        names[done:end] = [name] * (end - done)
        done = max(done, end)
    bindings = []
    for binding, name in zip(block.bindings, names, strict=True):
        value = binding.value
        if isinstance(value, relax.Call) and name:
            call = relax.Call(value.op, value.args, value.attrs, value.ty_args, node_span(name))
            relax.expr._update_type(call, value.ty)
            bindings.append(relax.VarBinding(binding.var, call))
        else:
            bindings.append(binding)
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], function.body.body)
    relax.expr._update_type(body, function.body.ty)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _plain(value: np.ndarray) -> bool:
    """Whether Relax has the element type: no strings, no packed 4-bit integers."""
    return value.dtype.kind in "fiub" or value.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def _dtype(onnx_dtype: int) -> str:
    try:
        return helper.tensor_dtype_to_np_dtype(onnx_dtype).name
    except (KeyError, TypeError) as err:
        raise UserError(f"element type {onnx.TensorProto.DataType.Name(onnx_dtype)} is not supported") from err


def _identifier(name: str, taken: set[str]) -> str:
    """A Relax variable name after an ONNX tensor name."""
    base = re.sub(r"\W", "_", name) or "t"
    base = f"t_{base}" if base[0].isdigit() else base
    result, k = base, 0
    while result in taken:
        k += 1
        result = f"{base}_{k}"
    taken.add(result)
    return result
