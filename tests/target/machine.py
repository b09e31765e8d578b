"""Small hand-made programs for the simulator's tests, and plain arithmetic to hold them against."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.interpreter.streams import raw_stream
from qaccel.machine.isa import Instruction, encode, instruction
from qaccel.machine.numerics import activation_limits, requantize
from qaccel.machine.simulator import simulate
from reference.programs import chained

HW = load_config("qaccel-256")
WIDTHS = (4, 8, 16)


def pack(values: np.ndarray, bits: int) -> bytes:
    """Integers [..., channels] as pixels: 4-bit values low nibble first, each pixel in whole bytes."""
    values = np.asarray(values, np.int64) & ((1 << bits) - 1)
    if bits != 4:
        return values.astype(f"<u{bits // 8}").tobytes()
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
    return (values[..., ::2] | values[..., 1::2] << 4).astype(np.uint8).tobytes()


def unpack(data: bytes, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """The inverse, int64 [..., channels]."""
    if bits != 4:
        return np.frombuffer(data, f"<i{bits // 8}").reshape(shape).astype(np.int64)
    raw = np.frombuffer(data, np.uint8).reshape(*shape[:-1], -1).astype(np.int64)
    values = np.stack([raw & 15, raw >> 4], axis=-1).reshape(*shape[:-1], -1)[..., : shape[-1]]
    return (values ^ 8) - 8


def pixel_bytes(channels: int, bits: int) -> int:
    return -(-channels * bits // 8)


def records(bias: Sequence[int], multiplier: Sequence[int], shift: Sequence[int]) -> bytes:
    """Parameter records, one per channel."""
    return b"".join(struct.pack("<iIB3x", *values) for values in zip(bias, multiplier, shift, strict=True))


def dense(prefix: str, addr: int, w: int, channels: int, bits: int) -> dict[str, int]:
    """Fields of a view without gaps."""
    pixel = pixel_bytes(channels, bits)
    return {f"{prefix}_addr": addr, f"{prefix}_row_stride": w * pixel, f"{prefix}_pixel_stride": pixel}


def whole_range(bits: int) -> dict[str, int]:
    lo, hi = activation_limits(bits)
    return {"out_bits": bits, "clamp_lo": lo, "clamp_hi": hi}


def program(
    compute: Sequence[Instruction],
    sram: Mapping[int, bytes],
    weights: Mapping[int, tuple[np.ndarray, int]],
    store: tuple[int, int],
) -> tuple[list[Instruction], np.ndarray]:
    """Load ``sram`` blobs by address and ``weights`` (values, bits) by address, compute, store (SRAM address, bytes) to DRAM 0.

    Gives the instructions, each waiting for the one before, and the DRAM image that they read.
    """
    image = bytearray(store[1])
    loads = []
    for addr, data in sram.items():
        loads.append(instruction("LOAD_RAW", dram_addr=len(image), sram_addr=addr, bytes=len(data)))
        image += data
    for addr, (values, bits) in weights.items():
        stream, count = raw_stream(values, bits), np.asarray(values).size
        fields = {"weight_count": count, "weight_bits": bits, "buffer_addr": addr, "row_weights": count}
        loads.append(instruction("LOADW", stream_addr=len(image), stream_bytes=len(stream), **fields))
        image += stream
    strides = {"rows": 1, "pixels": 1, "pixel_bytes": store[1]}
    end = instruction("STORE", sram_addr=store[0], dram_addr=0, **strides)
    return chained([*loads, *compute, end]), np.frombuffer(bytes(image), np.uint8).copy()


def execute(
    compute: Sequence[Instruction],
    sram: Mapping[int, bytes],
    store: tuple[int, int],
    weights: Mapping[int, tuple[np.ndarray, int]] | None = None,
    hw: HwConfig = HW,
) -> bytes:
    """What the program of ``program`` stores; functional and cycle mode must agree."""
    instructions, image = program(compute, sram, weights or {}, store)
    results = []
    for mode in ("functional", "cycle"):
        dram = image.copy()
        simulate(hw, encode(instructions), dram, mode=mode, initialised=[(store[1], dram.size)])
        results.append(dram[: store[1]].tobytes())
    assert results[0] == results[1]
    return results[0]


def requantized(
    acc: np.ndarray, multiplier: Sequence[int], shift: Sequence[int], zero_point: int, lo: int, hi: int
) -> np.ndarray:
    """Requantize int64 [..., channels] with exact Python integers, one multiplier and shift per channel."""
    flat = acc.reshape(-1, acc.shape[-1])
    out = [
        [requantize(int(v), int(m), int(s), zero_point, lo, hi) for v, m, s in zip(row, multiplier, shift, strict=True)]
        for row in flat
    ]
    return np.array(out, np.int64).reshape(acc.shape)


def taps(x: np.ndarray, window: Mapping[str, int], ky: int, kx: int) -> tuple[np.ndarray, np.ndarray]:
    """Input [out_h, out_w, channels] under one tap, and where it exists [out_h, out_w, 1]; zero elsewhere."""
    rows = np.arange(window["out_h"]) * window["stride_h"] + ky * window["dilation_h"] - window["pad_top"]
    pixels = np.arange(window["out_w"]) * window["stride_w"] + kx * window["dilation_w"] - window["pad_left"]
    inside = ((rows >= 0) & (rows < x.shape[0]))[:, None] & ((pixels >= 0) & (pixels < x.shape[1]))[None, :]
    taken = x[np.clip(rows, 0, x.shape[0] - 1)[:, None], np.clip(pixels, 0, x.shape[1] - 1)[None, :]]
    return np.where(inside[..., None], taken, 0), inside[..., None]
