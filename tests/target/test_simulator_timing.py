"""Cycle mode: tiny programs worked out by hand from the ISA manual, and what must hold for every program."""

from dataclasses import replace

import numpy as np
import pytest

from qaccel.machine import cost
from qaccel.machine.hw import HwConfig
from qaccel.machine.interpreter.streams import raw_stream
from qaccel.machine.isa import Instruction, encode, instruction
from qaccel.machine.simulator import simulate
from qaccel.npu.access import with_forwarding
from reference.programs import random_program
from target.machine import HW, whole_range

# qaccel-256: 8 bytes a beat, bursts of 8 beats, 64 cycles of latency, start-ups 16, 16, 24, 16. An instruction is one burst of 8
# beats, so that instruction i arrives at 8 * (i + 1) + 64 while nothing else uses DRAM.
FIRST = 72


def timed(instructions: list[Instruction], dram: np.ndarray | None = None, hw: HwConfig = HW) -> dict:
    if dram is None:
        dram = np.zeros(4096, np.uint8)
    return simulate(
        hw, encode(instructions), dram, mode="cycle", initialised=[(0, dram.size)], program_addr=1 << 20, trace=True
    )


def raw(size: int, dram_addr: int = 0, **fields: int) -> Instruction:
    return instruction("LOAD_RAW", dram_addr=dram_addr, bytes=size, **fields)


def times(result: dict) -> list[tuple[int, int]]:
    return list(zip(result["trace"]["start"], result["trace"]["end"], strict=True))


def test_one_load() -> None:
    """Start-up, 8 beats, latency."""
    assert times(timed([raw(64)])) == [(FIRST, FIRST + 16 + 8 + 64)]


def test_beats_follow_the_address() -> None:
    """8 bytes from address 4 on touch two beats; 1 byte touches one."""
    assert times(timed([raw(8, 4)])) == [(FIRST, FIRST + 16 + 2 + 64)]
    assert times(timed([raw(1, 7)])) == [(FIRST, FIRST + 16 + 1 + 64)]


def test_loads_follow_each_other() -> None:
    end = FIRST + 16 + 8 + 64
    assert times(timed([raw(64), raw(64)])) == [(FIRST, end), (end, end + 88)]


def test_a_token_starts_another_engine() -> None:
    end = FIRST + 88
    store = instruction("STORE", wait0=1, dram_addr=0, rows=1, pixels=1, pixel_bytes=64)
    assert times(timed([raw(64, signal0=1), store])) == [(FIRST, end), (end, end + 88)]


def test_pixels_apart_are_runs_of_their_own() -> None:
    """4 pixels of 3 bytes, 16 apart: a beat each. Without the gap they are one run of 12 bytes: two beats."""
    fields = {"rows": 1, "pixels": 4, "pixel_bytes": 3, "sram_pixel_stride": 3}
    assert times(timed([instruction("LOAD", dram_pixel_stride=16, **fields)])) == [(FIRST, FIRST + 16 + 4 + 64)]
    assert times(timed([instruction("LOAD", dram_pixel_stride=3, **fields)])) == [(FIRST, FIRST + 16 + 2 + 64)]


def test_rows_that_touch_are_one_run() -> None:
    fields = {
        "rows": 4,
        "pixels": 2,
        "pixel_bytes": 2,
        "dram_pixel_stride": 2,
        "sram_pixel_stride": 2,
        "sram_row_stride": 4,
    }
    assert times(timed([instruction("LOAD", dram_row_stride=4, **fields)])) == [(FIRST, FIRST + 16 + 2 + 64)]
    assert times(timed([instruction("LOAD", dram_row_stride=8, **fields)])) == [(FIRST, FIRST + 16 + 4 + 64)]


def test_padding_takes_the_sram_port() -> None:
    """One pixel of 8 bytes in a block of 1 x 200 pixels: 1600 bytes at 8 a cycle, more than beat and latency."""
    load = instruction("LOAD", rows=1, pixels=1, pixel_bytes=8, sram_pixel_stride=8, pad_left=99, pad_right=100)
    assert times(timed([load])) == [(FIRST, FIRST + 16 + 200)]


def test_dram_is_shared_burst_by_burst() -> None:
    """LOAD of 4 bursts from 88 on; LOADW of 9 beats asks at 96, after the first of them, and gets every other burst."""
    stream = raw_stream(np.arange(64) - 32, 8)
    dram = np.zeros(4096, np.uint8)
    dram[2048 : 2048 + 69] = np.frombuffer(stream, np.uint8)
    result = timed(
        [raw(256), instruction("LOADW", stream_addr=2048, stream_bytes=69, weight_count=64, row_weights=64)], dram
    )
    # LOAD 88..96, LOADW 96..104, LOAD 104..112, LOADW 112..113, LOAD 113..121, 121..129
    assert times(result) == [(72, 129 + 64), (80, 113 + 64)]


def test_decoding_can_take_longer_than_the_fetch() -> None:
    """1024 weights of 4 bits at 16 a cycle: 64 cycles; with no latency their 517 bytes take 65, at twice the lanes half of it."""
    stream = raw_stream(np.zeros(1024, np.int64), 4)
    dram = np.zeros(4096, np.uint8)
    dram[: len(stream)] = np.frombuffer(stream, np.uint8)
    load = instruction("LOADW", stream_bytes=len(stream), weight_count=1024, weight_bits=4, row_weights=16)
    for lanes, latency, cycles in ((16, 0, 65), (8, 0, 128), (8, 64, 129)):
        result = timed([load], dram, replace(HW, decoder_lanes=lanes, dram_latency_cycles=latency))
        ((start, end),) = times(result)
        assert end - start == 16 + cycles
    from_sram = instruction(
        "LOADW", source="sram", wait0=1, stream_bytes=len(stream), weight_count=1024, weight_bits=4, row_weights=16
    )
    (_, (start, end)) = times(timed([raw(len(stream), signal0=1), from_sram], dram, replace(HW, decoder_lanes=64)))
    assert end - start == 16 + 33  # 517 bytes at 16 a cycle


def test_the_dispatcher_waits_for_a_full_queue() -> None:
    """The queue of LOAD holds one instruction beside the one that executes: the store waits in front of the dispatcher."""
    hw = replace(HW, queue_entries=1)
    copy = instruction("COPY", wait0=1, in_addr=0, out_addr=64, h=1, w=1, channels=8, multiplier=1, **whole_range(8))
    result = timed([raw(64, signal0=1), raw(64, sram_addr=128), raw(64, sram_addr=192), copy], hw=hw)
    loads = FIRST + 88
    # The third load enters the queue at 160, when the second starts; the copy a cycle later, though its token is there.
    assert times(result)[3] == (loads + 1, loads + 1 + 24 + 1)
    assert result["cycles"] == FIRST + 3 * 88


def test_instruction_fetch_waits_for_a_full_buffer() -> None:
    """Room for one instruction: the next is asked for when the one before is dispatched, and arrives 72 later."""
    hw = replace(HW, instruction_buffer_entries=1)
    copies = [raw(16)] + [raw(16, sram_addr=64 * i) for i in range(1, 3)]
    starts = [start for start, _ in times(timed(copies, hw=hw))]
    assert starts == [72, 72 + 82, 72 + 2 * 82]  # each load takes 16 + 2 + 64, more than fetching the next


def conv(out_w: int, in_channels: int, out_channels: int, kernel: int = 1, **fields: int) -> Instruction:
    views = {
        "in_pixel_stride": in_channels,
        "out_pixel_stride": out_channels,
        "out_addr": 0x20000,
        "param_addr": 0x40000,
    }
    size = {
        "in_h": kernel,
        "in_w": out_w + kernel - 1,
        "out_h": 1,
        "out_w": out_w,
        "in_row_stride": (out_w + kernel - 1) * in_channels,
    }
    window = {"kernel_h": kernel, "kernel_w": kernel, "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1}
    numbers = {**whole_range(8), "in_channels": in_channels, "out_channels": out_channels, "finish": 1}
    return instruction("CONV", **{"wait0": 1, "wait1": 2, **views, **size, **window, **numbers, **fields})


@pytest.mark.parametrize(
    ("ins", "cycles"),
    [
        # 2 groups, 2 slices, 100 pixels in one block of 128: 400 MAC cycles; reads 2 * 100 * 32 + 384 bytes: 106; requantizer 100.
        (conv(100, 32, 32), 400),
        # 16 x 16 at 8 bits loads a slice of 256 bytes in 4 cycles: 2 pixels take 4 cycles for each of 4 slices and groups.
        (conv(2, 32, 32), 16),
        # 1 slice, 1 group, 100 pixels of 1 byte: MAC 100; requantizer ceil(1600 / 32) = 50.
        (conv(100, 1, 16), 100),
        # Reads: 16 slices of nothing to do; ceil((4 groups * 300 * 9 + 768) / 64) = 181 against 4 * 1 * 300 = 1200.
        (conv(300, 1, 64, 3), 1200),
        # Blocks of 4096 / 2 / 16 = 128 pixels: 129 pixels are a block of 128 and one of 1, which takes 4.
        (conv(129, 16, 16), 132),
        # Without finish no parameters are read.
        (conv(8, 16, 16, finish=0), 8),
    ],
)
def test_conv_takes_the_largest_of_its_units(ins: Instruction, cycles: int) -> None:
    weights = ins["kernel_h"] * ins["kernel_w"] * ins["in_channels"] * ins["out_channels"]
    stream = raw_stream(np.zeros(weights, np.int64), 8)
    params = bytes(12 * ins["out_channels"])
    data = np.zeros(1 << 17, np.uint8)
    data[1 << 16 : (1 << 16) + len(stream)] = np.frombuffer(stream, np.uint8)
    program = [
        raw(1 << 14),
        raw(len(params), sram_addr=0x40000, signal0=1),
        instruction(
            "LOADW", stream_addr=1 << 16, stream_bytes=len(stream), weight_count=weights, row_weights=1, signal0=2
        ),
        ins,
    ]
    if not ins["finish"]:
        program.append(conv(8, 16, 16, wait0=0, wait1=0, accumulate=1))
    start, end = times(timed(program, data))[3]
    assert end - start == 24 + cycles


def test_pixelwise_instructions() -> None:
    """COPY of 4 x 4 x 16: 256 bytes at 64 a cycle in and 32 out, 256 outputs at 32 a cycle. TABLE: 16 a cycle. Where 16 are read a cycle,
    what reads two operands takes twice the time of the others, the table's 256 entries as well."""
    size = {"wait0": 1, "h": 4, "w": 4, "channels": 16, "out_addr": 1024}
    views = {"in_row_stride": 64, "in_pixel_stride": 16, "out_row_stride": 64, "out_pixel_stride": 16}
    copy = instruction("COPY", **size, **views, multiplier=1, **whole_range(8))
    add = instruction("ELTWISE", **size, **views, b_pixel_stride=16, b_row_stride=64, **whole_range(8))
    table = instruction("TABLE", **size, **views, table_addr=512)
    slow = replace(HW, name="slow", sram_read_bytes_per_cycle=16)
    for ins, cycles, slow_cycles in ((copy, 8, 16), (add, 8, 32), (table, 16, 32)):
        for hw, taken in ((HW, cycles), (slow, slow_cycles)):
            start, end = times(timed([raw(1024, signal0=1), ins], hw=hw))[1]
            assert end - start == 24 + taken


def intervals_are_disjoint(result: dict) -> bool:
    for engine in range(4):
        mine = sorted(
            (s, e)
            for s, e, k in zip(*(result["trace"][x] for x in ("start", "end", "engine")), strict=True)
            if k == engine
        )
        if any(a[1] > b[0] for a, b in zip(mine, mine[1:], strict=False)):
            return False
    return True


@pytest.mark.parametrize("seed", range(60))
def test_what_holds_for_every_program(seed: int) -> None:
    """Sums, bounds, and each instruction's time as qaccel.cost works it out."""
    p = random_program(seed)
    result = simulate(
        p.hw, p.program, p.dram.copy(), mode="cycle", initialised=p.initialised, read_only=p.read_only,
        program_addr=p.program_addr, trace=True,
    )  # fmt: skip
    functional = simulate(p.hw, p.program, p.dram.copy(), initialised=p.initialised, read_only=p.read_only)
    assert result["cycles"] == sum(layer["cycles"] for layer in result["layers"]) == max(result["trace"]["end"])
    for layer in result["layers"]:
        assert sum(layer["stalls"].values()) == layer["cycles"] and min(layer["stalls"].values()) >= 0
    for name in ("macs", "instructions", "peak_sram_bytes", "dram_bytes"):
        assert result[name] == functional[name]
    for name in ("macs", "instructions"):
        assert result[name] == sum(layer[name] for layer in result["layers"])
    for name, total in result["dram_bytes"].items():
        assert total == sum(layer["dram_bytes"][name] for layer in result["layers"])
    assert intervals_are_disjoint(result)
    assert result["cycles"] >= sum(result["dram_bytes"].values()) / p.hw.dram_bytes_per_cycle
    for (ins, before), (start, end) in zip(with_forwarding(p.instructions), times(result), strict=True):
        if ins.engine == "COMPUTE":
            assert end - start == cost.duration(ins, p.hw, before)
        else:  # shares the channel
            assert end - start >= cost.dma_cycles(ins, p.hw)


def test_where_the_time_went() -> None:
    """Layer 0: wait for the first instruction, then for LOAD; layer 1: compute; then STORE."""
    copy = instruction(
        "COPY",
        layer=1,
        wait0=1,
        signal0=2,
        in_addr=0,
        out_addr=64,
        h=1,
        w=1,
        channels=32,
        multiplier=1,
        **whole_range(8),
    )
    store = instruction("STORE", layer=2, wait0=2, sram_addr=64, rows=1, pixels=1, pixel_bytes=32)
    result = timed([raw(64, signal0=1), copy, store])
    stalls = [layer["stalls"] for layer in result["layers"]]
    assert [layer["cycles"] for layer in result["layers"]] == [160, 25, 16 + 4 + 64]
    assert stalls[0] == {"compute": 0, "activation_load": 160, "weight_load": 0, "decode": 0, "store": 0, "wait": 0}
    assert stalls[1]["compute"] == 25 and stalls[2]["store"] == 84


def test_what_is_fetched_ahead_takes_no_time_from_others() -> None:
    """A load for layer 3 before layer 1 computes, long enough to end after it: its cycles are of layer 1 and the end of the program."""
    shape = {"h": 1, "w": 1, "channels": 32, "multiplier": 1, **whole_range(8)}
    first = instruction("COPY", layer=1, wait0=1, in_addr=0, out_addr=64, **shape)
    second = instruction("COPY", layer=2, in_addr=64, out_addr=128, **shape)
    program = [raw(64, signal0=1), raw(1024, layer=3, sram_addr=1024), first, second]
    plain, ahead = timed([program[0], *program[2:]]), timed(program)
    for name in ("compute", "activation_load", "wait"):
        assert ahead["layers"][1]["stalls"][name] == plain["layers"][1]["stalls"][name]
    assert [layer["cycles"] for layer in ahead["layers"][:3]] == [layer["cycles"] for layer in plain["layers"]]
    assert sum(layer["cycles"] for layer in ahead["layers"]) == ahead["cycles"] > plain["cycles"]


def test_an_empty_program_takes_no_time() -> None:
    result = timed([])
    assert result["cycles"] == 0 and result["instructions"] == 0 and result["layers"] == []
