"""The bytes that an instruction reads and writes, from its fields alone (ISA manual, "memory" and each instruction)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..machine import cost
from ..machine.hw import HwConfig
from ..machine.isa import Instruction, isa
from .layers import channel_bytes


@dataclass(frozen=True)
class Access:
    """``run_bytes`` bytes at ``start + r * row_stride + p * pixel_stride`` for r < rows, p < pixels, in one memory.

    Sizes are at least 1 and strides at least 0; pixels may overlap (an element-wise operand may repeat its own). The
    compute engine's accumulators are not listed: no other engine sees them.
    """

    memory: str  # "sram", "weights" or "dram"
    write: bool
    start: int
    rows: int
    row_stride: int
    pixels: int
    pixel_stride: int
    run_bytes: int
    what: str = ""  # the operand, for messages

    def hull(self) -> tuple[int, int]:
        """First byte touched, and the one after the last."""
        return self.start, self.start + (self.rows - 1) * self.row_stride + self.row_bytes

    @property
    def row_bytes(self) -> int:
        """From the first byte of a row to the one after its last."""
        return (self.pixels - 1) * self.pixel_stride + self.run_bytes

    def merged(self) -> Access:
        """The same bytes in fewer, longer runs where neighbours touch or overlap."""
        rows, row_stride = self.rows, self.row_stride
        pixels, pixel_stride, run_bytes = self.pixels, self.pixel_stride, self.run_bytes
        if pixel_stride <= run_bytes:
            pixels, pixel_stride, run_bytes = 1, 0, self.row_bytes
        if pixels == 1 and row_stride <= run_bytes:
            run_bytes += (rows - 1) * row_stride
            rows, row_stride = 1, 0
        return Access(self.memory, self.write, self.start, rows, row_stride, pixels, pixel_stride, run_bytes, self.what)


def run(memory: str, write: bool, start: int, size_bytes: int, what: str) -> Access:
    """One contiguous access."""
    return Access(memory, write, start, 1, 0, 1, 0, size_bytes, what)


def weight_rows(ins: Instruction) -> int:
    """Rows of the weight matrix: the reduction of a CONV, the taps of a DEPTHWISE."""
    taps: int = ins["kernel_h"] * ins["kernel_w"]
    return taps * ins["in_channels"] if ins.op == "CONV" else taps


def out_channels(ins: Instruction) -> int:
    """Output channels of a compute instruction."""
    channels: int = ins["out_channels"] if ins.op == "CONV" else ins["channels"]
    return channels


def _forwards(ins: Instruction) -> bool:
    """Whether an instruction hands its output on to the next one of COMPUTE."""
    return bool(ins.values.get("forward", 0))


def takes_forwarded(ins: Instruction) -> bool:
    """Whether an instruction's input is what the one of COMPUTE before it forwards."""
    return bool(ins.values.get("forwarded", 0))


def with_forwarding(instructions: Iterable[Instruction]) -> Iterator[tuple[Instruction, Instruction | None]]:
    """Each instruction, with the one that forwards to it."""
    last = None
    for ins in instructions:
        yield ins, last if takes_forwarded(ins) else None
        if ins.engine == "COMPUTE":
            last = ins


def _view(ins: Instruction, prefix: str, write: bool, rows: int, pixels: int, run_bytes: int) -> Access:
    row_stride, pixel_stride = ins[f"{prefix}_row_stride"], ins[f"{prefix}_pixel_stride"]
    what = {"in": "input", "b": "second operand", "out": "output"}[prefix]
    return Access("sram", write, ins[f"{prefix}_addr"], rows, row_stride, pixels, pixel_stride, run_bytes, what)


def _dram(ins: Instruction, write: bool) -> Access:
    sizes = ins["rows"], ins["dram_row_stride"], ins["pixels"], ins["dram_pixel_stride"], ins["pixel_bytes"]
    return Access("dram", write, ins["dram_addr"], *sizes, "DRAM block")


def _load(ins: Instruction) -> Iterator[Access]:
    yield _dram(ins, write=False)
    rows = ins["pad_top"] + ins["rows"] + ins["pad_bottom"]
    pixels = ins["pad_left"] + ins["pixels"] + ins["pad_right"]
    sizes = rows, ins["sram_row_stride"], pixels, ins["sram_pixel_stride"], ins["pixel_bytes"]
    yield Access("sram", True, ins["sram_addr"], *sizes, "SRAM block")


def _load_raw(ins: Instruction) -> Iterator[Access]:
    yield run("dram", False, ins["dram_addr"], ins["bytes"], "DRAM block")
    yield run("sram", True, ins["sram_addr"], ins["bytes"], "SRAM block")


def _loadw(ins: Instruction) -> Iterator[Access]:
    yield run(ins["source"], False, ins["stream_addr"], ins["stream_bytes"], "stream")
    yield run("weights", True, ins["buffer_addr"], channel_bytes(ins["weight_count"], ins["weight_bits"]), "weights")


def _store(ins: Instruction) -> Iterator[Access]:
    sizes = ins["rows"], ins["sram_row_stride"], ins["pixels"], ins["sram_pixel_stride"], ins["pixel_bytes"]
    yield Access("sram", False, ins["sram_addr"], *sizes, "SRAM block")
    yield _dram(ins, write=True)


def _window(ins: Instruction) -> Iterator[Access]:
    """CONV, DEPTHWISE and POOL."""
    channels = out_channels(ins)
    rows, pixels = cost.footprint(cost.window_shape(ins))
    if rows and pixels:
        in_channels = ins["in_channels"] if ins.op == "CONV" else channels
        yield _view(ins, "in", False, rows, pixels, channel_bytes(in_channels, ins["in_bits"]))
    if ins.op != "POOL":
        size_bytes = weight_rows(ins) * channel_bytes(channels, ins["weight_bits"])
        yield run("weights", False, ins["weight_addr"], size_bytes, "weights")
        if ins["finish"]:
            yield run("sram", False, ins["param_addr"], channels * isa().params_bytes, "parameters")
    if ins["finish"] and not _forwards(ins):
        yield _view(ins, "out", True, ins["out_h"], ins["out_w"], channel_bytes(channels, ins["out_bits"]))


def _tile(ins: Instruction) -> Iterator[Access]:
    """ELTWISE, TABLE and COPY."""
    h, w, channels = ins["h"], ins["w"], ins["channels"]
    if not takes_forwarded(ins):
        yield _view(ins, "in", False, h, w, channel_bytes(channels, ins["in_bits"]))
    if ins.op == "ELTWISE":
        yield _view(ins, "b", False, h, w, channel_bytes(1 if ins["b_scalar"] else channels, ins["b_bits"]))
    if ins.op == "TABLE":
        size_bytes = cost.table_bytes(ins["in_bits"], ins["out_bits"], str(ins["knots"]))
        yield run("sram", False, ins["table_addr"], size_bytes, "table")
    yield _view(ins, "out", True, h, w, channel_bytes(channels, ins["out_bits"]))


_BY_OP = {
    "LOAD": _load,
    "LOAD_RAW": _load_raw,
    "LOADW": _loadw,
    "STORE": _store,
    "CONV": _window,
    "DEPTHWISE": _window,
    "POOL": _window,
    "ELTWISE": _tile,
    "TABLE": _tile,
    "COPY": _tile,
}


def accesses(ins: Instruction, hw: HwConfig, before: Instruction | None = None) -> tuple[Access, ...]:
    """Everything that an instruction reads, then what it writes; sizes of 0 are the caller's to refuse.

    ``before``: the instruction that forwards to it. What that one reads is read until this one has ended.
    """
    own = tuple(_BY_OP[ins.op](ins))
    return own if before is None else (*_BY_OP[before.op](before), *own)
