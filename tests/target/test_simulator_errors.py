"""Every fault that the machine knows, in a program that has it: one line that names instruction, layer, value and limit."""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from qaccel.errors import QaccelError
from qaccel.machine.interpreter.streams import raw_stream, sealed
from qaccel.machine.isa import Instruction, encode, instruction
from qaccel.machine.isa import replace as with_fields
from qaccel.machine.simulator import simulate
from target.machine import HW, records, whole_range

DATA = 1024  # DRAM: writable 0..1023, then constants
LAYERS = ("first", "second")
WINDOW = {k: 1 for k in ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w")}
CONV, STORE, LAYER_INDEX = 3, 6, 1


@dataclass(frozen=True)
class Case:
    """A small program that runs as it is: load, compute (CONV, DEPTHWISE, COPY), store."""

    instructions: tuple[Instruction, ...]
    dram: np.ndarray
    initialised: tuple[tuple[int, int], ...]
    read_only: tuple[tuple[int, int], ...]
    options: dict = field(default_factory=dict)

    def change(self, index: int, **values) -> "Case":
        changed = list(self.instructions)
        changed[index] = with_fields(changed[index], **values)
        return replace(self, instructions=tuple(changed))

    def insert(self, index: int, *new: Instruction) -> "Case":
        return replace(self, instructions=self.instructions[:index] + new + self.instructions[index:])

    def byte(self, addr: int, value: int) -> "Case":
        dram = self.dram.copy()
        dram[addr] = value
        return replace(self, dram=dram)

    def run(self, mode: str) -> dict:
        program = self.options.get("program", encode(self.instructions))
        return simulate(
            self.options.get("hw", HW), program, self.dram.copy(), mode=mode, initialised=self.initialised,
            read_only=self.read_only, layers=LAYERS,
        )  # fmt: skip


def good() -> Case:
    """x int8 [1, 4, 4] at 0, CONV 4 -> 4 to 0x100, DEPTHWISE to 0x200, COPY to 0x300, stored. Parameters at 0x400."""
    stream = raw_stream(np.arange(-8, 8), 8)
    params = records([1, 2, 3, 4], [1 << 30] * 4, [31] * 4)
    dram = np.zeros(DATA + 128, np.uint8)
    dram[:16] = np.arange(16)
    dram[DATA : DATA + 48] = np.frombuffer(params, np.uint8)
    dram[DATA + 48 : DATA + 48 + len(stream)] = np.frombuffer(stream, np.uint8)
    views = {"in_row_stride": 16, "in_pixel_stride": 4, "out_row_stride": 16, "out_pixel_stride": 4}
    size = {"in_h": 1, "in_w": 4, "out_h": 1, "out_w": 4}
    common = {**views, "layer": LAYER_INDEX, **whole_range(8)}
    instructions = (
        instruction(
            "LOAD", rows=1, pixels=4, pixel_bytes=4, dram_row_stride=16, dram_pixel_stride=4, sram_row_stride=16,
            sram_pixel_stride=4, signal0=1,
        ),
        instruction("LOAD_RAW", dram_addr=DATA, sram_addr=0x400, bytes=48, signal0=2),
        instruction("LOADW", stream_addr=DATA + 48, stream_bytes=len(stream), weight_count=16, row_weights=4, signal0=3),
        instruction(
            "CONV", wait0=1, wait1=2, wait2=3, **WINDOW, **size, **common, in_channels=4, out_channels=4, out_addr=0x100,
            param_addr=0x400, finish=1,
        ),
        instruction(
            "DEPTHWISE", **WINDOW, **size, **common, channels=4, in_addr=0x100, out_addr=0x200, param_addr=0x400, finish=1
        ),
        instruction("COPY", **common, h=1, w=4, channels=4, in_addr=0x200, out_addr=0x300, multiplier=1, signal0=4),
        instruction("STORE", wait0=4, sram_addr=0x300, dram_addr=512, rows=1, pixels=1, pixel_bytes=16),
    )  # fmt: skip
    return Case(instructions, dram, ((0, 16), (DATA, DATA + 128)), ((DATA, DATA + 128),))


def pool(**values) -> Instruction:
    fields = {
        **WINDOW,
        "in_h": 1,
        "in_w": 4,
        "out_h": 1,
        "out_w": 4,
        "channels": 4,
        "in_addr": 0x100,
        "out_addr": 0x500,
    }
    fields |= {"in_row_stride": 16, "in_pixel_stride": 4, "out_row_stride": 16, "out_pixel_stride": 4, "multiplier": 1}
    return instruction("POOL", **{**fields, **whole_range(8), "finish": 1, "layer": LAYER_INDEX, **values})


def eltwise(**values) -> Instruction:
    fields = {"h": 1, "w": 4, "channels": 4, "in_addr": 0x100, "b_addr": 0x200, "out_addr": 0x500, "multiplier": 1}
    for view in ("in", "b", "out"):
        fields |= {f"{view}_row_stride": 16, f"{view}_pixel_stride": 4}
    return instruction("ELTWISE", **{**fields, **whole_range(8), "layer": LAYER_INDEX, **values})


def after_depthwise(*new: Instruction) -> Callable[[Case], Case]:
    return lambda case: case.insert(5, *new)


def program_bytes(edit: Callable[[bytearray], object]) -> Callable[[Case], Case]:
    def changed(case: Case) -> Case:
        data = bytearray(encode(case.instructions))
        edit(data)
        return replace(case, options={**case.options, "program": bytes(data)})

    return changed


def stream(data: bytes, **values) -> Callable[[Case], Case]:
    """The weight stream replaced, with a right checksum."""

    def changed(case: Case) -> Case:
        dram = case.dram.copy()
        dram[DATA + 48 : DATA + 48 + len(data)] = np.frombuffer(data, np.uint8)
        return replace(case, dram=dram).change(2, stream_bytes=len(data), **values)

    return changed


def big_sums(case: Case) -> Case:
    """-128 * -128 * 4 plus the largest bias."""
    dram = case.dram.copy()
    dram[:16] = 0x80
    dram[DATA : DATA + 4] = np.frombuffer(struct.pack("<i", (1 << 31) - 1), np.uint8)
    dram[DATA + 48 : DATA + 48 + 21] = np.frombuffer(raw_stream(np.full(16, -128), 8), np.uint8)
    return replace(case, dram=dram)


def hw(**values) -> Callable[[Case], Case]:
    return lambda case: replace(case, options={**case.options, "hw": replace(HW, **values)})


IN_CONV = r"instruction 3 \(CONV\), layer 1 'second': "
OPEN = {"finish": 0}
FAULTS: dict[str, tuple[Callable[[Case], Case], str]] = {
    # The program itself
    "program cut": (program_bytes(lambda d: d.pop()), r"program of 447 bytes is not a multiple of 64"),
    "unknown opcode": (program_bytes(lambda d: d.__setitem__(64, 99)), r"instruction 1 \(opcode 99\): unknown opcode"),
    "zero opcode": (program_bytes(lambda d: d.__setitem__(0, 0)), r"instruction 0 \(opcode 0\): unknown opcode"),
    "reserved bit": (
        program_bytes(lambda d: d.__setitem__(4 * 64 + 63, 0x80)),
        r"instruction 4 \(opcode 5\): .*reserved bits",
    ),
    "reserved width": (
        program_bytes(
            lambda d: (
                d.__setitem__(2 * 64 + 20, d[2 * 64 + 20] | 0x80) or d.__setitem__(2 * 64 + 21, d[2 * 64 + 21] | 1)
            )
        ),
        r"instruction 2 \(opcode 3\): .*weight_bits",
    ),
    # Semaphores
    "waits twice": (lambda c: c.change(CONV, wait1=1), IN_CONV + "waits for semaphore 1 twice"),
    "signals twice": (lambda c: c.change(0, signal1=1), r"LOAD\), layer 0 'first': signals semaphore 1 twice"),
    "waits and signals": (lambda c: c.change(CONV, signal0=1), "both waits for and signals semaphore 1"),
    "second producer": (lambda c: c.change(2, signal1=1), "signals semaphore 1, whose producer is LOAD"),
    "second consumer": (lambda c: c.change(STORE, wait1=1), "waits for semaphore 1, whose consumer is COMPUTE"),
    "token left over": (lambda c: c.change(0, signal1=9), "ends with 1 tokens left in semaphore 9"),
    "deadlock": (
        lambda c: c.change(0, signal0=0),
        r"deadlock: LOAD: nothing queued; .*COMPUTE: instruction 3 \(CONV\), layer 1 'second' waits for semaphore 1; STORE: instruction 6",
    ),
    "deadlock on a full semaphore": (
        lambda c: c.insert(0, *[instruction("LOAD_RAW", dram_addr=0, sram_addr=0x700, bytes=1, signal0=9)] * 65),
        "cannot signal semaphore 9, which is full",
    ),
    "deadlock on a full queue": (
        lambda c: c.insert(
            3, *[instruction("STORE", wait0=5, sram_addr=0, dram_addr=600, rows=1, pixels=1, pixel_bytes=1)] * 20
        ).change(CONV + 20, signal0=5),
        "deadlock: .*COMPUTE: nothing queued; STORE: instruction 3 ",
    ),
    # Memory
    "DRAM read outside": (
        lambda c: c.change(1, dram_addr=DATA + 100),
        r"reads bytes 1124..1171 of DRAM, which has 1152",
    ),
    "DRAM read far outside": (
        lambda c: c.change(0, dram_addr=0xFFFFFFFF, rows=65535, dram_row_stride=0xFFFFFFFF, sram_row_stride=0),
        "of DRAM, which has 1152",
    ),
    "DRAM write outside": (
        lambda c: c.change(STORE, dram_addr=1150),
        "writes bytes 1150..1165 of DRAM, which has 1152",
    ),
    "SRAM write outside": (
        lambda c: c.change(1, sram_addr=HW.sram_bytes - 47),
        "writes bytes .* of SRAM, which has 524288",
    ),
    "SRAM read outside": (
        lambda c: c.change(CONV, in_row_stride=1 << 23, in_h=2, out_h=2, out_row_stride=16),
        "of SRAM",
    ),
    "weights written outside": (lambda c: c.change(2, buffer_addr=HW.weight_buffer_bytes - 15), "of the weight buffer"),
    "weights read outside": (
        lambda c: c.change(CONV, weight_addr=HW.weight_buffer_bytes - 15),
        IN_CONV + "reads .* weight buffer",
    ),
    "uninitialised DRAM": (lambda c: c.change(0, dram_addr=16), "reads byte 16 of DRAM, which nothing has written"),
    "uninitialised SRAM": (
        lambda c: c.change(CONV, in_addr=1),
        IN_CONV + "reads byte 16 of SRAM, which nothing has written",
    ),
    "uninitialised footprint beside the taps": (
        lambda c: c.change(
            CONV, in_row_stride=4, in_h=3, in_w=2, out_h=2, out_w=1, kernel_h=1, stride_h=2, in_pixel_stride=12
        ),
        "which nothing has written",
    ),
    "uninitialised weights": (lambda c: c.change(CONV, weight_addr=1), "reads byte 16 of the weight buffer"),
    "uninitialised parameters": (lambda c: c.change(CONV, param_addr=0x404), IN_CONV + "reads byte 1072 of SRAM"),
    "read-only DRAM": (lambda c: c.change(STORE, dram_addr=DATA - 8), r"writes byte 1024 of DRAM, which is read-only"),
    "output overlaps itself": (
        lambda c: c.change(CONV, out_pixel_stride=3),
        IN_CONV + "output view: its pixels overlap",
    ),
    "output repeats a pixel": (lambda c: c.change(CONV, out_pixel_stride=0), "its pixels overlap"),
    "load overlaps itself": (
        lambda c: c.change(0, rows=4, dram_row_stride=0, sram_row_stride=15),
        "its pixels overlap",
    ),
    "store overlaps itself": (lambda c: c.change(STORE, rows=2, dram_row_stride=15), "its pixels overlap"),
    "output overlaps input": (
        lambda c: c.change(CONV, out_addr=12),
        IN_CONV + "writes byte 12 of SRAM, which it reads as well",
    ),
    "output overlaps parameters": (
        lambda c: c.change(CONV, out_addr=0x3F8),
        "writes byte 1024 of SRAM, which it reads as well",
    ),
    "copy in place": (lambda c: c.change(5, out_addr=0x200), "which it reads as well"),
    "eltwise shifted in place": (after_depthwise(eltwise(out_addr=0x104)), "which it reads as well"),
    # Races
    "race, read after write": (
        lambda c: c.change(STORE, wait0=0).change(5, signal0=0),
        "STORE.*(race|nothing has written)",
    ),
    "race with an earlier store": (
        lambda c: c.insert(7, instruction("LOAD_RAW", dram_addr=512, sram_addr=0x800, bytes=4)),
        r"LOAD_RAW.*(race: reads byte 512 of DRAM.*\(instruction 6 \(STORE\)|nothing has written)|STORE.*race",
    ),
    "race, write after read": (
        lambda c: c.insert(5, instruction("LOAD_RAW", dram_addr=0, sram_addr=0x100, bytes=4)),
        r"race: (reads|writes) byte 256 of SRAM, unordered with the instruction that (reads|writes) it \(instruction \d \(",
    ),
    "race, weight buffer": (
        lambda c: c.insert(3, c.instructions[2]).change(3, signal0=0),
        "race: .* of the weight buffer",
    ),
    # Sizes and values
    "zero rows": (lambda c: c.change(0, rows=0), "rows is 0, must be at least 1"),
    "zero bytes": (lambda c: c.change(1, bytes=0), "bytes is 0, must be at least 1"),
    "zero weights": (lambda c: c.change(2, weight_count=0), "weight_count is 0"),
    "zero kernel": (lambda c: c.change(CONV, kernel_h=0), IN_CONV + "kernel_h is 0"),
    "zero stride": (lambda c: c.change(CONV, stride_w=0), "stride_w is 0"),
    "zero dilation": (lambda c: c.change(CONV, dilation_h=0), "dilation_h is 0"),
    "zero output": (lambda c: c.change(CONV, out_w=0), "out_w is 0"),
    "zero input": (lambda c: c.change(CONV, in_h=0), "in_h is 0"),
    "zero channels": (lambda c: c.change(5, channels=0), r"COPY\).*channels is 0"),
    "zero point too large": (
        lambda c: c.change(CONV, in_bits=4, in_zero_point=8),
        "in_zero_point is 8, at 4 bits it must be -8 to 7",
    ),
    "zero point of 16 bits": (lambda c: c.change(CONV, in_bits=16, in_zero_point=1), "in_zero_point is 1, at 16 bits"),
    "output zero point": (lambda c: c.change(CONV, out_zero_point=200), "out_zero_point is 200, at 8 bits"),
    "clamp outside": (lambda c: c.change(CONV, clamp_hi=128), "clamp -128..128 is not a range within 8 bits"),
    "clamp reversed": (lambda c: c.change(CONV, clamp_lo=4, clamp_hi=3), r"clamp 4\.\.3"),
    "padding value": (lambda c: c.change(0, pad_bits=4, pad_value=8), "pad_value is 8, outside its 4 bits"),
    "padding of half an element": (
        lambda c: c.change(0, pad_bits=16, pixel_bytes=3, pad_left=1),
        "pixel_bytes is 3, must be even",
    ),
    "mul with a second multiplier": (
        after_depthwise(eltwise(kind="mul", b_multiplier=1)),
        "b_multiplier is 1, must be 0",
    ),
    "b zero point": (after_depthwise(eltwise(b_zero_point=128)), "b_zero_point is 128, at 8 bits"),
    # Units
    "line buffer": (hw(line_buffer_bytes=15), r"DEPTHWISE.*needs 16 bytes of line buffer .*, the machine has 15"),
    "accumulator entries": (
        lambda c: hw(accumulator_entries=15)(c.change(CONV, **OPEN)),
        "leaves 16 accumulators open, the machine has 15",
    ),
    # Accumulators
    "left open": (lambda c: c.insert(6, pool(**OPEN)), "ends with open accumulators of POOL"),
    "nothing open": (lambda c: c.change(CONV, accumulate=1), "accumulates, but no accumulators are open"),
    "starts anew": (lambda c: c.change(CONV, **OPEN), "starts anew while the accumulators of CONV are open"),
    "other instruction": (
        lambda c: c.change(CONV, **OPEN).change(4, accumulate=1),
        r"DEPTHWISE\).*than the open CONV of 1 x 4 x 4",
    ),
    "other size": (after_depthwise(pool(**OPEN), pool(accumulate=1, out_w=3)), "accumulates 1 x 3 x 4 of another size"),
    "other kind": (after_depthwise(pool(**OPEN), pool(accumulate=1, kind="sum")), "of another size, kind or width"),
    "other width": (after_depthwise(pool(**OPEN), pool(accumulate=1, in_bits=4)), "of another size, kind or width"),
    "overflow": (big_sums, IN_CONV + "accumulator overflow: 2147549183 does not fit 32 bits"),
    "maximum over no tap": (after_depthwise(pool(pad_left=1)), "maximum over no tap at all at output row 0, pixel 0"),
    # Parameters and tables
    "reserved byte of a record": (lambda c: c.byte(DATA + 9, 1), "parameter record of channel 0: reserved bytes"),
    "multiplier of a record": (
        lambda c: c.byte(DATA + 12 + 7, 0xC0),
        r"parameter record of channel 1: multiplier \d+ must be below 2\^31",
    ),
    "table entry": (
        after_depthwise(
            instruction(
                "TABLE", h=1, w=1, channels=1, in_addr=0x100, out_addr=0x500, table_addr=0, in_bits=4, out_bits=4
            )
        ),
        r"TABLE\).*table entry 8 is 8, outside the output's 4 bits",
    ),
    # Streams
    "damaged payload": (
        lambda c: c.byte(DATA + 48 + 9, 77),
        r"LOADW.*stream is damaged: checksum \d+, its header says \d+",
    ),
    "damaged header": (lambda c: c.byte(DATA + 48 + 1, 15), "stream is damaged"),
    "unknown codec": (
        stream(sealed(5, 8, bytes(16))),
        "stream has the unknown codec 5",
    ),
    "reserved width code": (stream(sealed(0, 32, bytes(16))), "reserved width code 3"),
    "width differs": (lambda c: c.change(2, weight_bits=16), "stream has 8-bit weights, the instruction says 16"),
    "count differs": (lambda c: c.change(2, weight_count=15), "payload of 16 bytes, 15 weights need 15"),
    "rows of nothing": (lambda c: c.change(2, row_weights=0), "row_weights is 0"),
    "payload too long": (
        stream(sealed(0, 8, bytes(17))),
        "payload of 17 bytes, 16 weights need 16",
    ),
    "payload too short": (stream(sealed(0, 8, bytes(15))), "payload of 15 bytes"),
    "odd nibble": (
        stream(sealed(0, 4, bytes([0, 0x10])), weight_bits=4, weight_count=3),
        "the last odd nibble is not zero",
    ),
    "shorter than a header": (lambda c: c.change(2, stream_bytes=4), "stream_bytes is 4, less than a header"),
}


def test_the_program_runs_as_it_is() -> None:
    assert good().run("functional")["instructions"] == 7
    assert good().run("cycle")["instructions"] == 7


@pytest.mark.parametrize("mode", ["functional", "cycle"])
@pytest.mark.parametrize("name", list(FAULTS))
def test_fault(name: str, mode: str) -> None:
    damage, message = FAULTS[name]
    with pytest.raises(QaccelError) as caught:
        damage(good()).run(mode)
    text = str(caught.value)
    assert text.startswith("machine error: ") and "\n" not in text
    assert re.search(message, text), text


def test_there_are_many_kinds_of_faults() -> None:
    assert len(FAULTS) >= 60


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sram_bytes": 1 << 25}, "sram_bytes is 33554432, must be 1024 to 16777216"),
        ({"accumulator_bits": 64}, "accumulator_bits is 64"),
        ({"rows": 0}, "rows is 0"),
    ],
)
def test_bad_config(values: dict, message: str) -> None:
    with pytest.raises(QaccelError, match=message):
        hw(**values)(good()).run("functional")


def test_bad_options() -> None:
    case = good()
    with pytest.raises(QaccelError, match="mode is 'fast'"):
        case.run("fast")
    with pytest.raises(QaccelError, match=r"range 0\.\.9999 is outside DRAM"):
        replace(case, initialised=((0, 9999),)).run("functional")
    with pytest.raises(QaccelError, match="must be a contiguous, writeable uint8 vector"):
        simulate(HW, b"", np.zeros(4, np.int8))
