"""What float Relax says: bindings gathered into the nodes they came from, clamps joined to the layer before them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tvm import ir, relax

from ...relax_tools import node_name, use_counts, variables

# Relax operators of a node, in order -> the kind under which rules know it. A node of any other make stays in float.
_KINDS = {
    ("relax.nn.conv2d",): "conv",
    ("relax.nn.conv2d", "relax.add"): "conv",
    ("relax.nn.conv2d_transpose",): "conv_transpose",
    ("relax.nn.conv2d_transpose", "relax.add"): "conv_transpose",
    ("relax.matmul",): "gemm",
    ("relax.matmul", "relax.add"): "gemm",
    ("relax.add",): "eltwise",
    ("relax.subtract",): "eltwise",
    ("relax.multiply",): "eltwise",
    ("relax.minimum",): "eltwise",
    ("relax.maximum",): "eltwise",
    ("relax.nn.relu",): "clamp",
    ("relax.clip",): "clamp",
    ("relax.nn.max_pool2d",): "max_pool",
    ("relax.nn.avg_pool2d",): "avg_pool",
    ("relax.mean",): "mean",
    ("relax.max",): "max",
    ("relax.reshape",): "reshape",
    ("relax.permute_dims",): "transpose",
    ("relax.strided_slice",): "move",
    ("relax.nn.pad",): "move",
    ("relax.concat",): "move",
    ("relax.take",): "move",
    ("relax.take", "relax.reshape"): "move",
    ("relax.tile",): "move",
    ("relax.repeat",): "move",
    ("relax.flip",): "move",
    ("relax.broadcast_to",): "move",
    ("relax.expand_dims",): "reshape",
    ("relax.squeeze",): "reshape",
    ("relax.flatten",): "reshape",
    ("relax.image.resize2d",): "resize",
    ("relax.nn.prelu",): "prelu",
}
_OP_OF_KIND = {
    "conv": "Conv", "conv_transpose": "ConvTranspose", "gemm": "Gemm", "clamp": "Clip", "max_pool": "MaxPool",
    "avg_pool": "AveragePool", "mean": "ReduceMean", "max": "ReduceMax", "reshape": "Reshape", "transpose": "Transpose",
    "resize": "Resize", "prelu": "PRelu",
}  # fmt: skip
_BIASED = ("conv", "conv_transpose", "gemm")
CARRIES_CLAMPS = ("conv", "conv_transpose", "gemm", "eltwise", "max_pool", "avg_pool", "mean", "max", "clamp")


@dataclass(frozen=True)
class Node:
    """One source node: its Relax bindings in order, the variables it reads, the variable it defines.

    ``clamps`` are the Relu and Clip nodes that it has taken in; ``output`` is then the last one's variable. ``inner`` are the
    nodes before the last one of a look-up table that stands for several. ``added`` is the Add that gives a product its bias.
    """

    name: str
    op: str
    kind: str
    bindings: tuple[relax.VarBinding, ...]
    inputs: tuple[relax.Var, ...]
    output: relax.Var
    clamps: tuple[Node, ...] = ()
    inner: tuple[Node, ...] = ()
    added: tuple[Node, ...] = ()

    @property
    def joined(self) -> tuple[Node, ...]:
        """The nodes behind it that it has taken in."""
        return (*self.added, *self.clamps)

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


def nodes_of(function: relax.Function, op_types: Mapping[str, str]) -> list[Node]:
    """The nodes of a function of one dataflow block, in order. ``op_types``: ONNX operator by node name."""
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    groups: list[list[relax.VarBinding]] = []
    for binding in bindings:
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
    if node.kind != "eltwise" or call.op.name != "relax.add" or not isinstance(call.args[1], ir.GenericConst):
        return False
    sizes = [int(size) for size in call.args[1].ty.shape]
    return all(size == 1 for size in sizes[:-1]) and len(sizes) <= len(call.ty.shape)


def _lacks_bias(node: Node) -> bool:
    return node.kind == "gemm" and len(node.bindings) == 1


def fuse_clamps(nodes: Iterable[Node], uses: Mapping[relax.Var, int]) -> list[Node]:
    """Relu and Clip joined to the node before where they alone read it (``uses`` counts graph outputs too)."""
    result: list[Node] = []
    position: dict[relax.Var, int] = {}
    for node in nodes:
        before = position.get(node.inputs[0]) if node.kind == "clamp" and node.inputs else None
        if before is not None and uses[node.inputs[0]] == 1 and result[before].kind in CARRIES_CLAMPS:
            host = result[before]
            result[before] = replace(host, clamps=(*host.clamps, node), output=node.output)
            position[node.output] = before
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
    kind = _KINDS.get(operators, "other")
    if len(group) == 2 and kind in _BIASED:
        second = group[1].value.args
        joined = group[0].var.same_as(second[0]) and isinstance(second[1], ir.GenericConst) and uses[group[0].var] == 1
        kind = kind if joined else "other"
    name = _name(group[0])
    op = op_types.get(name) or _OP_OF_KIND.get(kind) or operators[-1].removeprefix("relax.")
    return Node(name or str(group[-1].var.name), op, kind, tuple(group), inputs, group[-1].var)
