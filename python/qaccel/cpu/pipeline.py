"""The CPU's part of a module: from Relax to scheduled TIR and calls that the virtual machine runs."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as cpu_generic

from .functions import legalizations
from .lower import LowerKernels
from .nhwc import ToNHWC
from .rules import ScheduleByRule


def fused(target: tvm.target.Target) -> tvm.transform.Pass:
    """Float operators in one layout, as calls of fused functions that no rule has scheduled yet."""
    return tvm.transform.Sequential(
        [
            ToNHWC(),
            relax.transform.DeadCodeElimination(),
            LowerKernels(target),
            *cpu_generic.library_dispatch_passes(target),
            relax.transform.LegalizeOps(legalizations()),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
    )


def cpu_pipeline(target: tvm.target.Target) -> tvm.transform.Pass:
    """Everything between the partitioned module and the virtual machine's code generator."""
    return tvm.transform.Sequential(
        [
            fused(target),
            ScheduleByRule(target),
            *cpu_generic.dataflow_lower_passes(target),
            *cpu_generic.finalize_passes(target),
        ]
    )
