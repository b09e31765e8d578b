"""TFLite flatbuffers through TVM's Relax frontend, with what that gets wrong or leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ..errors import UserError

CONTROL_FLOW = ("IF", "WHILE", "CALL", "STABLEHLO_WHILE", "STABLEHLO_CASE")
STATES = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")
DENSE = 0  # format of a dimension of a sparse tensor: all of it is there; the other one lists what is


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
        raise UserError(f"'{path}' is not a TFLite model, or is damaged: {_one_line(error)}") from error
    for name, custom in used:
        _refuse(path, name, custom)
    if keeps_state:
        raise UserError(
            f"'{path}' keeps a state between its runs in a variable tensor; export the state as an input and an output"
        )
    try:
        return from_tflite(model, op_converter=_converter())
    except UserError:
        raise
    except Exception as error:  # TVM's frontend raises AssertionError, KeyError and others
        raise UserError(f"'{path}' cannot be imported by TVM: {_one_line(error)}") from error


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


def _converter() -> type:
    """The converter with EXPAND_DIMS, which TVM's calls an operator of Relax wrongly for, and DENSIFY of any element type."""
    from .tflite_integers import RealConverter

    class Converter(RealConverter):
        def convert_expand_dims(self, op: Any) -> relax.Expr:
            data, axis = self.get_input_tensors(op)
            return relax.op.expand_dims(self.get_tensor_expr(data), int(self.get_tensor_value(axis).reshape(-1)[0]))

        def convert_densify(self, op: Any) -> relax.Expr:
            (source,) = self.get_input_tensors(op)
            if self.has_expr(source.tensor_idx):  # of integers
                return self.get_expr(source.tensor_idx)
            return relax.const(dense(source.tensor, self.get_tensor_value(source, is_sparse=True)))

    return Converter


def dense(tensor: Any, values: np.ndarray) -> np.ndarray:
    """A sparse TFLite tensor as an array of its shape.

    Its dimensions are stored in the order of `TraversalOrder`; those from the rank on are blocks of the dimensions in
    `BlockMap`. Each is either dense, or lists its indices by segments as compressed sparse rows do.
    """
    sparsity, shape = tensor.Sparsity(), [int(size) for size in tensor.ShapeAsNumpy()]
    order = [int(axis) for axis in sparsity.TraversalOrderAsNumpy()]
    blocks = [int(axis) for axis in np.atleast_1d(sparsity.BlockMapAsNumpy())] if sparsity.BlockMapLength() else []
    levels = [_level(sparsity.DimMetadata(k)) for k in range(len(order))]
    # The values of each level, outermost first, are the entries of the one before, each with all of its own indices.
    places = np.zeros((1, 0), np.int64)
    positions = np.zeros(1, np.int64)
    for size, segments, indices in levels:
        if segments is None or indices is None:
            own = np.tile(np.arange(size), len(places))
            counts = np.full(len(places), size)
            positions = np.repeat(positions, counts) * size + own
        else:
            counts = np.diff(segments)[positions]
            starts = np.repeat(segments[positions], counts)
            positions = starts + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            own = indices[positions]
        places = np.concatenate([np.repeat(places, counts, axis=0), own[:, None]], axis=1)
    by_axis = {axis: places[:, k] for k, axis in enumerate(order)}
    size_of = {axis: level[0] for axis, level in zip(order, levels, strict=True)}
    if any(segments is not None for _, segments, _ in levels[len(shape) :]):
        raise ValueError("a sparse tensor has blocks that are sparse themselves")
    for k, axis in enumerate(blocks):
        by_axis[axis] = by_axis[axis] * size_of[len(shape) + k] + by_axis[len(shape) + k]
    result = np.zeros(shape, values.dtype)
    result[tuple(by_axis[axis] for axis in range(len(shape)))] = values[positions]
    return result


def _level(metadata: Any) -> tuple[int, np.ndarray | None, np.ndarray | None]:
    """One stored dimension: its size if it is dense, else segments and indices."""
    if metadata.Format() == DENSE:
        return metadata.DenseSize(), None, None
    segments = _vector(metadata.ArraySegments(), metadata.ArraySegmentsType())
    return 0, segments, _vector(metadata.ArrayIndices(), metadata.ArrayIndicesType())


def _vector(table: Any, kind: int) -> np.ndarray:
    import tflite

    reader = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}[kind]()
    reader.Init(table.Bytes, table.Pos)
    return np.atleast_1d(reader.ValuesAsNumpy()).astype(np.int64)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
