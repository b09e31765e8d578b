"""Cases of operators that only put values elsewhere, and of linear resizing."""

from __future__ import annotations

import numpy as np

from operators import exact
from operators.cases import Case, Make, fill_value
from operators.exact import Tensor


def _entered(case: Case, shape: list[int]) -> tuple[str, Tensor]:
    """A tensor that is integers already: an input behind a Relu, or the input itself."""
    x = case.input(shape)
    if case.chance(0.5):
        return "x", x
    return _behind_relu(case, x)


def _behind_relu(case: Case, x: Tensor) -> tuple[str, Tensor]:
    span = (0.0, max(case.spans["x"][1], -case.spans["x"][0]) * float(case.rng.uniform(0.5, 1.2)))
    case.spans["entered"] = span
    q = exact.quantization(span, case.activation_bits)
    return case.add("Relu", ["x"], "entered"), exact.copy(x, q, [(0.0, float("inf"))]).tensor


def _kept(case: Case, tensor: str, x: Tensor) -> Case:
    """The result of a move that leaves the integers as they are."""
    case.out(tensor, list(case.spans.values())[-1], x.q)
    return case.want(exact.moved(case.codes(tensor), [x], x.q))


def _planes(case: Case, most: int = 8) -> list[int]:
    return [1, *case.ints(1, most, 3)]


def _like_spans(case: Case, count: int) -> list[tuple[float, float]]:
    """Ranges none of which is under a quarter of all of them together."""
    reach = float(np.exp(case.rng.uniform(-3, 3)))
    while True:
        spans = [case.span(reach) for _ in range(count)]
        lows, highs = zip(*spans, strict=True)
        if min(hi - lo for lo, hi in spans) >= (max(highs) - min(lows)) / 4:
            return spans


def concat(case: Case) -> Case:
    """Two or three tensors of one scale or of several like ones, along any axis; unlike ones are joined on the CPU."""
    rank = case.choice([4, 4, 3, 2])
    case.narrow &= rank == 4
    shape = [1, *case.ints(1, 7, rank - 1)]
    axis = case.ints(1, rank, 1)[0]
    same = case.chance(0.3)
    tensors, names = [], ["x", "y", "z"][: case.ints(2, 4, 1)[0]]
    spans = _like_spans(case, 1 if same else len(names)) * (len(names) if same else 1)
    for name, span in zip(names, spans, strict=True):
        size = [int(case.rng.integers(1, 6)) if k == axis else s for k, s in enumerate(shape)]
        tensors.append(case.input(size, span, name=name))
    tensor = case.add("Concat", names, axis=axis)
    span = case.span(max(abs(v) for n in names for v in case.spans[n]) * float(case.rng.uniform(0.5, 1.2)))
    equal = all(t.q == tensors[0].q for t in tensors)
    out = case.out(tensor, span, tensors[0].q if equal else None)
    return case.want(exact.moved(case.codes(tensor), tensors, out))


def pad(case: Case) -> Case:
    name, x = _entered(case, _planes(case))
    mode = case.choice(["constant", "constant", "edge", "reflect"])
    amounts = [0 if k % 4 == 0 else int(v) for k, v in enumerate(case.rng.integers(0, 3, 8))]
    inputs = [name, case.const(amounts, np.int64)]
    if mode == "reflect":
        for k in range(8):
            amounts[k] = min(amounts[k], x.values.shape[k % 4] - 1)
        inputs[1] = case.const(amounts, np.int64)
    if mode != "constant":
        return _kept(case, case.add("Pad", inputs, mode=mode), x)
    span = list(case.spans.values())[-1]
    inside = case.chance(0.6)
    value = 0.0 if case.chance(0.3) else fill_value(case, span, inside)
    tensor = case.add("Pad", [*inputs, case.const(value)])
    if inside or value == 0 or not any(amounts):
        return _kept(case, tensor, x)
    wide = (span[0], span[1] + abs(value))
    case.out(tensor, wide)
    out = exact.quantization(wide, case.activation_bits)  # one operand: what it makes has its width
    return case.want(exact.moved(case.codes(tensor), [x], out))


def slices(case: Case) -> Case:
    """Any begins, ends and steps, backwards as well, along one or two axes."""
    shape = [1, *case.ints(2, 9, case.choice([3, 3, 2]))]
    name, x = _entered(case, shape)
    case.narrow &= len(shape) == 4
    axes = sorted(int(v) for v in case.rng.choice(range(1, len(shape)), case.ints(1, 3, 1)[0], replace=False))
    begins, ends, steps = [], [], []
    for axis in axes:
        begin, end = sorted(int(v) for v in case.rng.choice(shape[axis] + 1, 2, replace=False))
        step = case.choice([1, 1, 2, 3])
        if case.chance(0.2):
            begin, end, step = end - 1, begin - 1 - shape[axis], -step
        begins.append(begin)
        ends.append(end)
        steps.append(step)
    constants = [case.const(v, np.int64) for v in (begins, ends, axes, steps)]
    return _kept(case, case.add("Slice", [name, *constants]), x)


def split(case: Case) -> Case:
    """Into two or three unequal parts, each an output."""
    name, x = _entered(case, [1, *case.ints(3, 9, 3)])
    case.narrow = False
    axis, count = case.ints(1, 4, 1)[0], case.ints(2, 4, 1)[0]
    size = x.values.shape[axis]
    cuts = sorted(int(v) for v in case.rng.choice(range(1, size), count - 1, replace=False))
    sizes = np.diff([0, *cuts, size])
    parts = [f"part{k}" for k in range(count)]
    case.add("Split", [name, case.const(sizes, np.int64)], parts[0], axis=axis)
    case.nodes[-1].output.extend(parts[1:])
    for part in parts:
        case.out(part, list(case.spans.values())[-1], x.q)
    return case.want(*(exact.moved(case.codes(part), [x], x.q) for part in parts))


def gather(case: Case) -> Case:
    name, x = _entered(case, _planes(case))
    axis = case.ints(1, 4, 1)[0]
    size = x.values.shape[axis]
    index = case.rng.integers(-size, size, case.ints(1, 9, 1)[0])
    return _kept(case, case.add("Gather", [name, case.const(index, np.int64)], axis=axis), x)


def nearest(case: Case) -> Case:
    """Any factors up and down, in the coordinates that exporters use."""
    name, x = _entered(case, _planes(case))
    mode, rounding = case.choice(
        [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("pytorch_half_pixel", "floor"), ("align_corners", "round_prefer_ceil")]
    )  # fmt: skip
    sizes = [1, x.values.shape[1], *case.ints(1, 17, 2)]
    inputs = [name, "", "", case.const(sizes, np.int64)]
    tensor = case.add(
        "Resize", inputs, mode="nearest", coordinate_transformation_mode=mode, nearest_mode=rounding
    )  # fmt: skip
    return _kept(case, tensor, x)


def linear(case: Case) -> Case:
    """Whole factors, half_pixel or asymmetric, each phase an exact fraction."""
    x = case.input(_planes(case))
    factors, half = case.ints(1, 5, 2), case.chance(0.6)
    if factors == [1, 1]:
        factors = [2, 2]
    tensor = case.add(
        "Resize", ["x", "", case.const([1, 1, *factors])], mode="linear",
        coordinate_transformation_mode="half_pixel" if half else "asymmetric",
    )  # fmt: skip
    span = case.span(max(abs(v) for v in case.spans["x"]))
    return case.want(exact.linear_resize(x, factors, half, case.out(tensor, span)))


def _renamed(case: Case, shape: list[int]) -> tuple[str, Tensor]:
    """What a Reshape or Transpose is tried on: integers that an operator made, at the width that the output has."""
    x = case.input(shape)
    if not case.narrow:
        bits, case.activation_bits = case.activation_bits, max(case.activation_bits, 8)
        name, made = _behind_relu(case, x)
        case.activation_bits = bits
        return name, made
    return _behind_relu(case, x)


def depth_to_space(case: Case) -> Case:
    block = case.choice([2, 2, 3])
    name, x = _renamed(case, [1, block * block * case.ints(1, 5, 1)[0], *case.ints(1, 6, 2)])
    mode = case.choice(["DCR", "CRD"])
    return _kept(case, case.add("DepthToSpace", [name], blocksize=block, mode=mode), x)


def space_to_depth(case: Case) -> Case:
    block = case.choice([2, 2, 3])
    name, x = _renamed(case, [1, case.ints(1, 6, 1)[0], *(block * v for v in case.ints(1, 5, 2))])
    return _kept(case, case.add("SpaceToDepth", [name], blocksize=block), x)


def shuffle(case: Case) -> Case:
    """Channels of groups dealt out, as ShuffleNet has it."""
    groups, per, h, w = case.ints(2, 5, 1)[0], *case.ints(1, 5, 1), *case.ints(1, 7, 2)
    name, x = _renamed(case, [1, groups * per, h, w])
    first = case.add("Reshape", [name, case.const([1, groups, per, h, w], np.int64)])
    turned = case.add("Transpose", [first], perm=[0, 2, 1, 3, 4])
    return _kept(case, case.add("Reshape", [turned, case.const([1, groups * per, h, w], np.int64)]), x)


def transpose(case: Case) -> Case:
    shape = [1, *case.ints(1, 8, case.choice([2, 3, 3]))]
    case.narrow &= len(shape) == 4
    name, x = _renamed(case, shape)
    turn = [0, *(int(v) for v in case.rng.permutation(range(1, len(shape))))]
    return _kept(case, case.add("Transpose", [name], perm=turn), x)


def reshape(case: Case) -> Case:
    """Reshape, Flatten, Squeeze or Unsqueeze, and a Transpose behind it that a Pad turns into a move."""
    shape = [1, *(2 * v for v in case.ints(1, 4, 3))]
    kind = case.choice(["Reshape", "Flatten", "Squeeze", "Unsqueeze", "moved"])
    case.narrow &= kind in ("Reshape", "moved")
    name, x = _renamed(case, shape)
    if kind == "Flatten":
        tensor = case.add("Flatten", [name])
    elif kind == "Squeeze":
        case.nodes.clear()
        case.shapes.clear()
        case.spans.clear()
        case.tensors.clear()
        name, x = _renamed(case, [1, shape[1], 1, shape[3]])
        tensor = case.add("Squeeze", [name, case.const([2], np.int64)])
    elif kind == "Unsqueeze":
        tensor = case.add("Unsqueeze", [name, case.const([1], np.int64)])
    else:
        target = [1, shape[1] * 2, shape[2] // 2, shape[3]]
        tensor = case.add("Reshape", [name, case.const(target, np.int64)])
        if kind == "moved":
            tensor = case.add("Transpose", [tensor], perm=[0, 3, 1, 2])
    return _kept(case, tensor, x)


def expand(case: Case) -> Case:
    """Expand, or Tile."""
    shape = [1, *(s if case.chance(0.5) else 1 for s in case.ints(1, 6, 3))]
    name, x = _entered(case, shape)
    if case.chance(0.5):
        target = [1, *(s if s > 1 else int(case.rng.integers(1, 5)) for s in shape[1:])]
        return _kept(case, case.add("Expand", [name, case.const(target, np.int64)]), x)
    return _kept(case, case.add("Tile", [name, case.const([1, *case.ints(1, 4, 3)], np.int64)]), x)


MOVES: dict[str, Make] = {
    "Concat": concat, "Pad": pad, "Slice": slices, "Split": split, "Gather": gather, "Resize nearest": nearest,
    "Resize linear": linear, "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth, "channel shuffle": shuffle,
    "Transpose": transpose, "Reshape, Flatten, Squeeze, Unsqueeze": reshape, "Expand, Tile": expand,
}  # fmt: skip
