"""Tensors in SRAM while a random program grows, and the random choices that every instruction needs."""

from dataclasses import dataclass, field, replace

import numpy as np

from qaccel.machine.hw import HwConfig
from qaccel.machine.isa import Instruction, instruction
from qaccel.machine.numerics import activation_limits
from qaccel.npu.access import accesses
from qaccel.npu.check.legal import first_fault, range_fault

INPUT_BYTES, OUTPUT_BYTES = 8192, 16384


@dataclass(frozen=True)
class Tensor:
    """A view in SRAM."""

    addr: int
    row_stride: int
    pixel_stride: int
    h: int
    w: int
    c: int
    bits: int
    zero_point: int

    @property
    def pixel_bytes(self) -> int:
        return -(-self.c * self.bits // 8)

    @property
    def end(self) -> int:
        return self.addr + (self.h - 1) * self.row_stride + (self.w - 1) * self.pixel_stride + self.pixel_bytes

    def view(self, prefix: str) -> dict[str, int]:
        strides = {f"{prefix}_row_stride": self.row_stride, f"{prefix}_pixel_stride": self.pixel_stride}
        return {f"{prefix}_addr": self.addr, **strides}


@dataclass
class Ground:
    """What a program grows on: its instructions so far, and the tensors that lie in SRAM; ``pair``: weight and activation width."""

    rng: np.random.Generator
    hw: HwConfig
    pair: tuple[int, int]
    instructions: list[Instruction] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    constants: bytearray = field(default_factory=bytearray)
    stored: list[tuple[int, Tensor]] = field(default_factory=list)
    output_end: int = INPUT_BYTES

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, items):
        return items[self.integer(0, len(items) - 1)]

    def emit(self, op: str, **fields) -> bool:
        """Append an instruction if the machine has room for it."""
        ins = instruction(op, layer=self.integer(0, 3), **fields)
        if first_fault(ins, self.hw) or range_fault(accesses(ins, self.hw), self.hw, 1 << 32):
            return False
        self.instructions.append(ins)
        return True

    # Places

    def place(self, size: int, keep: list[Tensor]) -> int:
        """SRAM address of ``size`` bytes outside ``keep``, often low, so that they meet; forgets what is there."""
        while True:
            room = self.pick([4096, 16384, self.hw.sram_bytes]) + size
            begin = self.integer(0, min(room, self.hw.sram_bytes) - size)
            if all(begin + size <= t.addr or t.end <= begin for t in keep):
                self.tensors = [t for t in self.tensors if begin + size <= t.addr or t.end <= begin]
                return begin

    def new_tensor(self, h: int, w: int, c: int, bits: int, keep: list[Tensor], zero: int | None = None) -> Tensor:
        size = -(-c * bits // 8)
        pixel = size + self.pick([0, 0, 1, 3])
        row = w * pixel + self.pick([0, 0, 1, 7])
        shape = Tensor(0, row, pixel, h, w, c, bits, self.zero_point(bits) if zero is None else zero)
        return replace(shape, addr=self.place(shape.end, keep))

    def zero_point(self, bits: int) -> int:
        lo, hi = activation_limits(bits)
        return 0 if bits == 16 else self.pick([0, lo, hi, self.integer(lo, hi)])

    def crop(self, t: Tensor, h: int = 1 << 16, w: int = 1 << 16, c: int = 1 << 16) -> Tensor:
        """A part of a tensor, at most of that size, beginning anywhere in it."""
        h, w, c = min(t.h, h), min(t.w, w), min(t.c, c)
        y, x, n = self.integer(0, t.h - h), self.integer(0, t.w - w), self.integer(0, t.c - c)
        if t.bits == 4 and n % 2:
            n -= 1
        return replace(t, addr=t.addr + y * t.row_stride + x * t.pixel_stride + n * t.bits // 8, h=h, w=w, c=c)

    def constant(self, data: bytes) -> int:
        """Offset of new constant bytes; addresses become final when the program does."""
        self.constants += bytes(self.integer(0, 3))
        self.constants += data
        return INPUT_BYTES + OUTPUT_BYTES + len(self.constants) - len(data)

    def load_constant(self, data: bytes, keep: list[Tensor]) -> Tensor:
        """Constant bytes in SRAM, as a tensor of one pixel."""
        addr = self.place(len(data), keep)
        self.emit("LOAD_RAW", dram_addr=self.constant(data), sram_addr=addr, bytes=len(data))
        return Tensor(addr, 0, 0, 1, 1, len(data), 8, 0)

    # Numbers

    def scale(self, magnitude_bits: int, out_bits: int) -> tuple[int, int]:
        """Multiplier and shift: near the output's range, powers of two (ties) often, extremes sometimes."""
        multiplier = self.pick([1 << self.integer(0, 30), self.integer(1 << 30, (1 << 31) - 1)])
        if self.chance(0.08):
            multiplier = self.pick([0, 1, (1 << 31) - 1])
        shift = multiplier.bit_length() - 1 + magnitude_bits - out_bits + self.integer(-3, 2)
        return multiplier, self.pick([0, 1, 62, 63, 64, 127]) if self.chance(0.05) else min(max(shift, 0), 127)

    def output(self, t: Tensor) -> dict[str, int]:
        lo, hi = activation_limits(t.bits)
        if self.chance(0.3):
            lo, hi = sorted((self.integer(lo, hi), self.integer(lo, hi)))
        return {**t.view("out"), "out_bits": t.bits, "out_zero_point": t.zero_point, "clamp_lo": lo, "clamp_hi": hi}
