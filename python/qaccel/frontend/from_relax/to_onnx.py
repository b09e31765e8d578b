"""Relax of TVM's PyTorch and TFLite frontends as an ONNX graph, so that the passes of the ONNX import make it canonical:
NHWC becomes NCHW, spelled-out functions become one, layers get names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper
from tvm import ir, relax

from ...relax_tools import bindings, known_shape, results
from ..passes.contrib import DOMAIN as MICROSOFT
from .operators import FOLDED, OPERATORS
from .translation import NotTranslated, Translation

OPSET = 17


def relax_to_onnx(mod: tvm.IRModule) -> onnx.ModelProto:
    """The `main` of a module whose weights are constants, in ONNX operators of opset 17.

    Raises NotTranslated for an operator that has no translation, or a type that is no tensor of static shape.
    """
    function, to = mod["main"], Translation(FOLDED)
    inputs = []
    for param in function.params:
        to.names[param] = str(param.name)
        inputs.append(helper.make_tensor_value_info(str(param.name), *_type(param)))
    for binding in bindings(function):
        _bind(binding, to)
    returned = results(function)
    outputs = []
    for k, result in enumerate(returned):
        name = f"output{k}" if len(returned) > 1 else "output"
        to.nodes.append(helper.make_node("Identity", [to.tensor(result)], [name], name=name))
        outputs.append(helper.make_tensor_value_info(name, *_type(result)))
    weights = [numpy_helper.from_array(np.array(v, order="C"), k) for k, v in to.consts.items()]
    graph = helper.make_graph(to.nodes, "main", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _bind(binding: relax.Binding, to: Translation) -> None:
    value, var = binding.value, binding.var
    to.values[var] = value
    if isinstance(value, relax.Var | ir.GenericConst):
        to.names[var] = to.tensor(value)
    elif isinstance(value, relax.TupleGetItem):
        source: Any = value.tuple_value
        fields = to.values.get(source)
        if isinstance(fields, relax.Tuple):
            to.names[var] = to.tensor(fields.fields[value.index])
        else:
            to.names[var] = to.names[source] + (f".{value.index}" if value.index else "")
    elif isinstance(value, relax.Call) and isinstance(value.op, ir.Op):
        operator = OPERATORS.get(str(value.op.name))
        if operator is None:
            raise NotTranslated(f"operator {value.op.name} of Relax has no ONNX form")
        to.node_name = str(var.name)
        try:
            to.names[var] = operator(value, to)
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise NotTranslated(f"this use of operator {value.op.name} of Relax has no ONNX form") from error
    elif not isinstance(value, relax.Tuple):
        raise NotTranslated(f"{type(value).__name__} of Relax has no ONNX form")


def _type(expr: relax.Expr) -> tuple[int, list[int]]:
    """ONNX element type and static shape."""
    shape = known_shape(expr)
    if shape is None:
        raise NotTranslated("a tensor of Relax has no static shape")
    return helper.np_dtype_to_tensor_dtype(np.dtype(str(expr.ty.dtype))), list(shape)
