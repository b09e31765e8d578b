"""The C++ simulator from Python: programs on DRAM images, and runtime modules of artefacts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm_ffi

from ..errors import CompilerFault
from .hw import HwConfig
from .native import machine_error, native_function


def simulate(
    hw: HwConfig,
    program: bytes,
    dram: np.ndarray,
    *,
    mode: str = "functional",
    initialised: Sequence[tuple[int, int]] = (),
    read_only: Sequence[tuple[int, int]] = (),
    program_addr: int = 0,
    layers: Sequence[str] = (),
    trace: bool = False,
    snapshots: Sequence[tuple[int, int, int]] = (),
) -> dict[str, Any]:
    """Run a program on a DRAM image, uint8 [bytes], changed in place.

    ``mode`` is "functional" or "cycle"; ``initialised`` and ``read_only`` are (begin, end) byte ranges of DRAM. Gives the
    counters: ``instructions``, ``macs``, ``dram_bytes``, ``peak_sram_bytes``, ``layers``; in cycle mode also ``cycles``,
    the layers' ``cycles`` and ``stalls`` and, if asked, ``trace``. ``snapshots``: (instruction, SRAM address, bytes), in functional
    mode: what lies there once that instruction has run, as a list of bytes in ``snapshots``. Raises UserError with the machine's
    error, which names instruction and layer.
    """
    options = {
        "mode": mode,
        "initialised": [list(map(int, pair)) for pair in initialised],
        "read_only": [list(map(int, pair)) for pair in read_only],
        "program_addr": int(program_addr),
        "layers": list(layers),
        "trace": int(trace),
        "snapshots": [list(map(int, each)) for each in snapshots],
    }
    if dram.dtype != np.uint8 or dram.ndim != 1 or not (dram.flags.c_contiguous and dram.flags.writeable):
        raise CompilerFault(
            f"DRAM image is {dram.dtype} {list(dram.shape)}, must be a contiguous, writeable uint8 vector"
        )
    sizes = [size for _, _, size in snapshots]
    kept = np.zeros(sum(sizes), np.uint8)
    try:
        text = native_function("qaccel_simulate")(
            json.dumps(hw.to_dict()), program, tvm_ffi.from_dlpack(dram), json.dumps(options), tvm_ffi.from_dlpack(kept)
        )
    except RuntimeError as error:
        raise machine_error(error) from None
    counters: dict[str, Any] = json.loads(str(text))
    if snapshots:
        ends = np.cumsum(sizes)
        counters["snapshots"] = [kept[end - size : end].tobytes() for size, end in zip(sizes, ends, strict=True)]
    return counters


def create_module(artefact: bytes) -> Any:
    """The runtime module of an ``artefact.Artefact`` as bytes. Raises UserError if it is damaged or of another version."""
    try:
        return native_function("qaccel_module_create")(artefact)
    except RuntimeError as error:
        raise machine_error(error) from None
