"""What every stage reads of a network: the float model in canonical form, with names and statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import tvm


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: static shape, NumPy name of the element type.

    Only an output of a model for the CPU alone (`import_by_tvm`) may have sizes of -1: known when it runs.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SourceOperator:
    """An operator as the source of a model has it; every call that it became carries its name.

    `op_type` is ONNX's name for it, or Relax's own where ONNX has no such operator. `inputs` and `outputs` are names of
    tensors: an input is an input of the model or an output of an operator before; constants are left out. `limits`: what a
    Clip keeps its values within.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    limits: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class Model:
    """A float model in canonical form, compared and hashed by identity.

    `mod`: function `main` of one dataflow block; parameters are the inputs in the order of `inputs`, weights are constants;
    it returns the tensor of `outputs`, or a tuple where there are several. `operators`: those that its calls came from, in
    order, each with a name of its own; empty for a model for the CPU alone.
    """

    mod: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: tuple[SourceOperator, ...]
    # Mean and standard deviation of every channel in training, by the node whose output a BatchNormalization made.
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    # The same in ONNX, for writing QDQ models and nothing else: static shapes, constants and BatchNormalization folded, shape
    # information for every tensor. None for a model that came as Relax.
    onnx_model: onnx.ModelProto | None = None
    # Inputs that were fixed to a value and are none any more, by name.
    fixed: Mapping[str, np.ndarray] = field(default_factory=dict)
    # What to tell the user about the import, one line each.
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        ends = (
            ", ".join(f"{spec.name} {list(spec.shape)}" for spec in specs)[:60] for specs in (self.inputs, self.outputs)
        )
        return f"<{type(self).__name__}: {' -> '.join(ends)}>"
