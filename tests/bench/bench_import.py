"""What it takes to import TVM with the backend, and to load and run a module: `python tests/bench/bench_import.py`.

Each figure is the median of processes of its own, the kinds taking turns: processor time, which other work on the machine changes less,
time on the clock, and the most memory. What the backend adds to `import tvm` is timed inside a process: finding it, importing and
registering it, after TVM and its own backends. With `--bar`, exits with 1 where that takes more than 50 ms of processor time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import qaccel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small_models

BAR_MILLISECONDS = 50
RUN = """
import sys
import numpy as np
import qaccel
module = qaccel.load(sys.argv[1])
module.run({entry["name"]: np.zeros(entry["shape"], entry["dtype"]) for entry in module.metadata["inputs"]})
"""
# Printed at the end of each process: Linux tells a process's peak only to itself.
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
ADDED = """
import importlib.metadata, time
find = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **which: []
import tvm
start = time.process_time()
for point in find(group="tvm.backends"):
    point.load()()
print(1e3 * (time.process_time() - start))
"""
KINDS = {
    "import tvm": ("import tvm", {}),
    "import tvm, runtime alone": ("import tvm", {"TVM_USE_RUNTIME_LIB": "1"}),
    "load and run a module": (RUN, {}),
    "load and run, runtime alone": (RUN, {"TVM_USE_RUNTIME_LIB": "1"}),
    "import all that compiles": ("import qaccel; qaccel.compile", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="processes of each kind")
    parser.add_argument("--bar", action="store_true")
    arguments = parser.parse_args()
    taken: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    added = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.so"
        model = small_models.chain()
        qaccel.compile(model, calibration_data=small_models.samples(model), bits=8, output=path)
        for _ in range(arguments.count):
            added.append(float(subprocess.check_output([sys.executable, "-c", ADDED], text=True)))
            for kind, (code, variables) in KINDS.items():
                command = [sys.executable, "-c", code + PEAK, str(path)]
                start = time.perf_counter()
                process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
                assert process.stdout is not None
                peak = int(process.stdout.read())
                _, status, usage = os.wait4(process.pid, 0)
                assert status == 0
                clock = time.perf_counter() - start
                taken[kind].append((1e3 * (usage.ru_utime + usage.ru_stime), 1e3 * clock, peak / 1024))
    medians = {kind: [statistics.median(column) for column in zip(*rows, strict=True)] for kind, rows in taken.items()}
    for kind, (processor, clock, peak) in medians.items():
        print(
            f"{kind:<28} {processor:6.0f} ms of processor time, {clock:6.0f} ms on the clock, {peak:4.0f} MiB at most"
        )
    print(
        f"the backend adds {statistics.median(added):.1f} ms of processor time to import tvm; the bar is {BAR_MILLISECONDS}"
    )
    if arguments.bar and statistics.median(added) > BAR_MILLISECONDS:
        sys.exit(1)


if __name__ == "__main__":
    main()
