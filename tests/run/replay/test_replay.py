"""tvmc replay: a folder of --emit-program passes, and one wrong byte in it, or in a machine, is found and named."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import qaccel
import small_models
from qaccel.cli.main import main
from qaccel.errors import UserError
from qaccel.machine.interpreter import semantics
from qaccel.machine.isa import decode, isa
from qaccel.run.replay import replay as replaying
from qaccel.run.replay.replay import replay
from tiers import wide_after

RANDOM_FLIPS = 60  # a third of a second each


@pytest.fixture(scope="module", params=wide_after(1, ["W4A8", "W8A8", "W16A16"]))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network with one program."""
    folder = tmp_path_factory.mktemp(request.param) / "program"
    model = small_models.chain()
    qaccel.compile(model, calibration_data=small_models.samples(model), bits=request.param, emit_program=folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "program"))


def flip(file: Path, at: int, mask: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= mask
    file.write_bytes(bytes(data))


def said(folder: Path) -> str:
    """The one line of the error that a replay ends with."""
    with pytest.raises(UserError) as error:
        replay(folder)
    text = str(error.value)
    assert text.startswith(f"program folder '{folder}': ")
    assert "\n" not in text
    return text.removeprefix(f"program folder '{folder}': ")


def rows(folder: Path) -> list[dict[str, str]]:
    header, *lines = (folder / "golden" / "accesses.csv").read_text().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def test_what_was_written_is_replayed(written: Path):
    (found,) = replay(written)
    program = decode((written / "program.bin").read_bytes())
    assert found.instructions == len(program)
    assert found.accesses == len(rows(written))
    assert found.compared_bytes == sum(path.stat().st_size for path in written.glob("golden/layer_*.bin"))
    assert {int(row["instruction"]) for row in rows(written)} == set(range(len(program)))
    for row in rows(written):
        assert (row["op"], int(row["layer"])) == (
            program[int(row["instruction"])].op,
            program[int(row["instruction"])]["layer"],
        )


def test_golden_data_of_a_convolution_are_plain_arithmetic(tmp_path: Path):
    """From the files alone: what a CONV writes is its operands' sum of products, requantized (W8A8, one instruction)."""
    folder = tmp_path / "program"
    model = small_models.chain()
    qaccel.compile(model, calibration_data=small_models.samples(model), bits=8, emit_program=folder)
    program = decode((folder / "program.bin").read_bytes())
    index, conv = next((i, each) for i, each in enumerate(program) if each.op == "CONV" and not each["forward"])
    found = []
    for row in rows(folder):
        if int(row["instruction"]) == index:
            sizes = [int(row[name]) for name in ("rows", "pixels", "pixel_bytes")]
            data = (folder / "golden" / f"layer_{int(row['layer']):03}.bin").read_bytes()
            begin = int(row["offset"])
            found.append(
                (
                    row["access"],
                    row["memory"],
                    np.frombuffer(data[begin : begin + np.prod(sizes)], np.int8).reshape(sizes),
                )
            )
    assert [each[:2] for each in found] == [
        ("read", "SRAM"), ("read", "weight buffer"), ("read", "SRAM"), ("write", "SRAM"),
    ]  # fmt: skip
    (_, _, a), (_, _, w), (_, _, records), (_, _, y) = found
    kernel, stride, dilation = ((conv[f"{name}_h"], conv[f"{name}_w"]) for name in ("kernel", "stride", "dilation"))
    channels, outputs = conv["in_channels"], conv["out_channels"]
    w = w.reshape(*kernel, channels, -1)[..., :outputs].astype(np.int64)
    records = np.ascontiguousarray(records).view(np.uint8).reshape(outputs, 12)
    bias = records[:, :4].copy().view("<i4")[:, 0].astype(np.int64)
    multiplier = records[:, 4:8].copy().view("<u4")[:, 0].astype(object)
    for oy in range(conv["out_h"]):
        for ox in range(conv["out_w"]):
            total = bias.copy()
            for ky in range(kernel[0]):
                for kx in range(kernel[1]):
                    iy = oy * stride[0] + ky * dilation[0] - conv["pad_top"]
                    ix = ox * stride[1] + kx * dilation[1] - conv["pad_left"]
                    if 0 <= iy < a.shape[0] and 0 <= ix < a.shape[1]:
                        total += (a[iy, ix].astype(np.int64) - conv["in_zero_point"]) @ w[ky, kx]
            for c in range(outputs):
                exact, unit = int(total[c]) * int(multiplier[c]), 1 << int(records[c, 8])
                q = exact // unit
                rest = 2 * (exact - q * unit) - unit
                q += rest > 0 or (rest == 0 and q % 2 == 1)
                assert y[oy, ox, c] == min(max(q + conv["out_zero_point"], conv["clamp_lo"]), conv["clamp_hi"])


def test_several_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "program"
    model = small_models.interrupted()
    qaccel.compile(model, calibration_data=small_models.samples(model), bits=8, emit_program=folder)
    assert [each.symbol for each in replay(folder)] == ["qaccel_0", "qaccel_1"]
    assert main(["replay", str(folder)]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["qaccel_0", "qaccel_1"]
    flip(folder / "qaccel_1" / "golden" / "output_0.bin", 5)
    with pytest.raises(
        UserError, match=r"program/qaccel_1': interpreter: output .* DRAM byte .*: expected 0x.., got 0x..$"
    ):
        replay(folder)


def test_beside_an_operator_that_only_tvm_has(tmp_path: Path):
    """Golden data of a network whose CPU part has no rule in NumPy: it was compiled together with the accelerator's functions."""
    model = small_models.volume()
    samples = small_models.samples(model)
    module = qaccel.compile(model, calibration_data=samples, bits=8, emit_program=tmp_path / "program")
    assert [each.op for each in module.report.fallback] == ["Conv"]
    assert "it has three dimensions, and the accelerator works on planes" in module.notes[-1]
    assert [each.symbol for each in replay(tmp_path / "program")] == ["qaccel_0"]


@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("op", ["LOAD", "LOADW", "CONV", "POOL", "STORE"])
def test_a_wrong_golden_byte_is_named(folder: Path, op: str, access: str):
    """Instruction, layer, address, expected and got; the last byte of the last access of that kind."""
    row = [each for each in rows(folder) if each["op"] == op and each["access"] == access][-1]
    sizes = {name: int(row[name]) for name in ("rows", "pixels", "pixel_bytes")}
    file = folder / "golden" / f"layer_{int(row['layer']):03}.bin"
    at = int(row["offset"]) + int(np.prod(list(sizes.values()))) - 1
    right = file.read_bytes()[at]
    flip(file, at, 0x81)
    address = (
        int(row["addr"])
        + (sizes["rows"] - 1) * int(row["row_stride"])
        + (sizes["pixels"] - 1) * int(row["pixel_stride"])
    )
    layers = json.loads((folder / "memory_map.json").read_text())["layers"]
    assert said(folder) == (
        f"interpreter: instruction {row['instruction']} ({op}) of layer {row['layer']} '{layers[int(row['layer'])]}': {access}s "
        f"{row['memory']} byte {address + sizes['pixel_bytes'] - 1:#010x}: expected {right ^ 0x81:#04x}, got {right:#04x}"
    )


def test_a_wrong_byte_of_a_stream_is_named(folder: Path):
    """Whichever reads it first: a stream has a checksum, and golden data have what is fetched."""
    layout = json.loads((folder / "memory_map.json").read_text())
    row = next(each for each in rows(folder) if each["op"] == "LOADW" and each["memory"] == "DRAM")
    flip(folder / "constants.bin", int(row["addr"]) - layout["constants"]["dram_addr"] + int(row["pixel_bytes"]) // 2)
    text = said(folder)
    assert text.startswith(f"interpreter: instruction {row['instruction']} (LOADW) of layer {row['layer']} ")
    assert "checksum" in text


def test_a_wrong_parameter_is_named(folder: Path):
    layout = json.loads((folder / "memory_map.json").read_text())
    row = next(each for each in rows(folder) if each["op"] == "LOAD_RAW")
    flip(folder / "constants.bin", int(row["addr"]) - layout["constants"]["dram_addr"])
    assert re.match(
        rf"interpreter: instruction {row['instruction']} \(LOAD_RAW\) of layer .*: reads DRAM byte 0x{int(row['addr']):08x}: ",
        said(folder),
    )


def test_a_wrong_byte_of_the_input_is_named(folder: Path):
    flip(folder / "golden" / "input_0.bin", 0)
    layout = json.loads((folder / "memory_map.json").read_text())
    assert (
        f"(LOAD) of layer 0 '{layout['layers'][0]}': reads DRAM byte {layout['inputs'][0]['dram_addr']:#010x}"
        in said(folder)
    )


def test_a_wrong_field_of_the_program_is_named(folder: Path):
    program = decode((folder / "program.bin").read_bytes())
    index = next(i for i, each in enumerate(program) if each.op == "CONV")
    field = next(each for each in isa().formats["CONV"].fields if each.name == "clamp_hi")
    flip(folder / "program.bin", index * isa().instruction_bytes + field.offset // 8, 1 << field.offset % 8)
    value = program[index]["clamp_hi"]
    assert said(folder) == (
        f"instruction {index} (CONV) of layer {program[index]['layer']}: program.bin has clamp_hi {value ^ 1}, program.asm {value}"
    )


def test_no_flipped_byte_passes(written: Path, folder: Path):
    """Any byte of program, constants and golden data, at random: always one line, never a pass."""
    rng = np.random.default_rng(3)
    files = [
        "program.bin",
        "constants.bin",
        *(str(p.relative_to(folder)) for p in sorted((folder / "golden").glob("*.bin"))),
    ]
    for _ in range(RANDOM_FLIPS):
        name = files[rng.integers(len(files))]
        at = int(rng.integers((folder / name).stat().st_size))
        flip(folder / name, at, 1 << int(rng.integers(8)))
        assert said(folder), (name, at)
        shutil.copy(written / name, folder / name)
    replay(folder)


@pytest.mark.parametrize("name", ["memory_map.json", "program.asm", "golden/accesses.csv"])
def test_no_damage_to_a_text_is_more_than_a_user_error(written: Path, folder: Path, name: str):
    """Bytes flipped, cut off, doubled: an error of one line, or a name or a comment that nobody runs."""
    rng = np.random.default_rng(4)
    for turn in range(30):
        data = bytearray((written / name).read_bytes())
        at = int(rng.integers(len(data)))
        if turn % 3 == 0:
            data[at] ^= 1 << int(rng.integers(7))
        elif turn % 3 == 1:
            del data[at:]
        else:
            data[at:at] = data[at : at + 40]
        (folder / name).write_bytes(bytes(data))
        try:
            replay(folder)
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("byte", [b"\r", b'"', b"\0"])
def test_a_byte_that_tables_may_treat_in_a_way_of_their_own_is_named(written: Path, folder: Path, byte: bytes):
    data = (written / "golden" / "accesses.csv").read_bytes()
    end = data.index(b"\n", data.index(b"\n") + 1)  # of line 2
    (folder / "golden" / "accesses.csv").write_bytes(data[: end - 1] + byte + data[end:])
    with pytest.raises(UserError, match="accesses.csv line 2: not a row"):
        replay(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory_map.json", "memory_map.json"),
        ("program.bin", "program.bin cannot be read: No such file"),
        ("program.asm", "program.asm cannot be read"),
        ("constants.bin", "constants.bin cannot be read"),
        ("golden/accesses.csv", "golden/accesses.csv cannot be read"),
        ("golden/layer_000.bin", "golden/layer_000.bin has not the"),
        ("golden/output_0.bin", "golden/output_0.bin cannot be read"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]):
    (folder / name).unlink()
    assert main(["replay", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: program folder '{folder}'") and text in line


def test_other_folders_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        replay(tmp_path / "nothing")
    layout = json.loads((folder / "memory_map.json").read_text())
    for key, value, what in (
        ("format", 99, "format is 99"),
        ("isa_version", 1, "ISA version is 1"),
        ("dram_bytes", 1 << 40, "dram_bytes is 1099511627776"),
        ("program", {**layout["program"], "file": "../../secret"}, "outside of the folder"),
        ("inputs", 5, "memory_map.json is damaged"),
    ):
        (folder / "memory_map.json").write_text(json.dumps({**layout, key: value}))
        assert what in said(folder)


def test_a_wrong_interpreter_is_named(written: Path, monkeypatch: pytest.MonkeyPatch):
    right = semantics.requantized
    monkeypatch.setattr(semantics, "requantized", lambda ins, *rest: right(ins, *rest) ^ (ins.op == "POOL"))
    row = next(each for each in rows(written) if each["op"] == "POOL")
    assert said(written).startswith(f"interpreter: instruction {row['instruction']} (POOL) of layer {row['layer']} ")


@pytest.mark.parametrize("memory", ["SRAM", "DRAM"])
def test_a_wrong_simulator_is_named(written: Path, monkeypatch: pytest.MonkeyPatch, memory: str):
    """One byte that it writes is another one."""
    row = [each for each in rows(written) if each["access"] == "write" and each["memory"] == memory][-1]
    right = replaying.simulate

    def wrong(hw, program, dram, **options):
        counters = right(hw, program, dram, **options)
        if memory == "DRAM":
            dram[int(row["addr"])] ^= 2
        else:
            places = [each[:2] for each in options["snapshots"]]
            at = places.index((int(row["instruction"]), int(row["addr"])))
            data = counters["snapshots"][at]
            counters["snapshots"][at] = bytes([data[0] ^ 2]) + data[1:]
        return counters

    monkeypatch.setattr(replaying, "simulate", wrong)
    assert said(written).startswith(
        f"simulator: instruction {row['instruction']} ({row['op']}) of layer {row['layer']} "
        f"'{json.loads((written / 'memory_map.json').read_text())['layers'][int(row['layer'])]}': writes {memory} byte "
        f"{int(row['addr']):#010x}: "
    )
