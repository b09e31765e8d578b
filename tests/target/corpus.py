"""Good artefacts for the fuzzers: random programs on a small machine, their stores as outputs."""

from dataclasses import replace

from qaccel.machine.artefact import Artefact, TensorSlot
from qaccel.machine.hw import load_config
from qaccel.machine.isa import isa
from reference.programs import INPUT_BYTES, OUTPUT_BYTES, random_program

SMALL = replace(load_config("qaccel-64"), name="small", sram_bytes=1 << 15)


def random_artefact(seed: int) -> Artefact:
    """Consecutive seeds take the nine width pairs in turn."""
    program = random_program(seed, SMALL, steps=3)
    data_bytes = INPUT_BYTES + OUTPUT_BYTES
    stores = [ins for ins in program.instructions if ins.op == "STORE"]
    return Artefact(
        symbol="fuzzed",
        isa_version=isa().version,
        hw=SMALL,
        layers=("a", "b", "c", "d"),
        program_addr=program.program_addr,
        program=program.program,
        constants_addr=data_bytes,
        constants=program.dram[data_bytes : program.program_addr].tobytes(),
        dram_bytes=program.dram.size,
        inputs=(TensorSlot("x", 0, (1, 1, INPUT_BYTES), 8),),
        outputs=tuple(TensorSlot(f"y{i}", s["dram_addr"], (1, 1, s["pixel_bytes"]), 8) for i, s in enumerate(stores)),
    )
