"""What becomes of an operator of one tensor when a Transpose is moved from its input to its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ...graph import attrs_of

# Element-wise operators of one operand (with attributes or constant operands only) that commute with any Transpose.
UNARY = {
    "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "HardSigmoid", "HardSwish", "Softplus", "Softsign",
    "Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Erf", "Sign", "Gelu", "Mish", "Celu",
    "Swish", "ThresholdedRelu", "Sin", "Cos", "Cast", "Not", "Identity", "Rounded",
}  # fmt: skip
BINARY = {"Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "PRelu"}
ELEMENTWISE = UNARY | BINARY
CONCAT = {"Concat"}
REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin",
)  # fmt: skip
ONE_OPERAND = (*REDUCTIONS, "Pad", "Slice", "Gather", "Softmax", "LogSoftmax", "Resize", "Upsample", "Tile")


@dataclass(frozen=True)
class Turned:
    """The operator on the tensor before the Transpose: its constant operands, its attributes, the Transpose behind it."""

    operands: tuple[np.ndarray | None, ...]
    attrs: dict[str, Any]
    perm: list[int]


def turned(node: onnx.NodeProto, perm: list[int], values: Sequence[np.ndarray | None], opset: int) -> Turned | None:
    """`node` reads a Transpose by `perm`; `values` are its operands where constant. None if the two do not commute."""
    op, attrs, rank = node.op_type, attrs_of(node), len(perm)
    constants = tuple(values[1:])
    if op in ("ArgMax", "ArgMin"):
        axis = attrs.get("axis", 0) % rank
        rest = perm if attrs.get("keepdims", 1) else _without(perm, {axis})
        return Turned(constants, {"axis": perm[axis]}, rest)
    if op in REDUCTIONS:
        return _reduction(attrs, constants, perm, opset)
    if op in ("Softmax", "LogSoftmax"):
        axis = attrs.get("axis", -1 if opset >= 13 else 1) % rank
        old = opset < 13 and (axis != rank - 1 or perm[axis] != rank - 1)
        return None if old else Turned(constants, {"axis": perm[axis]}, perm)
    if op == "Gather":
        index = constants[0] if constants else None
        axis = attrs.get("axis", 0) % rank
        return Turned(constants, {"axis": perm[axis]}, perm) if index is not None and index.ndim == 1 else None
    if op == "Tile":
        repeats = constants[0] if constants else None
        return None if repeats is None else Turned((_by_axis(repeats, perm),), {}, perm)
    if op == "Slice":
        return _slice(attrs, constants, perm)
    if op == "Pad":
        return _pad(attrs, constants, perm)
    return _resize(attrs, constants, perm)


def _by_axis(values: Any, perm: list[int]) -> np.ndarray:
    """One value per axis after the Transpose as one per axis before it."""
    old = np.asarray(values)
    new = old.copy()
    new[perm] = old
    return new


def _without(perm: list[int], axes: set[int]) -> list[int]:
    """The Transpose between tensors that have lost the axes (counted after the Transpose)."""
    kept = [p for k, p in enumerate(perm) if k not in axes]
    order = sorted(kept)
    return [order.index(p) for p in kept]


def _reduction(
    attrs: dict[str, Any], constants: tuple[np.ndarray | None, ...], perm: list[int], opset: int
) -> Turned | None:
    given = constants[0] if constants else None
    axes = given.reshape(-1).tolist() if given is not None else list(attrs.get("axes", []))
    if not axes and attrs.get("noop_with_empty_axes"):
        return Turned(constants, {}, perm)
    after = {a % len(perm) for a in axes} or set(range(len(perm)))
    rest = perm if attrs.get("keepdims", 1) else _without(perm, after)
    if not axes:
        return Turned(constants, {}, rest)
    before = sorted(perm[a] for a in after)
    if given is not None:
        return Turned((np.asarray(before, np.int64), *constants[1:]), {}, rest)
    return Turned(constants, {"axes": before}, rest)


def _slice(attrs: dict[str, Any], constants: tuple[np.ndarray | None, ...], perm: list[int]) -> Turned:
    if not constants:
        axes = [perm[a] for a in attrs.get("axes", range(len(attrs["starts"])))]
        return Turned((), {"axes": axes}, perm)
    starts = constants[0]
    axes_given = constants[2] if len(constants) > 2 else None
    count = 0 if starts is None else starts.size
    axes = [perm[int(a)] for a in (range(count) if axes_given is None else axes_given.reshape(-1))]
    return Turned((*constants[:2], np.asarray(axes, np.int64), *constants[3:]), {}, perm)


def _pad(attrs: dict[str, Any], constants: tuple[np.ndarray | None, ...], perm: list[int]) -> Turned | None:
    rank = len(perm)
    if "pads" in attrs:
        before, after = attrs["pads"][:rank], attrs["pads"][rank:]
        return Turned((), {"pads": [*_by_axis(before, perm).tolist(), *_by_axis(after, perm).tolist()]}, perm)
    amounts = constants[0] if constants else None
    if amounts is None:
        return None
    if len(constants) > 2 and constants[2] is not None:
        axes = np.asarray([perm[int(a)] for a in constants[2].reshape(-1)], np.int64)
        return Turned((amounts, constants[1], axes), {}, perm)
    pads = np.concatenate([_by_axis(amounts[:rank], perm), _by_axis(amounts[rank:], perm)])
    return Turned((pads, *constants[1:]), {}, perm)


def _resize(attrs: dict[str, Any], constants: tuple[np.ndarray | None, ...], perm: list[int]) -> Turned | None:
    """Resize and Upsample: the operands roi, scales and sizes have one entry, or two, per axis.

    Linear and cubic resizing has to end up on the last two axes, the only place where it can be computed.
    """
    plane = {len(perm) - 2, len(perm) - 1}
    if attrs.get("mode", "nearest") not in ("nearest", b"nearest"):
        scales = constants[-2] if len(constants) > 1 and constants[-1] is None else constants[-1] if constants else None
        if scales is not None and scales.dtype.kind == "f" and scales.size == len(perm):
            if not {perm[a] for a, scale in enumerate(scales.reshape(-1)) if scale != 1} <= plane:
                return None
        elif plane not in ({perm[-2], perm[-1]}, {perm[-3], perm[-2]}):
            return None
    if "axes" in attrs:
        return Turned(constants, {"axes": [perm[a] for a in attrs["axes"]]}, perm)
    rank = len(perm)
    new: list[np.ndarray | None] = []
    for value in constants:
        if value is None or value.size == 0:
            new.append(value)
        elif value.size == rank:
            new.append(_by_axis(value.reshape(-1), perm))
        elif value.size == 2 * rank:
            new.append(np.concatenate([_by_axis(value[:rank], perm), _by_axis(value[rank:], perm)]))
        else:
            return None
    extra = {"scales": _by_axis(attrs["scales"], perm).tolist()} if "scales" in attrs else {}
    return Turned(tuple(new), extra, perm)
