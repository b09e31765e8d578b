"""Functional simulation of single layers on one core, in MACs per second of wall time. `python tests/bench/bench_simulator.py` prints."""

import struct
import time

import numpy as np
import pytest
import tvm_ffi

from qaccel.hw import load_config
from qaccel.isa import encode, instruction, isa
from qaccel.npu.artefact import Artefact, TensorSlot
from qaccel.npu.compress import WeightTile, encode_stream
from qaccel.run.simulator import create_module

SIZE, CHANNELS = 56, 64
REPEATS = 9


def layer_artefact(op: str, weight_bits: int, activation_bits: int, kernel: int) -> tuple[Artefact, int]:
    """One 64 -> 64 layer at 56 x 56 on a machine that holds it: load, compute, store; and its MACs."""
    rng = np.random.default_rng(0)
    reduction = kernel * kernel * (CHANNELS if op == "CONV" else 1)
    half = 1 << (weight_bits - 1)
    hw = load_config("qaccel-1024")  # holds the layer at 16 bits too
    stream = encode_stream(WeightTile(rng.integers(-half, half, (reduction, CHANNELS)), CHANNELS, weight_bits), hw)
    records = struct.pack("<iIB3x", 1, 1 << 30, 30 + weight_bits + 4) * CHANNELS
    map_bytes = SIZE * SIZE * CHANNELS * activation_bits // 8
    pixel = CHANNELS * activation_bits // 8
    constants = 2 * map_bytes
    sram = {
        "sram_row_stride": SIZE * pixel,
        "sram_pixel_stride": pixel,
        "rows": SIZE,
        "pixels": SIZE,
        "pixel_bytes": pixel,
    }
    dram = {"dram_row_stride": SIZE * pixel, "dram_pixel_stride": pixel}
    window = {"in_h": SIZE, "in_w": SIZE, "kernel_h": kernel, "kernel_w": kernel, "out_h": SIZE, "out_w": SIZE}
    window |= {
        "stride_h": 1,
        "stride_w": 1,
        "dilation_h": 1,
        "dilation_w": 1,
        "pad_top": kernel // 2,
        "pad_left": kernel // 2,
    }
    views = {"in_row_stride": SIZE * pixel, "in_pixel_stride": pixel, "out_addr": map_bytes}
    views |= {"out_row_stride": SIZE * pixel, "out_pixel_stride": pixel}
    channels = {"in_channels": CHANNELS, "out_channels": CHANNELS} if op == "CONV" else {"channels": CHANNELS}
    bits = {"weight_bits": weight_bits, "in_bits": activation_bits, "out_bits": activation_bits}
    lo, hi = -(1 << (activation_bits - 1)), (1 << (activation_bits - 1)) - 1
    program = [
        instruction("LOAD", signal0=1, **dram, **sram),
        instruction("LOAD_RAW", dram_addr=constants, sram_addr=constants, bytes=len(records), signal0=2),
        instruction(
            "LOADW", stream_addr=constants + len(records), stream_bytes=len(stream), weight_count=reduction * CHANNELS,
            weight_bits=weight_bits, row_weights=CHANNELS, signal0=3,
        ),
        instruction(
            op, wait0=1, wait1=2, wait2=3, signal0=4, **window, **views, **channels, **bits,
            param_addr=constants, clamp_lo=lo, clamp_hi=hi, finish=1,
        ),
        instruction("STORE", dram_addr=map_bytes, sram_addr=map_bytes, wait0=4, **dram, **sram),
    ]  # fmt: skip
    shape = (SIZE, SIZE, CHANNELS)
    artefact = Artefact(
        symbol="layer",
        isa_version=isa().version,
        hw=hw,
        layers=("layer",),
        program_addr=constants + (1 << 20),
        program=encode(program),
        constants_addr=constants,
        constants=records + stream,
        dram_bytes=constants + (1 << 21),
        inputs=(TensorSlot("x", 0, shape, activation_bits),),
        outputs=(TensorSlot("y", map_bytes, shape, activation_bits),),
    )
    return artefact, reduction * CHANNELS * SIZE * SIZE


def macs_per_second(op: str, weight_bits: int, activation_bits: int, kernel: int) -> float:
    """Of the module that a compiled model carries, tensors in and out included."""
    artefact, macs = layer_artefact(op, weight_bits, activation_bits, kernel)
    module = create_module(artefact.to_bytes())
    half = 1 << (activation_bits - 1)
    dtype = np.int16 if activation_bits == 16 else np.int8
    x = np.random.default_rng(1).integers(-half, half, (1, SIZE, SIZE, CHANNELS)).astype(dtype)
    tensors = [tvm_ffi.from_dlpack(array) for array in (x, np.zeros_like(x))]
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        module["layer"](*tensors)
        seconds.append(time.perf_counter() - begin)
    return macs / min(seconds)


@pytest.mark.bench
def test_functional_convolution_reaches_its_bar():
    assert macs_per_second("CONV", 8, 8, 3) >= 5e9


if __name__ == "__main__":
    cases = [("CONV", w, a, 3) for w in (4, 8, 16) for a in (4, 8, 16)]
    cases += [("CONV", 8, 8, 1), ("CONV", 16, 16, 1), ("DEPTHWISE", 8, 8, 3), ("DEPTHWISE", 16, 16, 3)]
    for op, weight_bits, activation_bits, kernel in cases:
        rate = macs_per_second(op, weight_bits, activation_bits, kernel) / 1e9
        print(f"{op:9s} {kernel}x{kernel} W{weight_bits}A{activation_bits}: {rate:6.2f} GMAC/s")
