"""Fields, encoding, decoding, assembly and the checks of isa.toml."""

import copy
import random
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaccel.errors import QaccelError
from qaccel.machine import isa_spec
from qaccel.machine.hw import target_dir
from qaccel.machine.isa import (
    Field,
    Instruction,
    assemble,
    decode,
    disassemble,
    encode,
    instruction,
    isa,
    limits,
    params_record,
    replace,
)
from qaccel.machine.isa_spec import parse_isa, tomllib

SPEC = isa()
WORD_BITS = 8 * SPEC.instruction_bytes
GOLDEN = Path(__file__).parents[1] / "golden"
every_op = pytest.mark.parametrize("op", SPEC.formats)


def extremes(field: Field) -> list[Any]:
    """Every value of a width, enum or flag; of a number both ends, and every bit by itself."""
    if field.type == "width":
        return list(SPEC.widths)
    if field.type in SPEC.enums:
        return list(SPEC.enums[field.type])
    low, high = limits(field)
    bits = [1 << bit for bit in range(field.bits)]
    values = [value - (1 << field.bits) if value > high else value for value in bits]
    return sorted({low, high, 0, -1 if low else 1, *values})


def bits_of(field: Field, value: Any) -> int:
    """What the field's bits must be, said another way than the encoder does."""
    if field.type == "width":
        return {4: 0, 8: 1, 16: 2}[value]
    if field.type in SPEC.enums:
        return list(SPEC.enums[field.type]).index(value)
    return value % 2**field.bits


def values_of(field: Field) -> st.SearchStrategy[Any]:
    if field.type == "width" or field.type in SPEC.enums:
        return st.sampled_from(extremes(field))
    return st.integers(*limits(field))


@st.composite
def instructions(draw: st.DrawFn) -> Instruction:
    form = SPEC.formats[draw(st.sampled_from(list(SPEC.formats)))]
    return instruction(form.name, **{field.name: draw(values_of(field)) for field in form.fields[1:]})


def random_instruction(op: str, rng: random.Random) -> Instruction:
    fields = SPEC.formats[op].fields[1:]
    return instruction(op, **{field.name: rng.choice(extremes(field)) for field in fields})


# The formats


@every_op
def test_fields_are_packed_without_gap_or_overlap(op: str) -> None:
    rows = [item["field"] for item in raw_spec()["common"]]
    entry = next(item for item in raw_spec()["instruction"] if item["name"] == op)
    for item in entry["fields"]:
        rows += raw_spec()["groups"][item[1:]] if isinstance(item, str) else [item]
    offset = 0
    for field, (name, bits, kind, text) in zip(SPEC.formats[op].fields, rows, strict=True):
        assert field == Field(name, offset, bits, kind, text)
        offset += bits
    assert offset <= WORD_BITS


def test_opcodes_cannot_overlap() -> None:
    opcodes = [form.opcode for form in SPEC.formats.values()]
    assert len(set(opcodes)) == len(opcodes)
    assert all(form.fields[0] == Field("opcode", 0, 8, "uint", form.fields[0].text) for form in SPEC.formats.values())
    assert {encode([instruction(op)])[0] for op in SPEC.formats} == set(opcodes)


@every_op
def test_every_value_of_every_field_takes_its_own_bits_and_comes_back(op: str) -> None:
    base = int.from_bytes(encode([instruction(op)]), "little")
    for field in SPEC.formats[op].fields[1:]:
        mask = ((1 << field.bits) - 1) << field.offset
        for value in extremes(field):
            item = instruction(op, **{field.name: value})
            program = encode([item])
            word = int.from_bytes(program, "little")
            assert word & ~mask == base & ~mask, f"{field.name} = {value} touches another field"
            assert (word & mask) >> field.offset == bits_of(field, value)
            assert decode(program) == [item]


@every_op
def test_all_fields_at_once(op: str) -> None:
    rng = random.Random(op)
    program = [random_instruction(op, rng) for _ in range(50)]
    assert decode(encode(program)) == program


@given(st.lists(instructions(), max_size=5))
def test_encode_then_decode(program: list[Instruction]) -> None:
    words = encode(program)
    assert len(words) == SPEC.instruction_bytes * len(program)
    assert decode(words) == program


# Each word was put together by hand from the bit positions in the manual.
KNOWN = {
    # opcode 2; layer 3 from bit 8; wait0 1 from bit 24; signal1 2 from bit 44: bit 45;
    # dram_addr from bit 54; sram_addr from bit 86; bytes from bit 110
    "LOAD_RAW layer=3 wait=1 signal=0,2 dram_addr=0x12345678 sram_addr=0xabcdef bytes=5": (
        2 + (3 << 8) + (1 << 24) + (1 << 45) + (0x12345678 << 54) + (0xABCDEF << 86) + (5 << 110)
    ),
    # opcode 3; source sram: bit 54; stream_addr from 55; stream_bytes from 87; buffer_addr from 119;
    # weight_count from 143; weight_bits 16: code 2 from bit 167; row_weights from bit 169
    "LOADW layer=0 source=sram stream_addr=0x80 stream_bytes=40 buffer_addr=0x10 weight_count=16 weight_bits=16 row_weights=4": (
        3 + (1 << 54) + (0x80 << 55) + (40 << 87) + (0x10 << 119) + (16 << 143) + (2 << 167) + (4 << 169)
    ),
    # opcode 9; h from bit 190, w from 206, channels from 222; multiplier from 238, shift from 269; in_bits 8: 1 from
    # 276; in_zero_point -128 from 278; out_bits 4: code 0 from 294; out_zero_point 7 from 296; clamp_lo -8 from 312;
    # clamp_hi 7 from 328
    (
        "COPY layer=65535 h=1 w=2 channels=3 multiplier=2147483647 shift=127 in_zero_point=-128 out_bits=4"
        " out_zero_point=7 clamp_lo=-8 clamp_hi=7"
    ): (
        (9 + (65535 << 8) + (1 << 190) + (2 << 206) + (3 << 222) + (0x7FFFFFFF << 238) + (127 << 269) + (1 << 276))
        + ((0xFF80 << 278) + (7 << 296) + (0xFFF8 << 312) + (7 << 328))
    ),
}


@pytest.mark.parametrize("text", KNOWN)
def test_known_words(text: str) -> None:
    word = KNOWN[text].to_bytes(64, "little")
    assert encode(assemble(text)) == word
    assert disassemble(decode(word)).splitlines()[1] == text


def test_known_bytes() -> None:
    # opcode 10; layer 0x0102; signal0 31 is bit 7 of byte 4 and the low half of byte 5; dram_addr 1 is bit 6 of byte 6;
    # rows, pixels and pixel_bytes 1 are bit 2 of bytes 26, 28 and 30
    program = encode(assemble("STORE layer=258 signal=31 dram_addr=0x1 rows=1 pixels=1 pixel_bytes=1"))
    assert program.hex() == "0a020100800f40" + "00" * 19 + "0400040004" + "00" * 33


# What decode refuses


@every_op
def test_every_reserved_bit_is_refused(op: str) -> None:
    form = SPEC.formats[op]
    word = int.from_bytes(encode([instruction(op)]), "little")
    for bit in range(form.bits, WORD_BITS):
        program = encode([instruction(op)]) + (word | 1 << bit).to_bytes(SPEC.instruction_bytes, "little")
        with pytest.raises(
            QaccelError, match=rf"instruction 1 \({op}\): reserved bits from {form.bits} on are not zero"
        ):
            decode(program)


@every_op
def test_every_reserved_code_is_refused(op: str) -> None:
    for field in SPEC.formats[op].fields[1:]:
        codes = len(SPEC.widths) if field.type == "width" else len(SPEC.enums.get(field.type, ()))
        base = int.from_bytes(encode([instruction(op)]), "little") & ~(((1 << field.bits) - 1) << field.offset)
        for code in range(codes, 1 << field.bits) if codes else ():
            program = (base | code << field.offset).to_bytes(SPEC.instruction_bytes, "little")
            with pytest.raises(
                QaccelError, match=rf"instruction 0 \({op}\): {field.name} has the reserved code {code}"
            ):
                decode(program)


def test_unknown_opcodes_are_refused() -> None:
    for opcode in set(range(256)) - set(SPEC.by_opcode):
        with pytest.raises(QaccelError, match=f"instruction 0: unknown opcode {opcode}$"):
            decode(opcode.to_bytes(SPEC.instruction_bytes, "little"))


@pytest.mark.parametrize("extra", [1, SPEC.instruction_bytes - 1])
def test_a_torn_program_is_refused(extra: int) -> None:
    with pytest.raises(QaccelError, match=f"a program of {SPEC.instruction_bytes + extra} bytes is damaged"):
        decode(encode([instruction("COPY")]) + bytes(extra))


def test_the_empty_program() -> None:
    assert (encode([]), decode(b""), disassemble([]), assemble("# nothing\n\n")) == (b"", [], "", [])


# What instruction and replace refuse

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("JUMP", {}, "no instruction 'JUMP'; known are LOAD, "),
    ("CONV", {"rows": 1}, "CONV has no field 'rows'; it has layer, "),
    ("CONV", {"opcode": 4}, "CONV has no field 'opcode'"),
    ("CONV", {"layer": 65536}, "CONV.layer is 65536, must be 0 to 65535"),
    ("CONV", {"wait0": 32}, "CONV.wait0 is 32, must be 0 to 31"),
    ("CONV", {"in_addr": -1}, "CONV.in_addr is -1, must be 0 to 16777215"),
    ("CONV", {"in_zero_point": 32768}, "CONV.in_zero_point is 32768, must be -32768 to 32767"),
    ("CONV", {"clamp_lo": -32769}, "CONV.clamp_lo is -32769, must be -32768 to 32767"),
    ("CONV", {"finish": 2}, "CONV.finish is 2, must be 0 to 1"),
    ("CONV", {"weight_bits": 2}, "CONV.weight_bits is 2, must be one of 4, 8, 16"),
    ("CONV", {"weight_bits": "8"}, "CONV.weight_bits is '8', must be one of 4, 8, 16"),
    ("POOL", {"kind": "mean"}, "POOL.kind is 'mean', must be one of max, sum"),
    ("POOL", {"kind": 0}, "POOL.kind is 0, must be one of max, sum"),
    ("POOL", {"shift": 1.0}, "POOL.shift is 1.0, must be an integer"),
    ("POOL", {"shift": "1"}, "POOL.shift is '1', must be an integer"),
    ("POOL", {"multiplier": 1 << 31}, "POOL.multiplier is 2147483648, must be 0 to 2147483647"),
]


@pytest.mark.parametrize(("op", "values", "message"), REFUSED)
def test_refused_values(op: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(QaccelError, match=re.escape(message)):
        instruction(op, **values)


def test_values_put_in_behind_its_back_are_refused_on_encoding() -> None:
    with pytest.raises(QaccelError, match="COPY.h is 65536, must be 0 to 65535"):
        encode([Instruction("COPY", {**instruction("COPY").values, "h": 65536})])


def test_defaults_replace_and_access() -> None:
    item = instruction("POOL", finish=True, wait1=3, signal0=4)
    assert (item["layer"], item["kind"], item["in_bits"], item["finish"]) == (0, "max", 8, 1)
    assert (item.engine, item.waits, item.signals) == ("COMPUTE", (3,), (4,))
    changed = replace(item, kind="sum", in_bits=16)
    assert (changed["kind"], changed["in_bits"], changed.waits, item["kind"]) == ("sum", 16, (3,), "max")
    assert type(item["finish"]) is int


# Assembly


@given(st.lists(instructions(), max_size=6), st.lists(st.text(max_size=8), max_size=3))
def test_disassemble_then_assemble(program: list[Instruction], layers: list[str]) -> None:
    assert assemble(disassemble(program, layers)) == program


def test_disassembly_reads_well(update_golden: bool) -> None:
    rng = random.Random(0)
    program = [instruction(op, layer=index // 3) for index, op in enumerate(SPEC.formats)]
    program += [random_instruction(op, rng) for op in SPEC.formats]
    text = disassemble(program, ["conv1", "two\nlines"])
    path = GOLDEN / "disassembly.txt"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_assembler_comments_and_numbers() -> None:
    text = "\n# a comment\n  POOL kind=sum   in_addr=0x10 shift=0b11 ; why # not\n"
    assert assemble(text) == [instruction("POOL", kind="sum", in_addr=16, shift=3)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("JUMP", "no instruction 'JUMP'"),
        ("COPY h", "'h' is not field=value"),
        ("COPY h=1,2", "'h=1,2' is not field=value"),
        ("COPY wait=1,2,3,4", "'wait=1,2,3,4' is not field=value"),
        ("COPY h=1 h=2", "h is given twice"),
        ("COPY wait=1 wait0=2", "wait0 is given twice"),
        ("COPY rows=1", "COPY has no field 'rows'"),
        ("COPY h=many", "COPY.h is 'many', must be an integer"),
        ("COPY h=", "COPY.h is '', must be an integer"),
        ("COPY h=65536", "COPY.h is 65536, must be 0 to 65535"),
        ("COPY in_bits=5", "COPY.in_bits is 5, must be one of 4, 8, 16"),
        ("copy", "no instruction 'copy'"),
    ],
)
def test_assembler_errors_name_the_line(line: str, message: str) -> None:
    with pytest.raises(QaccelError, match=re.escape(f"line 3: {message}")):
        assemble(f"COPY\n# comment\n{line}\n")


def test_a_program_of_5000_instructions_is_encoded_in_half_a_second() -> None:
    program = [instruction("CONV", layer=index, out_h=7, finish=1) for index in range(5000)]
    begin = time.process_time()
    encode(program)
    assert time.process_time() - begin < 0.5


# A damaged isa.toml


def raw_spec() -> dict[str, Any]:
    return copy.deepcopy(_RAW)


_RAW = tomllib.loads((target_dir() / "isa.toml").read_text(encoding="utf-8"))


def conv(spec: dict[str, Any]) -> dict[str, Any]:
    return next(entry for entry in spec["instruction"] if entry["name"] == "CONV")


def field_row(spec: dict[str, Any], name: str) -> list[Any]:
    return next(row for group in spec["groups"].values() for row in group if row[0] == name)


Damage = Callable[[dict[str, Any]], object]
DAMAGES: list[tuple[str, Damage, str]] = [
    ("opcode twice", lambda s: conv(s).update(opcode=1), "CONV and LOAD have the same opcode 1"),
    ("opcode zero", lambda s: conv(s).update(opcode=0), "CONV: opcode 0 must be 1 to 255"),
    ("opcode too large", lambda s: conv(s).update(opcode=256), "CONV: opcode 256 must be 1 to 255"),
    ("name twice", lambda s: conv(s).update(name="LOAD", opcode=99), "instruction LOAD occurs twice"),
    ("engine", lambda s: conv(s).update(engine="DMA"), "CONV: unknown engine 'DMA'"),
    ("group", lambda s: conv(s)["fields"].insert(0, "@views"), "CONV: unknown field group '@views'"),
    ("no group", lambda s: conv(s)["fields"].insert(0, "window"), "CONV: unknown field group 'window'"),
    ("field twice", lambda s: conv(s)["fields"].append("@window"), "CONV: field in_h occurs twice"),
    ("type", lambda s: field_row(s, "in_h").__setitem__(2, "float"), "in_h: unknown type 'float'"),
    ("no bits", lambda s: field_row(s, "in_h").__setitem__(1, 0), "in_h: 0 bits are too few for uint"),
    ("narrow width", lambda s: field_row(s, "in_bits").__setitem__(1, 1), "in_bits: 1 bits are too few for width"),
    ("wide flag", lambda s: field_row(s, "finish").__setitem__(1, 2), "finish: a flag has 1 bit, not 2"),
    ("enum too large", lambda s: s["enums"].update(pool_kind=list("abcde")), "kind: 2 bits are too few for pool_kind"),
    ("enum named as a type", lambda s: s["enums"].update(flag=["a"]), "enum flag has the name of a built-in type"),
    ("word too short", lambda s: s.update(instruction_bytes=32), "fields take 312 bits, the word has 256"),
    ("opcode not first", lambda s: s["common"].reverse(), "the first common field is signal2, must be opcode"),
    ("missing entry", lambda s: conv(s).pop("time"), "time is missing"),
    ("missing table", lambda s: s.pop("semaphores"), "semaphores is missing"),
    ("semaphores", lambda s: s["semaphores"].update(count=63), "63 semaphores, but wait0 has 5 bits"),
    ("stream header", lambda s: s["stream"].update(header_bytes=7), "the stream header's fields take 40 bits"),
    ("stream width", lambda s: s["stream"].update(width_bits=1, codec_bits=7), "width_bits or codec_bits"),
    ("record", lambda s: s["params"].update(bytes=16), "the parameter record has 16 bytes, its fields take 96 bits"),
    (
        "multiplier",
        lambda s: s["params"].update(multiplier_bits=30),
        "POOL.multiplier has 31 bits, not multiplier_bits",
    ),
    ("record type", lambda s: s["params"]["layout"].append("x:float"), "'x:float' is not name:type"),
]


def test_the_undamaged_isa_parses() -> None:
    assert parse_isa(raw_spec()) == SPEC


@pytest.mark.parametrize(("damage", "message"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_a_damaged_isa_is_refused(damage: Damage, message: str) -> None:
    spec = raw_spec()
    damage(spec)
    with pytest.raises(QaccelError, match=re.escape(message)) as caught:
        parse_isa(spec)
    assert str(caught.value).startswith("isa.toml: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("contents", [b"version = ", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_refused(contents: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "isa.toml").write_bytes(contents)
    monkeypatch.setattr(isa_spec, "target_dir", lambda: tmp_path)
    with pytest.raises(QaccelError, match="isa.toml: not a valid TOML file"):
        isa_spec.isa.__wrapped__()


def test_the_parameter_record_is_laid_out_as_the_manual_says() -> None:
    """bias int32, M uint32, s uint8, three zero bytes."""
    records = np.zeros(2, params_record())
    records["bias"], records["multiplier"], records["shift"] = (-2, 1 << 30), (0x7FFFFFFF, 1), (255, 3)
    assert records.tobytes() == struct.pack("<iIB3xiIB3x", -2, 0x7FFFFFFF, 255, 1 << 30, 1, 3)
