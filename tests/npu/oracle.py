"""Exact results of layer operations, from their definition in the design (section 4), independent of tiling and code.

Integers are exact: 64-bit where products cannot leave 62 bits, Python's own elsewhere.
"""

import numpy as np

from qaccel.machine.interpreter.semantics import in_octaves
from qaccel.npu.layers import (
    ConvLayer,
    CopyLayer,
    DepthwiseLayer,
    EltwiseLayer,
    FeatureMap,
    LayerGraph,
    MoveLayer,
    PoolLayer,
    TableLayer,
    Window,
)


def rounded(products: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """Nearest integer of ``products * 2**-shift``, halves to even; products int64 or object."""
    if products.dtype == object:
        return np.vectorize(_rounded_int, otypes=[object])(products, shift).astype(object)
    shift = np.broadcast_to(np.asarray(shift, np.int64), products.shape)
    # Products stay below 2**62: shifted by 63 or more they round to zero, by 62 to -1, 0 or 1.
    clipped = np.minimum(shift, 62)
    floor = products >> clipped
    rest = products - (floor << clipped)
    twice = rest - ((np.int64(1) << clipped) - rest)
    result = floor + ((twice > 0) | ((twice == 0) & (floor & 1 == 1)))
    return np.where(shift == 0, products, np.where(shift > 62, 0, result))


def _rounded_int(value: int, shift: int) -> int:
    quotient, rest = divmod(int(value), 1 << int(shift))
    twice = 2 * rest - (1 << int(shift))
    return quotient + int(twice > 0 or (twice == 0 and quotient % 2 == 1))


def requantized(acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, layer, y: FeatureMap) -> np.ndarray:
    """Accumulators [..., C] to output integers."""
    if np.abs(acc).max(initial=0) < 1 << 31:
        products = acc * multiplier.astype(np.int64)
    else:
        products = acc.astype(object) * multiplier.astype(object)
    values = rounded(products, shift.astype(np.int64))
    return np.clip(values + y.zero_point, layer.clamp_lo, layer.clamp_hi).astype(np.int64)


def windows(x: np.ndarray, window: Window, fill: int) -> np.ndarray:
    """[H, W, C] to [out_h, out_w, kernel_h, kernel_w, C] with padding ``fill``."""
    pads = ((window.pad_top, window.pad_bottom), (window.pad_left, window.pad_right), (0, 0))
    padded = np.pad(x, pads, constant_values=fill)
    extent = (window.kernel_h - 1) * window.dilation_h + 1, (window.kernel_w - 1) * window.dilation_w + 1
    view = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(0, 1))
    view = view[:: window.stride_h, :: window.stride_w, :, :: window.dilation_h, :: window.dilation_w]
    return view.transpose(0, 1, 3, 4, 2)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Exact integer matrix product through float64 where no sum can leave 2**53, else through int64."""
    bound = float(np.abs(a).max(initial=0)) * float(np.abs(b).max(initial=0)) * a.shape[-1]
    if bound < 1 << 53:
        return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    return a @ b


def run_layer(graph: LayerGraph, layer, inputs: list[np.ndarray]) -> np.ndarray:
    """Output [H, W, C] int64 of one layer for its inputs [H, W, C]."""
    x, y = graph.maps[layer.inputs[0]], graph.maps[layer.output]
    a = inputs[0].astype(np.int64) - x.zero_point
    if isinstance(layer, ConvLayer):
        acc = np.zeros((y.h, y.w, y.c), np.int64)
        groups = x.c // layer.weights.shape[3]
        ic, oc = layer.weights.shape[3], layer.weights.shape[0] // groups
        patches = windows(a, layer.window, 0)
        for g in range(groups):
            kernel = layer.weights[g * oc : (g + 1) * oc].astype(np.int64)  # OHWI
            part = patches[..., g * ic : (g + 1) * ic].reshape(y.h * y.w, -1)
            acc[..., g * oc : (g + 1) * oc] = matmul(part, kernel.reshape(oc, -1).T).reshape(y.h, y.w, oc)
        acc += layer.params.bias.astype(np.int64)
        return requantized(acc, layer.params.multiplier, layer.params.shift, layer, y)
    if isinstance(layer, DepthwiseLayer):
        acc = (windows(a, layer.window, 0) * layer.weights.astype(np.int64)).sum(axis=(2, 3))
        acc += layer.params.bias.astype(np.int64)
        return requantized(acc, layer.params.multiplier, layer.params.shift, layer, y)
    if isinstance(layer, PoolLayer):
        if layer.kind == "max":
            acc, taps = windows(a, layer.window, -(1 << 40)).max(axis=(2, 3)), np.ones((y.h, y.w), np.int64)
        else:
            acc = windows(a, layer.window, 0).sum(axis=(2, 3))
            taps = windows(np.ones((x.h, x.w, 1), np.int64), layer.window, int(layer.count_include_pad)).sum(
                axis=(2, 3, 4)
            )
        scales = [np.vectorize(lambda n, i=i: layer.scales[n][i], otypes=[np.int64])(taps)[..., None] for i in (0, 1)]
        return requantized(acc, *(np.broadcast_to(s, acc.shape) for s in scales), layer, y)
    if isinstance(layer, CopyLayer):
        return requantized(a, np.full(x.c, layer.multiplier), np.full(x.c, layer.shift), layer, y)
    if isinstance(layer, TableLayer):
        width = 2 if 16 in (x.bits, y.bits) else 1
        table = np.frombuffer(layer.table, f"<i{width}").astype(np.int64)
        if x.bits < 16:
            return table[inputs[0] + (1 << (x.bits - 1))]
        if layer.knots == "octaves":
            return np.vectorize(lambda q: in_octaves(table, int(q) - layer.origin), otypes=[np.int64])(inputs[0])
        position = inputs[0].astype(np.int64) + (1 << 15)
        high, low = position >> 7, position & 127
        return rounded(table[high] * (128 - low) + table[high + 1] * low, 7)
    if isinstance(layer, MoveLayer):
        return _moved(graph, layer, inputs, y)
    assert isinstance(layer, EltwiseLayer)
    second = graph.maps[layer.inputs[1]]
    b = np.broadcast_to(inputs[1].astype(np.int64) - second.zero_point, a.shape)
    a, b = a.astype(object), b.astype(object)
    if layer.kind == "mul":
        total = a * b * layer.multiplier
    else:
        scaled = a * layer.multiplier, b * layer.b_multiplier
        total = {
            "add": lambda p, q: p + q,
            "sub": lambda p, q: p - q,
            "min": np.minimum,
            "max": np.maximum,
        }[layer.kind](*scaled)
        lesser = sorted(layer.lesser)
        total[..., lesser] = np.minimum(*scaled)[..., lesser]
    return np.clip(rounded(total, layer.shift) + y.zero_point, layer.clamp_lo, layer.clamp_hi).astype(np.int64)


def _moved(graph: LayerGraph, layer: MoveLayer, inputs: list[np.ndarray], y: FeatureMap) -> np.ndarray:
    made = []
    for index, value, scale in zip(layer.inputs, inputs, layer.scales, strict=True):
        source = graph.maps[index]
        multiplier, shift = (np.full(source.c, number) for number in scale)
        centred = value.astype(np.int64) - source.zero_point
        made.append(requantized(centred, multiplier, shift, layer, y).reshape(-1, source.c))
    result = np.zeros((y.h * y.w, y.c), np.int64)
    for piece in layer.pieces:
        for r in range(piece.rows):
            for p in range(piece.pixels):
                at = piece.out_pixel + r * piece.out_row_pixels + p * piece.out_step_pixels
                to = piece.out_channel + r * piece.out_row_channels + p * piece.out_step_channels
                of = piece.in_pixel + r * piece.in_row_pixels + p * piece.in_step_pixels
                first = piece.in_channel + r * piece.in_row_channels + p * piece.in_step_channels
                run = made[piece.source][of, first : first + piece.channels]
                result[at, to : to + piece.channels] = run
    return result.reshape(y.h, y.w, y.c)


def run_graph(graph: LayerGraph, inputs: list[np.ndarray]) -> dict[int, np.ndarray]:
    """Every feature map's values by index, from the subgraph's inputs."""
    values = dict(zip(graph.inputs, inputs, strict=True))
    for index, feature_map in enumerate(graph.maps):
        if feature_map.data is not None:
            values[index] = unpack_map(feature_map.data, feature_map)
    for layer in graph.layers:
        values[layer.output] = run_layer(graph, layer, [values[i] for i in layer.inputs])
    return values


def unpack_map(data: bytes, m: FeatureMap) -> np.ndarray:
    """DRAM bytes of a map to [H, W, C] int64."""
    if m.bits != 4:
        return np.frombuffer(data, f"<i{m.bits // 8}").reshape(m.h, m.w, m.c).astype(np.int64)
    raw = np.frombuffer(data, np.uint8).reshape(m.h, m.w, m.pixel_bytes)
    nibbles = np.stack([raw & 15, raw >> 4], axis=-1).reshape(m.h, m.w, -1)[..., : m.c].astype(np.int64)
    return (nibbles ^ 8) - 8
