"""Random chains of layers whose maps do not fit into SRAM together: odd sizes, strides, residuals, and SRAM just large enough."""

from dataclasses import replace

import numpy as np

from npu.layer_cases import WIDTHS, output_size, random_params, random_scale, values, zero_point
from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.numerics import activation_limits
from qaccel.machine.streams import pack_pixels
from qaccel.npu.layers import (
    AnyLayer,
    ConvLayer,
    ConvPart,
    CopyLayer,
    DepthwiseLayer,
    EltwiseLayer,
    FeatureMap,
    LayerGraph,
    PoolLayer,
    TableLayer,
    Window,
)

KINDS = ("conv", "conv", "conv", "depthwise", "depthwise", "pool", "copy", "table", "scaled", "residual", "residual")


def random_chain(rng: np.random.Generator, weight_bits: int, activation_bits: int) -> tuple[LayerGraph, HwConfig]:
    """2 to 8 layers, and a machine with SRAM for a part of the largest map beside one row of each."""
    maps = [FeatureMap("x", int(rng.integers(9, 40)), int(rng.integers(3, 14)), int(rng.integers(1, 24)), activation_bits,
                       zero_point(rng, activation_bits))]  # fmt: skip
    layers: list[AnyLayer] = []
    top = 0  # the map that the chain has come to
    for number in range(int(rng.integers(2, 9))):
        name, x = f"layer{number}", maps[top]
        kind = str(rng.choice(KINDS))
        bits = activation_bits if rng.random() < 0.7 else int(rng.choice(WIDTHS))
        peers = [i for i, m in enumerate(maps) if i != top and m.data is None and (m.h, m.w, m.c) == (x.h, x.w, x.c)]
        if kind == "residual" and not peers:
            kind = "conv"
        window = _window(rng, x) if kind in ("conv", "depthwise", "pool") else Window()
        h, w = output_size(window, x.h, x.w)
        c = int(rng.integers(1, 33)) if kind == "conv" and rng.random() < 0.7 else x.c
        z = 0 if kind == "table" else zero_point(rng, bits)
        maps.append(FeatureMap(name, h, w, c, bits, z))
        common = (name, kind, (top,), len(maps) - 1, *activation_limits(bits))
        if kind == "scaled":
            shape = (1, 1, x.c) if rng.random() < 0.5 else (x.h, x.w, x.c)
            data = pack_pixels(values(rng, shape, activation_bits), activation_bits)
            peers = [len(maps)]
        layers.append(_layer(rng, kind, common, window, weight_bits, x, maps[-1], peers))
        top = len(maps) - 1
        if kind == "scaled":
            maps.append(FeatureMap(f"{name}.constant", *shape, activation_bits, 0, data))
    graph = LayerGraph("chain", tuple(maps), tuple(layers), (0,), (top,))
    row = sum(m.row_bytes for m in maps)
    largest = max(m.total_bytes for m in maps)
    sram_bytes = int(rng.uniform(0.1, 0.8) * largest + rng.uniform(1, 5) * row) + 2048
    hw = load_config(str(rng.choice(["qaccel-64", "qaccel-256"])))
    buffer_bytes = int(rng.choice([2048, 8192, 65536]))
    return graph, replace(hw, name="small", sram_bytes=sram_bytes // 16 * 16, weight_buffer_bytes=buffer_bytes)


def _window(rng: np.random.Generator, x: FeatureMap) -> Window:
    def axis(size: int) -> tuple[int, int, int, int, int]:
        kernel = int(rng.choice([k for k in (1, 2, 3, 3, 3, 5, 7) if k <= size]))
        dilation = int(rng.choice([1, 1, 1, 2])) if (kernel - 1) * 2 < size else 1
        extent = (kernel - 1) * dilation + 1
        pads = [int(p) for p in rng.integers(0, extent, 2)]
        return kernel, int(rng.choice([1, 1, 1, 2, 3])), dilation, *pads

    (kh, sh, dh, top, bottom), (kw, sw, dw, left, right) = axis(x.h), axis(x.w)
    return Window(kh, kw, sh, sw, dh, dw, top, left, bottom, right)


def _layer(
    rng: np.random.Generator, kind: str, common: tuple, window: Window, weight_bits: int, x: FeatureMap, y: FeatureMap,
    peers: list[int],
) -> AnyLayer:  # fmt: skip
    half, spread = (1 << (weight_bits - 1)) - 1, x.bits + weight_bits - y.bits - 1
    if kind == "conv":
        weights = rng.integers(-half, half + 1, (y.c, window.kernel_h, window.kernel_w, x.c)).astype(np.int32)
        params = random_params(rng, y.c, spread + np.log2(weights[0].size) / 2)
        part = ConvPart(0, 0, weights.transpose(1, 2, 3, 0))
        return ConvLayer(*common, window, weight_bits, (part,), params, weights, 0)
    if kind == "depthwise":
        weights = rng.integers(-half, half + 1, (window.kernel_h, window.kernel_w, x.c)).astype(np.int32)
        return DepthwiseLayer(*common, window, weight_bits, random_params(rng, x.c, spread), weights, 0)
    if kind == "pool":
        # A maximum needs a tap in the map for every output: no window may lie in the padding alone.
        inner = replace(window, dilation_h=1, dilation_w=1)
        everywhere = max(window.pad_top, window.pad_bottom) < window.kernel_h and inner == window
        maximum = bool(everywhere and rng.random() < 0.5)
        counts = [1] if maximum else range(1, window.kernel_h * window.kernel_w + 1)
        scales = {n: random_scale(rng, x.bits - y.bits + np.log2(n) / 2) for n in counts}
        return PoolLayer(
            *common, window, "max" if maximum else "sum", bool(everywhere is False or rng.random() < 0.5), scales
        )
    if kind == "copy":
        return CopyLayer(*common, *random_scale(rng, x.bits - y.bits))
    if kind == "table":
        entries = values(rng, (513 if x.bits == 16 else 1 << x.bits,), y.bits)
        width = 2 if 16 in (x.bits, y.bits) else 1
        return TableLayer(*common, entries.astype(f"<i{width}").tobytes(), "even", 0)
    multiplier, shift = random_scale(rng, x.bits - y.bits)
    inputs = (common[2][0], int(rng.choice(peers)))
    common = (*common[:2], inputs, *common[3:])
    return EltwiseLayer(*common, "add", False, multiplier, int(rng.integers(0, 1 << 31)), shift)
