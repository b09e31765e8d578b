"""Instructions: made, encoded, decoded, assembled and disassembled as ``target/isa.toml`` says (see ``isa_spec``)."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..errors import CompilerFault, UserError
from .isa_spec import Field, Format, Isa, isa, params_fields

__all__ = [
    "Field",
    "Format",
    "Instruction",
    "Isa",
    "assemble",
    "decode",
    "disassemble",
    "encode",
    "instruction",
    "isa",
    "limits",
    "params_record",
    "replace",
]

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
        """The engine that executes it."""
        return isa().formats[self.op].engine

    @property
    def waits(self) -> tuple[int, ...]:
        """Semaphores that it takes a token from."""
        return tuple(v for v in (self["wait0"], self["wait1"], self["wait2"]) if v)

    @property
    def signals(self) -> tuple[int, ...]:
        """Semaphores that it gives a token to."""
        return tuple(v for v in (self["signal0"], self["signal1"], self["signal2"]) if v)


@lru_cache(maxsize=32)
def _defaults(op: str) -> dict[str, Value]:
    defaults: dict[str, Value] = {}
    for field in isa().formats[op].fields[1:]:
        choices = _choices(field)
        if field.type == "width":
            defaults[field.name] = 8
        else:
            defaults[field.name] = choices[0] if choices else 0
    return defaults


@lru_cache(maxsize=32)
def _fields(op: str) -> dict[str, Field]:
    return {field.name: field for field in isa().formats[op].fields[1:]}


@lru_cache(maxsize=32)
def _plain_limits(op: str) -> dict[str, tuple[int, int]]:
    """Limits of the fields that are numbers."""
    return {name: limits(field) for name, field in _fields(op).items() if not _choices(field)}


class _Coded(NamedTuple):
    """A field as words hold it: ``codes`` by value of a width or enum, else None; ``choices`` by code."""

    name: str
    offset: int
    mask: int
    sign: int  # of an int: its highest bit
    high: int  # the greatest value of a number, or code
    codes: dict[Value, int] | None
    choices: tuple[Value, ...]


@lru_cache(maxsize=32)
def _coded(op: str) -> tuple[_Coded, ...]:
    """The fields of an instruction but its opcode."""
    found = []
    for field in isa().formats[op].fields[1:]:
        choices = _choices(field)
        codes = {value: code for code, value in enumerate(choices)} if choices else None
        sign = 1 << (field.bits - 1) if field.type == "int" else 0
        high = len(choices) - 1 if choices else limits(field)[1]
        found.append(_Coded(field.name, field.offset, (1 << field.bits) - 1, sign, high, codes, choices))
    return tuple(found)


def _choices(field: Field) -> tuple[Value, ...]:
    """What the codes of a width or enum field mean; nothing for numbers and flags."""
    return isa().widths if field.type == "width" else isa().enums.get(field.type, ())


def limits(field: Field) -> tuple[int, int]:
    """Smallest and largest value of a uint, int or flag field."""
    if field.type == "int":
        return -(1 << (field.bits - 1)), (1 << (field.bits - 1)) - 1
    return 0, (1 << field.bits) - 1


def field_maximum(op: str, name: str) -> int:
    """The largest value of an instruction's field."""
    return limits(_fields(op)[name])[1]


@lru_cache(maxsize=1)
def params_record() -> np.dtype:
    """An output channel's parameter record as a structured dtype: bias, multiplier, shift, and reserved, bytes that are zero."""
    spec = isa()
    fields = params_fields(spec)
    kinds = [f"V{field.bits // 8}" if field.type == "reserved" else _NUMPY_TYPES[field.type] for field in fields]
    return np.dtype(
        {
            "names": [field.name for field in fields],
            "formats": kinds,
            "offsets": [field.offset // 8 for field in fields],
            "itemsize": spec.params_bytes,
        }
    )


_NUMPY_TYPES = {f"{sign}int{bits}": f"<{'u' if sign else 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32)}


def _checked(op: str, field: Field, value: Any) -> Value:
    """The value as ``Instruction`` holds it. Raises CompilerFault naming op, field, value and limit."""
    choices = _choices(field)
    if choices:
        if value not in choices:
            raise CompilerFault(f"{op}.{field.name} is {value!r}, must be one of {', '.join(map(str, choices))}")
        return choices[choices.index(value)]
    low, high = limits(field)
    try:
        number = operator.index(value)
    except TypeError:
        raise CompilerFault(f"{op}.{field.name} is {value!r}, must be an integer") from None
    if not low <= number <= high:
        raise CompilerFault(f"{op}.{field.name} is {number}, must be {low} to {high}")
    return number


def instruction(op: str, **values: Value) -> Instruction:
    """An instruction; fields not given are 0 (widths 8, enums their first).

    Raises CompilerFault if there is no such instruction or field, or the field cannot hold the value.
    """
    if op not in isa().formats:
        raise CompilerFault(f"no instruction {op!r}; known are {', '.join(isa().formats)}")
    return replace(Instruction(op, _defaults(op)), **values)


def replace(original: Instruction, **values: Value) -> Instruction:
    """The same instruction with some fields changed. Errors as ``instruction``."""
    fields, op = _fields(original.op), original.op
    changed = dict(original.values)
    plain = _plain_limits(op)
    for name, value in values.items():
        low, high = plain.get(name, (0, -1))
        if type(value) is not int or not low <= value <= high:
            if name not in fields:
                raise CompilerFault(f"{op} has no field {name!r}; it has {', '.join(fields)}")
            value = _checked(op, fields[name], value)
        changed[name] = value
    return Instruction(op, changed)


def encode(instructions: Iterable[Instruction]) -> bytes:
    """Program bytes, ``instruction_bytes`` each. Errors as ``instruction``."""
    spec = isa()
    words = []
    for item in instructions:
        word, values = spec.formats[item.op].opcode, item.values
        for field in _coded(item.op):
            code = values[field.name] if field.codes is None else field.codes.get(values[field.name], -1)
            if type(code) is not int or code < 0 or code > field.high:
                code = _code_of(item.op, field, values[field.name])
            word |= code << field.offset
        words.append(word.to_bytes(spec.instruction_bytes, "little"))
    return b"".join(words)


def _code_of(op: str, field: _Coded, value: Value) -> int:
    """The bits of a value that is not simply its own code. Raises CompilerFault as ``instruction``."""
    checked = _checked(op, _fields(op)[field.name], value)
    return (int(checked) if field.codes is None else field.codes[checked]) & field.mask


def decode(program: bytes) -> list[Instruction]:
    """Inverse of ``encode``.

    Raises UserError with the instruction's index on an unknown opcode, a reserved code or a reserved bit that is set.
    """
    size = isa().instruction_bytes
    if len(program) % size:
        raise UserError(f"a program of {len(program)} bytes is damaged: instructions have {size} bytes each")
    words = (program[start : start + size] for start in range(0, len(program), size))
    return [_decode_word(index, int.from_bytes(word, "little")) for index, word in enumerate(words)]


def _decode_word(index: int, word: int) -> Instruction:
    spec = isa()
    opcode = word & ((1 << spec.common[0].bits) - 1)
    form = spec.by_opcode.get(opcode)
    if form is None:
        raise UserError(f"instruction {index}: unknown opcode {opcode}")
    if word >> form.bits:
        raise UserError(f"instruction {index} ({form.name}): reserved bits from {form.bits} on are not zero")
    values: dict[str, Value] = {}
    for name, offset, mask, sign, _, codes, choices in _coded(form.name):
        code = word >> offset & mask
        if codes is None:
            values[name] = code - mask - 1 if code & sign else code
        elif code < len(choices):
            values[name] = choices[code]
        else:
            raise UserError(f"instruction {index} ({form.name}): {name} has the reserved code {code}")
    return Instruction(form.name, values)


def disassemble(instructions: Iterable[Instruction], layers: Sequence[str] = ()) -> str:
    """One line each: ``OP layer=3 wait=1,4 field=value ...``, other fields at their defaults left out.

    A comment tells where a layer begins, with its name from ``layers`` where that has one.
    """
    lines: list[str] = []
    layer = None
    for item in instructions:
        if item["layer"] != layer:
            layer = item["layer"]
            name = " ".join(layers[layer].split()) if layer < len(layers) else ""
            lines.append(f"# layer {layer} {name}".rstrip())
        defaults = _defaults(item.op)
        words = [item.op, f"layer={layer}"]
        for stem, slots in _slots().items():
            while slots and not item[slots[-1]]:
                slots = slots[:-1]
            words += [f"{stem}={','.join(str(item[slot]) for slot in slots)}"] if slots else []
        hidden = {field.name for field in isa().common}
        for key, value in item.values.items():
            if key not in hidden and value != defaults[key]:
                words.append(f"{key}={value:#x}" if key.endswith("_addr") else f"{key}={value}")
        lines.append(" ".join(words))
    return "".join(line + "\n" for line in lines)


@lru_cache(maxsize=1)
def _slots() -> dict[str, tuple[str, ...]]:
    """The numbered common fields by their stem, one list in assembly: {"wait": ("wait0", ...), "signal": ...}."""
    slots: dict[str, tuple[str, ...]] = {}
    for field in isa().common:
        stem = field.name.rstrip("0123456789")
        if stem != field.name:
            slots[stem] = (*slots.get(stem, ()), field.name)
    return slots


def assemble(text: str) -> list[Instruction]:
    """Inverse of ``disassemble``. ``#`` and ``;`` begin comments. Raises UserError with the line number."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].partition(";")[0].split()
        if not words:
            continue
        try:
            found.append(_assemble_line(words))
        except (CompilerFault, UserError) as error:
            raise UserError(f"line {number}: {error.args[0]}") from None
    return found


def _assemble_line(words: Sequence[str]) -> Instruction:
    values: dict[str, Value] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        names, parts = _slots().get(key, (key,)), value.split(",")
        if not equals or len(parts) > len(names):
            raise UserError(f"{word!r} is not field=value")
        for name, part in zip(names, parts, strict=False):
            if name in values:
                raise UserError(f"{name} is given twice")
            try:
                values[name] = int(part, 0)
            except ValueError:
                values[name] = part
    return instruction(words[0], **values)
