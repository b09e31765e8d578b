"""Time of instructions, as the ISA manual states it. The tiler scores candidates with it; tests hold the simulator against it."""

from __future__ import annotations

from .hw import HwConfig
from .isa import Instruction, isa


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)


def _row_bytes(channels: int, bits: int) -> int:
    return _ceil(channels * bits, 8)


def _output_units(hw: HwConfig, pixels: int, channels: int, out_bits: int) -> dict[str, int]:
    return {
        "sram_write": _ceil(pixels * _row_bytes(channels, out_bits), hw.sram_write_bytes_per_cycle),
        "requantize": _ceil(pixels * channels, hw.requantize_outputs_per_cycle),
    }


def conv_units(
    hw: HwConfig, weight_bits: int, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    in_channels: int, out_h: int, out_w: int, out_channels: int, finish: bool,
) -> dict[str, int]:  # fmt: skip
    """Cycles that each unit needs for one CONV, start-up aside."""
    rows, columns = hw.array_rows(activation_bits), hw.array_columns(weight_bits)
    reduction, pixels = kernel_h * kernel_w * in_channels, out_h * out_w
    groups, slices = _ceil(out_channels, columns), _ceil(reduction, rows)
    block = max(1, hw.accumulator_entries // 2 // columns)
    fill = _ceil(_ceil(rows * columns * weight_bits, 8), hw.weight_read_bytes_per_cycle)
    whole, rest = divmod(pixels, block)
    block_cycles = whole * max(block, fill) + (max(rest, fill) if rest else 0)
    read_bytes = groups * pixels * _row_bytes(reduction, activation_bits)
    read_bytes += isa().params_bytes * out_channels if finish else 0
    units = {"mac": groups * slices * block_cycles, "sram_read": _ceil(read_bytes, hw.sram_read_bytes_per_cycle)}
    return units | _output_units(hw, pixels, out_channels, out_bits) if finish else units


def conv_cycles(
    hw: HwConfig, weight_bits: int, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    in_channels: int, out_h: int, out_w: int, out_channels: int, finish: bool,
) -> int:  # fmt: skip
    """Cycles of one CONV."""
    units = conv_units(
        hw, weight_bits, activation_bits, out_bits, kernel_h, kernel_w, in_channels, out_h, out_w, out_channels, finish
    )
    return hw.start_up_cycles.compute + max(units.values())


def depthwise_units(
    hw: HwConfig, weight_bits: int, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    footprint_rows: int, footprint_pixels: int, out_h: int, out_w: int, channels: int, finish: bool,
) -> dict[str, int]:  # fmt: skip
    """Cycles that each unit needs for one DEPTHWISE, start-up aside."""
    taps, pixels = kernel_h * kernel_w, out_h * out_w
    units = pool_units(
        hw, activation_bits, out_bits, kernel_h, kernel_w, footprint_rows, footprint_pixels, out_h, out_w, channels, finish
    )
    rows, columns = hw.array_rows(activation_bits), hw.array_columns(weight_bits)
    units["mac"] = _ceil(channels, columns) * _ceil(pixels, rows) * taps
    units["weight_read"] = _ceil(taps * _row_bytes(channels, weight_bits), hw.weight_read_bytes_per_cycle)
    read_bytes = footprint_rows * footprint_pixels * _row_bytes(channels, activation_bits)
    read_bytes += isa().params_bytes * channels if finish else 0
    units["sram_read"] = _ceil(read_bytes, hw.sram_read_bytes_per_cycle)
    return units


def depthwise_cycles(
    hw: HwConfig, weight_bits: int, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    footprint_rows: int, footprint_pixels: int, out_h: int, out_w: int, channels: int, finish: bool,
) -> int:  # fmt: skip
    """Cycles of one DEPTHWISE."""
    units = depthwise_units(
        hw, weight_bits, activation_bits, out_bits, kernel_h, kernel_w,
        footprint_rows, footprint_pixels, out_h, out_w, channels, finish,
    )  # fmt: skip
    return hw.start_up_cycles.compute + max(units.values())


def pool_units(
    hw: HwConfig, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    footprint_rows: int, footprint_pixels: int, out_h: int, out_w: int, channels: int, finish: bool,
) -> dict[str, int]:  # fmt: skip
    """Cycles that each unit needs for one POOL, start-up aside."""
    pixels = out_h * out_w
    read_bytes = footprint_rows * footprint_pixels * _row_bytes(channels, activation_bits)
    units = {
        "mac": _ceil(channels, hw.cols) * _ceil(pixels, hw.array_rows(activation_bits)) * kernel_h * kernel_w,
        "sram_read": _ceil(read_bytes, hw.sram_read_bytes_per_cycle),
    }
    return units | _output_units(hw, pixels, channels, out_bits) if finish else units


def pool_cycles(
    hw: HwConfig, activation_bits: int, out_bits: int, kernel_h: int, kernel_w: int,
    footprint_rows: int, footprint_pixels: int, out_h: int, out_w: int, channels: int, finish: bool,
) -> int:  # fmt: skip
    """Cycles of one POOL."""
    units = pool_units(
        hw, activation_bits, out_bits, kernel_h, kernel_w, footprint_rows, footprint_pixels, out_h, out_w, channels, finish
    )
    return hw.start_up_cycles.compute + max(units.values())


def window_line_buffer_bytes(
    hw: HwConfig, weight_bits: int, activation_bits: int, kernel_h: int, kernel_w: int, stride_h: int, stride_w: int,
    dilation_h: int, dilation_w: int, in_h: int, in_w: int, out_h: int, out_w: int, channels: int,
) -> int:  # fmt: skip
    """Line buffer that a DEPTHWISE needs (POOL: with ``weight_bits`` 8)."""
    spanned = min(out_h, _ceil(hw.array_rows(activation_bits) - 1, out_w) + 1)
    lines = min(in_h, (spanned - 1) * stride_h + (kernel_h - 1) * dilation_h + 1)
    pixels = min(in_w, (out_w - 1) * stride_w + (kernel_w - 1) * dilation_w + 1)
    return lines * pixels * _row_bytes(min(channels, hw.array_columns(weight_bits)), activation_bits)


def footprint(ins: Instruction) -> tuple[tuple[int, int], tuple[int, int]]:
    """``((first row, rows), (first pixel, pixels))`` that a windowed instruction reads; counts are 0 if there are none."""
    first_row, first_pixel = 0, 0  # padding is never negative, so the footprint begins at the view's first row
    rows = min(ins["in_h"], (ins["out_h"] - 1) * ins["stride_h"] + (ins["kernel_h"] - 1) * ins["dilation_h"] + 1 - ins["pad_top"])
    pixels = min(ins["in_w"], (ins["out_w"] - 1) * ins["stride_w"] + (ins["kernel_w"] - 1) * ins["dilation_w"] + 1 - ins["pad_left"])
    if rows <= 0 or pixels <= 0:
        return (0, 0), (0, 0)
    return (first_row, rows), (first_pixel, pixels)


def compute_units(ins: Instruction, hw: HwConfig) -> dict[str, int]:
    """Cycles that each unit needs for a COMPUTE instruction, start-up aside."""
    if ins.op == "CONV":
        return conv_units(
            hw, ins["weight_bits"], ins["in_bits"], ins["out_bits"], ins["kernel_h"], ins["kernel_w"],
            ins["in_channels"], ins["out_h"], ins["out_w"], ins["out_channels"], bool(ins["finish"]),
        )  # fmt: skip
    if ins.op in ("DEPTHWISE", "POOL"):
        (_, rows), (_, pixels) = footprint(ins)
        rest = (
            ins["in_bits"], ins["out_bits"], ins["kernel_h"], ins["kernel_w"], rows, pixels,
            ins["out_h"], ins["out_w"], ins["channels"], bool(ins["finish"]),
        )  # fmt: skip
        return pool_units(hw, *rest) if ins.op == "POOL" else depthwise_units(hw, ins["weight_bits"], *rest)
    pixels, channels = ins["h"] * ins["w"], ins["channels"]
    read_bytes = pixels * _row_bytes(channels, ins["in_bits"])
    units = _output_units(hw, pixels, channels, ins["out_bits"])
    if ins.op == "ELTWISE":
        read_bytes += pixels * _row_bytes(1 if ins["b_scalar"] else channels, ins["b_bits"])
    if ins.op == "TABLE":
        read_bytes += table_bytes(ins["in_bits"], ins["out_bits"])
        del units["requantize"]
        units["lookup"] = _ceil(pixels * channels, hw.table_lookups_per_cycle)
    return units | {"sram_read": _ceil(read_bytes, hw.sram_read_bytes_per_cycle)}


def table_bytes(in_bits: int, out_bits: int) -> int:
    """Bytes of a TABLE instruction's table."""
    if in_bits == 16:
        return 2 * ((1 << (in_bits - isa().interpolation_bits)) + 1)
    return (1 << in_bits) * (2 if out_bits == 16 else 1)


def duration(ins: Instruction, hw: HwConfig) -> int:
    """Cycles of a COMPUTE instruction."""
    return hw.start_up_cycles.compute + max(compute_units(ins, hw).values())


def dram_runs(ins: Instruction) -> list[tuple[int, int]]:
    """``(address, bytes)`` of each contiguous run of a DRAM transfer, in the order of the transfer."""
    if ins.op == "LOAD_RAW":
        return [(ins["dram_addr"], ins["bytes"])]
    if ins.op == "LOADW":
        return [(ins["stream_addr"], ins["stream_bytes"])] if ins["source"] == "dram" else []
    rows, pixels, size = ins["rows"], ins["pixels"], ins["pixel_bytes"]
    starts = [ins["dram_addr"] + row * ins["dram_row_stride"] for row in range(rows)]
    if size != ins["dram_pixel_stride"] and pixels > 1:
        return [(start + pixel * ins["dram_pixel_stride"], size) for start in starts for pixel in range(pixels)]
    if rows > 1 and pixels * size == ins["dram_row_stride"]:
        return [(starts[0], rows * pixels * size)]
    return [(start, pixels * size) for start in starts]


def dram_beats(ins: Instruction, hw: HwConfig) -> int:
    """Cycles that the DRAM channel is taken by a transfer."""
    bus = hw.dram_bytes_per_cycle
    return sum((addr + size - 1) // bus - addr // bus + 1 for addr, size in dram_runs(ins))


def macs(ins: Instruction) -> int:
    """Multiply-accumulates of an instruction, padding taps counted."""
    if ins.op == "CONV":
        return (
            ins["out_h"] * ins["out_w"] * ins["out_channels"] * ins["kernel_h"] * ins["kernel_w"] * ins["in_channels"]
        )
    if ins.op == "DEPTHWISE":
        return ins["out_h"] * ins["out_w"] * ins["channels"] * ins["kernel_h"] * ins["kernel_w"]
    return 0
