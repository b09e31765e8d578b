"""Tuning: the plans that the rules leave open, measured in the order in which a cost model expects them to be fast."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms

from ...errors import UserError
from ..database import FAILED_SECONDS, Records, plan_of, workload_of
from ..floating.rules import Plan, apply_rule, is_scheduled, loop_extents, plans
from ..fused import Fused
from ..host import Host, host_of
from .cost_model import Measured, ranked

BATCH = 8
_AT_RANDOM = 0.2  # of a batch: what the cost model has not seen yet is worth a look
_WORTH = 0.97
_CONFIRMATIONS, _FASTEST = 4, 3  # turns, and how many plans beside the rule's own take part
_TOO_FEW = 16  # measurements of all tasks before the cost model is asked


class Measure(Protocol):
    """Seconds of each candidate, or why it could not be measured; in the order of the candidates."""

    def __call__(self, candidates: Sequence[s_tir.Schedule], found: Callable[[int, float | str], None]) -> None:
        """Calls ``found`` with a candidate's position as soon as it was measured."""


@dataclass(eq=False)
class Task:
    """A function of the network, ``uses`` times in it. ``measured``: seconds by plan, of earlier runs as well."""

    name: str
    mod: tvm.IRModule
    uses: int
    plans: list[Plan]
    workload: ms.database.Workload
    extents: list[int]  # of the main block's loops
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The best so far, of all its uses together."""
        return min(self.measured.values(), default=0.0) * self.uses

    @property
    def best(self) -> str | None:
        """The fastest plan, if it is worth a record: faster than the rule's own by more than measurements differ."""
        plan = min(self.measured, key=self.measured.__getitem__, default=None)
        own = self.measured.get(str(self.plans[0]), FAILED_SECONDS)
        return plan if plan is not None and self.measured[plan] < _WORTH * own else None

    def add(self, plan: str, seconds: float) -> None:
        """Of several measurements of a plan the least counts."""
        self.measured[plan] = min(self.measured.get(plan, seconds), seconds)

    def known(self) -> Measured:
        """What the cost model learns from."""
        seconds = {plan: self.measured[str(plan)] for plan in self.plans if str(plan) in self.measured}
        return Measured(self.extents, {plan: value for plan, value in seconds.items() if value < FAILED_SECONDS})

    def open(self) -> list[Plan]:
        """Plans without a measurement, the rule's own choice first."""
        return [plan for plan in self.plans if str(plan) not in self.measured]


Tell = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """``done`` of ``trials`` are measured; ``seconds``: the tuned functions' best so far, ``untuned`` the rules' own choices."""

    done: int
    trials: int
    seconds: float
    untuned: float


def tasks_of(fused: Fused, target: tvm.target.Target, records: Records) -> list[Task]:
    """The functions of a network that leave a choice, with what ``records`` know of them."""
    assert records.database is not None
    host = host_of(target)
    tasks = []
    for var, function in fused.mod.functions_items():
        if not isinstance(function, tirx.PrimFunc) or is_scheduled(function):
            continue
        choice = plans(function, host)
        if len(choice) > 1:
            workload, uses = workload_of(function), max(len(fused.layers.get(var.name_hint, ())), 1)
            committed = records.database.commit_workload(workload)
            tasks.append(Task(var.name_hint, workload, uses, choice, committed, loop_extents(function)))
    for record in records.database.get_all_tuning_records():
        plan = plan_of(record.trace)
        for task in tasks:
            if plan and record.run_secs and task.workload.same_as(record.workload):
                task.add(plan, float(record.run_secs[0]))
    return tasks


def tune(
    tasks: Sequence[Task], records: Records, target: tvm.target.Target, trials: int, measure: Measure, tell: Tell
) -> Progress:  # fmt: skip
    """Measures until ``records`` hold ``trials`` measurements of the tasks, or nothing is left to measure.

    Every measurement is in the records before the next begins. Raises UserError if there is nothing to tune.
    """
    if not tasks:
        raise UserError(
            "nothing to tune: no convolution or product of this network is computed by a rule with a choice"
        )
    rng = random.Random(0)
    state = progress_of(tasks, trials)
    tell(state)
    while state.done < trials and (next_task := _next_task(tasks)) is not None:
        batch = _batch(tasks, next_task, min(BATCH, trials - state.done), rng)
        _measure_batch(next_task, batch, records, target, measure, lambda: tell(progress_of(tasks, trials)))
        state = progress_of(tasks, trials)
    return state


def confirm(
    tasks: Sequence[Task], records: Records, target: tvm.target.Target, measure: Measure, tell: Callable[[int], None]
) -> None:
    """Measures the best plans and the rules' own again, in turns: what others do on the machine must not decide between them.

    ``tell`` gets the number of tasks that are done.
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
    database, host, arguments = records.database, host_of(target), _arguments(task)
    assert database is not None
    schedules = [_scheduled(task, plan, host) for plan in batch]

    def found(position: int, result: float | str) -> None:
        seconds = result if isinstance(result, float) else FAILED_SECONDS
        task.add(str(batch[position]), seconds)
        trace = schedules[position].trace
        database.commit_tuning_record(ms.database.TuningRecord(trace, task.workload, [seconds], target, arguments))
        tell()

    measure(schedules, found)


def progress_of(tasks: Sequence[Task], trials: int) -> Progress:
    """How far the tasks are."""
    own = sum(task.measured.get(str(task.plans[0]), task.seconds / task.uses) * task.uses for task in tasks)
    return Progress(sum(len(task.measured) for task in tasks), trials, sum(task.seconds for task in tasks), own)


def _next_task(tasks: Sequence[Task]) -> Task | None:
    """First every task once, then the one with the most seconds for each measurement that it has had."""
    waiting = [task for task in tasks if task.open()]
    return min(
        waiting, key=lambda task: (len(task.measured) > 0, -task.seconds / max(len(task.measured), 1)), default=None
    )


def _batch(tasks: Sequence[Task], task: Task, size: int, rng: random.Random) -> list[Plan]:
    """The rule's own plan first of all; then what is expected to be fast, and some at random."""
    waiting = task.open()
    if len(waiting) <= size:
        return waiting
    known = [each.known() for each in tasks]
    if not task.measured or sum(len(each.seconds) for each in known) < _TOO_FEW:
        return [*waiting[: not task.measured], *rng.sample(waiting[not task.measured :], size - (not task.measured))]
    at_random = round(size * _AT_RANDOM)
    order = ranked(known, task.extents, waiting)
    return order[: size - at_random] + rng.sample(order[size - at_random :], at_random)


def _scheduled(task: Task, plan: Plan, host: Host) -> s_tir.Schedule:
    schedule = s_tir.Schedule(task.mod)
    apply_rule(schedule, host, plan)
    return schedule


def _arguments(task: Task) -> list[ms.arg_info.ArgInfo]:
    return ms.arg_info.ArgInfo.from_entry_func(task.mod, remove_preproc=True)
