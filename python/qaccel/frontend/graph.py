"""The ONNX graph as the canonicalisation passes see it: a frozen value that each pass replaces by a new one.

Nodes stay `onnx.NodeProto` (treated as immutable), constants are NumPy arrays by tensor name, and every tensor has a
static shape once `fold.fold` has run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import UserError
from ..model import Given

ROUNDED = "Rounded"  # of the domain below: a float tensor rounded to given integers, see `dialect.ops.rounded`
DOMAIN = "qaccel"
TensorType = tuple[tuple[int, ...], int]  # static shape, onnx.TensorProto data type


class NotStatic(UserError):
    """The model is no graph of tensors whose shapes are known beforehand. Raised for that and nothing else, so that the
    CPU alone may try what TVM makes of it. The message is ``reason`` and ``way_out``."""

    def __init__(self, reason: str, way_out: str = "") -> None:
        super().__init__(f"{reason}{way_out}")
        self.reason = reason
        self.way_out = way_out


@dataclass(frozen=True)
class Graph:
    """`types` covers inputs and node outputs; `consts` are the former initializers and everything folded.

    `declared` are the static types that the file itself states for tensors whose types do not follow from its inputs'.
    `fixed` are inputs that became constants, `notes` what to tell the user of the import,
    `overridden` the inputs, in words, whose sizes are not those that the file fixes.
    `given`: what came quantized; its activations are nodes `ROUNDED`.
    `statistics`: mean and standard deviation of every channel, as training left them, of what a BatchNormalization gave.
    """

    nodes: tuple[onnx.NodeProto, ...]
    consts: Mapping[str, np.ndarray]
    types: Mapping[str, TensorType]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opsets: tuple[tuple[str, int], ...]
    ir_version: int
    name: str
    declared: Mapping[str, TensorType] = field(default_factory=dict)
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    fixed: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    overridden: str = ""
    given: Given | None = None

    @property
    def opset(self) -> int:
        """Version of the default ONNX domain."""
        return next((version for domain, version in self.opsets if domain == ""), 1)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Static shape of an input, a node output or a constant."""
        return tuple(self.consts[tensor].shape) if tensor in self.consts else self.types[tensor][0]

    def uses(self) -> Counter[str]:
        """How often each tensor is read; being a graph output counts as a use."""
        counts: Counter[str] = Counter(self.outputs)
        for node in self.nodes:
            counts.update(node.input)
        return counts

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each tensor."""
        return {out: node for node in self.nodes for out in node.output if out}


def attrs_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes as Python values; strings decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in values.items()}


def remade(
    node: onnx.NodeProto,
    inputs: Iterable[str] | None = None,
    outputs: Iterable[str] | None = None,
    drop: Iterable[str] = (),
    **attrs: Any,
) -> onnx.NodeProto:
    """A copy of `node` with other inputs or outputs, without the attributes in `drop`, and with `attrs` set."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if inputs is not None:
        del copy.input[:]
        copy.input.extend(inputs)
    if outputs is not None:
        del copy.output[:]
        copy.output.extend(outputs)
    kept = [a for a in copy.attribute if a.name not in attrs and a.name not in set(drop)]
    del copy.attribute[:]
    copy.attribute.extend(kept)
    copy.attribute.extend(helper.make_attribute(name, value) for name, value in attrs.items())
    return copy


def fresh_name(base: str, taken: Iterable[str]) -> str:
    """`base`, or `base_1`, `base_2`, ... whichever `taken` does not hold yet."""
    used = taken if isinstance(taken, (set, dict)) else set(taken)
    name, k = base, 0
    while name in used:
        k += 1
        name = f"{base}_{k}"
    return name


def substitute(graph: Graph, alias: Mapping[str, str]) -> Graph:
    """Replaces tensor names by their aliases everywhere they are read.

    A graph output keeps its name: the node that writes the tensor it stands for is renamed instead, and where that is
    an input, a constant or another output, an Identity node remains.
    """

    def root(name: str) -> str:
        while name in alias:
            name = alias[name]
        return name

    nodes = [
        remade(n, inputs=[root(i) for i in n.input]) if any(i in alias for i in n.input) else n for n in graph.nodes
    ]
    types = dict(graph.types)
    for out in graph.outputs:
        if out not in alias:
            continue
        source = root(out)
        types.setdefault(out, types[source] if source in types else const_type(graph.consts[source]))
        written = any(source in n.output for n in nodes)
        if written and source not in graph.outputs:
            nodes = [_renamed(n, source, out) for n in nodes]
            alias = {**alias, source: out}
            alias.pop(out, None)
        else:
            name = fresh_name(out, {n.name for n in nodes} | set(graph.inputs))
            nodes.append(helper.make_node("Identity", [source], [out], name=name))
    return replace(graph, nodes=tuple(nodes), types=types)


def _renamed(node: onnx.NodeProto, old: str, new: str) -> onnx.NodeProto:
    """`node` with tensor `old` called `new` in its inputs and outputs."""
    if old not in node.input and old not in node.output:
        return node
    return remade(node, [new if i == old else i for i in node.input], [new if o == old else o for o in node.output])


def const_type(array: np.ndarray) -> TensorType:
    """The type of a constant."""
    return tuple(array.shape), helper.np_dtype_to_tensor_dtype(array.dtype)


def pruned(graph: Graph) -> Graph:
    """Without nodes, constants and types that no output needs. Inputs stay, used or not."""
    live = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if any(o in live for o in node.output):
            kept.append(node)
            live.update(i for i in node.input if i)
    live.update(graph.inputs)
    live.update(o for n in kept for o in n.output)
    return replace(
        graph,
        nodes=tuple(reversed(kept)),
        consts={k: v for k, v in graph.consts.items() if k in live},
        types={k: v for k, v in graph.types.items() if k in live},
    )


def to_model(graph: Graph) -> onnx.ModelProto:
    """The graph as a valid float ONNX model with shape information for every tensor; what is `ROUNDED` is an Identity."""

    def info(name: str) -> onnx.ValueInfoProto:
        shape, dtype = graph.types[name]
        return helper.make_tensor_value_info(name, dtype, shape)

    ends = set(graph.inputs) | set(graph.outputs)
    written = [o for n in graph.nodes for o in n.output if o and o not in ends and o in graph.types]
    proto = helper.make_graph(
        [_unrounded(node) for node in graph.nodes],
        graph.name,
        [info(i) for i in graph.inputs],
        [info(o) for o in graph.outputs],
        [numpy_helper.from_array(np.ascontiguousarray(v).reshape(v.shape), k) for k, v in graph.consts.items()],
        value_info=[info(o) for o in written],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in graph.opsets]
    return helper.make_model(proto, opset_imports=opsets, ir_version=graph.ir_version, producer_name="qaccel")


def _unrounded(node: onnx.NodeProto) -> onnx.NodeProto:
    return helper.make_node("Identity", node.input, node.output, name=node.name) if node.domain == DOMAIN else node
