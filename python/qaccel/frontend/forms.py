"""What the import asks of whoever knows the forms in which quantized models come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from .graph import Graph


@dataclass(frozen=True)
class Forms:
    """How a model that came quantized is read, in three steps.

    ``spelled``: operators on integers in a model become float ones between quantize and dequantize. ``read``: in a graph whose
    constants are known, those become the graph's `given` and its nodes `ROUNDED`. ``settled``: on the canonical graph.
    """

    spelled: Callable[[onnx.ModelProto], onnx.ModelProto]
    read: Callable[[Graph], Graph]
    settled: Callable[[Graph], Graph]


AS_FLOAT = Forms(lambda proto: proto, lambda graph: graph, lambda graph: graph)  # a float model, or one taken as it is
