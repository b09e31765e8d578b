"""Random single layers: shapes, strides, padding, dilation, groups, widths, ties and saturation, large ones that split."""

from dataclasses import replace

import numpy as np

from qaccel.machine.hw import HwConfig
from qaccel.machine.numerics import activation_limits
from qaccel.machine.streams import pack_pixels
from qaccel.npu.layers import (
    ChannelParams,
    ConvLayer,
    CopyLayer,
    DepthwiseLayer,
    EltwiseLayer,
    FeatureMap,
    LayerGraph,
    PoolLayer,
    TableLayer,
    Window,
)
from qaccel.npu.lower.groups import group_parts

WIDTHS = (4, 8, 16)
KINDS = ("conv", "conv", "conv", "conv", "grouped", "depthwise", "depthwise", "pool", "eltwise", "copy", "table")


def values(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """Activations: uniform, or extremes only, so that sums saturate."""
    lo, hi = activation_limits(bits)
    if rng.random() < 0.15:
        return rng.choice([lo, hi], shape).astype(np.int64)
    return rng.integers(lo, hi + 1, shape)


def zero_point(rng: np.random.Generator, bits: int) -> int:
    if bits == 16 or rng.random() < 0.2:
        return 0
    lo, hi = activation_limits(bits)
    return int(rng.choice([lo, hi, rng.integers(lo, hi + 1)]))


def _clamp(rng: np.random.Generator, bits: int) -> tuple[int, int]:
    lo, hi = activation_limits(bits)
    if rng.random() < 0.7:
        return lo, hi
    a, b = sorted(int(v) for v in rng.integers(lo, hi + 1, 2))
    return a, b


def random_scale(rng: np.random.Generator, spread_bits: float) -> tuple[int, int]:
    """Multiplier and shift that bring sums of about ``spread_bits`` bits to the output's range; often a power of two (ties)."""
    shift = int(np.clip(30 + spread_bits + rng.integers(-2, 4), 1, 79))
    multiplier = 1 << 30 if rng.random() < 0.4 else int(rng.integers(1 << 30, 1 << 31))
    return multiplier, shift


def _window(rng: np.random.Generator, big: bool) -> tuple[Window, int, int]:
    """A window and the smallest input that it can have."""
    kernel = [int(k) for k in rng.choice([1, 1, 2, 3, 3, 3, 4, 5, 7], 2)]
    stride = [int(s) for s in rng.choice([1, 1, 2, 3], 2)]
    dilation = [int(d) if k > 1 and not big else 1 for d, k in zip(rng.choice([1, 1, 1, 2, 3], 2), kernel, strict=True)]
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    pads = [int(rng.integers(0, e)) for e in (*extent, *extent)]
    window = Window(*kernel, *stride, *dilation, *pads)
    return window, max(1, extent[0] - pads[0] - pads[2]), max(1, extent[1] - pads[1] - pads[3])


def output_size(window: Window, h: int, w: int) -> tuple[int, int]:
    rows = h + window.pad_top + window.pad_bottom - (window.kernel_h - 1) * window.dilation_h - 1
    pixels = w + window.pad_left + window.pad_right - (window.kernel_w - 1) * window.dilation_w - 1
    return rows // window.stride_h + 1, pixels // window.stride_w + 1


def random_params(rng: np.random.Generator, channels: int, spread_bits: float) -> ChannelParams:
    pairs = [random_scale(rng, spread_bits) for _ in range(channels)]
    limit = max(1, min(1 << 30, int(2 ** (spread_bits + 4))))
    return ChannelParams(
        rng.integers(-limit, limit, channels).astype(np.int32),
        np.array([m for m, _ in pairs], np.uint32),
        np.array([s for _, s in pairs], np.uint8),
    )


def random_layer(
    rng: np.random.Generator, weight_bits: int, activation_bits: int, big: bool, hw: HwConfig
) -> LayerGraph:
    """One layer as a subgraph; ``big`` makes it larger than SRAM or than half of the weight buffer."""
    kind = str(rng.choice(KINDS[:7] if big else KINDS))
    out_bits = int(rng.choice(WIDTHS))
    window, least_h, least_w = _window(rng, big or kind == "pool")  # a dilated pooling window may miss the input
    if kind in ("eltwise", "copy", "table"):
        window, least_h, least_w = Window(), 1, 1
    h, w = least_h + int(rng.integers(0, 9)), least_w + int(rng.integers(0, 9))
    c = int(rng.integers(1, 40)) if rng.random() < 0.8 else int(rng.integers(40, 90))
    oc = int(rng.integers(1, 40))
    if big:
        if kind == "conv" and rng.random() < 0.5:  # more weights than half of the buffer
            taps = window.kernel_h * window.kernel_w
            c = (
                int(
                    hw.weight_buffer_bytes
                    * 4
                    / weight_bits
                    * rng.uniform(1.0, 2.0)
                    / (taps * hw.array_columns(weight_bits))
                )
                + 1
            )
            oc = int(rng.integers(hw.cols, 3 * hw.cols))
            h, w = least_h + int(rng.integers(0, 4)), least_w + int(rng.integers(0, 4))
        else:  # more activations than SRAM
            c = int(rng.integers(3, 33))
            side = int(np.sqrt(hw.sram_bytes * 8 / activation_bits / c * rng.uniform(0.6, 1.2)))
            h, w = max(h, side), max(w, side)
            oc = int(rng.integers(1, 9)) if kind == "conv" else oc
            window = Window(*(min(k, 3) for k in (window.kernel_h, window.kernel_w)), 2, 2, 1, 1, 0, 0, 0, 0)
    x = FeatureMap("x", h, w, c, activation_bits, zero_point(rng, activation_bits))
    out_h, out_w = output_size(window, h, w)
    out_zero = zero_point(rng, out_bits)
    common = ("layer", kind, (0,), 1, *_clamp(rng, out_bits))
    half = (1 << (weight_bits - 1)) - 1
    spread = activation_bits + weight_bits - out_bits - 1
    if kind in ("conv", "grouped"):
        groups = 1
        if kind == "grouped":
            groups = int(rng.integers(2, 7))
            c, oc = groups * int(rng.integers(1, 6)), groups * int(rng.integers(1, 6))
            c += groups if c == oc == groups else 0
            x = FeatureMap("x", h, w, c, activation_bits, x.zero_point)
        shape = (oc, window.kernel_h, window.kernel_w, c // groups)
        lowest = -half - 1 if rng.random() < 0.2 else -half
        weights = rng.integers(lowest, half + 1, shape).astype(np.int32)
        spread += np.log2(weights[0].size) / 2
        y = FeatureMap("y", out_h, out_w, oc, out_bits, out_zero)
        parts = group_parts(weights, groups, weight_bits, x, y, hw)
        layer = ConvLayer(*common, window, weight_bits, parts, random_params(rng, oc, spread), weights, 0)
    elif kind == "depthwise":
        y = FeatureMap("y", out_h, out_w, c, out_bits, out_zero)
        weights = rng.integers(-half, half + 1, (window.kernel_h, window.kernel_w, c)).astype(np.int32)
        layer = DepthwiseLayer(*common, window, weight_bits, random_params(rng, c, spread), weights, 0)
    elif kind == "pool":
        y = FeatureMap("y", out_h, out_w, c, out_bits, out_zero)
        maximum = bool(rng.random() < 0.5)
        counts = [1] if maximum else range(1, window.kernel_h * window.kernel_w + 1)
        scales = {n: random_scale(rng, activation_bits - out_bits + np.log2(n) / 2) for n in counts}
        layer = PoolLayer(*common, window, "max" if maximum else "sum", bool(rng.random() < 0.5), scales)
    elif kind == "eltwise":
        return _random_eltwise(rng, x, out_bits, out_zero, common)
    elif kind == "copy":
        y = FeatureMap("y", h, w, c, out_bits, out_zero)
        layer = CopyLayer(*common, *random_scale(rng, activation_bits - out_bits))
    else:
        return _random_table(rng, x, out_bits, common)
    return LayerGraph("main", (x, y), (layer,), (0,), (1,))


def stepping_layer(rng: np.random.Generator, weight_bits: int, activation_bits: int, hw: HwConfig) -> LayerGraph:
    """A convolution or a depthwise one of a small map, whose windows may step over all of it, or lie in the padding alone."""
    h, w = (int(size) for size in rng.integers(1, 6, 2))
    kernel, stride = rng.integers(1, 8, 2), rng.integers(1, 9, 2)
    dilation = np.where(kernel > 1, rng.choice([1, 1, 2, 3], 2), 1)
    extent = (kernel - 1) * dilation + 1
    before = rng.integers(0, extent + 1)
    after = np.maximum(rng.integers(0, extent + 1), extent - before - (h, w))
    window = Window(*(int(each) for each in (*kernel, *stride, *dilation, *before, *after)))
    c, out_bits, depthwise = int(rng.integers(1, 40)), int(rng.choice(WIDTHS)), rng.random() < 0.6
    oc = c if depthwise else int(rng.integers(1, 40))
    x = FeatureMap("x", h, w, c, activation_bits, zero_point(rng, activation_bits))
    y = FeatureMap("y", *output_size(window, h, w), oc, out_bits, zero_point(rng, out_bits))
    common, half = ("layer", "conv", (0,), 1, *_clamp(rng, out_bits)), (1 << (weight_bits - 1)) - 1
    spread = activation_bits + weight_bits - out_bits - 1
    if depthwise:
        weights = rng.integers(-half, half + 1, (*kernel, c)).astype(np.int32)
        layer = DepthwiseLayer(*common, window, weight_bits, random_params(rng, c, spread), weights, 0)
    else:
        weights = rng.integers(-half, half + 1, (oc, *kernel, c)).astype(np.int32)
        params = random_params(rng, oc, spread + np.log2(weights[0].size) / 2)
        layer = ConvLayer(
            *common, window, weight_bits, group_parts(weights, 1, weight_bits, x, y, hw), params, weights, 0
        )
    return LayerGraph("main", (x, y), (layer,), (0,), (1,))


def random_pair(
    rng: np.random.Generator, weight_bits: int, activation_bits: int, big: bool, hw: HwConfig
) -> LayerGraph:
    """A convolution, and an element-wise layer or a table behind it, of whose operands the convolution's may be the second."""
    graph = random_layer(rng, weight_bits, activation_bits, big, hw)
    while not isinstance(graph.layers[0], ConvLayer | DepthwiseLayer):
        graph = random_layer(rng, weight_bits, activation_bits, big, hw)
    x, middle = graph.maps
    out_bits = int(rng.choice(WIDTHS))
    common = ("post", "post", (0,), 1, *_clamp(rng, out_bits))
    if rng.random() < 0.4:
        behind = _random_table(rng, middle, out_bits, common)
    else:
        behind = _random_eltwise(rng, middle, out_bits, zero_point(rng, out_bits), common)
    [layer] = behind.layers
    inputs = tuple(index + 1 for index in layer.inputs)
    whole = len(inputs) == 2 and all(getattr(behind.maps[2], axis) == getattr(middle, axis) for axis in "hwc")
    if whole and rng.random() < 0.5:
        inputs = inputs[::-1]
    layers = (graph.layers[0], replace(layer, inputs=inputs, output=2))
    entering = (0, *(index + 1 for index in behind.inputs[1:]))
    return LayerGraph("main", (x, *behind.maps), layers, entering, (2,))


def _random_table(rng: np.random.Generator, x: FeatureMap, out_bits: int, common: tuple) -> LayerGraph:
    y = FeatureMap("y", x.h, x.w, x.c, out_bits, 0)
    octaves = x.bits == 16 and rng.random() < 0.5
    wide = 770 if octaves else 513
    entries = values(rng, (wide if x.bits == 16 else 1 << x.bits,), out_bits)
    knots = ("octaves", int(rng.integers(-(1 << 15), 1 << 15))) if octaves else ("even", 0)
    width = 2 if 16 in (x.bits, out_bits) else 1
    common = (*common[:4], *activation_limits(out_bits))
    layer = TableLayer(*common, entries.astype(f"<i{width}").tobytes(), *knots)
    return LayerGraph("main", (x, y), (layer,), (0,), (1,))


def _random_eltwise(rng: np.random.Generator, x: FeatureMap, out_bits: int, out_zero: int, common: tuple) -> LayerGraph:
    kind = str(rng.choice(["add", "sub", "mul", "min", "max"]))
    b_bits = int(rng.choice(WIDTHS))
    shape = [(x.h, x.w, x.c), (1, 1, x.c), (1, 1, 1)][int(rng.integers(3))]
    constant = shape != (x.h, x.w, x.c) and rng.random() < 0.5
    data = pack_pixels(values(rng, shape, b_bits), b_bits) if constant else None
    b = FeatureMap("b", *shape, b_bits, zero_point(rng, b_bits), data)
    y = FeatureMap("y", x.h, x.w, x.c, out_bits, out_zero)
    multiplier, shift = random_scale(rng, (x.bits + b_bits if kind == "mul" else max(x.bits, b_bits)) - out_bits)
    b_multiplier = 0 if kind == "mul" else int(rng.integers(0, 1 << 31))
    scalar = shape[2] == 1 and x.c > 1
    lesser: frozenset[int] = frozenset()
    if kind == "max" and shape == (x.h, x.w, x.c) and 4 not in (x.bits, b_bits, out_bits) and rng.random() < 0.5:
        lesser = frozenset(np.flatnonzero(rng.random(x.c) < 0.5).tolist())
    layer = EltwiseLayer("layer", kind, (0, 2), 1, *common[4:], kind, scalar, multiplier, b_multiplier, shift, lesser)
    return LayerGraph("main", (x, y, b), (layer,), (0,) if constant else (0, 2), (1,))
