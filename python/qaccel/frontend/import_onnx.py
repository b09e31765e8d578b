"""ONNX to canonical Relax: the `import` arrow.

The ONNX graph is canonicalised first (`canonicalize`), then every node becomes one or more Relax bindings whose calls
carry the node's name as their span (`to_relax`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from ..errors import UserError
from ..model import Model, SourceOperator, TensorSpec
from .canonicalize import blamed_on_shapes, canonical_graph
from .forms import AS_FLOAT, Forms
from .graph import ROUNDED, Graph, attrs_of, to_model
from .to_relax.nodes import to_relax


def import_onnx(
    model: str | Path | onnx.ModelProto,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_values: Mapping[str, Any] | None = None,
    forms: Forms = AS_FLOAT,
) -> Model:
    """Imports an ONNX model; `input_shapes` fixes dimensions and `input_values` values by input name; `forms` reads what came
    quantized.

    Raises UserError with one line for a file that is damaged, a shape that stays symbolic, or an operator that
    neither qaccel nor TVM can import.
    """
    graph = canonical_graph(model, input_shapes, input_values, forms)
    try:
        mod = to_relax(graph)
    except UserError as err:
        if not graph.overridden:
            raise
        raise blamed_on_shapes(err, graph.overridden) from err
    return Model(
        mod=mod,
        inputs=tuple(_spec(graph, name) for name in graph.inputs),
        outputs=tuple(_spec(graph, name) for name in graph.outputs),
        operators=tuple(_operator(node, graph) for node in graph.nodes),
        fixed=graph.fixed,
        notes=graph.notes,
        statistics={n.name: graph.statistics[n.output[0]] for n in graph.nodes if n.output[0] in graph.statistics},
        onnx_model=to_model(graph),
        given=graph.given,
    )


def _operator(node: onnx.NodeProto, graph: Graph) -> SourceOperator:
    inputs = tuple(name for name in node.input if name and name not in graph.consts)
    outputs = tuple(name for name in node.output if name)
    if node.op_type != "Clip":
        op = "QuantizeLinear" if node.op_type == ROUNDED else node.op_type
        return SourceOperator(node.name, op, inputs, outputs)
    return SourceOperator(node.name, node.op_type, inputs, outputs, _limits(node, graph))


def _limits(clip: onnx.NodeProto, graph: Graph) -> tuple[float, float]:
    """The constant bounds of a Clip, which are attributes before opset 11; infinite where there are none."""
    attrs = attrs_of(clip)
    given = [float(graph.consts[name].reshape(-1)[0]) if name in graph.consts else None for name in clip.input[1:]]
    least, most = (*given, None, None)[:2]
    least, most = attrs.get("min", least), attrs.get("max", most)
    return -math.inf if least is None else least, math.inf if most is None else most


def _spec(graph: Graph, name: str) -> TensorSpec:
    shape, dtype = graph.types[name]
    return TensorSpec(name, shape, helper.tensor_dtype_to_np_dtype(dtype).name)
