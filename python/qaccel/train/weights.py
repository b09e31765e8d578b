"""Weights in training and conversion: symmetric per output channel, and the biases of their layers on the accelerator's unit.

The machine adds a bias in units of input scale times weight scale. A converted program keeps it as a float; it is rounded to that
unit here, so that PyTorch computes with the bias that the machine has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx
from torchao.quantization.pt2e import FakeQuantize, PerChannelMinMaxObserver
from torchao.quantization.pt2e.utils import create_getattr_from_value

from ..dialect.operators import Quantization
from ..machine.numerics import activation_limits
from ..quant.rules.weights import fit_scales

_ATEN, _QDQ = torch.ops.aten, torch.ops.quantized_decomposed
_BITS = {activation_limits(bits)[1]: bits for bits in (4, 8, 16)}


@dataclass(frozen=True)
class Operands:
    """Which operands of an operator are its data, its weights and its bias, and along which axis of the weights the output
    channels lie."""

    data: int
    weight: int
    bias: int | None
    axis: int


LAYERS: dict[Any, Operands] = {
    _ATEN.conv1d.default: Operands(0, 1, 2, 0),
    _ATEN.conv2d.default: Operands(0, 1, 2, 0),
    _ATEN.convolution.default: Operands(0, 1, 2, 0),
    _ATEN.conv_transpose1d.default: Operands(0, 1, 2, 1),
    _ATEN.conv_transpose2d.input: Operands(0, 1, 2, 1),
    _ATEN.linear.default: Operands(0, 1, 2, 0),
    _ATEN.addmm.default: Operands(1, 2, 0, 1),
    _ATEN.matmul.default: Operands(0, 1, None, 1),
    _ATEN.mm.default: Operands(0, 1, None, 1),
}


class _OnConversion:
    """Conversion of what stands before a layer's weights."""

    def convert(self, model: fx.GraphModule, node: fx.Node) -> None:
        """Puts quantize and dequantize in the place of the node; PT2E calls it."""
        convert_weights(self, model, node)


class PerChannelWeightObserver(_OnConversion, PerChannelMinMaxObserver):
    """The range of each channel."""


class PerChannelWeightFakeQuantize(_OnConversion, FakeQuantize):
    """Weights rounded in training. PT2E goes by the name: without PerChannel in it there would be no axis."""


def convert_weights(observer: Any, model: fx.GraphModule, node: fx.Node) -> None:
    """Quantize and dequantize in the place of an observer or fake quantization of weights, and the biases of the layers behind it
    rounded.

    Scales are raised where a layer's bias or its sums would not fit the machine otherwise, as the compiler does with its own.
    """
    scale, zero_point = observer.calculate_qparams()
    weight = _value(model, node.args[0])
    layers = [found for user in node.users if (found := _layer(model, user)) is not None]
    for layer in layers:
        scale = torch.from_numpy(_fitted(layer, weight, scale, _BITS[observer.quant_max])[0]).to(scale.device)
    for layer in layers:
        layer.set_bias(_fitted(layer, weight, scale, _BITS[observer.quant_max])[1])
    graph = model.graph
    with graph.inserting_before(node):
        given = [
            create_getattr_from_value(model, graph, f"{node.name}_{what}_", value, value.device)
            for what, value in (("scale", scale), ("zero_point", zero_point))
        ]
        how = (*given, observer.ch_axis, observer.quant_min, observer.quant_max, observer.dtype)
        integers = graph.call_function(_QDQ.quantize_per_channel.default, (node.args[0], *how))
        real = graph.call_function(_QDQ.dequantize_per_channel.default, (integers, *how))
    node.replace_all_uses_with(real)
    graph.erase_node(node)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer, what its data are as integers, and what comes behind it that becomes its bias: a batch normalization that PT2E will
    fold into it, or an addition of constants."""

    model: fx.GraphModule
    node: fx.Node
    operands: Operands
    source: Quantization
    norm: fx.Node | None
    addition: fx.Node | None

    def bias(self) -> np.ndarray | None:
        """[output channels] or one value for all, in float64; None without one."""
        if self.norm is None:
            parts = [self._numbers(self._own())] + [self._numbers(a) for a in self._addends()]
            known = [each.reshape(-1) for each in parts if each is not None]
            return np.asarray(sum(known)) if known else None
        gain, shift, mean, variance = (self._numbers(each) for each in self.norm.args[1:5])
        if shift is None or mean is None or variance is None:
            return None
        own = next(map(self._numbers, self._addends()), None)
        whole = (0.0 if own is None else own.reshape(-1)) - mean
        return shift + whole * (1.0 if gain is None else gain) / np.sqrt(variance + float(self.norm.args[7]))

    def set_bias(self, wanted: np.ndarray | None) -> None:
        """Has the layer add ``wanted`` float64; None: leaves it as it is."""
        before = self.bias()
        if wanted is None or before is None:
            return
        user, place = (self.node, self.operands.bias) if self.norm is None else (self.norm, 2)
        if place is None:  # a product, whose bias is added behind it
            assert self.addition is not None
            user, place = self.addition, 1
        if len(user.args) <= place:
            user.args = (*user.args, *[None] * (place + 1 - len(user.args)))
        old = self._numbers(user.args[place])
        value = (wanted - before + (0.0 if old is None else old.reshape(-1))).astype(np.float32)
        with self.model.graph.inserting_before(user):
            made = create_getattr_from_value(
                self.model, self.model.graph, f"{user.name}_bias_", torch.from_numpy(value)
            )
        user.args = (*user.args[:place], made, *user.args[place + 1 :])

    def _own(self) -> Any:
        place = self.operands.bias
        return self.node.args[place] if place is not None and len(self.node.args) > place else None

    def _addends(self) -> list[Any]:
        """What is added behind the layer; in front of a batch normalization PT2E puts the layer's own bias there."""
        if self.addition is None:
            return []
        return [each for each in self.addition.args[:2] if not _computes(each)]

    def _numbers(self, node: Any) -> np.ndarray | None:
        if isinstance(node, int | float):
            return np.array([float(node)])
        return _value(self.model, node).detach().double().cpu().numpy() if isinstance(node, fx.Node) else None


def _computes(node: Any) -> bool:
    """Whether a node's value depends on the program's inputs."""
    return isinstance(node, fx.Node) and (
        node.op in ("placeholder", "call_module") or any(map(_computes, node.all_input_nodes))
    )


def _layer(model: fx.GraphModule, node: fx.Node) -> _Layer | None:
    """The layer that a node is; None where it is none, or its data are no integers."""
    operands = LAYERS.get(node.target)
    if operands is None:
        return None
    source = _meaning(model, node.args[operands.data])
    return None if source is None else _Layer(model, node, operands, source, *_behind(node))


def _behind(node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """The batch normalization and the addition of constants that a layer takes in.

    In training a division in front of both undoes the normalization's gain.
    """
    addition = None
    while len(node.users) == 1:
        (node,) = node.users
        if node.target == _ATEN.batch_norm.default:
            return node, addition
        if node.target == _ATEN.add.Tensor and addition is None and sum(map(_computes, node.args[:2])) == 1:
            addition = node
        elif node.target != _ATEN.div.Tensor:
            break
    return None, addition


def _meaning(model: fx.GraphModule, node: Any) -> Quantization | None:
    """What the integers of a rounded activation mean, converted already or not."""
    if not isinstance(node, fx.Node):
        return None
    if node.target == _QDQ.dequantize_per_tensor.default:
        scale, zero_point, _, most = node.args[1:5]
    elif node.op == "call_module":
        observer: Any = model.get_submodule(str(node.target))
        (scale, zero_point), most = observer.calculate_qparams(), observer.quant_max
    else:
        return None
    return Quantization(_BITS[most], float(scale), int(zero_point))


def _fitted(
    layer: _Layer, weight: torch.Tensor, scale: torch.Tensor, bits: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Scales [output channels] that hold weights and bias, and the bias rounded to its unit."""
    real = weight.detach().double().movedim(layer.operands.axis, 0).flatten(1).cpu().numpy()
    bias, wanted = layer.bias(), scale.detach().cpu().numpy().astype(np.float32)
    bias = bias if bias is None or bias.size != 1 else np.broadcast_to(bias, len(wanted))
    if (
        len(real) != len(wanted) or bias is not None and bias.size != len(wanted)
    ):  # groups of a transposed convolution share scales
        return wanted, None
    made, _, constant = fit_scales(real, np.zeros(len(real)) if bias is None else bias, bits, wanted, layer.source)
    unit = (np.float32(layer.source.scale) * made).astype(np.float64)
    return made, None if bias is None else constant * unit


def _value(model: fx.GraphModule, node: Any) -> Any:
    """What constants of the graph give."""
    if not isinstance(node, fx.Node):
        return node
    if node.op == "get_attr":
        value: Any = model
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: _value(model, each))
    with torch.no_grad():
        return node.target(*args, **kwargs)
