"""Time of instructions, in cycles, as the ISA manual states it; the tiler scores its candidates with these functions.

Functions with plain arguments serve the tiler, which has no instructions yet; those that take an instruction call them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import CompilerFault
from .hw import HwConfig
from .isa import Instruction, isa

# The argument lists below stay readable side by side.
# fmt: off


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)


def _channel_bytes(channels: int, bits: int) -> int:
    """Bytes of one pixel."""
    return _ceil(channels * bits, 8)


def _output_units(hw: HwConfig, pixels: int, channels: int, out_bits: int) -> dict[str, int]:
    return {
        "sram_write": _ceil(pixels * _channel_bytes(channels, out_bits), hw.sram_write_bytes_per_cycle),
        "requantize": _ceil(pixels * channels, hw.requantize_outputs_per_cycle),
    }


def conv_units(
    hw: HwConfig, weight_bits: int, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    in_channels: int, out_h: int, out_w: int, out_channels: int, finish: bool,
) -> dict[str, int]:
    """Cycles that each unit needs for one CONV, start-up aside."""
    rows, columns = hw.array_rows(activation_bits), hw.array_columns(weight_bits)
    reduction, pixels = kernel_h * kernel_w * in_channels, out_h * out_w
    groups, slices = _ceil(out_channels, columns), _ceil(reduction, rows)
    block = max(1, hw.accumulator_entries // 2 // columns)
    fill = _ceil(_ceil(rows * columns * weight_bits, 8), hw.weight_read_bytes_per_cycle)
    whole, rest = divmod(pixels, block)
    block_cycles = whole * max(block, fill) + (max(rest, fill) if rest else 0)
    read_bytes = groups * pixels * _channel_bytes(reduction, activation_bits)
    read_bytes += isa().params_bytes * out_channels if finish else 0
    units = {"mac": groups * slices * block_cycles, "sram_read": _ceil(read_bytes, hw.sram_read_bytes_per_cycle)}
    return units | _output_units(hw, pixels, out_channels, out_bits) if finish else units


def conv_cycles(
    hw: HwConfig, weight_bits: int, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    in_channels: int, out_h: int, out_w: int, out_channels: int, finish: bool,
) -> int:
    """Cycles of one CONV."""
    units = conv_units(
        hw, weight_bits, activation_bits, out_bits, kernel_h, kernel_w, in_channels, out_h, out_w, out_channels, finish
    )
    return hw.start_up_cycles.compute + max(units.values())


def _per_channel_units(
    hw: HwConfig, columns: int, activation_bits: int, out_bits: int, taps: int, footprint_pixels: int,
    param_bytes: int, pixels: int, channels: int, finish: bool,
) -> dict[str, int]:
    """What DEPTHWISE and POOL share: rows take output pixels, columns take channels."""
    read_bytes = footprint_pixels * _channel_bytes(channels, activation_bits) + param_bytes
    units = {
        "mac": _ceil(channels, columns) * _ceil(pixels, hw.array_rows(activation_bits)) * taps,
        "sram_read": _ceil(read_bytes, hw.sram_read_bytes_per_cycle),
    }
    return units | _output_units(hw, pixels, channels, out_bits) if finish else units


def depthwise_units(
    hw: HwConfig, weight_bits: int, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    footprint_rows: int, footprint_pixels: int, out_h: int, out_w: int, channels: int, finish: bool,
) -> dict[str, int]:
    """Cycles that each unit needs for one DEPTHWISE, start-up aside."""
    taps, param_bytes = kernel_h * kernel_w, isa().params_bytes * channels if finish else 0
    units = _per_channel_units(
        hw, hw.array_columns(weight_bits), activation_bits, out_bits, taps, footprint_rows * footprint_pixels,
        param_bytes, out_h * out_w, channels, finish,
    )
    weight_bytes = taps * _channel_bytes(channels, weight_bits)
    return units | {"weight_read": _ceil(weight_bytes, hw.weight_read_bytes_per_cycle)}


def depthwise_cycles(
    hw: HwConfig, weight_bits: int, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    footprint_rows: int, footprint_pixels: int, out_h: int, out_w: int, channels: int, finish: bool,
) -> int:
    """Cycles of one DEPTHWISE."""
    units = depthwise_units(
        hw, weight_bits, activation_bits, out_bits, kernel_h, kernel_w, footprint_rows, footprint_pixels, out_h,
        out_w, channels, finish,
    )
    return hw.start_up_cycles.compute + max(units.values())


def pool_units(
    hw: HwConfig, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int, footprint_rows: int,
    footprint_pixels: int, out_h: int, out_w: int, channels: int, finish: bool,
) -> dict[str, int]:
    """Cycles that each unit needs for one POOL, start-up aside."""
    return _per_channel_units(
        hw, hw.cols, activation_bits, out_bits, kernel_h * kernel_w, footprint_rows * footprint_pixels,
        0, out_h * out_w, channels, finish,
    )


def pool_cycles(
    hw: HwConfig, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int, footprint_rows: int,
    footprint_pixels: int, out_h: int, out_w: int, channels: int, finish: bool,
) -> int:
    """Cycles of one POOL."""
    units = pool_units(
        hw, activation_bits, out_bits, kernel_h, kernel_w, footprint_rows, footprint_pixels, out_h, out_w, channels,
        finish,
    )
    return hw.start_up_cycles.compute + max(units.values())


def window_line_buffer_bytes(
    hw: HwConfig, weight_bits: int, activation_bits: int, kernel_h: int, kernel_w: int, stride_h: int, stride_w: int,
    dilation_h: int, dilation_w: int, in_h: int, in_w: int, out_h: int, out_w: int, channels: int,
) -> int:
    """Line buffer that a DEPTHWISE needs (POOL: with ``weight_bits`` 8)."""
    spanned = min(out_h, _ceil(hw.array_rows(activation_bits) - 1, out_w) + 1)
    lines = min(in_h, (spanned - 1) * stride_h + (kernel_h - 1) * dilation_h + 1)
    pixels = min(in_w, (out_w - 1) * stride_w + (kernel_w - 1) * dilation_w + 1)
    return lines * pixels * _channel_bytes(min(channels, hw.array_columns(weight_bits)), activation_bits)


# fmt: on


def line_buffer_bytes(ins: Instruction, hw: HwConfig) -> int:
    """Line buffer that an instruction needs: 0 unless it is a DEPTHWISE or POOL."""
    if ins.op not in ("DEPTHWISE", "POOL"):
        return 0
    names = ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w")
    window = [ins[name] for name in (*names, "in_h", "in_w", "out_h", "out_w", "channels")]
    return window_line_buffer_bytes(hw, ins["weight_bits"] if ins.op == "DEPTHWISE" else 8, ins["in_bits"], *window)


def footprint(ins: Instruction) -> tuple[tuple[int, int], tuple[int, int]]:
    """What a windowed instruction reads: ``((first row, rows), (first pixel, pixels))``; all 0 if it reads nothing.

    Padding is never negative, so both begin at 0.
    """
    reach_h = (ins["out_h"] - 1) * ins["stride_h"] + (ins["kernel_h"] - 1) * ins["dilation_h"] + 1
    reach_w = (ins["out_w"] - 1) * ins["stride_w"] + (ins["kernel_w"] - 1) * ins["dilation_w"] + 1
    rows, pixels = min(ins["in_h"], reach_h - ins["pad_top"]), min(ins["in_w"], reach_w - ins["pad_left"])
    if rows <= 0 or pixels <= 0:
        return (0, 0), (0, 0)
    return (0, rows), (0, pixels)


def _window_units(ins: Instruction, hw: HwConfig) -> dict[str, int]:
    taps = ins["kernel_h"], ins["kernel_w"]
    finish = bool(ins["finish"])
    if ins.op == "CONV":
        outputs = ins["out_h"], ins["out_w"], ins["out_channels"]
        return conv_units(
            hw, ins["weight_bits"], ins["in_bits"], ins["out_bits"], *taps, ins["in_channels"], *outputs, finish
        )
    (_, rows), (_, pixels) = footprint(ins)
    rest = ins["in_bits"], ins["out_bits"], *taps, rows, pixels, ins["out_h"], ins["out_w"], ins["channels"], finish
    return pool_units(hw, *rest) if ins.op == "POOL" else depthwise_units(hw, ins["weight_bits"], *rest)


def _tile_units(ins: Instruction, hw: HwConfig) -> dict[str, int]:
    pixels, channels = ins["h"] * ins["w"], ins["channels"]
    read_bytes = pixels * _channel_bytes(channels, ins["in_bits"])
    units = _output_units(hw, pixels, channels, ins["out_bits"])
    if ins.op == "ELTWISE":
        read_bytes += pixels * _channel_bytes(1 if ins["b_scalar"] else channels, ins["b_bits"])
    if ins.op == "TABLE":
        read_bytes += table_bytes(ins["in_bits"], ins["out_bits"])
        del units["requantize"]
        units["lookup"] = _ceil(pixels * channels, hw.table_lookups_per_cycle)
    return units | {"sram_read": _ceil(read_bytes, hw.sram_read_bytes_per_cycle)}


def compute_cycles(ins: Instruction, hw: HwConfig) -> dict[str, int]:
    """Cycles of each unit that a COMPUTE instruction uses, and its start-up.

    Keys: start_up, mac, weight_read, sram_read, sram_write, requantize, lookup; only those that apply.
    The taps of a POOL count as mac. Raises CompilerFault for another engine's instruction.
    """
    if ins.engine != "COMPUTE":
        raise CompilerFault(f"{ins.op} is an instruction of the {ins.engine} engine, not of COMPUTE")
    units = _tile_units(ins, hw) if "h" in ins.values else _window_units(ins, hw)
    return {"start_up": hw.start_up_cycles.compute, **units}


def duration(ins: Instruction, hw: HwConfig) -> int:
    """Cycles of a COMPUTE instruction: start-up and the slowest of its units. Errors as ``compute_cycles``."""
    units = compute_cycles(ins, hw)
    return units.pop("start_up") + max(units.values())


def table_bytes(in_bits: int, out_bits: int) -> int:
    """Bytes of a TABLE instruction's table."""
    if in_bits == 16:
        return 2 * ((1 << (in_bits - isa().interpolation_bits)) + 1)
    return (1 << in_bits) * (2 if out_bits == 16 else 1)


def _run_grid(ins: Instruction) -> tuple[int, int, int, int, int, int]:
    """A transfer's DRAM runs as ``(address, rows, row stride, runs of a row, run stride, bytes of a run)``."""
    if ins.op == "LOAD_RAW":
        return ins["dram_addr"], 1, 0, 1, 0, ins["bytes"]
    if ins.op == "LOADW":
        return ins["stream_addr"], 1 if ins["source"] == "dram" else 0, 0, 1, 0, ins["stream_bytes"]
    if ins.op not in ("LOAD", "STORE"):
        raise CompilerFault(f"{ins.op} transfers nothing from or to DRAM")
    addr, rows, row_stride = ins["dram_addr"], ins["rows"], ins["dram_row_stride"]
    pixels, pixel_stride, size = ins["pixels"], ins["dram_pixel_stride"], ins["pixel_bytes"]
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
    addr, rows, row_stride, runs, run_stride, size = _run_grid(ins)
    bus = hw.dram_bytes_per_cycle
    if runs == 1:  # the long side of the grid goes into the closed form
        rows, row_stride, runs, run_stride = 1 if rows else 0, 0, rows, row_stride
    beats = 0
    for row in range(rows):
        first = addr + row * row_stride
        beats += _floor_sum(runs, bus, run_stride, first + size - 1) - _floor_sum(runs, bus, run_stride, first) + runs
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


@dataclass(frozen=True)
class StreamEstimate:
    """What weight streams of one layer take, by the number of their weights; ``compress.py`` measures it."""

    bytes_per_stream: float
    bytes_per_weight: float
    cycles_per_stream: float
    cycles_per_weight: float

    def stream_bytes(self, weights: int) -> int:
        """Header, tables and padding included."""
        return round(self.bytes_per_stream + weights * self.bytes_per_weight)

    def decode_cycles(self, weights: int) -> int:
        """Cycles that the decoder is busy."""
        return round(self.cycles_per_stream + weights * self.cycles_per_weight)


def raw_streams(weight_bits: int, hw: HwConfig) -> StreamEstimate:
    """Streams of codec raw."""
    return StreamEstimate(isa().stream["header_bytes"], weight_bits / 8, 0, 1 / hw.decoder_lanes)


def dma_cycles(ins: Instruction, hw: HwConfig, decode_cycles: int = 0) -> int:
    """Cycles of a LOAD, LOAD_RAW, LOADW or STORE that has the DRAM channel to itself. Errors as ``dram_runs``.

    ``decode_cycles``: of a LOADW's stream, as ``compress.decode_stream`` finds them.
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
