"""Means of channels of what layers with weights give in the float model, limited as they are: what bias correction aims at."""

from __future__ import annotations

import math

import numpy as np
from tvm import ir, relax

from ...model import Model
from ...relax_tools import bindings, node_name
from .runs import batch_of

_PRODUCT = "relax.matmul"
_CHANNELS = {"relax.nn.conv2d": 1, "relax.nn.conv2d_transpose": 1, _PRODUCT: -1}  # which axis they are
_RELU = "relax.nn.relu"
_LIMITS = (_RELU, "relax.clip")
UNLIMITED = (-math.inf, math.inf)
SAMPLES = 64  # that the means are taken over, at least
PASSES_AT_ONCE = 16  # runs of the model's own batch that calibration makes side by side


def passes_of(model: Model) -> int:
    """How many runs of the model's own batch the means are taken over: whole rounds of PASSES_AT_ONCE that hold SAMPLES."""
    return PASSES_AT_ONCE * -(-SAMPLES // (PASSES_AT_ONCE * batch_of(model)))


def limits_of(model: Model) -> dict[str, tuple[float, float]]:
    """By node that limits what it is given, such as Relu and Clip, what its results lie between; of several after another, all."""
    found: dict[str, tuple[float, float]] = {}
    held: dict[relax.Var, tuple[float, float]] = {}
    for binding in bindings(model.mod["main"]):
        call = binding.value
        if isinstance(call, relax.Call) and isinstance(call.op, ir.Op) and call.op.name in _LIMITS:
            lo, hi = (0.0, math.inf) if call.op.name == _RELU else (float(arg.value) for arg in call.args[1:])
            before = held.get(call.args[0], UNLIMITED)
            held[binding.var] = found[node_name(call)] = min(max(before[0], lo), hi), min(max(before[1], lo), hi)
    return found


class ChannelMeans:
    """Means of every channel that a layer with weights gives in the float model, and of what a Relu or Clip makes of it; it is
    called with what each node gives."""

    def __init__(self, model: Model) -> None:
        self._axes: dict[str, int] = {}
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, int] = {}
        products: set[relax.Var] = set()
        limitable: dict[relax.Var, int] = {}
        for binding in bindings(model.mod["main"]):
            call = binding.value
            op = call.op.name if isinstance(call, relax.Call) and isinstance(call.op, ir.Op) else ""
            if op in _CHANNELS:
                self._axes[node_name(call)] = _CHANNELS[op]
            if op == _PRODUCT:
                products.add(binding.var)
            elif op == "relax.add" and any(arg in products for arg in call.args if isinstance(arg, relax.Var)):
                self._axes.setdefault(node_name(call), _CHANNELS[_PRODUCT])  # what may become its bias
            if op in _LIMITS and call.args[0] in limitable:
                self._axes[node_name(call)] = limitable[call.args[0]]
            if node_name(call) in self._axes if isinstance(call, relax.Call) else False:
                limitable[binding.var] = self._axes[node_name(call)]

    def __call__(self, name: str, value: np.ndarray) -> None:
        if name in self._axes and value.ndim >= 2:
            channels = self._axes[name] % value.ndim
            total = value.sum(axis=tuple(k for k in range(value.ndim) if k != channels), dtype=np.float64)
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0) + value.size // value.shape[channels]

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The means [channels] by node, of all that it was called with."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}
