"""The C++ header and the manual that are made from isa.toml."""

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qaccel.errors import QaccelError
from qaccel.machine.generate import __main__ as generator
from qaccel.machine.generate.config import config_header
from qaccel.machine.generate.header import camel_case, header
from qaccel.machine.generate.manual import manual, prose, table
from qaccel.machine.hw_spec import parameters
from qaccel.machine.isa import Field, decode, encode, instruction, isa, limits

SPEC = isa()


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The generator as the build runs it: from the sources, with no package installed beside the standard library."""
    command = [sys.executable, "-S", "-m", "qaccel.machine.generate", *map(str, arguments)]
    sources = Path(generator.__file__).parents[3]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(sources)})


def test_the_script_runs_without_the_package(tmp_path: Path) -> None:
    files = tmp_path / "new" / "qaccel_isa.h", tmp_path / "MANUAL.md", tmp_path / "qaccel_hw.h"
    done = run_script("--isa-header", files[0], "--manual", files[1], "--hw-header", files[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files[0].read_text(encoding="utf-8") == header(SPEC)
    assert files[1].read_text(encoding="utf-8") == manual(SPEC, parameters())
    assert files[2].read_text(encoding="utf-8") == config_header(parameters())
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(files)


def test_the_script_without_anything_to_write() -> None:
    done = run_script()
    assert done.returncode == 2 and "nothing to write: give --isa-header, --hw-header or --manual" in done.stderr


def test_the_committed_manual_is_up_to_date(repo_root: Path, update_golden: bool) -> None:
    path = repo_root / "target" / "MANUAL.md"
    if update_golden:
        path.write_text(manual(SPEC, parameters()), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == manual(SPEC, parameters()), "make it again: pytest --update-golden"


def test_every_field_stands_in_the_manual_with_its_bits() -> None:
    text = manual(SPEC, parameters())
    for form in SPEC.formats.values():
        section = text.partition(f"\n### {form.name}\n")[2].partition("\n### ")[0]
        for field in form.fields[len(SPEC.common) :]:
            last = field.offset + field.bits - 1
            bits = f"{last}:{field.offset}" if field.bits > 1 else f"{last}"
            assert f"| {bits} | `{field.name}` | {field.type} | {field.text} |" in section
        assert f"| 511:{form.bits} | reserved |  | zero |" in section
        assert form.semantics.splitlines()[-1].strip() in section and form.time.splitlines()[-1].strip() in section


def test_tables_of_the_manual_are_rectangular_and_links_lead_somewhere() -> None:
    text = manual(SPEC, parameters())
    for block in re.findall(r"(?m)(?:^\|.*\n)+", text):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    anchors = {line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("### ")}
    assert {link for link in re.findall(r"\]\(#(\w+)\)", text)} == anchors
    assert text.count("```") % 2 == 0


def test_prose_and_table() -> None:
    text = "Sum of\n- one;\n  more\n- two\nwhere\n    a = b\n      + c\nends."
    assert prose(text) == "Sum of\n\n- one;\n  more\n- two\nwhere\n\n```text\na = b\n  + c\n```\n\nends.\n"
    assert prose("    a = b\n") == "```text\na = b\n```\n"
    assert table(("a", "b"), [(1, "x|y")]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n"


# The header's decoders against decode(), on good and on damaged words


def printing_program() -> str:
    """C++ that decodes the words on its standard input and prints every field, or the error."""
    lines = ["#include <cstdio>", '#include "qaccel_isa.h"', "using namespace qaccel::isa;"]
    for form in SPEC.formats.values():
        lines.append(f"void print(const {camel_case(form.name)}& x) {{")
        lines.append('  std::printf("%s %s", name(x.kOpcode), name(x.kEngine));')
        lines += [f"  {print_statement(field)}" for field in form.fields[1:]]
        lines += ['  std::printf("\\n");', "}"]
    lines += [
        "int main() {",
        "  uint8_t word[kInstructionBytes];",
        "  Instruction instruction;",
        "  const char* error = nullptr;",
        "  while (std::fread(word, sizeof word, 1, stdin) == 1) {",
        "    if (decode(word, instruction, error)) {",
        "      std::visit([](const auto& x) { print(x); }, instruction);",
        "    } else {",
        '      std::printf("error: %s\\n", error);',
        "    }",
        "  }",
        "}",
    ]
    return "\n".join(lines)


def print_statement(field: Field) -> str:
    member = re.sub(r"^(wait|signal)(\d)$", r"\1[\2]", field.name)
    if field.type in SPEC.enums:
        return f'std::printf(" {field.name}=%s", name(x.{member}));'
    return f'std::printf(" {field.name}=%lld", static_cast<long long>(x.{member}));'


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    assert compiler, "the project needs g++"
    folder = tmp_path_factory.mktemp("header")
    (folder / "qaccel_isa.h").write_text(header(SPEC), encoding="utf-8")
    (folder / "main.cc").write_text(printing_program(), encoding="utf-8")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    subprocess.run([compiler, *flags, "main.cc", "-o", "decoder"], cwd=folder, check=True)
    return folder / "decoder"


def decode_in_cpp(decoder: Path, words: list[bytes]) -> list[str]:
    return (
        subprocess.run([decoder], input=b"".join(words), capture_output=True, check=True).stdout.decode().splitlines()
    )


def random_values(fields: tuple[Field, ...], rng: random.Random) -> dict[str, int | str]:
    values: dict[str, int | str] = {}
    for field in fields:
        if field.type == "width" or field.type in SPEC.enums:
            values[field.name] = rng.choice(SPEC.widths if field.type == "width" else SPEC.enums[field.type])
        else:
            low, high = limits(field)
            values[field.name] = rng.choice([low, high, rng.randint(low, high)])
    return values


def test_cpp_reads_every_field_as_python_does(decoder: Path) -> None:
    rng = random.Random(1)
    program = [
        instruction(form.name, **random_values(form.fields[1:], rng))
        for form in SPEC.formats.values()
        for _ in range(100)
    ]
    words = [encode([item]) for item in program]
    expected = [
        " ".join([item.op, item.engine, *(f"{name}={value}" for name, value in item.values.items())])
        for item in program
    ]
    assert decode_in_cpp(decoder, words) == expected


def test_cpp_refuses_what_python_refuses(decoder: Path) -> None:
    words, expected = [], []
    for form in SPEC.formats.values():
        word = int.from_bytes(encode([instruction(form.name)]), "little")
        for bit in range(form.bits, 8 * SPEC.instruction_bytes):
            words.append(word | 1 << bit)
            expected.append(f"error: {form.name}: reserved bits from {form.bits} on are not zero")
        for field in form.fields[1:]:
            codes = len(SPEC.widths) if field.type == "width" else len(SPEC.enums.get(field.type, ()))
            for code in range(codes, 1 << field.bits) if codes else ():
                words.append(word & ~(((1 << field.bits) - 1) << field.offset) | code << field.offset)
                expected.append(f"error: {form.name}: {field.name} has a reserved code")
    for opcode in set(range(256)) - set(SPEC.by_opcode):
        words.append(opcode)
        expected.append("error: unknown opcode")
    assert decode_in_cpp(decoder, [word.to_bytes(SPEC.instruction_bytes, "little") for word in words]) == expected


def test_cpp_agrees_on_flipped_bits(decoder: Path) -> None:
    rng = random.Random(2)
    words, accepted = [], []
    for form in SPEC.formats.values():
        good = int.from_bytes(encode([instruction(form.name, **random_values(form.fields[1:], rng))]), "little")
        for bit in range(8 * SPEC.instruction_bytes):
            words.append((good ^ 1 << bit).to_bytes(SPEC.instruction_bytes, "little"))
            accepted.append(is_accepted(words[-1]))
    assert [not line.startswith("error: ") for line in decode_in_cpp(decoder, words)] == accepted
    assert 0 < sum(accepted) < len(accepted)


def is_accepted(word: bytes) -> bool:
    try:
        return bool(decode(word))
    except QaccelError:
        return False


def test_the_header_states_the_constants() -> None:
    text = header(SPEC)
    stated = dict(re.findall(r"constexpr int64_t (k\w+) = (\d+);", text))
    assert stated["kInstructionBytes"] == "64" and stated["kParamsBytes"] == "12"
    assert (stated["kSemaphoreCount"], stated["kSemaphoreMaximum"]) == ("31", "63")
    assert (stated["kParamsBiasOffset"], stated["kParamsMultiplierOffset"], stated["kParamsShiftOffset"]) == (
        "0",
        "4",
        "8",
    )
    assert (stated["kParamsReservedOffset"], stated["kParamsReservedBytes"]) == ("9", "3")
    assert stated["kStreamHeaderBytes"] == "5" and stated["kTableInterpolationBits"] == "7"
    assert stated["kMultiplierBits"] == "31"


def test_every_parameter_stands_in_the_manual_with_its_limits() -> None:
    section = manual(SPEC, parameters()).partition("\n## Configurations\n")[2]
    for parameter in parameters():
        assert f"| `{parameter.name}` | {parameter.unit} | " in section and f" | {parameter.text} |" in section
    assert "| `rows` | multipliers | from 2, a power of two | 8 | 16 | 32 | 8-bit activations" in section
    assert "| `accumulator_bits` | bits | 48 to 63 | 48 | 48 | 48 |" in section
