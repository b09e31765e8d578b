"""A network on integers: what the quantizer makes, and what code generation and the QDQ writer take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm

from ..model import Model
from ..options import BitWidths
from .chosen import Chosen, Drop


@dataclass(frozen=True)
class UnlikePart:
    """A tensor that shares the scale of one much wider, inside the network.

    ``join``: the node that brings them together; ``part``: the node or input that gives the tensor; ``share``: its range over the
    joined one; ``sqnr_db``: of its values on the joined scale of ``bits`` bits, None without the user's samples; ``cure``: the
    lines of a plan.json that give the join 16 bits; ``taken``: they were taken, because no width was asked for.
    """

    join: str
    part: str
    share: float
    bits: int
    sqnr_db: float | None
    cure: Mapping[str, BitWidths]
    taken: bool = False


@dataclass(frozen=True)
class TablePart:
    """The part of a steep function that one scale of its operand holds: min(max(f(max(x, bottom)), lo), hi) - value.

    ``bottom``: where the next finer scale ends, None for the finest one, whose part is all that lies below; ``value``: the
    function there. All are exactly float32.
    """

    bottom: float | None
    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class InputSeen:
    """What calibration saw of one input: its range, mean and standard deviation, and those of each channel.

    `channels` has (lo, hi, mean, deviation) of each; it is empty for an input without channels, or with more than 16.
    """

    name: str
    samples: int
    lo: float
    hi: float
    mean: float
    deviation: float
    channels: tuple[tuple[float, float, float, float], ...] = ()

    def __repr__(self) -> str:
        return f"<InputSeen '{self.name[:60]}': {self.samples} samples, {self.lo:g}..{self.hi:g}, {len(self.channels)} channels>"


@dataclass(frozen=True)
class HeldTensor:
    """A tensor of the float model whose integers a call of the quantized one makes.

    ``tensor``: the node, or the input, whose value it is in the float model. Of one batch, reshaped to ``view`` and transposed by
    ``axes``, the float tensor has its values in the order of the integers.
    """

    tensor: str
    view: tuple[int, ...]
    axes: tuple[int, ...]

    def arranged(self, value: np.ndarray, nhwc: tuple[int, ...]) -> np.ndarray:
        """The float tensor of one run or several, one after the other, as its integers lie; ``nhwc``: their shape in one run."""
        runs = value.size // math.prod(nhwc)
        turned = value.reshape(runs, *self.view).transpose(0, *(axis + 1 for axis in self.axes))
        return turned.reshape(runs * nhwc[0], *nhwc[1:])


@dataclass(frozen=True, eq=False)
class RealLayer:
    """What a layer with weights was before it was rounded.

    ``weight``: real values OHWI; ``output``: of the float model, with the layer's bias; ``nhwc``: shape of the layer's integers.
    """

    weight: np.ndarray
    output: HeldTensor
    nhwc: tuple[int, ...]

    def outputs(self, value: np.ndarray) -> np.ndarray:
        """The float output of one run or several, one after the other along axis 0, as NHWC."""
        return self.output.arranged(value, self.nhwc)

    def __repr__(self) -> str:
        return f"<RealLayer of '{self.output.tensor}': weights {list(self.weight.shape)}>"


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A model on integers.

    `mod`: `main` takes and returns the float tensors of `model`; between them the quantized dialect, and float
    operators where there is no integer form. `plan`: the bits of each layer with weights, by node. `fused`: Relu and
    Clip nodes that became the clamp of the node that is the key, behind the Add in `added`, which became its bias;
    `inner`: nodes before it that its table stands for. `levels`: the parts of a steep function, the key, that
    reads its operand at several scales, the coarsest first. `orders`: by product with a plane of pixels, and by PRelu, which row of
    its matrix, or which slope, each value of its kernel is (int64, in the kernel's order).
    `held`: by the name of a call, the float tensor that its integers stand for.
    `apart`: ranges of joined tensors that float readers get from their parts in float, whether or not others read their integers;
    `undone`: moves that read the parts of a join and not its integers; `unlike`: what a shared scale costs most of its values.
    `unquantized`: (node, operator, reason) of what stays in float. `notes`: what a user may want to know, one line each,
    beginning with the node. `sample`: one batch of what the ranges come from, by input name. `ranges`: how they were found, as the
    report says it. `seen`: of each real input, where the ranges come from a user's data; `preprocess`: how those became
    arrays, None where they were arrays. `spans`: least and greatest input and output, real values, that a table of 16 bits is
    made for, by node. `real`: what layers were before, by node, but for those whose weights came as integers. `drop`: what it is
    estimated to lose, where it was judged; `chosen`: how its bits were searched for.
    """

    mod: tvm.IRModule
    model: Model
    plan: Mapping[str, BitWidths]
    notes: tuple[str, ...]
    unquantized: tuple[tuple[str, str, str], ...]
    fused: Mapping[str, tuple[str, ...]]
    added: Mapping[str, str]
    inner: Mapping[str, tuple[str, ...]]
    held: Mapping[str, HeldTensor] = field(default_factory=dict)
    apart: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    undone: frozenset[str] = frozenset()
    unlike: tuple[UnlikePart, ...] = ()
    levels: Mapping[str, tuple[TablePart, ...]] = field(default_factory=dict)
    orders: Mapping[str, np.ndarray] = field(default_factory=dict)
    sample: Mapping[str, np.ndarray] = field(default_factory=dict)
    spans: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)
    ranges: Mapping[str, Any] = field(default_factory=dict)
    real: Mapping[str, RealLayer] = field(default_factory=dict)
    seen: tuple[InputSeen, ...] = ()
    preprocess: str | None = None
    drop: Drop | None = None
    chosen: Chosen | None = None

    def __repr__(self) -> str:
        return f"<QuantizedModel: {len(self.plan)} layers with weights, {len(self.unquantized)} nodes in float>"


def plan_entries(quantized: QuantizedModel) -> dict[str, dict[str, Any]]:
    """The plan of a network as plan.json has it; of bits that were searched for also ``why``."""
    chosen = quantized.chosen
    plan: Mapping[str, BitWidths] = quantized.plan if chosen is None else chosen.plan
    entries: dict[str, dict[str, Any]] = {
        name: {"weight_bits": each.weight_bits, "activation_bits": each.activation_bits} for name, each in plan.items()
    }
    for decision in chosen.decisions if chosen is not None else ():
        for name in (decision.name, *decision.tensors)[: None if decision.what == "activations" else 1]:
            if name in entries:
                said = f"{decision.what} {decision.why}"
                entries[name]["why"] = f"{entries[name]['why']}; {said}" if "why" in entries[name] else said
    return entries
