"""Random legal programs at the level of instructions: every operation, all widths, views with gaps, accumulation.

A program is grown instruction by instruction from tensors that lie in SRAM at that point; a new tensor may fall on old
ones, which are then forgotten, so that addresses are reused at once. Semaphores follow: a chain through all
instructions, or just those that the addresses demand.
"""

import struct
from dataclasses import dataclass, field, replace

import numpy as np

from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.interpreter.streams import WIDTHS, raw_stream
from qaccel.machine.isa import Instruction, encode, instruction
from qaccel.machine.isa import replace as with_fields
from qaccel.machine.numerics import activation_limits
from qaccel.machine.streams import WeightTile, encode_stream
from qaccel.npu.access import accesses
from qaccel.npu.check.legal import first_fault, range_fault
from qaccel.npu.emit.semaphores import insert_semaphores, semaphore_id

PAIRS = [(w, a) for w in WIDTHS for a in WIDTHS]
ENGINES = ("LOAD", "LOADW", "COMPUTE", "STORE")
INPUT_BYTES, OUTPUT_BYTES = 8192, 16384


@dataclass(frozen=True)
class RandomProgram:
    """``dram`` uint8 image before the run; ranges (begin, end) as the simulator takes them."""

    hw: HwConfig
    instructions: tuple[Instruction, ...]
    dram: np.ndarray
    initialised: list[tuple[int, int]]
    read_only: list[tuple[int, int]]
    program_addr: int

    @property
    def program(self) -> bytes:
        return encode(self.instructions)


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
class Grower:
    """Grows one program; ``pair`` is the weight and activation width of its convolutions."""

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

    # Data movement

    def load(self) -> None:
        bits = self.pick([self.pair[1], self.pair[1], self.pick(WIDTHS)])
        rows, pixels, c = self.integer(1, 7), self.integer(1, 7), self.integer(1, 20)
        pads = [self.pick([0, 0, 1, 2]) for _ in range(4)]
        t = self.new_tensor(rows + pads[0] + pads[1], pixels + pads[2] + pads[3], c, bits, [])
        pixel = t.pixel_bytes + self.pick([0, 0, 2])
        row = pixels * pixel + self.pick([0, 0, 5])
        self.emit(
            "LOAD",
            dram_addr=self.integer(0, INPUT_BYTES - rows * row), dram_row_stride=row, dram_pixel_stride=pixel,
            sram_addr=t.addr, sram_row_stride=t.row_stride, sram_pixel_stride=t.pixel_stride,
            rows=rows, pixels=pixels, pixel_bytes=t.pixel_bytes, pad_bits=bits, pad_value=t.zero_point,
            pad_top=pads[0], pad_bottom=pads[1], pad_left=pads[2], pad_right=pads[3],
        )  # fmt: skip
        self.tensors.append(t)

    def store(self, t: Tensor | None = None) -> None:
        t = t or self.crop(self.pick(self.tensors), *(self.integer(1, 9) for _ in range(2)))
        pixel = t.pixel_bytes + self.pick([0, 0, 1])
        row = t.w * pixel + self.pick([0, 0, 3])
        if self.output_end + t.h * row > INPUT_BYTES + OUTPUT_BYTES:
            return
        strides = {"dram_row_stride": row, "dram_pixel_stride": pixel}
        sizes = {"rows": t.h, "pixels": t.w, "pixel_bytes": t.pixel_bytes}
        self.emit("STORE", dram_addr=self.output_end, **strides, **t.view("sram"), **sizes)
        self.stored.append((self.output_end, replace(t, row_stride=row, pixel_stride=pixel)))
        self.output_end += t.h * row + self.integer(0, 2)

    def reload(self) -> None:
        if not self.stored:
            return
        addr, s = self.pick(self.stored)
        t = self.new_tensor(s.h, s.w, s.c, s.bits, [], s.zero_point)
        strides = {"dram_row_stride": s.row_stride, "dram_pixel_stride": s.pixel_stride}
        sizes = {"rows": t.h, "pixels": t.w, "pixel_bytes": t.pixel_bytes}
        self.emit("LOAD", dram_addr=addr, **strides, **t.view("sram"), **sizes)
        self.tensors.append(t)

    def load_constant(self, data: bytes, keep: list[Tensor]) -> Tensor:
        """Constant bytes in SRAM, as a tensor of one pixel."""
        addr = self.place(len(data), keep)
        self.emit("LOAD_RAW", dram_addr=self.constant(data), sram_addr=addr, bytes=len(data))
        return Tensor(addr, 0, 0, 1, 1, len(data), 8, 0)

    def weights(self, reduction: int, channels: int, keep: list[Tensor], coarse: bool) -> dict[str, int]:
        """Stream and LOADW; ``coarse`` weights have few significant bits, so that sums fall on ties."""
        bits = self.pair[0]
        columns = channels + (channels % 2 if bits == 4 else 0)
        lo, hi = activation_limits(bits)
        values = self.rng.integers(lo, hi + 1, (reduction, columns))
        if coarse:
            values = self.rng.choice([lo, lo // 2, 0, -lo // 2], (reduction, columns))
        elif self.chance(0.2):
            values = self.rng.choice([lo, hi], (reduction, columns))
        stream = encode_stream(WeightTile(values, columns, bits), self.hw)
        if self.chance(0.2):
            stream = raw_stream(values, bits)
        size = -(-values.size * bits // 8)
        buffer_addr = self.integer(0, self.hw.weight_buffer_bytes - size)
        fields = {"buffer_addr": buffer_addr, "weight_count": values.size, "weight_bits": bits, "row_weights": columns}
        fields["stream_bytes"] = len(stream)
        if self.chance(0.3):
            addr = self.load_constant(stream, keep).addr
            self.emit("LOADW", source="sram", stream_addr=addr, **fields)
        else:
            self.emit("LOADW", source="dram", stream_addr=self.constant(stream), **fields)
        return {"weight_addr": buffer_addr, "weight_bits": bits}

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

    def records(self, channels: int, magnitude_bits: int, out_bits: int, spare: int, coarse: bool) -> bytes:
        limit = min(spare, self.pick([1 << magnitude_bits, spare]))
        parts = []
        for _ in range(channels):
            bias = self.pick([0, limit, -limit, self.integer(-limit, limit)])
            if coarse:
                bias -= bias % (1 << (self.pair[0] - 2))
            parts.append(struct.pack("<iIB3x", bias, *self.scale(magnitude_bits, out_bits)))
        return b"".join(parts)

    # Compute

    def windowed(self, op: str) -> None:
        """A chain of one to three CONV, DEPTHWISE or POOL instructions onto the same accumulators."""
        bits = self.pair[1]
        inputs = [t for t in self.tensors if t.bits == bits]
        if not inputs:
            return
        first = self.pick(inputs)
        channels = self.integer(1, 24) if op == "CONV" else self.integer(1, first.c)
        inputs = [t for t in inputs if op == "CONV" or t.c >= channels]
        kind = self.pick(["max", "sum"])
        out_h, out_w = self.integer(1, 6), self.integer(1, 6)
        if op == "POOL" and kind == "max":  # every output pixel needs a tap
            inputs, out_h, out_w = [first], min(out_h, first.h), min(out_w, first.w)
        length = self.pick([1, 1, 2, 3])
        out = self.new_tensor(out_h, out_w, channels, self.pick(WIDTHS), inputs)
        size = {"out_h": out_h, "out_w": out_w, ("out_channels" if op == "CONV" else "channels"): channels}
        numbers = self.output(out)
        taken, coarse = [*inputs, out], self.chance(0.3)
        magnitude = {
            "CONV": bits + self.pair[0] + 2,
            "DEPTHWISE": bits + self.pair[0],
            "POOL": bits + (kind == "sum"),
        }[op]
        if op == "POOL":
            last = dict(zip(("multiplier", "shift"), self.scale(magnitude, out.bits), strict=True), kind=kind)
        else:
            # A bias that still fits into 32 bits beside the sum of three instructions of 9 taps of 20 channels.
            narrow = max(bits, self.pair[0]) <= 8
            spare = (1 << 31) - 1 - (3 * 9 * 20 << (bits + self.pair[0]) if narrow else 0)
            params = self.load_constant(self.records(channels, magnitude, out.bits, spare, coarse), taken)
            taken.append(params)
            last = {"param_addr": params.addr}
        for step in range(length):
            in_channels = self.integer(1, 20) if op == "CONV" else channels
            least_h, least_w = (out_h, out_w) if op == "POOL" and kind == "max" else (1, 1)
            t = self.crop(self.pick(inputs), self.integer(least_h, 9), self.integer(least_w, 9), in_channels)
            fields = {**t.view("in"), "in_bits": bits, "in_zero_point": t.zero_point, **size, **numbers, **last}
            fields |= self.window(t, full=op == "POOL" and kind == "max", out=out)
            if op == "CONV":
                fields["in_channels"] = t.c
            if op != "POOL":
                taps = fields["kernel_h"] * fields["kernel_w"]
                fields |= self.weights(taps * (t.c if op == "CONV" else 1), channels, taken, coarse)
            fields |= {"accumulate": int(step > 0), "finish": int(step == length - 1)}
            if not self.emit(op, **fields):
                raise RuntimeError(f"{op} does not fit: sizes here are meant for every config")
            if step < length - 1 and self.chance(0.3):
                self.load_constant(bytes(8), taken)
        self.tensors.append(out)

    def window(self, t: Tensor, full: bool, out: Tensor) -> dict[str, int]:
        """Kernel, strides, dilation and padding; anything goes, but ``full`` wants a tap for every output pixel."""
        while True:
            kernel, stride, dilation = ([self.integer(1, 3) for _ in range(2)] for _ in range(3))
            pads = [self.integer(0, 4) for _ in range(2)]
            axes = zip((out.h, out.w), (t.h, t.w), kernel, stride, dilation, pads, strict=True)
            hits = [
                all(any(0 <= o * s + k * d - p < n for k in range(count)) for o in range(size))
                for size, n, count, s, d, p in axes
            ]
            if not full or all(hits):
                return _window_fields(t.h, t.w, kernel, stride, dilation, pads)
            if self.chance(0.05):
                return _window_fields(t.h, t.w, [1, 1], [1, 1], [1, 1], [0, 0])

    def eltwise(self) -> None:
        a = self.crop(self.pick(self.tensors))
        b = self.crop(self.pick(self.tensors), a.h, a.w, a.c)
        scalar = self.chance(0.2)
        repeat_rows, repeat_pixels = b.h < a.h or self.chance(0.2), b.w < a.w or self.chance(0.2)
        h, w = min(a.h, b.h if not repeat_rows else a.h), min(a.w, b.w if not repeat_pixels else a.w)
        c = a.c if scalar else min(a.c, b.c)
        a = replace(a, h=h, w=w, c=c)
        b = replace(b, row_stride=b.row_stride * (not repeat_rows), pixel_stride=b.pixel_stride * (not repeat_pixels))
        kind = self.pick(["add", "sub", "mul", "min", "max"])
        magnitude = a.bits + b.bits - 1 if kind == "mul" else max(a.bits, b.bits)
        out = self.new_tensor(h, w, c, self.pick(WIDTHS), self.tensors)
        if self.chance(0.3) and (b.addr == a.addr or b.end <= a.addr or a.end <= b.addr) and a in self.tensors:
            out = replace(a, zero_point=self.zero_point(a.bits))
            if b.addr == a.addr:
                b, scalar = a, False
            self.tensors = [t for t in self.tensors if t.end <= a.addr or a.end <= t.addr]
        multiplier, shift = self.scale(magnitude, out.bits)
        second = 0 if kind == "mul" else self.pick([multiplier, multiplier >> 1, self.integer(0, max(multiplier, 1))])
        fields = {**a.view("in"), **b.view("b"), "h": h, "w": w, "channels": c, "kind": kind, "b_scalar": int(scalar)}
        fields |= {"in_bits": a.bits, "in_zero_point": a.zero_point, "b_bits": b.bits, "b_zero_point": b.zero_point}
        if self.emit("ELTWISE", **fields, **self.output(out), multiplier=multiplier, b_multiplier=second, shift=shift):
            self.tensors.append(out)

    def copy(self) -> None:
        t = self.crop(self.pick(self.tensors))
        out = self.new_tensor(t.h, t.w, t.c, self.pick(WIDTHS), self.tensors)
        multiplier, shift = self.scale(t.bits, out.bits)
        fields = {**t.view("in"), "h": t.h, "w": t.w, "channels": t.c, "in_bits": t.bits, "in_zero_point": t.zero_point}
        self.emit("COPY", **fields, **self.output(out), multiplier=multiplier, shift=shift)
        self.tensors.append(out)

    def table(self) -> None:
        t = self.crop(self.pick(self.tensors))
        out = self.new_tensor(t.h, t.w, t.c, self.pick(WIDTHS), self.tensors)
        lo, hi = activation_limits(out.bits)
        octaves = t.bits == 16 and self.chance(0.5)
        count, wide = (770 if octaves else 513, True) if t.bits == 16 else (1 << t.bits, out.bits == 16)
        entries = self.rng.integers(lo, hi + 1, count)
        if self.chance(0.2):
            entries = self.rng.choice([lo, hi], count)
        where = self.load_constant(entries.astype("<i2" if wide else "<i1").tobytes(), [*self.tensors, out])
        fields = {**t.view("in"), **out.view("out"), "h": t.h, "w": t.w, "channels": t.c}
        origin = int(self.rng.integers(-(1 << 15), 1 << 15)) >> self.pick([0, 10]) if octaves else 0
        fields |= {"knots": "octaves" if octaves else "even", "origin": origin}
        self.emit("TABLE", **fields, table_addr=where.addr, in_bits=t.bits, out_bits=out.bits)
        self.tensors.append(out)

    def grow(self, steps: int) -> None:
        self.load()
        self.windowed(self.pick(["CONV", "DEPTHWISE"]))
        moves = [self.load, self.store, self.reload, self.eltwise, self.eltwise, self.copy, self.table]
        for _ in range(steps):
            if self.chance(0.4) or not self.tensors:
                self.load()
                self.windowed(self.pick(["CONV", "CONV", "DEPTHWISE", "POOL"]))
            else:
                self.pick(moves)()
        for t in self.tensors[-4:]:
            self.store(t)


def _window_fields(in_h, in_w, kernel, stride, dilation, pads) -> dict[str, int]:
    names = ("in_h", "in_w", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w")
    values = (in_h, in_w, *kernel, *stride, *dilation, *pads)
    return dict(zip((*names, "pad_top", "pad_left"), values, strict=True))


def chained(instructions: list[Instruction]) -> list[Instruction]:
    """Each instruction waits for the one before, if that is of another engine."""
    result = list(instructions)
    for index in range(1, len(result)):
        before, after = result[index - 1], result[index]
        if before.engine != after.engine:
            number = semaphore_id(ENGINES.index(before.engine), ENGINES.index(after.engine), len(ENGINES))
            result[index - 1] = with_fields(before, signal0=number)
            result[index] = with_fields(after, wait0=number)
    return result


def random_program(seed: int, hw: HwConfig | None = None, steps: int = 10) -> RandomProgram:
    """Programs of consecutive seeds take the nine width pairs in turn."""
    rng = np.random.default_rng([seed, 7])
    hw = hw or load_config(("qaccel-64", "qaccel-256", "qaccel-1024")[seed // 9 % 3])
    grower = Grower(rng, hw, PAIRS[seed % 9])
    grower.grow(steps)
    data_bytes = INPUT_BYTES + OUTPUT_BYTES
    if rng.random() < 0.3:
        instructions = chained(grower.instructions)
    else:
        instructions = insert_semaphores(grower.instructions, hw, data_bytes)
    inputs = rng.integers(0, 256, INPUT_BYTES, dtype=np.uint8)
    extremes = rng.random(INPUT_BYTES) < rng.choice([0, 0.5, 1])
    inputs[extremes] = rng.choice(np.array([0x80, 0x7F, 0x88, 0x77, 0, 0xFF], np.uint8), int(extremes.sum()))
    program_addr = -(-(data_bytes + len(grower.constants)) // 64) * 64
    program = np.frombuffer(encode(instructions), np.uint8)
    dram = np.zeros(program_addr + program.size, np.uint8)
    dram[:INPUT_BYTES] = inputs
    dram[data_bytes : data_bytes + len(grower.constants)] = np.frombuffer(bytes(grower.constants), np.uint8)
    dram[program_addr:] = program
    read_only = [(data_bytes, data_bytes + len(grower.constants)), (program_addr, dram.size)]
    return RandomProgram(hw, tuple(instructions), dram, [(0, INPUT_BYTES), *read_only], read_only, program_addr)
