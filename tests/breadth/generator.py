"""Random float CNNs of every operator that the accelerator has, as ONNX: 5 to 30 operators, branches, spellings of exporters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
LARGEST_VALUES = 6000  # of one tensor


class Network:
    """A graph that grows at random; ``live`` holds tensors [1, C, H, W] that later operators may read."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.live: list[str] = []
        self.used: set[str] = set()

    def const(self, values: object, dtype: type = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype)
        return name

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.shapes[name] = tuple(int(size) for size in shape)
        self.used.update(inputs)
        return name

    def keep(self, name: str) -> None:
        self.live.append(name)

    def pick(self) -> str:
        """A tensor to read: mostly a late one."""
        recent = self.live[-3:] if self.rng.random() < 0.8 else self.live
        return str(self.rng.choice(recent))

    def ints(self, low: int, high: int, count: int) -> list[int]:
        return [int(v) for v in self.rng.integers(low, high, count)]


def weight(rng: np.random.Generator, *shape: int) -> np.ndarray:
    fan = max(1, int(np.prod(shape[1:])))
    return rng.normal(0, 1.2 / np.sqrt(fan), shape)


def conv(net: Network, x: str) -> str | None:
    rng, (_, c, h, w) = net.rng, net.shapes[x]
    kernel = net.ints(1, min(4, h + 1), 1) + net.ints(1, min(4, w + 1), 1)
    style = rng.choice(["dense", "depthwise", "multiplier", "grouped"])
    groups = {"dense": 1, "depthwise": c, "multiplier": c, "grouped": 2 if c % 2 == 0 else 1}[str(style)]
    out = c if style == "depthwise" else c * 2 if style == "multiplier" else groups * int(rng.integers(1, 9))
    strides, dilations = net.ints(1, 3, 2), net.ints(1, 3, 2)
    pads = [int(rng.integers(0, k)) for k in kernel * 2]
    size = [
        (n + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i, n in enumerate((h, w))
    ]
    if min(size) < 1:
        return None
    inputs = [x, net.const(weight(rng, out, c // groups, *kernel))]
    if rng.random() < 0.7:
        inputs.append(net.const(rng.normal(0, 0.3, out)))
    result = net.add(
        "Conv",
        inputs,
        (1, out, *size),
        group=groups,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
    )
    if rng.random() < 0.4:
        names = [
            rng.uniform(0.5, 1.5, out),
            rng.normal(0, 0.3, out),
            rng.normal(0, 0.3, out),
            rng.uniform(0.5, 1.5, out),
        ]
        result = net.add("BatchNormalization", [result, *(net.const(v) for v in names)], net.shapes[result])
    return activation(net, result) if rng.random() < 0.5 else result


def conv_transpose(net: Network, x: str) -> str | None:
    rng, (_, c, h, w) = net.rng, net.shapes[x]
    groups = int(rng.choice([1, 1, c]))
    per_group = int(rng.integers(1, 4)) if groups > 1 else int(rng.integers(1, 9))
    kernel, strides = net.ints(1, 5, 2), net.ints(1, 4, 2)
    pads = [int(rng.integers(0, max(1, k - 1))) for k in kernel * 2]
    extra = [int(rng.integers(0, s)) for s in strides]
    size = [(n - 1) * strides[i] + kernel[i] - pads[i] - pads[i + 2] + extra[i] for i, n in enumerate((h, w))]
    if min(size) < 1:
        return None
    inputs = [x, net.const(weight(rng, c, per_group, *kernel) * 2)]
    if rng.random() < 0.7:
        inputs.append(net.const(rng.normal(0, 0.3, groups * per_group)))
    return net.add(
        "ConvTranspose", inputs, (1, groups * per_group, *size), group=groups, kernel_shape=kernel, strides=strides,
        pads=pads, output_padding=extra,
    )  # fmt: skip


def activation(net: Network, x: str) -> str:
    rng, shape = net.rng, net.shapes[x]

    def unary(op: str, **attributes: object) -> Callable[[], str]:
        return lambda: net.add(op, [x], shape, **attributes)

    def clip() -> str:
        return net.add("Clip", [x, net.const(0.0), net.const(6.0)], shape)

    def swish() -> str:
        return net.add("Mul", [x, net.add("Sigmoid", [x], shape)], shape)

    def hard_swish() -> str:
        moved = net.add("Add", [x, net.const(3.0)], shape)
        clipped = net.add("Clip", [moved, net.const(0.0), net.const(6.0)], shape)
        return net.add("Div", [net.add("Mul", [x, clipped], shape), net.const(6.0)], shape)

    def gelu() -> str:
        inner = net.add("Erf", [net.add("Div", [x, net.const(np.sqrt(2.0))], shape)], shape)
        product = net.add("Mul", [x, net.add("Add", [inner, net.const(1.0)], shape)], shape)
        return net.add("Mul", [product, net.const(0.5)], shape)

    def prelu() -> str:
        return net.add("PRelu", [x, net.const(rng.uniform(-0.3, 0.5, (shape[1], 1, 1)))], shape)

    choices = [
        unary("Relu"), unary("Relu"), clip, unary("LeakyRelu", alpha=0.1), unary("Sigmoid"), unary("Tanh"), unary("HardSigmoid"),
        unary("HardSwish"), unary("Elu"), swish, hard_swish, gelu, prelu, unary("Softplus"), unary("Abs"), unary("Neg"),
    ]  # fmt: skip
    return choices[int(rng.integers(len(choices)))]()


def pool(net: Network, x: str) -> str | None:
    rng, (_, c, h, w) = net.rng, net.shapes[x]
    kind = str(rng.choice(["max", "average", "global", "mean", "global max"]))
    if kind in ("global", "global max"):
        return net.add("GlobalAveragePool" if kind == "global" else "GlobalMaxPool", [x], (1, c, 1, 1))
    if kind == "mean":
        axes = [[2, 3], [2], [3]][int(rng.integers(3))]
        return net.add("ReduceMean", [x], tuple(1 if k in axes else s for k, s in enumerate((1, c, h, w))), axes=axes)
    kernel, strides = net.ints(1, 4, 2), net.ints(1, 3, 2)
    pads = [int(rng.integers(0, k)) for k in kernel * 2]
    size = [(n + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i, n in enumerate((h, w))]
    if min(size) < 1:
        return None
    more = {"count_include_pad": int(rng.integers(2))} if kind == "average" else {}
    op = "MaxPool" if kind == "max" else "AveragePool"
    return net.add(op, [x], (1, c, *size), kernel_shape=kernel, strides=strides, pads=pads, **more)


def binary(net: Network, x: str) -> str:
    rng, shape = net.rng, net.shapes[x]
    op = str(rng.choice(["Add", "Add", "Sub", "Mul", "Min", "Max"]))
    others = [name for name in net.live if net.shapes[name] == shape and name != x]
    kind = str(rng.choice(["tensor", "tensor", "scalar", "vector", "gate", "plane"]))
    if kind == "tensor" and others:
        return net.add(op, [x, str(rng.choice(others))], shape)
    if kind == "scalar":
        other = net.const(rng.uniform(-1.5, 1.5))
    elif kind == "gate":  # squeeze and excite
        hidden = net.add("GlobalAveragePool", [x], (1, shape[1], 1, 1))
        kernel = net.const(weight(rng, shape[1], shape[1], 1, 1))
        gate = net.add("Sigmoid", [net.add("Conv", [hidden, kernel], (1, shape[1], 1, 1))], (1, shape[1], 1, 1))
        return net.add("Mul", [x, gate] if rng.random() < 0.5 else [gate, x], shape)
    elif kind == "plane":  # attention over space
        kernel = net.const(weight(rng, 1, shape[1], 1, 1))
        plane = net.add("Sigmoid", [net.add("Conv", [x, kernel], (1, 1, *shape[2:]))], (1, 1, *shape[2:]))
        return net.add("Mul", [x, plane], shape)
    else:
        other = net.const(rng.uniform(-1.5, 1.5, (shape[1], 1, 1)))
    return net.add(op, [x, other] if rng.random() < 0.7 else [other, x], shape)


def concat(net: Network, x: str) -> str | None:
    axis = int(net.rng.integers(1, 4))
    shape = net.shapes[x]
    fitting = [
        n
        for n in net.live
        if all(a == b for k, (a, b) in enumerate(zip(net.shapes[n], shape, strict=True)) if k != axis)
    ]
    others = [str(v) for v in net.rng.choice(fitting, min(len(fitting), int(net.rng.integers(1, 3))), replace=False)]
    size = shape[axis] + sum(net.shapes[n][axis] for n in others)
    return net.add("Concat", [x, *others], tuple(size if k == axis else s for k, s in enumerate(shape)), axis=axis)


def pad(net: Network, x: str) -> str | None:
    rng, (_, c, h, w) = net.rng, net.shapes[x]
    amounts = net.ints(0, 3, 4)
    mode = str(rng.choice(["constant", "edge", "reflect"]))
    if mode == "reflect" and (max(amounts[0], amounts[2]) >= h or max(amounts[1], amounts[3]) >= w):
        return None
    front = int(rng.integers(0, 2)) if mode == "constant" else 0
    pads = net.const([0, front, *amounts[:2], 0, 0, *amounts[2:]], np.int64)
    shape = (1, c + front, h + amounts[0] + amounts[2], w + amounts[1] + amounts[3])
    return net.add("Pad", [x, pads], shape, mode=mode)


def cut(net: Network, x: str) -> str | None:
    rng, shape = net.rng, net.shapes[x]
    axis = int(rng.integers(1, 4))
    size = shape[axis]
    if size < 2:
        return None
    if rng.random() < 0.5:
        begin, step = int(rng.integers(0, size)), int(rng.integers(1, 3))
        length = -(-(size - begin) // step)
        ends = [net.const([v], np.int64) for v in (begin, 1 << 40, axis, step)]
        return net.add("Slice", [x, *ends], tuple(length if k == axis else s for k, s in enumerate(shape)))
    first = int(rng.integers(1, size))
    name = f"split{len(net.nodes)}"
    halves = net.const([first, size - first], np.int64)
    net.nodes.append(helper.make_node("Split", [x, halves], [f"{name}_a", f"{name}_b"], name=name, axis=axis))
    net.used.add(x)
    for part, length in (("a", first), ("b", size - first)):
        net.shapes[f"{name}_{part}"] = tuple(length if k == axis else s for k, s in enumerate(shape))
        net.keep(f"{name}_{part}")
    return None


def resize(net: Network, x: str) -> str:
    rng, (_, c, h, w) = net.rng, net.shapes[x]
    fh, fw = net.ints(1, 4, 2)
    scales = net.const([1, 1, fh, fw])
    if rng.random() < 0.5:
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        how = {"mode": "linear", "coordinate_transformation_mode": str(rng.choice(["half_pixel", "asymmetric"]))}
    return net.add("Resize", [x, "", scales], (1, c, h * fh, w * fw), **how)


def rearrange(net: Network, x: str) -> str | None:
    rng, (_, c, h, w) = net.rng, net.shapes[x]
    kind = str(rng.choice(["shuffle", "to space", "to depth", "swap", "flat"]))
    if kind == "to space" and c % 4 == 0:
        mode = str(rng.choice(["DCR", "CRD"]))
        return net.add("DepthToSpace", [x], (1, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)
    if kind == "to depth" and h % 2 == w % 2 == 0:
        return net.add("SpaceToDepth", [x], (1, 4 * c, h // 2, w // 2), blocksize=2)
    if kind == "swap":
        return net.add("Transpose", [x], (1, c, w, h), perm=[0, 1, 3, 2])
    if kind == "shuffle" and c % 2 == 0:
        first = net.add("Reshape", [x, net.const([1, 2, c // 2, h, w], np.int64)], (1, 2, c // 2, h, w))
        turned = net.add("Transpose", [first], (1, c // 2, 2, h, w), perm=[0, 2, 1, 3, 4])
        return net.add("Reshape", [turned, net.const([1, c, h, w], np.int64)], (1, c, h, w))
    return None


def dense(net: Network, x: str) -> str | None:
    """A matrix product over the channels of every pixel, or over the whole plane."""
    rng, (_, c, h, w) = net.rng, net.shapes[x]
    out = int(rng.integers(1, 13))
    if rng.random() < 0.5:
        flat = net.add("Flatten", [x], (1, c * h * w))
        product = net.add(
            "Gemm",
            [flat, net.const(weight(rng, out, c * h * w)), net.const(rng.normal(0, 0.3, out))],
            (1, out),
            transB=1,
        )
        return net.add("Reshape", [product, net.const([1, out, 1, 1], np.int64)], (1, out, 1, 1))
    last = net.add("Transpose", [x], (1, h, w, c), perm=[0, 2, 3, 1])
    product = net.add("MatMul", [last, net.const(weight(rng, out, c).T)], (1, h, w, out))
    if rng.random() < 0.5:
        product = net.add("Add", [product, net.const(rng.normal(0, 0.3, out))], (1, h, w, out))
    return net.add("Transpose", [product], (1, out, h, w), perm=[0, 3, 1, 2])


def one_dimensional(net: Network, x: str) -> str | None:
    rng, (_, c, h, w) = net.rng, net.shapes[x]
    line = net.add("Reshape", [x, net.const([1, c, h * w], np.int64)], (1, c, h * w))
    kernel, out = min(3, h * w), int(rng.integers(1, 9))
    result = net.add(
        "Conv", [line, net.const(weight(rng, out, c, kernel))], (1, out, h * w - kernel + 1), kernel_shape=[kernel]
    )
    result = net.add("Relu", [result], net.shapes[result])
    return net.add(
        "Reshape", [result, net.const([1, out, 1, h * w - kernel + 1], np.int64)], (1, out, 1, h * w - kernel + 1)
    )


STEPS: list[tuple[Callable[[Network, str], str | None], int]] = [
    (conv, 6), (conv_transpose, 2), (activation, 4), (pool, 3), (binary, 5), (concat, 2), (pad, 2), (cut, 2), (resize, 1),
    (rearrange, 3), (dense, 1), (one_dimensional, 1),
]  # fmt: skip


def network(seed: int) -> onnx.ModelProto:
    """A random network; the same for the same seed. Every tensor that nothing reads is an output."""
    net = Network(seed)
    rng = net.rng
    count = int(rng.integers(5, 31))
    shape = (1, int(rng.integers(1, 9)), int(rng.integers(2, 15)), int(rng.integers(2, 15)))
    net.shapes["x"] = shape
    net.keep("x")
    steps = [step for step, times in STEPS for _ in range(times)]
    while len(net.nodes) < count:
        x = net.pick()
        before = len(net.nodes)
        made = steps[int(rng.integers(len(steps)))](net, x)
        if made is None:
            continue
        if int(np.prod(net.shapes[made])) > LARGEST_VALUES:
            del net.nodes[before:]
            continue
        net.keep(made)
    read = {name for node in net.nodes for name in node.input}
    outputs = [o for node in net.nodes for o in node.output if o not in read]
    constants = {k: v for k, v in net.constants.items() if k in read}
    graph = helper.make_graph(
        net.nodes, f"random{seed}", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, net.shapes[o]) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
