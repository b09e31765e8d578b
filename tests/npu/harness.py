"""Run an artefact on the simulator, from feature maps to feature maps."""

import numpy as np

from npu.oracle import unpack_map
from qaccel.machine.artefact import Artefact
from qaccel.machine.simulator import simulate
from qaccel.machine.streams import pack_pixels
from qaccel.npu.layers import FeatureMap


def equally_quick(*_: object) -> int:
    """An estimate by which all layers take the same: what can join a post stage does."""
    return 0


def dram_image(
    artefact: Artefact, inputs: list[np.ndarray]
) -> tuple[np.ndarray, list[tuple[int, int]], list[tuple[int, int]]]:
    """DRAM bytes before the run, the ranges that are defined and those that are read-only."""
    dram = np.zeros(artefact.dram_bytes, np.uint8)
    read_only = []
    for addr, data in ((artefact.constants_addr, artefact.constants), (artefact.program_addr, artefact.program)):
        dram[addr : addr + len(data)] = np.frombuffer(data, np.uint8)
        read_only.append((addr, addr + len(data)))
    defined = list(read_only)
    for slot, value in zip(artefact.inputs, inputs, strict=True):
        data = np.frombuffer(pack_pixels(value, slot.bits), np.uint8)
        dram[slot.dram_addr : slot.dram_addr + data.size] = data
        defined.append((slot.dram_addr, slot.dram_addr + data.size))
    return dram, defined, read_only


def run_artefact(
    artefact: Artefact, inputs: list[np.ndarray], mode: str = "functional", trace: bool = False
) -> tuple[list[np.ndarray], dict]:
    """Outputs [H, W, C] int64 and the simulator's counters."""
    dram, defined, read_only = dram_image(artefact, inputs)
    counters = simulate(
        artefact.hw,
        artefact.program,
        dram,
        mode=mode,
        initialised=defined,
        read_only=read_only,
        program_addr=artefact.program_addr,
        layers=artefact.layers,
        trace=trace,
    )
    outputs = []
    for slot in artefact.outputs:
        image = dram[slot.dram_addr : slot.dram_addr + slot.dram_bytes].tobytes()
        outputs.append(unpack_map(image, FeatureMap(slot.name, *slot.shape, slot.bits, 0)))
    return outputs, counters
