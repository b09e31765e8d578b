"""Encoding: instructions get their semaphores and become bytes; DRAM gets its memory map."""

from __future__ import annotations

from ...machine.artefact import Artefact, MapSlot, TensorSlot
from ...machine.hw import HwConfig
from ...machine.isa import encode, isa
from ..layers import LayerGraph
from ..plan.allocate import DRAM_ALIGN_BYTES, Allocation
from .ahead import held_back
from .builder import Program
from .semaphores import insert_semaphores


def build_artefact(graph: LayerGraph, allocation: Allocation, program: Program, hw: HwConfig) -> Artefact:
    """The artefact of a scheduled subgraph.

    DRAM holds inputs, outputs and scratch first, then constants, then the program.
    """
    instructions = insert_semaphores(
        program.instructions, hw, allocation.dram_bytes, held_back(program.instructions, allocation)
    )
    words = encode(instructions)
    program_addr = -(-(program.constants_addr + len(program.constants)) // DRAM_ALIGN_BYTES) * DRAM_ALIGN_BYTES

    def slot(index: int) -> TensorSlot:
        m = graph.maps[index]
        return TensorSlot(m.name, allocation.dram_addr[index], (m.h, m.w, m.c), m.bits)

    def made(number: int, index: int) -> MapSlot:
        m = graph.maps[index]
        pieces = tuple(program.pieces.get(index, ()))
        memory = "sram" if pieces or index in allocation.sram_addr else "dram"
        addr = 0 if pieces else getattr(allocation, f"{memory}_addr")[index]
        return MapSlot(number, m.name, memory, addr, (m.h, m.w, m.c), m.bits, m.order, pieces)

    return Artefact(
        symbol=graph.symbol,
        isa_version=isa().version,
        hw=hw,
        layers=tuple(layer.name for layer in graph.layers),
        program_addr=program_addr,
        program=words,
        constants_addr=program.constants_addr,
        constants=program.constants,
        dram_bytes=program_addr + len(words),
        inputs=tuple(slot(index) for index in graph.inputs),
        outputs=tuple(slot(index) for index in graph.outputs),
        maps=tuple(made(number, layer.output) for number, layer in enumerate(graph.layers)),
    )
