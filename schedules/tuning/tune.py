"""Tuning: measures the plans of a network's functions, first those that a cost model expects to be fast."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms

from ...errors import UserError
from ..database import FAILED_SECONDS, Records, plan_of, workload_of
from ..floating.choose import SchedulePlan, apply_plan, is_scheduled, loop_extents, schedule_plans
from ..fused import Fused
from ..host import Host, host_of
from ..kernels import PlannedKernel
from .cost_model import Measured, Plan, ranked

BATCH = 8  # plans that are measured before the cost model learns from them
_AT_RANDOM = (
    0.2  # the share of a batch that is drawn at random, so that the cost model sees plans unlike those it knows
)
_WORTH = (
    0.97  # a plan is recorded if it takes at most this part of the default plan's time: measurements differ by as much
)
_CONFIRMATIONS = 4  # how often the best plans are measured again at the end
_FASTEST = 3  # how many plans of a task are measured again then, beside the default
_TOO_FEW = 16  # measurements, of all tasks together, below which the cost model is not asked


@dataclass(frozen=True, eq=False)
class Candidate:
    """A function made by one of its plans, alone in a module, and how the database writes that down."""

    mod: tvm.IRModule
    trace: s_tir.schedule.Trace


class Measure(Protocol):
    """Measures candidates."""

    def __call__(self, candidates: Sequence[Candidate], found: Callable[[int, float | str], None]) -> None:
        """Calls ``found(position, result)`` for each candidate as soon as it is measured.

        ``result``: the seconds it takes, or the reason why it could not be measured.
        """


@dataclass(eq=False)
class Task:
    """A function to tune, which the network calls ``uses`` times.

    ``mod``: what records keep it by. ``plans``: all plans, the default first. ``measured``: seconds by plan, as text, including
    those of earlier runs. ``made``: makes the function by a plan.
    """

    name: str
    mod: tvm.IRModule
    uses: int
    plans: Sequence[Plan]
    workload: ms.database.Workload
    extents: Sequence[int]  # iterations of the main block's loops
    made: Callable[[Any], Candidate]
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """What all uses take together with the fastest plan so far."""
        return min(self.measured.values(), default=0.0) * self.uses

    @property
    def best(self) -> str | None:
        """The fastest plan as text; None if the default plan is as fast, within what measurements differ by."""
        plan = min(self.measured, key=self.measured.__getitem__, default=None)
        own = self.measured.get(str(self.plans[0]), FAILED_SECONDS)
        return plan if plan is not None and self.measured[plan] < _WORTH * own else None

    def add(self, plan: str, seconds: float) -> None:
        """Adds a measurement. Of several measurements of one plan the shortest counts."""
        self.measured[plan] = min(self.measured.get(plan, seconds), seconds)

    def known(self) -> Measured:
        """The measurements that the cost model learns from: those that did not fail."""
        seconds = {plan: self.measured[str(plan)] for plan in self.plans if str(plan) in self.measured}
        return Measured(self.extents, {plan: value for plan, value in seconds.items() if value < FAILED_SECONDS})

    def open(self) -> list[Plan]:
        """The plans without a measurement, the default first."""
        return [plan for plan in self.plans if str(plan) not in self.measured]


Tell = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """``done`` of ``trials`` measurements are made. One run of all tuned functions takes ``seconds`` with the fastest plans so
    far, and ``untuned`` seconds with the default plans."""

    done: int
    trials: int
    seconds: float
    untuned: float


def tasks_of(fused: Fused, target: tvm.target.Target, records: Records) -> list[Task]:
    """The functions of a network that have more than one plan, with their measurements in ``records``."""
    assert records.database is not None
    tasks = [*_float_tasks(fused, target, records.database), *_integer_tasks(fused, records.database)]
    for record in records.database.get_all_tuning_records():
        plan = plan_of(record.trace)
        for task in tasks:
            if plan and record.run_secs and task.workload.same_as(record.workload):
                task.add(plan, float(record.run_secs[0]))
    return tasks


def _float_tasks(fused: Fused, target: tvm.target.Target, database: ms.database.Database) -> list[Task]:
    host, tasks = host_of(target), []
    for var, function in fused.mod.functions_items():
        if not isinstance(function, tirx.PrimFunc) or is_scheduled(function):
            continue
        choice = schedule_plans(function, host)
        if len(choice) > 1:
            workload, uses = workload_of(function), max(len(fused.layers.get(var.name_hint, ())), 1)
            committed = database.commit_workload(workload)
            made = partial(_scheduled, workload, host)
            tasks.append(Task(var.name_hint, workload, uses, choice, committed, loop_extents(function), made))
    return tasks


def _integer_tasks(fused: Fused, database: ms.database.Database) -> list[Task]:
    """One task for all kernels that are as fast with one plan, by the first one's name."""
    alike: dict[str, list[str]] = {}
    for name, kernel in fused.kernels.items():
        if len(kernel.plans) > 1:
            alike.setdefault(kernel.does, []).append(name)
    tasks = []
    for names in alike.values():
        kernel = fused.kernels[names[0]]
        workload, uses, made = kernel.workload, len(names), partial(_built, kernel)
        committed = database.commit_workload(workload)
        tasks.append(Task(names[0], workload, uses, kernel.plans, committed, kernel.sizes, made))
    return tasks


def chosen_tasks(tasks: Sequence[Task], which: str) -> list[Task]:
    """Those of the tasks that ``which`` names by their positions, such as "0,2-4", or "all". Raises UserError for others."""
    if which == "all":
        return list(tasks)
    chosen: set[int] = set()
    for part in which.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise UserError(f'--tasks {which!r} must be all, list, or positions such as "0,2-4"')
        chosen.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    beyond = sorted(chosen - set(range(len(tasks))))
    if beyond or not chosen:
        raise UserError(f"--tasks {which!r}: there are tasks 0 to {len(tasks) - 1}; --tasks list names them")
    return [tasks[index] for index in sorted(chosen)]


def tune(
    tasks: Sequence[Task],
    records: Records,
    target: tvm.target.Target,
    trials: int,
    measure: Measure,
    tell: Tell,
    early_stopping: int | None = None,
) -> Progress:
    """Measures until ``records`` hold ``trials`` measurements of the tasks, or no plan is left to measure.

    ``early_stopping``: or so many measurements, looked at after each batch, made the network no faster; None: never.
    Each measurement is written to the records before the next begins; ``tell`` gets the progress after each. Raises UserError
    if there is nothing to tune.
    """
    if not tasks:
        raise UserError(
            "nothing to tune: this network has no convolution or matrix product of more than one plan on the CPU"
        )
    rng = random.Random(0)
    state = progress_of(tasks, trials)
    tell(state)
    fastest, since = math.inf, state.done
    while state.done < trials and (next_task := _next_task(tasks)) is not None:
        batch = _batch(tasks, next_task, min(BATCH, trials - state.done), rng)
        _measure_batch(next_task, batch, records, target, measure, lambda: tell(progress_of(tasks, trials)))
        state = progress_of(tasks, trials)
        if not all(task.measured for task in tasks) or state.seconds < fastest:
            fastest, since = state.seconds, state.done
        elif early_stopping is not None and state.done - since >= early_stopping:
            break
    return state


def confirm(
    tasks: Sequence[Task], records: Records, target: tvm.target.Target, measure: Measure, tell: Callable[[int], None]
) -> None:
    """Measures the fastest plans and the default plans again, in turns, so that a disturbance of the machine affects them alike.

    ``tell`` gets the number of finished tasks.
    """
    for count, task in enumerate(tasks):
        own, best = task.plans[0], task.best
        for _ in range(_CONFIRMATIONS if best is not None else 0):
            fastest = sorted(task.known().seconds.items(), key=lambda pair: pair[1])[:_FASTEST]
            turn = [own, *(plan for plan, _ in fastest if plan != own)]
            _measure_batch(task, turn, records, target, measure, lambda: None)
        tell(count + 1)


def _measure_batch(
    task: Task,
    batch: Sequence[Plan],
    records: Records,
    target: tvm.target.Target,
    measure: Measure,
    tell: Callable[[], None],
) -> None:
    database, arguments = records.database, _arguments(task)
    assert database is not None
    candidates = [task.made(plan) for plan in batch]

    def found(position: int, result: float | str) -> None:
        seconds = result if isinstance(result, float) else FAILED_SECONDS
        task.add(str(batch[position]), seconds)
        trace = candidates[position].trace
        database.commit_tuning_record(ms.database.TuningRecord(trace, task.workload, [seconds], target, arguments))
        tell()

    measure(candidates, found)


def progress_of(tasks: Sequence[Task], trials: int) -> Progress:
    """The progress of the tasks, and what their functions take."""
    own = sum(task.measured.get(str(task.plans[0]), task.seconds / task.uses) * task.uses for task in tasks)
    return Progress(sum(len(task.measured) for task in tasks), trials, sum(task.seconds for task in tasks), own)


def _next_task(tasks: Sequence[Task]) -> Task | None:
    """The task to measure next: one without measurements, else the one with the most seconds per measurement made."""
    waiting = [task for task in tasks if task.open()]
    return min(
        waiting, key=lambda task: (len(task.measured) > 0, -task.seconds / max(len(task.measured), 1)), default=None
    )


def _batch(tasks: Sequence[Task], task: Task, size: int, rng: random.Random) -> list[Plan]:
    """The plans of a task to measure next, ``size`` at most.

    The default plan comes first, then random ones. Once there are measurements enough, the cost model chooses most of a batch.
    """
    waiting = task.open()
    if len(waiting) <= size:
        return waiting
    known = [each.known() for each in tasks]
    if not task.measured or sum(len(each.seconds) for each in known) < _TOO_FEW:
        return [*waiting[: not task.measured], *rng.sample(waiting[not task.measured :], size - (not task.measured))]
    at_random = round(size * _AT_RANDOM)
    order = ranked(known, task.extents, waiting)
    return order[: size - at_random] + rng.sample(order[size - at_random :], at_random)


def _scheduled(mod: tvm.IRModule, host: Host, plan: SchedulePlan) -> Candidate:
    schedule = s_tir.Schedule(mod)
    return Candidate(tvm.IRModule({"main": apply_plan(schedule, host, plan)}), schedule.trace)


def _built(kernel: PlannedKernel, plan: Plan) -> Candidate:
    return Candidate(kernel.candidate(plan), kernel.trace(plan))


def _arguments(task: Task) -> list[ms.arg_info.ArgInfo]:
    return ms.arg_info.ArgInfo.from_entry_func(task.mod, remove_preproc=True)
