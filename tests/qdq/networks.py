"""Random QDQ networks: float networks of all operators with QuantizeLinear and DequantizeLinear put in, in all spellings.

Nothing here comes from the compiler but the float network in canonical form. Scales follow the ranges of one sample, widened or
narrowed at random; zero points, types and widths are drawn for each tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from breadth.generator import network
from qaccel.frontend.import_onnx import import_onnx

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Min", "Max")
# The QuantizeLinear before these may be left out, because they commute with the one behind; the last two end a layer.
COMMUTING = ("MaxPool", "GlobalMaxPool", "Reshape", "Transpose", "Flatten", "Slice", "Concat", "Pad", "Relu", "Clip")
PROBE = "_probe"  # behind each quantized tensor, so that its real values can be seen
MOVING = ("MaxPool", "Reshape", "Transpose", "Flatten", "Slice")
INTEGERS = {
    "u8": (TensorProto.UINT8, 0, 255), "s8": (TensorProto.INT8, -128, 127), "s16": (TensorProto.INT16, -32768, 32767),
    "s4": (TensorProto.INT4, -8, 7), "u4": (TensorProto.UINT4, 0, 15),
    "c4": (TensorProto.INT8, -8, 7), "c3": (TensorProto.INT8, -4, 3), "c4u": (TensorProto.UINT8, 0, 15),
}  # fmt: skip
MIXES = (
    ("u8",),
    ("s8",),
    ("u8", "s8"),
    ("s8", "c4", "c3"),
    ("u8", "s4", "u4"),
    ("s16", "u8"),
    ("s16",),
    ("c4", "c4u", "s8"),
)


@dataclass
class Quantizer:
    """The new graph as it grows. ``types``: the kinds of integers that activations are drawn from."""

    seed: int
    model: onnx.ModelProto
    ranges: dict[str, tuple[float, float]]
    types: tuple[str, ...]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    integers: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # tensor -> its integers, scale, zero point
    real: dict[str, str] = field(default_factory=dict)  # tensor -> a DequantizeLinear that may be shared
    origin: dict[str, str] = field(default_factory=dict)  # tensor that was only moved -> the one whose integers it has
    steps: dict[str, tuple[str, float, str]] = field(default_factory=dict)  # integers -> float before, scale, type

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, 7])
        graph = self.model.graph
        self.floats = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.domain = "com.microsoft" if self.rng.random() < 0.2 else ""
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {o.name for o in graph.output}

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def const(self, name: str, values: np.ndarray, kind: int = TensorProto.FLOAT) -> str:
        label = f"{name}_c{len(self.constants)}"
        array = np.asarray(values)
        self.constants[label] = helper.make_tensor(label, kind, array.shape, array.ravel().tolist())
        return label

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        domain = self.domain if op in ("QuantizeLinear", "DequantizeLinear") else ""
        self.nodes.append(helper.make_node(op, inputs, [output], f"{output}_{op}", domain=domain, **attributes))
        return output

    def quantized(self, tensor: str, real: str) -> None:
        """Q (and the Clip of QCDQ) behind ``real``, the float values of ``tensor``."""
        kind_name = str(self.rng.choice(self.types))
        kind, lo, hi = INTEGERS[kind_name]
        least, most = (min(self.ranges[tensor][0], 0.0), max(self.ranges[tensor][1], 1e-3))
        factor = self.rng.uniform(0.7, 1.5)
        if kind_name == "s16":
            scale, zero = np.float32(max(-least, most) * factor / 32767), 0
        else:
            scale = np.float32((most - least) * factor / (hi - lo))
            zero = int(np.clip(round(lo - least / scale) + self.rng.integers(-1, 2), lo, hi))
        names = self.const(f"{tensor}_s", np.asarray(scale)), self.const(f"{tensor}_z", np.asarray(zero), kind)
        made = self.add("QuantizeLinear", [real, *names], f"{tensor}_q")
        if kind_name.startswith("c"):
            bounds = [self.const(f"{tensor}_{k}", np.asarray(v), kind) for k, v in (("lo", lo), ("hi", hi))]
            made = self.add("Clip", [made, *bounds], f"{tensor}_clip")
        self.integers[tensor] = made, *names
        self.steps[made] = real, float(scale), kind_name

    def read(self, tensor: str) -> str:
        """A DequantizeLinear of a tensor: a new one, or one that others read too."""
        if tensor not in self.integers:
            return self.real.get(tensor, tensor)
        if tensor not in self.real or self.chance(0.5):
            name = f"{tensor}_r{len(self.nodes)}"
            self.real[tensor] = self.add("DequantizeLinear", list(self.integers[tensor]), name)
        return self.real[tensor]

    def weight(self, node: onnx.NodeProto, values: np.ndarray) -> tuple[str, np.ndarray]:
        """Weights in a spelling drawn at random; the name of the real tensor and the scales by output channel."""
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        turned = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
        axis = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if turned else 1}.get(node.op_type, values.ndim - 1)
        by_channel = self.chance(0.6) and not (node.op_type == "ConvTranspose" and groups > 1)
        bits = int(self.rng.choice([8, 8, 8, 4]))
        top = (1 << (bits - 1)) - 1
        others = tuple(k for k in range(values.ndim) if k != axis) if by_channel else None
        scale = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-3).astype(np.float32) / np.float32(top)
        integers = np.clip(np.rint(values / scale), -top, top).astype(np.int64)
        style = str(self.rng.choice(["plain", "unsigned", "pair", "clip"]))
        zero, kind = 0, TensorProto.INT8 if bits == 8 else TensorProto.INT4
        if bits == 4 and self.model.opset_import[0].version < 21:
            style, kind = "clip", TensorProto.INT8
        if style == "unsigned":
            zero, kind = 1 << (bits - 1), TensorProto.UINT8 if bits == 8 else TensorProto.UINT4
        flat = scale.reshape(-1) if by_channel else scale.reshape(())
        name = node.input[1]
        names = [self.const(f"{name}_s", flat), self.const(f"{name}_z", np.full(flat.shape, zero), kind)]
        more = {"axis": axis} if by_channel else {}
        if style in ("pair", "clip"):
            held = self.add("QuantizeLinear", [self.const(name, values), *names], f"{name}_q{len(self.nodes)}", **more)
        else:
            held = self.const(name, integers + zero, kind)
        if style == "clip" and kind == TensorProto.INT8:
            bounds = [self.const(f"{name}_{k}", np.asarray(v), kind) for k, v in (("lo", -top), ("hi", top))]
            held = self.add("Clip", [held, *bounds], f"{name}_clip{len(self.nodes)}")
        real = self.add("DequantizeLinear", [held, *names], f"{name}_w{len(self.nodes)}", **more)
        channels = values.shape[axis] * (groups if node.op_type == "ConvTranspose" else 1)
        return real, np.broadcast_to(scale.reshape(-1) if by_channel else scale.reshape(1), channels).astype(np.float32)

    def bias(self, name: str, unit: np.ndarray) -> str:
        """int32 behind a DequantizeLinear, or the same values in float, where the compiler has no unit to choose but this."""
        values = self.floats[name]
        unit = unit if values.size == unit.size else np.broadcast_to(unit[:1], values.size)
        steps = np.clip(np.rint(values.reshape(-1).astype("f8") / unit), -(2**23) + 1, 2**23 - 1).reshape(values.shape)
        if self.chance(0.3):
            return self.const(name, (steps * unit.reshape(values.shape)).astype(np.float32))
        axis = int(np.argmax(values.shape)) if values.ndim else 0
        held = self.const(f"{name}_i", steps.astype(np.int64), TensorProto.INT32)
        return self.add(
            "DequantizeLinear", [held, self.const(f"{name}_s", unit)], f"{name}_b{len(self.nodes)}", axis=axis
        )

    def constant(self, name: str) -> str:
        """A constant operand of an element-wise node: float, or 8-bit integers around a zero point."""
        values = self.floats[name]
        if self.chance(0.4):
            return self.const(name, values)
        least, most = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        scale = np.float32(max(most - least, 1e-3) / 255)
        zero = int(round(-least / scale))
        held = self.const(f"{name}_i", np.clip(np.rint(values / scale) + zero, 0, 255), TensorProto.UINT8)
        names = [
            self.const(f"{name}_s", np.asarray(scale)),
            self.const(f"{name}_z", np.asarray(zero), TensorProto.UINT8),
        ]
        return self.add("DequantizeLinear", [held, *names], f"{name}_k{len(self.nodes)}")

    def node(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        inside = [name for name in node.input if name in self.integers or name in self.ranges]
        for position, name in enumerate(node.input):
            if name in inside:
                copy.input[position] = self.read(name)
        if node.op_type in LAYERS and node.input[1] in self.floats:
            copy.input[1], scale = self.weight(node, self.floats[node.input[1]])
            held = self.integers.get(self.origin.get(node.input[0], node.input[0]))
            if len(node.input) > 2 and held is not None:
                source = np.float32(self.steps[held[0]][1])
                copy.input[2] = self.bias(node.input[2], source * scale)
        elif node.op_type in ELEMENTWISE:
            for position, name in enumerate(node.input):
                if name in self.floats:
                    copy.input[position] = self.constant(name)
        tensor = node.output[0]
        bare = self._may_stay_real(node, tensor)
        if tensor in self.outputs:
            copy.output[0] = f"{tensor}_real"
        self.nodes.append(copy)
        if bare and node.op_type in MOVING:
            self.origin[tensor] = self.origin.get(node.input[0], node.input[0])
        if not bare:
            self.quantized(tensor, copy.output[0])
        if tensor in self.outputs:
            self.add("DequantizeLinear", list(self.integers[tensor]), tensor)

    def _may_stay_real(self, node: onnx.NodeProto, tensor: str) -> bool:
        """Whether the pair is left out: before a clamp always, before and behind what moves values now and then."""
        readers = self.readers.get(tensor, [])
        if tensor in self.outputs or len(readers) != 1 or len(node.output) != 1:
            return False
        after = readers[0].op_type
        if after in ("Relu", "Clip") and node.op_type in (*LAYERS, "Add", "Sub", "Mul"):
            return True
        integers = any(name in self.integers for name in node.input)
        if node.op_type in MOVING and integers and self.chance(0.3):
            return True
        return (
            after in COMMUTING
            and after != "Concat"
            and node.op_type in (*LAYERS, "Add", "AveragePool")
            and self.chance(0.3)
        )


def qdq_network(seed: int) -> tuple[onnx.ModelProto, dict[str, tuple[str, float, str]], np.ndarray]:
    """The network, what each integer tensor was rounded from (float tensor, scale, type), and one input."""
    model = import_onnx(network(seed)).onnx_model
    assert model is not None
    rng = np.random.default_rng([seed, 8])
    types = MIXES[int(rng.integers(len(MIXES)))]
    narrow = bool({"s4", "u4"} & set(types)) or rng.random() < 0.3
    wide = "s16" in types
    if narrow or wide:
        model = onnx.version_converter.convert_version(model, 21)
        model.ir_version = 10
    sample = rng.normal(size=[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]).astype(np.float32)
    values = every_tensor(model, sample)
    ranges = {name: (float(v.min()), float(v.max())) for name, v in values.items() if v.dtype == np.float32 and v.size}
    name = model.graph.input[0].name
    ranges[name] = float(sample.min()), float(sample.max())
    made = Quantizer(seed, model, ranges, types)
    made.quantized(name, name)
    for node in model.graph.node:
        if node.op_type == "Constant":  # of ONNX's version converter: axes
            made.nodes.append(node)
        elif node.op_type == "Split":  # its outputs have a pair each
            made.node(node)
            for extra in list(node.output)[1:]:
                made.quantized(extra, extra)
        else:
            made.node(node)
    for tensor, (integers, scale, zero) in made.integers.items():
        made.add("DequantizeLinear", [integers, scale, zero], f"{tensor}{PROBE}")
    used = {i for n in made.nodes for i in n.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    graph = helper.make_graph(
        made.nodes, f"qdq{seed}", model.graph.input, model.graph.output, [*kept, *made.constants.values()]
    )
    opsets = [*model.opset_import, *([helper.make_opsetid(made.domain, 1)] if made.domain else [])]
    result = helper.make_model(graph, opset_imports=opsets, ir_version=max(model.ir_version, 8))
    tensors = {t: made.steps[q[0] if q[0] in made.steps else q[0]] for t, q in made.integers.items()}
    return result, tensors, sample


def operator_alone(
    model: onnx.ModelProto, real: str, probe: str, values: dict[str, np.ndarray]
) -> onnx.ModelProto | None:  # fmt: skip
    """The part of a network that makes ``probe`` from what the quantized tensors before it were rounded from.

    ``real``: the float tensor that is rounded to what ``probe`` dequantizes; ``values``: all tensors that can be inputs. None for a
    part that has none.
    """
    makers = {o: n for n in model.graph.node for o in n.output}
    constants = {t.name for t in model.graph.initializer}
    wanted, kept, inputs = [probe], set[str](), set[str]()
    while wanted:
        name = wanted.pop()
        node = makers.get(name)
        if node is None:
            inputs |= {name} - constants - {""}
        elif node.op_type == "QuantizeLinear" and node.input[0] != real and node.input[0] not in constants:
            kept.add(node.name)
            inputs.add(node.input[0])
        elif node.name not in kept:
            kept.add(node.name)
            wanted += node.input
    nodes = [n for n in model.graph.node if n.name in kept]
    read = {i for n in nodes for i in n.input}
    if not inputs <= values.keys() or not inputs:
        return None
    graph = helper.make_graph(
        nodes, "alone", [helper.make_tensor_value_info(i, TensorProto.FLOAT, values[i].shape) for i in sorted(inputs)],
        [helper.make_tensor_value_info(probe, TensorProto.FLOAT, None)], [t for t in model.graph.initializer if t.name in read],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def every_tensor(model: onnx.ModelProto, sample: np.ndarray) -> dict[str, np.ndarray]:
    """All tensors that nodes make, by ONNX Runtime with its optimisations disabled."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {o.name for o in copy.graph.output}
    packed = {c.name for c in copy.graph.initializer if c.data_type in (TensorProto.INT4, TensorProto.UINT4)}
    names = [
        o
        for node in copy.graph.node
        if node.op_type != "Constant" and not packed & set(node.input[2:]) or node.op_type[0] == "D"
        for o in node.output
        if o
    ]
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [o.name for o in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, {session.get_inputs()[0].name: sample}), strict=True))
