"""Float operators beside convolutions on the CPU, next to ONNX Runtime: ratios of medians, each side in a process of its own, taking turns.

`python tests/bench/bench_cpu_operators.py [--threads 2] [--rounds 8] [--only WORD ...]`. An operator is a model of its own, in sizes
of ConvNeXt, Swin, ViT and of convolutional networks; the relative difference of the outputs is printed beside the times. The last line
is the largest ratio.
"""

import argparse
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sides import Side, measured_each

MOST_RATIO = 1.2  # of our time over ONNX Runtime's


@dataclass(frozen=True)
class Operator:
    """``nodes`` as (operator, inputs, outputs, attributes): they read x, or ``shapes``' other names, and constants, and write y."""

    shapes: Mapping[str, Sequence[int]]
    nodes: Sequence[tuple[str, Sequence[str], str, Mapping[str, Any]]]
    constants: Mapping[str, np.ndarray]
    opset: int = 17

    def model(self) -> onnx.ModelProto:
        """The model that both sides run."""
        inputs = [
            helper.make_tensor_value_info(n, TensorProto.BOOL if n == "if" else TensorProto.FLOAT, list(shape))
            for n, shape in self.shapes.items()
        ]
        nodes = [
            helper.make_node(op, list(read), [made], name=f"n{k}", **attrs)
            for k, (op, read, made, attrs) in enumerate(self.nodes)
        ]
        constants = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "operator", inputs, [output], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def feeds(self) -> dict[str, np.ndarray]:
        """Random inputs, the same in every process."""
        rng = np.random.default_rng(0)
        drawn = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in self.shapes.items()}
        return {name: values > 0 if name == "if" else values for name, values in drawn.items()}


def one(op: str, shape: Sequence[int], constants: Sequence[np.ndarray] = (), opset: int = 17, **attrs: Any) -> Operator:
    """An operator of one node."""
    named = {f"c{k}": array for k, array in enumerate(constants)}
    return Operator({"x": shape}, [(op, ["x", *named], "y", attrs)], named, opset)


def floats(size: int) -> np.ndarray:
    """Positive values around 1."""
    return np.linspace(0.5, 1.5, size, dtype=np.float32)


def layer_norm_of_nodes(shape: Sequence[int]) -> Operator:
    """As PyTorch wrote it before opset 17."""
    size = shape[-1]
    return Operator(
        {"x": shape},
        [
            ("ReduceMean", ["x"], "m", {"axes": [-1]}), ("Sub", ["x", "m"], "d", {}), ("Pow", ["d", "two"], "s", {}),
            ("ReduceMean", ["s"], "v", {"axes": [-1]}), ("Add", ["v", "eps"], "w", {}), ("Sqrt", ["w"], "r", {}),
            ("Div", ["d", "r"], "n", {}), ("Mul", ["n", "g"], "o", {}), ("Add", ["o", "b"], "y", {}),
        ],
        {"two": np.float32(2).reshape(()), "eps": np.float32(1e-5).reshape(()), "g": floats(size), "b": floats(size)},
    )  # fmt: skip


def group_norm(shape: Sequence[int], groups: int) -> Operator:
    """As PyTorch writes it: an InstanceNormalization of reshaped groups."""
    channels = shape[1]
    parts = np.array([shape[0], groups, -1], np.int64)
    return Operator(
        {"x": shape},
        [
            ("Reshape", ["x", "parts"], "p", {}), ("InstanceNormalization", ["p", "ones", "zeros"], "n", {}),
            ("Reshape", ["n", "whole"], "q", {}), ("Mul", ["q", "g"], "o", {}), ("Add", ["o", "b"], "y", {}),
        ],
        {
            "parts": parts, "whole": np.array(shape, np.int64), "ones": np.ones(groups, np.float32),
            "zeros": np.zeros(groups, np.float32), "g": floats(channels).reshape(-1, 1, 1),
            "b": floats(channels).reshape(-1, 1, 1),
        },
    )  # fmt: skip


def where(shape: Sequence[int], condition: Sequence[int], other: Sequence[int]) -> Operator:
    """Of an input, and of another input or of one value."""
    return Operator({"if": condition, "x": shape, "z": other}, [("Where", ["if", "x", "z"], "y", {})], {})


def resize(shape: Sequence[int], scale: float, mode: str, how: str = "half_pixel", **attrs: Any) -> Operator:
    """Of both sides of a plane."""
    scales = np.array([1, 1, scale, scale], np.float32)
    return one("Resize", shape, [np.zeros(0, np.float32), scales], mode=mode, coordinate_transformation_mode=how, **attrs)  # fmt: skip


OPERATORS = {
    "mean of the last axis, 3136x96": one("ReduceMean", (1, 3136, 96), axes=[-1]),
    "mean of the last axis, 197x768": one("ReduceMean", (1, 197, 768), axes=[-1]),
    "mean of planes, 512x7x7": one("ReduceMean", (1, 512, 7, 7), axes=[2, 3]),
    "mean of planes, 64x56x56": one("ReduceMean", (1, 64, 56, 56), axes=[2, 3]),
    "mean of pixels, 56x56x96": one("ReduceMean", (1, 56, 56, 96), axes=[1, 2]),
    "mean of tokens, 197x768": one("ReduceMean", (1, 197, 768), axes=[1]),
    "mean of channels, 64x56x56": one("ReduceMean", (1, 64, 56, 56), axes=[1]),
    "mean of rows, 64x56x56": one("ReduceMean", (1, 64, 56, 56), axes=[2]),
    "mean of channels and columns, 64x56x56": one("ReduceMean", (1, 64, 56, 56), axes=[1, 3]),
    "mean of all, 64x56x56": one("ReduceMean", (1, 64, 56, 56), keepdims=0),
    "layer norm, 56x56x96": one("LayerNormalization", (1, 56, 56, 96), [floats(96), floats(96)], axis=-1),
    "layer norm, 197x768": one("LayerNormalization", (1, 197, 768), [floats(768), floats(768)], axis=-1),
    "layer norm of nodes, 3136x96": layer_norm_of_nodes((1, 3136, 96)),
    "layer norm of nodes, 197x768": layer_norm_of_nodes((1, 197, 768)),
    "layer norm of nodes, 49x385": layer_norm_of_nodes((1, 49, 385)),
    "instance norm, 64x128x128": one("InstanceNormalization", (1, 64, 128, 128), [floats(64), floats(64)]),
    "instance norm, 32x33x33": one("InstanceNormalization", (1, 32, 33, 33), [floats(32), floats(32)]),
    "group norm, 32x64x64 in 8": group_norm((1, 32, 64, 64), 8),
    "softmax of 49, 64x3x49x49": one("Softmax", (64, 3, 49, 49), axis=-1),
    "softmax of 197, 12x197x197": one("Softmax", (1, 12, 197, 197), axis=-1),
    "softmax of 1000": one("Softmax", (1, 1000), axis=-1),
    "softmax of channels, 21x65x65": one("Softmax", (1, 21, 65, 65), axis=1),
    "softmax of channels, 64x8400": one("Softmax", (1, 4, 16, 8400), axis=2),
    "where, 12x197x197": where((1, 12, 197, 197), (1, 12, 197, 197), (1, 12, 197, 197)),
    "where of a mask, 12x197x197": where((1, 12, 197, 197), (1, 1, 197, 197), (1,)),
    "resize nearest, 64x40x40 by 2": resize((1, 64, 40, 40), 2, "nearest", "asymmetric", nearest_mode="floor"),
    "resize nearest, 64x19x23 by 1.7": resize((1, 64, 19, 23), 1.7, "nearest"),
    "resize linear, 64x40x40 by 2": resize((1, 64, 40, 40), 2, "linear"),
    "resize linear, 21x33x33 by 4": resize((1, 21, 33, 33), 4, "linear"),
    "resize linear aligned, 64x19x23 by 1.7": resize((1, 64, 19, 23), 1.7, "linear", "align_corners"),
}


def peer(names: Sequence[str], threads: int) -> tuple[Callable[[str], object], dict[str, np.ndarray]]:
    """ONNX Runtime: what runs an operator by its name, and the outputs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    runs = {}
    for name in names:
        model = OPERATORS[name].model().SerializeToString()
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        runs[name] = (session, OPERATORS[name].feeds())
    return lambda name: runs[name][0].run(None, runs[name][1]), {n: s.run(None, f)[0] for n, (s, f) in runs.items()}


def ours(names: Sequence[str], threads: int) -> tuple[Callable[[str], object], dict[str, np.ndarray]]:
    """Our modules for this machine's CPU, in the same form."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm

    from qaccel import link
    from qaccel.frontend.import_model import import_model
    from qaccel.host import host_target
    from qaccel.options import parse_target
    from qaccel.run import execute

    target = host_target(parse_target("llvm"))
    runs = {}
    for name in names:
        imported = import_model(OPERATORS[name].model(), None, None)
        vm = execute.runner(link.build(imported.mod, target, {}).executable, {}).vm
        feeds = OPERATORS[name].feeds()
        runs[name] = (vm["main"], [tvm.runtime.tensor(feeds[spec.name]) for spec in imported.inputs])
    return lambda name: runs[name][0](*runs[name][1]), {n: main(*a).numpy() for n, (main, a) in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=[""], help="words of names")
    arguments = parser.parse_args()
    import onnxruntime
    import tvm

    names = [name for name in OPERATORS if any(word in name for word in arguments.only)]
    cpu = platform.processor() or platform.machine()
    print(f"{arguments.threads} threads, {cpu}, TVM {tvm.__version__}, ONNX Runtime {onnxruntime.__version__}")
    sides = [Side(make, names, arguments.threads) for make in (ours, peer)]
    worst = 0.0
    for name, (mine, theirs) in zip(names, measured_each(sides, arguments.rounds, names), strict=True):
        found, expected = (side.facts[name] for side in sides)
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        a, b = statistics.median(mine) * 1e6, statistics.median(theirs) * 1e6
        worst = max(worst, a / b)
        print(f"{name:<40} {a:8.1f} us, ONNX Runtime {b:8.1f} us, ratio {a / b:5.2f}, difference {difference:.0e}")
    print(f"largest ratio {worst:.2f} (at most {MOST_RATIO})")


if __name__ == "__main__":
    main()
