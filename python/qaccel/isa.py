"""The instruction set as data: everything here is derived from ``target/isa.toml``, nothing is written twice."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .errors import QaccelError
from .hw import target_dir

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib


@dataclass(frozen=True)
class Field:
    """``bits`` of the instruction word from bit ``offset`` on."""

    name: str
    offset: int
    bits: int
    type: str
    text: str


@dataclass(frozen=True)
class Format:
    """One instruction: its fields in order, the common ones first."""

    name: str
    opcode: int
    engine: str
    summary: str
    semantics: str
    time: str
    fields: tuple[Field, ...]

    @property
    def bits(self) -> int:
        return self.fields[-1].offset + self.fields[-1].bits


@dataclass(frozen=True)
class Isa:
    """The whole of isa.toml, checked."""

    version: int
    instruction_bytes: int
    widths: tuple[int, ...]
    enums: Mapping[str, tuple[str, ...]]
    engines: Mapping[str, str]
    semaphore_count: int
    semaphore_maximum: int
    stream: Mapping[str, int]
    params_bytes: int
    params_layout: tuple[str, ...]
    interpolation_bits: int
    formats: Mapping[str, Format]
    by_opcode: Mapping[int, Format]
    manual: Mapping[str, str]


def parse_isa(spec: Mapping[str, Any]) -> Isa:
    """Check and freeze the contents of an isa.toml. Raises QaccelError naming what contradicts."""
    known_types = {"uint", "int", "flag", "width", *spec["enums"]}
    formats: dict[str, Format] = {}
    for entry in spec["instruction"]:
        name = entry["name"]
        rows = [item["field"] for item in spec["common"]]
        for item in entry["fields"]:
            if isinstance(item, str) and item[1:] not in spec["groups"]:
                raise QaccelError(f"isa.toml: {name}: unknown field group {item!r}")
            rows += spec["groups"][item[1:]] if isinstance(item, str) else [item]
        fields, offset = [], 0
        for field_name, bits, kind, text in rows:
            if kind not in known_types:
                raise QaccelError(f"isa.toml: {name}.{field_name}: unknown type {kind!r}")
            if bits < 1 or (kind in spec["enums"] and len(spec["enums"][kind]) > 1 << bits):
                raise QaccelError(f"isa.toml: {name}.{field_name}: {bits} bits are too few for {kind}")
            fields.append(Field(field_name, offset, bits, kind, text))
            offset += bits
        if offset > 8 * spec["instruction_bytes"]:
            raise QaccelError(f"isa.toml: {name}: fields take {offset} bits, the word has {8 * spec['instruction_bytes']}")
        if len({field.name for field in fields}) != len(fields):
            raise QaccelError(f"isa.toml: {name}: a field name occurs twice")
        if entry["engine"] not in spec["engines"]:
            raise QaccelError(f"isa.toml: {name}: unknown engine {entry['engine']!r}")
        if name in formats:
            raise QaccelError(f"isa.toml: instruction {name} occurs twice")
        if not 0 < entry["opcode"] < 1 << fields[0].bits:
            raise QaccelError(f"isa.toml: {name}: opcode {entry['opcode']} must be 1 to {(1 << fields[0].bits) - 1}")
        texts = {key: entry[key].strip() for key in ("summary", "semantics", "time")}
        formats[name] = Format(name, entry["opcode"], entry["engine"], fields=tuple(fields), **texts)
    by_opcode = {entry.opcode: entry for entry in formats.values()}
    if len(by_opcode) != len(formats):
        raise QaccelError("isa.toml: two instructions have the same opcode")
    return Isa(
        version=spec["version"],
        instruction_bytes=spec["instruction_bytes"],
        widths=tuple(spec["widths"]["codes"]),
        enums={name: tuple(values) for name, values in spec["enums"].items()},
        engines=dict(spec["engines"]),
        semaphore_count=spec["semaphores"]["count"],
        semaphore_maximum=spec["semaphores"]["maximum"],
        stream=dict(spec["stream"]),
        params_bytes=spec["params"]["bytes"],
        params_layout=tuple(spec["params"]["layout"]),
        interpolation_bits=spec["table"]["interpolation_bits"],
        formats=formats,
        by_opcode=by_opcode,
        manual=dict(spec["manual"]),
    )


@lru_cache(maxsize=1)
def isa() -> Isa:
    """The instruction set of this installation."""
    return parse_isa(tomllib.loads((target_dir() / "isa.toml").read_text(encoding="utf-8")))


Value = int | str


@dataclass(frozen=True)
class Instruction:
    """``values`` has every field but the opcode: widths as 4, 8 or 16, enums as their names, all else as integers."""

    op: str
    values: Mapping[str, Value]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def engine(self) -> str:
        return isa().formats[self.op].engine

    @property
    def waits(self) -> tuple[int, ...]:
        return tuple(v for v in (self["wait0"], self["wait1"], self["wait2"]) if v)

    @property
    def signals(self) -> tuple[int, ...]:
        return tuple(v for v in (self["signal0"], self["signal1"], self["signal2"]) if v)


@lru_cache(maxsize=32)
def _defaults(op: str) -> dict[str, Value]:
    spec = isa()
    defaults: dict[str, Value] = {}
    for field in spec.formats[op].fields[1:]:
        defaults[field.name] = 8 if field.type == "width" else spec.enums[field.type][0] if field.type in spec.enums else 0
    return defaults


@lru_cache(maxsize=32)
def _fields(op: str) -> dict[str, Field]:
    return {field.name: field for field in isa().formats[op].fields}


def _code(op: str, field: Field, value: Value) -> int:
    """The unsigned bits of a field's value. Raises QaccelError naming op, field, value and limit."""
    if field.type == "uint" or field.type == "flag":
        if isinstance(value, str) or not 0 <= value < 1 << field.bits:
            raise QaccelError(f"{op}.{field.name} is {value}, must be 0 to {(1 << field.bits) - 1}")
        return int(value)
    if field.type == "int":
        half = 1 << (field.bits - 1)
        if isinstance(value, str) or not -half <= value < half:
            raise QaccelError(f"{op}.{field.name} is {value}, must be {-half} to {half - 1}")
        return int(value) & ((1 << field.bits) - 1)
    choices: Sequence[Value] = isa().widths if field.type == "width" else isa().enums[field.type]
    if value not in choices:
        raise QaccelError(f"{op}.{field.name} is {value!r}, must be one of {', '.join(map(str, choices))}")
    return choices.index(value)


def instruction(op: str, **values: Value) -> Instruction:
    """An instruction; fields not given are 0 (widths 8, enums their first). Raises QaccelError on a bad op, field or value."""
    if op not in isa().formats:
        raise QaccelError(f"no instruction {op!r}; known are {', '.join(isa().formats)}")
    return replace(Instruction(op, _defaults(op)), **values)


def replace(original: Instruction, **values: Value) -> Instruction:
    """The same instruction with some fields changed. Errors as ``instruction``."""
    fields = _fields(original.op)
    for name, value in values.items():
        if name not in fields or name == "opcode":
            raise QaccelError(f"{original.op} has no field {name!r}")
        _code(original.op, fields[name], value)
    return Instruction(original.op, {**original.values, **values})


def encode(instructions: Iterable[Instruction]) -> bytes:
    """Program bytes, ``instruction_bytes`` each."""
    spec = isa()
    words = []
    for item in instructions:
        form = spec.formats[item.op]
        word = form.opcode
        for field in form.fields[1:]:
            word |= _code(item.op, field, item.values[field.name]) << field.offset
        words.append(word.to_bytes(spec.instruction_bytes, "little"))
    return b"".join(words)


def decode(program: bytes) -> list[Instruction]:
    """Inverse of encode. Raises QaccelError with the instruction's index on an unknown opcode, code or a reserved bit."""
    spec = isa()
    size = spec.instruction_bytes
    if len(program) % size:
        raise QaccelError(f"program of {len(program)} bytes is not a multiple of {size}")
    return [_decode_word(i, int.from_bytes(program[i * size : (i + 1) * size], "little")) for i in range(len(program) // size)]


def _decode_word(index: int, word: int) -> Instruction:
    spec = isa()
    opcode_bits = next(iter(spec.formats.values())).fields[0].bits
    form = spec.by_opcode.get(word & ((1 << opcode_bits) - 1))
    if form is None:
        raise QaccelError(f"instruction {index}: unknown opcode {word & ((1 << opcode_bits) - 1)}")
    if word >> form.bits:
        raise QaccelError(f"instruction {index} ({form.name}): reserved bits from {form.bits} on are not zero")
    values: dict[str, Value] = {}
    for field in form.fields[1:]:
        code = word >> field.offset & ((1 << field.bits) - 1)
        if field.type == "int":
            values[field.name] = code - (1 << field.bits) if code >> (field.bits - 1) else code
        elif field.type in ("uint", "flag"):
            values[field.name] = code
        else:
            choices: Sequence[Value] = spec.widths if field.type == "width" else spec.enums[field.type]
            if code >= len(choices):
                raise QaccelError(f"instruction {index} ({form.name}): {field.name} has the reserved code {code}")
            values[field.name] = choices[code]
    return Instruction(form.name, values)


def disassemble(instructions: Iterable[Instruction], layers: Sequence[str] = ()) -> str:
    """One line each: ``OP field=value ...``, fields at their defaults left out, a comment where a layer begins."""
    lines, last = [], None
    for item in instructions:
        if item["layer"] != last:
            last = item["layer"]
            lines.append(f"# layer {last}" + (f" {layers[last]}" if last < len(layers) else ""))
        defaults = _defaults(item.op)
        shown = (f"{k}={v:#x}" if k.endswith("addr") else f"{k}={v}" for k, v in item.values.items() if v != defaults[k])
        lines.append(" ".join([item.op, *shown]))
    return "\n".join(lines) + "\n"


def assemble(text: str) -> list[Instruction]:
    """Inverse of disassemble. ``#`` and ``;`` begin comments. Raises QaccelError with the line number."""
    return list(_assemble_lines(text))


def _assemble_lines(text: str) -> Iterator[Instruction]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split(";")[0].split()
        if not words:
            continue
        values: dict[str, Value] = {}
        for word in words[1:]:
            name, equals, value = word.partition("=")
            if not equals or name in values:
                raise QaccelError(f"line {number}: {word!r} is not a new field=value")
            try:
                values[name] = int(value, 0)
            except ValueError:
                values[name] = value
        try:
            yield instruction(words[0], **values)
        except QaccelError as error:
            raise QaccelError(f"line {number}: {error}") from None
