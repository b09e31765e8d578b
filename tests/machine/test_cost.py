"""Times of instructions: cases worked out by hand on qaccel-256, and the manual's formulas read literally."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaccel.errors import QaccelError
from qaccel.machine import cost
from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.isa import Instruction, instruction, replace
from qaccel.machine.streams import StreamEstimate, raw_streams

HW = load_config("qaccel-256")
CONFIGS = st.sampled_from([load_config(name) for name in ("qaccel-64", "qaccel-256", "qaccel-1024")])
WIDTHS = st.sampled_from([4, 8, 16])
WIDTH_PAIRS = [(weights, activations) for weights in (4, 8, 16) for activations in (4, 8, 16)]


def window(op: str, size: int, kernel: int, pad: int, stride: int = 1, **values: Any) -> Instruction:
    """A square window instruction with symmetric padding, finished."""
    out = (size + 2 * pad - kernel) // stride + 1
    sizes = {"in_h": size, "kernel_h": kernel, "stride_h": stride, "dilation_h": 1, "out_h": out}
    both = sizes | {f"{name[:-1]}w": value for name, value in sizes.items()}
    return instruction(op, **both, pad_top=pad, pad_left=pad, finish=1, **values)


def units(ins: Instruction, hw: HwConfig) -> dict[str, int]:
    return cost.work_units(cost.work_of(ins), hw)


def footprint(ins: Instruction) -> tuple[int, int]:
    return cost.footprint(cost.window_shape(ins))


def line_buffer_bytes(ins: Instruction, hw: HwConfig) -> int:
    work = cost.work_of(ins)
    assert isinstance(work, cost.PoolWork)
    return cost.line_buffer_bytes(work, hw)


# CONV


def test_conv_3x3_64_to_64() -> None:
    conv = window("CONV", 56, 3, 1, in_channels=64, out_channels=64)
    # 4 groups of 16 columns, 576 / 16 = 36 slices; 3136 pixels in 24 blocks of 128 and one of 64, none of them below
    # the 4 cycles that 256 bytes of weights take
    assert units(conv, HW) == {
        "mac": 4 * 36 * 3136,
        "sram_read": (4 * 3136 * 576 + 12 * 64) // 64,
        "sram_write": 3136 * 64 // 32,
        "requantize": 3136 * 64 // 32,
    }
    assert cost.duration(conv, HW) == 24 + 451584
    assert cost.macs(conv) == 3136 * 64 * 576 == 256 * 451584


def test_conv_without_finish_writes_nothing_and_reads_no_parameters() -> None:
    conv = replace(window("CONV", 56, 3, 1, in_channels=64, out_channels=64), finish=0)
    assert units(conv, HW) == {"mac": 451584, "sram_read": 4 * 3136 * 576 // 64}


def test_a_matrix_product_waits_for_its_weights() -> None:
    dense = window("CONV", 1, 1, 0, in_channels=1280, out_channels=1000)
    # 63 groups, 80 slices of 256 bytes at 64 bytes a cycle
    assert units(dense, HW)["mac"] == 63 * 80 * 4
    assert units(dense, HW)["sram_read"] == -(-(63 * 1280 + 12 * 1000) // 64)


def test_the_last_block_is_shorter() -> None:
    conv = window("CONV", 12, 1, 0, in_channels=16, out_channels=16)  # 144 pixels: 128 and 16
    assert units(conv, HW)["mac"] == 128 + 16
    slow = dataclasses.replace(HW, weight_read_bytes_per_cycle=8)  # 32 cycles a slice
    assert units(conv, slow)["mac"] == 128 + 32
    assert units(window("CONV", 16, 1, 0, in_channels=16, out_channels=16), slow)["mac"] == 256


@pytest.mark.parametrize(("weight_bits", "activation_bits"), WIDTH_PAIRS)
def test_conv_mac_of_every_width_pair(weight_bits: int, activation_bits: int) -> None:
    conv = window(
        "CONV", 32, 1, 0, in_channels=64, out_channels=64, weight_bits=weight_bits, in_bits=activation_bits, out_bits=4
    )
    taken = units(conv, HW)
    assert taken["mac"] == cost.macs(conv) * weight_bits * activation_bits // (16 * 16 * 64)
    groups = 64 * weight_bits // 128
    assert taken["sram_read"] == (groups * 1024 * 64 * activation_bits // 8 + 12 * 64) // 64
    assert (taken["sram_write"], taken["requantize"]) == (1024 * 32 // 32, 1024 * 64 // 32)


def test_odd_channels_of_4_bits_take_whole_bytes() -> None:
    conv = window("CONV", 8, 3, 0, in_channels=3, out_channels=5, in_bits=4, out_bits=4)  # 27 values: 14 bytes
    taken = units(conv, HW)
    assert taken["sram_read"] == -(-(36 * 14 + 60) // 64)
    assert taken["sram_write"] == -(-36 * 3 // 32)


@given(CONFIGS, WIDTHS, WIDTHS, WIDTHS, st.booleans(), *[st.integers(1, n) for n in (3, 3, 200, 40, 40, 200)])
def test_conv_as_the_manual_says_block_by_block(
    hw: HwConfig, w_bits: int, a_bits: int, o_bits: int, finish: bool,
    kh: int, kw: int, ic: int, oh: int, ow: int, oc: int,
) -> None:  # fmt: skip
    def ceil(value: float) -> int:
        return int(-(-value // 1))

    rows, columns = hw.rows * 8 // a_bits, hw.cols * 8 // w_bits
    groups, slices = ceil(oc / columns), ceil(kh * kw * ic / rows)
    block = max(1, hw.accumulator_entries // 2 // columns)
    left, blocks = oh * ow, []
    while left > 0:
        blocks.append(min(block, left))
        left -= block
    fill = ceil(rows * columns * w_bits / 8 / hw.weight_read_bytes_per_cycle)
    mac = sum(groups * slices * max(pixels, fill) for pixels in blocks)
    read = groups * oh * ow * ceil(kh * kw * ic * a_bits / 8) + (12 * oc if finish else 0)
    units = [mac, ceil(read / hw.sram_read_bytes_per_cycle)]
    if finish:
        units.append(ceil(oh * ow * ceil(oc * o_bits / 8) / hw.sram_write_bytes_per_cycle))
        units.append(ceil(oh * ow * oc / hw.requantize_outputs_per_cycle))
    work = cost.ConvWork(
        kernel_h=kh, kernel_w=kw, in_channels=ic, out_h=oh, out_w=ow, out_channels=oc,
        weight_bits=w_bits, in_bits=a_bits, out_bits=o_bits, finish=finish,
    )  # fmt: skip
    assert cost.work_cycles(work, hw) == hw.start_up_cycles.compute + max(units)
    assert mac * hw.macs_per_cycle(w_bits, a_bits) >= oh * ow * oc * kh * kw * ic


# DEPTHWISE and POOL


def test_depthwise_3x3() -> None:
    depthwise = window("DEPTHWISE", 112, 3, 1, channels=32)
    assert units(depthwise, HW) == {
        "mac": 2 * 784 * 9,
        "weight_read": 5,  # 288 bytes at 64
        "sram_read": (112 * 112 * 32 + 12 * 32) // 64,
        "sram_write": 112 * 112 * 32 // 32,
        "requantize": 112 * 112 * 32 // 32,
    }
    assert cost.duration(depthwise, HW) == 24 + 14112
    assert cost.macs(depthwise) == 112 * 112 * 32 * 9


def test_depthwise_of_other_widths_without_finish() -> None:
    depthwise = replace(window("DEPTHWISE", 10, 5, 2, 2, channels=20, weight_bits=4, in_bits=16), finish=0)
    # 25 outputs: 4 times 8 rows; 20 channels: one group of 32 columns; footprint 10 x 10
    assert units(depthwise, HW) == {
        "mac": 1 * 4 * 25,
        "weight_read": 4,  # 25 rows of 10 bytes at 64
        "sram_read": -(-100 * 40 // 64),
    }


def test_pool() -> None:
    pool = window("POOL", 7, 7, 0, channels=100, kind="sum", out_bits=16)
    assert units(pool, HW) == {
        "mac": 7 * 1 * 49,  # 7 groups of 16 channels
        "sram_read": -(-49 * 100 // 64),
        "sram_write": -(-200 // 32),
        "requantize": -(-100 // 32),
    }
    assert cost.macs(pool) == 0


def test_footprints() -> None:
    assert footprint(window("CONV", 56, 3, 1)) == (56, 56)
    assert footprint(window("CONV", 8, 1, 0, 2)) == (7, 7)  # the last row is never reached
    assert footprint(replace(window("CONV", 8, 3, 0), out_h=2, dilation_h=3)) == (8, 8)
    assert footprint(replace(window("CONV", 9, 3, 0), out_w=1, pad_left=1)) == (9, 2)
    assert footprint(replace(window("CONV", 8, 3, 0), out_h=1, pad_top=3)) == (0, 0)


@given(*[st.integers(1, n) for n in (12, 5, 4, 4, 6)], st.integers(0, 30))
def test_the_footprint_ends_with_the_last_row_that_a_tap_reaches(
    in_h: int, kernel: int, stride: int, dilation: int, out: int, pad: int
) -> None:
    ins = replace(
        window("POOL", 1, 1, 0),
        in_h=in_h,
        kernel_h=kernel,
        stride_h=stride,
        dilation_h=dilation,
        out_h=out,
        pad_top=pad,
    )
    last = max(y * stride + k * dilation - pad for y in range(out) for k in range(kernel))
    rows = len([row for row in range(in_h) if row <= last])
    assert footprint(ins) == ((rows, 1) if rows else (0, 0))


def test_an_instruction_that_reads_only_padding() -> None:
    depthwise = replace(window("DEPTHWISE", 4, 3, 0, channels=16), out_h=1, out_w=1, pad_top=3)
    assert units(depthwise, HW)["sram_read"] == 12 * 16 // 64


def test_line_buffer() -> None:
    depthwise = window("DEPTHWISE", 112, 3, 1, channels=32)
    assert line_buffer_bytes(depthwise, HW) == 4 * 112 * 16  # 16 outputs span 2 rows: 4 lines
    assert line_buffer_bytes(replace(depthwise, weight_bits=4), HW) == 4 * 112 * 32
    assert line_buffer_bytes(replace(depthwise, in_bits=16), HW) == 4 * 112 * 32
    assert line_buffer_bytes(replace(depthwise, weight_bits=16, in_bits=4), HW) == 4 * 112 * 4
    narrow = replace(window("DEPTHWISE", 4, 3, 1, channels=3), in_h=100, out_h=100)  # 16 outputs span 5 rows: 7 lines
    assert line_buffer_bytes(narrow, HW) == 7 * 4 * 3
    assert line_buffer_bytes(window("POOL", 7, 7, 0, channels=64), HW) == 7 * 7 * 16
    strided = replace(window("POOL", 100, 3, 0, channels=64), stride_h=2, stride_w=2, out_w=10, out_h=10)
    assert line_buffer_bytes(strided, HW) == 7 * 21 * 16  # 3 rows of outputs


# ELTWISE, TABLE, COPY


def tile(op: str, **values: Any) -> Instruction:
    return instruction(op, h=5, w=6, channels=21, **values)


def test_eltwise() -> None:
    eltwise = tile("ELTWISE", in_bits=4, b_bits=16, out_bits=8)
    assert units(eltwise, HW) == {
        "sram_read": -(-30 * (11 + 42) // 64),
        "sram_write": -(-30 * 21 // 32),
        "requantize": -(-30 * 21 // 32),
    }
    assert cost.duration(eltwise, HW) == 24 + 25
    assert units(replace(eltwise, b_scalar=1), HW)["sram_read"] == -(-30 * (11 + 2) // 64)
    assert units(replace(eltwise, b_scalar=1, b_bits=4), HW)["sram_read"] == -(-30 * (11 + 1) // 64)


def test_copy() -> None:
    copy = tile("COPY", in_bits=16, out_bits=4)
    assert units(copy, HW) == {"sram_read": 20, "sram_write": 11, "requantize": 20}


@pytest.mark.parametrize(
    ("in_bits", "out_bits", "table_bytes"), [(4, 4, 16), (4, 16, 32), (8, 4, 256), (8, 8, 256), (8, 16, 512)]
)
def test_table(in_bits: int, out_bits: int, table_bytes: int) -> None:
    table = tile("TABLE", in_bits=in_bits, out_bits=out_bits)
    assert cost.table_bytes(in_bits, out_bits, "even") == table_bytes
    assert units(table, HW) == {
        "lookup": -(-30 * 21 // 16),
        "sram_read": -(-(30 * -(-21 * in_bits // 8) + table_bytes) // 64),
        "sram_write": -(-30 * -(-21 * out_bits // 8) // 32),
    }


def test_interpolated_tables_have_513_or_770_entries_whatever_comes_out() -> None:
    for knots, size_bytes in (("even", 1026), ("octaves", 1540)):
        assert [cost.table_bytes(16, out_bits, knots) for out_bits in (4, 8, 16)] == [size_bytes] * 3
        table = tile("TABLE", in_bits=16, out_bits=8, knots=knots)
        assert units(table, HW)["sram_read"] == -(-(30 * 42 + size_bytes) // 64)


# DRAM


def store(**values: Any) -> Instruction:
    sizes = {"rows": 3, "pixels": 4, "pixel_bytes": 6, "dram_pixel_stride": 6, "dram_row_stride": 24}
    return instruction("STORE", **{**sizes, **values})


def test_runs() -> None:
    assert cost.dram_runs(store(dram_addr=5)) == [(5, 72)]  # one block
    assert cost.dram_runs(store(dram_row_stride=30)) == [(0, 24), (30, 24), (60, 24)]  # rows
    assert cost.dram_runs(store(rows=2, pixels=2, dram_pixel_stride=10)) == [(0, 6), (10, 6), (24, 6), (34, 6)]
    assert cost.dram_runs(store(rows=2, pixels=1, dram_pixel_stride=99, dram_row_stride=6)) == [(0, 12)]
    assert cost.dram_runs(store(rows=2, pixels=1, dram_pixel_stride=99, dram_row_stride=8)) == [(0, 6), (8, 6)]
    assert cost.dram_runs(store(rows=1, dram_row_stride=0)) == [(0, 24)]
    assert cost.dram_runs(instruction("LOAD_RAW", dram_addr=3, bytes=9)) == [(3, 9)]
    assert cost.dram_runs(instruction("LOADW", stream_addr=8, stream_bytes=20)) == [(8, 20)]
    assert cost.dram_runs(instruction("LOADW", source="sram", stream_addr=8, stream_bytes=20)) == []


def test_beats_by_hand() -> None:
    assert cost.dram_beats(instruction("LOAD_RAW", dram_addr=0, bytes=16), HW) == 2
    assert cost.dram_beats(instruction("LOAD_RAW", dram_addr=7, bytes=2), HW) == 2
    assert cost.dram_beats(instruction("LOAD_RAW", dram_addr=1, bytes=16), HW) == 3
    # pixels of 6 bytes at 0, 10, 20, ...: bytes 0-5, 10-15, 20-25, 30-35
    assert cost.dram_beats(store(rows=1, dram_pixel_stride=10), HW) == 1 + 1 + 2 + 2


@given(
    CONFIGS,
    *[st.integers(1, n) for n in (6, 6, 20)],
    st.integers(0, 64),
    st.integers(0, 50),
    st.one_of(st.none(), st.integers(0, 500)),
)
def test_beats_count_bus_words(
    hw: HwConfig, rows: int, pixels: int, size: int, addr: int, gap: int, row_stride: int | None
) -> None:
    stride = size + gap
    ins = store(
        dram_addr=addr,
        rows=rows,
        pixels=pixels,
        pixel_bytes=size,
        dram_pixel_stride=stride,
        dram_row_stride=pixels * stride if row_stride is None else row_stride,
    )
    runs = cost.dram_runs(ins)
    assert sum(bytes_ for _, bytes_ in runs) == rows * pixels * size
    words = [{byte // hw.dram_bytes_per_cycle for byte in range(start, start + length)} for start, length in runs]
    assert cost.dram_beats(ins, hw) == sum(map(len, words))


def test_beats_of_the_largest_transfer_are_counted_at_once() -> None:
    ins = store(rows=65535, pixels=65535, pixel_bytes=1, dram_pixel_stride=8, dram_row_stride=1 << 20)
    assert cost.dram_beats(ins, HW) == 65535 * 65535


# LOAD, LOAD_RAW, LOADW, STORE alone on the channel


def test_load() -> None:
    load = instruction(
        "LOAD",
        rows=2,
        pixels=4,
        pixel_bytes=8,
        dram_pixel_stride=8,
        dram_row_stride=32,
        pad_top=1,
        pad_left=1,
        pad_right=1,
    )
    assert cost.dma_cycles(load, HW) == 16 + 64 + 8
    # much padding: the SRAM side takes longer than the DRAM side
    padded = replace(load, pad_bottom=97)
    assert cost.sram_side_cycles(padded, HW) == 100 * 6
    assert cost.dma_cycles(padded, HW) == 16 + 600


def test_load_raw_and_store() -> None:
    assert cost.dma_cycles(instruction("LOAD_RAW", dram_addr=4, bytes=12), HW) == 16 + 64 + 2
    assert cost.dma_cycles(store(), HW) == 16 + 64 + 9
    assert cost.dma_cycles(store(dram_row_stride=28), HW) == 16 + 64 + 3 + 4 + 3


def test_loadw() -> None:
    loadw = instruction("LOADW", stream_bytes=1032, weight_count=1024)
    assert cost.dma_cycles(loadw, HW, 64) == 16 + 64 + 129
    assert cost.dma_cycles(loadw, HW, 256) == 16 + 256
    prefetched = replace(loadw, source="sram")
    assert cost.dram_beats(prefetched, HW) == 0
    assert cost.dma_cycles(prefetched, HW, 64) == 16 + 65
    assert cost.dma_cycles(replace(prefetched, stream_bytes=520), HW, 64) == 16 + 64


def test_streams_take_what_was_measured() -> None:
    estimate = StreamEstimate(
        bytes_per_stream=20.0, bytes_per_weight=0.5, cycles_per_stream=30.0, cycles_per_weight=0.5, lanes=16
    )
    assert estimate.stream_bytes(1000) == 520
    assert estimate.decode_cycles(rows=100, columns=16) == 80
    assert estimate.decode_cycles(rows=100, columns=40) == 180, "three columns for the first lanes"
    assert estimate.decode_cycles(rows=100, columns=6) == 130, "four lanes, the first two take two columns"
    raw = raw_streams(4, HW)
    assert (raw.stream_bytes(1000), raw.decode_cycles(100, 16), raw.decode_cycles(400, 4)) == (505, 100, 100)


def test_start_up_is_the_engines_own() -> None:
    start_up = dataclasses.replace(HW.start_up_cycles, load=1, loadw=2, store=3)
    hw = dataclasses.replace(HW, start_up_cycles=start_up, dram_latency_cycles=0)
    times = [instruction("LOAD_RAW", bytes=8), instruction("LOADW", stream_bytes=8, weight_count=1), store()]
    assert [cost.dma_cycles(ins, hw) for ins in times] == [1 + 1, 2 + 1, 3 + 9]


def test_each_function_refuses_the_other_engines() -> None:
    for op in ("LOAD", "LOAD_RAW", "LOADW", "STORE"):
        for function in (units, cost.duration):
            with pytest.raises(QaccelError, match=f"{op} is an instruction of the .* engine, not of COMPUTE"):
                function(instruction(op), HW)
    for op in ("CONV", "DEPTHWISE", "POOL", "ELTWISE", "TABLE", "COPY"):
        for function in (cost.dma_cycles, cost.dram_beats):
            with pytest.raises(QaccelError, match=f"{op} transfers nothing from or to DRAM"):
                function(instruction(op), HW)
