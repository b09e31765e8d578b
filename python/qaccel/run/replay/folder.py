"""A folder of ``--emit-program``, read back and checked."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError, path_of
from ...machine.artefact import Artefact, TensorSlot
from ...machine.hw import config_from_dict
from ...machine.interpreter.memory import Access
from ...machine.isa import Instruction, assemble, decode, encode, isa
from .accesses import INDEX, file_of, parse_accesses
from .package import ASSEMBLY, FORMAT, MEMORY_MAP

_LARGEST_DRAM = 1 << 32
_AGAIN = "write it again with tvmc compile --emit-program"


@dataclass(frozen=True, eq=False)
class Package:
    """One program with its golden data. ``changed``: files that are not what they were when the memory map was written."""

    path: Path
    artefact: Artefact
    program: tuple[Instruction, ...]
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    golden: tuple[tuple[Access, ...], ...]
    changed: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Package '{self.artefact.symbol[:60]}': {len(self.program)} instructions>"

    def where(self, index: int) -> str:
        """An instruction as people find it: number, operation, layer."""
        instruction = self.program[index]
        layer, names = instruction["layer"], self.artefact.layers
        name = f" '{names[layer]}'" if layer < len(names) else ""
        return f"instruction {index} ({instruction.op}) of layer {layer}{name}"


def read_packages(folder: str | Path) -> tuple[Package, ...]:
    """Every program in a folder. Raises UserError of one line for what is missing or damaged."""
    path = path_of(folder, "the program folder")
    if not path.is_dir():
        raise UserError(f"program folder '{path}' does not exist; {_AGAIN}")
    folders = [path] if (path / MEMORY_MAP).is_file() else sorted(each.parent for each in path.glob(f"*/{MEMORY_MAP}"))
    if not folders:
        raise UserError(f"program folder '{path}' has no {MEMORY_MAP}; {_AGAIN}")
    return tuple(map(_read_package, folders))


def _read_package(path: Path) -> Package:
    try:
        return _package(path)
    except UserError as error:
        raise UserError(f"program folder '{path}': {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"program folder '{path}': {MEMORY_MAP} is damaged ({error!r}); {_AGAIN}") from None


def _package(path: Path) -> Package:
    layout = json.loads(_read(path, MEMORY_MAP))
    for key, ours, what in (
        ("format", FORMAT, "the folder's format"),
        ("isa_version", isa().version, "the ISA version"),
    ):
        if layout[key] != ours:
            raise UserError(f"{what} is {layout[key]}, this qaccel has {ours}; {_AGAIN}")
    changed: list[str] = []

    def contents(entry: dict[str, Any], file: str, size: str) -> bytes:
        data = _read(path, entry[file])
        if len(data) != entry[size]:
            raise UserError(f"{entry[file]} has {len(data)} bytes, {MEMORY_MAP} says {entry[size]}; {_AGAIN}")
        if not 0 <= entry["dram_addr"] <= dram_bytes - len(data):
            raise UserError(
                f"{entry[file]} at {entry['dram_addr']} lies outside of {dram_bytes} bytes of DRAM; {_AGAIN}"
            )
        if zlib.crc32(data) != entry["crc32"]:
            changed.append(entry[file])
        return data

    dram_bytes = layout["dram_bytes"]
    if not isinstance(dram_bytes, int) or not 0 < dram_bytes <= _LARGEST_DRAM:
        raise UserError(f"dram_bytes is {dram_bytes}, must be 1 to {_LARGEST_DRAM}; {_AGAIN}")
    program, constants = (contents(layout[each], "file", "bytes") for each in ("program", "constants"))
    inputs, outputs = (
        tuple(contents(each, "golden", "dram_bytes") for each in layout[ends]) for ends in ("inputs", "outputs")
    )
    artefact = Artefact(
        symbol=layout["symbol"], isa_version=layout["isa_version"], hw=config_from_dict(layout["hw"], MEMORY_MAP),
        layers=tuple(map(str, layout["layers"])),
        program_addr=layout["program"]["dram_addr"], program=program,
        constants_addr=layout["constants"]["dram_addr"], constants=constants,
        dram_bytes=dram_bytes, inputs=_slots(layout["inputs"]), outputs=_slots(layout["outputs"]),
    )  # fmt: skip
    instructions = tuple(_checked_program(program, _text(path, ASSEMBLY)))
    names = sorted({file_of(each["layer"]) for each in instructions})
    files = {name: _read(path, name) for name in names if (path / name).is_file()}
    golden = parse_accesses(_text(path, INDEX), files, len(instructions))
    return Package(path, artefact, instructions, inputs, outputs, golden, tuple(changed))


def _slots(entries: list[dict[str, Any]]) -> tuple[TensorSlot, ...]:
    slots = []
    for entry in entries:
        height, width, channels = entry["shape_hwc"]
        slot = TensorSlot(entry["name"], entry["dram_addr"], (height, width, channels), entry["bits"])
        if slot.dram_bytes != entry["dram_bytes"]:
            raise UserError(
                f"{slot.name} is {slot.dram_bytes} bytes, {MEMORY_MAP} says {entry['dram_bytes']}; {_AGAIN}"
            )
        slots.append(slot)
    return tuple(slots)


def _checked_program(program: bytes, assembly: str) -> list[Instruction]:
    """The instructions. Raises UserError with the first one, and its field, that ``program.asm`` has otherwise."""
    decoded = decode(program)
    try:
        written = assemble(assembly)
    except UserError as error:
        raise UserError(f"{ASSEMBLY}: {error}") from None
    for index, (ours, theirs) in enumerate(zip(decoded, written, strict=False)):
        if ours != theirs:
            if ours.op != theirs.op:
                raise UserError(f"instruction {index}: program.bin has {ours.op}, {ASSEMBLY} {theirs.op}")
            field = next(name for name, value in ours.values.items() if value != theirs[name])
            raise UserError(
                f"instruction {index} ({ours.op}) of layer {theirs['layer']}: program.bin has {field} {ours[field]}, "
                f"{ASSEMBLY} {theirs[field]}"
            )
    if len(decoded) != len(written):
        raise UserError(f"program.bin has {len(decoded)} instructions, {ASSEMBLY} {len(written)}")
    if encode(decoded) != program:
        raise UserError("program.bin has bits that no instruction has")
    return decoded


def _read(path: Path, name: str) -> bytes:
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{MEMORY_MAP} names the file {name!r}, which is outside of the folder")
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}; {_AGAIN}") from None


def _text(path: Path, name: str) -> str:
    try:
        return _read(path, name).decode()
    except UnicodeDecodeError:
        raise UserError(f"{name} is no text; {_AGAIN}") from None
