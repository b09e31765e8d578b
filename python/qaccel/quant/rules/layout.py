"""How a source tensor of any rank lies in memory as NHWC, so that reshapes and transposes move nothing until they must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

Shape = tuple[int, ...]
NCHW_TO_NHWC = (0, 2, 3, 1)
NHWC_TO_NCHW = (0, 3, 1, 2)


@dataclass(frozen=True)
class Layout:
    """The source tensor, reshaped to ``view`` and transposed by ``axes``, holds the values in the order of ``nhwc``.

    ``view`` has no dimensions of size 1, and no two neighbours that stay neighbours: layouts of one tensor are equal if
    and only if its values lie in the same order. Made by ``layout`` and the functions below only.
    """

    nhwc: Shape
    view: Shape
    axes: tuple[int, ...]


def layout(shape: Shape, axes: Sequence[int], nhwc: Shape) -> Layout:
    """The layout of a tensor of ``shape`` that is transposed by ``axes`` and then reshaped to ``nhwc``."""
    kept = [axis for axis in range(len(shape)) if shape[axis] != 1]
    order = [kept.index(axis) for axis in axes if shape[axis] != 1]
    runs: list[list[int]] = []
    for axis in order:
        if runs and runs[-1][-1] + 1 == axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    ranked = sorted(range(len(runs)), key=lambda k: runs[k][0])
    view = tuple(prod(shape[kept[axis]] for axis in runs[k]) for k in ranked)
    return Layout(nhwc, view, tuple(ranked.index(k) for k in range(len(runs))))


def canonical(shape: Shape, batch: int) -> Layout | None:
    """NCHW tensors as NHWC, [N, C] as [N, 1, 1, C], anything else with its last axis as channels; None below rank 2.

    ``batch``: the network's. Where the first axis is a multiple of it (windows, time steps, states), the rest of it are rows.
    """
    if len(shape) == 4:
        n, c, h, w = shape
        samples = samples_of(shape, batch)
        return layout(shape, NCHW_TO_NHWC, (samples, n // max(samples, 1) * h, w, c))
    return channels_last(shape, batch)


def channels_last(shape: Shape, batch: int) -> Layout | None:
    """The last axis as channels, the others in their order as rows and pixels; None below rank 2. ``batch`` as above."""
    if len(shape) < 2:
        return None
    samples = samples_of(shape, batch)
    middle = shape[1:-1] if samples == shape[0] else (shape[0] // samples, *shape[1:-1])
    rows = middle[0] if len(middle) > 1 else 1
    return layout(shape, range(len(shape)), (samples, rows, prod(middle) // max(rows, 1), shape[-1]))


def samples_of(shape: Shape, batch: int) -> int:
    """How many samples a tensor counts as: the network's batch where its first axis is made of it, else the whole axis."""
    return batch if batch and shape[0] % batch == 0 else shape[0]


def with_channels(held: Layout, shape: Shape, channels: int) -> Layout | None:
    """The layout of a tensor of ``shape``, held as ``held``, after its last axis was replaced by one of ``channels``.

    None where the last axis is not what lies as channels: then its values must move before a product.
    """
    fine = _refined(shape, held.view)
    if fine is None or held.nhwc[3] != shape[-1]:
        return None
    parts, of_shape, of_view = fine
    order = [part for axis in held.axes for part in of_view[axis]]
    last = of_shape[-1]
    if order[len(order) - len(last) :] != last:
        return None
    kept = [part for part in range(len(parts)) if part not in last]
    sizes = (*(parts[part] for part in kept), channels)
    turned = [kept.index(part) for part in order if part not in last]
    return layout(sizes, [*turned, len(kept)], (*held.nhwc[:3], channels))


def in_place(held: Layout, wanted: Layout, planes: int) -> Layout:
    """``held`` if its values lie in the order of ``wanted`` with as many channels, so that none has to move; else ``wanted``.

    Its rows must divide into the planes of a sample.
    """
    same = (held.view, held.axes) == (wanted.view, wanted.axes) and held.nhwc[1] % planes == 0
    return held if same and (held.nhwc[0], held.nhwc[3]) == (wanted.nhwc[0], wanted.nhwc[3]) else wanted


def transposed(before: Layout, shape: Shape, turn: Sequence[int]) -> Layout | None:
    """The layout of ``source.transpose(turn)`` for a source of ``shape`` laid out as ``before``; the values stay.

    None where an axis of the source and one of the view overlap in part: then no order of axes says it.
    """
    fine = _refined(shape, before.view)
    if fine is None:
        return None
    parts, of_shape, of_view = fine
    order = [part for axis in before.axes for part in of_view[axis]]
    new = [part for axis in turn for part in of_shape[axis]]
    return layout(tuple(parts[part] for part in new), [new.index(part) for part in order], before.nhwc)


def order_of(held: Layout, shape: Shape) -> tuple[int, ...] | None:
    """The axes by which a tensor of ``shape`` is transposed to lie as ``held``; None where it needs finer axes.

    Axes of size 1 come first, so that a batch of one stays in front.
    """
    fine = _refined(shape, held.view)
    if fine is None:
        return None
    parts, of_shape, of_view = fine
    if any(len(group) > 1 for group in of_shape):
        merged = _merged_order(held, of_shape, of_view)
        if merged is None:
            return None
        order = merged
    else:
        home = {group[0]: axis for axis, group in enumerate(of_shape) if group}
        order = [home[part] for axis in held.axes for part in of_view[axis]]
    return (*(axis for axis, size in enumerate(shape) if size == 1), *order)


def outer(held: Layout) -> Shape:
    """The view with the batch in front, where it is 1 as well."""
    return held.view if held.nhwc[0] != 1 else (1, *held.view)


def offsets(held: Layout, shape: Shape) -> np.ndarray:
    """int64 array of ``shape``: where each element of the source lies among the values in NHWC order."""
    count = prod(held.nhwc)
    dims = [held.view[axis] for axis in held.axes]
    back = tuple(held.axes.index(axis) for axis in range(len(held.axes)))
    return np.arange(count, dtype=np.int64).reshape(dims).transpose(back).reshape(shape)


def arranged(values: np.ndarray, held: Layout) -> np.ndarray:
    """An array of the source's shape in the layout's NHWC order and shape."""
    return values.reshape(held.view).transpose(held.axes).reshape(held.nhwc)


def _refined(shape: Shape, view: Shape) -> tuple[Shape, list[list[int]], list[list[int]]] | None:
    """Finest axes that both shapes are made of, and which of them each axis of ``shape`` and of ``view`` covers."""
    cuts = sorted({prod(s[k:]) for s in (shape, view) for k in range(len(s) + 1)}, reverse=True)
    parts = []
    for outer, inner in zip(cuts, cuts[1:], strict=False):
        if inner == 0 or outer % inner:
            return None
        parts.append(outer // inner)

    def groups(sizes: Shape) -> list[list[int]]:
        found = []
        for k in range(len(sizes)):
            outer, inner = prod(sizes[k:]), prod(sizes[k + 1 :])
            found.append([i for i, cut in enumerate(cuts[:-1]) if inner < cut <= outer])
        return found

    return tuple(parts), groups(shape), groups(view)


def _merged_order(held: Layout, of_shape: list[list[int]], of_view: list[list[int]]) -> list[int] | None:
    """Order of the source's axes where some of them are finer in the view but stay together."""
    order = [part for axis in held.axes for part in of_view[axis]]
    result: list[int] = []
    position = 0
    while position < len(order):
        axis = next(k for k, group in enumerate(of_shape) if order[position] in group)
        if order[position : position + len(of_shape[axis])] != of_shape[axis]:
            return None
        result.append(axis)
        position += len(of_shape[axis])
    return result
