"""Which instructions touched the bytes of an access last: what orders a program's instructions, and what proves that they are.

Marks stand for instructions: 0 for none, INITIAL for what memory holds before the program, FIRST + i for instruction i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm_ffi

from ..errors import CompilerFault
from ..machine.native import machine_error, native_function
from .access import Access

NEVER, INITIAL, FIRST = 0, 1, 2
MEMORIES = ("sram", "weights", "dram")
_MEMORY_NUMBER = {name: number for number, name in enumerate(MEMORIES)}

Box = tuple[int, int, int, int, int, int, int, int, int, int, int]  # the fields of TouchedBox in target/src/touches.h


@dataclass(frozen=True, eq=False)
class LastTouches:
    """By access, in the order in which they were given; marks are int64.

    ``writers`` of all accesses one after the other, ``access_of`` the access of each: the different last writers of its bytes,
    ascending. ``readers`` [accesses, engines]: of a write, the latest of the last readers of its bytes by each engine; else 0.
    """

    access_of: np.ndarray
    writers: np.ndarray
    readers: np.ndarray


def box_of(access: Access, mark: int, engine: int, in_place: bool = False) -> Box:
    """An access of the instruction with that mark; ``in_place``: its own instruction may write over what it reads."""
    return (
        mark, engine, _MEMORY_NUMBER[access.memory], access.write, in_place, access.start,
        access.rows, access.row_stride, access.pixels, access.pixel_stride, access.run_bytes,
    )  # fmt: skip


def last_touches(boxes: Sequence[Box], sizes_bytes: Sequence[int], engines: int, granule_bytes: int = 1) -> LastTouches:
    """Follow accesses in program order through memories of these sizes, in the order of MEMORIES.

    An instruction's own reads come before its writes. Bytes are told apart in granules of ``granule_bytes``, a power
    of two. Raises CompilerFault for an access outside of its memory.
    """
    table = np.array(boxes, np.int64).reshape(-1)
    sizes = np.array(sizes_bytes, np.int64)
    arrays = tvm_ffi.from_dlpack(table), tvm_ffi.from_dlpack(sizes)
    try:
        found = native_function("qaccel_last_touches")(*arrays, engines, granule_bytes)
    except RuntimeError as error:
        raise CompilerFault(str(machine_error(error))) from None
    ends, writers, readers = (
        np.frombuffer(bytes(data), kind) for data, kind in zip(found, (np.int64, np.int32, np.int32), strict=True)
    )
    access_of = np.repeat(np.arange(len(boxes)), np.diff(ends, prepend=0))
    return LastTouches(access_of, writers.astype(np.int64), readers.reshape(-1, engines).astype(np.int64))
