"""Writes the plain QDQ nodes that an operator on integers stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import UserError
from ..frontend.graph import attrs_of, fresh_name

MICROSOFT = "com.microsoft"  # whose Q and DQ take all types and an axis at every opset


class Spelling:
    """The nodes in place of one node; those that compute keep its name, so that reports and plans have it."""

    def __init__(self, node: onnx.NodeProto, taken: set[str]) -> None:
        self.node = node
        self.attrs: Mapping[str, Any] = attrs_of(node)
        self.taken = taken
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def input(self, position: int) -> str:
        """The name of an operand; empty where it is absent."""
        return self.node.input[position] if position < len(self.node.input) else ""

    def fresh(self, what: str) -> str:
        name = fresh_name(f"{self.node.name or self.node.output[0]}_{what}", self.taken)
        self.taken.add(name)
        return name

    def const(self, what: str, value: Any) -> str:
        """A new initializer."""
        name = self.fresh(what)
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def do(self, op: str, *inputs: str, out: str = "", name: str = "", domain: str = "", **attrs: Any) -> str:
        """A node; gives its output."""
        out = out or self.fresh(op.lower())
        label = name or self.fresh(op)
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=label, domain=domain, **attrs))
        return out

    def real(self, tensor: str, scale: str, zero_point: str, axis: int | None = None) -> str:
        """An integer operand dequantized; ``axis``: that of its scales where it has several."""
        more: dict[str, Any] = {} if axis is None else {"axis": axis}
        operands = [tensor, scale, zero_point] if zero_point else [tensor, scale]
        return self.do("DequantizeLinear", *operands, domain=MICROSOFT, **more)

    def operand(self, first: int, axis: int | None = None) -> str:
        """The operand at that position, dequantized by the scale and zero point behind it."""
        return self.real(self.input(first), self.input(first + 1), self.input(first + 2), axis)

    def rounded(self, tensor: str, scale: str, zero_point: str) -> None:
        """A float tensor quantized as the node's output."""
        operands = [tensor, scale, zero_point] if zero_point else [tensor, scale]
        self.do("QuantizeLinear", *operands, out=self.node.output[0], domain=MICROSOFT)

    def refuse(self, why: str) -> UserError:
        """The user's error."""
        return UserError(f"node '{self.node.name or self.node.output[0]}' ({self.node.op_type}): {why}")
