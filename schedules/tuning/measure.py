"""Measures how long scheduled functions take, in this process or on the servers of a TVM tracker."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tvm
from tvm.rpc import connect_tracker
from tvm.s_tir import meta_schedule as ms

from ...errors import UserError
from ...options import SESSION_SECONDS
from .tune import Candidate

_REPEATS = 10  # the shortest of them counts, because other programs may use the machine too
_REPEAT_MS = 4  # the least length of a repeat, in milliseconds
_RETRIES = 3  # how often a candidate is tried whose server was lost


def measure_here(target: tvm.target.Target) -> Callable[..., None]:
    """A ``tune.Measure`` that compiles and runs the candidates in this process, one after the other."""

    def measure(candidates: Sequence[Candidate], found: Callable[[int, float | str], None]) -> None:
        for position, candidate in enumerate(candidates):
            try:
                found(position, _seconds(candidate.mod, target))
            except (RuntimeError, ValueError, TypeError) as error:
                found(position, str(error))

    return measure


def _seconds(mod: tvm.IRModule, target: tvm.target.Target) -> float:
    runtime = tvm.compile(mod, target=target).jit()
    rng = np.random.default_rng(0)
    arguments = [
        tvm.runtime.tensor(rng.random([int(size) for size in info.shape], dtype=np.float32).astype(str(info.dtype)))
        for info in ms.arg_info.ArgInfo.from_entry_func(mod, remove_preproc=True)
    ]
    evaluator = runtime.time_evaluator("main", tvm.cpu(), number=1, repeat=_REPEATS, min_repeat_ms=_REPEAT_MS)
    return float(min(evaluator(*arguments).results))


def measure_by_rpc(
    target: tvm.target.Target,
    host: str,
    port: int,
    key: str,
    most_servers: int | None = None,
    session_seconds: int = SESSION_SECONDS,
) -> Callable[..., None]:
    """A ``tune.Measure`` that runs the candidates on the servers that the tracker has under ``key``, at the same time.

    ``most_servers``: None for all; ``session_seconds``: after which a server is given up. The work of a server that is lost goes
    to the others. Raises UserError if the tracker cannot be reached or has no server of that key.
    """
    config = ms.runner.RPCConfig(
        tracker_host=host, tracker_port=port, tracker_key=key, session_timeout_sec=session_seconds
    )
    found_servers = _servers(host, port, key)
    workers = found_servers if most_servers is None else min(found_servers, most_servers)
    evaluator = ms.runner.EvaluatorConfig(number=1, repeat=_REPEATS, min_repeat_ms=_REPEAT_MS)

    def measure(candidates: Sequence[Candidate], found: Callable[[int, float | str], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="qaccel-") as folder:
            waiting = {}
            for position, candidate in enumerate(candidates):
                try:
                    waiting[position] = _input(candidate.mod, target, Path(folder) / f"{position}.tar")
                except (RuntimeError, ValueError, TypeError) as error:
                    found(position, str(error))
            for _ in range(_RETRIES):
                if not waiting:
                    return
                waiting = _run(ms.runner.RPCRunner(config, evaluator, max_workers=workers), waiting, found)
                if waiting:
                    _servers(host, port, key)  # raises the error to report if no server is left
            for position in waiting:
                found(position, "no server could run it")

    return measure


def _input(mod: tvm.IRModule, target: tvm.target.Target, path: Path) -> ms.runner.RunnerInput:
    tvm.compile(mod, target=target).export_library(str(path))
    return ms.runner.RunnerInput(str(path), "cpu", ms.arg_info.ArgInfo.from_entry_func(mod, remove_preproc=True))


def _run(
    runner: ms.runner.RPCRunner, inputs: Mapping[int, ms.runner.RunnerInput], found: Callable[[int, float | str], None]
) -> dict[int, ms.runner.RunnerInput]:
    """Measures all inputs at the same time and returns those whose server was lost."""
    futures = dict(zip(inputs, runner.run(list(inputs.values())), strict=True))
    lost = {}
    for position, future in futures.items():
        result = future.result()
        if result.error_msg is None:
            found(position, min(float(seconds) for seconds in result.run_secs))
        else:
            lost[position] = inputs[position]
    return lost


def _servers(host: str, port: int, key: str) -> int:
    """The number of servers that the tracker knows under the key; waits up to five seconds for the first."""
    try:
        socket.create_connection((host, port), timeout=3).close()  # TVM itself tries for a minute
        for _ in range(10):
            tracker = connect_tracker(host, port)
            count = sum(1 for server in tracker.summary()["server_info"] if str(server["key"]) == f"server:{key}")
            if count:
                return count
            time.sleep(0.5)
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(
            f"the tracker {host}:{port} cannot be reached: {' '.join(str(error).split())[:120]}; "
            "start one with python -m tvm.exec.rpc_tracker"
        ) from error
    raise UserError(
        f"the tracker {host}:{port} has no server of the key '{key}'; start one with "
        f"python -m tvm.exec.rpc_server --tracker={host}:{port} --key={key}"
    )
