"""What a user settles about a model's inputs before it is imported: fixed values, and other floats taken as float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import UserError
from .graph import Graph, TensorType

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def with_values(proto: onnx.ModelProto, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turns inputs into constants of the given values; returns them as arrays of the inputs' types.

    A single value fills an input of any shape. Changes `proto`. Raises UserError for a name that is no input, and for a value
    that has another shape or does not fit the input's type.
    """
    weights = {t.name for t in proto.graph.initializer}
    inputs = {i.name: i for i in proto.graph.input if i.name not in weights}
    fixed = {}
    for name, value in values.items():
        if name not in inputs:
            raise UserError(f"--input-values names '{name}', which is not an input; inputs are {', '.join(inputs)}")
        fixed[name] = _value(inputs[name], value)
        proto.graph.initializer.append(numpy_helper.from_array(fixed[name], name))
        proto.graph.input.remove(inputs[name])
    return fixed


def _value(info: onnx.ValueInfoProto, value: Any) -> np.ndarray:
    """The value in the input's element type and shape."""
    tensor = info.type.tensor_type
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        given = np.asarray(value)
        array = given.astype(dtype)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"--input-values: '{info.name}' takes no value of that kind") from None
    if given.dtype.kind not in "fiub" or not np.array_equal(array.astype(np.float64), given.astype(np.float64)):
        raise UserError(f"--input-values: '{info.name}' is {dtype.name}, which does not hold the value given")
    if not tensor.HasField("shape"):
        return array
    shape = tuple(dim.dim_value or 1 for dim in tensor.shape.dim)
    known = tuple(dim.dim_value for dim in tensor.shape.dim)
    fits = array.ndim == len(known) and all(k in (0, size) for k, size in zip(known, array.shape, strict=True))
    if array.size == 1 and not fits:
        return np.broadcast_to(array.reshape(()), shape).copy()
    if not fits:
        raise UserError(
            f"--input-values gives {list(array.shape)} values for input '{info.name}' of shape {list(shape)}"
        )
    return array


def as_float32(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Makes every float16 and bfloat16 tensor of a model float32, in graphs within it too; returns what to tell the user.

    And every float64 tensor, where its inputs, outputs or weights are such: where only shapes are computed so they stay. Changes
    `proto`. What float16 would have rounded or overflowed is exact afterwards. A model without weights is no network, and keeps
    the types that it states.
    """
    constants = [tensor for graph in graphs_of(proto.graph) for tensor in _constants(graph)]
    if not any(_is_weight(tensor) for tensor in constants):
        return ()
    double = TensorProto.DOUBLE
    ends = any(info.type.tensor_type.elem_type == double for info in (*proto.graph.input, *proto.graph.output))
    wide = ends or any(tensor.data_type == double and len(tensor.dims) > 1 for tensor in constants)
    counts = {
        name: sum([_widen_graph(graph, kinds) for graph in graphs_of(proto.graph)])
        for name, kinds in {"float16": HALVES, "float64": (double,) if wide else ()}.items()
    }
    return tuple(f"{name} tensors are taken as float32, inputs and outputs too" for name, n in counts.items() if n)


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in (*HALVES, TensorProto.FLOAT, TensorProto.DOUBLE)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from (a.t for node in graph.node for a in node.attribute if a.HasField("t"))


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all that its nodes hold."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer or inner.output:
                    yield from graphs_of(inner)


def _widen_graph(graph: onnx.GraphProto, kinds: Collection[int]) -> int:
    count = 0
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in kinds:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
            count += 1
    count += sum(_widen(tensor, kinds) for tensor in _constants(graph))
    for node in graph.node:
        for attribute in node.attribute:
            # Types are attributes of these names: Cast, EyeLike, RandomNormal, QuantizeLinear.
            if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in kinds:
                attribute.i = TensorProto.FLOAT
                count += 1
    return count


def _widen(tensor: onnx.TensorProto, kinds: Collection[int]) -> int:
    if tensor.data_type not in kinds:
        return 0
    with np.errstate(over="ignore"):
        value = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return 1


def inputs_behind(name: str, makers: Callable[[str], onnx.NodeProto | None], inputs: Mapping[str, Any]) -> list[str]:
    """The inputs that the value of a tensor hangs on, in the order in which a walk back meets them."""
    found: list[str] = []
    seen, pending = set[str](), [name]
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor in inputs:
            found.append(tensor)
        maker = makers(tensor)
        if maker is not None:
            pending += [each for each in maker.input if each]
    return found


def fixing(
    tensors: Iterable[str], nodes: Iterable[onnx.NodeProto], types: Mapping[str, TensorType], inputs: Iterable[str]
) -> str:  # fmt: skip
    """How to fix the inputs that the tensors hang on, where those are single values; empty where they are not."""
    makers, known = {out: node for node in nodes for out in node.output if out}, dict.fromkeys(inputs)
    behind = [name for tensor in tensors for name in inputs_behind(tensor, makers.get, known)]
    names = [name for name in dict.fromkeys(behind) if math.prod(types[name][0]) == 1]
    if not names or len(names) < len(set(behind)):
        return ""
    flag = " ".join(f"{name}:VALUE" for name in names)
    return f'; it hangs on the value of input {", ".join(map(repr, names))}: fix it with --input-values "{flag}"'


def check_constant(node: onnx.NodeProto, operands: Iterable[str], graph: Graph) -> None:
    """Raises UserError where one of a node's operands is known only when the model runs; it says how to fix it."""
    computed = [name for name in operands if name and name not in graph.consts]
    if computed:
        way_out = fixing(computed, graph.nodes, graph.types, graph.inputs) or ": make it a constant before export"
        raise UserError(
            f"node '{node.name}': {node.op_type} compiles where '{computed[0]}' is a constant, and it is known only when the model "
            f"runs{way_out}"
        )
