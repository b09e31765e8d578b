"""The static checker: proves of a program, from its instructions and constants alone, that the machine runs it rightly.

It never knows who chose the plan. What it proves:

- fields, sizes and ranges are legal, tables and parameter records too (``legal.py``, ``bounds.py``);
- no deadlock, each semaphore with one producer and one consumer, all empty at the end (``hazards.Order``);
- no race: whatever two engines both access, one of them writing, is ordered by tokens (vector clocks over every byte);
- nothing is read before it is written, nothing read-only is written, no output overlaps what it is computed from;
- each instruction sees the data of the instructions that the planner meant (``intent``): live ranges do not overlap;
- what an instruction forwards is taken by the next one, as it is;
- no accumulator can overflow, whatever the inputs, from the actual weights and biases.

Since there is no race, every execution gives what program order gives, so each property is proven in program order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import CompilerFault, QaccelError
from ...machine.artefact import Artefact
from ...machine.hw import HwConfig
from ...machine.isa import Instruction, decode
from ..access import Access, accesses, takes_forwarded
from ..layers import channel_bytes
from .bounds import Accumulators, Constants
from .forwards import Forwards
from .hazards import Hazard, Hazards, Order, TokenError
from .legal import first_fault, range_fault

Intent = Iterable[tuple[int, Iterable[int]]]


@dataclass(frozen=True)
class DramMap:
    """``image`` uint8 [size] at the start; byte ranges (begin, end) that are defined then, and that are read-only."""

    image: np.ndarray
    initialised: tuple[tuple[int, int], ...]
    read_only: tuple[tuple[int, int], ...]


def check_program(artefact: Artefact, intent: Intent | None = None) -> None:
    """Check an artefact. Raises CompilerFault with the instruction, its op and layer, the value and the limit."""
    image = np.zeros(artefact.dram_bytes, np.uint8)
    constant = []
    for addr, data in ((artefact.constants_addr, artefact.constants), (artefact.program_addr, artefact.program)):
        if addr + len(data) > artefact.dram_bytes:
            raise CompilerFault(
                f"program check: DRAM bytes {addr} to {addr + len(data)} leave {artefact.dram_bytes} bytes of DRAM"
            )
        image[addr : addr + len(data)] = np.frombuffer(data, np.uint8)
        constant.append((addr, addr + len(data)))
    inputs = [(slot.dram_addr, slot.dram_addr + slot.dram_bytes) for slot in artefact.inputs]
    memory = DramMap(image, (*constant, *inputs), tuple(constant))
    check_instructions(decode(artefact.program), artefact.hw, memory, artefact.layers, intent)


def check_instructions(
    instructions: Sequence[Instruction],
    hw: HwConfig,
    memory: DramMap,
    layers: Sequence[str] = (),
    intent: Intent | None = None,
) -> None:
    """Check decoded instructions.

    ``intent``: (reading instruction, the instructions whose data it must see); an instruction that is not listed must
    read nothing but DRAM's initial contents. Without it, whose data are read is not checked. Raises CompilerFault.
    """
    checker = _Checker(hw, memory, None if intent is None else {reader: frozenset(data) for reader, data in intent})
    fault = None
    for index, ins in enumerate(instructions):
        try:
            checker.step(index, ins)
        except (QaccelError, TokenError) as error:
            fault = Hazard(index, str(error.args[0]))
            break
    # A hazard stops the machine before what was found behind it.
    fault = checker.hazard() or fault
    if fault is not None:
        ins = instructions[fault.index]
        layer = layers[ins["layer"]] if ins["layer"] < len(layers) else ins["layer"]
        raise CompilerFault(f"program check: instruction {fault.index} ({ins.op}, layer {layer}): {fault.text}")
    leftover = checker.order.leftover() or ("accumulators are still open" if checker.accumulators.open else None)
    leftover = leftover or ("what is forwarded is not taken" if checker.forwards.open else None)
    if leftover:
        raise CompilerFault(f"program check: end of the program: {leftover}")


class _Checker:
    def __init__(self, hw: HwConfig, memory: DramMap, intent: dict[int, frozenset[int]] | None) -> None:
        self.hw, self.intent = hw, intent
        self.order = Order()
        self.dram_bytes = memory.image.size
        sizes = hw.sram_bytes, hw.weight_buffer_bytes, self.dram_bytes
        self.hazards = Hazards(sizes, memory.initialised, len(self.order.engines))
        self.read_only = np.zeros(self.dram_bytes, bool)
        for begin, end in memory.read_only:
            self.read_only[begin:end] = True
        self.constants = Constants(hw, memory.image, self.read_only)
        self.accumulators = Accumulators(hw)
        self.forwards = Forwards()

    def step(self, index: int, ins: Instruction) -> None:
        """Everything of an instruction but its hazards, which ``hazard`` proves of all at once."""
        if fault := first_fault(ins, self.hw):
            raise CompilerFault(fault)
        before = self.forwards.step(ins)
        touched = accesses(ins, self.hw, before)
        if fault := range_fault(touched, self.hw, self.dram_bytes):
            raise CompilerFault(fault)
        engine = self.order.engines.index(ins.engine)
        clock = self.order.start(ins, engine, index)
        self.hazards.add(engine, touched, [not each.write and _in_place(ins, each) for each in touched], clock)
        self.constants.step(ins, touched, self.hw)
        if ins.op == "TABLE":
            self.constants.check_table(ins)
        self.accumulators.step(ins, self.constants)
        self.order.complete(ins, engine)

    def hazard(self) -> Hazard | None:
        return self.hazards.first(self.read_only, self.intent)


def _in_place(ins: Instruction, access: Access) -> bool:
    """Whether the operand may be overwritten by the output: an element-wise operand of the same view and width."""
    if ins.op != "ELTWISE":
        return False
    prefix = {"input": "in", "second operand": "b"}.get(access.what)
    if prefix == "in" and takes_forwarded(ins):
        return False  # what is read then is another instruction's input
    if prefix is None or access.run_bytes != channel_bytes(ins["channels"], ins["out_bits"]):
        return False
    # The stride between rows, or pixels, that are only one means nothing.
    names = ("addr", "bits", *(("row_stride",) if ins["h"] > 1 else ()), *(("pixel_stride",) if ins["w"] > 1 else ()))
    return all(ins[f"{prefix}_{name}"] == ins[f"out_{name}"] for name in names)
