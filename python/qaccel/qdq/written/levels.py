"""Steep functions held at several scales, spelled out in ONNX: each call of such a ladder becomes a node under its own name.

What the ladder computes again, at a finer scale, is a copy of the node that computes it first. A table of one level is the
function between a Max with the level's lower end, a Clip to the range of its output and a Sub of its value at that end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tvm import relax

from ...dialect import names, operators
from ...dialect.operators import EltwiseAttrs, IntegerAttrs, MoveAttrs, QuantizeAttrs, RequantizeAttrs
from ...dialect.quantized import QuantizedModel, TablePart
from ...frontend.graph import fresh_name
from ...relax_tools import bindings, variables

RENAMING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
Call = tuple[operators.Attrs, tuple[np.ndarray, ...]]  # with the constants of a convolution: weight, bias, weight scale
Version = tuple[str, str]  # a tensor of the source, and the tensor of the result that is it at some scale


@dataclass(frozen=True, eq=False)
class Spelled:
    """A quantized model every call of which belongs to a node of ``source``, its name being the node's or that of a step of it.

    ``source``: the model in ONNX. ``calls`` in order. The rest is as in `QuantizedModel`.
    """

    source: onnx.ModelProto
    calls: tuple[Call, ...]
    fused: dict[str, tuple[str, ...]]
    inner: dict[str, tuple[str, ...]]
    spans: dict[str, tuple[float, float, float, float]]


def spelled_out(q: QuantizedModel, source: onnx.ModelProto) -> Spelled:
    """The model with its ladders as nodes; ``source`` is ``q.model.onnx_model``, brought to the opset that is written."""
    return _Speller(q, source).spelled()


class _Speller:
    """The graph as it grows. A tensor of the source that is held at several scales has several versions, tensors of the result."""

    def __init__(self, q: QuantizedModel, source: onnx.ModelProto) -> None:
        self.q, self.source = q, source
        self.nodes = {node.name: node for node in source.graph.node}
        self.maker = {out: node for node in source.graph.node for out in node.output}
        self.constants = {value.name for value in source.graph.initializer}
        self.taken = self.constants | set(self.maker) | set(self.nodes) | {value.name for value in source.graph.input}
        self.fused, self.inner, self.spans = dict(q.fused), dict(q.inner), dict(q.spans)
        self.steep = {name: self._of_table(name) for name in q.levels}
        self.new_constants: list[onnx.TensorProto] = []
        self.ladder: list[onnx.NodeProto] = []  # the one that grows
        self.ladders: dict[str, list[onnx.NodeProto]] = {}  # by their function, in whose place they stand
        self.versions: dict[relax.Var, Version] = {}
        self.renamed: dict[tuple[str, str], str] = {}
        self.pending: dict[str, str] = {}  # names of rungs, some calls of which have come, as they are in the result

    def spelled(self) -> Spelled:
        """Takes the calls in order and gives those of a ladder nodes."""
        calls = []
        for binding in bindings(self.q.mod["main"]):
            operands = [self.versions[var] for var in variables(binding.value) if var in self.versions]
            if not operators.is_quantized(binding.value):
                self.versions.update({binding.var: operands[0]} if operands else {})
                continue
            attrs, version = self._taken(operators.read(binding.value), operands, binding.value)
            self.versions.update({binding.var: version} if version else {})
            constants = binding.value.args[1:] if isinstance(attrs, operators.ConvAttrs) else []
            calls.append((attrs, tuple(operators.constant(value) for value in constants)))
        source = onnx.ModelProto()
        source.CopyFrom(self.source)
        functions = {node.name for nodes in self.steep.values() for node in nodes}
        nodes = [
            [node] if node.name not in functions else self.ladders.get(node.name, []) for node in source.graph.node
        ]
        del source.graph.node[:]
        source.graph.node.extend(node for each in nodes for node in each)
        source.graph.initializer.extend(self.new_constants)
        return Spelled(source, tuple(calls), self.fused, self.inner, self.spans)

    def _of_table(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that a table stands for, in order; `inner` has none of them any more."""
        return [self.nodes[each] for each in (*self.inner.pop(name, ()), name)]

    def _taken(
        self, attrs: operators.Attrs, operands: list[Version], call: relax.Call
    ) -> tuple[operators.Attrs, Version | None]:  # fmt: skip
        """A call under its name in the result, and the tensor and version that its result is integers of."""
        on_integers = isinstance(attrs, IntegerAttrs)
        if attrs.name in self.steep and on_integers:
            tensor = self.nodes[attrs.name].output[0]
            self._sum(attrs.name, operands, tensor)
            self.ladders[attrs.name], self.ladder = self.ladder, []
            return attrs, (tensor, tensor)
        if attrs.name in self.nodes and (on_integers or isinstance(attrs, QuantizeAttrs)):
            tensor = self._last(attrs.name).output[0]
            return attrs, (tensor, tensor)
        if isinstance(attrs, QuantizeAttrs) and not operands:
            return attrs, (attrs.name, attrs.name)
        rung = names.rung_of(attrs.name)
        if rung is not None and rung[0] in self.nodes:
            return self._rung(attrs, *rung, operands, call)
        if isinstance(attrs, RequantizeAttrs) and operands and operands[0][0] != operands[0][1]:
            bits = attrs.result.bits
            if attrs.name == names.copy_of_width(attrs.name.rpartition(".")[0], bits):
                attrs = replace(attrs, name=names.copy_of_width(operands[0][1], bits))
        moved = not on_integers or isinstance(attrs, (MoveAttrs, RequantizeAttrs))
        return attrs, operands[0] if operands and moved else None

    def _rung(
        self, attrs: operators.Attrs, node: str, which: str, step: str, operands: list[Version], call: relax.Call
    ) -> tuple[operators.Attrs, Version]:  # fmt: skip
        """A call of the ladder through ``node`` made a node. Two ladders through it have calls of the same names."""
        known = names.step(node, which)
        name = self.pending.setdefault(known, fresh_name(known, self.taken))
        if step:
            return replace(attrs, name=name + step), operands[0]
        self.taken.add(self.pending.pop(known))
        if attrs.name in self.spans:
            self.spans[name] = self.spans[attrs.name]
        base = self._last(node).output[0]
        if names.is_excess(which):
            base = operands[0][0]
            made = self._excess(name, node, operands[0][1], operators.constant(call.args[1]), attrs)
        elif names.is_sum(which):
            made = self._sum(name, operands, self._fresh(name))
        elif (level := names.level_of(which)) is not None:
            made = self._part(name, node, operands[0], self.q.levels[node][level])
        else:
            behind = () if names.is_bare(which) else self.q.fused.get(node, ())
            members = [*self.inner_of(node), self.nodes[node], *(self.nodes[n] for n in behind if self._clamps(n))]
            made = self._copied(name, node, members, operands)
        return replace(attrs, name=name), (base, made)

    def _last(self, name: str) -> onnx.NodeProto:
        """The last of the nodes that a call stands for."""
        return self.nodes[(name, *self.q.fused.get(name, ()))[-1]]

    def _clamps(self, name: str) -> bool:
        return name not in self.q.added.values()

    def inner_of(self, name: str) -> list[onnx.NodeProto]:
        """The nodes before one that its table stands for."""
        return [self.nodes[each] for each in self.q.inner.get(name, ())]

    def _copied(self, name: str, node: str, members: list[onnx.NodeProto], operands: list[Version]) -> str:
        """Nodes again, the one of them that is called ``node`` as ``name``, on other versions; the tensor of the last."""
        version = dict(operands)
        tensors: dict[str, str] = {}
        copies: list[str] = []
        for member in members:
            copy = onnx.NodeProto()
            copy.CopyFrom(member)
            copy.name = name if member.name == node else self._fresh(f"{name}.{member.name}")
            for position, tensor in enumerate(member.input):
                if tensor in tensors:
                    copy.input[position] = tensors[tensor]
                elif tensor and tensor not in self.constants:
                    copy.input[position] = self._renamed(tensor, version)
            copy.output[0] = tensors[member.output[0]] = self._fresh(f"{copy.name}_out")
            copies.append(copy.name)
            self.ladder.append(copy)
        place = copies.index(name)
        self.inner[name], self.fused[name] = tuple(copies[:place]), tuple(copies[place + 1 :])
        return tensors[members[-1].output[0]]

    def _renamed(self, tensor: str, version: dict[str, str]) -> str:
        """A tensor on the version given of the one that it only renames."""
        chain = []
        root = tensor
        while root not in version and root in self.maker and self.maker[root].op_type in RENAMING:
            chain.append(self.maker[root])
            root = self.maker[root].input[0]
        result = version.get(root, root)
        if result == root:
            return tensor
        for each in reversed(chain):
            key = each.output[0], result
            if key not in self.renamed:
                copy = onnx.NodeProto()
                copy.CopyFrom(each)
                copy.name = self._fresh(f"{result}.{each.name}")
                copy.input[0] = result
                copy.output[0] = self.renamed[key] = self._fresh(copy.name + "_out")
                self.ladder.append(copy)
            result = self.renamed[key]
        return result

    def _part(self, name: str, node: str, operand: Version, part: TablePart) -> str:
        """The table of one level."""
        members = self.steep[node]
        inside = {each.output[0] for each in members}
        (source,) = {t for n in members for t in n.input if t and t not in inside and t not in self.constants}
        x = self._renamed(source, dict([operand]))
        inner: list[str] = []
        if part.bottom is not None:
            x = self._node("Max", [x, self._constant(name, part.bottom)], node, inner)
        tensors = {source: x}
        for member in members:
            copy = onnx.NodeProto()
            copy.CopyFrom(member)
            copy.name = self._fresh(f"{name}.{member.name}")
            copy.input[:] = [tensors.get(tensor, tensor) for tensor in member.input]
            copy.output[0] = tensors[member.output[0]] = self._fresh(f"{copy.name}_out")
            inner.append(copy.name)
            self.ladder.append(copy)
        bounds = [self._constant(name, bound) for bound in (part.lo, part.hi)]
        made = self._node("Clip", [tensors[members[-1].output[0]], *bounds], node, inner)
        if part.bottom is not None:
            made = self._node("Sub", [made, self._constant(name, part.value)], node, inner)
        last = self.ladder[-1]
        inner.pop()
        last.name = name
        self.inner[name] = tuple(inner)
        return made

    def _excess(self, name: str, node: str, x: str, constant: np.ndarray, attrs: operators.Attrs) -> str:
        """max(x - bottom, 0), a Sub and a Relu; ``constant`` has minus the bottom in integers."""
        assert isinstance(attrs, EltwiseAttrs)
        bottom = -int(constant.reshape(-1)[0]) * attrs.b.scale
        less = self._fresh(f"{name}_less")
        self.ladder.append(helper.make_node("Sub", [x, self._constant(name, bottom)], [less], name=name))
        fused: list[str] = []
        made = self._node("Relu", [less], node, fused)
        self.fused[name] = tuple(fused)
        return made

    def _sum(self, name: str, operands: list[Version], out: str) -> str:
        self.ladder.append(helper.make_node("Add", [each for _, each in operands], [out], name=name))
        return out

    def _node(self, op: str, inputs: list[str], node: str, into: list[str]) -> str:
        """A new node of a ladder of ``node``; its name goes ``into`` a list, its tensor comes back."""
        name = self._fresh(f"{node}.{op}")
        into.append(name)
        out = self._fresh(f"{name}_out")
        self.ladder.append(helper.make_node(op, inputs, [out], name=name))
        return out

    def _constant(self, name: str, value: float) -> str:
        label = self._fresh(f"{name}_constant")
        self.new_constants.append(numpy_helper.from_array(np.float32(value), label))
        self.constants.add(label)
        return label

    def _fresh(self, base: str) -> str:
        name = fresh_name(base, self.taken)
        self.taken.add(name)
        return name
