"""Small ONNX models for the tests of command line, API and linking."""

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def _model(nodes, inputs, outputs, weights, name):
    def info(pairs):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in pairs]

    initializers = [numpy_helper.from_array(value.astype(np.float32), n) for n, value in weights.items()]
    graph = helper.make_graph(nodes, name, info(inputs), info(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def _conv(rng, out_channels, in_channels, kernel):
    weight = rng.standard_normal((out_channels, in_channels, kernel, kernel)) / np.sqrt(in_channels * kernel * kernel)
    return weight, 0.1 * rng.standard_normal(out_channels)


def chain(batch: int | str = 1, name: str = "chain") -> onnx.ModelProto:
    """Conv, Relu, MaxPool, Conv, GlobalAveragePool, Flatten, Gemm: x [batch, 3, 16, 16] to y [batch, 10]."""
    rng = np.random.default_rng(1)
    w1, b1 = _conv(rng, 8, 3, 3)
    w2, b2 = _conv(rng, 16, 8, 3)
    w3, b3 = rng.standard_normal((10, 16)) / 4, 0.1 * rng.standard_normal(10)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c2"], ["g"], name="average"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="classifier", transB=1),
    ]
    weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2, "w3": w3, "b3": b3}
    return _model(nodes, [("x", [batch, 3, 16, 16])], [("y", [batch, 10])], weights, name)


def classifier() -> onnx.ModelProto:
    """Three strided convolutions and a Gemm, with the ends of the two trained networks: image [1, 3, 32, 32] to scores [1, 10]."""
    rng = np.random.default_rng(6)
    widths, nodes, weights, last = (3, 16, 32, 32), [], {}, "image"
    for k, (before, after) in enumerate(itertools.pairwise(widths)):
        weight, bias = _conv(rng, after, before, 3)
        weights |= {f"w{k}": 1.5 * weight, f"b{k}": bias}
        conv = {"name": f"conv{k}", "pads": [1, 1, 1, 1], "strides": [2, 2]}
        nodes.append(helper.make_node("Conv", [last, f"w{k}", f"b{k}"], [f"c{k}"], **conv))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"], name=f"relu{k}"))
        last = f"r{k}"
    weights |= {"w": rng.standard_normal((10, widths[-1])), "b": 0.1 * rng.standard_normal(10)}
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["g"], name="average"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w", "b"], ["scores"], name="classifier", transB=1),
    ]
    return _model(nodes, [("image", [1, 3, 32, 32])], [("scores", [1, 10])], weights, "classifier")


def interrupted() -> onnx.ModelProto:
    """Two convolutions with a Softmax, which the accelerator has not, between: x [1, 3, 8, 8] to y [1, 4, 8, 8]."""
    rng = np.random.default_rng(2)
    w1, b1 = _conv(rng, 6, 3, 3)
    w2, b2 = _conv(rng, 4, 6, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="before", pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["c1"], ["s"], name="softmax", axis=1),
        helper.make_node("Conv", ["s", "w2", "b2"], ["y"], name="after"),
    ]
    return _model(
        nodes, [("x", [1, 3, 8, 8])], [("y", [1, 4, 8, 8])], {"w1": w1, "b1": b1, "w2": w2, "b2": b2}, "interrupted"
    )


def volume() -> onnx.ModelProto:
    """A convolution of three dimensions, which the accelerator has not, and a Relu: x [1, 2, 4, 4, 4] to y [1, 3, 2, 2, 2]."""
    weight = np.random.default_rng(4).standard_normal((3, 2, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    return _model(nodes, [("x", [1, 2, 4, 4, 4])], [("y", [1, 3, 2, 2, 2])], {"w": weight}, "volume")


def several() -> onnx.ModelProto:
    """Two inputs and two outputs: sum = conv(a) + b, clipped = Relu(sum); each [1, 4, 8, 8], a [1, 3, 8, 8]."""
    w, b = _conv(np.random.default_rng(3), 4, 3, 3)
    nodes = [
        helper.make_node("Conv", ["a", "w", "bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "b"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["clipped"], name="relu"),
    ]
    inputs = [("a", [1, 3, 8, 8]), ("b", [1, 4, 8, 8])]
    outputs = [("sum", [1, 4, 8, 8]), ("clipped", [1, 4, 8, 8])]
    return _model(nodes, inputs, outputs, {"w": w, "bias": b}, "several")


def samples(model: onnx.ModelProto, count: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Standard normal inputs by name, ``count`` samples along axis 0."""
    rng = np.random.default_rng(seed)
    made = {}
    for value in model.graph.input:
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        made[value.name] = rng.standard_normal((count, *shape[1:])).astype(np.float32)
    return made
