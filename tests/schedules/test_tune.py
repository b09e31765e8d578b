"""Tuning with a measurement that the test makes up: what is kept, what is gone on with, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import s_tir

from qaccel.cpu.compile import compile_cpu, fuse
from qaccel.errors import QaccelError
from qaccel.frontend.import_model import import_model
from qaccel.schedules.database import (
    ABOUT,
    BEST,
    MEASURED,
    create_records,
    key_of,
    open_records,
    plan_of,
    write_best,
)
from qaccel.schedules.tuning.tune import tasks_of, tune
from schedules.test_float import convolution, one_node

TARGET = tvm.target.Target({"kind": "llvm", "mcpu": "haswell", "num-cores": 2})


def network() -> tvm.IRModule:
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((48, 8, 1, 1), dtype=np.float32)
    model = one_node("Conv", [(1, 8, 14, 14)], [weight], kernel_shape=[1, 1])
    return import_model(model, None, None).mod


def seconds_of(schedule: s_tir.Schedule) -> float:
    """A made-up time: the more the plan's text sorts to the end, the faster."""
    return 1.0 / (1 + sum(ord(letter) * k for k, letter in enumerate(plan_of(schedule.trace))))


class Measure:
    """Counts what it measures; stops with an error after ``most``."""

    def __init__(self, most: int = 10**9) -> None:
        self.most = most
        self.plans: list[str] = []

    def __call__(self, candidates: list[s_tir.Schedule], found: Callable[[int, float | str], None]) -> None:
        for position, schedule in enumerate(candidates):
            if len(self.plans) == self.most:
                raise KeyboardInterrupt
            self.plans.append(plan_of(schedule.trace))
            found(position, seconds_of(schedule))


def run(folder: Path, trials: int, measure: Measure) -> list:
    records = create_records(folder, TARGET)
    tasks = tasks_of(fuse(network(), TARGET), TARGET, records)
    tune(tasks, records, TARGET, trials, measure, lambda _: None)
    return tasks


def test_the_fastest_plan_is_kept_and_used(tmp_path: Path) -> None:
    measure = Measure()
    (task,) = run(tmp_path / "records", 1000, measure)
    assert sorted(measure.plans) == sorted(map(str, task.plans)) and len(task.plans) > 10
    fastest = min(task.measured, key=task.measured.__getitem__)
    assert fastest != str(task.plans[0])
    for records in ((), [open_records(tmp_path / "records", TARGET)]):
        _, choices = compile_cpu(network(), TARGET, records)
        (choice,) = [choice for choice in choices if choice.plan]
        assert (choice.source, choice.plan) == (("record", fastest) if records else ("rule", str(task.plans[0])))
        assert choice.layers == ("node",)


def test_the_best_alone_can_be_shipped(tmp_path: Path) -> None:
    (task,) = run(tmp_path / "records", 12, Measure())
    best = min(task.measured, key=task.measured.__getitem__)
    write_best(tmp_path / "records", {key_of(task.mod): best, "0": "TilePlan()", "1": None})
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for name in (ABOUT, BEST):
        (shipped / name).write_bytes((tmp_path / "records" / name).read_bytes())
    assert dict(open_records(shipped, TARGET).best) == {key_of(task.mod): best, "0": "TilePlan()"}


def test_a_tune_that_is_stopped_goes_on(tmp_path: Path) -> None:
    first = Measure(most=9)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 15, first)
    second = Measure()
    (task,) = run(tmp_path, 15, second)
    assert len(first.plans) == 9 and len(second.plans) == 6 and len(task.measured) == 15
    assert not set(first.plans) & set(second.plans)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data.replace(b"\n", b"", 1)])
def test_what_was_half_written_is_measured_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run(tmp_path, 5, Measure())
    path = tmp_path / MEASURED
    lost = 5 - damage(path.read_bytes()).count(b"\n") + (damage(path.read_bytes())[-1:] == b"\n")
    path.write_bytes(damage(path.read_bytes()))
    again = Measure()
    (task,) = run(tmp_path, 5, again)
    assert len(again.plans) == lost and len(task.measured) == 5


@pytest.mark.wide
def test_two_tunes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    held = create_records(tmp_path, TARGET)
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from schedules.test_tune import *; create_records(Path(sys.argv[1]), TARGET)"
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert held.lock is not None and "another tvmc tune" in other.stderr


def test_records_of_another_machine_or_tvm_are_refused(tmp_path: Path) -> None:
    run(tmp_path, 1, Measure())
    other = tvm.target.Target({"kind": "llvm", "mcpu": "znver3"})
    with pytest.raises(QaccelError, match="-mcpu=haswell'.*-mcpu=znver3'"):
        open_records(tmp_path, other)
    about = tmp_path / ABOUT
    about.write_text(json.dumps({**json.loads(about.read_text()), "tvm": "0.1"}))
    with pytest.raises(QaccelError, match="of TVM 0.1, this is"):
        open_records(tmp_path, TARGET)
    about.write_text("{")
    with pytest.raises(QaccelError, match="damaged"):
        open_records(tmp_path, TARGET)
    with pytest.raises(QaccelError, match="holds no records"):
        open_records(tmp_path / "nowhere", TARGET)


@pytest.mark.wide
def test_all_plans_compute_the_same(tmp_path: Path) -> None:
    """Every plan of a few convolutions, run and compared with the rule's own: same sums in the same order."""
    from qaccel.schedules.floating.choose import apply_plan
    from qaccel.schedules.host import host_of

    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64", "num-cores": 2})
    rng = np.random.default_rng(6)
    for seed in (0, 2, 4):
        model, _ = convolution(np.random.default_rng(seed))
        for task in tasks_of(
            fuse(import_model(model, None, None).mod, target), target, create_records(tmp_path / str(seed), target)
        ):
            results = []
            for plan in [task.plans[0], *rng.choice(task.plans[1:], min(5, len(task.plans) - 1), replace=False)]:
                schedule = s_tir.Schedule(task.mod)
                function = apply_plan(schedule, host_of(target), plan)
                runtime = tvm.compile(tvm.IRModule({"main": function}), target=target).jit()
                data = np.random.default_rng(7)
                arguments = [
                    tvm.runtime.tensor(data.standard_normal([int(d) for d in param.ty.shape], dtype=np.float32))
                    for param in function.params
                ]
                runtime["main"](*arguments)
                results.append(arguments[-1].numpy())
            for result in results[1:]:
                np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-5 * np.abs(results[0]).max())
