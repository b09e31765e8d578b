"""Why a quantized network loses what it loses: each source of error, what it alone costs, and what its remedy would gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...dialect.chosen import Drop
from ...dialect.operators import BITS
from ...dialect.quantized import QuantizedModel
from ...emulate.executor import execute
from ...emulate.perturbed import Variant, perturbed, weights_of
from ...machine.numerics import activation_limits
from ...options import Bits
from ..calibrate.calibration import HELD_OUT
from ..calibrate.runs import first_runs, runs_of
from ..rules.weights import activation_quantization
from ..search.laboratory import Laboratory, drop_of, losses_of
from ..search.losses import Loss, Sums, parts_of
from ..search.sensitivity import nearest, rounding
from .causes import ACTIVATIONS, Finding, findings
from .losses import TensorLoss, measure_losses

MOST_JUDGED = 32  # runs of the network that the whole is judged on
MOST_ALONE = 8  # and each source of error alone


@dataclass(frozen=True)
class Source:
    """One source of error: the finding, and what it costs the network's outputs.

    ``points``: of the float network with this rounding alone; ``gain_points``: by how many fewer they would be with the remedy,
    None where there is none that is measured. Weights are rounded to nearest for that.
    """

    finding: Finding
    points: float
    gain_points: float | None


@dataclass(frozen=True, eq=False)
class Analysis:
    """What a network of some bits loses, and where.

    ``drop``: the whole; ``tensors``: every tensor in order; ``sources``: those that cost most first. ``samples``: runs of the
    network that the sources were measured on.
    """

    quantized: QuantizedModel
    drop: Drop
    tensors: tuple[TensorLoss, ...]
    sources: tuple[Source, ...]
    samples: int

    def __repr__(self) -> str:
        return f"<Analysis: {self.drop.points:.2f} points lost, {len(self.sources)} sources of error>"


def analyze(lab: Laboratory, bits: Bits | None) -> Analysis:
    """The analysis of a network at these bits, after all passes.

    The whole, and the points of each source alone, are judged on held-out samples, if there are any; decibels are of the others.
    """
    quantized, model = lab.make(bits), lab.model
    judging = first_runs(model, lab.held, MOST_JUDGED)
    reference = execute(model, judging)
    points = lab.points_on(reference, (HELD_OUT - 1) * MOST_JUDGED)
    estimate = points.estimate(losses_of(quantized, judging, points.parts, reference).losses())
    drop = drop_of(points, estimate, runs_of(model, judging), lab.held_out)
    samples = first_runs(model, lab.calibration.samples, MOST_JUDGED)
    tensors = measure_losses(quantized, samples)
    found = findings(quantized, tensors)
    few = first_runs(model, judging, MOST_ALONE)
    alone = _alone(lab, found, tensors, few)
    sources = []
    for finding, losses in zip(found, alone, strict=True):
        own, cured = (None if each is None else points.estimate(each).points for each in losses)
        gain = own - cured if own is not None and cured is not None and finding.plan else None
        sources.append(Source(finding, own or 0.0, gain))
    sources.sort(key=lambda each: -each.points)
    return Analysis(quantized, drop, tensors, tuple(sources), runs_of(model, few))


Losses = tuple[Loss, ...]
Pair = tuple[Variant | None, Variant | None]


def _alone(
    lab: Laboratory, found: Sequence[Finding], tensors: Sequence[TensorLoss], samples: Mapping[str, np.ndarray]
) -> list[tuple[Losses | None, Losses | None]]:
    """The losses of the float network with each finding's rounding alone, and with that of the next width in its place."""
    weights, by_node = weights_of(lab.model), {each.node: each for each in tensors}
    pairs: list[Pair] = []
    for finding in found:
        wider = next((bits for bits in BITS if bits > finding.bits), finding.bits)
        if finding.what == ACTIVATIONS:
            pairs.append(_of_activations(by_node[finding.node], wider))
        elif finding.node in weights:
            value, axis = weights[finding.node]
            own, cured = (Variant(weights={finding.node: nearest(value, axis, b)}) for b in (finding.bits, wider))
            pairs.append((own, cured))
        else:
            pairs.append((None, None))
    variants = [variant for pair in pairs for variant in pair if variant is not None]
    parts = parts_of(lab.model, execute(lab.model, samples))
    sums = [Sums(parts) for _ in variants]
    for reference, made in perturbed(lab.model, samples, variants):
        for each, outputs in zip(sums, made, strict=True):
            each.add(reference, outputs)
    measured = iter(each.losses() for each in sums)
    losses = [[None if each is None else next(measured) for each in pair] for pair in pairs]
    return [(own, cured) for own, cured in losses]


def _of_activations(loss: TensorLoss, wider: int) -> Pair:
    """A tensor on its grid, and on one of the wider width with the same ends."""
    lo, hi = (loss.q.scale * (limit - loss.q.zero_point) for limit in activation_limits(loss.q.bits))
    own, cured = (
        Variant(values={loss.tensor: rounding(grid)}) for grid in (loss.q, activation_quantization(lo, hi, wider))
    )
    return own, cured
