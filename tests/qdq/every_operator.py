"""Float networks that together hold every operator of SUPPORTED_OPS.md, those that ONNX spells newly by opset 22."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 22
SHAPE = (1, 4, 8, 8)
UNARY: dict[str, dict[str, object]] = {
    "LeakyRelu": {"alpha": 0.2}, "Sigmoid": {}, "Tanh": {}, "HardSigmoid": {}, "HardSwish": {}, "Gelu": {}, "Elu": {},
    "Selu": {}, "Celu": {}, "Softplus": {}, "Softsign": {}, "Mish": {}, "Erf": {}, "Exp": {}, "Abs": {}, "Neg": {},
    "Floor": {}, "Ceil": {}, "Round": {}, "Sin": {}, "Cos": {},
}  # fmt: skip
OF_POSITIVE: dict[str, dict[str, object]] = {"Log": {}, "Sqrt": {}, "Reciprocal": {}}


class Net:
    """A graph that grows; a call adds a node and gives its tensor."""

    def __init__(self, opset: int = OPSET) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(17)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        tensors = [name, *(f"{name}_{k}" for k in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), tensors, name=name, **attributes))
        return name

    def const(self, values: object, dtype: type = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype)
        return name

    def normal(self, *shape: int) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self.const(self.rng.normal(0, 1.5 / np.sqrt(fan), shape))

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def conv(self, x: str, channels: int = 4, out: int = 4) -> str:
        """What ends the functions of a network, so that their tensors keep the width that a plan asks for."""
        return self("Conv", x, self.normal(out, channels, 3, 3), self.normal(out), pads=[1, 1, 1, 1])

    def model(self, *outputs: str, shape: tuple[int, ...] = SHAPE) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def layers() -> onnx.ModelProto:
    net = Net()
    x = net("BatchNormalization", net.conv("x"), *(net.const(v) for v in ([0.5, 1, 2, 1], [0, 1, 0, -1], [0, 0.1, 0, 1], [1, 2, 1, 1])))  # fmt: skip
    x = net("Relu", net("Identity", x))
    x = net("ConvTranspose", x, net.normal(4, 6, 3, 3), net.normal(6), strides=[2, 2], pads=[1, 1, 1, 1])
    x = net("PRelu", x, net.const(np.linspace(-0.5, 1.5, 6).reshape(6, 1, 1)))
    x = net("Clip", net("Dropout", net.conv(x, 6, 6)), net.const(-1.0), net.const(1.5))
    x = net("MaxPool", x, kernel_shape=[2, 2], strides=[1, 1])
    x = net("AveragePool", x, kernel_shape=[3, 2], strides=[1, 2], pads=[1, 0, 1, 0])
    x = net("Cast", x, to=TensorProto.FLOAT)
    pooled = [net(op, x) for op in ("GlobalMaxPool", "GlobalAveragePool")]
    axes = net.ints(2, 3)
    pooled += [net(op, x, axes) for op in ("ReduceMean", "ReduceMax", "ReduceSum")]
    flat = [net("Flatten", each) for each in pooled]
    y = net("Gemm", net("Concat", *flat, axis=1), net.normal(30, 7), net.normal(7))
    offset = net("Constant", value=numpy_helper.from_array(np.linspace(-1, 1, 9, dtype=np.float32)))
    return net.model(net("Add", net("MatMul", net("Relu", y), net.normal(7, 9)), offset))


def elementwise() -> onnx.ModelProto:
    net = Net()
    a, b = net.conv("x"), net.conv("x")
    of_two = [net(op, a, b) for op in ("Add", "Sub", "Mul", "Min", "Max")]
    row = net.const(net.rng.uniform(0.5, 2, (4, 1, 1)))
    with_constant = [net(op, each, row) for op, each in zip(("Mul", "Div", "Add", "Sub", "Min", "Max"), [*of_two, a], strict=True)]  # fmt: skip
    first = [net("Sub", row, a), net("Add", row, b), net("Mul", row, b)]
    return net.model(net.conv(net("Concat", *with_constant, *first, axis=1), 36))


def tables() -> onnx.ModelProto:
    net = Net()
    x = net.conv("x")
    made = [net(op, x, **attributes) for op, attributes in UNARY.items()]
    made += [net("Mul", x, net("Sigmoid", x)), net("Pow", x, net.const(3.0))]  # the first is Swish
    positive = net("Clip", net.conv("x"), net.const(0.5), net.const(4.0))
    made += [net(op, positive, **attributes) for op, attributes in OF_POSITIVE.items()]
    return net.model(net.conv(net("Concat", *made, axis=1), 4 * len(made)))


def moves() -> onnx.ModelProto:
    net = Net()
    x = net.conv("x")
    net("Split", x, outputs=2, axis=1, num_outputs=2)
    halves = [net.nodes[-1].output[1], net.nodes[-1].output[0]]
    x = net("Concat", *halves, axis=1)
    x = net("Slice", x, net.ints(1), net.ints(7), net.ints(2))
    x = net("Pad", x, net.ints(0, 0, 1, 0, 0, 0, 1, 0), net.const(0.0))
    x = net("Gather", x, net.ints(3, 1, 0, 2), axis=1)
    x = net.conv(net("Tile", x, net.ints(1, 2, 1, 1)), 8, 8)
    x = net("DepthToSpace", net("Transpose", x, perm=[0, 1, 3, 2]), blocksize=2)
    x = net("SpaceToDepth", net.conv(x, 2, 2), blocksize=2)
    one = net("Slice", x, net.ints(0), net.ints(1), net.ints(1))
    x = net("Concat", x, net("Expand", one, net.ints(1, 4, 8, 8)), axis=1)
    x = net("Resize", x, "", net.const([1, 1, 2, 2]), mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")  # fmt: skip
    x = net.conv(net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 12)
    x = net("Squeeze", net("Unsqueeze", x, net.ints(1)), net.ints(1))
    x = net("Reshape", x, net.ints(1, 16, 4, 4))
    return net.model(net("MatMul", net("Flatten", x), net.normal(256, 3)))


def resized() -> onnx.ModelProto:
    net = Net()
    x = net.conv("x")
    how = (("half_pixel", (2, 2)), ("asymmetric", (2, 2)), ("asymmetric", (4, 4)), ("half_pixel", (4, 4)))
    made = [
        net("Resize", x, "", net.const([1, 1, *scales]), mode="linear", coordinate_transformation_mode=mode)
        for mode, scales in how
    ]
    pooled = [net("MaxPool", each, kernel_shape=[2, 2], strides=[2, 2]) for each in made[2:]]
    return net.model(net.conv(net("Concat", *made[:2], *pooled, axis=1), 16))


def upsampled() -> onnx.ModelProto:
    net = Net(opset=9)
    x = net("Upsample", net.conv("x"), net.const([1, 1, 2, 2]), mode="nearest")
    y = net("Upsample", net.conv("x"), net.const([1, 1, 2, 2]), mode="linear")
    return net.model(net.conv(net("Add", x, y)))


def recurrent(op: str, gates: int) -> onnx.ModelProto:
    net = Net()
    x = net("LSTM" if op == "LSTM" else op, "x", net.normal(1, gates * 5, 6), net.normal(1, gates * 5, 5), net.normal(1, gates * 10), hidden_size=5, outputs=2)  # fmt: skip
    return net.model(net("MatMul", net("Squeeze", x, net.ints(1)), net.normal(5, 4)), shape=(3, 1, 6))


def spectrum(function: str) -> onnx.ModelProto:
    """A steep function of the squares of what a layer makes: a root or logarithm of a power, by bands."""
    net = Net()
    x = net("Conv", "x", net.normal(8, 4, 3, 3))
    net("Split", x, outputs=2, axis=1, num_outputs=2)
    parts = list(net.nodes[-1].output)
    power = net("Add", *(net("Mul", each, each) for each in parts))
    if function == "bands":
        turned = net("Transpose", power, perm=[0, 2, 3, 1])
        bands = net("MatMul", turned, net.const(np.abs(net.rng.normal(0, 1, (4, 4)))))
        made = net("Log", net("Add", bands, net.const(1e-6)))
    elif function == "mean":
        made = net("Sqrt", net("ReduceMean", power, net.ints(2, 3), keepdims=1))
    else:
        made = net(function, net("Clip", power, net.const(1e-4), net.const(1e4)))
    return net.model(made)


NETWORKS = {
    "layers": layers, "elementwise": elementwise, "tables": tables, "moves": moves, "resized": resized, "upsampled": upsampled,
    "LSTM": lambda: recurrent("LSTM", 4), "GRU": lambda: recurrent("GRU", 3), "RNN": lambda: recurrent("RNN", 1),
    "bands": lambda: spectrum("bands"), "mean": lambda: spectrum("mean"), "Log": lambda: spectrum("Log"),
    "Sqrt": lambda: spectrum("Sqrt"), "Reciprocal": lambda: spectrum("Reciprocal"),
}  # fmt: skip
