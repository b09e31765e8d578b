"""ONNX models that are no static graphs, for the CPU alone: TVM's own importer takes the file as it is."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from ..model import Model, TensorSpec
from ..relax_tools import held_back
from .canonicalize import checked, load
from .graph import NotStatic
from .to_relax.nodes import FIRST_OUTPUT_ONLY


def import_by_tvm(
    model: str | Path | onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]] | None, refusal: NotStatic
) -> Model:
    """What TVM's importer makes of a model that ours refused; outputs whose sizes depend on data have -1 there.

    Raises `refusal` again where TVM's importer fails, would give zeros for an output that something reads, or leaves an
    input's shape open.
    """
    proto = checked(load(model))
    if _reads_what_tvm_leaves_out(proto.graph) or _computes_limits(proto.graph):
        raise refusal
    logging.disable(logging.WARNING)
    try:
        # It prints what it cannot convert, and leaves builders behind that warn when they go.
        with held_back(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            mod = from_onnx(proto, shape_dict=dict(input_shapes or {}) or None, keep_params_in_input=False)
    except Exception as error:  # TVM's converters raise whatever they meet
        raise refusal from error
    finally:
        logging.disable(logging.NOTSET)
    function = mod["main"]
    weights = {tensor.name for tensor in proto.graph.initializer}
    given = [info for info in proto.graph.input if info.name not in weights]
    fields = function.ret_ty.fields if isinstance(function.ret_ty, relax.TupleType) else [function.ret_ty]
    if len(given) != len(function.params) or len(fields) != len(proto.graph.output):
        raise refusal
    inputs = tuple(_spec(info, param.ty, refusal) for info, param in zip(given, function.params, strict=True))
    outputs = tuple(_spec(info, ty, refusal) for info, ty in zip(proto.graph.output, fields, strict=True))
    wrong = any((input_shapes or {}).get(spec.name, spec.shape) != spec.shape for spec in inputs)
    if wrong or any(-1 in spec.shape for spec in inputs):
        raise refusal
    return Model(mod, inputs, outputs, operators=())


def _reads_what_tvm_leaves_out(graph: onnx.GraphProto) -> bool:
    """Whether an output that TVM's importer fills with zeros is used."""
    further = {o for node in graph.node if node.op_type in FIRST_OUTPUT_ONLY for o in node.output[1:] if o}
    read = {i for node in graph.node for i in node.input} | {o.name for o in graph.output}
    training = any(a.name == "training_mode" and a.i for node in graph.node for a in node.attribute)
    return training or bool(further & read)


def _computes_limits(graph: onnx.GraphProto) -> bool:
    """Whether a NonMaxSuppression has limits that are absent or computed: TVM's importer puts numbers of its own there."""
    known = {t.name for t in graph.initializer} | {o for n in graph.node if n.op_type == "Constant" for o in n.output}
    return any(
        node.op_type == "NonMaxSuppression" and (len(node.input) < 5 or not known.issuperset(node.input[2:]))
        for node in graph.node
    )


def _spec(info: onnx.ValueInfoProto, ty: relax.Type, refusal: NotStatic) -> TensorSpec:
    """An input or output; where TVM leaves the rank open, as it does for optionals, the model's word counts."""
    if not isinstance(ty, relax.TensorType):
        raise refusal
    stated = info.type if info.type.HasField("tensor_type") else info.type.optional_type.elem_type
    if isinstance(ty.shape, relax.ShapeExpr):
        shape = tuple(int(v) if isinstance(v, tvm.tirx.IntImm) else -1 for v in ty.shape.values)
    elif ty.ndim >= 0:
        shape = (-1,) * ty.ndim
    elif stated.tensor_type.HasField("shape"):
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in stated.tensor_type.shape.dim)
    else:
        raise refusal
    return TensorSpec(info.name, shape, str(ty.dtype))
