"""Transpositions of float tensors, in blocks that vector registers hold."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from ..host import Host
from ..integer.border import matrices_of, transposed
from ..integer.loops import function


def transposition(shape: tuple[int, ...], axes: Sequence[int], host: Host) -> tirx.PrimFunc | None:
    """A float32 tensor with its axes in another order; None unless that transposes matrices."""
    matrices = matrices_of(tuple(axes), shape)
    if matrices is None:
        return None
    made = tuple(shape[axis] for axis in axes)
    return function(
        [(shape, "float32")],
        [],
        (made, "float32"),
        lambda x, out: transposed(host.lanes, matrices, x, out, most=host.lanes),
    )
