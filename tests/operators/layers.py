"""Cases of layers with weights, pools and means."""

from __future__ import annotations

import numpy as np

from operators import exact
from operators.cases import Case, Make


def _space(case: Case, rank: int) -> list[int]:
    return case.ints(1, 8 if rank == 2 else 14, rank)


def _weight(case: Case, *shape: int) -> np.ndarray:
    """Normal weights, the channels of very different sizes."""
    scale = np.exp(case.rng.uniform(-2, 1, (shape[0], *(1,) * (len(shape) - 1))))
    return (case.rng.normal(size=shape) * scale / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def _bias(case: Case, weight: np.ndarray, spread: float) -> np.ndarray:
    """One for each channel, or none: within int32 in units of the channel (what is not is another test's matter)."""
    if case.chance(0.3):
        return np.zeros(len(weight), np.float32)
    _, scale = exact.integer_weights(weight, case.weight_bits)
    most = scale * case.tensors["x"].q.scale * 2.0**27
    return np.clip(case.rng.normal(size=len(weight)) * spread, -most, most).astype(np.float32)


def _spread(case: Case) -> float:
    return max(abs(v) for v in case.spans["x"])


def conv(case: Case, rank: int = 2) -> Case:
    """Dense, grouped, depthwise, depthwise with a multiplier; any strides, dilations and padding; clamps behind it."""
    case.weighted = True
    style = case.choice(["dense", "dense", "grouped", "depthwise", "multiplier"])
    groups = 1 if style == "dense" else int(case.rng.integers(2, 6))
    per_in = 1 if style in ("depthwise", "multiplier") else int(case.rng.integers(1, 7))
    per_out = (
        1
        if style == "depthwise"
        else int(case.rng.integers(2, 4))
        if style == "multiplier"
        else int(case.rng.integers(1, 7))
    )
    kernel, strides, dilations = case.ints(1, 4, rank), case.ints(1, 3, rank), case.ints(1, 3, rank)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [int(case.rng.integers(0, e)) for e in extent * 2]
    space = [
        max(s, e - pads[k] - pads[k + rank]) for k, (s, e) in enumerate(zip(_space(case, rank), extent, strict=True))
    ]
    x = case.input([case.choice([1, 1, 1, 2]), groups * per_in, *space])
    weight = _weight(case, groups * per_out, per_in, *kernel)
    spread = _spread(case)
    bias = _bias(case, weight, spread / 2)
    attributes = {"group": groups, "kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    inputs = ["x", case.const(weight), *([case.const(bias)] if bias.any() else [])]
    span = case.span(spread * float(np.exp(case.rng.uniform(-2, 1))))
    tensor, clamps = case.clamps(case.add("Conv", inputs, **attributes), span)
    out = case.out(tensor, span)
    sums = exact.convolution(strides, pads, dilations, groups)
    return case.want(exact.weighted(x, weight, bias, case.weight_bits, out, clamps, sums, 1))


def conv_1d(case: Case) -> Case:
    case.narrow = False
    return conv(case, 1)


def conv_batch_norm(case: Case) -> Case:
    """A batch normalization of exact factors, folded into the convolution."""
    case.weighted = True
    groups = case.choice([1, 1, 3])
    x = case.input([1, 3, *_space(case, 2)])
    weight = _weight(case, 6, 3 // groups, 1, 1)
    bias = _bias(case, weight, 0.5)
    inner = case.add("Conv", ["x", case.const(weight), case.const(bias)], group=groups)
    # Powers of two make the folding exact in float32.
    factor = np.exp2(case.rng.integers(-2, 3, 6)).astype(np.float32) * case.rng.choice([-1, 1], 6)
    deviation = np.exp2(case.rng.integers(-1, 2, 6)).astype(np.float32)
    mean, shift = (case.rng.choice([-1, 0, 2], 6) * bias).astype(np.float32), (bias * factor).astype(np.float32)
    names = [case.const(v) for v in (factor * deviation, shift, mean, deviation**2)]
    span = case.span(_spread(case) * 2)
    tensor, clamps = case.clamps(case.add("BatchNormalization", [inner, *names], epsilon=0.0), span)
    out = case.out(tensor, span)
    folded = (weight * factor[:, None, None, None]).astype(np.float32)
    constant = ((bias.astype(np.float64) - mean) * factor + shift).astype(np.float32)
    sums = exact.convolution([1, 1], [0] * 4, [1, 1], groups)
    return case.want(exact.weighted(x, folded, constant, case.weight_bits, out, clamps, sums, 1))


def conv_transpose(case: Case, rank: int = 2) -> Case:
    """Strides, dilations, padding, output padding and groups."""
    case.weighted = True
    groups = case.choice([1, 1, 2, 3])
    per_in, per_out = (int(v) for v in case.rng.integers(1, 5, 2))
    kernel, strides, dilations = case.ints(1, 5, rank), case.ints(1, 4, rank), case.ints(1, 3, rank)
    wide = case.chance(0.2)  # output padding up to the dilation, which PyTorch has and ONNX Runtime refuses
    case.refused = wide
    extra = [int(case.rng.integers(0, max(s, d) if wide else s)) for s, d in zip(strides, dilations, strict=True)]
    space = _space(case, rank)
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(space, strides, kernel, dilations, extra, strict=True)
    ]
    pads = [0] * (2 * rank)
    for k in range(rank):
        most = min((kernel[k] - 1) * dilations[k], (full[k] - 1) // 2)
        pads[k], pads[k + rank] = (int(v) for v in case.rng.integers(0, most + 1, 2))
    x = case.input([1, groups * per_in, *space])
    weight = _weight(case, groups * per_out, per_in, *kernel)
    spread = _spread(case)
    bias = _bias(case, weight, spread / 2)
    # ONNX has [IC, OC / groups, *kernel].
    stored = weight.reshape(groups, per_out, per_in, *kernel).swapaxes(1, 2).reshape(groups * per_in, per_out, *kernel)
    inputs = ["x", case.const(np.ascontiguousarray(stored)), *([case.const(bias)] if bias.any() else [])]
    span = case.span(spread * float(np.exp(case.rng.uniform(-2, 1))))
    tensor = case.add(
        "ConvTranspose", inputs, group=groups, kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads,
        output_padding=extra,
    )  # fmt: skip
    tensor, clamps = case.clamps(tensor, span)
    out = case.out(tensor, span)
    sums = exact.transposed_convolution(strides, pads, dilations, extra, groups)
    return case.want(exact.weighted(x, weight, bias, case.weight_bits, out, clamps, sums, 1))


def conv_transpose_1d(case: Case) -> Case:
    case.narrow = False
    return conv_transpose(case, 1)


def gemm(case: Case) -> Case:
    """alpha and beta as powers of two, either transposition."""
    case.weighted, case.narrow = True, False
    features, units, rows = case.ints(1, 40, 1)[0], case.ints(1, 20, 1)[0], case.choice([1, 1, 3])
    x = case.input([rows, features])
    weight = _weight(case, units, features)
    spread = _spread(case)
    bias = _bias(case, weight, spread / 2)
    alpha, beta, turned = case.choice([1.0, 0.5, 2.0]), case.choice([1.0, 4.0]), int(case.chance(0.5))
    inputs = ["x", case.const(np.ascontiguousarray(weight if turned else weight.T))]
    inputs += [case.const(bias)] if bias.any() or case.chance(0.5) else []
    span = case.span(spread * float(np.exp(case.rng.uniform(-2, 1))))
    tensor, clamps = case.clamps(case.add("Gemm", inputs, alpha=alpha, beta=beta, transB=turned), span)
    out = case.out(tensor, span)
    return case.want(exact.weighted(
        x, (weight * np.float32(alpha)), bias * np.float32(beta), case.weight_bits, out, clamps, lambda v, w: v @ w.T, 1
    ))  # fmt: skip


def matmul(case: Case) -> Case:
    """A constant matrix behind activations of two to four dimensions, or before those of three, and an Add behind it."""
    case.weighted, case.narrow = True, False
    features, units = case.ints(1, 24, 1)[0], case.ints(1, 16, 1)[0]
    left = case.chance(0.4)
    shape = [1, features, case.ints(1, 9, 1)[0]] if left else [1, *case.ints(1, 6, case.ints(0, 3, 1)[0]), features]
    x = case.input(shape)
    weight = _weight(case, units, features)
    matrix = case.const(weight if left else np.ascontiguousarray(weight.T))
    span = case.span(_spread(case) * float(np.exp(case.rng.uniform(-2, 1))))
    tensor = case.add("MatMul", [matrix, "x"] if left else ["x", matrix])
    sums = (lambda v, w: w @ v) if left else (lambda v, w: v @ w.T)
    bias = np.zeros(units, np.float32)
    if not left and case.chance(0.5):
        bias = _bias(case, weight, 0.3)
        shape = case.choice([[units], [1] * (len(shape) - 1) + [units]])
        tensor = case.add("Add", [tensor, case.const(bias.reshape(shape))])
    tensor, clamps = case.clamps(tensor, span)
    out = case.out(tensor, span)
    return case.want(exact.weighted(x, weight, bias, case.weight_bits, out, clamps, sums, -2 if left else -1))


def flat_gemm(case: Case) -> Case:
    """A plane flattened into a Gemm: the order of its features is ONNX's."""
    case.weighted, case.narrow = True, False
    shape = [1, *case.ints(1, 6, 3)]
    x = case.input(shape)
    weight = _weight(case, case.ints(1, 9, 1)[0], int(np.prod(shape[1:])))
    flat = case.add("Flatten", ["x"])
    span = case.span(_spread(case))
    tensor, clamps = case.clamps(case.add("Gemm", [flat, case.const(weight)], transB=1), span)
    out = case.out(tensor, span)
    flattened = exact.Tensor(x.values.reshape(1, -1), x.q)
    zeros = np.zeros(len(weight), np.float32)
    return case.want(exact.weighted(flattened, weight, zeros, case.weight_bits, out, clamps, lambda v, w: v @ w.T, 1))


def _pooling(case: Case, rank: int, dilated: bool):
    kernel, strides = case.ints(1, 5, rank), case.ints(1, 4, rank)
    pads = [int(case.rng.integers(0, k)) for k in kernel * 2]
    least = [max(1, k - pads[i] - pads[i + rank]) for i, k in enumerate(kernel)]
    dilations = [1] * rank
    if dilated and case.chance(0.3):
        dilations, pads = case.ints(1, 3, rank), [0] * (2 * rank)
        least = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    space = [low + int(case.rng.integers(0, 6)) for low in least]
    return kernel, strides, pads, dilations, space


def max_pool(case: Case, rank: int = 2) -> Case:
    kernel, strides, pads, dilations, space = _pooling(case, rank, True)
    x = case.input([1, case.ints(1, 12, 1)[0], *space])
    tensor = case.add("MaxPool", ["x"], kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations)
    tensor, clamps = case.clamps(tensor, case.spans["x"])
    span = case.span(_spread(case)) if clamps else case.spans["x"]
    out = case.out(tensor, span, None if clamps else x.q)
    return case.want(exact.max_pool(x, kernel, strides, pads, dilations, out, clamps))


def max_pool_1d(case: Case) -> Case:
    case.narrow = False
    return max_pool(case, 1)


def average_pool(case: Case, rank: int = 2) -> Case:
    kernel, strides, pads, _, space = _pooling(case, rank, False)
    x = case.input([1, case.ints(1, 12, 1)[0], *space])
    counted = int(case.chance(0.5))
    tensor = case.add(
        "AveragePool", ["x"], kernel_shape=kernel, strides=strides, pads=pads, count_include_pad=counted
    )  # fmt: skip
    span = case.span(_spread(case))
    tensor, clamps = case.clamps(tensor, span)
    return case.want(exact.average_pool(x, kernel, strides, pads, bool(counted), case.out(tensor, span), clamps))


def average_pool_1d(case: Case) -> Case:
    case.narrow = False
    return average_pool(case, 1)


def global_average_pool(case: Case) -> Case:
    x = case.input([1, *case.ints(1, 12, 3)])
    span = case.span(_spread(case))
    tensor, clamps = case.clamps(case.add("GlobalAveragePool", ["x"]), span)
    return case.want(exact.mean(x, [2, 3], True, case.out(tensor, span), clamps))


def global_max_pool(case: Case) -> Case:
    x = case.input([1, *case.ints(1, 12, 3)])
    out = case.out(case.add("GlobalMaxPool", ["x"]), case.spans["x"], x.q)
    size = list(x.values.shape[2:])
    return case.want(exact.max_pool(x, size, [1, 1], [0] * 4, [1, 1], out))


def _reduction(case: Case):
    """Input, axes (any but the batch) and keepdims."""
    shape = [1, *case.ints(1, 9, case.choice([2, 3]))]
    count = case.ints(1, len(shape) - 1, 1)[0]
    axes = sorted(int(v) for v in case.rng.choice(range(1, len(shape)), count, replace=False))
    keep = len(shape) - len(axes) < 2 or case.chance(0.5)
    x = case.input(shape)
    case.narrow &= len(shape) == 4 and keep
    return x, axes, keep


def reduce_mean(case: Case) -> Case:
    x, axes, keep = _reduction(case)
    tensor = case.add("ReduceMean", ["x", case.const(axes, np.int64)], keepdims=int(keep))
    span = case.span(_spread(case))
    tensor, clamps = case.clamps(tensor, span)
    return case.want(exact.mean(x, axes, keep, case.out(tensor, span), clamps))


def reduce_max(case: Case) -> Case:
    """Without a clamp the input's scale and zero point stay."""
    x, axes, keep = _reduction(case)
    tensor, clamps = case.clamps(
        case.add("ReduceMax", ["x", case.const(axes, np.int64)], keepdims=int(keep)), case.spans["x"]
    )
    span = case.span(_spread(case)) if clamps else case.spans["x"]
    return case.want(exact.largest(x, axes, keep, case.out(tensor, span, None if clamps else x.q), clamps))


LAYERS: dict[str, Make] = {
    "Conv": conv, "Conv 1-D": conv_1d, "Conv with BatchNormalization": conv_batch_norm, "ConvTranspose": conv_transpose,
    "ConvTranspose 1-D": conv_transpose_1d, "Gemm": gemm, "MatMul": matmul, "Gemm of a plane": flat_gemm,
    "MaxPool": max_pool, "MaxPool 1-D": max_pool_1d, "AveragePool": average_pool, "AveragePool 1-D": average_pool_1d,
    "GlobalAveragePool": global_average_pool, "GlobalMaxPool": global_max_pool, "ReduceMean": reduce_mean,
    "ReduceMax": reduce_max,
}  # fmt: skip
