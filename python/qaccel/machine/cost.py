"""Time of instructions and of layers, in cycles, as the ISA manual states it. No other module has a formula for time.

What a COMPUTE instruction takes depends on some of its fields: a ``Work`` has them, by the names that they have in the
instruction. The planner describes the work of a tile before there is an instruction; ``work_of`` takes it from one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache, lru_cache, reduce

import numpy as np

from ..errors import CompilerFault
from .hw import HwConfig
from .isa import Instruction, isa
from .numerics import Counts, table_knots


def _ceil(value: Counts, divisor: int) -> Counts:
    return -(-value // divisor)


def _channel_bytes(channels: int, bits: int) -> int:
    """Bytes of one pixel."""
    return _ceil(channels * bits, 8)


@dataclass(frozen=True, kw_only=True)
class ConvWork:
    """A CONV. Its time does not depend on the window's place: the array reads the values under it again for every pixel."""

    kernel_h: int
    kernel_w: int
    in_channels: int
    out_h: int
    out_w: int
    out_channels: int
    weight_bits: int
    in_bits: int
    out_bits: int
    finish: int
    forward: int = 0


@dataclass(frozen=True, kw_only=True)
class WindowShape:
    """Sizes and place of the window of a CONV, DEPTHWISE or POOL."""

    in_h: int
    in_w: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    pad_top: int
    pad_left: int
    out_h: int
    out_w: int


@dataclass(frozen=True, kw_only=True)
class PoolWork(WindowShape):
    """A POOL: a window over each channel by itself."""

    channels: int
    in_bits: int
    out_bits: int
    finish: int


@dataclass(frozen=True, kw_only=True)
class DepthwiseWork(PoolWork):
    """A DEPTHWISE: the same with weights."""

    weight_bits: int
    forward: int = 0


@dataclass(frozen=True, kw_only=True)
class CopyWork:
    """A COPY: each output value is made of the input value in its place."""

    h: int
    w: int
    channels: int
    in_bits: int
    out_bits: int


@dataclass(frozen=True, kw_only=True)
class TableWork(CopyWork):
    """A TABLE: the same through a table."""

    knots: str


@dataclass(frozen=True, kw_only=True)
class EltwiseWork(CopyWork):
    """An ELTWISE: the same with a second operand."""

    b_bits: int
    b_scalar: int


@dataclass(frozen=True, kw_only=True)
class PostWork:
    """An ELTWISE or TABLE that takes what a CONV or DEPTHWISE forwards: both, which run as one."""

    first: ConvWork | DepthwiseWork
    then: EltwiseWork | TableWork


Work = ConvWork | PoolWork | DepthwiseWork | CopyWork | TableWork | EltwiseWork | PostWork
_WORK: dict[str, type[Work]] = {
    "CONV": ConvWork, "DEPTHWISE": DepthwiseWork, "POOL": PoolWork, "ELTWISE": EltwiseWork, "TABLE": TableWork,
    "COPY": CopyWork,
}  # fmt: skip


_NAMES = {op: tuple(field.name for field in fields(kind)) for op, kind in _WORK.items()}
_SHAPE_NAMES = tuple(field.name for field in fields(WindowShape))


def work_of(ins: Instruction, before: Instruction | None = None) -> Work:
    """What a COMPUTE instruction does; ``before``: the one that forwards to it. Raises CompilerFault for another engine's."""
    if ins.op not in _WORK:
        raise CompilerFault(f"{ins.op} is an instruction of the {ins.engine} engine, not of COMPUTE")
    work = _WORK[ins.op](**{name: ins[name] for name in _NAMES[ins.op]})
    return work if before is None else PostWork(first=work_of(before), then=work)  # type: ignore[arg-type]


def window_shape(ins: Instruction) -> WindowShape:
    """The window of a CONV, DEPTHWISE or POOL."""
    return WindowShape(**{name: ins[name] for name in _SHAPE_NAMES})


def work_units(work: Work, hw: HwConfig) -> dict[str, int]:
    """Cycles that each unit needs, start-up aside; of an instruction that forwards, those of the one that it forwards to.

    Keys: mac, weight_read, sram_read, sram_write, requantize, lookup; only those that apply. The taps of a POOL count as mac.
    """
    if isinstance(work, PostWork):
        units = work_units(work.first, hw)
        for unit, cycles in _pointwise_units(work.then, hw, forwarded=True).items():
            units[unit] = units.get(unit, 0) + cycles  # they take turns
        return units
    if isinstance(work, ConvWork):
        return _conv_units(work, hw)
    if isinstance(work, PoolWork):
        return _window_units(work, hw)
    return _pointwise_units(work, hw)


def work_cycles(work: Work, hw: HwConfig) -> int:
    """Cycles of the instruction: start-up and the slowest of its units. One that forwards is only taken note of."""
    if isinstance(work, ConvWork | DepthwiseWork) and work.forward:
        return 1
    return hw.start_up_cycles.compute + max(work_units(work, hw).values())


def works_cycles(work: Work, hw: HwConfig) -> np.ndarray:
    """``work_cycles`` of many instructions, fields of whose work are arrays that can be broadcast."""
    if isinstance(work, ConvWork | DepthwiseWork) and work.forward:
        return np.ones(1, int)
    return hw.start_up_cycles.compute + reduce(np.maximum, work_units(work, hw).values(), np.zeros(1, int))


def duration(ins: Instruction, hw: HwConfig, before: Instruction | None = None) -> int:
    """``work_cycles`` of a COMPUTE instruction. Arguments and errors as ``work_of``."""
    return work_cycles(work_of(ins, before), hw)


def _output_units(hw: HwConfig, pixels: int, channels: int, out_bits: int, forward: int = 0) -> dict[str, int]:
    units = {"requantize": _ceil(pixels * channels, hw.requantize_outputs_per_cycle)}
    if not forward:
        units["sram_write"] = _ceil(pixels * _channel_bytes(channels, out_bits), hw.sram_write_bytes_per_cycle)
    return units


def conv_mac_cycles(
    pixels: Counts, reduction: int, out_channels: Counts, bits: tuple[int, int], hw: HwConfig
) -> Counts:
    """Cycles that the array needs for a CONV; ``reduction``: multiplications of one output, ``bits``: of weights and input."""
    rows, columns = hw.array_rows(bits[1]), hw.array_columns(bits[0])
    block = max(1, hw.accumulator_entries // 2 // columns)
    fill = _ceil(_ceil(rows * columns * bits[0], 8), hw.weight_read_bytes_per_cycle)
    whole, rest = divmod(pixels, block)
    block_cycles = whole * max(block, fill) + (rest > 0) * (rest + (fill > rest) * (fill - rest))
    return _ceil(out_channels, columns) * _ceil(reduction, rows) * block_cycles


def _conv_units(work: ConvWork, hw: HwConfig) -> dict[str, int]:
    reduction, pixels = work.kernel_h * work.kernel_w * work.in_channels, work.out_h * work.out_w
    read_bytes = _ceil(work.out_channels, hw.array_columns(work.weight_bits)) * pixels
    read_bytes *= _channel_bytes(reduction, work.in_bits)
    read_bytes += isa().params_bytes * work.out_channels if work.finish else 0
    mac = conv_mac_cycles(pixels, reduction, work.out_channels, (work.weight_bits, work.in_bits), hw)
    units = {"mac": mac, "sram_read": _ceil(read_bytes, hw.sram_read_bytes_per_cycle)}
    if work.finish:
        units |= _output_units(hw, pixels, work.out_channels, work.out_bits, work.forward)
    return units


def least_pixelwise_cycles(
    pixels: np.ndarray, channels: np.ndarray, taps: int, bits: tuple[int, int], hw: HwConfig
) -> np.ndarray:
    """Cycles that an instruction other than CONV and TABLE takes at least beside its start-up; ``bits``: of weights and input."""
    passes = _ceil(channels, hw.array_columns(bits[0])) * _ceil(pixels, hw.array_rows(bits[1]))
    return np.maximum(passes * taps, _ceil(pixels * channels, hw.requantize_outputs_per_cycle))


def _window_columns(work: PoolWork, hw: HwConfig) -> int:
    return hw.array_columns(work.weight_bits) if isinstance(work, DepthwiseWork) else hw.cols


def _window_units(work: PoolWork, hw: HwConfig) -> dict[str, int]:
    """Rows of the array take output pixels, columns take channels."""
    taps, pixels, channels = work.kernel_h * work.kernel_w, work.out_h * work.out_w, work.channels
    read_rows, read_pixels = footprint(work)
    read_bytes = read_rows * read_pixels * _channel_bytes(channels, work.in_bits)
    passes = _ceil(channels, _window_columns(work, hw)) * _ceil(pixels, hw.array_rows(work.in_bits))
    units = {"mac": passes * taps}
    if isinstance(work, DepthwiseWork):
        read_bytes += isa().params_bytes * channels if work.finish else 0
        weight_bytes = taps * _channel_bytes(channels, work.weight_bits)
        units["weight_read"] = _ceil(weight_bytes, hw.weight_read_bytes_per_cycle)
    units["sram_read"] = _ceil(read_bytes, hw.sram_read_bytes_per_cycle)
    if work.finish:
        forward = work.forward if isinstance(work, DepthwiseWork) else 0
        units |= _output_units(hw, pixels, channels, work.out_bits, forward)
    return units


def _pointwise_units(work: CopyWork, hw: HwConfig, forwarded: bool = False) -> dict[str, int]:
    pixels, channels = work.h * work.w, work.channels
    read_bytes = 0 if forwarded else pixels * _channel_bytes(channels, work.in_bits)
    units = _output_units(hw, pixels, channels, work.out_bits)
    if isinstance(work, EltwiseWork):
        read_bytes += pixels * _channel_bytes(1 if work.b_scalar else channels, work.b_bits)
    if isinstance(work, TableWork):
        read_bytes += table_bytes(work.in_bits, work.out_bits, work.knots)
        del units["requantize"]
        units["lookup"] = _ceil(pixels * channels, hw.table_lookups_per_cycle)
    return units | {"sram_read": _ceil(read_bytes, hw.sram_read_bytes_per_cycle)}


def footprint(window: WindowShape) -> tuple[int, int]:
    """Rows and pixels of the input that a window reads, from the first on; 0 and 0 if it reads nothing but padding."""
    reach_h = (window.out_h - 1) * window.stride_h + (window.kernel_h - 1) * window.dilation_h + 1
    reach_w = (window.out_w - 1) * window.stride_w + (window.kernel_w - 1) * window.dilation_w + 1
    rows, pixels = _smaller(window.in_h, reach_h - window.pad_top), _smaller(window.in_w, reach_w - window.pad_left)
    some = (rows > 0) & (pixels > 0)
    return rows * some, pixels * some


def _smaller(one: Counts, other: Counts) -> Counts:
    return other + (one < other) * (one - other)


def line_buffer_bytes(work: PoolWork, hw: HwConfig) -> int:
    """Line buffer that a DEPTHWISE or POOL needs."""
    spanned = min(work.out_h, _ceil(hw.array_rows(work.in_bits) - 1, work.out_w) + 1)
    lines = min(work.in_h, (spanned - 1) * work.stride_h + (work.kernel_h - 1) * work.dilation_h + 1)
    pixels = min(work.in_w, (work.out_w - 1) * work.stride_w + (work.kernel_w - 1) * work.dilation_w + 1)
    return lines * pixels * _channel_bytes(min(work.channels, _window_columns(work, hw)), work.in_bits)


@cache
def table_bytes(in_bits: int, out_bits: int, knots: str) -> int:
    """Bytes of a TABLE instruction's table."""
    if in_bits == 16:
        return 2 * len(table_knots(knots, 0))
    return (1 << in_bits) * (2 if out_bits == 16 else 1)


RunGrid = tuple[int, int, int, int, int, int]  # address, rows, row stride, runs of a row, run stride, bytes of a run


def _run_grid(ins: Instruction) -> RunGrid:
    """A transfer's DRAM runs."""
    if ins.op == "LOAD_RAW":
        return ins["dram_addr"], 1, 0, 1, 0, ins["bytes"]
    if ins.op == "LOADW":
        return ins["stream_addr"], 1 if ins["source"] == "dram" else 0, 0, 1, 0, ins["stream_bytes"]
    if ins.op not in ("LOAD", "STORE"):
        raise CompilerFault(f"{ins.op} transfers nothing from or to DRAM")
    sizes = ins["rows"], ins["dram_row_stride"], ins["pixels"], ins["dram_pixel_stride"], ins["pixel_bytes"]
    return _runs_of_box(ins["dram_addr"], *sizes)


def _runs_of_box(addr: int, rows: int, row_stride: int, pixels: int, pixel_stride: int, size: int) -> RunGrid:
    """The runs of ``size`` bytes of each pixel of each row; those that touch are one."""
    if pixels > 1 and size != pixel_stride:
        return addr, rows, row_stride, pixels, pixel_stride, size
    if row_stride == pixels * size:
        return addr, 1, 0, 1, 0, rows * pixels * size
    return addr, rows, row_stride, 1, 0, pixels * size


def dram_runs(ins: Instruction) -> list[tuple[int, int]]:
    """``(address, bytes)`` of each run of a LOAD, LOAD_RAW, LOADW or STORE, in the order of the transfer.

    Raises CompilerFault for a COMPUTE instruction.
    """
    addr, rows, row_stride, runs, run_stride, size = _run_grid(ins)
    return [(addr + row * row_stride + run * run_stride, size) for row in range(rows) for run in range(runs)]


def _floor_sum(count: int, divisor: int, step: int, start: int) -> int:
    """``sum((start + i * step) // divisor for i in range(count))``, in logarithmic time. Nothing is negative."""
    total = 0
    while True:
        total += count * (count - 1) // 2 * (step // divisor) + count * (start // divisor)
        step, start = step % divisor, start % divisor
        top = step * count + start
        if top < divisor:
            return total
        count, start, divisor, step = top // divisor, top % divisor, step, divisor


def dram_beats(ins: Instruction, hw: HwConfig) -> int:
    """Cycles that the DRAM channel spends on a transfer. Errors as ``dram_runs``."""
    return _grid_beats(_run_grid(ins), hw.dram_bytes_per_cycle)


def box_beats(rows: int, row_stride: int, pixels: int, pixel_stride: int, size: int, hw: HwConfig) -> int:
    """Cycles that the DRAM channel spends on ``size`` bytes of each pixel of each row, the first at a boundary of the bus.

    Strides in bytes. A run shorter than the bus takes a whole cycle, and two where it lies across a boundary.
    """
    return _grid_beats(_runs_of_box(0, rows, row_stride, pixels, pixel_stride, size), hw.dram_bytes_per_cycle)


def least_box_beats(rows: Counts, pixels: Counts, size: Counts, strides: tuple[int, int], hw: HwConfig) -> Counts:
    """What ``box_beats`` gives at least, of one box or of many; ``strides`` of rows and pixels in bytes."""
    row_stride, pixel_stride = strides
    apart = size < pixel_stride  # runs of single pixels, else of rows, unless these touch as well
    broken = apart | (pixels * size < row_stride)
    run_bytes = size * (1 + (pixels - 1) * (1 - apart)) * (1 + (rows - 1) * (1 - broken))
    return _ceil(run_bytes, hw.dram_bytes_per_cycle) * (1 + (rows - 1) * broken) * (1 + (pixels - 1) * apart)


def bytes_beats(count: Counts, hw: HwConfig) -> Counts:
    """Cycles that the DRAM channel spends on that many bytes one after the other, the first at a boundary of the bus."""
    return _ceil(count, hw.dram_bytes_per_cycle)


@lru_cache(maxsize=1 << 14)  # the planner asks the same of many candidates
def _grid_beats(grid: RunGrid, bus: int) -> int:
    addr, rows, row_stride, runs, run_stride, size = grid
    if runs == 1:  # the long side of the grid goes into the closed form
        rows, row_stride, runs, run_stride = min(rows, 1), 0, rows, row_stride
    beats, period = 0, len({row * row_stride % bus for row in range(bus)})  # rows that many apart lie alike on the bus
    for row in range(min(rows, period)):
        first = addr + row * row_stride
        ends = _floor_sum(runs, bus, run_stride, first + size - 1) - _floor_sum(runs, bus, run_stride, first)
        beats += (ends + runs) * _ceil(rows - row, period)
    return beats


def sram_side_cycles(ins: Instruction, hw: HwConfig) -> int:
    """Cycles that LOAD's, LOAD_RAW's, LOADW's or STORE's port to SRAM is busy; 0 for a LOADW from DRAM."""
    if ins.op == "LOADW":
        return _ceil(ins["stream_bytes"], hw.stream_read_bytes_per_cycle) if ins["source"] == "sram" else 0
    if ins.op == "LOAD_RAW":
        return _ceil(ins["bytes"], hw.dram_bytes_per_cycle)
    rows, pixels = ins["rows"], ins["pixels"]
    if ins.op == "LOAD":
        rows, pixels = rows + ins["pad_top"] + ins["pad_bottom"], pixels + ins["pad_left"] + ins["pad_right"]
    return _ceil(rows * pixels * ins["pixel_bytes"], hw.dram_bytes_per_cycle)


def dma_cycles(ins: Instruction, hw: HwConfig, decode_cycles: int = 0) -> int:
    """Cycles of a LOAD, LOAD_RAW, LOADW or STORE that has the DRAM channel to itself. Errors as ``dram_runs``.

    ``decode_cycles``: of a LOADW's stream, as ``streams.decode_stream`` finds them.
    """
    beats = dram_beats(ins, hw)
    parallel = [beats + hw.dram_latency_cycles if beats else 0, sram_side_cycles(ins, hw)]
    if ins.op == "LOADW":
        parallel.append(decode_cycles)
    start_up: int = getattr(hw.start_up_cycles, ins.engine.lower())
    return start_up + max(parallel)


def macs(ins: Instruction) -> int:
    """Multiply-accumulates of an instruction, padding taps counted; 0 unless it is a CONV or DEPTHWISE."""
    if ins.op not in ("CONV", "DEPTHWISE"):
        return 0
    channels = ins["out_channels"] * ins["in_channels"] if ins.op == "CONV" else ins["channels"]
    total: int = ins["out_h"] * ins["out_w"] * channels * ins["kernel_h"] * ins["kernel_w"]
    return total
