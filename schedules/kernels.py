"""Kernels of integers that have several plans: what the database keeps them by, which plans there are, what each becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from .database import PLAN, Records, key_of

# A function, and the constants that it takes after its activations.
IntegerKernel = tuple[tirx.PrimFunc, list[np.ndarray]]
_KERNEL = "qaccel_kernel"  # the attribute that says what a workload computes


@dataclass(frozen=True, eq=False)
class PlannedKernel:
    """An integer kernel before it is planned.

    ``does``: what it computes and in which widths, without the values of weights, scales and zero points: kernels of one text are
    as fast with one plan. ``plans``: all of them, the rule's first; all give the same integers. ``sizes``: of its loops.
    """

    does: str
    plans: Sequence[Any]
    sizes: Sequence[int]
    build: Callable[[Any], IntegerKernel]

    @cached_property
    def workload(self) -> tvm.IRModule:
        """What the database keeps the kernel by: a function that does nothing and says ``does``."""
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                T.func_name("main")
                T.func_attr({_KERNEL: self.does})
                with T.sblock("root"):
                    T.reads()
                    T.writes()
                    T.evaluate(0)
            return tvm.IRModule({"main": builder.get()})

    def chosen(self, records: Sequence[Records]) -> tuple[Any, bool]:
        """The plan of the first of ``records`` that knows the kernel, else the rule's; and whether records gave it."""
        key = key_of(self.workload) if any(each.best for each in records) else ""
        wanted = [each.best[key] for each in records if key in each.best]
        tuned = next((plan for text in wanted for plan in self.plans if str(plan) == text), None)
        return (self.plans[0], False) if tuned is None else (tuned, True)

    def trace(self, plan: Any) -> s_tir.schedule.Trace:
        """How the database writes down that the kernel is made by ``plan``."""
        schedule = s_tir.Schedule(self.workload)
        schedule.annotate(schedule.get_sblock("root"), PLAN, str(plan))
        return schedule.trace

    def candidate(self, plan: Any) -> tvm.IRModule:
        """The kernel made by ``plan``, alone in a module."""
        function, _ = self.build(plan)
        return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
