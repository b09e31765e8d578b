"""tvmc tune: measure schedules of a model's CPU operators and keep the fastest as records for tvmc compile."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from ...options import SESSION_SECONDS, options_of, parse_target
from ...stages import Stages
from ..flags import add_model, add_quantizer, quantizer_of

if TYPE_CHECKING:
    from ...schedules.tuning.tune import Progress, Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    add_model(parser)
    parser.add_argument("--target", required=True, help='"llvm", "llvm -mcpu=native", "llvm -mtriple=..."')
    parser.add_argument(
        "-o", "--output", metavar="RECORDS", type=Path, required=True, help="folder; what it holds is gone on with"
    )
    parser.add_argument("--trials", metavar="N", default="256", help="measurements in all (default: %(default)s)")
    parser.add_argument(
        "--tasks",
        metavar="WHICH",
        default="all",
        help='which functions: "0,2-4", all, or list to see them (default: all)',
    )
    parser.add_argument(
        "--early-stopping", metavar="N", help="stop when N measurements have brought nothing (default: go on)"
    )
    parser.add_argument(
        "--tuning-records", metavar="PATH", type=Path, help="measurements of another folder to begin with"
    )
    data = parser.add_argument_group(
        "quantization: with --bits or --calibration-data, the kernels of integers are tuned"
    )
    add_quantizer(data, "8, W8A16, or plan.json, as for tvmc compile (default: 8 with calibration data; float without)")
    remote = parser.add_argument_group("on other machines, through TVM's RPC")
    remote.add_argument("--rpc-tracker", metavar="HOST:PORT", help="measure on the servers of TVM's tracker")
    remote.add_argument("--rpc-key", metavar="KEY", help="which of them")
    remote.add_argument("--parallel", metavar="N", help="servers to use at most (default: all of that key)")
    remote.add_argument(
        "--timeout", metavar="SECONDS", help=f"after which a server is given up (default: {SESSION_SECONDS})"
    )


def execute(arguments: argparse.Namespace) -> None:
    """Tune until the folder holds as many measurements as asked for; stopping and starting again loses none."""
    trials, target_options = _whole("--trials", arguments.trials), parse_target(arguments.target)
    early_stopping = _whole("--early-stopping", arguments.early_stopping) if arguments.early_stopping else None
    if target_options.config is not None:
        raise UserError(f"--target '{target_options}': only the CPU's part is tuned; give llvm alone")
    tracker = _tracker(arguments.rpc_tracker, arguments.rpc_key)
    most_servers, session_seconds = _limits_of_servers(arguments, tracker is not None)
    options = options_of(target_options, **quantizer_of(arguments))
    from ...cpu.compile import fuse_integers
    from ...cpu_network import network_for_cpu
    from ...host import host_target
    from ...schedules.database import add_measured, create_records, key_of, open_records, write_best
    from ...schedules.threads import use_all_cores
    from ...schedules.tuning.measure import measure_by_rpc, measure_here
    from ...schedules.tuning.tune import chosen_tasks, confirm, progress_of, tasks_of, tune

    target = host_target(target_options)
    if target_options.mtriple is not None and tracker is None:
        raise UserError(
            f"-mtriple={target_options.mtriple} does not run here; give --rpc-tracker of machines that it runs on"
        )
    use_all_cores()
    logging.getLogger("tvm").setLevel(logging.ERROR)
    measure = (
        measure_here(target) if tracker is None else measure_by_rpc(target, *tracker, most_servers, session_seconds)
    )
    earlier = None if arguments.tuning_records is None else open_records(arguments.tuning_records, target)
    stages = Stages(show=not arguments.verbose)
    network = fuse_integers(network_for_cpu(arguments.model, options, stages), target)
    if arguments.tasks == "list":
        with tempfile.TemporaryDirectory(prefix="qaccel-") as folder:
            _print_tasks(tasks_of(network, target, create_records(Path(folder) / "records", target)))
        return
    records = create_records(arguments.output, target)
    if earlier is not None:
        add_measured(records, earlier)
    tasks = chosen_tasks(tasks_of(network, target, records), arguments.tasks)
    with _Shown(trials) as shown:
        tune(tasks, records, target, trials, measure, shown, early_stopping)
        confirm(tasks, records, target, measure, lambda done: shown.confirming(done, len(tasks)))
    result = progress_of(tasks, trials)
    measured_all = all(not task.open() for task in tasks)
    why = "there is nothing else to measure" if measured_all else f"the last {early_stopping} brought nothing"
    complete = "" if result.done >= trials else f"; {why}"
    print(
        f"{result.done} measurements of {len(tasks)} functions{complete}: "
        f"{result.seconds * 1e3:.3f} ms, by rule {result.untuned * 1e3:.3f} ms"
    )
    write_best(arguments.output, {key_of(task.mod): task.best for task in tasks if task.measured})
    print(f"written: {arguments.output}")


def _print_tasks(tasks: Sequence[Task]) -> None:
    for index, task in enumerate(tasks):
        print(f"{index:>3}  {task.name}: {task.uses} uses, {len(task.plans)} plans, {len(task.measured)} measured")


def _whole(flag: str, text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"{flag} {text}: must be a whole number, at least 1")
    return int(text)


def _limits_of_servers(arguments: argparse.Namespace, remote: bool) -> tuple[int | None, int]:
    """How many servers at most, and for how many seconds. Raises UserError where there are none: here one candidate runs after
    the other."""
    for flag, text in (("--parallel", arguments.parallel), ("--timeout", arguments.timeout)):
        if text is not None and not remote:
            raise UserError(f"{flag} is for servers of a tracker; add --rpc-tracker and --rpc-key, or drop it")
    most = None if arguments.parallel is None else _whole("--parallel", arguments.parallel)
    return most, SESSION_SECONDS if arguments.timeout is None else _whole("--timeout", arguments.timeout)


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
