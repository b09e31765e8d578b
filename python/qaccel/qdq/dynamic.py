"""Models quantized dynamically: DynamicQuantizeLinear before ConvInteger or MatMulInteger, and the products with the scales behind.

For the accelerator the weights keep their integers, and the activations, whose scales the model finds anew in every run, are
calibrated as any float model's are. On the CPU alone the scales are found in every run, in float operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from ..frontend.graph import attrs_of
from .spelling import Spelling

SOURCE = "DynamicQuantizeLinear"
LAYERS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
LEVELS = 255.0  # of uint8


@dataclass(frozen=True)
class Nodes:
    """A graph by tensor: which node makes it, which ones read it, which are constants."""

    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, list[onnx.NodeProto]]
    constants: Mapping[str, onnx.TensorProto]
    outputs: Counter[str]

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """The node that alone reads a tensor."""
        found = self.readers.get(tensor, [])
        return found[0] if len(found) == 1 and not self.outputs[tensor] else None


@dataclass(frozen=True)
class Product:
    """A ConvInteger or MatMulInteger with what makes its result real: ``source`` the float tensor that it is of, ``scale`` that of
    its weights, ``output`` the real result; ``gone``: the nodes that it takes the place of."""

    source: str
    scale: str
    output: str
    gone: tuple[onnx.NodeProto, ...]


def product_of(node: onnx.NodeProto, nodes: Nodes) -> Product | None:
    """What follows a ConvInteger or MatMulInteger: Cast, and one or two Mul with the scales of activation and weights.

    None where it is spelled in another way.
    """
    made = nodes.makers.get(node.input[0])
    cast = nodes.only_reader(node.output[0])
    if made is None or made.op_type != SOURCE or cast is None or cast.op_type != "Cast":
        return None
    gone, tensor, factors = [cast], cast.output[0], list[str]()
    while len(factors) < 2:
        mul = nodes.only_reader(tensor)
        if mul is None or mul.op_type != "Mul":
            return None
        other = mul.input[1] if mul.input[0] == tensor else mul.input[0]
        before = nodes.makers.get(other)
        if before is not None and before.op_type == "Mul":
            factors += before.input
        else:
            factors.append(other)
        gone.append(mul)
        tensor = mul.output[0]
    scales = [name for name in factors if name != made.output[1]]
    if len(factors) != 2 or len(scales) != 1:
        return None
    return Product(made.input[0], scales[0], tensor, tuple(gone))


def calibrated(s: Spelling, product: Product, nodes: Nodes) -> None:
    """The layer on real weights, which keep their integers, and on a float activation."""
    op = LAYERS[s.node.op_type]
    scale = nodes.constants.get(product.scale)
    name, axis = product.scale, None
    if scale is not None and int(np.prod(scale.dims)) > 1:
        axis = 0 if op == "Conv" else -1
        name = s.const("weight_scale", numpy_helper.to_array(scale).reshape(-1))
    weight = s.real(s.node.input[1], name, s.input(3), axis=axis)
    attrs = attrs_of(s.node)
    s.do(op, product.source, weight, out=product.output, name=s.node.name, **attrs)


def in_every_run(s: Spelling) -> None:
    """A DynamicQuantizeLinear in float operators: its integers less their zero point, and its scale, as ONNX defines them."""
    x, (integers, scale, zero_point) = s.node.input[0], s.node.output
    zero = s.const("zero", np.float32(0))
    least = s.do("Min", s.do("ReduceMin", x, keepdims=0), zero)
    most = s.do("Max", s.do("ReduceMax", x, keepdims=0), zero)
    step = s.do("Div", s.do("Sub", most, least), s.const("levels", np.float32(LEVELS)))
    s.do("Where", s.do("Equal", step, zero), s.const("one", np.float32(1)), step, out=scale)
    top = s.const("top", np.float32(LEVELS))
    s.do("Clip", s.do("Round", s.do("Div", s.do("Sub", zero, least), scale)), zero, top, out=zero_point)
    steps = s.do("Add", s.do("Round", s.do("Div", x, scale)), zero_point)
    s.do("Sub", s.do("Clip", steps, zero, top), zero_point, out=integers)


def on_real_integers(s: Spelling) -> None:
    """A ConvInteger or MatMulInteger on integers in float, less their zero points: exact below 2^24."""
    one = s.const("one", np.float32(1))
    weight = s.real(s.node.input[1], one, s.input(3))
    s.do(LAYERS[s.node.op_type], s.node.input[0], weight, out=s.node.output[0], name=s.node.name, **attrs_of(s.node))


def nodes_of(graph: onnx.GraphProto) -> Nodes:
    """The graph by tensor."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return Nodes(makers, readers, constants, Counter(value.name for value in graph.output))
