"""The C++ view of target/isa.toml: constants, enums, one struct and one checking decoder per instruction."""

from __future__ import annotations

from ..isa_spec import Field, Format, Isa, params_fields

_SLOTS = ("wait", "signal")  # wait0, wait1, wait2 are one array in C++


def camel_case(name: str) -> str:
    """``LOAD_RAW`` and ``pool_kind`` as C++ names: ``LoadRaw``, ``PoolKind``."""
    return "".join(part.capitalize() for part in name.split("_"))


def _constants(spec: Isa) -> list[str]:
    values: dict[str, tuple[str, int]] = {
        "kVersion": ("what a program's ISA version must equal", spec.version),
        "kInstructionBytes": ("one instruction word", spec.instruction_bytes),
        "kSemaphoreCount": ("numbered from 1; 0 is none", spec.semaphore_count),
        "kSemaphoreMaximum": ("tokens that one holds", spec.semaphore_maximum),
    }
    for name, value in spec.stream.items():
        values[f"kStream{camel_case(name)}"] = ("of weight streams", value)
    values["kParamsBytes"] = ("one output channel's parameter record", spec.params_bytes)
    for field in params_fields(spec):
        values[f"kParams{camel_case(field.name)}Offset"] = (f"bytes into the record: {field.type}", field.offset // 8)
        values[f"kParams{camel_case(field.name)}Bytes"] = ("its size", field.bits // 8)
    values["kMultiplierBits"] = ("of a multiplier, in a parameter record or a field", spec.multiplier_bits)
    values["kTableInterpolationBits"] = ("low bits of a 16-bit table input, knots even", spec.interpolation_bits)
    values["kTableOctaveBits"] = ("of an octave's entries, knots octaves", spec.octave_bits)
    lines = [f"constexpr int64_t {name} = {value};  // {text}" for name, (text, value) in values.items()]
    widths = ", ".join(map(str, spec.widths))
    return [*lines, f"constexpr int32_t kWidths[] = {{{widths}}};  // by width code"]


def _enum(name: str, members: list[tuple[str, int]]) -> list[str]:
    """An enum class, and ``name()``, which gives a member's spelling in isa.toml."""
    lines = [f"enum class {name} : uint8_t {{"]
    lines += [f"  {camel_case(member)} = {code}," for member, code in members]
    lines += ["};", f"inline const char* name({name} value) {{", "  switch (value) {"]
    lines += [f'    case {name}::{camel_case(member)}: return "{member}";' for member, _ in members]
    return [*lines, "  }", '  return "?";', "}", ""]


def _instruction_table(spec: Isa) -> list[str]:
    lines = ["struct InstructionInfo {", "  Opcode opcode;", "  Engine engine;", "  const char* name;", "};"]
    lines.append("constexpr InstructionInfo kInstructions[] = {")
    for form in spec.formats.values():
        opcode, engine = camel_case(form.name), camel_case(form.engine)
        lines.append(f'    {{Opcode::{opcode}, Engine::{engine}, "{form.name}"}},')
    return [
        *lines,
        "};",
        "// The instruction with that opcode, or nullptr.",
        "inline const InstructionInfo* find_instruction(uint64_t opcode) {",
        "  for (const InstructionInfo& info : kInstructions) {",
        "    if (static_cast<uint64_t>(info.opcode) == opcode) return &info;",
        "  }",
        "  return nullptr;",
        "}",
        "",
    ]


_BIT_READERS = """\
inline bool refuse(const char*& error, const char* reason) {
  error = reason;
  return false;
}

// `count` (1 to 56) bits of a word from bit `offset` on.
inline uint64_t unsigned_bits(const uint8_t* word, unsigned offset, unsigned count) {
  uint64_t value = 0;
  const unsigned first = offset / 8, last = (offset + count - 1) / 8;
  for (unsigned i = last + 1; i-- > first;) value = value << 8 | word[i];
  return value >> offset % 8 & ((uint64_t{1} << count) - 1);
}

// The same, as two's complement.
inline int64_t signed_bits(const uint8_t* word, unsigned offset, unsigned count) {
  const int64_t sign = int64_t{1} << (count - 1);
  return (static_cast<int64_t>(unsigned_bits(word, offset, count)) ^ sign) - sign;
}

// Whether all bits of a word from bit `offset` on are zero.
inline bool zero_from(const uint8_t* word, unsigned offset) {
  for (unsigned i = (offset + 7) / 8; i < kInstructionBytes; ++i) {
    if (word[i] != 0) return false;
  }
  return offset % 8 == 0 || word[offset / 8] >> offset % 8 == 0;
}
"""


def _cpp_type(spec: Isa, field: Field) -> str:
    if field.type in spec.enums:
        return camel_case(field.type)
    return {"uint": "int64_t", "int": "int64_t", "flag": "bool", "width": "int32_t"}[field.type]


def _slot(field: Field) -> tuple[str, int] | None:
    """("wait", 1) for the common field wait1."""
    stem, digits = field.name.rstrip("0123456789"), field.name[len(field.name.rstrip("0123456789")) :]
    return (stem, int(digits)) if stem in _SLOTS and digits else None


def _common_struct(spec: Isa) -> list[str]:
    lines = ["// What every instruction has. Semaphore 0 is none.", "struct Common {"]
    slots = [slot for slot in map(_slot, spec.common) if slot]
    for field in spec.common[1:]:
        if _slot(field) is None:
            lines.append(f"  {_cpp_type(spec, field)} {field.name} = 0;  // {field.text}")
    for stem in _SLOTS:
        lines.append(f"  int64_t {stem}[{sum(name == stem for name, _ in slots)}] = {{}};")
    return [*lines, "};", ""]


def _read(spec: Isa, form: Format, field: Field) -> list[str]:
    """Statements that read one field and check its code."""
    slot = _slot(field)
    target = f"out.{slot[0]}[{slot[1]}]" if slot else f"out.{field.name}"
    raw = f"unsigned_bits(word, {field.offset}, {field.bits})"
    if field.type == "int":
        return [f"  {target} = signed_bits(word, {field.offset}, {field.bits});"]
    if field.type == "uint":
        return [f"  {target} = static_cast<int64_t>({raw});"]
    if field.type == "flag":
        return [f"  {target} = {raw} != 0;"]
    choices = len(spec.widths) if field.type == "width" else len(spec.enums[field.type])
    value = f"kWidths[{raw}]" if field.type == "width" else f"static_cast<{camel_case(field.type)}>({raw})"
    if choices == 1 << field.bits:
        return [f"  {target} = {value};"]
    message = f"{form.name}: {field.name} has a reserved code"
    return [f'  if ({raw} >= {choices}) return refuse(error, "{message}");', f"  {target} = {value};"]


def _instruction(spec: Isa, form: Format) -> list[str]:
    """Struct and decoder of one instruction."""
    name = camel_case(form.name)
    lines = [f"// {form.summary}", f"struct {name} : Common {{"]
    lines.append(f"  static constexpr Opcode kOpcode = Opcode::{name};")
    lines.append(f"  static constexpr Engine kEngine = Engine::{camel_case(form.engine)};")
    for field in form.fields[len(spec.common) :]:
        kind = _cpp_type(spec, field)
        initial = {"bool": "false", "int64_t": "0", "int32_t": "8"}.get(kind, "{}")
        lines.append(f"  {kind} {field.name} = {initial};  // {field.text}")
    opcode = form.fields[0]
    lines += ["};", f"inline bool decode_{name}(const uint8_t* word, {name}& out, const char*& error) {{"]
    found, reserved = f"unsigned_bits(word, {opcode.offset}, {opcode.bits})", f"reserved bits from {form.bits} on"
    lines.append(f'  if ({found} != {form.opcode}) return refuse(error, "not {form.name}");')
    lines.append(f'  if (!zero_from(word, {form.bits})) return refuse(error, "{form.name}: {reserved} are not zero");')
    for field in form.fields[1:]:
        lines += _read(spec, form, field)
    return [*lines, "  return true;", "}", ""]


def _any_instruction(spec: Isa) -> list[str]:
    names = [camel_case(form.name) for form in spec.formats.values()]
    opcode = spec.common[0]
    lines = [
        f"using Instruction = std::variant<{', '.join(names)}>;",
        "// X(name) for each instruction.",
        f"#define QACCEL_INSTRUCTIONS(X) {' '.join(f'X({name})' for name in names)}",
        "",
    ]
    lines += [
        "// Decodes one word of kInstructionBytes. False, with the reason in `error`, where it is no instruction.",
        "inline bool decode(const uint8_t* word, Instruction& out, const char*& error) {",
        f"  switch (unsigned_bits(word, {opcode.offset}, {opcode.bits})) {{",
    ]
    for form, name in zip(spec.formats.values(), names, strict=True):
        lines.append(f"    case {form.opcode}: return decode_{name}(word, out.emplace<{name}>(), error);")
    return [*lines, "  }", '  return refuse(error, "unknown opcode");', "}"]


def header(spec: Isa) -> str:
    """The C++17 header ``qaccel_isa.h``."""
    lines = [
        "// Generated from target/isa.toml; never edited.",
        "#pragma once",
        "",
        "#include <cstdint>",
        "#include <variant>",
        "",
        "namespace qaccel {",
        "namespace isa {",
        "",
        *_constants(spec),
        "",
    ]
    lines += _enum("Opcode", [(form.name, form.opcode) for form in spec.formats.values()])
    lines += _enum("Engine", [(name, i) for i, name in enumerate(spec.engines)])
    lines.append(f"constexpr int kEngineCount = {len(spec.engines)};\n")
    for name, members in spec.enums.items():
        lines += _enum(camel_case(name), [(member, i) for i, member in enumerate(members)])
    lines += [*_instruction_table(spec), _BIT_READERS, *_common_struct(spec)]
    for form in spec.formats.values():
        lines += _instruction(spec, form)
    lines += [*_any_instruction(spec), "", "}  // namespace isa", "}  // namespace qaccel"]
    return "\n".join(lines) + "\n"
