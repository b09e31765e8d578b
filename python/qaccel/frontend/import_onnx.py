"""ONNX to canonical Relax: the `import` arrow.

The ONNX graph is canonicalised first (`canonicalize`), then every node becomes one or more Relax bindings whose calls
carry the node's name as their span (`to_relax`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from ..errors import UserError
from ..model import ImportedModel, TensorSpec
from .canonicalize import blamed_on_shapes, canonical_graph
from .graph import Graph, to_model
from .to_relax.nodes import to_relax


def import_onnx(
    model: str | Path | onnx.ModelProto,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_values: Mapping[str, Any] | None = None,
) -> ImportedModel:
    """Imports an ONNX model; `input_shapes` fixes dimensions and `input_values` values by input name.

    Raises UserError with one line for a file that is damaged, a shape that stays symbolic, or an operator that
    neither qaccel nor TVM can import.
    """
    graph = canonical_graph(model, input_shapes, input_values)
    try:
        mod = to_relax(graph)
    except UserError as err:
        if not graph.overridden:
            raise
        raise blamed_on_shapes(err, graph.overridden) from err
    return ImportedModel(
        onnx_model=to_model(graph),
        mod=mod,
        inputs=tuple(_spec(graph, name) for name in graph.inputs),
        outputs=tuple(_spec(graph, name) for name in graph.outputs),
        fixed=graph.fixed,
        notes=graph.notes,
        statistics={n.name: graph.statistics[n.output[0]] for n in graph.nodes if n.output[0] in graph.statistics},
    )


def _spec(graph: Graph, name: str) -> TensorSpec:
    shape, dtype = graph.types[name]
    return TensorSpec(name, shape, helper.tensor_dtype_to_np_dtype(dtype).name)
