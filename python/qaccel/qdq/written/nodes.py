"""The nodes and initializers of a QDQ graph, as they are made."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...dialect.operators import Quantization
from .kernels import nibbles

TYPES = {4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16}


class QdqNodes:
    """A graph's new nodes in order and its new initializers; ``taken`` are the names that no new one may have."""

    def __init__(self, taken: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.taken = taken

    def quantized(self, real: str, q: Quantization, tensor: str) -> str:
        """A QuantizeLinear of the float tensor ``real``; gives its output, named after ``tensor``."""
        name = self.fresh(f"{tensor}_q{q.bits}")
        self.node("QuantizeLinear", [real, *self._scale_and_zero(name, q)], name)
        return name

    def dequantized(self, integers: str, q: Quantization, name: str | None = None) -> str:
        """A DequantizeLinear; gives its output, which is called ``name`` if that is given."""
        name = name or self.fresh(f"{integers}_real")
        self.node("DequantizeLinear", [integers, *self._scale_and_zero(name, q)], name)
        return name

    def _scale_and_zero(self, name: str, q: Quantization) -> list[str]:
        scale = self.initializer(f"{name}_scale", np.float32(q.scale))
        return [scale, self.initializer(f"{name}_zero_point", np.array(q.zero_point), TYPES[q.bits])]

    def parameter(self, name: str, values: np.ndarray, dtype: int, scale: np.ndarray, axis: int) -> str:
        """An integer initializer and its DequantizeLinear along ``axis``; gives the real tensor's name."""
        integers = self.initializer(name, values, dtype)
        zeros = self.initializer(f"{name}_zero_point", np.zeros(len(scale), np.int32), dtype)
        real = self.fresh(f"{name}_real")
        self.node("DequantizeLinear", [integers, self.initializer(f"{name}_scale", scale), zeros], real, axis=axis)
        return real

    def initializer(self, name: str, values: np.ndarray | np.float32, dtype: int = TensorProto.FLOAT) -> str:
        """A new initializer of the ONNX type ``dtype``; gives its name, which begins with ``name``."""
        name = self.fresh(name)
        array = np.asarray(values)
        if dtype == TensorProto.INT4:
            tensor = helper.make_tensor(name, dtype, array.shape, nibbles(array), raw=True)
        else:
            tensor = numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(dtype)), name)
        self.initializers.append(tensor)
        return name

    def node(self, op: str, inputs: Iterable[str], output: str, **attributes: int | list[int]) -> None:
        """A node that gives the tensor ``output``."""
        name = self.fresh(f"{output}_{op}")
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))

    def fresh(self, name: str) -> str:
        """A name that nothing has yet: ``name``, with a number behind it if need be."""
        result, k = name, 0
        while result in self.taken:
            k += 1
            result = f"{name}_{k}"
        self.taken.add(result)
        return result
