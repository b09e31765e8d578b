"""Tune the CPU's part: measure schedules on the machine that will run them, here or through a tracker of TVM's RPC.

Without tuning, functions are scheduled by rules, which are good. `tvmc tune` measures alternatives and keeps the fastest as
records, a folder that `tvmc compile --tuning-records` takes. A folder is gone on with: stop when you like, start again later.

Tuning needs a quiet machine. A board that is to be tuned for runs TVM's RPC server, and a tracker hands it out:

    python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port 9190
    python -m tvm.exec.rpc_server --tracker TRACKER:9190 --key board        on the board, with qaccel installed
    tvmc tune model.onnx --target "llvm -mtriple=aarch64-linux-gnu" -o records --rpc-tracker TRACKER:9190 --rpc-key board
    tvmc run module.so --inputs in.npz --outputs out.npz --rpc-tracker TRACKER:9190 --rpc-key board

Here tracker and server run on this machine.
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tvm import rpc

import qaccel
from qaccel.cli.main import main as tvmc

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402

KEY = "board"


def main() -> None:
    """Tune alone, go on through a tracker, compile with the records, and run on the other machine."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "networks" / "mobilenet.onnx")
    parser.add_argument("--trials", type=int, default=48, help="measurements in all, half of them through the tracker")
    parser.add_argument("--tasks", default="all", help="which functions, as tvmc tune --tasks")
    parser.add_argument("--count", type=int, default=200, help="how many test images")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where records and modules go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    records = arguments.out / "records"
    tune = [
        "tune",
        str(arguments.model),
        "--target",
        "llvm -mcpu=native",
        "-o",
        str(records),
        "--tasks",
        arguments.tasks,
    ]

    # 1. What there is to tune: the functions of the network, and how often each is used.
    run([*tune[:-1], "list"])

    # 2. Alone.
    run([*tune, "--trials", str(arguments.trials // 2)])

    with tracker() as address:
        # 3. Through a tracker: the same folder, more measurements, on all servers of that key.
        run([*tune, "--trials", str(arguments.trials), "--rpc-tracker", address, "--rpc-key", KEY])

        # 4. Compile with and without what was found.
        q = {"target": "llvm -mcpu=native"}
        by_rule = qaccel.compile(arguments.model, **q, output=arguments.out / "by_rule.so")
        tuned = qaccel.compile(arguments.model, **q, tuning_records=records, output=arguments.out / "tuned.so")

        # 5. Run it there: TVM's RPC uploads the file.
        remote = qaccel.load(arguments.out / "tuned.so", rpc_tracker=address, rpc_key=KEY)
        test = data.load("test", arguments.count)
        images = {data.INPUT_NAME: test["images"]}
        scores = remote.run({data.INPUT_NAME: test["images"][:4]})[data.OUTPUT_NAME]
        here = tuned.run(images)[data.OUTPUT_NAME]
        print(f"top-1      {100 * (here.argmax(1) == test['labels']).mean():.1f}% of {arguments.count} images")
        print(f"remote     the same scores: {bool(np.allclose(scores, here[:4], rtol=1e-4, atol=1e-4))}")
    print(f"by rule    {milliseconds(by_rule, images):.3f} ms an image")
    print(f"tuned      {milliseconds(tuned, images):.3f} ms an image")


def run(command: list[str]) -> None:
    """tvmc in this process. Stops where it fails."""
    print("$ tvmc", *command, flush=True)
    if code := tvmc(command):
        raise SystemExit(code)


def milliseconds(module: qaccel.Module, images: dict[str, np.ndarray]) -> float:
    """The shortest of five runs over all images, for one of them."""
    found = []
    for _ in range(5):
        begin = time.perf_counter()
        module.run(images)
        found.append(time.perf_counter() - begin)
    return 1e3 * min(found) / len(next(iter(images.values())))


@contextmanager
def tracker() -> Iterator[str]:
    """The address of a tracker with one server of KEY, both processes of this machine."""
    port, server_port = free_port(), free_port()
    address, python = f"127.0.0.1:{port}", [sys.executable, "-m"]
    commands = (
        [*python, "tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)],
        [*python, "tvm.exec.rpc_server", "--host", "127.0.0.1", "--port", str(server_port), "--port-end", str(server_port + 9),
         "--tracker", address, "--key", KEY],
    )  # fmt: skip
    started = []
    try:
        for command in commands:
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_for_server("127.0.0.1", port)
        yield address
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def wait_for_server(host: str, port: int) -> None:
    """Until the tracker knows a server; gives up after a minute."""
    for _ in range(300):
        try:
            socket.create_connection((host, port), 1).close()
            if rpc.connect_tracker(host, port).summary()["server_info"]:
                return
        except OSError:
            pass  # not there yet
        time.sleep(0.2)
    raise SystemExit("the tracker has no server after a minute")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
