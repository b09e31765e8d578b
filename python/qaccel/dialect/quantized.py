"""A network on integers: what the quantizer makes, and what code generation and the QDQ writer take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm

from ..model import Model
from ..options import BitWidths


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A model on integers.

    `mod`: `main` takes and returns the float tensors of `model`; between them the quantized dialect, and float
    operators where there is no integer form. `plan`: the bits of each layer with weights, by node. `fused`: Relu and
    Clip nodes that became the clamp of the node that is the key, behind the Add in `added`, which became its bias;
    `inner`: nodes before it that its table stands for. `levels`: the nodes between products and a steep function, the key, that
    are computed at several scales.
    `unquantized`: (node, operator, reason) of what stays in float. `notes`: what a user may want to know, one line each,
    beginning with the node. `sample`: one batch of what the ranges come from, by input name. `calibration`: how
    the ranges were found, as the report says it.
    """

    mod: tvm.IRModule
    model: Model
    plan: Mapping[str, BitWidths]
    notes: tuple[str, ...]
    unquantized: tuple[tuple[str, str, str], ...]
    fused: Mapping[str, tuple[str, ...]]
    added: Mapping[str, str]
    inner: Mapping[str, tuple[str, ...]]
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sample: Mapping[str, np.ndarray] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<QuantizedModel: {len(self.plan)} layers with weights, {len(self.unquantized)} nodes in float>"
