"""A quantized model as standard ONNX: the canonical graph with QuantizeLinear and DequantizeLinear around its tensors.

All integers are those of the quantized Relax module: weights and biases are integer initializers with a
DequantizeLinear, every operation on integers reads a DequantizeLinear of its own and is followed by a QuantizeLinear.
Constants of element-wise operators are integers too. What ONNX cannot say: 16-bit tables interpolate, which the node's doc string
says.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..dialect import names, operators
from ..dialect.operators import (
    ConvAttrs,
    EltwiseAttrs,
    IntegerAttrs,
    Quantization,
    QuantizeAttrs,
    RequantizeAttrs,
)  # fmt: skip
from ..dialect.quantized import QuantizedModel
from ..dialect.rescale import quantize_constant
from ..errors import UserError
from ..relax_tools import bindings
from .forms import live
from .interpolated import span_text
from .written.ends import integer_ends
from .written.kernels import NARROW_AND_WIDE_OPSET, Phase, at_opset, stored_kernel, transposed_kernel
from .written.levels import RENAMING, Call, Spelled, spelled_out
from .written.nodes import TYPES, QdqNodes

PER_CHANNEL_OPSET = 13  # DequantizeLinear has an axis


def emit_qdq(q: QuantizedModel, path: str | Path) -> None:
    """Writes the model to ``path``; the file appears complete or not at all.

    Opset 13 or the model's own for 8 bits, 21 where tensors have 4 or 16. Raises UserError if the file cannot be
    written, the model cannot be brought to that opset, or it has no form in ONNX.
    """
    path = Path(path)
    data = qdq_model(q).SerializeToString()
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or error}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise UserError(f"cannot write '{path}': {error.strerror or error}") from None


def qdq_model(q: QuantizedModel) -> onnx.ModelProto:
    """The model that `emit_qdq` writes, checked by onnx. Raises UserError as that does."""
    calls = [b.value for b in bindings(q.mod["main"]) if operators.is_quantized(b.value)]
    wide = any(bits != 8 for call in calls for bits in _widths(operators.read(call)))
    if q.model.onnx_model is None:
        raise UserError(
            "no QDQ model can be written: the model came as Relax, with operators that ONNX does not have; leave --emit-qdq out"
        )
    source = at_opset(q.model.onnx_model, NARROW_AND_WIDE_OPSET if wide else PER_CHANNEL_OPSET)
    spelled = spelled_out(q, source)
    graph = _Graph(spelled, q)
    for attrs, constants in spelled.calls:
        graph.learn(attrs, constants)
    model = graph.build()
    if q.model.given is not None:
        integer_ends(model, q.model.given.ends)
    onnx.checker.check_model(model)
    return model


def _widths(attrs: operators.Attrs) -> list[int]:
    made = operators.output_of(attrs)
    widths = [each.bits for each in (*operators.inputs_of(attrs), *([made] if made else []))]
    return [*widths, attrs.weight_bits] if isinstance(attrs, ConvAttrs) else widths


class _Graph(QdqNodes):
    """The new graph as it grows: the source's nodes in order, each between the Q and DQ nodes that it needs."""

    def __init__(self, spelled: Spelled, q: QuantizedModel) -> None:
        self.source = source = spelled.source
        taken = {name for node in source.graph.node for name in (*node.input, *node.output, node.name)}
        super().__init__(taken | {value.name for value in (*source.graph.input, *source.graph.initializer)})
        self.fused = spelled.fused
        self.added = q.added
        self.spans = spelled.spans
        self.apart = q.apart
        self.undone = q.undone
        self.orders = q.orders
        self.operations: dict[str, Call] = {}
        self.steps: dict[str, dict[str, IntegerAttrs]] = {}  # of operations that are several calls, by suffix
        self.slopes: dict[str, Call] = {}  # the product of a PRelu
        self.phases: dict[str, list[Phase]] = {}
        self.first_phases: dict[str, Call] = {}  # whose bias and scales are those of all phases
        self.reads: dict[str, int] = {}  # bits at which an operation reads its tensors
        self.made: dict[str, Quantization] = {}  # tensors that operations on integers produce
        self.copied: dict[tuple[str, Quantization], Quantization] = {}  # from which bits a copy was made
        self.integers: dict[tuple[str, Quantization], str] = {}
        self.meaning: dict[tuple[str, int], Quantization] = {}
        self.part_of = {inner: name for name, each in spelled.inner.items() for inner in each}
        self.renamed = {node.output[0]: node.input[0] for node in source.graph.node if node.op_type in RENAMING}
        self.in_float: set[str] = set()  # joined tensors under whose name lies what their parts are in float
        self.outputs = {value.name for value in source.graph.output}
        self.constants = {value.name: value for value in source.graph.initializer}
        self.output_of = {node.name: node.output[0] for node in source.graph.node}

    def learn(self, attrs: operators.Attrs, constants: tuple[np.ndarray, ...]) -> None:
        """Takes in one call of the quantized module."""
        if isinstance(attrs, QuantizeAttrs):
            self._means(self.output_of.get(attrs.name, attrs.name), attrs.result)
            return
        if not isinstance(attrs, IntegerAttrs):
            return
        made = attrs.result
        node, _, part = attrs.name.rpartition(".")
        stem = node
        while "." in stem and stem not in self.output_of:  # of a step of a step
            stem = stem.rpartition(".")[0]
        if attrs.name in self.output_of:
            last = (attrs.name, *self.fused.get(attrs.name, ()))[-1]
            self.reads.setdefault(attrs.name, operators.inputs_of(attrs)[0].bits)
            self.operations.setdefault(attrs.name, (attrs, constants))
            self.made[self.output_of[last]] = made
            self._means(self.output_of[last], made)
        elif attrs.name == names.copy_of_width(node, made.bits) and isinstance(attrs, RequantizeAttrs):
            self._means(self.output_of.get(node, node), made)
            self.copied.setdefault((self._root(self.output_of.get(node, node)), made), attrs.source)
        elif stem in self.output_of:  # a step of that node; its first is what reads the node's tensors
            self.reads.setdefault(stem, operators.inputs_of(attrs)[0].bits)
            self.steps.setdefault(node, {})[part] = attrs
            if part == names.PRODUCT:
                self.slopes[node] = attrs, constants
            phase = names.phase_of(part)
            if phase is not None and isinstance(attrs, ConvAttrs):
                self.phases.setdefault(node, []).append((*phase, attrs, constants[0]))
                self.first_phases.setdefault(node, (attrs, constants))

    def _means(self, tensor: str, q: Quantization) -> None:
        self.meaning.setdefault((self._root(tensor), q.bits), q)

    def _root(self, tensor: str) -> str:
        """The tensor that ``tensor`` is only a Reshape or Transpose of."""
        while tensor in self.renamed:
            tensor = self.renamed[tensor]
        return tensor

    def build(self) -> onnx.ModelProto:
        """The finished model; nodes and initializers that nothing reads any more are left out."""
        for node in self.source.graph.node:
            if node.name not in self.added.values():
                self._add(node)
        result = onnx.ModelProto()
        result.CopyFrom(self.source)
        graph = result.graph
        nodes = live(self.nodes, graph)
        read = {name for node in nodes for name in node.input} | self.outputs
        kept = [value for value in graph.initializer if value.name in read]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend([*kept, *(value for value in self.initializers if value.name in read)])
        return result

    def _add(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.name in self.added:  # the Add is left out: the product writes its bias itself
            copy.output[0] = self.output_of[self.added[node.name]]
        name = self.part_of.get(node.name, node.name)
        operation, beside = (
            self.operations.get(name),
            node.op_type != "Pow",
        )  # whose exponent is no operand of the integers
        apart = operation is not None and node.name in self.apart
        if apart:
            self._joined_in_float(node)
        for position, tensor in enumerate(node.input):
            q = self._meaning_of(tensor, self.reads[name]) if operation and name not in self.undone else None
            if q is not None:
                copy.input[position] = self.dequantized(self._as(tensor, q), q)
            elif tensor in self.made:
                copy.input[position] = self._real(tensor)
            elif beside and operation and isinstance(operation[0], EltwiseAttrs) and tensor in self.constants:
                copy.input[position] = self._rounded(tensor, operation[0])
        if node.name in self.spans:
            copy.doc_string = span_text(self.spans[node.name])
        tensor = copy.output[0]
        if tensor in self.made and (tensor in self.outputs or apart):
            copy.output[0] = self.fresh(f"{tensor}_unrounded")
        if operation and isinstance(operation[0], ConvAttrs) and node.op_type in ("Conv", "Gemm", "MatMul"):
            weight, bias, scale = operation[1]
            self._weighted(copy, operation[0], *stored_kernel(node.op_type, weight, self.orders.get(name)), bias, scale)
        elif operation and node.op_type == "ConvTranspose":
            self._transposed(node, copy, operation)
        elif node.op_type == "PRelu" and name in self.slopes:
            copy.input[1] = self._slopes(node.input[1], self.slopes[name], self.orders.get(name))
            self.nodes.append(copy)
        elif node.op_type == "Sub" and names.NEGATIVE in self.steps.get(name, {}):
            self._subtracted(copy, self.steps[name][names.NEGATIVE])
        else:
            self.nodes.append(copy)
        if tensor in self.made:
            made = self.made[tensor]
            self.integers[tensor, made] = self.quantized(copy.output[0], made, tensor)
            if tensor in self.outputs and not apart:
                self.dequantized(self.integers[tensor, made], made, tensor)

    def _rounded(self, tensor: str, attrs: EltwiseAttrs) -> str:
        """The integers that stand for a constant beside the tensor that ``attrs`` reads, dequantized.

        They have 16 bits on the machine, which DequantizeLinear takes before opset 21 in int32 alone.
        """
        scale = np.float32(attrs.b.scale)
        integers = quantize_constant(numpy_helper.to_array(self.constants[tensor]), float(scale))
        held = self.initializer(f"{tensor}_integers", integers, TensorProto.INT32)
        real = self.fresh(f"{tensor}_rounded")
        self.node("DequantizeLinear", [held, self.initializer(f"{tensor}_scale", scale)], real)
        return real

    def _meaning_of(self, tensor: str, bits: int) -> Quantization | None:
        """What a tensor's integers of that many bits mean; a reshaped or transposed one has those of its source."""
        return self.meaning.get((self._root(tensor), bits))

    def _as(self, tensor: str, q: Quantization) -> str:
        """The integers of a tensor under one quantization: as they were made, or quantized from what they stand for."""
        if (tensor, q) not in self.integers:
            first = self.copied.get((self._root(tensor), q))
            if tensor not in self.made and first is not None and first != q:
                real = self.dequantized(self._as(tensor, first), first)
            else:
                real = self._of_integers(tensor)
            self.integers[tensor, q] = self.quantized(real, q, tensor)
        return self.integers[tensor, q]

    def _of_integers(self, tensor: str) -> str:
        """What a tensor's integers stand for, also where a join, or what only renames one, lies in float under its name."""
        if tensor in self.made:
            return self.dequantized(self.integers[tensor, self.made[tensor]], self.made[tensor])
        if self._root(tensor) not in self.in_float:
            return tensor
        copy = onnx.NodeProto()
        copy.CopyFrom(next(node for node in self.source.graph.node if tensor in node.output))
        copy.name = self.fresh(f"{copy.name}_of_integers")
        copy.input[0] = self._of_integers(copy.input[0])
        copy.output[0] = self.fresh(f"{tensor}_of_integers")
        self.nodes.append(copy)
        return str(copy.output[0])

    def _joined_in_float(self, node: onnx.NodeProto) -> None:
        """A join for its readers in float: of its parts, each on its own scale."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = self.fresh(f"{node.name}_of_parts")
        copy.input[:] = [self._real(tensor) for tensor in node.input]
        self.in_float.add(node.output[0])
        self.nodes.append(copy)

    def _real(self, tensor: str) -> str:
        made = None if tensor in self.in_float else self.made.get(tensor)
        return tensor if made is None else self.dequantized(self.integers[tensor, made], made)

    def _transposed(self, source: onnx.NodeProto, node: onnx.NodeProto, operation: Call) -> None:
        """ConvTranspose on integer weights: its kernel put together from its phases, or turned back from its only one."""
        attrs, (_, bias, scale) = self.first_phases.get(source.name) or operation
        assert isinstance(attrs, ConvAttrs)
        phases = self.phases.get(source.name) or [(0, 0, attrs, operation[1][0])]
        height, width = self.constants[source.input[1]].dims[2:]
        attributes = {each.name: helper.get_attribute_value(each) for each in source.attribute}
        kernel = transposed_kernel(phases, (height, width), attributes)
        groups, per_out = attrs.groups, len(kernel) // attrs.groups
        if groups == 1:
            self._weighted(node, attrs, kernel.swapaxes(0, 1), 1, bias, scale)
            return
        # ONNX has [IC, OC / groups, H, W], in which no axis is that of the scales.
        real = self.parameter(f"{source.name}_weight", kernel, TYPES[attrs.weight_bits], scale, 0)
        per_in = kernel.shape[1]
        for op, values in (
            ("Reshape", [groups, per_out, per_in, height, width]), ("Transpose", [0, 2, 1, 3, 4]),
            ("Reshape", [groups * per_in, per_out, height, width]),
        ):  # fmt: skip
            made = self.fresh(f"{source.name}_kernel")
            if op == "Transpose":
                self.node(op, [real], made, perm=values)
            else:
                self.node(op, [real, self.initializer(f"{made}_shape", np.array(values), TensorProto.INT64)], made)
            real = made
        self._finished(node, attrs, real, bias, scale)

    def _subtracted(self, node: onnx.NodeProto, attrs: IntegerAttrs) -> None:
        """constant - x as constant + (-1 * x): in 16 bits the negative of the least integer saturates."""
        negative = attrs.result
        if operators.inputs_of(attrs)[0].bits == negative.bits:
            real = self.fresh(f"{node.name}_negative")
            minus_one = self.fresh(f"{node.name}_minus_one")
            integers = self.initializer(f"{minus_one}_integer", np.array(-1), TensorProto.INT32)
            self.node("DequantizeLinear", [integers, self.initializer(f"{minus_one}_scale", np.float32(1))], minus_one)
            self.node("Mul", [node.input[1], minus_one], real)
            node.op_type = "Add"
            node.input[1] = self.dequantized(self.quantized(real, negative, real), negative)
        self.nodes.append(node)

    def _slopes(self, tensor: str, product: Call, order: np.ndarray | None) -> str:
        """The slopes of a PRelu as the integers of its product, dequantized. ``order``: which slope each channel takes."""
        attrs, constants = product
        if isinstance(attrs, EltwiseAttrs):
            return self._rounded(tensor, attrs)
        shape = tuple(self.constants[tensor].dims)
        if order is None or math.prod(shape) not in shape:
            return tensor
        channel = np.zeros(math.prod(shape), np.int64)  # of each slope; slopes that no channel takes are as the first
        channel[order] = np.arange(len(order))
        weight, _, scale = constants
        integers, axis = weight.reshape(-1)[channel].reshape(shape), shape.index(len(channel))
        return self.parameter(f"{tensor}_rounded", integers, TYPES[8], scale[channel], axis)

    def _weighted(
        self, node: onnx.NodeProto, attrs: ConvAttrs, kernel: np.ndarray, axis: int, bias: np.ndarray, scale: np.ndarray
    ) -> None:
        """A layer on an integer kernel, stored as ONNX has it with its channels along ``axis``, and an integer bias."""
        real = self.parameter(f"{node.name}_weight", kernel, TYPES[attrs.weight_bits], scale, axis)
        self._finished(node, attrs, real, bias, scale)

    def _finished(
        self, node: onnx.NodeProto, attrs: ConvAttrs, kernel: str, bias: np.ndarray, scale: np.ndarray
    ) -> None:
        del node.input[1:]
        node.input.append(kernel)
        unit = np.float32(attrs.source.scale) * scale
        had_bias = bias.any() or node.op_type == "Gemm"
        real_bias = self.parameter(f"{node.name}_bias", bias, TensorProto.INT32, unit, 0) if had_bias else ""
        if node.op_type == "Gemm":
            del node.attribute[:]
        if had_bias and node.op_type == "MatMul":
            product = self.fresh(f"{node.output[0]}_product")
            self.nodes.append(helper.make_node("MatMul", list(node.input), [product], name=node.name))
            self.node("Add", [product, real_bias], node.output[0])
            return
        node.input.extend([real_bias] if had_bias else [])
        self.nodes.append(node)
