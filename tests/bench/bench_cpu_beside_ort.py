"""A float network in a process that also runs ONNX Runtime: milliseconds of ours by itself, and right after a run of ONNX Runtime.

`python tests/bench/bench_cpu_beside_ort.py SHARED [--threads 2] [--rounds 3] [--network efflite0]` where SHARED holds models/. The
workers of ONNX Runtime's pool keep spinning after a run, unless session.intra_op.allow_spinning is 0, and hold the cores that ours
need. Each line is one way to set both up, in fresh processes taking turns; the figures are medians.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bench_cpu import feeds_of, ours
from sides import Side

RUNS = 30
# The pools' settings: ONNX Runtime's spinning, and the environment of ours. TVM binds its workers to cores unless told not to.
SETTINGS = [
    (spinning, environment)
    for spinning in (True, False)
    for environment in ({"TVM_BIND_THREADS": "1"}, {"TVM_BIND_THREADS": "0"}, {"TVM_BIND_THREADS": "0", "TVM_THREAD_POOL_SPIN_COUNT": "0"})
]  # fmt: skip


def seconds_of(run: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """The median of RUNS runs, each right after ``before``, which is not counted."""
    taken = []
    for _ in range(RUNS):
        before()
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def together(
    model: Path, threads: int, spinning: bool, environment: dict[str, str]
) -> tuple[Callable[[], object], list[float]]:
    """Ours alone, ours after ONNX Runtime, and ONNX Runtime after ours, in milliseconds."""
    os.environ.update(environment)
    import onnxruntime as ort

    run, _ = ours(model, threads, True, None)
    alone = seconds_of(run)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    session, feeds = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]), feeds_of(model)

    def theirs() -> object:
        return session.run(None, feeds)

    return run, [1e3 * seconds for seconds in (alone, seconds_of(run, theirs), seconds_of(theirs, run))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", default="efflite0")
    arguments = parser.parse_args()
    model = arguments.shared / "models" / f"{arguments.network}.onnx"
    found: list[list[list[float]]] = [[] for _ in SETTINGS]
    for _ in range(arguments.rounds):
        for (spinning, environment), figures in zip(SETTINGS, found, strict=True):
            side = Side(together, model, arguments.threads, spinning, environment)
            figures.append(side.facts)
            side.close()
    for (spinning, environment), figures in zip(SETTINGS, found, strict=True):
        alone, after, theirs = (statistics.median(each) for each in zip(*figures, strict=True))
        ours_with = " ".join(f"{name}={value}" for name, value in environment.items())
        print(
            f"ONNX Runtime {'spins' if spinning else 'does not spin'}, ours {ours_with}: alone {alone:.1f} ms, "
            f"after ONNX Runtime {after:.1f} ms ({after / alone:.2f} x), ONNX Runtime after ours {theirs:.1f} ms"
        )


if __name__ == "__main__":
    main()
