"""Random cases of single operators: the ONNX graph, the ranges given to the quantizer, and what the machine must make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from operators.exact import CODE, Q, Result, Tensor, quantization

OPSET = 18
Span = tuple[float, float]
FLOAT_READER_BITS = 8  # least width of what leaves the accelerator


@dataclass
class Case:
    """A graph that grows node by node. ``spans`` hold the range of every tensor, graph inputs first."""

    rng: np.random.Generator
    weight_bits: int
    activation_bits: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    expected: dict[str, Result] = field(default_factory=dict)
    weighted: bool = False
    refused: bool = False  # by ONNX Runtime, though ONNX has it
    function: Callable[[np.ndarray], np.ndarray] | None = None  # that a table holds
    narrow: bool = False  # the result keeps activations of 4 bits, because a layer that asks for 4 reads it

    def ints(self, low: int, high: int, count: int) -> list[int]:
        """``count`` integers from ``low`` to below ``high``."""
        return [int(v) for v in self.rng.integers(low, high, count)]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def choice(self, values: Sequence):
        return values[int(self.rng.integers(len(values)))]

    def span(self, reach: float = 1.0) -> Span:
        """A range that holds zero: on both sides of it, or one side only."""
        lo, hi = -reach * self.rng.uniform(0.1, 1), reach * self.rng.uniform(0.1, 1)
        kind = self.rng.random()
        return (0.0, float(hi)) if kind < 0.25 else (float(lo), 0.0) if kind < 0.35 else (float(lo), float(hi))

    def input(self, shape: Sequence[int], span: Span | None = None, name: str = "x") -> Tensor:
        """A graph input, and integers over its whole range; now and then only the extremes."""
        self.shapes[name] = tuple(shape)
        self.spans[name] = span or self.span(float(np.exp(self.rng.uniform(-3, 3))))
        q = quantization(self.spans[name], self.activation_bits)
        lo, hi = q.limits
        values = self.rng.choice([lo, hi], shape) if self.chance(0.1) else self.rng.integers(lo, hi + 1, shape)
        self.tensors[name] = Tensor(values.astype(np.int64), q)
        return self.tensors[name]

    def const(self, values: object, dtype: type = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype)
        return name

    def add(self, op: str, inputs: Sequence[str], name: str = "", **attributes: object) -> str:
        name = name or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def clamps(self, tensor: str, span: Span, most: int = 2) -> tuple[str, list[Span]]:
        """Up to ``most`` Relu and Clip behind a tensor of about ``span``: the last tensor and the clamps' bounds."""
        found: list[Span] = []
        while len(found) < most and self.chance(0.4):
            if self.chance(0.5):
                tensor = self.add("Relu", [tensor])
                found.append((0.0, float("inf")))
            else:
                lo, hi = sorted(float(np.float32(v)) for v in self.rng.uniform(span[0] - 0.1, span[1] + 0.1, 2))
                tensor = self.add("Clip", [tensor, self.const(lo), self.const(hi)])
                found.append((lo, hi))
        return tensor, found

    def out(self, tensor: str, span: Span, q: Q | None = None) -> Q:
        """``tensor`` leaves the accelerator in the range ``span``: what its integers mean. ``q``: it keeps another's."""
        self.spans[tensor] = span
        bits = max(self.activation_bits, FLOAT_READER_BITS)
        if self.narrow:
            # A window of one value reads what the operator made, at the width of all layers, and is the output.
            bits = self.activation_bits
            self.outputs.append(self.add("MaxPool", [tensor], kernel_shape=[1, 1]))
            self.spans[self.outputs[-1]] = span
        else:
            self.outputs.append(tensor)
        return q or quantization(span, bits)

    def want(self, *results: Result) -> Case:
        """The results of the outputs in their order."""
        self.expected = dict(zip(self.outputs, results, strict=True))
        return self

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "case",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.shapes.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in self.outputs],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return onnx.shape_inference.infer_shapes(made)

    def in_float(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of the graph so far in ONNX Runtime."""
        return session(self.model()).run(self.outputs, {k: v.astype(np.float32) for k, v in inputs.items()})

    def codes(self, tensor: str) -> np.ndarray:
        """Which value of which input, or which constant, an operator that only moves values puts at each place of ``tensor``."""
        inputs, first = {}, CODE
        for name, shape in self.shapes.items():
            inputs[name] = np.arange(first, first + int(np.prod(shape)), dtype=np.float32).reshape(shape)
            first += inputs[name].size
        kept, self.outputs = self.outputs, [tensor]
        result = self.in_float(inputs)[0]
        self.outputs = kept
        return result


def session(model: onnx.ModelProto, optimized: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


Make = Callable[[Case], Case]


def fill_value(case: Case, span: Span, inside: bool) -> float:
    """A constant within a range, or above it."""
    lo, hi = span
    value = case.rng.uniform(lo, hi) if inside else hi + (hi - lo) * case.rng.uniform(0.1, 0.5)
    return float(np.float32(value))
