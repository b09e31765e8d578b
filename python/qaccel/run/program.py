"""Running one accelerator program outside a TVM module: for the profile, and for golden outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dialect.operators import carrier
from ..errors import CompilerFault, UserError
from ..machine.artefact import Artefact, channel_bytes
from ..machine.simulator import simulate
from ..machine.streams import unpack


@dataclass(frozen=True)
class ProgramRun:
    """DRAM contents of each output slot in order, and the simulator's counters.

    ``dram``: all of DRAM after the run, uint8; ``snapshots``: what was asked of SRAM, in order.
    """

    outputs: tuple[bytes, ...]
    counters: dict[str, Any]
    dram: np.ndarray
    snapshots: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"<ProgramRun: {self.counters['instructions']:,} instructions, {len(self.outputs)} outputs>"


def run_program(
    artefact: Artefact, inputs: Sequence[bytes], mode: str = "functional", trace: bool = False,
    snapshots: Sequence[tuple[int, int, int]] = (),
) -> ProgramRun:  # fmt: skip
    """One sample through a program; ``inputs`` are the DRAM contents of the input slots, ``snapshots`` as `simulate`.

    Raises CompilerFault with the machine's error: only programs that were just compiled run here.
    """
    dram = np.zeros(artefact.dram_bytes, np.uint8)
    read_only = []
    for addr, data in ((artefact.constants_addr, artefact.constants), (artefact.program_addr, artefact.program)):
        dram[addr : addr + len(data)] = np.frombuffer(data, np.uint8)
        read_only.append((addr, addr + len(data)))
    defined = list(read_only)
    for slot, data in zip(artefact.inputs, inputs, strict=True):
        dram[slot.dram_addr : slot.dram_addr + len(data)] = np.frombuffer(data, np.uint8)
        defined.append((slot.dram_addr, slot.dram_addr + len(data)))
    try:
        counters = simulate(
            artefact.hw, artefact.program, dram, mode=mode, initialised=defined, read_only=read_only,
            program_addr=artefact.program_addr, layers=artefact.layers, trace=trace, snapshots=snapshots,
        )  # fmt: skip
    except UserError as error:
        raise CompilerFault(f"the simulator refuses a program that was just compiled: {error}") from error
    outputs = tuple(dram[slot.dram_addr : slot.dram_addr + slot.dram_bytes].tobytes() for slot in artefact.outputs)
    return ProgramRun(outputs, counters, dram, tuple(counters.pop("snapshots", ())))


def unpacked(data: bytes | np.ndarray, shape: tuple[int, int, int], bits: int) -> np.ndarray:
    """The bytes of a map as integers [h, w, c] in their carrier."""
    height, width, channels = shape
    per_pixel = channel_bytes(channels, bits) * 8 // bits
    values = unpack(bytes(data), height * width * per_pixel, bits).reshape(height, width, per_pixel)
    return values[..., :channels].astype(carrier(bits))


def profile(artefact: Artefact, trace: bool = True) -> dict[str, Any]:
    """Cycles and traffic of one sample, with the trace. They depend on no value, so the inputs are zeros."""
    return run_program(artefact, [bytes(slot.dram_bytes) for slot in artefact.inputs], "cycle", trace=trace).counters
