"""One ONNX node under conversion to Relax, as the converters see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import tvm
from onnx import helper
from tvm import relax

from ..graph import Graph, attrs_of


@dataclass(frozen=True)
class Node:
    """One ONNX node under conversion: `args` are its operands as Relax, `values` those that are constant."""

    proto: onnx.NodeProto
    graph: Graph
    builder: relax.BlockBuilder
    args: tuple[relax.Expr | None, ...]
    values: tuple[np.ndarray | None, ...]

    def attr(self, name: str, default: object = None) -> object:
        """An attribute, or its default."""
        return attrs_of(self.proto).get(name, default)

    def ints(self, name: str, default: list[int]) -> list[int]:
        """An attribute that is a list of integers."""
        return [int(v) for v in attrs_of(self.proto).get(name, default)]

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """Static shape of an operand."""
        return self.graph.shape(self.proto.input[position])

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Static shape of the first output."""
        return self.graph.shape(self.proto.output[0])

    @property
    def dtype(self) -> np.dtype:
        """Element type of the first operand."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.graph.types[self.proto.input[0]][1]))

    def value(self, position: int) -> np.ndarray | None:
        """A constant operand, or None where it is absent or computed."""
        return self.values[position] if position < len(self.values) else None

    def has(self, position: int) -> bool:
        """Whether the operand is given."""
        return position < len(self.args) and self.args[position] is not None

    def attrs(self) -> dict[str, Any]:
        """All attributes as Python values."""
        return attrs_of(self.proto)

    @property
    def out_dtype(self) -> str:
        """NumPy name of the first output's element type."""
        return helper.tensor_dtype_to_np_dtype(self.graph.types[self.proto.output[0]][1]).name

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Binds an intermediate value of this node."""
        return self.builder.emit(expr)


def const(value: np.ndarray) -> relax.Expr:
    """A Relax constant of the array's own type (`relax.const` would narrow 64 bits to 32)."""
    return relax.const(tvm.runtime.tensor(np.ascontiguousarray(value).reshape(value.shape)))


# The expression of the node's output, or None where TVM's own importer should take the node.
Converter: TypeAlias = Callable[[Node], "relax.Expr | None"]
