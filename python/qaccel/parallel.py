"""Work spread over processes of this machine, or over the workers of a Dask cluster; results do not depend on which.

A job is two functions of modules that every worker can import: ``prepare(payload)`` runs once in each process,
``work(prepared, item)`` once for each item. Payload, items and results are pickled.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from typing import Any

from .errors import QaccelError, UserError, boundary

TRIES = 2  # of an item whose process died: a second time in another one
START_SECONDS = 8.0  # of work below which starting processes takes longer than it saves
CLUSTER_SECONDS = 20  # that a cluster may take to answer
_Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Job:
    """What is done with each item; see above. ``name``: for messages and faults."""

    name: str
    prepare: Callable[[Any], Any]
    work: Callable[[Any, Any], Any]
    payload: Any


@dataclass(frozen=True)
class Lost:
    """In the place of a result: the process died ``TRIES`` times over this item."""

    reason: str


@dataclass(frozen=True)
class Workers:
    """``jobs``: processes on this machine, all cores by default; ``cluster``: the address of a Dask scheduler instead."""

    jobs: int | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None and (type(self.jobs) is not int or self.jobs < 1):
            raise UserError(f"--jobs {self.jobs!r} must be a whole number from 1 on")
        if self.jobs is not None and self.cluster is not None:
            raise UserError("--jobs is for this machine, and --cluster has workers of its own; drop one of them")

    @property
    def processes(self) -> int:
        """How many processes work on this machine."""
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.jobs or allowed


def spread(job: Job, items: Sequence[Any], workers: Workers, here: Any = None) -> Iterator[tuple[int, Any]]:
    """(number of the item, result or `Lost`) as they are done, in no order.

    Unless ``jobs`` or a cluster is asked for, this process begins, and others start where the rest would take it longer than
    that. ``here``: what ``prepare`` would give in this process, where it is there already. ``items`` may make each one when it is
    asked for. A QaccelError of an item ends it all; so does leaving the iterator, which stops the processes. Raises UserError where
    the cluster does not answer.
    """
    if workers.cluster is not None:
        yield from _on_cluster(job, items, workers.cluster)
        return
    count = min(workers.processes, len(items))
    first = 0
    if count <= 1 or workers.jobs is None:
        with boundary(job.name):
            prepared = job.prepare(job.payload) if here is None else here
        begin = time.perf_counter()
        for number in range(len(items)):
            with boundary(job.name):
                result = job.work(prepared, items[number])
            yield number, result
            first = number + 1
            if count > 1 and (time.perf_counter() - begin) / first * (len(items) - first) > START_SECONDS:
                break
    if first < len(items):
        yield from _on_processes(job, items, range(first, len(items)), count)


def _on_processes(job: Job, items: Sequence[Any], numbers: range, count: int) -> Iterator[tuple[int, Any]]:
    """Some of the items. Each worker has one at a time, so that the one over which it dies is known."""
    left = list(reversed(numbers))
    tries = [0] * len(items)
    payload = pickle.dumps(job)
    running: dict[Connection, tuple[_Process, int]] = {}  # the process, and its item
    idle = [_start() for _ in range(min(count, len(numbers)))]  # they import at the same time

    def give(connection: Connection, process: _Process) -> None:
        if left:
            number = left.pop()
            tries[number] += 1
            running[connection] = process, number
            with suppress(BrokenPipeError, ConnectionResetError):  # it died; its end is seen below
                connection.send(items[number])
        else:
            connection.close()
            process.wait()

    def begin(connection: Connection, process: _Process) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.send_bytes(payload)
        give(connection, process)

    try:
        while idle:
            begin(*idle.pop())
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                process, number = running.pop(connection)
                try:
                    failed, result = connection.recv()
                except (EOFError, ConnectionResetError):
                    connection.close()
                    code = process.wait()
                    if tries[number] < TRIES:
                        left.append(number)
                    else:
                        yield number, Lost(f"its process died {TRIES} times, the last time by {_end(code)}")
                    if left:
                        begin(*_start())
                    continue
                if failed:
                    running[connection] = process, number  # to be ended with the others
                    raise result
                give(connection, process)
                yield number, result
    finally:
        ending = [*idle, *((connection, process) for connection, (process, _) in running.items())]
        for _, process in ending:
            process.terminate()
        for connection, process in ending:
            process.wait()
            connection.close()


def _start() -> tuple[Connection, _Process]:
    """A new process and our end of its pipe. It gets one thread: the other cores have their own items.

    It is no child of `multiprocessing`, which would run the user's script a second time in it.
    """
    ours, its = multiprocessing.Pipe()
    threads = dict.fromkeys(("TVM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", f"from {__name__} import serve; serve({its.fileno()})"]
    process = subprocess.Popen(command, pass_fds=[its.fileno()], env=environment, stdin=subprocess.DEVNULL)
    its.close()
    return ours, process


def serve(descriptor: int) -> None:
    """The life of a process: a job and items in, (failed, result or error) out, until the pipe with this number is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is our parent's, who then ends us
    connection = Connection(descriptor)
    prepared: Any = None
    first = True
    try:
        job: Job = pickle.loads(connection.recv_bytes())
        while True:
            item = connection.recv()
            try:
                with boundary(job.name):
                    if first:
                        prepared, first = job.prepare(job.payload), False
                    answer = False, job.work(prepared, item)
            except QaccelError as error:
                answer = True, error
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # our parent has no more, or is gone


def _end(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _on_cluster(job: Job, items: Sequence[Any], address: str) -> Iterator[tuple[int, Any]]:
    """Dask gives the items of a worker that dies to another one, and the payload with them."""
    try:
        import distributed
    except ImportError:
        raise UserError("--cluster needs the package distributed: pip install 'qaccel[cluster]'") from None
    try:
        client = distributed.Client(address, timeout=CLUSTER_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"--cluster {address}: no Dask scheduler answers there ({type(error).__name__}); start dask scheduler and dask worker"
        ) from None
    with client:
        # The payload travels once to a worker; as a task's result it can be made again elsewhere.
        payload = client.submit(_same, pickle.dumps(job), pure=False)
        futures: dict[Any, int] = {}
        try:
            # A window, so that items need not all be in memory.
            window = 4 * max(sum(client.nthreads().values()), 1)
            done = distributed.as_completed(loop=client.loop)
            numbers = iter(range(len(items)))
            for number in numbers:
                _submit(client, done, futures, payload, items, number)
                if len(futures) >= window:
                    break
            for future in done:
                number = futures.pop(future)
                yield number, _result_of(future)
                following = next(numbers, None)
                if following is not None:
                    _submit(client, done, futures, payload, items, following)
        finally:
            client.cancel(list(futures))


def _submit(client: Any, done: Any, futures: dict[Any, int], payload: Any, items: Sequence[Any], number: int) -> None:
    future = client.submit(_remote, payload, items[number], pure=False, retries=TRIES)
    futures[future] = number
    done.add(future)


def _result_of(future: Any) -> Any:
    """What a worker made of an item, or `Lost`. Raises what the item's work raised."""
    from distributed.scheduler import KilledWorker

    try:
        failed, result = future.result()
    except KilledWorker as error:
        return Lost(f"the workers died over it, the last one {error.last_worker.address}")
    if failed:
        raise result
    return result


def _same(payload: bytes) -> bytes:
    return payload


@lru_cache(maxsize=1)
def _prepared(payload: bytes) -> tuple[Job, Any]:
    job: Job = pickle.loads(payload)
    return job, job.prepare(job.payload)


def _remote(payload: bytes, item: Any) -> tuple[bool, Any]:
    """On a worker of a cluster: (failed, result or error)."""
    try:
        with boundary("cluster"):
            job, prepared = _prepared(payload)
            return False, job.work(prepared, item)
    except QaccelError as error:
        return True, error
