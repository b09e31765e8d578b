"""Rounding in closed form: integers and scales of each layer's weights for the least error of its outputs.

Layers go in order, each on what the rounded integer layers before it deliver, towards what the float model gives on the same
samples: a ridge regression of that on the integers is the target, and the rounding to the lattice of integers follows from
their Gram matrix (the family of GPTAQ, arXiv 2504.02692, and Qronos, arXiv 2505.11695). No gradients are needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ...dialect import operators
from ...dialect.quantized import QuantizedModel, RealLayer
from ...emulate.executor import execute
from ...emulate.integers import run_quantized
from ...relax_tools import bindings
from ..calibrate.calibration import Calibration
from ..calibrate.runs import first_runs, runs_of
from .constants import LayerConstants, fits_machine, with_constants
from .lattice import errors, nearest, round_weights
from .priced import priced_weights
from .regression import Moments, regression
from .rows import Rows

FEW_BITS = 4  # whose error rates are shares of
MOST_RUNS = 256  # of the model's own batch: as many places of more samples take no longer, and say more of others
MOST_WEIGHTS = 4096  # per channel: beyond, the Gram matrix takes longer than it is worth
FEW_WEIGHTS = 200  # per channel: first and depthwise layers and the like, of which 8 bits leave the largest errors, in little time
ROWS = {4: 4096, 8: 1024}  # places of a layer, in all samples together, by the bits of its weights
# By the bits of weights, the most per channel of what is rounded; rounding to 16 bits loses nothing.
ALL: Mapping[int, int] = MappingProxyType({4: MOST_WEIGHTS, 8: MOST_WEIGHTS})
QUICK: Mapping[int, int] = MappingProxyType({4: MOST_WEIGHTS, 8: FEW_WEIGHTS})
WIDE: Mapping[int, int] = MappingProxyType({8: MOST_WEIGHTS})
FREE: Mapping[str, float] = MappingProxyType({})  # rates where bits cost nothing


def round_to_outputs(
    q: QuantizedModel, calibration: Calibration, rates: Mapping[str, float] = FREE, most: Mapping[int, int] = ALL
) -> QuantizedModel:
    """The model with other integer weights, scales and biases in its layers whose weights have one of the widths in ``most``, and
    no more weights per channel than that says.

    ``rates``: by layer, what a bit of its stream is worth, as a share of the error that its weights make when they are rounded to
    nearest in FEW_BITS. Layers that are not named round for the least error alone.
    """
    layers = _layers(q, most)
    if not layers:
        return q
    runs = min(MOST_RUNS, runs_of(q.model, calibration.samples))
    samples = first_runs(q.model, calibration.samples, runs)
    rows = {
        name: Rows(real, runs, ROWS[q.plan[name].weight_bits], seed) for seed, (name, real) in enumerate(layers.items())
    }
    of_node: dict[str, list[str]] = {}
    for name, real in layers.items():
        of_node.setdefault(real.output.tensor, []).append(name)

    def observe(node: str, value: np.ndarray) -> None:
        for name in of_node.get(node, ()):
            rows[name].add(layers[name].outputs(value))

    execute(q.model, samples, observe)
    made: dict[str, LayerConstants] = {}

    def reweigh(
        attrs: operators.ConvAttrs, given: Sequence[np.ndarray], weight: np.ndarray, bias: np.ndarray, scale: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if attrs.name not in layers or not rows[attrs.name].full:
            return weight, bias, scale
        before = LayerConstants(weight, bias, scale)
        after = _rounded(attrs, layers[attrs.name], rows.pop(attrs.name), given, before, rates.get(attrs.name, 0.0))
        made[attrs.name] = after
        return after.weight, after.bias, after.scale

    params = q.mod["main"].params
    inputs = {param.name: samples[spec.name] for param, spec in zip(params, q.model.inputs, strict=True)}
    run_quantized(q.mod, inputs, reweigh=reweigh)
    return dataclasses.replace(q, mod=with_constants(q.mod, made))


def _layers(q: QuantizedModel, most: Mapping[int, int]) -> dict[str, RealLayer]:
    """The layers that are rounded anew, by name. Parts of a node that is computed at several scales have no float output."""
    calls = [b.value for b in bindings(q.mod["main"]) if operators.is_quantized(b.value)]
    convs = {attrs.name: attrs for attrs in map(operators.read, calls) if isinstance(attrs, operators.ConvAttrs)}
    return {
        name: real
        for name, real in q.real.items()
        if name in q.plan and name in convs and real.weight[0].size <= most.get(convs[name].weight_bits, 0)
    }


def _rounded(
    attrs: operators.ConvAttrs,
    real: RealLayer,
    rows: Rows,
    given: Sequence[np.ndarray],
    before: LayerConstants,
    rate: float,
) -> LayerConstants:
    """Better constants of a layer. A channel keeps its own where it has no weights, or the machine could not hold the others."""
    groups, limit = attrs.groups, (1 << (attrs.weight_bits - 1)) - 1
    step = float(attrs.source.scale)
    moments = Moments.of(rows.patches(attrs, real.weight.shape[1:3], given), rows.outputs(groups), rows.each)
    weight = real.weight.astype(np.float64).reshape(groups, len(real.weight) // groups, -1) * step
    target, gram = regression(weight, moments)
    largest = np.abs(target).max(axis=2)
    start = np.where(largest > 0, largest, 1.0) / limit
    if rate > 0 and groups == 1:
        few = (1 << (FEW_BITS - 1)) - 1
        scale = np.maximum(np.abs(weight).max(axis=2) / few, np.finfo(np.float64).tiny)
        worth = rate * float(errors(weight, nearest(weight, scale, few), scale, gram).sum())
        q, scale = priced_weights(target, gram, start, limit, worth)
    else:
        q, scale = round_weights(target, gram, start, limit)
    bias = moments.output_means - scale * np.einsum("gmk,gk->gm", q, moments.input_means)
    unit = (scale / step).reshape(-1).astype(np.float32)
    constant = np.rint(bias.reshape(-1) / (np.float32(step) * unit).astype(np.float64))
    after = LayerConstants(q.reshape(before.weight.shape), constant, unit)
    dead = ~before.weight.reshape(len(before.weight), -1).any(axis=1)
    return before.where(dead | ~fits_machine(attrs, after), after)
