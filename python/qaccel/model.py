"""What every stage reads of a network: the float model in canonical form, with names and statistics."""

from __future__ import annotations

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


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A float model in canonical form, compared and hashed by identity.

    `onnx_model`: static shapes, constants and BatchNormalization folded, a unique name for every node, shape
    information for every tensor. `mod`: function `main` of one dataflow block; parameters are the inputs in the order
    of `inputs`, weights are constants; it returns the tensor of `outputs`, or a tuple where there are several.
    """

    onnx_model: onnx.ModelProto
    mod: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Mean and standard deviation of every channel in training, by the node whose output a BatchNormalization made.
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __repr__(self) -> str:
        ends = (
            ", ".join(f"{spec.name} {list(spec.shape)}" for spec in specs)[:60] for specs in (self.inputs, self.outputs)
        )
        return f"<{type(self).__name__}: {' -> '.join(ends)}>"
