"""W8A8 on the CPU beside ONNX Runtime's int8, and beside our own float: ratios of medians of turns in one process.

`python tests/bench/bench_cpu_int8.py SHARED [--threads 2] [--rounds 30] [--networks efflite0 ...] [--bits 8] [--no-float]` where SHARED holds
models/. The peer is ONNX Runtime's static quantization (QDQ, per channel, u8 activations) with all its optimisations; both sides calibrate
on the same random samples, which decide nothing about speed.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

NETWORKS = {
    "efflite0": ((3, 224, 224), -1, 1),
    "mltk_image_classification": ((3, 32, 32), -1, 1),
    "mltk_visual_wake_words": ((3, 96, 96), 0, 255),
    "mltk_keyword_spotting": ((1, 50, 10), -1, 1),
}  # fmt: skip
SAMPLES = 8
TURNS = 10  # of one side before the other's
PAUSE_SECONDS = 0.02  # until the other side's threads sleep


def peers(
    model: Path, samples: np.ndarray, folder: Path, threads: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """ONNX Runtime on the float model and on its own quantization of it."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{name: sample[None]} for sample in samples]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    name = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    quantize_static(
        folder / "folded.onnx", folder / "int8.onnx", Reader(), QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip

    def runner(path: Path) -> Callable[[], object]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {name: samples[:1]})

    return runner(model), runner(folder / "int8.onnx")


def ours(
    model: Path, samples: np.ndarray, folder: Path, bits: str | None
) -> tuple[Callable[[], object], dict[str, float]]:
    """Our module for this machine's CPU, from a .so, and seconds by stage."""
    import tvm
    from tvm import relax

    from qaccel.options import CompileOptions, parse_bits, parse_target
    from qaccel.pipeline import compile_model
    from qaccel.run import link
    from qaccel.stages import Stages

    options = CompileOptions(parse_target("llvm -mcpu=native"))
    if bits is not None:
        from qaccel.frontend.import_model import import_model

        (spec,) = import_model(str(model), None, None).inputs
        options = replace(options, calibration_data={spec.name: samples}, bits=parse_bits(bits))
    stages = Stages()
    compiled = compile_model(str(model), options, model.stem, stages)
    path = link.export_library(compiled.executable, folder / f"{bits or 'float'}.so")
    main = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"]
    x = tvm.runtime.tensor(samples[:1])
    return lambda: main(x), stages.seconds


def measured(runs: list[Callable[[], object]], rounds: int) -> tuple[list[float], list[float]]:
    """Medians and smallest of the seconds of each, turn about."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, times in zip(runs, taken, strict=True):
            time.sleep(PAUSE_SECONDS)
            for turn in range(TURNS + 2):
                start = time.perf_counter()
                run()
                if turn >= 2:
                    times.append(time.perf_counter() - start)
    return [float(np.median(times)) for times in taken], [min(times) for times in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--bits", default="8")
    parser.add_argument("--no-float", action="store_true", help="without our float module")
    arguments = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = str(arguments.threads)
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
            peer_float, peer_int = peers(model, samples, folder, arguments.threads)
            integers, seconds = ours(model, samples, folder, arguments.bits)
            runs = [integers, peer_int, peer_float]
            if not arguments.no_float:
                runs.append(ours(model, samples, folder, None)[0])
            times, fastest = measured(runs, arguments.rounds)
        names = ["ours", "onnxruntime int8", "onnxruntime float", "our float"][: len(runs)]
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
