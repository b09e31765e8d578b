"""tvmc tune: measure schedules of a model's CPU operators and keep the fastest as records for tvmc compile."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..options import MODEL_FORMATS, options_of, parse_target

if TYPE_CHECKING:
    from ..schedules.tuning.tune import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("model", metavar="MODEL", type=Path, help=".onnx, .pt2 (torch.export.save) or .tflite")
    parser.add_argument("--target", required=True, help='"llvm", "llvm -mcpu=native", "llvm -mtriple=..."')
    parser.add_argument(
        "-o", "--output", metavar="RECORDS", type=Path, required=True, help="folder; what it holds is gone on with"
    )
    parser.add_argument("--trials", metavar="N", default="256", help="measurements in all (default: %(default)s)")
    parser.add_argument("--input-shapes", metavar="SHAPES", help='"x:[1,3,224,224]", several with spaces between')
    parser.add_argument("--model-format", metavar="FORMAT", help=f"{', '.join(MODEL_FORMATS)} (default: by the suffix)")
    parser.add_argument("--rpc-tracker", metavar="HOST:PORT", help="measure on the servers of TVM's tracker")
    parser.add_argument("--rpc-key", metavar="KEY", help="which of them")


def execute(arguments: argparse.Namespace) -> None:
    """Tune until the folder holds as many measurements as asked for; stopping and starting again loses none."""
    trials, target_options = _trials(arguments.trials), parse_target(arguments.target)
    if target_options.config is not None:
        raise UserError(f"--target '{target_options}': only the CPU's part is tuned; give llvm alone")
    tracker = _tracker(arguments.rpc_tracker, arguments.rpc_key)
    options = options_of(target_options, input_shapes=arguments.input_shapes, model_format=arguments.model_format)
    from ..cpu.compile import fuse
    from ..frontend.import_model import import_model
    from ..host import host_target
    from ..schedules.database import create_records, key_of, write_best
    from ..schedules.threads import use_all_cores
    from ..schedules.tuning.measure import measure_by_rpc, measure_here
    from ..schedules.tuning.tune import confirm, progress_of, tasks_of, tune

    target = host_target(target_options)
    if target_options.mtriple is not None and tracker is None:
        raise UserError(
            f"-mtriple={target_options.mtriple} does not run here; give --rpc-tracker of machines that it runs on"
        )
    use_all_cores()
    logging.getLogger("tvm").setLevel(logging.ERROR)
    measure = measure_here(target) if tracker is None else measure_by_rpc(target, *tracker)
    network = fuse(import_model(arguments.model, options.input_shapes, options.model_format).mod, target)
    records = create_records(arguments.output, target)
    tasks = tasks_of(network, target, records)
    with _Shown(trials) as shown:
        tune(tasks, records, target, trials, measure, shown)
        confirm(tasks, records, target, measure, lambda done: shown.confirming(done, len(tasks)))
    result = progress_of(tasks, trials)
    complete = "" if result.done >= trials else "; there is nothing else to measure"
    print(
        f"{result.done} measurements of {len(tasks)} functions{complete}: "
        f"{result.seconds * 1e3:.3f} ms, by rule {result.untuned * 1e3:.3f} ms"
    )
    write_best(arguments.output, {key_of(task.mod): task.best for task in tasks if task.measured})
    print(f"written: {arguments.output}")


def _trials(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"--trials {text}: must be a whole number, at least 1")
    return int(text)


def _tracker(address: str | None, key: str | None) -> tuple[str, int, str] | None:
    if address is None and key is None:
        return None
    if address is None or key is None:
        raise UserError("--rpc-tracker HOST:PORT and --rpc-key KEY belong together; give both")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--rpc-tracker {address!r} must have the form HOST:PORT")
    return host, int(port), key


class _Shown:
    """A line of progress with the best so far, on a terminal."""

    def __init__(self, trials: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("tune"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=trials)

    def __enter__(self) -> _Shown:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def confirming(self, done: int, tasks: int) -> None:
        self.bar.update(self.task, total=tasks, completed=done, description="measuring the best again")

    def __call__(self, state: Progress) -> None:
        best = f"best {state.seconds * 1e3:.3f} ms, by rule {state.untuned * 1e3:.3f} ms"
        self.bar.update(self.task, completed=state.done, description=best)
