"""A small builder of ONNX networks, and how a compiled one compares with ONNX Runtime on the float model."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import qaccel

BITS = {"8": 8, "16": "W16A16"}
FLOORS = {"8": 30.0, "16": 60.0}


class Net:
    """A graph in the making: net("Conv", x, weights, pads=[1] * 4) adds a node and returns its output's name."""

    def __init__(self, opset: int = 17, ir: int = 8, prefix: str = "") -> None:
        self.opset, self.ir, self.prefix = opset, ir, prefix
        self.nodes: list[onnx.NodeProto] = []
        self.consts: list[onnx.TensorProto] = []

    def const(self, value: Any) -> str:
        """An initializer of the array's own type."""
        name = f"{self.prefix}k{len(self.consts)}"
        self.consts.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def __call__(self, op: str, *inputs: Any, out: str = "", **attributes: Any) -> str:
        """A node of one output."""
        names = [i if isinstance(i, str) else self.const(i) for i in inputs]
        name = f"{self.prefix}{op.lower()}{len(self.nodes)}"
        out = out or f"{self.prefix}t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [out], name, **attributes))
        return out

    def model(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], consts_as_inputs: bool = False
    ) -> onnx.ModelProto:
        """The model; inputs and outputs are shapes, or pairs of ONNX element type and shape."""
        ins, outs = ([info(name, spec) for name, spec in ends.items()] for ends in (inputs, outputs))
        if consts_as_inputs:
            ins += [helper.make_tensor_value_info(c.name, c.data_type, list(c.dims)) for c in self.consts]
        graph = helper.make_graph(self.nodes, "case", ins, outs, self.consts)
        domains = sorted({node.domain for node in self.nodes} - {""})
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=self.ir)
        onnx.checker.check_model(made)
        return made


def info(name: str, spec: Any) -> onnx.ValueInfoProto:
    """A float32 tensor of that shape, or of another type where the spec is a pair."""
    kind, shape = spec if isinstance(spec, tuple) else (TensorProto.FLOAT, spec)
    return helper.make_tensor_value_info(name, kind, shape)


def weights(*shape: int, seed: int = 0, gain: float = 1.0) -> np.ndarray:
    """Normal values that keep a layer's output as large as its input."""
    fan = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * gain / np.sqrt(fan)).astype("f4")


def ints(*values: int) -> np.ndarray:
    """A vector of int64."""
    return np.array(values, "i8")


def scalar(value: float) -> np.ndarray:
    """A float32 without dimensions."""
    return np.array(value, "f4")


def normal(*shape: int, samples: int, seed: int, gain: float = 1.0) -> np.ndarray:
    """float32 [samples, *shape]."""
    return (gain * np.random.default_rng([seed, *shape]).normal(size=(samples, *shape))).astype("f4")


def floats(model: onnx.ModelProto, test: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output of ONNX Runtime for each sample, one after the other."""
    session = _session(model)
    return np.concatenate([session.run(None, feed)[0].ravel() for feed in _feeds(test)])


def floats_of(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output of ONNX Runtime for one feed."""
    return _session(model).run(None, dict(feed))[0].ravel()


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Without this, kernels for CPUs that have no dot product of bytes saturate sums of two products at 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def outputs(module: qaccel.Module, test: Mapping[str, np.ndarray]) -> np.ndarray:
    """The first output of a module for each sample, one after the other."""
    return np.concatenate([next(iter(module.run(feed).values())).ravel() for feed in _feeds(test)])


def _feeds(test: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    count = max(len(value) for value in test.values() if value.ndim)
    return [{name: v[k : k + 1] if v.ndim else v for name, v in test.items()} for k in range(count)]


def decibels(wanted: np.ndarray, got: np.ndarray) -> float:
    """Signal to error."""
    a, b = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    return float(10 * np.log10((a**2).sum() / max(((a - b) ** 2).sum(), 1e-30)))


def assert_close(
    model: onnx.ModelProto, data: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray], mode: str, **how: Any
) -> qaccel.Module:
    """Compiles at "8" or "16" bits and holds the module to the floor of that mode; returns it."""
    module = qaccel.compile(model, calibration_data=data, bits=BITS[mode], **how)
    reached = decibels(floats(model, test), outputs(module, test))
    assert reached >= FLOORS[mode], f"{reached:.1f} dB"
    return module


def macs_on_the_cpu(module: qaccel.Module) -> dict[str, str]:
    """Reasons by name of the layers with MACs that the accelerator does not run."""
    return {each["name"]: each["reason"] for each in module.report["fallback"] if each["macs"]}
