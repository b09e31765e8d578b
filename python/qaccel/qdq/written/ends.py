"""Inputs and outputs of a written model as the integers that they were in the model that came."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...frontend.graph import fresh_name


def integer_ends(model: onnx.ModelProto, ends: Mapping[str, str]) -> None:
    """Inputs and outputs of these NumPy types in place of float ones: the QuantizeLinear or DequantizeLinear at the end goes.

    ``model`` is one that `write` made. An end stays float where it is not quantized by one scale alone.
    """
    made = _Ends(model)
    for value in model.graph.input:
        if value.name in ends:
            made.enter(value, np.dtype(ends[value.name]))
    for value in model.graph.output:
        if value.name in ends:
            made.leave(value, np.dtype(ends[value.name]))


class _Ends:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants = {value.name: value for value in model.graph.initializer}
        self.taken = {name for node in model.graph.node for name in (*node.input, *node.output)} | set(self.constants)

    def enter(self, value: onnx.ValueInfoProto, dtype: np.dtype) -> None:
        """The integers of every QuantizeLinear that reads an input are the input."""
        name = value.name
        readers: list[onnx.NodeProto] = []
        passing: list[onnx.NodeProto] = []
        pending = [name]
        while pending:
            tensor = pending.pop()
            for node in self._readers(tensor):
                (passing if node.op_type == "Identity" else readers).append(node)
                pending += node.output if node.op_type == "Identity" else []
        ways = {tuple(self._numbers(node)) for node in readers if node.op_type == "QuantizeLinear"}
        read_otherwise = any(node.op_type != "QuantizeLinear" for node in readers)
        if (
            len(ways) != 1
            or read_otherwise
            or {name, *(p.output[0] for p in passing)} & {o.name for o in self.graph.output}
        ):
            return
        for node in readers:
            for reader in self._readers(node.output[0]):
                reader.input[0] = name
                self._typed(reader, dtype)
        for node in (*readers, *passing):
            self.graph.node.remove(node)
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(dtype)

    def leave(self, value: onnx.ValueInfoProto, dtype: np.dtype) -> None:
        """An output is the integers that the DequantizeLinear before it reads."""
        last = next((node for node in self.graph.node if value.name in node.output), None)
        first = next((n for n in self.graph.node if last is not None and last.input[0] in n.output), None)
        if last is None or last.op_type != "DequantizeLinear" or first is None or first.op_type != "QuantizeLinear":
            return
        if self._readers(value.name) or last.input[0] in {each.name for each in self.graph.output}:
            return
        integers = last.input[0]
        self.graph.node.remove(last)
        self._typed(first, dtype)
        first.output[0] = value.name
        for reader in self._readers(integers):
            reader.input[0] = value.name
            self._typed(reader, dtype)
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(dtype)

    def _readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if tensor in node.input]

    def _numbers(self, node: onnx.NodeProto) -> list[float]:
        return [float(numpy_helper.to_array(self.constants[name])) for name in node.input[1:3]]

    def _typed(self, node: onnx.NodeProto, dtype: np.dtype) -> None:
        """A QuantizeLinear or DequantizeLinear of signed integers as one of ``dtype``, which has as many bits."""
        if dtype.kind == "u":
            zero_point = int(numpy_helper.to_array(self.constants[node.input[2]])) + (1 << (dtype.itemsize * 8 - 1))
            name = fresh_name(f"{node.input[2]}_{dtype.name}", self.taken)
            self.taken.add(name)
            self.graph.initializer.append(numpy_helper.from_array(np.array(zero_point, dtype), name))
            node.input[2] = name
