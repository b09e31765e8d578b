"""Golden data of each instruction: what it reads and what it writes. `docs/program_format.md` describes the files.

They come from the slow interpreter, so they owe nothing to the simulator.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from ...errors import UserError
from ...machine.artefact import Artefact
from ...machine.interpreter.interpreter import run
from ...machine.interpreter.memory import Access, Block, MachineError
from ...machine.isa import Instruction

INDEX = "golden/accesses.csv"
COLUMNS = (
    "instruction", "layer", "op", "access", "memory", "addr", "rows", "row_stride", "pixels", "pixel_stride", "pixel_bytes",
    "offset",
)  # fmt: skip
_LARGEST = 1 << 32  # of any number in the index: what addresses reach


def file_of(layer: int) -> str:
    """Where the bytes of a layer's accesses lie."""
    return f"golden/layer_{layer:03}.bin"


@dataclass(frozen=True, eq=False)
class Accesses:
    """By instruction, in program order, what it reads and writes, in the order of its accesses.

    ``fault``: the error at which the run ended, if it did; instructions that it did not reach have no accesses.
    """

    by_instruction: tuple[tuple[Access, ...], ...]
    dram: np.ndarray
    fault: MachineError | None = None

    def __repr__(self) -> str:
        return f"<Accesses of {len(self.by_instruction)} instructions>"


def interpreted(artefact: Artefact, inputs: Sequence[bytes], instructions: int) -> Accesses:
    """A program's accesses on the interpreter; ``inputs`` are the DRAM contents of the input slots."""
    dram, defined, read_only = dram_image(artefact, inputs)
    seen: list[tuple[Access, ...]] = [()] * instructions

    def executed(index: int, log: list[Access]) -> None:
        seen[index] = tuple(log)

    try:
        run(artefact.hw, artefact.program, dram, initialised=defined, read_only=read_only, executed=executed)
    except MachineError as fault:
        return Accesses(tuple(seen), dram, fault)
    return Accesses(tuple(seen), dram)


def dram_image(
    artefact: Artefact, inputs: Sequence[bytes]
) -> tuple[np.ndarray, list[tuple[int, int]], list[tuple[int, int]]]:
    """DRAM before the run, uint8, and its (begin, end) ranges that hold data and that are read-only."""
    dram = np.zeros(artefact.dram_bytes, np.uint8)
    read_only, defined = [], []
    for addr, data in ((artefact.constants_addr, artefact.constants), (artefact.program_addr, artefact.program)):
        dram[addr : addr + len(data)] = np.frombuffer(data, np.uint8)
        read_only.append((addr, addr + len(data)))
    for slot, data in zip(artefact.inputs, inputs, strict=True):
        dram[slot.dram_addr : slot.dram_addr + len(data)] = np.frombuffer(data, np.uint8)
        defined.append((slot.dram_addr, slot.dram_addr + len(data)))
    return dram, read_only + defined, read_only


def accesses_files(program: Sequence[Instruction], accesses: Accesses) -> dict[str, bytes]:
    """The index and the files of bytes, by name."""
    parts: dict[str, list[bytes]] = {}
    sizes: dict[str, int] = {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for index, (instruction, made) in enumerate(zip(program, accesses.by_instruction, strict=True)):
        name = file_of(instruction["layer"])
        for each in made:
            kind = "write" if each.writes else "read"
            row = (index, instruction["layer"], instruction.op, kind, each.memory, *astuple(each.block))
            writer.writerow((*row, sizes.get(name, 0)))
            parts.setdefault(name, []).append(each.data.tobytes())
            sizes[name] = sizes.get(name, 0) + each.data.size
    return {INDEX: text.getvalue().encode(), **{name: b"".join(data) for name, data in parts.items()}}


def parse_accesses(text: str, files: Mapping[str, bytes], instructions: int) -> tuple[tuple[Access, ...], ...]:
    """Inverse of `accesses_files`, by instruction. Raises UserError that names the line for what is damaged."""
    rows = (line.split(",") for line in text.removesuffix("\n").split("\n"))  # no value is quoted
    if tuple(next(rows)) != COLUMNS:
        raise UserError(f"{INDEX} line 1: the columns must be {','.join(COLUMNS)}")
    found: list[list[Access]] = [[] for _ in range(instructions)]
    ends: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        try:
            index, layer, *block, offset = (int(row[COLUMNS.index(name)]) for name in (*COLUMNS[:2], *COLUMNS[5:]))
            kind, memory = row[3], row[4]
        except (ValueError, IndexError):
            raise UserError(f"{INDEX} line {line}: not a row of {','.join(COLUMNS)}") from None
        numbers = (index, layer, *block, offset)
        if len(row) != len(COLUMNS) or kind not in ("read", "write") or not all(0 <= n < _LARGEST for n in numbers):
            raise UserError(f"{INDEX} line {line}: a value is none that an access has")
        if index >= instructions:
            raise UserError(f"{INDEX} line {line}: instruction {index}, the program has {instructions}")
        place = Block(*block)
        size, name = place.rows * place.pixels * place.size, file_of(layer)
        data = files.get(name, b"")[offset : offset + size]
        if offset != ends.get(name, 0) or len(data) != size:
            raise UserError(f"{name} has not the {size} bytes from {offset} on that {INDEX} line {line} says")
        ends[name] = offset + size
        shaped = np.frombuffer(data, np.uint8).reshape(place.rows, place.pixels, place.size)
        found[index].append(Access(memory, kind == "write", place, shaped))
    for name, data in files.items():
        if len(data) != ends.get(name, 0):
            raise UserError(f"{name} holds {len(data)} bytes, {INDEX} speaks of {ends.get(name, 0)}")
    return tuple(map(tuple, found))
