"""``--emit-program``: what a hardware team replays on RTL, one folder per accelerator subgraph (`docs/program_format.md`)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import CompilerFault
from ...machine.artefact import Artefact, TensorSlot
from ...machine.isa import decode, disassemble
from ..files import write_folder
from ..program import run_program
from .accesses import accesses_files, interpreted

MEMORY_MAP, PROGRAM, ASSEMBLY, CONSTANTS = "memory_map.json", "program.bin", "program.asm", "constants.bin"
FORMAT = 1  # of the folder; raised when it changes


def write_program(folder: str | Path, artefacts: Sequence[Artefact], inputs: Mapping[str, Sequence[bytes]]) -> Path:
    """``program.bin``, ``program.asm``, ``constants.bin``, ``memory_map.json`` and golden data in ``golden/``.

    Files of several subgraphs lie in folders named by their symbols. ``inputs``: DRAM contents of the input slots by symbol
    (`golden.golden_inputs`). Golden outputs are byte for byte what DRAM holds afterwards.
    """
    files: dict[str, bytes] = {}
    for artefact in artefacts:
        prefix = f"{artefact.symbol}/" if len(artefacts) > 1 else ""
        files |= {
            prefix + name: contents for name, contents in program_files(artefact, inputs[artefact.symbol]).items()
        }
    return write_folder(folder, files, "program")


def program_files(artefact: Artefact, inputs: Sequence[bytes]) -> dict[str, bytes]:
    """The files of one subgraph by name. Raises CompilerFault where simulator and interpreter do not agree on the outputs."""
    program = decode(artefact.program)
    accesses = interpreted(artefact, inputs, len(program))
    if accesses.fault is not None:
        raise CompilerFault(f"the interpreter refuses a program that was just compiled: {accesses.fault}")
    outputs = run_program(artefact, inputs).outputs
    for slot, data in zip(artefact.outputs, outputs, strict=True):
        if accesses.dram[slot.dram_addr : slot.dram_addr + slot.dram_bytes].tobytes() != data:
            raise CompilerFault(f"simulator and interpreter do not agree on the output {slot.name}")
    return {
        PROGRAM: artefact.program,
        ASSEMBLY: disassemble(program, artefact.layers).encode(),
        CONSTANTS: artefact.constants,
        MEMORY_MAP: memory_map(artefact, inputs, outputs).encode(),
        **{_golden("input", index): data for index, data in enumerate(inputs)},
        **{_golden("output", index): data for index, data in enumerate(outputs)},
        **accesses_files(program, accesses),
    }


def _golden(kind: str, index: int) -> str:
    return f"golden/{kind}_{index}.bin"


def memory_map(artefact: Artefact, inputs: Sequence[bytes], outputs: Sequence[bytes]) -> str:
    """Where everything lies in DRAM, and the machine that the program is for, as JSON. ``crc32``: of the files that it names."""

    def slot(entry: TensorSlot, file: str, data: bytes) -> dict[str, object]:
        return {
            "name": entry.name,
            "dram_addr": entry.dram_addr,
            "dram_bytes": entry.dram_bytes,
            "shape_hwc": list(entry.shape),
            "bits": entry.bits,
            "golden": file,
            "crc32": zlib.crc32(data),
        }

    def part(file: str, addr: int, data: bytes) -> dict[str, object]:
        return {"file": file, "dram_addr": addr, "bytes": len(data), "crc32": zlib.crc32(data)}

    def slots(kind: str, entries: Sequence[TensorSlot], contents: Sequence[bytes]) -> list[dict[str, object]]:
        pairs = zip(entries, contents, strict=True)
        return [slot(entry, _golden(kind, index), data) for index, (entry, data) in enumerate(pairs)]

    return json.dumps(
        {
            "format": FORMAT,
            "symbol": artefact.symbol,
            "isa_version": artefact.isa_version,
            "hw": artefact.hw.to_dict(),
            "layers": list(artefact.layers),
            "dram_bytes": artefact.dram_bytes,
            "program": part(PROGRAM, artefact.program_addr, artefact.program),
            "constants": part(CONSTANTS, artefact.constants_addr, artefact.constants),
            "inputs": slots("input", artefact.inputs, inputs),
            "outputs": slots("output", artefact.outputs, outputs),
        },
        indent=2,
    )
