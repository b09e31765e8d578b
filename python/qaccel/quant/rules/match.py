"""Reads float Relax: gathers its bindings into the nodes that they came from, and joins clamps and biases to their layers."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from tvm import ir, relax

from ...dialect import kinds
from ...dialect.kinds import Kind
from ...relax_tools import bindings, node_name, use_counts, variables


@dataclass(frozen=True)
class Node:
    """One source node: its Relax bindings in order, the variables it reads, the variable it defines.

    ``clamps`` are the Relu and Clip nodes that it has taken in; ``output`` is then the last one's variable. ``inner`` are the
    nodes before the last one of a look-up table that stands for several. ``added`` is the Add that gives a product its bias.
    ``rounded`` is the ROUNDED node that says what integers its output is, in a model that came quantized.
    """

    name: str
    op: str
    kind: Kind
    bindings: tuple[relax.VarBinding, ...]
    inputs: tuple[relax.Var, ...]
    output: relax.Var
    clamps: tuple[Node, ...] = ()
    inner: tuple[Node, ...] = ()
    added: tuple[Node, ...] = ()
    rounded: tuple[Node, ...] = ()

    @property
    def joined(self) -> tuple[Node, ...]:
        """The nodes behind it that it has taken in."""
        return (*self.added, *self.clamps, *self.rounded)

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        """The source nodes that this one stands for, itself among them."""
        return (*self.inner, self, *self.joined)

    @property
    def call(self) -> relax.Call:
        """The first call: the operation itself, before a bias."""
        return self.bindings[0].value

    @property
    def range_name(self) -> str:
        """The node whose calibrated range is that of the output."""
        return self.joined[-1].name if self.joined else self.name


def renames(node: Node) -> bool:
    """Whether the node's output is the same integers as its input."""
    if not isinstance(node.bindings[-1].value, relax.Call):
        return isinstance(node.bindings[-1].value, relax.Var)
    return node.kind.renames


@dataclass(frozen=True)
class NodeBits:
    """How many bits the weights, the inputs and the output of a node have."""

    weight: int
    activation: int
    out: int


def nodes_of(function: relax.Function, op_types: Mapping[str, str]) -> list[Node]:
    """The nodes of a function of one dataflow block, in order. ``op_types``: ONNX operator by node name."""
    groups: list[list[relax.VarBinding]] = []
    for binding in bindings(function):
        name = _name(binding)
        if groups and name and _name(groups[-1][-1]) == name:
            groups[-1].append(binding)
        else:
            groups.append([binding])
    uses = use_counts(function)
    return [_node(group, op_types, uses) for group in groups]


def fuse_biases(nodes: Iterable[Node], uses: Mapping[relax.Var, int]) -> list[Node]:
    """An Add of one constant per output channel joined to the matrix product that it alone reads."""
    result: list[Node] = []
    position: dict[relax.Var, int] = {}
    for node in nodes:
        before = position.get(node.inputs[0]) if len(node.inputs) == 1 and _adds_vector(node) else None
        if before is not None and uses[node.inputs[0]] == 1 and _lacks_bias(result[before]):
            host = result[before]
            result[before] = replace(
                host, bindings=(*host.bindings, *node.bindings), added=(node,), output=node.output
            )  # fmt: skip
            continue
        position[node.output] = len(result)
        result.append(node)
    return result


def _adds_vector(node: Node) -> bool:
    """Whether a node adds a constant that has one value for each entry of the last axis, or fewer."""
    call = node.call
    if node.kind is not kinds.ELTWISE or call.op.name != "relax.add" or not isinstance(call.args[1], ir.GenericConst):
        return False
    sizes = [int(size) for size in call.args[1].ty.shape]
    return all(size == 1 for size in sizes[:-1]) and len(sizes) <= len(call.ty.shape)


def _lacks_bias(node: Node) -> bool:
    return node.kind is kinds.GEMM and len(node.bindings) == 1


def fuse_clamps(nodes: Iterable[Node], uses: Mapping[relax.Var, int]) -> list[Node]:
    """Relu and Clip joined to the node before where they alone read it (``uses`` counts graph outputs too)."""
    result: list[Node] = []
    position: dict[relax.Var, int] = {}
    for node in nodes:
        before = position.get(node.inputs[0]) if node.kind is kinds.CLAMP and node.inputs else None
        if before is not None and uses[node.inputs[0]] == 1 and result[before].kind.clamps:
            host = result[before]
            result[before] = replace(host, clamps=(*host.clamps, node), output=node.output)
            position[node.output] = before
            continue
        position[node.output] = len(result)
        result.append(node)
    return result


def fuse_roundings(nodes: Iterable[Node], uses: Mapping[relax.Var, int], hosts: Container[Kind]) -> list[Node]:
    """ROUNDED nodes joined to the node before, of a kind in ``hosts``, where they alone read it."""
    result: list[Node] = []
    position: dict[relax.Var, int] = {}
    for node in nodes:
        before = position.get(node.inputs[0]) if node.kind is kinds.ROUNDED and node.inputs else None
        if before is not None and uses[node.inputs[0]] == 1 and result[before].kind in hosts:
            result[before] = replace(result[before], rounded=(node,), output=node.output)
            continue
        position[node.output] = len(result)
        result.append(node)
    return result


def _name(binding: relax.VarBinding) -> str:
    return node_name(binding.value) if isinstance(binding.value, relax.Call) else ""


def _node(group: list[relax.VarBinding], op_types: Mapping[str, str], uses: Mapping[relax.Var, int]) -> Node:
    inside = {binding.var for binding in group}
    inputs = tuple(var for binding in group for var in variables(binding.value) if var not in inside)
    operators = tuple(
        b.value.op.name if isinstance(b.value, relax.Call) and isinstance(b.value.op, ir.Op) else "" for b in group
    )
    kind = kinds.kind_of(operators, group[0].value)
    if len(group) == 2 and kind.weights:
        second = group[1].value.args
        joined = group[0].var.same_as(second[0]) and isinstance(second[1], ir.GenericConst) and uses[group[0].var] == 1
        kind = kind if joined else kinds.OTHER
    name = _name(group[0])
    return Node(name or str(group[-1].var.name), op_types.get(name, ""), kind, tuple(group), inputs, group[-1].var)
