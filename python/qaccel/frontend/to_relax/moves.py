"""Converters of ONNX operators that move data to Relax: Slice, Pad, Gather, Tile, Expand, Resize."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ...errors import UserError
from ..passes.expand.moves import by_tvm, pad_amounts, slice_bounds
from ..passes.expand.resampling import resampling
from .node import Converter, Node, const

op = relax.op


def _slice(node: Node) -> relax.Expr | None:
    """Slice with constant bounds and positive steps -> strided_slice."""
    bounds = slice_bounds(node.proto, node.graph)
    if bounds is None or any(step < 1 for _, _, step in bounds.values()) or 0 in node.out_shape:
        return None
    if not bounds:
        return node.args[0]
    starts, ends, steps = (list(part) for part in zip(*bounds.values(), strict=True))
    return op.strided_slice(node.args[0], list(bounds), starts, ends, steps)


def _pad(node: Node) -> relax.Expr | None:
    """Pad with a constant and no negative amounts -> nn.pad."""
    found = pad_amounts(node.proto, node.graph)
    if found is None or node.attr("mode", "constant") != "constant" or min(*found[0], *found[1], 0) < 0:
        return None
    before, after, value = found
    widths = [cells for pair in zip(before, after, strict=True) for cells in pair]
    return op.nn.pad(node.args[0], widths, "constant", float(value))


def _gather(node: Node) -> relax.Expr | None:
    """Gather -> take. Constant indices are checked and taken as a list [and reshaped], computed ones count from the start."""
    indices, shape = node.value(1), node.shape()
    if 0 in node.out_shape or not shape or shape[int(node.attrs().get("axis", 0))] == 0:
        return None
    axis = int(node.attrs().get("axis", 0)) % len(shape)
    size = shape[axis]
    if indices is None:
        return _gather_computed(node, axis, size)
    if node.value(0) is not None:
        return None
    if indices.size and not -size <= int(indices.min()) <= int(indices.max()) < size:
        raise UserError(
            f"node '{node.proto.name}': Gather has index {int(indices[(indices < -size) | (indices >= size)][0])} on axis "
            f"{axis} of size {size}; indices must lie in {-size}..{size - 1}: mend the model"
        )
    positive = const(np.asarray(indices % size, np.int64).reshape(-1))
    taken = op.take(node.args[0], positive, axis=axis, mode="clip")  # "fast" warns its user
    return taken if indices.ndim == 1 else op.reshape(node.emit(taken), node.out_shape)


def _gather_computed(node: Node, axis: int, size: int) -> relax.Expr:
    data, given = node.args[0], node.args[1]
    assert given is not None
    return op.take(data, _from_start(node, given, size), axis=axis, mode="clip")


def _from_start(node: Node, indices: relax.Expr, size: int) -> relax.Expr:
    """Indices of which negative ones count from the end of an axis of that size."""
    kind = np.dtype(str(indices.ty.dtype))
    below = node.emit(op.less(indices, const(np.zeros((), kind))))
    raised = node.emit(op.add(indices, const(np.asarray(size, kind))))
    return node.emit(op.where(below, raised, indices))


def _one_hot(node: Node) -> relax.Expr | None:
    """OneHot of constant depth and values -> a comparison with 0, 1, ... and a choice."""
    depth, values, indices = node.value(1), node.value(2), node.args[0]
    if depth is None or values is None or indices is None or not node.shape():
        return None
    rank, size = len(node.out_shape), int(depth.reshape(-1)[0])
    axis = int(node.attrs().get("axis", -1)) % rank
    places = np.arange(size).astype(str(indices.ty.dtype)).reshape([-1 if k == axis else 1 for k in range(rank)])
    wide = node.emit(op.expand_dims(_from_start(node, indices, size), axis))
    hot = node.emit(op.equal(wide, const(places)))
    return op.where(hot, const(values[1:2].reshape(())), const(values[:1].reshape(())))


def _tile(node: Node) -> relax.Expr | None:
    """Tile by what its static shapes say, constant repeats or not."""
    shape, out = node.shape(), node.out_shape
    if 0 in shape or len(shape) != len(out):
        return None
    return op.tile(node.args[0], [wide // narrow for narrow, wide in zip(shape, out, strict=True)])


def _expand(node: Node) -> relax.Expr | None:
    """Expand to its static shape -> broadcast_to."""
    return op.broadcast_to(node.args[0], node.out_shape)


def _resize(node: Node) -> relax.Expr | None:
    """Linear and cubic Resize of a plane -> image.resize2d."""
    how = resampling(node.proto, node.graph)
    if how is None or not by_tvm(how) or node.out_dtype != "float32":
        return None
    return op.image.resize2d(
        node.args[0], tuple(how.sizes_out[2:]), roi=(0.0, 0.0, 0.0, 0.0), layout="NCHW", method=how.mode,
        coordinate_transformation_mode=how.coordinates, rounding_method="", cubic_alpha=how.cubic_coefficient,
        cubic_exclude=int(how.exclude_outside), extrapolation_value=how.extrapolation_value,
    )  # fmt: skip


MOVES: dict[str, Converter] = {
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
    "OneHot": _one_hot,
    "Tile": _tile,
    "Expand": _expand,
    "Resize": _resize,
    "Upsample": _resize,
}
