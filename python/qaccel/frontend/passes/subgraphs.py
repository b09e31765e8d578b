"""Graphs within nodes, written out: the branch of an If that is taken, the steps of a Loop or Scan whose number is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph import NotStatic, attrs_of, fresh_name, remade

LONGEST = 512  # steps that are written out
_STEP, _PARTS = "qaccel_step", "qaccel_parts"  # of a Loop under way: its next step, what its outputs are joined from


def branch(node: onnx.NodeProto, taken_branch: bool, taken: set[str]) -> list[onnx.NodeProto]:
    """The nodes of the branch that a constant condition selects, writing the outputs of the If node.

    `taken` holds the tensor names in use and grows by those of the branch.
    """
    body: onnx.GraphProto = attrs_of(node)["then_branch" if taken_branch else "else_branch"]
    nodes, outputs = _inlined(node.name, body, (), taken)
    return nodes + _given_names(node, outputs)


def loop_step(
    node: onnx.NodeProto, consts: Mapping[str, np.ndarray], taken: set[str], opset: int
) -> list[onnx.NodeProto]:
    """The next step of a Loop, and the Loop of those that are left; behind the last step its outputs.

    Empty where a Loop without a step has outputs of all steps, or whether there is a next step is not known beforehand. Raises
    NotStatic where there are more than `LONGEST`.
    """
    attrs = attrs_of(node)
    body, step, parts = attrs["body"], attrs.get(_STEP, 0), [each.decode() for each in attrs.get(_PARTS, [])]
    limit, condition, *carried = node.input
    if not (limit or condition) or any(name and name not in consts for name in (limit, condition)):
        return []
    over = limit and step >= int(consts[limit].reshape(())) or condition and not consts[condition].reshape(())
    joined = len(node.output) - len(carried)
    if over:
        if joined and not step:
            return []
        nodes = [each for k in range(joined) for each in _joined(node, len(carried) + k, parts[k::joined], 0, opset)]
        return nodes + _given_names(node, carried)
    if step >= LONGEST:
        raise NotStatic(
            f"node '{node.name}': Loop repeats a graph more than {LONGEST} times, the most that are written out",
            ": export the model without it",
        )
    label = f"{node.name}/{step}"
    count = _constant(f"{label}/step", np.array(step, np.int64), taken)
    nodes = [count]
    if not condition:
        nodes.append(_constant(f"{label}/condition", np.array(True), taken))
    first = [count.output[0], condition or nodes[-1].output[0]]
    inner, outputs = _inlined(label, body, [*first, *carried], taken)
    parts += outputs[1 + len(carried) :]
    left = [limit, outputs[0] if condition else "", *outputs[1 : 1 + len(carried)]]
    again = remade(node, left, **{_STEP: step + 1}, **({_PARTS: parts} if parts else {}))
    return [*nodes, *inner, again]


def scan_steps(
    node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]], taken: set[str], opset: int
) -> list[onnx.NodeProto]:
    """All steps of a Scan over tensors of ``shapes``; empty for the form of opset 8, over batches, and where there is no step.

    Raises NotStatic where there are more than `LONGEST`.
    """
    attrs = attrs_of(node)
    body, count = attrs["body"], attrs["num_scan_inputs"]
    carried, scanned = list(node.input[:-count]), list(node.input[-count:])
    joined = len(node.output) - len(carried)
    axes = [a % len(shapes[x]) for a, x in zip(attrs.get("scan_input_axes", [0] * count), scanned, strict=True)]
    lengths = {shapes[x][a] for a, x in zip(axes, scanned, strict=True)}
    if opset < 9 or len(lengths) != 1 or 0 in lengths:
        return []
    (length,) = lengths
    if length > LONGEST:
        raise NotStatic(
            f"node '{node.name}': Scan repeats a graph {length} times, and at most {LONGEST} are written out",
            ": export the model without it",
        )
    backwards = attrs.get("scan_input_directions", [0] * count)
    nodes: list[onnx.NodeProto] = []
    parts: list[str] = []
    for step in range(length):
        label, elements = f"{node.name}/{step}", []
        for k, (x, axis) in enumerate(zip(scanned, axes, strict=True)):
            place = np.array(length - 1 - step if backwards[k] else step, np.int64)
            index = _constant(f"{label}/place{k}", place, taken)
            elements.append(_fresh(f"{label}/element{k}", taken))
            picked = helper.make_node("Gather", [x, index.output[0]], elements[-1:], f"{label}/element{k}", axis=axis)
            nodes += [index, picked]
        inner, outputs = _inlined(label, body, [*carried, *elements], taken)
        nodes += inner
        carried, parts = outputs[: len(carried)], [*parts, *outputs[len(carried) :]]
    turned = attrs.get("scan_output_directions", [0] * joined)
    out_axes = attrs.get("scan_output_axes", [0] * joined)
    for k in range(joined):
        nodes += _joined(node, len(carried) + k, parts[k::joined][:: -1 if turned[k] else 1], out_axes[k], opset)
    return nodes + _given_names(node, carried)


def _inlined(
    label: str, body: onnx.GraphProto, given: Sequence[str], taken: set[str]
) -> tuple[list[onnx.NodeProto], list[str]]:
    """The nodes of a graph under names of their own, with ``given`` for its inputs; and its outputs."""
    nodes = [helper.make_node("Constant", [], [t.name], name=t.name, value=t) for t in body.initializer]
    nodes += list(body.node)
    rename = {inner.name: outer for inner, outer in zip(body.input, given, strict=True)}
    for out in (out for node in nodes for out in node.output if out):
        rename[out] = _fresh(f"{label}/{out}", taken)
    renamed = [_renamed(n, rename) for n in nodes]
    for inner in renamed:
        inner.name = f"{label}/{inner.name}" if inner.name else inner.output[0]
    return renamed, [rename.get(out.name, out.name) for out in body.output]


def _given_names(node: onnx.NodeProto, sources: Sequence[str]) -> list[onnx.NodeProto]:
    """The first outputs of a node as what they are in the graph within it."""
    return [
        helper.make_node("Identity", [source], [target], name=f"{node.name}/{target}")
        for source, target in zip(sources, node.output, strict=False)
        if target
    ]


def _joined(node: onnx.NodeProto, output: int, parts: Sequence[str], axis: int, opset: int) -> list[onnx.NodeProto]:
    """An output of the node that joins along a new axis what every step gave."""
    target = node.output[output]
    if not target:
        return []
    nodes, lines = [], []
    for step, part in enumerate(parts):
        name, line = f"{node.name}/{target}:{step}", f"{target}:{step}"
        if opset < 13:
            nodes.append(helper.make_node("Unsqueeze", [part], [line], name, axes=[axis]))
        else:
            key = f"{line}/axes"
            nodes.append(helper.make_node("Constant", [], [key], f"{name}/axes", value_ints=[axis]))
            nodes.append(helper.make_node("Unsqueeze", [part, key], [line], name))
        lines.append(line)
    return [*nodes, helper.make_node("Concat", lines, [target], f"{node.name}/{target}", axis=axis)]


def _constant(name: str, value: np.ndarray, taken: set[str]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [_fresh(name, taken)], name, value=numpy_helper.from_array(value))


def _fresh(base: str, taken: set[str]) -> str:
    name = fresh_name(base, taken)
    taken.add(name)
    return name


def _renamed(node: onnx.NodeProto, rename: Mapping[str, str]) -> onnx.NodeProto:
    """The node with its tensors renamed, in the graphs within it too: they read what is written outside of them."""
    copy = remade(node, [rename.get(i, i) for i in node.input], [rename.get(o, o) for o in node.output])
    for attribute in copy.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            own = {o for n in attribute.g.node for o in n.output} | {t.name for t in attribute.g.initializer}
            own |= {i.name for i in attribute.g.input}
            outside = {old: new for old, new in rename.items() if old not in own}
            inner = [_renamed(n, outside) for n in attribute.g.node]
            del attribute.g.node[:]
            attribute.g.node.extend(inner)
            for out in attribute.g.output:
                out.name = outside.get(out.name, out.name)
    return copy
