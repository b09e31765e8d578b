"""Heads of common detectors, small: each gives an ONNX network, its data, and where each part lies in its outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from cases.nets import Net, ints, scalar, weights

SIZE = 32
CLASSES = 4
Cut = tuple[str, Any]  # an output and the index of a part in it


@dataclass(frozen=True)
class Head:
    """``parts``: by name, the output and the index that gives the part."""

    model: onnx.ModelProto
    parts: Mapping[str, Cut]


def body(net: Net, levels: int = 2) -> list[tuple[str, int]]:
    """Feature maps of 8 channels and their strides: 4, 8, ..."""
    made, x, channels = [], "x", 3
    for level in range(levels + 1):
        stride = 4 if not level else 2
        kernel = weights(8, channels, 3, 3, seed=level, gain=1.6)
        x = net("Relu", net("Conv", x, kernel, strides=[min(stride, 2)] * 2, pads=[1] * 4))
        channels = 8
        if level:
            made.append((x, 2 ** (level + 1)))
    return made


def conv(net: Net, x: str, out: int, seed: int, bias: float = 0.0, gain: float = 1.0) -> str:
    """A 1x1 convolution of 8 channels."""
    return net("Conv", x, weights(out, 8, 1, 1, seed=seed, gain=gain), np.full(out, bias, "f4"))


def flat(net: Net, x: str, channels: int) -> str:
    """[1, C, H, W] -> [1, H * W, C]."""
    return net("Reshape", net("Transpose", x, perm=[0, 2, 3, 1]), ints(1, -1, channels))


def cut(net: Net, x: str, begin: int, end: int, axis: int) -> str:
    """A part of one axis."""
    return net("Slice", x, ints(begin), ints(end), ints(axis))


def grid(size: int) -> np.ndarray:
    """float32 [size * size, 2]: x and y of each cell."""
    y, x = np.mgrid[:size, :size]
    return np.stack([x, y], -1).reshape(-1, 2).astype("f4")


def yolov5(split: bool = False) -> Head:
    """Sigmoid over all, grid and anchors, joined along the last axis, then over the levels."""
    net, levels, total = Net(), [], 0
    for k, (x, stride) in enumerate(body(net)):
        size, channels = SIZE // stride, 5 + CLASSES
        raw = conv(net, x, 3 * channels, 10 + k, bias=-1)
        boxed = net("Transpose", net("Reshape", raw, ints(1, 3, channels, size, size)), perm=[0, 1, 3, 4, 2])
        y = net("Sigmoid", boxed)
        cells = grid(size).reshape(1, 1, size, size, 2)
        anchors = np.array([[10, 13], [16, 30], [33, 23]], "f4").reshape(1, 3, 1, 1, 2)
        if split:
            parts = [f"{net.prefix}s{k}{i}" for i in range(3)]
            net.nodes.append(onnx.helper.make_node("Split", [y, net.const(ints(2, 2, 1 + CLASSES))], parts, axis=4))
        else:
            parts = [cut(net, y, a, b, 4) for a, b in ((0, 2), (2, 4), (4, channels))]
        centre = net("Mul", net("Add", net("Mul", parts[0], scalar(2)), cells - 0.5), scalar(stride))
        extent = net("Mul", net("Pow", net("Mul", parts[1], scalar(2)), scalar(2)), anchors)
        joined = net("Concat", centre, extent, parts[2], axis=4)
        levels.append(net("Reshape", joined, ints(1, -1, channels)))
        total += 3 * size * size
    net("Concat", *levels, out="y", axis=1)
    cuts = {"xy": np.s_[..., :2], "wh": np.s_[..., 2:4], "scores": np.s_[..., 4:]}
    return _head(net, {"y": [1, total, 5 + CLASSES]}, {name: ("y", index) for name, index in cuts.items()})


def yolov8() -> Head:
    """Logits of boxes and classes joined and split again; distributions, their means, boxes by stride, joined with scores."""
    net, levels, bins = Net(), [], 8
    cells, strides = [], []
    for k, (x, stride) in enumerate(body(net)):
        size = SIZE // stride
        both = net("Concat", conv(net, x, 4 * bins, 20 + k, gain=2), conv(net, x, CLASSES, 30 + k, bias=-2), axis=1)
        levels.append(net("Reshape", both, ints(1, 4 * bins + CLASSES, -1)))
        cells.append(grid(size) + 0.5)
        strides.append(np.full(size * size, stride, "f4"))
    total = sum(map(len, cells))
    joined = net("Concat", *levels, axis=2)
    boxes, classes = cut(net, joined, 0, 4 * bins, 1), cut(net, joined, 4 * bins, 4 * bins + CLASSES, 1)
    shares = net("Softmax", net("Transpose", net("Reshape", boxes, ints(1, 4, bins, total)), perm=[0, 2, 1, 3]), axis=1)
    mean = net("Conv", shares, np.arange(bins, dtype="f4").reshape(1, bins, 1, 1))
    sides = net("Reshape", mean, ints(1, 4, total))
    anchors = np.concatenate(cells).T[None]
    first = net("Sub", anchors, cut(net, sides, 0, 2, 1))
    last = net("Add", cut(net, sides, 2, 4, 1), anchors)
    centre = net("Div", net("Add", first, last), scalar(2))
    box = net("Mul", net("Concat", centre, net("Sub", last, first), axis=1), np.concatenate(strides)[None, None])
    net("Concat", box, net("Sigmoid", classes), out="y", axis=1)
    cuts = {"xy": np.s_[:, :2], "wh": np.s_[:, 2:4], "scores": np.s_[:, 4:]}
    return _head(net, {"y": [1, 4 + CLASSES, total]}, {name: ("y", index) for name, index in cuts.items()})


def ssd(joined: bool = True) -> Head:
    """Offsets and logits joined over the levels, priors, Exp, corners in pixels, Softmax; one output or two."""
    net, offsets, logits, priors = Net(), [], [], []
    for k, (x, stride) in enumerate(body(net)):
        offsets.append(flat(net, conv(net, x, 4, 40 + k), 4))
        logits.append(flat(net, conv(net, x, CLASSES, 50 + k, gain=2), CLASSES))
        size = SIZE // stride
        centres = (grid(size) + 0.5) / size
        priors.append(np.concatenate([centres, np.full_like(centres, 0.2 * (k + 1))], 1))
    prior = np.concatenate(priors)[None]
    where, scores = net("Concat", *offsets, axis=1), net("Softmax", net("Concat", *logits, axis=1), axis=2)
    centre = net("Add", net("Mul", net("Mul", cut(net, where, 0, 2, 2), scalar(0.1)), prior[..., 2:]), prior[..., :2])
    extent = net("Mul", net("Exp", net("Mul", cut(net, where, 2, 4, 2), scalar(0.2))), prior[..., 2:])
    corner = net("Sub", centre, net("Div", extent, scalar(2)))
    boxes = net("Concat", corner, net("Add", corner, extent), axis=2)
    total = prior.shape[1]
    if not joined:
        net("Mul", boxes, scalar(SIZE), out="boxes")
        net("Identity", scores, out="scores")
        parts = {"first": ("boxes", np.s_[..., :2]), "last": ("boxes", np.s_[..., 2:]), "scores": ("scores", ...)}
        return _head(net, {"boxes": [1, total, 4], "scores": [1, total, CLASSES]}, parts)
    net("Concat", net("Mul", boxes, scalar(300)), scores, out="y", axis=2)
    cuts = {"first": np.s_[..., :2], "last": np.s_[..., 2:4], "scores": np.s_[..., 4:]}
    return _head(net, {"y": [1, total, 4 + CLASSES]}, {name: ("y", index) for name, index in cuts.items()})


def centernet(joined: bool = True) -> Head:
    """Heat map, extents and offsets of one map, as one output or three."""
    net = Net()
    x, stride = body(net, 1)[0]
    size = SIZE // stride
    heat = net("Sigmoid", conv(net, x, CLASSES, 60, bias=-2.2))
    extent = net("Mul", net("Relu", conv(net, x, 2, 61, bias=0.5)), scalar(60))
    offset = net("Sigmoid", conv(net, x, 2, 62))
    shapes = {"heat": [1, CLASSES, size, size], "wh": [1, 2, size, size], "offset": [1, 2, size, size]}
    if not joined:
        for name, value in zip(shapes, (heat, extent, offset), strict=True):
            net("Identity", value, out=name)
        return _head(net, shapes, {name: (name, ...) for name in shapes})
    net("Concat", heat, extent, offset, out="y", axis=1)
    cuts = {"heat": np.s_[:, :CLASSES], "wh": np.s_[:, CLASSES:-2], "offset": np.s_[:, -2:]}
    return _head(net, {"y": [1, CLASSES + 4, size, size]}, {name: ("y", index) for name, index in cuts.items()})


def scrfd(joined: bool = True) -> Head:
    """Scores, distances and landmarks of each stride, turned and flattened; joined over the levels, or as they are."""
    net, levels, outputs, parts = Net(), [], {}, {}
    for k, (x, stride) in enumerate(body(net)):
        size, made = SIZE // stride, []
        for name, depth, gain in (("score", 1, 0), ("box", 4, 1), ("points", 10, 1)):
            raw = conv(net, x, 2 * depth, 70 + 10 * k + depth, bias=-1 if not gain else 1)
            if gain:
                raw = net("Mul", raw, scalar(stride))
            value = net("Reshape", net("Transpose", raw, perm=[2, 3, 0, 1]), ints(-1, depth))
            value = value if gain else net("Sigmoid", value)
            made.append(value)
            if not joined:
                net("Identity", value, out=f"{name}{stride}")
                outputs[f"{name}{stride}"] = [2 * size * size, depth]
                parts[f"{name}{stride}"] = (f"{name}{stride}", ...)
        levels.append(net("Unsqueeze", net("Concat", *made, axis=1), ints(0)))
    if joined:
        net("Concat", *levels, out="y", axis=1)
        outputs["y"] = [1, 2 * sum((SIZE // s) ** 2 for s in (4, 8)), 15]
        cuts = {"score": np.s_[..., :1], "box": np.s_[..., 1:5], "points": np.s_[..., 5:]}
        parts = {name: ("y", index) for name, index in cuts.items()}
    return _head(net, outputs, parts)


HEADS: dict[str, Callable[[], Head]] = {
    "yolov5": yolov5,
    "yolov5_split": lambda: yolov5(split=True),
    "yolov8": yolov8,
    "ssd": ssd,
    "ssd_two_outputs": lambda: ssd(joined=False),
    "centernet": centernet,
    "centernet_three_outputs": lambda: centernet(joined=False),
    "scrfd": scrfd,
    "scrfd_by_stride": lambda: scrfd(joined=False),
}


def _head(net: Net, outputs: Mapping[str, list[int]], parts: Mapping[str, Cut]) -> Head:
    return Head(net.model({"x": [1, 3, SIZE, SIZE]}, outputs), parts)


def pictures(samples: int, seed: int) -> dict[str, np.ndarray]:
    """Smooth random pictures, float32 [samples, 3, SIZE, SIZE] within 0..1."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 1, (samples, 3, SIZE // 4, SIZE // 4))
    return {
        "x": np.clip(np.kron(coarse, np.ones((4, 4))) + rng.normal(0, 0.05, (samples, 3, SIZE, SIZE)), 0, 1).astype(
            "f4"
        )
    }
