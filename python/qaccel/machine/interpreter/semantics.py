"""What each instruction does, from the ISA manual's words, in exact integers; NumPy only loops over the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..hw import HwConfig
from ..isa import Instruction
from . import streams
from .exact import rhe, times
from .memory import Block, Fault, bytes_for, from_bytes, run_of, to_bytes
from .state import Accumulators, State

WINDOW_SIZES = (
    "in_h", "in_w", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "out_h", "out_w"
)  # fmt: skip


def limits(bits: int) -> tuple[int, int]:
    """The least and the greatest signed integer of so many bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def at_least_one(ins: Instruction, *names: str) -> None:
    """Raises Fault where one of these fields is below 1."""
    for name in names:
        if ins[name] < 1:
            raise Fault(f"{name} is {ins[name]}")


def check_zero_point(ins: Instruction, prefix: str) -> None:
    """Raises Fault for a zero point outside its width, or other than 0 at 16 bits."""
    bits, zero_point = ins[f"{prefix}_bits"], ins[f"{prefix}_zero_point"]
    lo, hi = (0, 0) if bits == 16 else limits(bits)
    if not lo <= zero_point <= hi:
        raise Fault(f"{prefix}_zero_point is {zero_point} at {bits} bits")


def check_output(ins: Instruction) -> None:
    """Raises Fault for a zero point or a clamp that the output's width does not hold."""
    check_zero_point(ins, "out")
    lo, hi = limits(ins["out_bits"])
    if not lo <= ins["clamp_lo"] <= ins["clamp_hi"] <= hi:
        raise Fault(f"clamp {ins['clamp_lo']} to {ins['clamp_hi']} at {ins['out_bits']} bits")


def execute(machine: State, ins: Instruction) -> None:
    """What an instruction does to the machine. Raises Fault where the manual calls it an error."""
    for memory in (machine.dram, machine.sram, machine.weights):
        memory.held.clear()
    if ins.op in ("ELTWISE", "TABLE") and ins["forwarded"]:
        machine.sram.held.extend(machine.forwarded_reads)
    _EXECUTE[ins.op](machine, ins)


# Data movement


def load(machine: State, ins: Instruction) -> None:
    """LOAD: pixels from DRAM to SRAM, with padding around them."""
    at_least_one(ins, "rows", "pixels", "pixel_bytes")
    lo, hi = limits(ins["pad_bits"])
    if not lo <= ins["pad_value"] <= hi:
        raise Fault(f"pad_value {ins['pad_value']} at {ins['pad_bits']} bits")
    rows, pixels, size = ins["rows"], ins["pixels"], ins["pixel_bytes"]
    source = Block(ins["dram_addr"], rows, ins["dram_row_stride"], pixels, ins["dram_pixel_stride"], size)
    top, left = ins["pad_top"], ins["pad_left"]
    padded = np.zeros((top + rows + ins["pad_bottom"], left + pixels + ins["pad_right"], size), np.uint8)
    value = ins["pad_value"]
    if padded.size > source.size and ins["pad_bits"] == 16 and size % 2:
        raise Fault(f"pixel_bytes {size} is odd with padding of 16 bits")
    if ins["pad_bits"] == 16:
        padded[:, :, 0::2], padded[:, :, 1::2] = value & 255, (value >> 8) & 255
    else:
        padded[...] = (value & 15) * 17 if ins["pad_bits"] == 4 else value & 255
    padded[top : top + rows, left : left + pixels] = machine.dram.read(source)
    strides = ins["sram_row_stride"], ins["sram_pixel_stride"]
    target = Block(ins["sram_addr"], padded.shape[0], strides[0], padded.shape[1], strides[1], size)
    machine.sram.write(target, padded)


def load_raw(machine: State, ins: Instruction) -> None:
    """LOAD_RAW: bytes from DRAM to SRAM."""
    at_least_one(ins, "bytes")
    data = machine.dram.read(run_of(ins["dram_addr"], ins["bytes"]))
    machine.sram.write(run_of(ins["sram_addr"], ins["bytes"]), data)


def store(machine: State, ins: Instruction) -> None:
    """STORE: pixels from SRAM to DRAM."""
    at_least_one(ins, "rows", "pixels", "pixel_bytes")
    sizes = ins["rows"], ins["pixels"], ins["pixel_bytes"]
    source = Block(ins["sram_addr"], sizes[0], ins["sram_row_stride"], sizes[1], ins["sram_pixel_stride"], sizes[2])
    target = Block(ins["dram_addr"], sizes[0], ins["dram_row_stride"], sizes[1], ins["dram_pixel_stride"], sizes[2])
    machine.dram.write(target, machine.sram.read(source))


def loadw(machine: State, ins: Instruction) -> None:
    """LOADW: a weight stream, decoded into the weight buffer."""
    at_least_one(ins, "weight_count", "row_weights")
    memory = {"dram": machine.dram, "sram": machine.sram}[ins["source"]]
    stream = memory.read(run_of(ins["stream_addr"], ins["stream_bytes"])).tobytes()
    count, bits = ins["weight_count"], ins["weight_bits"]
    try:
        limits = machine.hw.decoder_lanes, machine.hw.decoder_table_bytes
        weights = streams.decode(stream, count, ins["row_weights"], bits, *limits).weights
    except streams.StreamFault as fault:
        raise Fault(f"the stream {fault}") from None
    data = np.frombuffer(streams.packed(weights, bits), np.uint8)
    machine.weights.write(run_of(ins["buffer_addr"], data.size), data[None, None])


# Views in SRAM


def read_view(machine: State, ins: Instruction, prefix: str, rows: int, pixels: int, channels: int) -> np.ndarray:
    """The operand ``prefix`` as int64 [rows, pixels, channels]."""
    bits = ins[f"{prefix}_bits"]
    strides = ins[f"{prefix}_row_stride"], ins[f"{prefix}_pixel_stride"]
    at = Block(ins[f"{prefix}_addr"], rows, strides[0], pixels, strides[1], bytes_for(channels, bits))
    return from_bytes(machine.sram.read(at, hold=not in_place(ins, prefix)), bits, channels)


def read_input(machine: State, ins: Instruction) -> np.ndarray:
    """The input of ELTWISE or TABLE, [h, w, channels]: from SRAM, or what is forwarded."""
    if not ins["forwarded"]:
        return read_view(machine, ins, "in", ins["h"], ins["w"], ins["channels"])
    assert machine.forwarded is not None
    return machine.forwarded


def in_place(ins: Instruction, prefix: str) -> bool:
    """Whether the output may overwrite the operand: ELTWISE, the same view and width."""
    if ins.op != "ELTWISE":
        return False
    channels = 1 if prefix == "b" and ins["b_scalar"] else ins["channels"]
    if bytes_for(channels, ins["out_bits"]) != bytes_for(ins["channels"], ins["out_bits"]):
        return False
    same_rows = ins["h"] == 1 or ins[f"{prefix}_row_stride"] == ins["out_row_stride"]
    same_pixels = ins["w"] == 1 or ins[f"{prefix}_pixel_stride"] == ins["out_pixel_stride"]
    return same_rows and same_pixels and all(ins[f"{prefix}_{name}"] == ins[f"out_{name}"] for name in ("addr", "bits"))


def write_output(machine: State, ins: Instruction, values: np.ndarray) -> None:
    """[h, w, channels]."""
    raw = to_bytes(values.astype(np.int64), ins["out_bits"])
    h, w, size = raw.shape
    machine.sram.write(Block(ins["out_addr"], h, ins["out_row_stride"], w, ins["out_pixel_stride"], size), raw)


def requantized(ins: Instruction, total: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    """``total * 2**-shift`` rounded once, with the output's zero point and clamp."""
    return np.minimum(np.maximum(ins["out_zero_point"] + rhe(total, shift), ins["clamp_lo"]), ins["clamp_hi"])


# Windows and accumulators


def window(machine: State, ins: Instruction) -> None:
    """CONV, DEPTHWISE and POOL."""
    at_least_one(ins, *WINDOW_SIZES)
    at_least_one(ins, *(("in_channels", "out_channels") if ins.op == "CONV" else ("channels",)))
    check_zero_point(ins, "in")
    check_output(ins)
    channels = ins["out_channels"] if ins.op == "CONV" else ins["channels"]
    in_channels = ins["in_channels"] if ins.op == "CONV" else channels
    weight_bits = 8 if ins.op == "POOL" else ins["weight_bits"]
    if ins.op != "CONV":
        check_line_buffer(machine.hw, ins, channels, weight_bits)
    state = open_accumulators(machine, ins, channels, weight_bits)

    rows = min(
        ins["in_h"],
        (ins["out_h"] - 1) * ins["stride_h"] + (ins["kernel_h"] - 1) * ins["dilation_h"] + 1 - ins["pad_top"],
    )
    pixels = min(
        ins["in_w"],
        (ins["out_w"] - 1) * ins["stride_w"] + (ins["kernel_w"] - 1) * ins["dilation_w"] + 1 - ins["pad_left"],
    )
    a = np.zeros((0, 0, in_channels), np.int64)
    if rows > 0 and pixels > 0:
        a = read_view(machine, ins, "in", rows, pixels, in_channels) - ins["in_zero_point"]
    weights = read_weights(machine, ins, in_channels, channels) if ins.op != "POOL" else None
    for ky in range(ins["kernel_h"]):
        y = np.arange(ins["out_h"])
        row = y * ins["stride_h"] + ky * ins["dilation_h"] - ins["pad_top"]
        y, row = y[(row >= 0) & (row < ins["in_h"])], row[(row >= 0) & (row < ins["in_h"])]
        for kx in range(ins["kernel_w"]):
            x = np.arange(ins["out_w"])
            col = x * ins["stride_w"] + kx * ins["dilation_w"] - ins["pad_left"]
            x, col = x[(col >= 0) & (col < ins["in_w"])], col[(col >= 0) & (col < ins["in_w"])]
            if y.size and x.size:
                tap(ins, state, (y[:, None], x), a[row[:, None], col], None if weights is None else weights[ky, kx])

    bits = 32 if weight_bits <= 8 and ins["in_bits"] <= 8 else machine.hw.accumulator_bits
    if not (ins.op == "POOL" and ins["kind"] == "max"):
        check_width(state.acc, bits)
    machine.accumulators = state
    if ins["finish"]:
        finish(machine, ins, state, channels, bits)
    elif ins["out_h"] * ins["out_w"] * channels > machine.hw.accumulator_entries:
        raise Fault("more accumulators are left open than there are")


def tap(ins: Instruction, state: Accumulators, where: tuple[Any, Any], a: np.ndarray, w: np.ndarray | None) -> None:
    """Add one tap: inputs [y, x, c] to the output pixels ``where``."""
    if ins.op == "CONV":
        assert w is not None
        state.acc[where] += a @ w
    elif ins.op == "DEPTHWISE":
        assert w is not None
        state.acc[where] += a * w[0]
    elif ins["kind"] == "sum":
        state.acc[where] += a
    else:
        state.acc[where] = np.where(state.hit[where][..., None], np.maximum(state.acc[where], a), a)
    state.hit[where] = True


def read_weights(machine: State, ins: Instruction, in_channels: int, channels: int) -> np.ndarray:
    """[kernel_h, kernel_w, in_channels (DEPTHWISE: 1), channels]."""
    depth = in_channels if ins.op == "CONV" else 1
    reduction = ins["kernel_h"] * ins["kernel_w"] * depth
    row_bytes = bytes_for(channels, ins["weight_bits"])
    raw = machine.weights.read(run_of(ins["weight_addr"], reduction * row_bytes)).reshape(reduction, row_bytes)
    return from_bytes(raw, ins["weight_bits"], channels).reshape(ins["kernel_h"], ins["kernel_w"], depth, channels)


def check_line_buffer(hw: HwConfig, ins: Instruction, channels: int, weight_bits: int) -> None:
    """Raises Fault where the lines that DEPTHWISE or POOL needs at once have no room."""
    rows_of_array = hw.rows * 8 // ins["in_bits"]
    columns = hw.cols * 8 // weight_bits  # pooling: as for 8 bits
    spanned = min(ins["out_h"], -(-(rows_of_array - 1) // ins["out_w"]) + 1)
    lines = min(ins["in_h"], (spanned - 1) * ins["stride_h"] + (ins["kernel_h"] - 1) * ins["dilation_h"] + 1)
    pixels = min(ins["in_w"], (ins["out_w"] - 1) * ins["stride_w"] + (ins["kernel_w"] - 1) * ins["dilation_w"] + 1)
    if lines * pixels * bytes_for(min(channels, columns), ins["in_bits"]) > hw.line_buffer_bytes:
        raise Fault("the line buffer is too small")


def open_accumulators(machine: State, ins: Instruction, channels: int, weight_bits: int) -> Accumulators:
    """New accumulators, or with ``accumulate`` those that are open. Raises Fault where the instruction does not fit them."""
    widths = weight_bits, ins["in_bits"], ins["out_bits"]
    shape = (ins.op, ins["out_h"], ins["out_w"], channels, widths, ins["kind"] if ins.op == "POOL" else None)
    state = machine.accumulators
    if not ins["accumulate"]:
        if state is not None:
            raise Fault("starts anew while accumulators are open")
        size = ins["out_h"], ins["out_w"]
        return Accumulators(shape, np.zeros((*size, channels), np.int64), np.zeros(size, bool))
    if state is None:
        raise Fault("no accumulators are open")
    if state.shape != shape:
        raise Fault(f"accumulates {shape} onto {state.shape}")
    return state


def check_width(acc: np.ndarray, bits: int) -> None:
    """Raises Fault where a sum leaves an accumulator of so many bits."""
    lo, hi = limits(bits)
    if acc.min() < lo or acc.max() > hi:
        raise Fault(f"an accumulator of {bits} bits overflows: {acc.min()} to {acc.max()}")


def finish(machine: State, ins: Instruction, state: Accumulators, channels: int, bits: int) -> None:
    """Closes the accumulators: bias, requantization, and the output written to SRAM."""
    machine.accumulators = None
    if ins.op == "POOL":
        if ins["kind"] == "max" and not state.hit.all():
            raise Fault("a maximum over no tap")
        write_output(machine, ins, requantized(ins, times(state.acc, ins["multiplier"]), ins["shift"]))
        return
    records = machine.sram.read(run_of(ins["param_addr"], 12 * channels)).reshape(channels, 12)
    bias = from_bytes(records[:, 0:2], 16, 1)[:, 0] % 65536 + 65536 * from_bytes(records[:, 2:4], 16, 1)[:, 0]
    multiplier = sum((records[:, 4 + i].astype(np.int64) << (8 * i) for i in range(4)), np.zeros(channels, np.int64))
    if (multiplier >= 1 << 31).any() or records[:, 9:].any():
        raise Fault("a parameter record has reserved bits")
    acc = state.acc + bias
    check_width(acc, bits)
    outputs = requantized(ins, times(acc, multiplier), records[:, 8].astype(np.int64))
    if ins["forward"]:
        machine.forwarded, machine.forwarded_reads = outputs.astype(np.int64), list(machine.sram.held)
    else:
        write_output(machine, ins, outputs)


# Element by element


def eltwise(machine: State, ins: Instruction) -> None:
    """ELTWISE: two operands, value by value."""
    h, w, channels = check_tile(ins)
    check_zero_point(ins, "in")
    check_zero_point(ins, "b")
    check_output(ins)
    a = read_input(machine, ins) - ins["in_zero_point"]
    b = read_view(machine, ins, "b", h, w, 1 if ins["b_scalar"] else channels) - ins["b_zero_point"]
    a, b = np.broadcast_to(a, (h, w, channels)), np.broadcast_to(b, (h, w, channels))
    if ins["kind"] == "mul":
        if ins["b_multiplier"]:
            raise Fault("mul has a b_multiplier")
        total = times(a * b, ins["multiplier"])
    else:
        first, second = a * ins["multiplier"], b * ins["b_multiplier"]  # below 2**48
        total = {
            "add": lambda: first + second,
            "sub": lambda: first - second,
            "min": lambda: np.minimum(first, second),
            "max": lambda: np.maximum(first, second),
        }[ins["kind"]]()
    write_output(machine, ins, requantized(ins, total, ins["shift"]))


def copy(machine: State, ins: Instruction) -> None:
    """COPY: requantized, to another place or width."""
    h, w, channels = check_tile(ins)
    check_zero_point(ins, "in")
    check_output(ins)
    a = read_view(machine, ins, "in", h, w, channels) - ins["in_zero_point"]
    write_output(machine, ins, requantized(ins, times(a, ins["multiplier"]), ins["shift"]))


def table(machine: State, ins: Instruction) -> None:
    """TABLE: a look-up, interpolated at 16 bits."""
    h, w, channels = check_tile(ins)
    bits = ins["in_bits"]
    q = read_input(machine, ins)
    wide = 16 in (bits, ins["out_bits"])
    octaves = ins["knots"] == "octaves"
    if octaves and bits < 16 or ins["origin"] and not octaves:
        raise Fault("knots or origin that this input cannot have")
    entries = (770 if octaves else 513) if bits == 16 else 1 << bits
    raw = machine.sram.read(run_of(ins["table_addr"], entries * (2 if wide else 1)))[0, 0]
    values = from_bytes(raw, 16 if wide else 8, entries)
    lo, hi = limits(ins["out_bits"])
    if values.min() < lo or values.max() > hi:
        raise Fault(f"table entries outside {ins['out_bits']} bits")
    if bits < 16:
        result = values[q + (1 << (bits - 1))]
    elif octaves:
        result = np.vectorize(lambda each: in_octaves(values, int(each) - ins["origin"]), otypes=[np.int64])(q)
    else:
        i = q + 32768
        j, f = i >> 7, i & 127
        result = rhe(values[j] * (128 - f) + values[j + 1] * f, 7)
    write_output(machine, ins, result)


def in_octaves(table: np.ndarray, d: int) -> int:
    """A look-up at the distance ``d`` from the origin, between knots that lie in octaves."""
    m, side = (d, 0) if d >= 0 else (-1 - d, 385)
    if m < 32:
        return int(table[side + m])
    e = m.bit_length() - 1
    j, f = 32 * (e - 5) + (m >> (e - 5)), (m << (15 - e)) & 1023
    return int(rhe(np.array(int(table[side + j]) * (1024 - f) + int(table[side + j + 1]) * f), 10))


def check_tile(ins: Instruction) -> tuple[int, int, int]:
    """Height, width and channels. Raises Fault where one of them is below 1."""
    at_least_one(ins, "h", "w", "channels")
    return ins["h"], ins["w"], ins["channels"]


_EXECUTE: dict[str, Callable[[State, Instruction], None]] = {
    "LOAD": load,
    "LOAD_RAW": load_raw,
    "LOADW": loadw,
    "CONV": window,
    "DEPTHWISE": window,
    "POOL": window,
    "ELTWISE": eltwise,
    "TABLE": table,
    "COPY": copy,
    "STORE": store,
}
