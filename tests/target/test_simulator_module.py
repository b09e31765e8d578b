"""The runtime module: tensors in and out, batches, damage, saving and loading."""

import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax

from qaccel.errors import QaccelError
from qaccel.machine.artefact import Artefact, TensorSlot
from qaccel.machine.isa import encode, instruction, isa
from qaccel.machine.simulator import create_module, simulate
from target.machine import HW, pack, unpack, whole_range

SHAPE = (2, 3, 5)


def negation(bits: int) -> Artefact:
    """y = clamp(-x): LOAD, COPY of Z - x by ELTWISE, STORE, all dense."""
    pixel = -(-SHAPE[2] * bits // 8)
    size = SHAPE[0] * SHAPE[1] * pixel
    out_addr = -(-size // 64) * 64
    rows = {"rows": 1, "pixels": 1, "pixel_bytes": size}
    views = {f"{v}_{s}_stride": n for v in ("in", "b", "out") for s, n in (("row", SHAPE[1] * pixel), ("pixel", pixel))}
    program = encode(
        [
            instruction("LOAD", **rows, signal0=1),
            instruction(
                "ELTWISE", wait0=1, signal0=2, **views, h=2, w=3, channels=5, in_addr=0, b_addr=0, out_addr=1024, kind="sub",
                multiplier=1, b_multiplier=2, in_bits=bits, b_bits=bits, **whole_range(bits),
            ),
            instruction("STORE", wait0=2, sram_addr=1024, dram_addr=out_addr, **rows),
        ]
    )  # fmt: skip
    return Artefact(
        symbol="negate", isa_version=isa().version, hw=HW, layers=("all",), program_addr=2 * out_addr, program=program,
        constants_addr=2 * out_addr + 192, constants=b"\1\2\3", dram_bytes=2 * out_addr + 256,
        inputs=(TensorSlot("x", 0, SHAPE, bits),), outputs=(TensorSlot("y", out_addr, SHAPE, bits),),
    )  # fmt: skip


def tensors(bits: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    half = 1 << (bits - 1)
    dtype = np.int16 if bits == 16 else np.int8
    x = np.random.default_rng(bits).integers(-half, half, (batch, *SHAPE)).astype(dtype)
    return x, np.full_like(x, 99)


def call(module, name: str, *arrays: np.ndarray):
    return module[name](*(tvm_ffi.from_dlpack(array) for array in arrays))


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("name", ["negate", "run_cycle_mode"])
def test_batches_run_sample_by_sample(bits: int, name: str) -> None:
    module = create_module(negation(bits).to_bytes())
    for batch in (1, 3, 1):
        x, y = tensors(bits, batch)
        report = call(module, name, x, y)
        np.testing.assert_array_equal(y, np.minimum(-x.astype(int), (1 << (bits - 1)) - 1))
        if name == "run_cycle_mode":
            assert json.loads(str(report))["cycles"] == json.loads(str(module["profile"]()))["cycles"] > 0


def test_an_empty_batch_is_nothing_to_do() -> None:
    x, y = tensors(8, 0)
    call(create_module(negation(8).to_bytes()), "negate", x, y)


def test_the_module_does_what_simulate_does() -> None:
    artefact = negation(4)
    dram = np.zeros(artefact.dram_bytes, np.uint8)
    x, y = tensors(4, 1)
    data = np.frombuffer(pack(x[0], 4), np.uint8)
    dram[: data.size] = data
    simulate(artefact.hw, artefact.program, dram, initialised=[(0, data.size)])
    call(create_module(artefact.to_bytes()), "negate", x, y)
    slot = artefact.outputs[0]
    np.testing.assert_array_equal(unpack(dram[slot.dram_addr :][: slot.dram_bytes].tobytes(), SHAPE, 4), y[0])


def test_profile_and_artefact() -> None:
    data = negation(8).to_bytes()
    module = create_module(data)
    assert module.kind == "qaccel" and bytes(module["get_artefact"]()) == data
    assert "trace" not in json.loads(str(module["profile"]()))
    assert module["cycles"]() == json.loads(str(module["profile"]()))["cycles"] > 0
    assert len(json.loads(str(module["profile"](True)))["trace"]["start"]) == 3
    with pytest.raises(AttributeError):
        module["other"]


def test_its_bytes_can_be_had_again_once_only_dram_holds_them() -> None:
    """After it ran and after it failed, with what follows the last blob; and where program and constants lie over each other."""
    whole = negation(8)
    over_each_other = replace(whole, constants_addr=whole.program_addr, constants=bytes(5)).to_bytes()
    body = whole.to_bytes()[16:] + b"more"
    longer = whole.to_bytes()[:12] + struct.pack("<I", zlib.crc32(body)) + body
    for data in (whole.to_bytes(), over_each_other, longer):
        module = create_module(data)
        x, y = tensors(8, 1)
        for _ in range(2):
            call(module, "negate", x, y)
            assert bytes(module["get_artefact"]()) == data
    narrow = create_module(data := negation(4).to_bytes())
    x, y = tensors(4, 1)
    with pytest.raises(RuntimeError, match="outside 4 bits"):
        call(narrow, "negate", np.full_like(x, 8), y)
    assert bytes(narrow["get_artefact"]()) == data
    call(narrow, "negate", x, y)
    np.testing.assert_array_equal(y, np.minimum(-x.astype(int), 7))


@pytest.mark.parametrize("suffix", ["so", "tar"])
def test_it_survives_export_and_load(tmp_path, suffix: str) -> None:
    """As one of the modules of an executable: its functions answer after loading, under the same symbol."""
    mod = identity().with_attr("external_mods", [create_module(negation(8).to_bytes())])
    path = tmp_path / f"m.{suffix}"
    relax.build(mod, target="llvm").export_library(str(path))
    loaded = tvm.runtime.load_module(str(path))
    found = [m for m in walk(loaded) if m.kind == "qaccel"]
    x, y = tensors(8, 2)
    call(found[0], "negate", x, y)
    np.testing.assert_array_equal(y, np.minimum(-x.astype(int), 127))


def walk(module):
    yield module
    for imported in module.imports:
        yield from walk(imported)


def identity() -> tvm.IRModule:
    """A Relax module that returns its input."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1,), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(x)
    return builder.get()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x,), "called with 1 tensors, takes 1 inputs and 1 outputs"),
        (lambda x, y: (x.astype(np.int16), y), r"tensor x must be int8 \[N, 2, 3, 5\] on the CPU"),
        (lambda x, y: (x.astype(np.uint8), y), "tensor x must be int8"),
        (lambda x, y: (x[0], y), "tensor x must be int8"),
        (lambda x, y: (x[:, :1], y), "tensor x must be int8"),
        (lambda x, y: (x, y[:1]), "tensor y has a batch of 1, the one before 2"),
        (
            lambda x, y: (x, y[:, ::-1][:, ::-1].transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3)),
            "tensor y must be contiguous",
        ),
        (lambda x, y: (np.full_like(x, 8), y), "input x holds 8, outside 4 bits"),
    ],
)
def test_wrong_tensors(change, message: str) -> None:
    module = create_module(negation(4).to_bytes())
    with pytest.raises(RuntimeError, match=message):
        call(module, "negate", *change(*tensors(4, 2)))
    x, y = tensors(4, 1)
    call(module, "negate", x, y)  # nothing is left over from the failure
    np.testing.assert_array_equal(y, np.minimum(-x.astype(int), 7))


def test_views_into_larger_arrays_keep_their_offset() -> None:
    module = create_module(negation(8).to_bytes())
    x, y = tensors(8, 3)
    call(module, "negate", x[1:2], y[1:2])
    np.testing.assert_array_equal(y[1], np.minimum(-x[1].astype(int), 127))
    assert (y[[0, 2]] == 99).all()


def test_an_output_that_the_program_does_not_write() -> None:
    artefact = negation(8)
    slot = replace(artefact.outputs[0], shape=(2, 3, 6))
    module = create_module(replace(artefact, outputs=(slot,)).to_bytes())
    x = tensors(8, 1)[0]
    with pytest.raises(RuntimeError, match="machine error: negate: nothing has written byte 94 of DRAM, of output y"):
        call(module, "negate", x, np.zeros((1, 2, 3, 6), np.int8))


def test_errors_of_the_program_name_the_layer() -> None:
    artefact = negation(8)
    program = bytearray(artefact.program)
    program[64 + 63] = 1
    module = create_module(replace(artefact, program=bytes(program)).to_bytes())
    with pytest.raises(RuntimeError, match=r"machine error: instruction 1 \(opcode 7\): .*reserved"):
        call(module, "negate", *tensors(8, 1))


def resealed(data: bytes, edit) -> bytes:
    body = bytearray(data[16:])
    edit(body)
    return data[:12] + struct.pack("<I", zlib.crc32(bytes(body))) + bytes(body)


def swap(old: bytes, new: bytes):
    def edit(body: bytearray) -> None:
        assert old in body and len(old) == len(new)
        body[:] = bytes(body).replace(old, new, 1)

    return edit


DATA = negation(8).to_bytes()
DAMAGED = {
    "nothing": (b"", "not a qaccel artefact; compile the model again"),
    "other file": (b"\x7fELF" + bytes(100), "not a qaccel artefact"),
    "container version": (
        DATA[:4] + struct.pack("<I", 9) + DATA[8:],
        "container version 9, this qaccel reads 1; compile again",
    ),
    "cut off": (DATA[:-1], "checksum mismatch, the file is damaged; compile the model again"),
    "flipped": (DATA[:100] + bytes([DATA[100] ^ 1]) + DATA[101:], "checksum mismatch"),
    "ISA version": (
        resealed(DATA, swap(f'"isa_version":{isa().version}'.encode(), b'"isa_version":9')),
        f"subgraph negate: built for ISA version 9, this qaccel runs {isa().version}; compile again",
    ),
    "not JSON": (resealed(DATA, swap(b'"hw":{', b'"hw"={')), "description is damaged: JSON: damaged at byte"),
    "no symbol": (resealed(DATA, swap(b'"symbol"', b'"symbal"')), "description is damaged: symbol is missing"),
    "bad width": (resealed(DATA, swap(b'"bits":8', b'"bits":7')), "x has 7 bits"),
    "bad shape": (resealed(DATA, swap(b'"shape":[2,', b'"shape":[0,')), "x has a bad shape"),
    "outside DRAM": (resealed(DATA, swap(b'"shape":[2,', b'"shape":[9,')), "is outside DRAM|overlaps program"),
    "text beyond the file": (DATA[:8] + struct.pack("<I", 1 << 30) + DATA[12:], "checksum mismatch"),
}


@pytest.mark.parametrize("name", list(DAMAGED))
def test_damaged_artefacts(name: str) -> None:
    data, message = DAMAGED[name]
    with pytest.raises(QaccelError, match=message) as caught:
        create_module(data)
    assert str(caught.value).startswith("accelerator subgraph") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("snapshot", "mode", "error"),
    [
        ((10**6, 0, 4), "functional", r"snapshot \[1000000, 0, 4\] is outside the program or SRAM"),
        ((0, 1 << 40, 4), "functional", "is outside the program or SRAM"),
        ((0, 4096, 4), "functional", r"snapshot: nothing has written byte \d+ of SRAM after instruction 0"),
        ((0, 0, 4), "cycle", "snapshots are for functional mode"),
    ],
)
def test_snapshots_that_cannot_be_taken(snapshot: tuple[int, int, int], mode: str, error: str) -> None:
    artefact = negation(8)
    dram = np.zeros(artefact.dram_bytes, np.uint8)
    with pytest.raises(QaccelError, match=error):
        simulate(
            artefact.hw, artefact.program, dram, mode=mode, initialised=[(0, dram.size)], snapshots=[snapshot],
            program_addr=artefact.program_addr,
        )  # fmt: skip
