"""``target/isa.toml``, read and checked: formats with their fields, enums, engines, semaphores, record layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import UserError
from .hw_spec import target_dir, tomllib


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
        """Bits that the fields take; the rest of the word is reserved."""
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
    multiplier_bits: int
    interpolation_bits: int
    octave_bits: int
    common: tuple[Field, ...]
    formats: Mapping[str, Format]
    by_opcode: Mapping[int, Format]
    manual: Mapping[str, str]


_FIELD_TYPES = ("uint", "int", "flag", "width")


def parse_isa(spec: Mapping[str, Any]) -> Isa:
    """Check and freeze the contents of an isa.toml. Raises UserError naming what is missing or contradicts."""
    try:
        found = _parse_isa(spec)
    except KeyError as error:
        raise UserError(f"isa.toml: {error.args[0]} is missing") from None
    _check_header_layouts(found)
    return found


def _parse_isa(spec: Mapping[str, Any]) -> Isa:
    for name in spec["enums"]:
        if name in _FIELD_TYPES:
            raise UserError(f"isa.toml: enum {name} has the name of a built-in type")
    common_rows = [item["field"] for item in spec["common"]]
    formats: dict[str, Format] = {}
    by_opcode: dict[int, Format] = {}
    for entry in spec["instruction"]:
        name, opcode = entry["name"], entry["opcode"]
        fields = _fields_of(spec, name, common_rows + _expand(spec["groups"], name, entry["fields"]))
        if fields[0].name != "opcode":
            raise UserError(f"isa.toml: {name}: the first common field is {fields[0].name}, must be opcode")
        if entry["engine"] not in spec["engines"]:
            raise UserError(f"isa.toml: {name}: unknown engine {entry['engine']!r}")
        if name in formats:
            raise UserError(f"isa.toml: instruction {name} occurs twice")
        if not 0 < opcode < 1 << fields[0].bits:
            raise UserError(f"isa.toml: {name}: opcode {opcode} must be 1 to {(1 << fields[0].bits) - 1}")
        if opcode in by_opcode:
            raise UserError(f"isa.toml: {name} and {by_opcode[opcode].name} have the same opcode {opcode}")
        texts = {key: entry[key].strip("\n") for key in ("summary", "semantics", "time")}
        formats[name] = by_opcode[opcode] = Format(name, opcode, entry["engine"], fields=fields, **texts)
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
        multiplier_bits=spec["params"]["multiplier_bits"],
        interpolation_bits=spec["table"]["interpolation_bits"],
        octave_bits=spec["table"]["octave_bits"],
        common=_fields_of(spec, "common", common_rows),
        formats=formats,
        by_opcode=by_opcode,
        manual=dict(spec["manual"]),
    )


def _expand(groups: Mapping[str, Any], name: str, entries: Sequence[Any]) -> list[Any]:
    """An instruction's own field rows, ``@group`` replaced by the group's."""
    rows: list[Any] = []
    for entry in entries:
        if isinstance(entry, str) and (entry[:1] != "@" or entry[1:] not in groups):
            raise UserError(f"isa.toml: {name}: unknown field group {entry!r}")
        rows += groups[entry[1:]] if isinstance(entry, str) else [entry]
    return rows


def _fields_of(spec: Mapping[str, Any], name: str, rows: Sequence[Any]) -> tuple[Field, ...]:
    """Fields packed from bit 0 on, each checked against its type and the word."""
    fields: list[Field] = []
    offset = 0
    for field_name, bits, kind, text in rows:
        if kind not in _FIELD_TYPES and kind not in spec["enums"]:
            raise UserError(f"isa.toml: {name}.{field_name}: unknown type {kind!r}")
        codes = spec["enums"].get(kind, spec["widths"]["codes"] if kind == "width" else (0, 1))
        if bits < 1 or (kind not in ("uint", "int") and len(codes) > 1 << bits):
            raise UserError(f"isa.toml: {name}.{field_name}: {bits} bits are too few for {kind}")
        if kind == "flag" and bits != 1:
            raise UserError(f"isa.toml: {name}.{field_name}: a flag has 1 bit, not {bits}")
        if any(field.name == field_name for field in fields):
            raise UserError(f"isa.toml: {name}: field {field_name} occurs twice")
        fields.append(Field(field_name, offset, bits, kind, text))
        offset += bits
    if offset > 8 * spec["instruction_bytes"]:
        raise UserError(f"isa.toml: {name}: fields take {offset} bits, the word has {8 * spec['instruction_bytes']}")
    return tuple(fields)


def _check_header_layouts(spec: Isa) -> None:
    """Semaphore numbers, stream header and parameter record against the bits they must fit."""
    for field in spec.common:
        if field.name.startswith(("wait", "signal")) and spec.semaphore_count != (1 << field.bits) - 1:
            raise UserError(f"isa.toml: {spec.semaphore_count} semaphores, but {field.name} has {field.bits} bits")
    header_bits = sum(spec.stream[name] for name in ("codec_bits", "width_bits", "crc_bits"))
    if header_bits != 8 * spec.stream["header_bytes"]:
        raise UserError(f"isa.toml: the stream header's fields take {header_bits} bits, not header_bytes")
    for form in spec.formats.values():
        for field in form.fields:
            if field.name in ("multiplier", "b_multiplier") and field.bits != spec.multiplier_bits:
                raise UserError(f"isa.toml: {form.name}.{field.name} has {field.bits} bits, not multiplier_bits")
    if len(spec.widths) > 1 << spec.stream["width_bits"] or len(spec.enums["codec"]) > 1 << spec.stream["codec_bits"]:
        raise UserError("isa.toml: width_bits or codec_bits of the stream header are too few")
    record_bits = sum(field.bits for field in params_fields(spec))
    if record_bits != 8 * spec.params_bytes:
        raise UserError(
            f"isa.toml: the parameter record has {spec.params_bytes} bytes, its fields take {record_bits} bits"
        )


def params_fields(spec: Isa) -> tuple[Field, ...]:
    """Fields of an output channel's parameter record, offsets in bits; the reserved bytes are one field."""
    fields: list[Field] = []
    offset = 0
    for entry in spec.params_layout:
        name, _, kind = entry.partition(":")
        digits = kind.removeprefix("u").removeprefix("int")
        if digits not in ("8", "16", "32"):
            raise UserError(f"isa.toml: parameter record: {entry!r} is not name:type")
        bits = int(digits)
        if fields and fields[-1].name == name == "reserved":
            last = fields.pop()
            fields.append(Field(name, last.offset, last.bits + bits, "reserved", last.text))
        else:
            fields.append(Field(name, offset, bits, kind, "must be zero" if name == "reserved" else ""))
        offset += bits
    return tuple(fields)


@lru_cache(maxsize=1)
def isa() -> Isa:
    """The instruction set of this installation. Raises UserError if its isa.toml is damaged."""
    path = target_dir() / "isa.toml"
    try:
        return parse_isa(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a valid TOML file: {error}") from None
