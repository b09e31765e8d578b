"""TFLite flatbuffers through TVM's Relax frontend, with what that gets wrong or leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ..errors import UserError, one_line
from .from_tflite.labels import labelled
from .from_tflite.sparse import dense

CONTROL_FLOW = ("IF", "WHILE", "CALL", "STABLEHLO_WHILE", "STABLEHLO_CASE")
STATES = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")


def from_tflite_file(path: Path) -> tvm.IRModule:
    """The module that a TFLite file holds, inputs and outputs NHWC as there.

    Raises UserError for a missing package, a file that is none, and operators that do not compile, each in one line.
    """
    try:
        import tflite
        from tvm.relax.frontend.tflite import from_tflite
    except ImportError:
        raise UserError(
            f"'{path}': TFLite models need the package tflite; pip install tflite, or convert to ONNX"
        ) from None
    try:
        model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
        used = list(operators(model))
        graph = model.Subgraphs(0)
        keeps_state = any(graph.Tensors(k).IsVariable() for k in range(graph.TensorsLength()))
    except Exception as error:  # the flatbuffer reader checks nothing
        raise UserError(f"'{path}' is not a TFLite model, or is damaged: {one_line(error)}") from error
    for name, custom in used:
        _refuse(path, name, custom)
    if keeps_state:
        raise UserError(
            f"'{path}' keeps a state between its runs in a variable tensor; export the state as an input and an output"
        )
    try:
        made: list[Any] = []
        mod = from_tflite(model, op_converter=_converter(made))
        return labelled(mod, made[0].labels)
    except UserError:
        raise
    except Exception as error:  # TVM's frontend raises AssertionError, KeyError and others
        raise UserError(f"'{path}' cannot be imported by TVM: {one_line(error)}") from error


def operators(model: Any) -> Iterator[tuple[str, str]]:
    """The operators of a model's first graph: TFLite's names, and those of custom operators."""
    import tflite

    names = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
    graph = model.Subgraphs(0)
    for k in range(graph.OperatorsLength()):
        code = model.OperatorCodes(graph.Operators(k).OpcodeIndex())
        number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        yield names.get(number, f"number {number}"), (code.CustomCode() or b"").decode("utf-8", "replace")


def _refuse(path: Path, name: str, custom: str) -> None:
    if name == "CUSTOM" and custom != "TFLite_Detection_PostProcess":  # which TVM knows
        raise UserError(
            f"'{path}': custom operator '{custom}' is not TFLite's own; convert the model with TFLite's operators only"
        )
    if name in CONTROL_FLOW:
        raise UserError(f"'{path}': operator {name} is control flow; only static graphs compile: convert it without")
    if name in STATES:
        raise UserError(
            f"'{path}': operator {name} keeps a state between runs; export the state as an input and an output"
        )


def _converter(made: list[Any]) -> type:
    """The converter, which puts itself into ``made``, with what TVM's gets wrong.

    EXPAND_DIMS calls an operator of Relax wrongly, DENSIFY knows one element type, RESHAPE takes no computed shape, although the
    file states the result's, and FULLY_CONNECTED no batch of planes.
    """
    from .from_tflite.integers import RealConverter

    class Converter(RealConverter):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

        def convert_expand_dims(self, op: Any) -> relax.Expr:
            data, axis = self.get_input_tensors(op)
            return relax.op.expand_dims(self.get_tensor_expr(data), int(self.get_tensor_value(axis).reshape(-1)[0]))

        def convert_reshape(self, op: Any) -> relax.Expr:
            shape = self.get_output_tensors(op)[0].tensor.ShapeAsNumpy()
            return relax.op.reshape(self.get_tensor_expr(self.get_input_tensors(op)[0]), np.reshape(shape, -1).tolist())

        def convert_fully_connected(self, op: Any) -> relax.Expr:
            source, weight = self.get_input_tensors(op)[:2]
            data, width = self.get_tensor_expr(source), int(weight.tensor.Shape(1))
            if int(source.tensor.Shape(source.tensor.ShapeLength() - 1)) == width:
                return super().convert_fully_connected(op)
            self.hold(source.tensor_idx, relax.op.reshape(data, (-1, width)))
            made = super().convert_fully_connected(op)
            self.hold(source.tensor_idx, data)
            return made

        def convert_densify(self, op: Any) -> relax.Expr:
            (source,) = self.get_input_tensors(op)
            if self.has_expr(source.tensor_idx):  # of integers
                return self.get_expr(source.tensor_idx)
            return relax.const(dense(source.tensor, self.get_tensor_value(source, is_sparse=True)))

    return Converter
