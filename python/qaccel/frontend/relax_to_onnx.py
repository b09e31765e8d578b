"""Relax of TVM's PyTorch and TFLite frontends as an ONNX graph, so that the passes of the ONNX import make it canonical:
NHWC becomes NCHW, spelled-out functions become one, layers get names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper
from tvm import ir, relax

from qaccel.errors import QaccelError
from qaccel.frontend.relax_operators import FOLDED, OPERATORS

OPSET = 17


class NotTranslated(QaccelError):
    """The module holds something that has no translation; `import_relax` takes it as it is."""


class Translation:
    """The ONNX graph under construction. Tensors are named after Relax variables, nodes after the variable they define."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.consts: dict[str, np.ndarray] = {}
        self.names: dict[relax.Var, str] = {}
        self.values: dict[relax.Var, relax.Expr] = {}
        self.node_name = ""

    def tensor(self, expr: relax.Expr) -> str:
        """The name of an operand: a variable, or a constant, which is stored."""
        if isinstance(expr, relax.Var):
            return self.names[expr]
        if isinstance(expr, ir.GenericConst):
            return self.const(expr.value.numpy())
        raise NotTranslated(f"operand {type(expr).__name__} in Relax has no ONNX form")

    def value(self, expr: relax.Expr | None) -> np.ndarray | None:
        """The array of an operand that is constant, or a constant moved, broadcast or dequantized."""
        if isinstance(expr, ir.GenericConst):
            return expr.value.numpy()
        if isinstance(expr, relax.Var):
            return self.value(self.values.get(expr))
        if not isinstance(expr, relax.Call) or not isinstance(expr.op, ir.Op) or expr.op.name not in FOLDED:
            return None
        fold = FOLDED[str(expr.op.name)]
        values = [self.value(a) for a in expr.args if not isinstance(a, relax.ShapeExpr)]
        return None if any(v is None for v in values) else fold(expr, *values)

    def const(self, value: Any, dtype: Any = None) -> str:
        """A new constant."""
        name = f"constant{len(self.consts)}"
        self.consts[name] = np.asarray(value, dtype)
        return name

    def node(self, op: str, inputs: Sequence[str], outputs: int = 1, **attrs: Any) -> str:
        """A node of the call under translation; returns its first output."""
        label = f"{self.node_name}:{len(self.nodes)}"
        names = [label if k == 0 else f"{label}.{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=self.node_name, **attrs))
        return names[0]

    def reshape(self, source: str, shape: Sequence[int]) -> str:
        """Reshape to a static shape."""
        return self.node("Reshape", [source, self.const(list(shape), np.int64)])

    def transpose(self, source: str, perm: Sequence[int]) -> str:
        """Transpose, unless it is the identity."""
        return source if list(perm) == sorted(perm) else self.node("Transpose", [source], perm=list(perm))


def relax_to_onnx(mod: tvm.IRModule) -> onnx.ModelProto:
    """The `main` of a module whose weights are constants, in ONNX operators of opset 17.

    Raises NotTranslated for an operator that has no translation, or a type that is no tensor of static shape.
    """
    function, to = mod["main"], Translation()
    inputs = []
    for param in function.params:
        to.names[param] = str(param.name)
        inputs.append(helper.make_tensor_value_info(str(param.name), *_type(param)))
    for block in function.body.blocks:
        for binding in block.bindings:
            _bind(binding, to)
    results = _results(function.body.body, to)
    outputs = []
    for k, result in enumerate(results):
        name = f"output{k}" if len(results) > 1 else "output"
        to.nodes.append(helper.make_node("Identity", [to.tensor(result)], [name], name=name))
        outputs.append(helper.make_tensor_value_info(name, *_type(result)))
    weights = [numpy_helper.from_array(np.array(v, order="C"), k) for k, v in to.consts.items()]
    graph = helper.make_graph(to.nodes, "main", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


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


def _results(result: relax.Expr, to: Translation) -> list[relax.Expr]:
    while isinstance(result, relax.Var) and isinstance(to.values.get(result), relax.Var | relax.Tuple):
        result = to.values[result]
    return list(result.fields) if isinstance(result, relax.Tuple) else [result]


def _type(expr: relax.Expr) -> tuple[int, list[int]]:
    """ONNX element type and static shape."""
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or not all(isinstance(v, tvm.tirx.IntImm) for v in shape.values):
        raise NotTranslated("a tensor of Relax has no static shape")
    return helper.np_dtype_to_tensor_dtype(np.dtype(str(expr.ty.dtype))), [int(v) for v in shape.values]
