"""Functional simulation on one core, in MACs per second of wall time.

`python tests/bench/bench_simulator.py SHARED` runs the whole of EfficientNet-Lite0 (SHARED/models/efflite0.onnx): its program as `simulate` runs it,
decoded and given a fresh machine each time, and the compiled module with everything around the accelerator, beside the same network in int8 by ONNX
Runtime on one thread. Without SHARED: single layers.
"""

import argparse
import os
import platform
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["TVM_NUM_THREADS"] = "1"  # before TVM is imported

import numpy as np
import pytest
import tvm_ffi

import qaccel
from qaccel.machine.artefact import Artefact, TensorSlot
from qaccel.machine.hw import load_config
from qaccel.machine.isa import encode, instruction, isa
from qaccel.machine.simulator import create_module, simulate
from qaccel.machine.streams import WeightTile, encode_stream

HW = load_config("qaccel-1024")  # holds the layer at 16 bits too
SIZE, CHANNELS = 56, 64
REPEATS = 9
NETWORK_REPEATS = 21


def layer_artefact(op: str, weight_bits: int, activation_bits: int, kernel: int) -> tuple[Artefact, int]:
    """One 64 -> 64 layer at 56 x 56 on a machine that holds it: load, compute, store; and its MACs."""
    rng = np.random.default_rng(0)
    reduction = kernel * kernel * (CHANNELS if op == "CONV" else 1)
    half = 1 << (weight_bits - 1)
    weights = rng.integers(-half, half, (reduction, CHANNELS))
    stream = encode_stream(WeightTile(weights, CHANNELS, weight_bits), HW)
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
        hw=HW,
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


def median_seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU time of NETWORK_REPEATS runs, after one that warms up. They differ where others use the core."""
    run()
    wall, cpu = [], []
    for _ in range(NETWORK_REPEATS):
        begin = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - begin[0])
        cpu.append(time.process_time() - begin[1])
    return statistics.median(wall), statistics.median(cpu)


def peer_seconds(model: Path) -> float:
    """CPU time of ONNX Runtime's own int8 on one thread."""
    from bench_cpu_int8 import NETWORKS, SAMPLES, peer, quantized_by_peer

    shape, lo, hi = NETWORKS[model.stem]
    samples = np.random.default_rng(0).uniform(lo, hi, (SAMPLES, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        run, _ = peer(quantized_by_peer(model, samples, Path(folder)), samples[:1], 1)
        return median_seconds(run)[1]


def network(model: Path, bits: str) -> None:
    """Prints the rates of a whole network with one accelerator subgraph; the work does not depend on values."""
    module = qaccel.compile(str(model), bits=bits, input_range=(-1.0, 1.0))
    macs = module.report["macs"]
    (artefact,) = module.runner.artefacts()
    rng = np.random.default_rng(0)
    dram = np.zeros(artefact.dram_bytes, np.uint8)
    constant = [(artefact.program_addr, artefact.program), (artefact.constants_addr, artefact.constants)]
    sample = module.compiled.golden_inputs()[artefact.symbol]
    given = [(slot.dram_addr, data) for slot, data in zip(artefact.inputs, sample, strict=True)]
    for addr, data in constant + given:
        dram[addr : addr + len(data)] = np.frombuffer(data, np.uint8)
    options = {
        "initialised": [(addr, addr + len(data)) for addr, data in constant + given],
        "read_only": [(addr, addr + len(data)) for addr, data in constant],
        "program_addr": artefact.program_addr,
    }

    def raw(mode: str) -> Callable[[], object]:
        return lambda: simulate(artefact.hw, artefact.program, dram, mode=mode, **options)

    inputs = {spec.name: rng.uniform(-1, 1, spec.shape).astype(spec.dtype) for spec in module.runner.inputs}
    reference = peer_seconds(model)
    for what, run in (
        ("simulate, functional", raw("functional")),
        ("compiled module", lambda: module.run(inputs)),
        ("simulate, cycle mode", raw("cycle")),
    ):
        wall, cpu = median_seconds(run)
        print(
            f"{model.stem} {bits:6s} {what:20s} {1e3 * wall:7.2f} ms {macs / wall / 1e9:6.2f} GMAC/s, "
            f"{1e3 * cpu:7.2f} ms {macs / cpu / 1e9:6.2f} GMAC/s of CPU time, {cpu / reference:.2f} x ONNX Runtime's int8"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, nargs="?")
    parser.add_argument("--bits", default=["W8A8"], nargs="+")
    arguments = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    print(f"{platform.processor() or platform.machine()}, core {core} alone, one thread")
    if arguments.shared:
        for bits in arguments.bits:
            network(arguments.shared / "models" / "efflite0.onnx", bits)
        return
    cases = [("CONV", w, a, 3) for w in (4, 8, 16) for a in (4, 8, 16)]
    cases += [("CONV", 8, 8, 1), ("CONV", 16, 16, 1), ("DEPTHWISE", 8, 8, 3), ("DEPTHWISE", 16, 16, 3)]
    for op, weight_bits, activation_bits, kernel in cases:
        rate = macs_per_second(op, weight_bits, activation_bits, kernel) / 1e9
        print(f"{op:9s} {kernel}x{kernel} W{weight_bits}A{activation_bits}: {rate:6.2f} GMAC/s")


if __name__ == "__main__":
    main()
