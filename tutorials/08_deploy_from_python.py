"""Deploy from Python: one file, loaded where it is needed; integers at its ends, batches, threads.

`export_library` writes one .so (or .tar) with programs, weights, the CPU's part, scales and the report. Whoever loads it needs no
model, no calibration data and no compiler run. The accelerator is its simulator here; a chip's driver would take its place
behind the same call.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import qaccel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402

# An application: it knows the file, and nothing of the model.
APPLICATION = """
import sys
import numpy as np
import qaccel

module = qaccel.load(sys.argv[1])
(entry,) = module.metadata["inputs"]
images = np.load(sys.argv[2])[entry["name"]]
(scores,) = module.run({entry["name"]: images}).values()
print("application takes", entry["name"], entry["dtype"], entry["shape"], "and says", scores.argmax(1).tolist())
"""


def main() -> None:
    """Compile once; run in another process, with integer ends, in batches and in threads."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "networks" / "resnet.onnx")
    parser.add_argument("--count", type=int, default=64, help="how many test images")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where modules and the report go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    test = data.load("test", arguments.count)
    images, labels = test["images"], test["labels"]

    # 1. Quantize once, compile as often as there are targets.
    q = qaccel.quantize(arguments.model, {data.INPUT_NAME: data.load("calibration", 128)["images"]})
    module = qaccel.compile(q, output=arguments.out / "module.so", report=arguments.out)
    np.savez(arguments.out / "inputs.npz", **{data.INPUT_NAME: images[:4]})

    # 2. Another process. On the command line: tvmc run module.so --inputs inputs.npz --outputs outputs.npz
    (arguments.out / "application.py").write_text(APPLICATION, encoding="utf-8")
    command = [sys.executable, "application.py", "module.so", "inputs.npz"]
    done = subprocess.run(command, cwd=arguments.out, check=True, capture_output=True, text=True)
    print(done.stdout.strip(), "of", labels[:4].tolist())

    # 3. Any multiple of the module's batch may be given; it runs once for each.
    began = time.perf_counter()
    scores = module.run({data.INPUT_NAME: images})[data.OUTPUT_NAME]
    seconds = time.perf_counter() - began
    print(
        f"top-1      {100 * (scores.argmax(1) == labels).mean():.1f}% of {len(labels)} images, {seconds:.2f} s on the simulator"
    )

    # 4. Integers at the ends, where a camera or the next stage has them: scale and zero point are in the metadata.
    integers = qaccel.load(qaccel.compile(q, io_dtype="int8").export_library(arguments.out / "integers.so"))
    (entry,), (left,) = integers.metadata["inputs"], integers.metadata["outputs"]
    steps = np.rint(images / np.float32(entry["scale"])) + entry["zero_point"]
    raw = integers.run({entry["name"]: np.clip(steps, -128, 127).astype(np.int8)})[left["name"]]
    real = (raw.astype(np.float32) - left["zero_point"]) * np.float32(left["scale"])
    print(f"integers   {entry['dtype']} in, {raw.dtype} out; scores as before: {bool(np.array_equal(real, scores))}")

    # 5. Threads: a module keeps the memory of its run, so each thread loads one of its own.
    def work(part: np.ndarray) -> np.ndarray:
        return qaccel.load(arguments.out / "module.so").run({data.INPUT_NAME: part})[data.OUTPUT_NAME]

    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(work, np.array_split(images, 2)))
    print(f"threads    two, with a module each: {bool(np.array_equal(np.concatenate(halves), scores))}")

    # 6. What the file says of itself; `tvmc inspect module.so` prints it with all layers and the disassembly.
    loaded = qaccel.load(arguments.out / "module.so")
    print(f"file       {loaded!r}, {(arguments.out / 'module.so').stat().st_size:,} B")
    print(f"report     {arguments.out / 'report.html'}")


if __name__ == "__main__":
    main()
