"""Networks that are large for a code generator: ResNet-50's shape, and a text detector like PP-OCR's for pages.

Weights are random (normal, by He's scale, seeded), batch norms are folded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 50
RESNET_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # inner channels, blocks, stride
EXPANSION = 4
RESNET_SIDE = 224
DETECTOR_SIDE = 960
# Kernel, expanded channels, channels, squeeze and excite, activation, stride: MobileNetV3-Large (arXiv 1905.02244) of half width.
DETECTOR_BLOCKS = (
    (3, 8, 8, False, "Relu", 1), (3, 32, 16, False, "Relu", 2), (3, 40, 16, False, "Relu", 1), (5, 40, 24, True, "Relu", 2),
    (5, 64, 24, True, "Relu", 1), (5, 64, 24, True, "Relu", 1), (3, 120, 40, False, "HardSwish", 2), (3, 104, 40, False, "HardSwish", 1),
    (3, 96, 40, False, "HardSwish", 1), (3, 96, 40, False, "HardSwish", 1), (3, 240, 56, True, "HardSwish", 1),
    (3, 336, 56, True, "HardSwish", 1), (5, 336, 80, True, "HardSwish", 2), (5, 480, 80, True, "HardSwish", 1),
    (5, 480, 80, True, "HardSwish", 1),
)  # fmt: skip
DETECTOR_LAST, DETECTOR_NECK = 480, 96


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

    def weight(self, data: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(data, name))
        return name

    def conv(
        self, x: str, channels: tuple[int, int], kernel: int, stride: int, act: str = "Relu", groups: int = 1
    ) -> str:
        each = channels[0] // groups
        scale = np.sqrt(2 / (each * kernel * kernel))
        w = self.weight(self.rng.normal(0, scale, (channels[1], each, kernel, kernel)).astype(np.float32))
        b = self.weight(self.rng.normal(0, 0.1, channels[1]).astype(np.float32))
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
        y = self.node("Conv", [x, w, b], **sizes)
        return self.node(act, [y]) if act else y

    def doubled(self, x: str, channels: tuple[int, int]) -> str:
        """A transposed convolution of 2 x 2, stride 2."""
        w = self.weight(self.rng.normal(0, np.sqrt(2 / channels[0]), (*channels, 2, 2)).astype(np.float32))
        b = self.weight(self.rng.normal(0, 0.1, channels[1]).astype(np.float32))
        return self.node("ConvTranspose", [x, w, b], kernel_shape=[2, 2], strides=[2, 2])

    def excited(self, x: str, channels: int) -> str:
        """Squeeze and excite: each channel times a gate of all means."""
        y = self.conv(self.node("GlobalAveragePool", [x]), (channels, channels // 4), 1, 1)
        y = self.conv(y, (channels // 4, channels), 1, 1, act="")
        return self.node("Mul", [x, self.node("HardSigmoid", [y], alpha=0.2, beta=0.5)])

    def larger(self, x: str, times: int) -> str:
        """Nearest neighbours, so many times the height and width."""
        sizes = self.weight(np.array([1, 1, times, times], np.float32))
        return self.node(
            "Resize", [x, "", sizes], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )

    def model(self, side: int, outputs: dict[str, list[object]], batch: object) -> onnx.ModelProto:
        """Of x [batch, 3, side, side]."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "network", [x], ends, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def resnet50() -> onnx.ModelProto:
    """x [N, 3, 224, 224] to scores [N, 1000]."""
    net = Builder()
    x = net.conv("x", (3, 64), 7, 2)
    x, channels = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 64
    for inner, blocks, stride in RESNET_STAGES:
        for block in range(blocks):
            step, out = (stride if block == 0 else 1), inner * EXPANSION
            y = net.conv(x, (channels, inner), 1, 1)
            y = net.conv(y, (inner, inner), 3, step)
            y = net.conv(y, (inner, out), 1, 1, act="")
            around = net.conv(x, (channels, out), 1, step, act="") if block == 0 else x
            x, channels = net.node("Relu", [net.node("Add", [y, around])]), out
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])])
    classes = net.weight(net.rng.normal(0, 0.02, (channels, 1000)).astype(np.float32))
    net.nodes.append(helper.make_node("MatMul", [x, classes], ["scores"], name="classifier"))
    return net.model(RESNET_SIDE, {"scores": ["N", 1000]}, "N")


def text_detector() -> onnx.ModelProto:
    """x [1, 3, 960, 960] to text [1, 1, 960, 960]: backbone, a pyramid with gates, and the head of differentiable binarization
    (arXiv 1911.08947), whose last layers work on the whole page."""
    net, maps = Builder(), []
    x, channels = net.conv("x", (3, 8), 3, 2, "HardSwish"), 8
    for kernel, inner, out, gated, act, stride in DETECTOR_BLOCKS:
        if stride == 2 and channels > 8:
            maps.append((x, channels))
        y = net.conv(x, (channels, inner), 1, 1, act)
        y = net.conv(y, (inner, inner), kernel, stride, act, groups=inner)
        y = net.excited(y, inner) if gated else y
        y = net.conv(y, (inner, out), 1, 1, act="")
        x, channels = (net.node("Add", [x, y]) if stride == 1 and channels == out else y), out
    maps.append((net.conv(x, (channels, DETECTOR_LAST), 1, 1, "HardSwish"), DETECTOR_LAST))

    def gated(x: str, channels: tuple[int, int], kernel: int) -> str:
        y = net.conv(x, channels, kernel, 1, act="")
        return net.node("Add", [y, net.excited(y, channels[1])])

    rows = [gated(x, (channels, DETECTOR_NECK), 1) for x, channels in maps]
    for k in reversed(range(len(rows) - 1)):
        rows[k] = net.node("Add", [rows[k], net.larger(rows[k + 1], 2)])
    narrow = DETECTOR_NECK // 4
    rows = [gated(x, (DETECTOR_NECK, narrow), 3) for x in rows]
    rows = [rows[0], *(net.larger(x, 2 ** (k + 1)) for k, x in enumerate(rows[1:]))]
    x = net.conv(net.node("Concat", rows[::-1], axis=1), (DETECTOR_NECK, narrow), 3, 1)
    x = net.node("Relu", [net.doubled(x, (narrow, narrow))])
    net.nodes.append(helper.make_node("Sigmoid", [net.doubled(x, (narrow, 1))], ["text"], name="text"))
    return net.model(DETECTOR_SIDE, {"text": [1, 1, DETECTOR_SIDE, DETECTOR_SIDE]}, 1)


@dataclass(frozen=True)
class Network:
    """A network and the side of the square that it sees, in pixels."""

    make: Callable[[], onnx.ModelProto]
    side: int


NETWORKS = {"resnet50": Network(resnet50, RESNET_SIDE), "text_detector": Network(text_detector, DETECTOR_SIDE)}
