"""What constants and weights an instruction works on, and how far its accumulators can go: the checker's arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import CompilerFault
from ...machine import cost
from ...machine.hw import HwConfig
from ...machine.isa import Instruction, params_record
from ...machine.numerics import MULTIPLIER_BITS, accumulator_width, activation_limits
from ...machine.streams import decode_stream
from ..access import Access, out_channels, weight_rows
from ..layers import channel_bytes
from .hazards import touched_bytes


class Constants:
    """Contents of SRAM and weight buffer as far as they come from constants in DRAM, followed through the program."""

    def __init__(self, hw: HwConfig, dram: np.ndarray, constant: np.ndarray) -> None:
        """``dram`` uint8 [size]; ``constant`` bool [size]: bytes that nothing writes."""
        self.data = {
            "dram": dram,
            "sram": np.zeros(hw.sram_bytes, np.uint8),
            "weights": np.zeros(hw.weight_buffer_bytes, np.uint8),
        }
        self.known = {"dram": constant, "sram": np.zeros(hw.sram_bytes, bool)}
        self._sums: dict[tuple[int, int, int, int], tuple[np.ndarray, np.ndarray]] = {}

    def step(self, ins: Instruction, touched: Sequence[Access], hw: HwConfig) -> None:
        """Carry out what the instruction moves: ``touched``, its accesses. Raises CompilerFault for a stream that is damaged,
        unknown or unfitting."""
        for access in touched:
            if access.write and access.memory == "sram":
                touched_bytes(self.known["sram"], access.merged())[...] = False
        if ins.engine == "LOAD":
            source, target = touched
            if ins.op == "LOAD":
                offset = ins["pad_top"] * ins["sram_row_stride"] + ins["pad_left"] * ins["sram_pixel_stride"]
                sizes = source.rows, target.row_stride, source.pixels, target.pixel_stride, source.run_bytes
                target = Access("sram", True, target.start + offset, *sizes)
            touched_bytes(self.data["sram"], target)[...] = touched_bytes(self.data["dram"], source)
            touched_bytes(self.known["sram"], target)[...] = touched_bytes(self.known["dram"], source)
        elif ins.op == "LOADW":
            begin, end = touched[0].hull()
            stream = self._bytes(ins["source"], begin, end, "the weight stream")
            decoded = decode_stream(stream, ins["weight_count"], ins["row_weights"], ins["weight_bits"], hw)
            begin, end = touched[1].hull()
            self.data["weights"][begin:end] = np.frombuffer(decoded.packed, np.uint8)
            self._sums.clear()

    def _bytes(self, memory: str, begin: int, end: int, what: str) -> bytes:
        if not self.known[memory][begin:end].all():
            raise CompilerFault(f"{what} in {memory} bytes {begin} to {end - 1} is not made of constants")
        return self.data[memory][begin:end].tobytes()

    def weight_sums(self, ins: Instruction) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the negative and of the positive weights of each output channel, int64 [channels]."""
        channels, bits = out_channels(ins), ins["weight_bits"]
        key = (ins["weight_addr"], weight_rows(ins), channels, bits)
        if key not in self._sums:
            row_bytes = channel_bytes(channels, bits)
            raw = self.data["weights"][key[0] : key[0] + key[1] * row_bytes].reshape(key[1], row_bytes)
            if bits == 4:
                nibbles = np.stack([raw & 15, raw >> 4], axis=-1).reshape(key[1], -1)[:, :channels]
                values = (nibbles ^ 8).astype(np.int8) - np.int8(8)
            else:
                values = raw.view("<i1" if bits == 8 else "<i2")
            total = values.sum(axis=0, dtype=np.int64)
            magnitude = np.abs(values, dtype=np.int32).sum(axis=0, dtype=np.int64)
            self._sums[key] = (total - magnitude) // 2, (total + magnitude) // 2
        return self._sums[key]

    def biases(self, ins: Instruction) -> np.ndarray:
        """Bias of each output channel, int64. Raises CompilerFault on a bad record."""
        layout = params_record()
        begin, channels = ins["param_addr"], out_channels(ins)
        data = self._bytes("sram", begin, begin + channels * layout.itemsize, "a parameter record")
        records = np.frombuffer(data, layout)
        reserved = records["reserved"].tobytes()
        if any(reserved) or (records["multiplier"] >> MULTIPLIER_BITS).any():
            size = len(reserved) // channels
            for channel, multiplier in enumerate(records["multiplier"].tolist()):
                own = reserved[channel * size : (channel + 1) * size]
                if multiplier >> MULTIPLIER_BITS or any(own):
                    raise CompilerFault(
                        f"parameter record of channel {channel} has M {multiplier}, reserved {own.hex()}"
                    )
        return records["bias"].astype(np.int64)

    def check_table(self, ins: Instruction) -> None:
        """Raises CompilerFault if an entry of a TABLE's table lies outside the output's width."""
        begin, size = ins["table_addr"], cost.table_bytes(ins["in_bits"], ins["out_bits"], str(ins["knots"]))
        data = self._bytes("sram", begin, begin + size, "a table")
        entries = np.frombuffer(data, "<i2" if 16 in (ins["in_bits"], ins["out_bits"]) else "<i1")
        lo, hi = activation_limits(ins["out_bits"])
        if entries.min() < lo or entries.max() > hi:
            raise CompilerFault(f"table entries reach {entries.min()} to {entries.max()}, must be {lo} to {hi}")


@dataclass
class _Open:
    """Accumulators between one instruction and the next: their shape, range, and the pixels that a tap has hit."""

    shape: tuple[object, ...]
    least: np.ndarray  # int64 [channels]
    most: np.ndarray
    hit: np.ndarray  # bool [out_h, out_w], of a maximum


class Accumulators:
    """Opening, closing and range of the accumulators."""

    def __init__(self, hw: HwConfig) -> None:
        self.hw = hw
        self.open: _Open | None = None

    def step(self, ins: Instruction, constants: Constants) -> None:
        """Raises CompilerFault if the instruction may not come here or an accumulator could leave its width."""
        if "accumulate" not in ins.values:
            return
        channels, pooling = out_channels(ins), ins.op == "POOL"
        weight_bits = 8 if pooling else ins["weight_bits"]
        widths = weight_bits, ins["in_bits"], ins["out_bits"]
        shape = (ins.op, ins["out_h"], ins["out_w"], channels, *widths, ins["kind"] if pooling else "")
        state = self.open
        if bool(ins["accumulate"]) != (state is not None):
            raise CompilerFault(
                f"accumulate is {ins['accumulate']} while accumulators are {'open' if state else 'not open'}"
            )
        if state is None:
            zeros = np.zeros(channels, np.int64)
            state = _Open(shape, zeros, zeros, np.zeros((ins["out_h"], ins["out_w"]), bool))
        elif state.shape != shape:
            raise CompilerFault(f"accumulates {shape} onto open accumulators of {state.shape}")
        if pooling and ins["kind"] == "max":
            state.hit |= _hit(ins)
        self._extend(state, ins, constants)
        width = accumulator_width(weight_bits, ins["in_bits"], self.hw.accumulator_bits)
        _must_fit(state.least, state.most, width, "the sum")
        if ins["finish"] and pooling and ins["kind"] == "max" and not state.hit.all():
            raise CompilerFault(f"a maximum over no tap at output pixel {tuple(map(int, np.argwhere(~state.hit)[0]))}")
        if ins["finish"] and not pooling:
            bias = constants.biases(ins)
            _must_fit(state.least + bias, state.most + bias, width, "the sum with its bias")
        self.open = None if ins["finish"] else state

    @staticmethod
    def _extend(state: _Open, ins: Instruction, constants: Constants) -> None:
        lo, hi = (limit - ins["in_zero_point"] for limit in activation_limits(ins["in_bits"]))
        if ins.op != "POOL":
            negative, positive = constants.weight_sums(ins)
            state.least = state.least + positive * lo + negative * hi
            state.most = state.most + positive * hi + negative * lo
        elif ins["kind"] == "sum":
            taps = ins["kernel_h"] * ins["kernel_w"]
            state.least, state.most = state.least + taps * lo, state.most + taps * hi


def _hit(ins: Instruction) -> np.ndarray:
    """Output pixels [out_h, out_w] for which at least one tap falls on an input pixel."""
    axes = []
    for size, out, kernel, stride, dilation, pad in (
        ("in_h", "out_h", "kernel_h", "stride_h", "dilation_h", "pad_top"),
        ("in_w", "out_w", "kernel_w", "stride_w", "dilation_w", "pad_left"),
    ):
        at = np.arange(ins[out])[:, None] * ins[stride] + np.arange(ins[kernel]) * ins[dilation] - ins[pad]
        axes.append(((at >= 0) & (at < ins[size])).any(axis=1))
    hit: np.ndarray = axes[0][:, None] & axes[1]
    return hit


def _must_fit(least: np.ndarray, most: np.ndarray, bits: int, what: str) -> None:
    lo, hi = activation_limits(bits)
    bad = np.flatnonzero((least < lo) | (most > hi))
    if bad.size:
        n = int(bad[0])
        raise CompilerFault(f"{what} of channel {n} can reach {least[n]} to {most[n]}, the accumulator has {bits} bits")
