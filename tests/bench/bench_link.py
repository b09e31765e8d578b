"""Seconds to link networks whose float input or output has many channels: `python tests/bench/bench_link.py`.

A 1x1 convolution from and to so many channels, 14 x 14 pixels, at 8 bits. What is timed is the stage `link`.
"""

import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import qaccel
from qaccel import link


def model(read: int, written: int) -> onnx.ModelProto:
    """x [1, read, 14, 14] -> y [1, written, 14, 14]."""
    weight = np.random.default_rng(0).normal(0, 0.1, (written, read, 1, 1)).astype(np.float32)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 14, 14])
        for name, channels in (("x", read), ("y", written))
    ]
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    graph = helper.make_graph([node], "link", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    build = link.build
    taken: list[float] = []

    def timed(*arguments: object) -> link.Linked:
        start = time.perf_counter()
        linked = build(*arguments)  # type: ignore[arg-type]
        taken.append(time.perf_counter() - start)
        return linked

    link.build = timed  # type: ignore[assignment]
    data = np.random.default_rng(1)
    for read, written in ((8, 8), (256, 8), (8, 256), (1024, 1024)):
        samples = {"x": data.normal(size=(2, read, 14, 14)).astype(np.float32)}
        qaccel.compile(model(read, written), calibration_data=samples, bits="8")
        print(f"{read} channels to {written}: {taken[-1]:.2f} s", flush=True)


if __name__ == "__main__":
    main()
