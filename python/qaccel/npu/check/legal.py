"""Fields that an instruction may not have, whatever stands around it (ISA manual: instructions, numerics, memory)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from ...machine import cost
from ...machine.hw import HwConfig
from ...machine.isa import Instruction, isa
from ...machine.numerics import activation_limits
from ..access import Access, out_channels

# At least 1, as far as the instruction has them.
_SIZES = (
    *(
        "rows",
        "pixels",
        "pixel_bytes",
        "bytes",
        "stream_bytes",
        "weight_count",
        "row_weights",
        "in_h",
        "in_w",
        "out_h",
        "out_w",
        "h",
        "w",
    ),
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"),
    *("in_channels", "out_channels", "channels"),
)
_PADS = ("pad_top", "pad_bottom", "pad_left", "pad_right")


def first_fault(ins: Instruction, hw: HwConfig) -> str | None:
    """What is wrong with an instruction by itself: sizes, values, units too small; or None."""
    return _size_fault(ins) or _value_fault(ins) or _unit_fault(ins, hw)


@cache
def _sizes_of(op: str) -> tuple[str, ...]:
    """The fields of an instruction that must be at least 1."""
    return tuple(field.name for field in isa().formats[op].fields if field.name in _SIZES)


def _size_fault(ins: Instruction) -> str | None:
    for name in _sizes_of(ins.op):
        if ins.values[name] < 1:  # type: ignore[operator]  # all of them are numbers
            return f"{name} is {ins[name]}, must be at least 1"
    return None


def _value_fault(ins: Instruction) -> str | None:
    for prefix in ("in", "b", "out"):
        if f"{prefix}_zero_point" in ins.values:
            bits, value = ins[f"{prefix}_bits"], ins[f"{prefix}_zero_point"]
            lo, hi = activation_limits(bits) if bits < 16 else (0, 0)
            if not lo <= value <= hi:
                return f"{prefix}_zero_point is {value}, must be {lo} to {hi} at {bits} bits"
    if "clamp_lo" in ins.values:
        lo, hi = activation_limits(ins["out_bits"])
        if not lo <= ins["clamp_lo"] <= ins["clamp_hi"] <= hi:
            return f"clamp is {ins['clamp_lo']} to {ins['clamp_hi']}, must be ordered and within {lo} to {hi}"
    if ins.op == "LOAD":
        lo, hi = activation_limits(ins["pad_bits"])
        if not lo <= ins["pad_value"] <= hi:
            return f"pad_value is {ins['pad_value']}, must be {lo} to {hi}"
        if (
            ins["pad_bits"] == 16
            and ins["pixel_bytes"] % 2
            and any(ins[f"pad_{s}"] for s in ("top", "bottom", "left", "right"))
        ):
            return f"pixel_bytes is {ins['pixel_bytes']}, must be even for padding of 16 bits"
    if ins.op == "ELTWISE" and ins["kind"] == "mul" and ins["b_multiplier"]:
        return f"b_multiplier is {ins['b_multiplier']}, must be 0 for mul"
    if ins.op == "TABLE":
        if ins["in_bits"] < 16 and ins["knots"] != "even":
            return f"knots is {ins['knots']}, must be even for inputs of {ins['in_bits']} bits"
        if ins["knots"] == "even" and ins["origin"]:
            return f"origin is {ins['origin']}, must be 0 for even knots"
    return None


def _unit_fault(ins: Instruction, hw: HwConfig) -> str | None:
    work = cost.work_of(ins) if ins.op in ("DEPTHWISE", "POOL") else None
    if isinstance(work, cost.PoolWork):
        needed = cost.line_buffer_bytes(work, hw)
        if needed > hw.line_buffer_bytes:
            return f"needs {needed} bytes of line buffer, the machine has {hw.line_buffer_bytes}"
    if "finish" in ins.values and not ins["finish"]:
        entries = ins["out_h"] * ins["out_w"] * out_channels(ins)
        if entries > hw.accumulator_entries:
            return f"leaves {entries} accumulators open, the machine has {hw.accumulator_entries}"
    return None


def range_fault(touched: Sequence[Access], hw: HwConfig, dram_bytes: int) -> str | None:
    """What is wrong with the accesses of an instruction without a fault: ranges outside a memory, outputs over themselves."""
    sizes = {"sram": hw.sram_bytes, "weights": hw.weight_buffer_bytes, "dram": dram_bytes}
    for access in touched:
        begin, end = access.hull()
        if end > sizes[access.memory]:
            return f"{access.what} takes {access.memory} bytes {begin} to {end - 1}, there are {sizes[access.memory]}"
        if access.write and _overlaps_itself(access, sizes[access.memory]):
            return f"{access.what} overlaps itself: strides {access.pixel_stride} and {access.row_stride} are too small"
    return None


def _overlaps_itself(access: Access, memory_bytes: int) -> bool:
    if (access.pixels == 1 or access.pixel_stride >= access.run_bytes) and (
        access.rows == 1 or access.row_stride >= access.row_bytes
    ):
        return False
    if access.rows * access.pixels * access.run_bytes > memory_bytes:
        return True
    starts = np.arange(access.rows)[:, None] * access.row_stride + np.arange(access.pixels) * access.pixel_stride
    return bool(np.diff(np.sort(starts.reshape(-1))).min() < access.run_bytes)
