"""Sparse tensors of TFLite files."""

from __future__ import annotations

from typing import Any

import numpy as np

DENSE = 0  # format of a dimension: all of it is there; the other one lists what is


def dense(tensor: Any, values: np.ndarray) -> np.ndarray:
    """A sparse TFLite tensor as an array of its shape.

    Its dimensions are stored in the order of `TraversalOrder`; those from the rank on are blocks of the dimensions in
    `BlockMap`. Each is either dense, or lists its indices by segments as compressed sparse rows do.
    """
    sparsity, shape = tensor.Sparsity(), [int(size) for size in tensor.ShapeAsNumpy()]
    order = [int(axis) for axis in sparsity.TraversalOrderAsNumpy()]
    blocks = [int(axis) for axis in np.atleast_1d(sparsity.BlockMapAsNumpy())] if sparsity.BlockMapLength() else []
    levels = [_level(sparsity.DimMetadata(k)) for k in range(len(order))]
    # The values of each level, outermost first, are the entries of the one before, each with all of its own indices.
    places = np.zeros((1, 0), np.int64)
    positions = np.zeros(1, np.int64)
    for size, segments, indices in levels:
        if segments is None or indices is None:
            own = np.tile(np.arange(size), len(places))
            counts = np.full(len(places), size)
            positions = np.repeat(positions, counts) * size + own
        else:
            counts = np.diff(segments)[positions]
            starts = np.repeat(segments[positions], counts)
            positions = starts + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            own = indices[positions]
        places = np.concatenate([np.repeat(places, counts, axis=0), own[:, None]], axis=1)
    by_axis = {axis: places[:, k] for k, axis in enumerate(order)}
    size_of = {axis: level[0] for axis, level in zip(order, levels, strict=True)}
    if any(segments is not None for _, segments, _ in levels[len(shape) :]):
        raise ValueError("a sparse tensor has blocks that are sparse themselves")
    for k, axis in enumerate(blocks):
        by_axis[axis] = by_axis[axis] * size_of[len(shape) + k] + by_axis[len(shape) + k]
    result = np.zeros(shape, values.dtype)
    result[tuple(by_axis[axis] for axis in range(len(shape)))] = values[positions]
    return result


def _level(metadata: Any) -> tuple[int, np.ndarray | None, np.ndarray | None]:
    """One stored dimension: its size if it is dense, else segments and indices."""
    if metadata.Format() == DENSE:
        return metadata.DenseSize(), None, None
    segments = _vector(metadata.ArraySegments(), metadata.ArraySegmentsType())
    return 0, segments, _vector(metadata.ArrayIndices(), metadata.ArrayIndicesType())


def _vector(table: Any, kind: int) -> np.ndarray:
    import tflite

    reader = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}[kind]()
    reader.Init(table.Bytes, table.Pos)
    return np.atleast_1d(reader.ValuesAsNumpy()).astype(np.int64)
