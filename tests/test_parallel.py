"""Work over processes and over a Dask cluster: the same results as on one, whoever dies."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import parallel_jobs as jobs
from qaccel.errors import CompilerFault, UserError
from qaccel.parallel import Job, Lost, Workers, spread

ITEMS = range(7)


def results(job: Job, workers: Workers) -> list[object]:
    found = dict(spread(job, ITEMS, workers))
    return [found[number] for number in sorted(found)]


def at_work() -> list[psutil.Process]:
    """Processes that work for this one."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if any("qaccel.parallel" in word for word in child.cmdline())]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two workers, processes of their own."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as local:
        yield local.scheduler_address


def test_one_process_and_three_agree() -> None:
    job = Job("square", jobs.prepare, jobs.square, 7)
    expected = [70 + item * item for item in ITEMS]
    assert results(job, Workers(1)) == results(job, Workers(3)) == expected
    assert at_work() == []


SCRIPT = """
import parallel_jobs as jobs
from qaccel.parallel import Job, Workers, spread
print("once")
print(sorted(dict(spread(Job("square", jobs.prepare, jobs.square, 7), range(7), Workers(2))).values()))
"""


def test_a_plain_script_is_not_run_again(tmp_path: Path) -> None:
    """One that does not hide its work behind a name of the main module, as `multiprocessing` asks for."""
    assert printed(SCRIPT, tmp_path) == ["once", str(sorted(70 + item * item for item in ITEMS))]


def printed(script: str, folder: Path) -> list[str]:
    """The lines of a script in a file of its own and a fresh process."""
    (folder / "script.py").write_text(script)
    tests = Path(__file__).resolve().parent
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "script.py"], cwd=folder, env=paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_process_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    job = Job("dies once", jobs.same, jobs.dies_once, str(tmp_path))
    assert results(job, Workers(2)) == list(ITEMS)
    assert (tmp_path / "died").exists()


def test_an_item_that_kills_its_process_is_lost_alone() -> None:
    found = results(Job("dies", jobs.same, jobs.dies, None), Workers(2))
    assert found[2] == Lost("its process died 2 times, the last time by signal 9")
    assert found[:2] + found[3:] == [item for item in ITEMS if item != 2]


@pytest.mark.parametrize("workers", [Workers(1), Workers(2)])
def test_an_error_of_an_item_is_raised_here(workers: Workers) -> None:
    with pytest.raises(UserError, match="item 1 is not to be had"):
        results(Job("fails", jobs.same, jobs.fails, None), workers)
    with pytest.raises(CompilerFault, match="in the stage 'fails': ZeroDivisionError"):
        dict(spread(Job("fails", jobs.same, jobs.fails, None), [40, 40], workers))
    assert at_work() == []


INTERRUPTED = """
import os, psutil, signal, threading
import parallel_jobs as jobs
from qaccel.parallel import Job, Workers, spread
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    dict(spread(Job("sleeps", jobs.same, jobs.sleeps, None), range(7), Workers(2)))
except KeyboardInterrupt:
    print("interrupted,", len(psutil.Process().children(recursive=True)), "left")
"""


def test_an_interrupt_ends_the_processes(tmp_path: Path) -> None:
    begin = time.monotonic()
    assert printed(INTERRUPTED, tmp_path) == ["interrupted, 0 left"]
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("count", [0, -1, True])
def test_a_number_of_processes_that_cannot_be(count: int) -> None:
    with pytest.raises(UserError, match="--jobs"):
        Workers(count)


def test_jobs_beside_a_cluster() -> None:
    with pytest.raises(UserError, match="drop one of them"):
        Workers(2, "tcp://127.0.0.1:1")


@pytest.mark.wide
def test_a_cluster_agrees_and_loses_nothing(cluster: str, tmp_path: Path) -> None:
    job = Job("square", jobs.prepare, jobs.square, 7)
    assert results(job, Workers(cluster=cluster)) == [70 + item * item for item in ITEMS]
    assert results(Job("dies once", jobs.same, jobs.dies_once, str(tmp_path)), Workers(cluster=cluster)) == list(ITEMS)
    assert (tmp_path / "died").exists()
    with pytest.raises(UserError, match="item 1 is not to be had"):
        results(Job("fails", jobs.same, jobs.fails, None), Workers(cluster=cluster))


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("qaccel.parallel.CLUSTER_SECONDS", 0.5)
    with pytest.raises(UserError, match="--cluster tcp://127.0.0.1:9: no Dask scheduler answers there"):
        results(Job("square", jobs.prepare, jobs.square, 7), Workers(cluster="tcp://127.0.0.1:9"))
