"""Inputs for calibration where the user has no data: the range is known or guessed, the content is made up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ....model import Model, SourceOperator, TensorSpec
from ..ranges import Ranges

# Made-up inputs excite a network less than real ones; 16-bit activations can spare the two bits that this costs.
HEADROOM = 4.0
MOST = HEADROOM**2  # of a power, or a product of two tensors
# Of what a BatchNormalization gave; the largest values of a layer are as far out where there are many.
DEVIATIONS = 8.0
# Functions whose values lie within these bounds, however large their inputs are.
BOUNDS = {
    "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Erf": (-1.0, 1.0),
    "Softsign": (-1.0, 1.0), "Sin": (-1.0, 1.0), "Cos": (-1.0, 1.0),
}  # fmt: skip


# What reads an integer input as places in another tensor, and what only passes it on.
_INDEXED = {"Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "OneHot"}
_PASSING = {"Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Concat", "Slice"}
WIDE_INTEGERS = -128.0, 255.0  # numbers of 16 bits and more: bytes, most likely


def integer_guesses(model: Model) -> dict[str, tuple[float, float]]:
    """What the integers of inputs are taken for where nobody says it, by input; indices into a table are left out."""
    found = {}
    for spec in model.inputs:
        if spec.dtype in ("int8", "uint8"):
            found[spec.name] = float(np.iinfo(spec.dtype).min), float(np.iinfo(spec.dtype).max)
        elif np.dtype(spec.dtype).kind in "iu" and not _is_index(spec.name, model):
            found[spec.name] = max(WIDE_INTEGERS[0], float(np.iinfo(spec.dtype).min)), WIDE_INTEGERS[1]
    return found


def _is_index(name: str, model: Model) -> bool:
    held = {name}
    for node in model.operators:
        if held & set(node.inputs):
            if node.op_type in _INDEXED:
                return True
            held.update(node.outputs if node.op_type in _PASSING else ())
    return False


def synthetic_inputs(
    specs: Sequence[TensorSpec], input_range: tuple[float, float], samples: int, seed: int = 0,
    guesses: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """``samples`` made-up samples per input within ``input_range``, along axis 0, in the input's element type.

    Flat ones at both ends first, then flat per channel, then patterns from coarse to fine: white noise alone averages
    out in the first convolution. Integer inputs are rounded and kept within their type. ``guesses``: other ranges than
    ``input_range``, by input.
    """
    rng = np.random.default_rng(seed)
    made = {}
    for spec in specs:
        lo, hi = (guesses or {}).get(spec.name, input_range)
        shape = spec.shape[1:]
        values = [_sample(rng, k, shape) for k in range(samples * spec.shape[0] if spec.shape else 1)]
        array: np.ndarray = lo + (hi - lo) * np.stack(values).reshape(-1, *shape)
        dtype = np.dtype(spec.dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            array = np.clip(np.rint(array), limits.min, limits.max)
        elif dtype.kind == "b":
            array = array > (lo + hi) / 2
        made[spec.name] = array.astype(dtype) if spec.shape else array.astype(dtype).reshape(())
    return made


def those_of(
    specs: Sequence[TensorSpec], samples: Mapping[str, np.ndarray], indices: Sequence[int]
) -> dict[str, np.ndarray]:
    """Some of the samples; each is as many rows of axis 0 as the input has. An input without axes is the same in all."""
    chosen = {}
    for spec in specs:
        rows = [k * spec.shape[0] + row for k in indices for row in range(spec.shape[0])] if spec.shape else ...
        chosen[spec.name] = samples[spec.name][rows]
    return chosen


def _sample(rng: np.random.Generator, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """One sample within 0..1."""
    if index < 2:
        return np.full(shape, float(index))
    if len(shape) < 2 or index % 4 == 2:
        return np.broadcast_to(rng.random((*shape[:1], *(1 for _ in shape[1:]))), shape)
    cell = 1 << (index % 5)
    coarse = rng.random((shape[0], *(-(-size // cell) for size in shape[1:])))
    for axis in range(1, len(shape)):
        coarse = np.repeat(coarse, cell, axis=axis)
    return coarse[tuple(slice(size) for size in shape)]


def widened(ranges: Ranges, model: Model, exact: Sequence[str] = ()) -> Ranges:
    """Ranges from synthetic inputs made safe: with HEADROOM, or by what the model says of itself.

    A tensor that a BatchNormalization gave lies within DEVIATIONS of the mean of its channels; what is computed from
    it has its synthetic range scaled by as much as that changed the range before, powers and products of two tensors by
    more; a logarithm by a sum. Functions that are bounded keep their bounds. Names in ``exact`` are known and stay.
    Source: Nagel et al., arXiv 1906.04721, section 4.3.
    """
    factors = {spec.name: HEADROOM for spec in model.inputs}
    grown = dict(factors)  # of the values themselves, which a bound limits
    values = dict(ranges.values)
    for name in factors:
        if name in values and name not in exact:
            values[name] = _scaled(values[name], HEADROOM)
    for node in model.operators:
        factor = _factor(node, factors, grown)
        if node.name in values:
            before = values[node.name]
            if node.name in model.statistics:
                mean, deviation = model.statistics[node.name]
                after = (mean - DEVIATIONS * deviation).min(), (mean + DEVIATIONS * deviation).max()
                if any(before):
                    factor = float(np.abs(after).max()) / max(map(abs, before))
            elif node.name in exact:
                after = before
            elif node.op_type == "Log":
                more = math.log(max(factor, 1.0))
                after = before[0] - more, before[1] + more
                factor = max(map(abs, after)) / max(map(abs, before)) if any(before) else factor
            else:
                # A bound says nothing of what follows, and values that reach it do so however their inputs are scaled.
                least, most = BOUNDS.get(node.op_type, node.limits)
                own = max(factor, 1.0) if math.isfinite(least) or math.isfinite(most) else factor
                after = max(before[0] * own, least), min(before[1] * own, most)
            values[node.name] = min(float(after[0]), 0.0), max(float(after[1]), 0.0)
            if any(before):
                grown.update(dict.fromkeys(node.outputs, max(map(abs, values[node.name])) / max(map(abs, before))))
        factors.update(dict.fromkeys(node.outputs, factor))
    return Ranges(values, "synthetic", ranges.samples)


def _factor(node: SourceOperator, factors: Mapping[str, float], grown: Mapping[str, float]) -> float:
    """By how much a node's result is larger when its inputs are larger by ``factors``; beyond MOST it would cost resolution for
    inputs that hardly come."""
    factor = max((factors.get(name, HEADROOM) for name in node.inputs), default=1.0)
    if factor <= 1:
        return factor
    if node.op_type in ("Exp", "Pow"):
        return max(factor, min(factor**2, MOST))
    if node.op_type == "Mul" and len(node.inputs) == 2:
        both = math.prod(grown.get(name, factors.get(name, HEADROOM)) for name in node.inputs)
        return max(factor, min(both, MOST))
    if node.op_type == "Div" and len(node.inputs) == 2:
        return min(factor, HEADROOM)
    return math.sqrt(factor) if node.op_type == "Sqrt" else factor


def _scaled(limits: tuple[float, float], factor: float) -> tuple[float, float]:
    return limits[0] * factor, limits[1] * factor
