"""What every stage reads of a network: the float model in canonical form, with names and statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # where a module only runs, neither is needed
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
class GivenWeights:
    """The scales that integer weights came with, and their bits.

    ``scale`` float32, one for each output channel of the layer, or one for all of them. ``refused``: why the machine cannot take
    the weights as they came (scales of blocks, say); empty where it can.
    """

    scale: np.ndarray
    bits: int
    refused: str = ""


@dataclass(frozen=True)
class Saturation:
    """Where the integers of a tensor end, real values; ``relu``: whether the lower end is a Relu that was left to them."""

    lo: float
    hi: float
    relu: bool


@dataclass(frozen=True, eq=False)
class Given:
    """What a model that came quantized says beside its real numbers; all by the name of the node that reads it.

    Its weights and biases are real constants of the model as any others are; divided by these scales they are integers.
    ``biases``: real values of integer biases in float64, which float32 would round. ``constants``: the scale of a constant operand
    of an element-wise node. ``activations``: its tensors came with scales too, and what has none stays in float; else they are
    calibrated. ``ends``: inputs and outputs of the model that are integers themselves, with their NumPy type.
    ``spans``: the least and greatest input and output that a 16-bit table was made for, where our own file says so.
    ``saturates``: of a model that is taken as float again, by node, where the integers ended that its result came as.
    """

    weights: Mapping[str, GivenWeights]
    biases: Mapping[str, np.ndarray]
    constants: Mapping[str, float]
    activations: bool
    ends: Mapping[str, str] = field(default_factory=dict)
    spans: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)
    saturates: Mapping[str, Saturation] = field(default_factory=dict)


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
    # What each channel (axis 1) of a tensor of the source is divided by in this network: by node, where channels were equalised.
    factors: Mapping[str, np.ndarray] = field(default_factory=dict)
    # What came quantized; None for a float model.
    given: Given | None = None

    def __repr__(self) -> str:
        ends = (
            ", ".join(f"{spec.name} {list(spec.shape)}" for spec in specs)[:60] for specs in (self.inputs, self.outputs)
        )
        return f"<{type(self).__name__}: {' -> '.join(ends)}>"
