"""Running one accelerator program outside a TVM module: for the profile, and for golden outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CompilerFault, UserError
from ..machine.artefact import Artefact
from ..machine.simulator import simulate


@dataclass(frozen=True)
class ProgramRun:
    """DRAM contents of each output slot in order, and the simulator's counters."""

    outputs: tuple[bytes, ...]
    counters: dict[str, Any]

    def __repr__(self) -> str:
        return f"<ProgramRun: {self.counters['instructions']:,} instructions, {len(self.outputs)} outputs>"


def run_program(
    artefact: Artefact, inputs: Sequence[bytes], mode: str = "functional", trace: bool = False
) -> ProgramRun:
    """One sample through a program; ``inputs`` are the DRAM contents of the input slots.

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
            program_addr=artefact.program_addr, layers=artefact.layers, trace=trace,
        )  # fmt: skip
    except UserError as error:
        raise CompilerFault(f"the simulator refuses a program that was just compiled: {error}") from error
    outputs = tuple(dram[slot.dram_addr : slot.dram_addr + slot.dram_bytes].tobytes() for slot in artefact.outputs)
    return ProgramRun(outputs, counters)


def profile(artefact: Artefact, trace: bool = True) -> dict[str, Any]:
    """Cycles and traffic of one sample, with the trace. They depend on no value, so the inputs are zeros."""
    return run_program(artefact, [bytes(slot.dram_bytes) for slot in artefact.inputs], "cycle", trace=trace).counters
