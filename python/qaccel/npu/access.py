"""Which bytes an instruction reads and writes (ISA manual: views, footprints, streams)."""

from __future__ import annotations

from dataclasses import dataclass

from .. import cost
from ..hw import HwConfig
from ..isa import Instruction, isa
from .layers import channel_bytes


@dataclass(frozen=True)
class Access:
    """``rows`` rows of ``pixels`` runs of ``run_bytes`` in "sram", "weights" (the weight buffer) or "dram"."""

    memory: str
    write: bool
    start: int
    rows: int
    row_stride: int
    pixels: int
    pixel_stride: int
    run_bytes: int

    def hull(self) -> tuple[int, int]:
        """First byte and the one after the last."""
        last = self.start + (self.rows - 1) * self.row_stride + (self.pixels - 1) * self.pixel_stride
        return self.start, last + self.run_bytes


def accesses(ins: Instruction, hw: HwConfig) -> tuple[Access, ...]:
    """Reads first, then writes. Instructions whose footprint is empty read nothing there."""
    return _ACCESSES[ins.op](ins)


def _flat(memory: str, write: bool, start: int, size_bytes: int) -> Access:
    return Access(memory, write, start, 1, size_bytes, 1, size_bytes, size_bytes)


def _load(ins: Instruction) -> tuple[Access, ...]:
    size = ins["pixel_bytes"]
    rows = ins["pad_top"] + ins["rows"] + ins["pad_bottom"]
    pixels = ins["pad_left"] + ins["pixels"] + ins["pad_right"]
    return (
        _dram(ins, False),
        Access("sram", True, ins["sram_addr"], rows, ins["sram_row_stride"], pixels, ins["sram_pixel_stride"], size),
    )


def _dram(ins: Instruction, write: bool) -> Access:
    return Access(
        "dram", write, ins["dram_addr"], ins["rows"], ins["dram_row_stride"],
        ins["pixels"], ins["dram_pixel_stride"], ins["pixel_bytes"],
    )  # fmt: skip


def _load_raw(ins: Instruction) -> tuple[Access, ...]:
    return _flat("dram", False, ins["dram_addr"], ins["bytes"]), _flat("sram", True, ins["sram_addr"], ins["bytes"])


def _loadw(ins: Instruction) -> tuple[Access, ...]:
    size = channel_bytes(ins["weight_count"], ins["weight_bits"])
    return (
        _flat(ins["source"], False, ins["stream_addr"], ins["stream_bytes"]),
        _flat("weights", True, ins["buffer_addr"], size),
    )


def _store(ins: Instruction) -> tuple[Access, ...]:
    source = Access(
        "sram", False, ins["sram_addr"], ins["rows"], ins["sram_row_stride"],
        ins["pixels"], ins["sram_pixel_stride"], ins["pixel_bytes"],
    )  # fmt: skip
    return source, _dram(ins, True)


def _view(ins: Instruction, prefix: str, write: bool, rows: int, pixels: int, size_bytes: int) -> Access:
    strides = ins[f"{prefix}_row_stride"], ins[f"{prefix}_pixel_stride"]
    return Access("sram", write, ins[f"{prefix}_addr"], rows, strides[0], pixels, strides[1], size_bytes)


def _windowed(ins: Instruction) -> tuple[Access, ...]:
    in_channels = ins["in_channels"] if ins.op == "CONV" else ins["channels"]
    out_channels = ins["out_channels"] if ins.op == "CONV" else ins["channels"]
    (_, rows), (_, pixels) = cost.footprint(ins)
    found = []
    if rows:
        found.append(_view(ins, "in", False, rows, pixels, channel_bytes(in_channels, ins["in_bits"])))
    if ins.op != "POOL":
        reduction = ins["kernel_h"] * ins["kernel_w"] * (in_channels if ins.op == "CONV" else 1)
        row_bytes = channel_bytes(out_channels, ins["weight_bits"])
        found.append(_flat("weights", False, ins["weight_addr"], reduction * row_bytes))
        if ins["finish"]:
            found.append(_flat("sram", False, ins["param_addr"], out_channels * isa().params_bytes))
    if ins["finish"]:
        size = channel_bytes(out_channels, ins["out_bits"])
        found.append(_view(ins, "out", True, ins["out_h"], ins["out_w"], size))
    return tuple(found)


def _pointwise(ins: Instruction) -> tuple[Access, ...]:
    h, w, channels = ins["h"], ins["w"], ins["channels"]
    found = [_view(ins, "in", False, h, w, channel_bytes(channels, ins["in_bits"]))]
    if ins.op == "ELTWISE":
        found.append(_view(ins, "b", False, h, w, channel_bytes(1 if ins["b_scalar"] else channels, ins["b_bits"])))
    if ins.op == "TABLE":
        found.append(_flat("sram", False, ins["table_addr"], cost.table_bytes(ins["in_bits"], ins["out_bits"])))
    found.append(_view(ins, "out", True, h, w, channel_bytes(channels, ins["out_bits"])))
    return tuple(found)


_ACCESSES = {
    "LOAD": _load,
    "LOAD_RAW": _load_raw,
    "LOADW": _loadw,
    "STORE": _store,
    "CONV": _windowed,
    "DEPTHWISE": _windowed,
    "POOL": _windowed,
    "ELTWISE": _pointwise,
    "COPY": _pointwise,
    "TABLE": _pointwise,
}
