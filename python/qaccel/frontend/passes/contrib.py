"""Operators of ONNX Runtime's own domain that its optimiser leaves in saved models, spelled with standard ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph import attrs_of

DOMAIN = "com.microsoft"
FUSED_ACTIVATIONS = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "LeakyRelu",
    "Clip",
    "HardSigmoid",
    "HardSwish",
    "Elu",
    "Softplus",
    "Softsign",
)


class _Spelling:
    """Nodes in place of one; `ranks` gives the rank of an operand, as far as it is known."""

    def __init__(self, node: onnx.NodeProto, ranks: Mapping[str, int], opset: int) -> None:
        self.node, self.ranks, self.opset, self.attrs = node, ranks, opset, attrs_of(node)
        self.nodes: list[onnx.NodeProto] = []

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"{self.node.name}/constant{len(self.nodes)}"
        tensor = numpy_helper.from_array(np.asarray(value, dtype), name)
        self.nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
        return name

    def do(self, op: str, *inputs: str | float, last: bool = False, **attrs: Any) -> str:
        """A node on tensors and numbers; the last one writes the output and keeps the name."""
        names = [i if isinstance(i, str) else self.const(i) for i in inputs]
        out = self.node.output[0] if last else f"{self.node.name}/{op}{len(self.nodes)}"
        name = self.node.name if last else out
        self.nodes.append(helper.make_node(op, names, [out], name=name, **attrs))
        return out


def _gelu(s: _Spelling, x: str) -> None:
    gate = s.do("Add", s.do("Erf", s.do("Mul", x, 0.5**0.5)), 1.0)
    s.do("Mul", s.do("Mul", x, 0.5), gate, last=True)


def _bias_gelu(s: _Spelling) -> None:
    _gelu(s, s.do("Add", *s.node.input[:2]))


def _fast_gelu(s: _Spelling) -> None:
    x = s.do("Add", *s.node.input[:2]) if len(s.node.input) > 1 and s.node.input[1] else s.node.input[0]
    cube = s.do("Mul", s.do("Mul", x, x), x)
    inner = s.do("Mul", s.do("Add", x, s.do("Mul", cube, 0.044715)), (2 / np.pi) ** 0.5)
    s.do("Mul", s.do("Mul", x, 0.5), s.do("Add", s.do("Tanh", inner), 1.0), last=True)


def _quick_gelu(s: _Spelling) -> None:
    x = s.node.input[0]
    s.do("Mul", x, s.do("Sigmoid", s.do("Mul", x, s.attrs.get("alpha", 1.702))), last=True)


def _activated(s: _Spelling, x: str, parameters: list[float]) -> None:
    op = s.attrs.get("activation", "")
    if op == "Clip":
        if s.opset < 11:
            s.do("Clip", x, last=True, min=parameters[0], max=parameters[1])
        else:
            s.do("Clip", x, *parameters[:2], last=True)
        return
    names = {"LeakyRelu": ("alpha",), "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(op, ())
    s.do(op or "Identity", x, last=True, **dict(zip(names, parameters, strict=False)))


def _fused_conv(s: _Spelling) -> None:
    inputs = list(s.node.input) + [""] * 4
    kept = {k: v for k, v in s.attrs.items() if k not in ("activation", "activation_params")}
    x = s.do("Conv", *(i for i in inputs[:3] if i), **kept)
    x = s.do("Add", x, inputs[3]) if inputs[3] else x
    _activated(s, x, list(s.attrs.get("activation_params", [])))


def _fused_gemm(s: _Spelling) -> None:
    kept = {k: v for k, v in s.attrs.items() if not k.startswith("activation")}
    x = s.do("Gemm", *(i for i in s.node.input if i), **kept)
    given = [s.attrs[k] for k in ("activation_alpha", "activation_beta") if k in s.attrs]
    _activated(s, x, given)


def _fused_matmul(s: _Spelling) -> None:
    operands = list(s.node.input[:2])
    for k, flag in enumerate(("transA", "transB")):
        rank = s.ranks.get(operands[k], 0)
        if s.attrs.get(flag) and rank >= 2:
            operands[k] = s.do("Transpose", operands[k], perm=[*range(rank - 2), rank - 1, rank - 2])
    alpha = s.attrs.get("alpha", 1.0)
    product = s.do("MatMul", *operands, last=alpha == 1)
    if alpha != 1:
        s.do("Mul", product, alpha, last=True)


BORDERS = ("QuantizeLinear", "DequantizeLinear")
SPELLINGS: dict[str, Callable[[_Spelling], None]] = {
    "Gelu": lambda s: _gelu(s, s.node.input[0]),
    "BiasGelu": _bias_gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "TransposeMatMul": _fused_matmul,
}


def is_known(node: onnx.NodeProto) -> bool:
    """Whether `spelled_out` takes this node."""
    attrs = attrs_of(node)
    plain = not (attrs.get("transBatchA") or attrs.get("transBatchB"))
    known = attrs.get("activation", "Relu") in FUSED_ACTIVATIONS
    return node.domain == DOMAIN and node.op_type in SPELLINGS and plain and known


def is_border(node: onnx.NodeProto) -> bool:
    """Whether a node is QuantizeLinear or DequantizeLinear, of ONNX or of ONNX Runtime, whose types were ahead of ONNX's."""
    return node.op_type in BORDERS and node.domain in ("", "ai.onnx", DOMAIN)


def spelled_out(node: onnx.NodeProto, ranks: Mapping[str, int], opset: int) -> list[onnx.NodeProto]:
    """The standard nodes that compute what `node` does; names and tensors begin with the node's name."""
    spelling = _Spelling(node, ranks, opset)
    SPELLINGS[node.op_type](spelling)
    return spelling.nodes
