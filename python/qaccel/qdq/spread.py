"""An activation with a scale for each channel or block, which the machine has not: rounded in float operators, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from .scales import Scales


def rounded_by_channel(
    node: onnx.NodeProto, source: str, scales: Scales, shape: tuple[int, ...], fresh: Callable[[str], str],
    consts: dict[str, np.ndarray], nodes: list[onnx.NodeProto],
) -> str:  # fmt: skip
    """Writes the float nodes that round ``source`` as the QuantizeLinear ``node`` and its DequantizeLinear do; gives the tensor.

    Blocks' scales are spread over its ``shape``. ``consts`` and ``nodes`` grow.
    """
    scale, zero_point = scales.scale, scales.zero_point
    if scales.block:
        scale, zero_point = scales.spread(shape)

    def const(what: str, value: np.ndarray) -> str:
        name = fresh(f"{node.name}_{what}")
        consts[name] = np.ascontiguousarray(value, np.float32)
        return name

    def do(op: str, *inputs: str) -> str:
        out = fresh(f"{node.name}_{op}")
        nodes.append(helper.make_node(op, list(inputs), [out], name=out))
        return out

    factor = const("scale", scale)
    steps = do("Round", do("Div", source, factor))
    held = do("Min", do("Max", steps, const("lo", scales.lo - zero_point)), const("hi", scales.hi - zero_point))
    return do("Mul", held, factor)
