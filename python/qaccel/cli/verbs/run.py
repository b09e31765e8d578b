"""tvmc run: run a compiled module on the inputs in an .npz, on a folder of images, or on random inputs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError
from ...run.files import check_file, write_file
from ..flags import PREPROCESS

if TYPE_CHECKING:
    import numpy as np

    from ...networks import Module


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
        "--preprocess",
        metavar="SPEC",
        help=f"of an image folder (default: that of the calibration images): {PREPROCESS}",
    )
    parser.add_argument(
        "-o", "--outputs", metavar="OUT.npz", type=Path, help="where the outputs go, one array per name"
    )
    parser.add_argument(
        "--fill-mode",
        metavar="MODE",
        help="fill inputs that --inputs does not give with zeros, ones or random values (default: random, the same every time)",
    )
    parser.add_argument("--device", metavar="DEVICE", default="cpu", help="cpu: the host that runs the module")
    parser.add_argument(
        "--print-top", metavar="N", type=int, help="the N largest values of each output and where they are"
    )
    parser.add_argument("--print-time", action="store_true", help="time on this machine, simulator included")
    parser.add_argument("--profile", action="store_true", help="where cycles (on the CPU alone: time) go, by layer")
    parser.add_argument("--repeat", metavar="N", type=int, default=1, help="times to print (default: %(default)s)")
    parser.add_argument(
        "--number", metavar="N", type=int, default=1, help="runs whose mean is one time (default: %(default)s)"
    )
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
    """Run, write the outputs, print what was asked for. Without a reference it needs TVM's runtime alone."""
    _check(arguments)
    import numpy as np

    from ... import networks

    module = networks.load(arguments.module, rpc_tracker=arguments.rpc_tracker, rpc_key=arguments.rpc_key)
    data = _inputs(module, arguments)
    if arguments.dump_tensors is not None:
        print(f"written: {module.dump_tensors(data, arguments.dump_tensors)}")
    if arguments.reference is not None:
        found = module.compare(data, arguments.reference)
        from ...report.differences import print_differences

        print_differences(found, str(arguments.reference))
    milliseconds = []
    for _ in range(arguments.repeat):
        start = time.perf_counter()
        for _ in range(arguments.number):
            outputs = module.run(data)
        milliseconds.append(1e3 * (time.perf_counter() - start) / arguments.number)
    if arguments.outputs is not None:
        write_file(arguments.outputs, lambda path: np.savez(path, **outputs), "--outputs")  # type: ignore[arg-type]
    for name, value in outputs.items():
        text = np.array2string(value, threshold=16, edgeitems=4, precision=4, separator=", ", max_line_width=10_000)
        print(f"{name} {value.dtype} {list(value.shape)}" + ("" if arguments.outputs else f" {text}"))
        if arguments.print_top is not None:
            print_top(value, arguments.print_top)
    if arguments.print_time:
        where = "on this machine" if arguments.rpc_key is None else f"on '{arguments.rpc_key}', transfers included"
        mean, best, worst = sum(milliseconds) / len(milliseconds), min(milliseconds), max(milliseconds)
        print(
            f"time: mean {mean:.2f} ms, min {best:.2f}, max {worst:.2f}, {arguments.repeat * arguments.number} runs {where}"
        )
    if arguments.profile and module.metadata["report"] is None:
        from ...run.profile_cpu import profile_cpu, profile_text

        print(profile_text(profile_cpu(module.runner, data, arguments.repeat * arguments.number)))
    elif arguments.profile:
        from ...report.text import print_summary

        print_summary(module.report, layers=True)


def _check(arguments: argparse.Namespace) -> None:
    """Raises UserError for what can be seen to be wrong before anything is loaded."""
    for flag, value in (
        ("--repeat", arguments.repeat),
        ("--number", arguments.number),
        ("--print-top", arguments.print_top),
    ):
        if value is not None and value < 1:
            raise UserError(f"{flag} {value}: must be at least 1")
    if arguments.device != "cpu":
        raise UserError(
            f"--device {arguments.device!r}: a module runs on the CPU that it was compiled for, the accelerator simulated; "
            "use cpu"
        )
    if arguments.outputs is not None:
        if arguments.outputs.suffix != ".npz":
            raise UserError(f"--outputs '{arguments.outputs}' must end in .npz")
        check_file(arguments.outputs, "--outputs")


def _inputs(module: Module, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """What the user gives, and the rest filled in where there is nothing or ``--fill-mode`` asks for it."""
    from ...emulate.data.dataset import load_npz
    from ...run.filled_inputs import SEED, filled_inputs
    from ...run.images import check_no_preprocess, read_inputs

    mode, entries = arguments.fill_mode or "random", module.metadata["inputs"]
    filled = filled_inputs(entries, mode)
    if arguments.inputs is None and arguments.preprocess is not None:
        raise UserError("--preprocess describes images, and there are none; add --inputs FOLDER")
    given: dict[str, np.ndarray] = {}
    if arguments.inputs is not None:
        if arguments.fill_mode is None or arguments.inputs.is_dir():
            data, notes = read_inputs(module.runner, arguments.inputs, arguments.preprocess, "--inputs")
            for note in notes:
                print(f"note: {note}")
            return data
        check_no_preprocess(arguments.inputs, arguments.preprocess)
        given = dict(load_npz(arguments.inputs))
    missing = [name for name in filled if name not in given]
    if missing:
        how = f"at random (seed {SEED})" if mode == "random" else f"with {mode}"
        print(f"note: {'' if given else 'no --inputs: '}{', '.join(missing)} filled {how}; the outputs mean nothing")
    return {**filled, **given}


def print_top(output: np.ndarray, count: int) -> None:
    """The largest values of each sample (axis 0; one sample if there is none), largest first, and where they lie in it."""
    import numpy as np

    for index, sample in enumerate(output if output.ndim > 1 else output[None]):
        order = np.argsort(-sample.reshape(-1).astype(np.float64), kind="stable")[:count]
        places = zip(*np.unravel_index(order, sample.shape), strict=True) if sample.ndim else [()]
        shown = ", ".join(
            f"{'x'.join(str(int(each)) for each in place) or '0'}: {sample[place]:.6g}" for place in places
        )
        print(f"  top {len(order)} of sample {index}: {shown}")
