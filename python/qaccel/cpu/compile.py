"""Compiles what the accelerator does not take, from Relax operators to scheduled TIR functions for the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as cpu_generic

from ..schedules.database import Records
from ..schedules.floating.choose import Choice, schedule_all
from ..schedules.fused import Fused
from ..schedules.host import host_of
from .functions import legalizations
from .legalize import LegalizeQuantized
from .nhwc import ToNHWC, offloaded
from .norms import ExpandVariance, JoinNorms
from .pack_weights import PackWeights
from .rows import RowFunctions


def fuse(mod: tvm.IRModule, target: tvm.target.Target) -> Fused:
    """Rewrites the float operators in NHWC and fuses them into PrimFuncs, which are not scheduled yet."""
    nodes = {binding.var.name: node for binding in _bindings(mod) if (node := _node(binding.value))}
    pack_weights = PackWeights(target)
    passes = [
        ExpandVariance(),
        JoinNorms(
            target
        ),  # of planes, whose channels lie apart; what runs over channels has them side by side after ToNHWC
        relax.transform.DeadCodeElimination(),
        ToNHWC(),
        JoinNorms(target),
        relax.transform.DeadCodeElimination(),
        RowFunctions(target),
        pack_weights,
        *cpu_generic.library_dispatch_passes(target),
        relax.transform.LegalizeOps(legalizations()),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    with target:
        mod = tvm.transform.Sequential(passes)(mod)
    layers: dict[str, list[str]] = {}
    for call in (binding.value for binding in _bindings(mod)):
        if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.call_tir":
            weights = [arg for arg in call.args[1].fields if isinstance(arg, tvm.ir.GenericConst)]
            own = [
                nodes.get(name, name) for weight, name in pack_weights.layers if any(weight.same_as(w) for w in weights)
            ]
            layers.setdefault(call.args[0].name_hint, []).extend(own)
    return Fused(mod, {function: tuple(names) for function, names in layers.items()})


def fuse_integers(mod: tvm.IRModule, target: tvm.target.Target) -> Fused:
    """`fuse` for a network on integers, whose kernels are made by the rule's plans: what there is to tune."""
    legalize = LegalizeQuantized()
    with target:
        mod = tvm.transform.Sequential([legalize])(mod)
    return replace(fuse(mod, target), kernels={each.function: each.kernel for each in legalize.planned})


def _bindings(mod: tvm.IRModule) -> list[relax.Binding]:
    """The bindings of all Relax functions that no accelerator takes."""
    functions = [f for f in mod.functions.values() if isinstance(f, relax.Function) and not offloaded(f)]
    return [
        b for f in functions if isinstance(f.body, relax.SeqExpr) for block in f.body.blocks for b in block.bindings
    ]


def _node(value: relax.Expr) -> str:
    span = value.span if isinstance(value, relax.Call) else None
    return str(span.source_name.name) if span is not None else ""


def compile_cpu(
    mod: tvm.IRModule, target: tvm.target.Target, records: Sequence[Records] = ()
) -> tuple[tvm.IRModule, tuple[Choice, ...]]:
    """Compiles a partitioned module for the virtual machine's code generator.

    ``records``: tuned plans; the first record that knows a function decides, and others get the default plan. Returns the
    module and, for each function that was scheduled, how.
    """
    fused = fuse(mod, target)
    mod, chosen = schedule_all(fused.mod, host_of(target), records)
    choices = tuple(replace(choice, layers=fused.layers.get(choice.function, ())) for choice in chosen)
    with target:
        passes = [*cpu_generic.dataflow_lower_passes(target), *cpu_generic.finalize_passes(target)]
        if _has_branches(mod):  # TVM's plan gives a branch memory that only the other one allocates
            passes = [each for each in passes if each.info.name != "StaticPlanBlockMemory"]
        return tvm.transform.Sequential(passes)(mod), choices


def _has_branches(mod: tvm.IRModule) -> bool:
    """Whether a Relax function takes one of two ways at run time."""
    found: list[relax.Expr] = []
    for function in mod.functions.values():
        if isinstance(function, relax.Function) and not offloaded(function):
            relax.analysis.post_order_visit(function, lambda e: found.append(e) if isinstance(e, relax.If) else None)
    return bool(found)
