"""How long a scheduled function takes: in this process, or on the servers of a TVM tracker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import s_tir
from tvm.rpc import connect_tracker
from tvm.s_tir import meta_schedule as ms

from ..errors import QaccelError

_REPEATS = 10
_REPEAT_MS = 4  # per repeat, at least; of all repeats the least counts, as others may use the machine too
_BUILD_SECONDS = 60.0
_SESSION_SECONDS = 60
_RETRIES = 3  # of a candidate whose server was lost


def measure_here(target: tvm.target.Target) -> Callable[..., None]:
    """Compiles and runs in this process, one candidate after the other."""

    def measure(candidates: Sequence[s_tir.Schedule], found: Callable[[int, float | str], None]) -> None:
        for position, schedule in enumerate(candidates):
            try:
                found(position, _seconds(schedule.mod, target))
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


def measure_by_rpc(target: tvm.target.Target, host: str, port: int, key: str) -> Callable[..., None]:
    """On all servers that the tracker has under ``key``, at the same time. A lost server's work goes to the others.

    Raises QaccelError if the tracker cannot be reached or has no server of that key.
    """
    config = ms.runner.RPCConfig(
        tracker_host=host, tracker_port=port, tracker_key=key, session_timeout_sec=_SESSION_SECONDS
    )
    workers = _servers(host, port, key)
    builder = ms.builder.LocalBuilder(max_workers=2, timeout_sec=_BUILD_SECONDS)
    evaluator = ms.runner.EvaluatorConfig(number=1, repeat=_REPEATS, min_repeat_ms=_REPEAT_MS)

    def measure(candidates: Sequence[s_tir.Schedule], found: Callable[[int, float | str], None]) -> None:
        built = builder.build([ms.builder.BuilderInput(schedule.mod, target) for schedule in candidates])
        waiting = []
        for position, result in enumerate(built):
            if result.error_msg is not None:
                found(position, str(result.error_msg))
            else:
                waiting.append(position)
        for _ in range(_RETRIES):
            if not waiting:
                return
            runner = ms.runner.RPCRunner(config, evaluator, max_workers=workers)
            inputs = [
                ms.runner.RunnerInput(
                    built[p].artifact_path,
                    "cpu",
                    ms.arg_info.ArgInfo.from_entry_func(candidates[p].mod, remove_preproc=True),
                )
                for p in waiting
            ]
            futures = list(zip(waiting, runner.run(inputs), strict=True))
            waiting = []
            for position, future in futures:
                result = future.result()
                if result.error_msg is None:
                    found(position, min(float(seconds) for seconds in result.run_secs))
                else:
                    waiting.append(position)
            if waiting:
                _servers(host, port, key)  # if none is left, that is the error to tell
        for position in waiting:
            found(position, "no server could run it")

    return measure


def _servers(host: str, port: int, key: str) -> int:
    """How many servers the tracker knows under the key; waits a little for the first."""
    try:
        for _ in range(10):
            tracker = connect_tracker(host, port)
            count = sum(1 for server in tracker.summary()["server_info"] if str(server["key"]) == f"server:{key}")
            if count:
                return count
            time.sleep(0.5)
    except (RuntimeError, OSError, ValueError) as error:
        raise QaccelError(
            f"the tracker {host}:{port} cannot be reached: {' '.join(str(error).split())[:120]}; "
            "start one with python -m tvm.exec.rpc_tracker"
        ) from error
    raise QaccelError(
        f"the tracker {host}:{port} has no server of the key '{key}'; start one with "
        f"python -m tvm.exec.rpc_server --tracker={host}:{port} --key={key}"
    )
