"""Writes nodes that stand for another node, in the operator versions of the graph's own opset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .graph import Graph, fresh_name


class Writer:
    """Collects new nodes and constants under names that nothing else in `graph` has.

    `consts` are the graph's and the new ones; `nodes` are those written since the last `take`.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.consts: dict[str, np.ndarray] = dict(graph.consts)
        self.nodes: list[onnx.NodeProto] = []
        self._names = {n.name for n in graph.nodes} | set(graph.inputs)
        self._tensors = {o for n in graph.nodes for o in n.output} | set(graph.inputs) | set(graph.types)

    def take(self) -> list[onnx.NodeProto]:
        """The nodes written so far, which are forgotten here."""
        nodes, self.nodes = self.nodes, []
        return nodes

    def const(self, base: str, value: Any, dtype: Any = None) -> str:
        """A new constant."""
        name = fresh_name(base, self.consts)
        while name in self._tensors:
            name = fresh_name(f"{name}_", self.consts)
        self.consts[name] = np.asarray(value, dtype)
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, output: str = "", **attrs: Any) -> str:
        """A node; returns its output. A `name` in use gets a number, so the node that is replaced may give its name on."""
        label = fresh_name(name, self._names)
        self._names.add(label)
        if not output:
            output = fresh_name(f"{label}_out", self._tensors | set(self.consts))
            self._tensors.add(output)
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=label, **attrs))
        return output

    def keep(self, node: onnx.NodeProto) -> str:
        """A node that keeps the name of the one it replaces; returns its first output."""
        self.nodes.append(node)
        return node.output[0]

    def tensor(self, base: str) -> str:
        """A tensor name for a node given to `keep`."""
        name = fresh_name(base, self._tensors | set(self.consts))
        self._tensors.add(name)
        return name

    def free(self, name: str) -> None:
        """Lets the next node take the name of the node that is being replaced."""
        self._names.discard(name)

    def reshape(self, source: str, shape: Sequence[int], name: str, output: str = "") -> str:
        """Reshape to a static shape without zeros."""
        target = self.const(f"{name}_shape", list(shape), np.int64)
        return self.node("Reshape", [source, target], name, output)

    def transpose(self, source: str, perm: Sequence[int], name: str, output: str = "") -> str:
        """Transpose."""
        return self.node("Transpose", [source], name, output, perm=list(perm))

    def gather(self, source: str, indices: Sequence[int], axis: int, name: str, output: str = "") -> str:
        """Gather of a list of indices along one axis."""
        key = self.const(f"{name}_indices", list(indices), np.int64)
        return self.node("Gather", [source, key], name, output, axis=axis)

    def slice(
        self,
        source: str,
        starts: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int],
        name: str,
        output: str = "",
    ) -> str:
        """Slice with steps of one."""
        if self.graph.opset < 10:
            return self.node("Slice", [source], name, output, starts=list(starts), ends=list(ends), axes=list(axes))
        keys = [
            self.const(f"{name}_{what}", list(values), np.int64)
            for what, values in (("starts", starts), ("ends", ends), ("axes", axes))
        ]
        return self.node("Slice", [source, *keys], name, output)

    def pad(self, source: str, amounts: Sequence[int], value: Any, name: str, output: str = "") -> str:
        """Pad with a constant; `amounts`: before all axes, then after all axes, none negative."""
        if self.graph.opset < 11:
            return self.node("Pad", [source], name, output, pads=list(amounts), value=float(np.asarray(value)))
        inputs = [source, self.const(f"{name}_pads", list(amounts), np.int64)]
        if np.any(np.asarray(value) != 0):
            inputs.append(self.const(f"{name}_value", value))
        return self.node("Pad", inputs, name, output)
