"""What each choice alone costs in accuracy: the float network with one layer's weights, or one group of tensors, at one width.

Measured on the float network's outputs over the first samples of the calibration, and kept by content. Weights are rounded to
nearest on a scale per output channel and the mean of what that shifts is put back; passes of the quantizer do better, which the
search learns from the plans that it tries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dialect.operators import Quantization
from ...emulate.perturbed import Variant, perturbed, weights_of
from ...emulate.steps import plan_of
from ...machine.numerics import activation_limits
from ...model import Model
from ...options import WIDTHS
from ..calibrate import cache
from ..calibrate.runs import first_runs
from ..passes.rounding import FEW_BITS
from .losses import Loss, Part, Sums
from .space import Choice, Space

SAMPLES = 48  # of a small network
SAMPLES_LARGE = 12
SAMPLES_FEW = 4  # of a large one, to say only what loses most
LEAST_LOSS = 0.03  # of the median
FORMAT = 2  # of what is kept, and of how it is measured


@dataclass(frozen=True)
class Sensitivities:
    """The losses of each part with one thing alone quantized: by layer, or group, and bits. ``samples``: what they are of."""

    weights: Mapping[tuple[int, int], tuple[Loss, ...]]
    activations: Mapping[tuple[int, int], tuple[Loss, ...]]
    samples: Mapping[str, np.ndarray]


def measure_sensitivities(
    model: Model, space: Space, tensors: Mapping[int, Mapping[str, Quantization]], samples: Mapping[str, np.ndarray],
    parts: tuple[Part, ...], choices: tuple[Choice, ...] = (),
) -> Sensitivities:  # fmt: skip
    """Sensitivities of all layers and groups at all widths, or at those of ``choices`` alone.

    ``tensors``: how each tensor is quantized, by bits and then by name.
    """
    most = SAMPLES if not plan_of(model).compiled else SAMPLES_FEW if choices else SAMPLES_LARGE
    used = first_runs(model, samples, most)
    layer_widths = [{c.weights[k] for c in choices} or set(x.widths) for k, x in enumerate(space.layers)]
    group_widths = [{c.activations[k] for c in choices} or set(WIDTHS) for k, _ in enumerate(space.groups)]
    described = repr((FORMAT, space, choices, sorted((b, sorted(each.items())) for b, each in tensors.items()), parts))
    key = cache.key_of(model, used, f"sensitivities {described}")
    known = _from_entry(cache.load_entry(key), used)
    if known is not None:
        return known
    weights = weights_of(model)
    variants: dict[tuple[str, int, int], Variant] = {}
    for k, layer in enumerate(space.layers):
        if layer.name in weights:
            value, axis = weights[layer.name]
            for bits in layer_widths[k]:
                variants["weights", k, bits] = Variant(weights={layer.name: nearest(value, axis, bits)})
    for k, group in enumerate(space.groups):
        for bits in group_widths[k]:
            changes = {name: rounding(tensors[bits][name]) for name in group.tensors if name in tensors[bits]}
            variants["activations", k, bits] = Variant(values=changes)
    sums = {key: Sums(parts) for key in variants}
    for reference, made in perturbed(model, used, list(variants.values())):
        for each, outputs in zip(sums.values(), made, strict=True):
            each.add(reference, outputs)
    losses = {key: each.losses() for key, each in sums.items()}
    none = tuple(Loss(0.0, 0.0) for _ in parts)
    found = Sensitivities(
        {(k, b): losses.get(("weights", k, b), none) for k, each in enumerate(layer_widths) for b in each},
        {(k, b): losses["activations", k, b] for k, each in enumerate(group_widths) for b in each},
        used,
    )
    cache.store_entry(key, _entry(found))
    return found


def rounding_losses(
    model: Model, layers: Sequence[str], samples: Mapping[str, np.ndarray], parts: tuple[Part, ...]
) -> Mapping[str, float]:
    """By layer, the loss of the worst part with that layer's weights alone rounded to nearest in FEW_BITS.

    None is less than LEAST_LOSS of their median: on some samples a layer seems to cost nothing.
    """
    used = first_runs(model, samples, SAMPLES_LARGE if plan_of(model).compiled else SAMPLES)
    key = cache.key_of(model, used, f"rounding losses {FORMAT} {FEW_BITS} {layers} {parts}")
    known = cache.load_entry(key)
    if isinstance(known, dict) and known.keys() == {*layers}:
        return {name: float(loss) for name, loss in known.items()}
    weights = weights_of(model)
    names = [name for name in layers if name in weights]
    variants = [Variant(weights={name: nearest(*weights[name], FEW_BITS)}) for name in names]
    sums = [Sums(parts) for _ in variants]
    for reference, made in perturbed(model, used, variants):
        for each, outputs in zip(sums, made, strict=True):
            each.add(reference, outputs)
    worst = {name: max(loss.value for loss in each.losses()) for name, each in zip(names, sums, strict=True)}
    middle = float(np.median([loss for loss in worst.values() if loss > 0] or [1.0]))
    found = {name: max(worst.get(name, middle), LEAST_LOSS * middle) for name in layers}
    cache.store_entry(key, found)
    return found


def nearest(weight: np.ndarray, axis: int, bits: int) -> np.ndarray:
    """Weights rounded to nearest with one scale per channel along ``axis``, float32."""
    others = tuple(k for k in range(weight.ndim) if k != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True).astype(np.float64)
    scale = np.where(largest > 0, largest / ((1 << (bits - 1)) - 1), 1.0)
    return (np.rint(weight / scale) * scale).astype(np.float32)


def rounding(q: Quantization) -> Callable[[np.ndarray], np.ndarray]:
    """The function that rounds float32 values as ``q`` does."""
    lo, hi = activation_limits(q.bits)
    scale, least, most = np.float32(q.scale), np.float32(lo - q.zero_point), np.float32(hi - q.zero_point)

    def rounded(value: np.ndarray) -> np.ndarray:
        if value.dtype != np.float32:
            return value
        made = np.rint(value / scale)
        np.clip(made, least, most, out=made)
        made *= scale
        return made

    return rounded


def _entry(found: Sensitivities) -> dict[str, Any]:
    def listed(each: Mapping[tuple[int, int], tuple[Loss, ...]]) -> list[Any]:
        return [[*key, [[x.value, x.error, x.changed] for x in losses]] for key, losses in each.items()]

    return {"weights": listed(found.weights), "activations": listed(found.activations)}


def _from_entry(entry: Any, used: Mapping[str, np.ndarray]) -> Sensitivities | None:
    """What `_entry` made; None for what is none."""

    def mapped(each: Any) -> dict[tuple[int, int], tuple[Loss, ...]]:
        return {(int(k), int(b)): tuple(Loss(*map(float, loss)) for loss in losses) for k, b, losses in each}

    try:
        return Sensitivities(mapped(entry["weights"]), mapped(entry["activations"]), used)
    except (KeyError, TypeError, ValueError):
        return None
