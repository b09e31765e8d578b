"""``--emit-program``: what a hardware team replays on RTL, one folder per accelerator subgraph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..machine.artefact import Artefact, TensorSlot
from ..machine.isa import decode, disassemble
from .files import write_folder
from .program import run_program


def write_program(folder: str | Path, artefacts: Sequence[Artefact], inputs: Mapping[str, Sequence[bytes]]) -> Path:
    """``program.bin``, ``program.asm``, ``constants.bin``, ``memory_map.json`` and golden inputs and outputs.

    Files of several subgraphs lie in folders named by their symbols. ``inputs``: DRAM contents of the input slots by symbol
    (`golden.golden_inputs`). Golden outputs are the functional mode's, byte for byte what DRAM holds afterwards.
    """
    files: dict[str, bytes] = {}
    for artefact in artefacts:
        prefix = f"{artefact.symbol}/" if len(artefacts) > 1 else ""
        files |= {
            prefix + name: contents for name, contents in program_files(artefact, inputs[artefact.symbol]).items()
        }
    return write_folder(folder, files, "program")


def program_files(artefact: Artefact, inputs: Sequence[bytes]) -> dict[str, bytes]:
    """The files of one subgraph by name."""
    outputs = run_program(artefact, inputs).outputs
    golden = {f"golden/input_{index}.bin": data for index, data in enumerate(inputs)}
    golden |= {f"golden/output_{index}.bin": data for index, data in enumerate(outputs)}
    return {
        "program.bin": artefact.program,
        "program.asm": disassemble(decode(artefact.program), artefact.layers).encode(),
        "constants.bin": artefact.constants,
        "memory_map.json": memory_map(artefact).encode(),
        **golden,
    }


def memory_map(artefact: Artefact) -> str:
    """Where everything lies in DRAM, and the machine that the program is for, as JSON."""

    def slot(entry: TensorSlot, file: str) -> dict[str, object]:
        return {
            "name": entry.name,
            "dram_addr": entry.dram_addr,
            "dram_bytes": entry.dram_bytes,
            "shape_hwc": list(entry.shape),
            "bits": entry.bits,
            "golden": file,
        }

    return json.dumps(
        {
            "symbol": artefact.symbol,
            "isa_version": artefact.isa_version,
            "hw": artefact.hw.to_dict(),
            "layers": list(artefact.layers),
            "dram_bytes": artefact.dram_bytes,
            "program": {"file": "program.bin", "dram_addr": artefact.program_addr, "bytes": len(artefact.program)},
            "constants": {
                "file": "constants.bin",
                "dram_addr": artefact.constants_addr,
                "bytes": len(artefact.constants),
            },
            "inputs": [slot(entry, f"golden/input_{i}.bin") for i, entry in enumerate(artefact.inputs)],
            "outputs": [slot(entry, f"golden/output_{i}.bin") for i, entry in enumerate(artefact.outputs)],
        },
        indent=2,
    )
