"""What the CPU alone would run of a model, before it is compiled: what `tvmc tune` tunes."""

from __future__ import annotations

from typing import Any

from .options import CompileOptions
from .pipeline import ModelLike, imported_for_cpu, quantize_imported, quantize_model
from .quant.io_dtype import with_ends
from .stages import Stages


def network_for_cpu(model: ModelLike, options: CompileOptions, stages: Stages) -> Any:
    """The Relax module: in floats, or in integers where `pipeline.compile_model` would take those."""
    if options.quantizes:
        return with_ends(quantize_model(model, options, stages), options.io_dtype)[0]
    imported, _ = imported_for_cpu(model, options, stages)
    if imported.given is not None and imported.given.activations:
        return with_ends(quantize_imported(imported, options, stages), options.io_dtype)[0]
    return imported.mod
