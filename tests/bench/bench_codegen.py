"""How long code generation takes, and how busy the multipliers are, on a network of ResNet-50's shape.

    python tests/bench/bench_codegen.py [--configs qaccel-256 qaccel-1024] [--bits W8A8] [--profile]

Its weights are random (normal, by He's scale, seeded), its batch norms folded, its input 224 x 224; it is quantized on seeded noise. By
config: CPU seconds of `compile_layers` and of the planning in it, cycles, and which part of what the array could do in that time is done.
With --profile, what takes longest.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import qaccel
from qaccel.machine.hw import HwConfig, load_config
from qaccel.npu.codegen import compile_layers, planned
from qaccel.npu.layers import LayerGraph
from qaccel.run.program import profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import estimates

SEED = 50
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # inner channels, blocks, stride
EXPANSION = 4
SIDE = 224
SHOWN = 30


class Builder:
    """Nodes and weights so far."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(SEED)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x: str, channels: tuple[int, int], kernel: int, stride: int, relu: bool = True) -> str:
        scale = np.sqrt(2 / (channels[0] * kernel * kernel))
        shape = (channels[1], channels[0], kernel, kernel)
        names = [f"w{len(self.weights)}", f"b{len(self.weights)}"]
        for name, data in zip(
            names, (self.rng.normal(0, scale, shape), self.rng.normal(0, 0.1, channels[1])), strict=True
        ):
            self.weights.append(numpy_helper.from_array(data.astype(np.float32), name))
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        y = self.node("Conv", [x, *names], **sizes)
        return self.node("Relu", [y]) if relu else y


def resnet50() -> onnx.ModelProto:
    """x [N, 3, 224, 224] to scores [N, 1000]."""
    net = Builder()
    x = net.conv("x", (3, 64), 7, 2)
    x, channels = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 64
    for inner, blocks, stride in STAGES:
        for block in range(blocks):
            step, out = (stride if block == 0 else 1), inner * EXPANSION
            y = net.conv(x, (channels, inner), 1, 1)
            y = net.conv(y, (inner, inner), 3, step)
            y = net.conv(y, (inner, out), 1, 1, relu=False)
            around = net.conv(x, (channels, out), 1, step, relu=False) if block == 0 else x
            x, channels = net.node("Relu", [net.node("Add", [y, around])]), out
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])])
    net.weights.append(numpy_helper.from_array(net.rng.normal(0, 0.02, (channels, 1000)).astype(np.float32), "classes"))
    net.nodes.append(helper.make_node("MatMul", [x, "classes"], ["scores"], name="classifier"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 3, SIDE, SIDE]), ("scores", ["N", 1000]))
    ]
    graph = helper.make_graph(net.nodes, "resnet50", ends[:1], ends[1:], net.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def graphs(bits: str, hw: HwConfig) -> list[LayerGraph]:
    """Its layers, quantized on noise."""
    samples = np.random.default_rng(SEED).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.onnx"
        onnx.save(resnet50(), path)
        quantized = qaccel.quantize(str(path), {"x": samples}, bits=bits, effort="fast")
    return estimates.subgraphs(quantized, hw)


def busy_percent(graph: LayerGraph, hw: HwConfig, cycles: int) -> float:
    """Multiplications done of those that the array could have done in that time, each layer at its own bits."""
    rates = [
        (layer.macs, hw.array_rows(graph.maps[layer.inputs[0]].bits) * hw.array_columns(layer.weight_bits))
        for layer in graph.layers
        if hasattr(layer, "macs")
    ]
    return 100 * sum(macs / rate for macs, rate in rates) / cycles


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="*", default=["qaccel-256", "qaccel-1024"])
    parser.add_argument("--bits", default="W8A8")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    for config in args.configs:
        hw = load_config(config)
        (graph,) = graphs(args.bits, hw)
        begin = time.process_time()
        planned(graph, hw)
        planning, begin, wall = time.process_time() - begin, time.process_time(), time.perf_counter()
        compiled = compile_layers(graph, hw)
        seconds, wall = time.process_time() - begin, time.perf_counter() - wall
        cycles = int(profile(compiled.artefact, trace=False)["cycles"])
        print(
            f"{args.bits} on {hw.name}: {seconds:.1f} s of CPU, {wall:.1f} s, {planning:.1f} s of it planning; {cycles:,} cycles, "
            f"multipliers busy {busy_percent(graph, hw, cycles):.1f}%",
            flush=True,
        )
        if args.profile:
            recorded = cProfile.Profile()
            recorded.runcall(compile_layers, graph, hw)
            pstats.Stats(recorded).sort_stats("cumulative").print_stats(SHOWN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
