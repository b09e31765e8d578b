"""A quantizer for torchao's PT2E that puts every tensor on the grid that the compiler would put it on."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torchao.quantization.pt2e import (
    FakeQuantize,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from ..errors import UserError
from ..frontend.import_model import import_frontend_module
from ..frontend.import_torch import from_program
from ..machine.numerics import activation_limits
from ..options import Bits, bits_of
from .grids import Grids, grids_of
from .weights import LAYERS, PerChannelWeightFakeQuantize, PerChannelWeightObserver

_CARRIERS = {4: torch.int8, 8: torch.int8, 16: torch.int16}
_NORMS = (torch.ops.aten.batch_norm.default,)
_FACTORS = (torch.ops.aten.mul.Tensor, torch.ops.aten.div.Tensor)
_DROPOUTS = (torch.ops.aten.dropout.default, torch.ops.aten.dropout_.default)


class QaccelQuantizer(Quantizer):
    """Annotates a program for `prepare_pt2e` or `prepare_qat_pt2e`.

    ``plan``: as `qaccel.quantize` takes its ``bits``: 8, "W4A8", (4, 8), or bits by node name, a dictionary or the path of a
    plan.json. The names are those of the program's nodes, which are those that `qaccel.quantize` gives of the exported program.

    Weights: symmetric per output channel, within +-(2**(bits-1) - 1). Activations: one scale per tensor, asymmetric at 4 and 8
    bits, symmetric at 16. Biases stay float,
    rounded to the machine's unit by the conversion. `annotate` raises UserError for a plan that names no node.
    """

    def __init__(self, plan: Any = 8) -> None:
        self.bits: Bits = bits_of(plan)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """The model with an annotation at each tensor that becomes integers."""
        _Annotations(model, _grids(model, self.bits), _for_training()).write()
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """There is nothing to check: what the compiler leaves in float is not annotated."""


def _grids(model: fx.GraphModule, bits: Bits) -> Grids:
    """What the compiler makes of a graph, batch normalization and dropout taken as in inference."""
    inference = copy.deepcopy(model)
    inference.graph = copy.deepcopy(model.graph)
    inference.graph.owning_module = inference
    for node in list(inference.graph.nodes):
        if node.target in _NORMS:
            node.args = (*node.args[:5], False, *node.args[6:])
        elif node.target in _DROPOUTS:
            node.args = (*node.args[:2], False)
        elif node.target == torch.ops.aten.add_.Tensor and node.args[0].op == "get_attr" and not node.users:
            inference.graph.erase_node(node)  # counts the batches of training
    inference.recompile()
    example = tuple(
        torch.zeros(node.meta["val"].shape, dtype=node.meta["val"].dtype)
        for node in model.graph.nodes
        if node.op == "placeholder"
    )
    program = torch.export.export(inference, example)
    return grids_of(import_frontend_module(from_program(program, "the program", inference.graph)), bits)


def _for_training() -> bool:
    """Whether `prepare_qat_pt2e` asks, which wants fake quantization, or `prepare_pt2e`, which wants observers. PT2E tells a
    quantizer neither, so its caller's name does."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != prepare_qat_pt2e.__name__:
        frame = frame.f_back
    return frame is not None


class _Annotations:
    """The annotations of one graph as they grow."""

    def __init__(self, model: fx.GraphModule, grids: Grids, training: bool) -> None:
        self.grids, self.training = grids, training
        self.nodes = {node.name: node for node in model.graph.nodes}
        # An input that Python has a name for already is called otherwise here.
        placeholders = [node for node in model.graph.nodes if node.op == "placeholder"]
        self.nodes |= dict(zip(grids.inputs, placeholders, strict=True))
        self.returned = [each for node in model.graph.nodes if node.op == "output" for each in node.all_input_nodes]
        self.tensors = {self._node(name): bits for name, bits in grids.tensors.items()}

    def _node(self, name: str) -> fx.Node:
        """The node of a tensor; one that is only an output of the program has that output's name."""
        node = self.nodes.get(name)
        if node is not None and node.op != "output":
            return node
        if name.startswith("output"):
            return self.returned[int(name.removeprefix("output") or 0)]
        raise UserError(f"the compiler's tensor '{name}' is no node of the program; take the plan apart there")

    def write(self) -> None:
        """All of them."""
        for node, bits in self.tensors.items():
            self._of(node).output_qspec = activations(bits, self.training)
        for name, source in self.grids.same.items():
            self._of(self._node(name)).output_qspec = SharedQuantizationSpec(self._node(source))
        for (tensor, reader), bits in self.grids.reads.items():
            for edge, user in self._edges(self._node(tensor), self.nodes[reader]):
                self._of(user).input_qspec_map[edge] = activations(bits, self.training)
        for name, bits in self.grids.weights.items():
            node = self.nodes[name]
            operands, specs = LAYERS[node.target], self._of(node).input_qspec_map
            # PT2E's fusion of batch normalization in training takes the first two entries for data and weights.
            data = node.args[operands.data]
            specs.setdefault(data, SharedQuantizationSpec(self._source(data)))
            specs[node.args[operands.weight]] = weights(bits, operands.axis, self.training)
            self._cut_factor(node)

    def _source(self, node: fx.Node) -> fx.Node:
        """The tensor with a scale of its own whose values a node only moves."""
        while node not in self.tensors:
            node = node.all_input_nodes[0]
        return node

    def _cut_factor(self, node: fx.Node) -> None:
        """A layer's own rounding in front of a constant factor, which the compiler takes into weights that are no integers yet."""
        behind = node
        while behind not in self.tensors and len(behind.users) == 1:
            (behind,) = behind.users
            if behind.target in _FACTORS:
                bits = next((self.tensors[each] for each in _chain(behind) if each in self.tensors), None)
                if bits is not None:
                    self._of(behind.all_input_nodes[0]).output_qspec = activations(bits, self.training)
                return

    def _edges(self, tensor: fx.Node, reader: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
        """By which operands a node reads a tensor, directly or through what only moves it."""
        for each in reader.all_input_nodes:
            below, pending = False, [each]
            while pending and not below:
                node = pending.pop()
                below = node is tensor
                pending += [] if node in self.tensors else node.all_input_nodes
            if below:
                yield each, reader

    @staticmethod
    def _of(node: fx.Node) -> QuantizationAnnotation:
        return node.meta.setdefault(Q_ANNOTATION_KEY, QuantizationAnnotation(_annotated=True))


def _chain(node: fx.Node) -> Iterator[fx.Node]:
    """A node and those behind it, while each is read by one alone."""
    yield node
    while len(node.users) == 1:
        (node,) = node.users
        yield node


def activations(bits: int, training: bool) -> QuantizationSpec:
    """One scale for a tensor: asymmetric over the full signed range, symmetric around 0 at 16 bits. Its range is the least and
    greatest value seen; in training a moving average of those of each batch."""
    lo, hi = activation_limits(bits)
    scheme = torch.per_tensor_symmetric if bits == 16 else torch.per_tensor_affine
    observer = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver) if training else MinMaxObserver
    return QuantizationSpec(_CARRIERS[bits], observer, lo, hi, scheme)


def weights(bits: int, axis: int, training: bool) -> QuantizationSpec:
    """One scale for each entry of an axis, symmetric, the least integer left out; the range is that of the weights as they are."""
    most = activation_limits(bits)[1]
    now = MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=1.0)
    observer = PerChannelWeightFakeQuantize.with_args(observer=now) if training else PerChannelWeightObserver
    return QuantizationSpec(_CARRIERS[bits], observer, -most, most, torch.per_channel_symmetric, axis)
