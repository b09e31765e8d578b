"""A quantized model as a float one: its tensors are not rounded any more, and clamps that its integers stood for come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from onnx import helper

from ..frontend.graph import ROUNDED, Graph, attrs_of, fresh_name, substitute
from ..frontend.passes.fold import fold
from ..model import Saturation
from .fixed import MOVES

# What gives no negative value, and what gives none where its input has none.
NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt")
KEEP_SIGN = (*MOVES, "Concat", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "Resize")
_BOUNDS_ARE_INPUTS = 11  # opset from which a Clip has its bounds as inputs


def without_rounding(graph: Graph, clamped: Mapping[str, tuple[bool, bool]] | None = MappingProxyType({})) -> Graph:
    """The float graph that a quantized one stands for: its weights as they were rounded, its activations not rounded at all.

    Quantizers leave a Relu or Clip to the saturation of the integers behind it: where they begin at zero, and what is rounded may
    be negative, that end is made a Clip again. Elsewhere only data tell a clamp from a range that nothing passes: ``clamped`` has
    by node whether its integers are to end below and above where they did, None stands for both of all; what they are to be
    judged by is in `Given.saturates`.
    """
    if graph.given is None:
        return graph
    makers, alias, consts, nodes = graph.producers(), {}, dict(graph.consts), []
    positive: set[str] = set()
    saturates: dict[str, Saturation] = {}
    for node in graph.nodes:
        attrs = attrs_of(node) if node.op_type == ROUNDED else {}
        if not attrs:
            nodes.append(node)
            data = node.input if node.op_type == "Concat" else node.input[:1]
            if node.op_type in NEVER_NEGATIVE or node.op_type in KEEP_SIGN and positive.issuperset(data):
                positive.update(node.output)
            continue
        begins_at_zero = attrs["lo"] == attrs["zero_point"]
        ends = tuple((attrs[end] - attrs["zero_point"]) * attrs["scale"] for end in ("lo", "hi"))
        maker = makers.get(node.input[0])
        relu = maker is not None and begins_at_zero and node.input[0] not in positive
        if begins_at_zero or node.input[0] in positive:
            positive.add(node.output[0])
        below = above = False
        if maker is not None:
            saturates[maker.name] = Saturation(ends[0], ends[1], relu)
            below, above = (True, True) if clamped is None else clamped.get(maker.name, (False, False))
        bounds = {"min": ends[0]} if below or relu else {}
        bounds |= {"max": ends[1]} if above else {}
        if not bounds:
            alias[node.output[0]] = node.input[0]
            continue
        if graph.opset < _BOUNDS_ARE_INPUTS:
            nodes.append(helper.make_node("Clip", node.input, node.output, name=node.name, **bounds))
            continue
        names = {end: fresh_name(f"{node.output[0]}_{end}", {*consts, *graph.types}) for end in bounds}
        consts |= {names[end]: np.asarray(value, np.float32) for end, value in bounds.items()}
        read = [node.input[0], *(names.get(end, "") for end in ("min", "max"))]
        nodes.append(helper.make_node("Clip", read, node.output, name=node.name))
    given = replace(graph.given, weights={}, biases={}, constants={}, activations=False, saturates=saturates)
    return fold(
        substitute(
            replace(graph, nodes=tuple(nodes), consts=consts, given=given if given.ends or saturates else None), alias
        )
    )
