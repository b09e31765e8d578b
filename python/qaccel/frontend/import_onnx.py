"""ONNX to canonical Relax: the `import` arrow.

The ONNX graph is canonicalised first (`canonicalize`), then every node becomes one or more Relax bindings whose calls
carry the node's name as their span (`to_relax`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import relax

from qaccel.frontend.canonicalize import canonical_graph
from qaccel.frontend.graph import Graph, to_model
from qaccel.frontend.to_relax import to_relax


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: static shape, NumPy name of the element type.

    Only an output of a model for the CPU alone (`import_by_tvm`) may have sizes of -1: known when it runs.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A float model in canonical form, compared and hashed by identity.

    `onnx_model`: static shapes, constants and BatchNormalization folded, a unique name for every node, shape
    information for every tensor. `mod`: function `main` of one dataflow block; parameters are the inputs in the order
    of `inputs`, weights are constants; it returns the tensor of `outputs`, or a tuple where there are several.
    """

    onnx_model: onnx.ModelProto
    mod: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Mean and standard deviation of every channel in training, by the node whose output a BatchNormalization made.
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def import_onnx(
    model: str | Path | onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> ImportedModel:
    """Imports an ONNX model; `input_shapes` fixes symbolic dimensions by input name.

    Raises QaccelError with one line for a file that is damaged, a shape that stays symbolic, or an operator that
    neither qaccel nor TVM can import.
    """
    graph = canonical_graph(model, input_shapes)
    return ImportedModel(
        onnx_model=to_model(graph),
        mod=to_relax(graph),
        inputs=tuple(_spec(graph, name) for name in graph.inputs),
        outputs=tuple(_spec(graph, name) for name in graph.outputs),
        statistics={n.name: graph.statistics[n.output[0]] for n in graph.nodes if n.output[0] in graph.statistics},
    )


def node_name(call: relax.Call) -> str:
    """The ONNX node that a Relax call came from; empty for a call that no node stands behind."""
    return "" if call.span is None else str(call.span.source_name.name)


def _spec(graph: Graph, name: str) -> TensorSpec:
    shape, dtype = graph.types[name]
    return TensorSpec(name, shape, helper.tensor_dtype_to_np_dtype(dtype).name)
