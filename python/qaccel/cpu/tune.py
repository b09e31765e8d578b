"""Tuning: the plans that the rules leave open, measured in the order in which a cost model expects them to be fast."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms

from ..errors import QaccelError
from .host import Host, host_of
from .pipeline import Fused
from .records import FAILED_SECONDS, Records, plan_of, workload_of
from .rules import Plan, apply_rule, is_scheduled, plans

BATCH = 8
_AT_RANDOM = 0.2  # of a batch: what the cost model has not seen yet is worth a look
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
    context: ms.TuneContext
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The best so far, of all its uses together."""
        return min(self.measured.values(), default=0.0) * self.uses

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
            context = ms.TuneContext(workload, target=target, task_name=var.name_hint, num_threads=1)
            committed = records.database.commit_workload(workload)
            tasks.append(Task(var.name_hint, workload, uses, choice, committed, context))
    for record in records.database.get_all_tuning_records():
        plan = plan_of(record.trace)
        for task in tasks:
            if plan and record.run_secs and task.workload.same_as(record.workload):
                task.measured[plan] = float(record.run_secs[0])
    return tasks


def tune(
    tasks: Sequence[Task], records: Records, target: tvm.target.Target, trials: int, measure: Measure, tell: Tell
) -> Progress:  # fmt: skip
    """Measures until ``records`` hold ``trials`` measurements of the tasks, or nothing is left to measure.

    Every measurement is in the records before the next begins. Raises QaccelError if there is nothing to tune.
    """
    if not tasks:
        raise QaccelError(
            "nothing to tune: no convolution or product of this network is computed by a rule with a choice"
        )
    model = ms.cost_model.XGBModel(num_warmup_samples=_TOO_FEW, num_tuning_cores=1, tree_method="hist")
    host, rng = host_of(target), random.Random(0)
    for task in tasks:
        known = [plan for plan in task.plans if task.measured.get(str(plan), FAILED_SECONDS) < FAILED_SECONDS]
        _learn(model, task, [_scheduled(task, plan, host) for plan in known], [task.measured[str(p)] for p in known])
    state = _progress(tasks, trials)
    tell(state)
    while state.done < trials and (next_task := _next_task(tasks)) is not None:
        batch = _batch(next_task, model, host, min(BATCH, trials - state.done), rng)
        _measure_batch(next_task, batch, records, target, measure, model, lambda: tell(_progress(tasks, trials)))
        state = _progress(tasks, trials)
    return state


def _measure_batch(
    task: Task,
    batch: Sequence[Plan],
    records: Records,
    target: tvm.target.Target,
    measure: Measure,
    model: ms.cost_model.XGBModel,
    tell: Callable[[], None],
) -> None:
    database, host, arguments = records.database, host_of(target), _arguments(task)
    assert database is not None
    schedules = [_scheduled(task, plan, host) for plan in batch]

    def found(position: int, result: float | str) -> None:
        seconds = result if isinstance(result, float) else FAILED_SECONDS
        task.measured[str(batch[position])] = seconds
        trace = schedules[position].trace
        database.commit_tuning_record(ms.database.TuningRecord(trace, task.workload, [seconds], target, arguments))
        tell()

    measure(schedules, found)
    good = [k for k, plan in enumerate(batch) if task.measured[str(plan)] < FAILED_SECONDS]
    _learn(model, task, [schedules[k] for k in good], [task.measured[str(batch[k])] for k in good])


def _progress(tasks: Sequence[Task], trials: int) -> Progress:
    own = sum(task.measured.get(str(task.plans[0]), task.seconds / task.uses) * task.uses for task in tasks)
    return Progress(sum(len(task.measured) for task in tasks), trials, sum(task.seconds for task in tasks), own)


def _next_task(tasks: Sequence[Task]) -> Task | None:
    """First every task once, then the one with the most seconds for each measurement that it has had."""
    waiting = [task for task in tasks if task.open()]
    return min(
        waiting, key=lambda task: (len(task.measured) > 0, -task.seconds / max(len(task.measured), 1)), default=None
    )


def _batch(task: Task, model: ms.cost_model.XGBModel, host: Host, size: int, rng: random.Random) -> list[Plan]:
    waiting = task.open()
    if len(waiting) <= size:
        return waiting
    chosen = waiting[:1] if not task.measured else []
    rest = [plan for plan in waiting if plan not in chosen]
    rng.shuffle(rest)
    rest = rest[:64]
    if task.measured:
        candidates = [ms.MeasureCandidate(_scheduled(task, plan, host), _arguments(task)) for plan in rest]
        scores = model.predict(task.context, candidates)
        rest = [plan for _, plan in sorted(zip(scores, rest, strict=True), key=lambda pair: -pair[0])]
    at_random = round(size * _AT_RANDOM)
    chosen += rest[: size - at_random - len(chosen)]
    left = [plan for plan in waiting if plan not in chosen]
    return chosen + rng.sample(left, min(size - len(chosen), len(left)))


def _scheduled(task: Task, plan: Plan, host: Host) -> s_tir.Schedule:
    schedule = s_tir.Schedule(task.mod)
    apply_rule(schedule, host, plan)
    return schedule


def _arguments(task: Task) -> list[ms.arg_info.ArgInfo]:
    return ms.arg_info.ArgInfo.from_entry_func(task.mod, remove_preproc=True)


def _learn(
    model: ms.cost_model.XGBModel, task: Task, schedules: Sequence[s_tir.Schedule], seconds: Sequence[float]
) -> None:
    if schedules:
        candidates = [ms.MeasureCandidate(schedule, _arguments(task)) for schedule in schedules]
        model.update(task.context, candidates, [ms.runner.RunnerResult([value], None) for value in seconds])
