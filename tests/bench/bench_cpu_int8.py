"""W8A8 on the CPU beside ONNX Runtime's int8, and beside our own float: ratios of medians of turns, each side in a process of its own.

`python tests/bench/bench_cpu_int8.py SHARED [--threads 2] [--rounds 30] [--networks efflite0 ...] [--bits 8] [--no-float]` where SHARED holds
models/. The peer is ONNX Runtime's static quantization (QDQ, per channel, u8 activations) with all its optimisations; both sides calibrate
on the same random samples, which decide nothing about speed.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from sides import TURNS, Side, measured

NETWORKS = {
    "efflite0": ((3, 224, 224), -1, 1),
    "mltk_image_classification": ((3, 32, 32), -1, 1),
    "mltk_visual_wake_words": ((3, 96, 96), 0, 255),
    "mltk_keyword_spotting": ((1, 50, 10), -1, 1),
}  # fmt: skip
SAMPLES = 8


def quantized_by_peer(model: Path, samples: np.ndarray, folder: Path) -> Path:
    """ONNX Runtime's own quantization of the model."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    name = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).get_inputs()[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{name: sample[None]} for sample in samples]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quantize_static(
        folder / "folded.onnx", folder / "int8.onnx", Reader(), QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return folder / "int8.onnx"


def peer(path: Path, x: np.ndarray, threads: int) -> tuple[Callable[[], object], None]:
    """ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x}), None


def ours(
    model: Path, samples: np.ndarray, folder: Path, bits: str | None, threads: int
) -> tuple[Callable[[], object], dict[str, float]]:
    """Our module for this machine's CPU, from a .so, and seconds by stage."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm
    from tvm import relax

    from qaccel.export import export_library
    from qaccel.options import CompileOptions, parse_bits, parse_target
    from qaccel.pipeline import compile_model
    from qaccel.stages import Stages

    options = CompileOptions(parse_target("llvm -mcpu=native"))
    if bits is not None:
        from qaccel.frontend.import_model import import_model

        (spec,) = import_model(str(model), None, None).inputs
        options = replace(options, calibration_data={spec.name: samples}, bits=parse_bits(bits))
    stages = Stages()
    compiled = compile_model(str(model), options, model.stem, stages)
    path = export_library(compiled.executable, folder / f"{bits or 'float'}.so")
    main = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"]
    x = tvm.runtime.tensor(samples[:1])
    return lambda: main(x), stages.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--bits", default="8")
    parser.add_argument("--no-float", action="store_true", help="without our float module")
    arguments = parser.parse_args()
    import onnxruntime
    import tvm

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    print(
        f"{cpu or platform.machine()} as LLVM's {tvm.target.codegen.llvm_get_system_cpu()}, {arguments.threads} threads, "
        f"TVM {tvm.__version__}, onnxruntime {onnxruntime.__version__}, {arguments.rounds} x {TURNS} runs, medians (fastest)"
    )
    for network in arguments.networks:
        shape, lo, hi = NETWORKS[network]
        samples = np.random.default_rng(0).uniform(lo, hi, (SAMPLES, *shape)).astype(np.float32)
        model = arguments.shared / "models" / f"{network}.onnx"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            threads = arguments.threads
            integers = Side(ours, model, samples, folder, arguments.bits, threads)
            sides = [integers, Side(peer, quantized_by_peer(model, samples, folder), samples[:1], threads)]
            sides.append(Side(peer, model, samples[:1], threads))
            if not arguments.no_float:
                sides.append(Side(ours, model, samples, folder, None, threads))
            seconds, taken = integers.facts, measured(sides, arguments.rounds)
        times, fastest = [float(np.median(each)) for each in taken], [min(each) for each in taken]
        names = ["ours", "onnxruntime int8", "onnxruntime float", "our float"][: len(sides)]
        text = ", ".join(
            f"{name} {1e3 * median:.3f} ms ({1e3 * best:.3f})"
            for name, median, best in zip(names, times, fastest, strict=True)
        )
        ratios = ", ".join(
            f"{median / times[0]:.2f} ({best / fastest[0]:.2f}) x faster than {name}"
            for name, median, best in zip(names[1:], times[1:], fastest[1:], strict=True)
        )
        print(f"{network} {arguments.bits}: {text}")
        print(f"  {times[0] / times[1]:.2f} ({fastest[0] / fastest[1]:.2f}) x onnxruntime int8; {ratios}")
        print(f"  compiled in {sum(seconds.values()):.1f} s ({', '.join(f'{k} {v:.1f}' for k, v in seconds.items())})")


if __name__ == "__main__":
    main()
