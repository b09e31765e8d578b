"""The ISA manual as Markdown: prose and fields of target/isa.toml, parameters of target/hw.toml, the configs side by side."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..hw import HwConfig, config_names, load_config
from ..hw_spec import LARGEST, Parameter, target_dir
from ..isa_spec import Field, Format, Isa, params_fields

_TITLES = {
    "machine": "Machine",
    "memory": "Memory",
    "numerics": "Numerics",
    "post": "Post stage",
    "array": "MAC array",
    "dram": "DRAM",
    "streams": "Weight streams",
}
_TYPES = {
    "uint": "unsigned integer",
    "int": "two's complement integer",
    "flag": "0 or 1",
    "width": "code of a width in bits, see below",
}


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [list(heads), ["---"] * len(heads), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def prose(text: str) -> str:
    """isa.toml's plain text as Markdown: lines indented by four or more are code, a list stands apart."""
    lines: list[str] = []
    code = False
    for line in text.strip("\n").splitlines():
        if line.startswith("    ") != code:
            code = not code
            lines += ["", "```text"] if code else ["```", ""]
        if not code and line.startswith("- ") and lines and lines[-1] and not lines[-1].startswith(("- ", "  ")):
            lines.append("")
        lines.append(line[4:] if code else line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, *(["```"] if code else [])]).strip("\n")) + "\n"


def _bits(field: Field) -> str:
    """``high:low`` as hardware people write it."""
    last = field.offset + field.bits - 1
    return str(field.offset) if field.bits == 1 else f"{last}:{field.offset}"


def _field_rows(fields: Sequence[Field]) -> list[tuple[str, str, str, str]]:
    return [(_bits(field), f"`{field.name}`", field.type, field.text) for field in fields]


_FIELD_HEADS = ("bits", "field", "type", "meaning")


def _instruction(spec: Isa, form: Format) -> str:
    own = _field_rows(form.fields[len(spec.common) :])
    last = 8 * spec.instruction_bytes - 1
    if form.bits <= last:
        own.append((f"{last}:{form.bits}", "reserved", "", "zero"))
    parts = [
        f"### {form.name}\n",
        f"{form.summary[0].upper()}{form.summary[1:]}. Opcode {form.opcode}, engine {form.engine}.\n",
        table(_FIELD_HEADS, own),
        f"#### What {form.name} does\n",
        prose(form.semantics),
        f"#### How long {form.name} takes\n",
        prose(form.time),
    ]
    return "\n".join(parts)


def _encoding(spec: Isa) -> str:
    used = {field.type for form in spec.formats.values() for field in form.fields}
    codes = [(name, code, member) for name, members in spec.enums.items() for code, member in enumerate(members)]
    kinds = [*_TYPES.items(), *((name, "code of this enum, see below") for name in spec.enums if name in used)]
    index = [
        (form.opcode, f"[{form.name}](#{form.name.lower()})", form.engine, form.summary) for form in _by_opcode(spec)
    ]
    parts = [
        "## Encoding\n",
        f"A program is a sequence of instruction words of {spec.instruction_bytes} bytes each, little-endian; bit 0 is"
        " the lowest bit of the first byte. Bits that no field takes are reserved: they must be zero. Opcodes and codes"
        f" that are not listed are errors. This is version {spec.version} of the instruction set: the artefact that"
        " carries a program states its version, and a machine refuses another one than its own.\n",
        "Every instruction begins with the common fields:\n",
        table(_FIELD_HEADS, _field_rows(spec.common)),
        "Types of fields:\n",
        table(("type", "values"), kinds),
        table(("width code", "bits"), enumerate(spec.widths)),
        table(("enum", "code", "value"), codes),
        "Instructions:\n",
        table(("opcode", "instruction", "engine", "what it is"), index),
    ]
    return "\n".join(parts)


def _by_opcode(spec: Isa) -> list[Format]:
    return [spec.by_opcode[opcode] for opcode in sorted(spec.by_opcode)]


def _array_table(spec: Isa, configs: Sequence[HwConfig]) -> str:
    """All width pairs: which rows and columns, how many products a cycle."""
    heads = [
        "W",
        "A",
        "rows(A)",
        "columns(W)",
        "products",
        *(f"{hw.name}: rows x columns = products" for hw in configs),
    ]
    rows = []
    for weight_bits in spec.widths:
        for activation_bits in spec.widths:
            sizes = [(hw.array_rows(activation_bits), hw.array_columns(weight_bits)) for hw in configs]
            rows.append(
                (
                    weight_bits,
                    activation_bits,
                    _scaled("rows", activation_bits),
                    _scaled("cols", weight_bits),
                    _scaled("rows * cols", weight_bits * activation_bits // 8),
                    *(f"{r} x {c} = {r * c}" for r, c in sizes),
                )
            )
    return table(heads, rows)


def _scaled(name: str, bits: int) -> str:
    """``name * 8 / bits`` in lowest terms."""
    return name if bits == 8 else f"{name} * {8 // bits}" if bits < 8 else f"{name} / {bits // 8}"


def _stream_table(spec: Isa) -> str:
    rows, offset = [], 0
    texts = {
        "codec": "how the payload is coded; other codes than those of the enum are errors",
        "width": "width code of the weights",
        "crc": "CRC-32 (IEEE 802.3, reflected) of the byte before it and the payload",
    }
    for name, text in texts.items():
        rows.append((_bits(Field(name, offset, spec.stream[f"{name}_bits"], "", "")), name, text))
        offset += spec.stream[f"{name}_bits"]
    return f"The header's {spec.stream['header_bytes']} bytes, as one little-endian word:\n\n" + table(
        ("bits", "field", "meaning"), rows
    )


def _params_table(spec: Isa) -> str:
    meanings = {"bias": "added to the accumulator", "multiplier": "M, below 2^31", "shift": "s", "reserved": "zero"}
    rows = [
        (
            f"{f.offset // 8} to {(f.offset + f.bits) // 8 - 1}" if f.bits > 8 else f.offset // 8,
            f.name,
            f.type,
            meanings[f.name],
        )
        for f in params_fields(spec)
    ]
    return "A parameter record:\n\n" + table(("bytes", "field", "type", "meaning"), rows)


def _first_comment(config: str) -> str:
    """What the config's file says it is."""
    text = (target_dir() / "configs" / f"{config}.toml").read_text(encoding="utf-8")
    return text.partition("\n")[0].lstrip("# ")


def _configs(parameters: Sequence[Parameter], configs: Sequence[HwConfig]) -> str:
    """Every parameter with unit, limits, meaning and its value in each config."""
    rows: list[Sequence[Any]] = []
    section = ""
    for parameter in parameters:
        if parameter.section != section:
            section = parameter.section
            rows.append((f"**{section}**", *([""] * (len(configs) + 3))))
        values = [operator.attrgetter(parameter.name)(hw) for hw in configs]
        rows.append((f"`{parameter.name}`", parameter.unit, _allowed(parameter), *values, parameter.text))
    return "\n".join(
        [
            "## Configurations\n",
            table(("config", "what it is"), [(hw.name, _first_comment(hw.name)) for hw in configs]),
            "The parameters, all of them integers, at most 2^31:\n",
            table(("entry", "unit", "allowed", *(hw.name for hw in configs), "meaning"), rows),
        ]
    )


def _allowed(parameter: Parameter) -> str:
    limits = f"from {parameter.least}" if parameter.most == LARGEST else f"{parameter.least} to {parameter.most}"
    limits += ", a power of two" if parameter.power_of_two else ""
    return limits if parameter.default is None else f"{limits}; {parameter.default} if not given"


def manual(spec: Isa, parameters: Sequence[Parameter]) -> str:
    """The whole manual."""
    configs = sorted((load_config(name) for name in config_names()), key=lambda hw: hw.rows * hw.cols)
    after = {
        "machine": f"Semaphores are numbered 1 to {spec.semaphore_count} and hold up to {spec.semaphore_maximum} tokens"
        " each.\n\n" + table(("engine", "what it moves"), spec.engines.items()),
        "numerics": _params_table(spec),
        "array": _array_table(spec, configs),
        "streams": _stream_table(spec),
    }
    parts = [
        f"# The qaccel instruction set, version {spec.version}\n",
        "Generated from `isa.toml`, `hw.toml` and `configs/*.toml` by `python -m qaccel.machine.generate --manual"
        " target/MANUAL.md`; edit those.\n",
        "The sizes of a machine (rows, cols and the names that end in _per_cycle, _bytes, _entries, _bits, _beats or"
        " _cycles) are entries of its configuration; those of the machines that come with qaccel are at the end. In"
        " formulas, W is the width in bits of the weights, A that of the input activations, B that of a second operand,"
        " O that of the output, and start_up is the configuration's start_up_cycles. All times are in cycles.\n",
    ]
    for name, text in spec.manual.items():
        parts += [f"## {_TITLES.get(name, name)}\n", prose(text)]
        parts += [after[name]] if name in after else []
    parts += [_encoding(spec), "## Instructions\n", *(_instruction(spec, form) for form in _by_opcode(spec))]
    parts.append(_configs(parameters, configs))
    return "\n".join(parts).rstrip("\n") + "\n"
