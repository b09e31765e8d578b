"""tvmc run: run a compiled module on the inputs in an .npz, on a folder of images, or on random inputs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..errors import UserError
from ..run.files import check_file, write_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("module", metavar="MODULE", type=Path, help=".so or .tar that tvmc compile wrote")
    parser.add_argument(
        "-i",
        "--inputs",
        metavar="PATH",
        type=Path,
        help=".npz with one array per input, or an image folder (default: random values, always the same)",
    )
    parser.add_argument(
        "--preprocess", metavar="SPEC", help="of an image folder (default: that of the calibration images)"
    )
    parser.add_argument(
        "-o", "--outputs", metavar="OUT.npz", type=Path, help="where the outputs go, one array per name"
    )
    parser.add_argument("--print-time", action="store_true", help="time on this machine, simulator included")
    parser.add_argument("--profile", action="store_true", help="where cycles (on the CPU alone: time) go, by layer")
    parser.add_argument("--repeat", metavar="N", type=int, default=1, help="run so many times (default: %(default)s)")
    parser.add_argument(
        "--dump-tensors",
        metavar="DIR",
        type=Path,
        help="write what every layer makes of the first batch, and what it means",
    )
    parser.add_argument(
        "--reference",
        metavar="PATH",
        type=Path,
        help="another module, or the float model (.onnx): compare tensor by tensor on the first batch",
    )
    remote = parser.add_argument_group("on another machine, through TVM's RPC")
    remote.add_argument(
        "--rpc-tracker", metavar="HOST:PORT", help="where the tracker is (python -m tvm.exec.rpc_tracker)"
    )
    remote.add_argument("--rpc-key", metavar="KEY", help="what the servers to use have registered as")


def execute(arguments: argparse.Namespace) -> None:
    """Run, write the outputs, print what was asked for."""
    if arguments.repeat < 1:
        raise UserError(f"--repeat {arguments.repeat}: run at least once")
    if arguments.outputs is not None:
        if arguments.outputs.suffix != ".npz":
            raise UserError(f"--outputs '{arguments.outputs}' must end in .npz")
        check_file(arguments.outputs, "--outputs")
    import numpy as np

    from .. import api
    from ..report.differences import print_differences
    from ..report.text import print_summary
    from ..run.images import read_inputs
    from ..run.profile_cpu import profile_cpu, profile_text
    from ..run.random_inputs import SEED, random_inputs

    module = api.load(arguments.module, rpc_tracker=arguments.rpc_tracker, rpc_key=arguments.rpc_key)
    if arguments.inputs is None:
        if arguments.preprocess is not None:
            raise UserError("--preprocess describes images, and there are none; add --inputs FOLDER")
        data = random_inputs(module.metadata["inputs"])
        print(f"note: no --inputs: {', '.join(data)} filled at random (seed {SEED}); the outputs mean nothing")
    else:
        data, notes = read_inputs(module.runner, arguments.inputs, arguments.preprocess, "--inputs")
        for note in notes:
            print(f"note: {note}")
    if arguments.dump_tensors is not None:
        print(f"written: {module.dump_tensors(data, arguments.dump_tensors)}")
    if arguments.reference is not None:
        print_differences(module.compare(data, arguments.reference), str(arguments.reference))
    milliseconds = []
    for _ in range(arguments.repeat):
        start = time.perf_counter()
        outputs = module.run(data)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    if arguments.outputs is not None:
        write_file(arguments.outputs, lambda path: np.savez(path, **outputs), "--outputs")  # type: ignore[arg-type]
    for name, value in outputs.items():
        text = np.array2string(value, threshold=16, edgeitems=4, precision=4, separator=", ", max_line_width=10_000)
        print(f"{name} {value.dtype} {list(value.shape)}" + ("" if arguments.outputs else f" {text}"))
    if arguments.print_time:
        where = "on this machine" if arguments.rpc_key is None else f"on '{arguments.rpc_key}', transfers included"
        mean, best, worst = sum(milliseconds) / len(milliseconds), min(milliseconds), max(milliseconds)
        print(f"time: mean {mean:.2f} ms, min {best:.2f}, max {worst:.2f}, {len(milliseconds)} runs {where}")
    if arguments.profile and module.metadata["report"] is None:
        print(profile_text(profile_cpu(module.runner, data, arguments.repeat)))
    elif arguments.profile:
        print_summary(module.report, layers=True)
