"""Bias correction: what rounding shifts a channel's mean by goes back into its bias (arXiv 1906.04721, section 4.2).

Layers are corrected in order, each on what the corrected integer layers before it deliver, against the means of the float model
on the same samples. Nothing changes but int32 constants, so it costs nothing at run time.

A mean is that of what the layer delivers, behind its Relu or Clip. Before it most values may lie far below zero; to bring those to
their mean would move the few that count: errors of rounded inputs are no shift, they grow and fall with the values. Where the float
layer has no limit, that of its integers is none either, and where it has one, an end of the integers' range that lies further in
than calibration put it is none: a range may leave out values that do not matter to what reads them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ...dialect import operators
from ...dialect.quantized import QuantizedModel
from ...emulate.integers import Measure, run_quantized
from ..calibrate.calibration import Calibration
from ..calibrate.channel_means import UNLIMITED, limits_of, passes_of
from ..calibrate.runs import first_runs
from .constants import LayerConstants, fits_machine, with_constants

Span = tuple[float, float]
STEPS = 2  # of Newton's method, where a layer has limits
LEAST_SHARE = 1e-3  # of a channel's values between its limits: a bias that moves fewer is not known well enough


def correct_biases(q: QuantizedModel, calibration: Calibration) -> QuantizedModel:
    """The model with corrected biases, from the first `passes_of` runs of the calibration's samples.

    A channel keeps its bias where the corrected one would leave int32 or could overflow the accumulator, where it has no weights,
    and where its limits hold nearly all values.
    """
    means, limits = calibration.ranges.means, limits_of(q.model)
    samples = first_runs(q.model, calibration.samples, passes_of(q.model))
    corrected: dict[str, LayerConstants] = {}

    def correct(
        attrs: operators.ConvAttrs, measure: Measure, weight: np.ndarray, bias: np.ndarray, weight_scale: np.ndarray
    ) -> np.ndarray:
        node = q.fused.get(attrs.name, (attrs.name,))[-1]
        if node not in means or attrs.name not in q.plan:
            return bias
        step = float(attrs.source.scale) * weight_scale.astype(np.float64)
        before = LayerConstants(weight, bias, weight_scale)
        held = UNLIMITED if node not in limits else _limits(attrs, limits[node], calibration.ranges.values.get(node))
        wanted = shifted(bias, step, means[node], measure, held)
        after = LayerConstants(weight, np.rint(wanted), weight_scale)
        keeps = ~fits_machine(attrs, after) | ~weight.reshape(len(weight), -1).any(axis=1)
        corrected[attrs.name] = before.where(keeps, after)
        return corrected[attrs.name].bias

    params = q.mod["main"].params
    inputs = {param.name: samples[spec.name] for param, spec in zip(params, q.model.inputs, strict=True)}
    run_quantized(q.mod, inputs, correct=correct)
    return dataclasses.replace(q, mod=with_constants(q.mod, corrected))


def _limits(attrs: operators.ConvAttrs, own: Span, measured: Span | None) -> Span:
    """What the results of a limited layer lie between: on each side the end of its integers' range, or, where a reader that
    saturates has cut that to less than was ``measured``, the float layer's ``own`` limit."""
    lo, hi = ((end - attrs.result.zero_point) * attrs.result.scale for end in (attrs.clamp.lo, attrs.clamp.hi))
    if measured is None:
        return lo, hi
    step = attrs.result.scale
    return own[0] if lo > measured[0] + step else lo, own[1] if hi < measured[1] - step else hi


def shifted(bias: np.ndarray, step: np.ndarray, wanted: np.ndarray, measure: Measure, limits: Span) -> np.ndarray:
    """The bias in steps, float64 [channels], that gives the ``wanted`` means, by Newton's method: a mean grows with the bias by the
    share of values between the limits, all of them where there are none, so that one step is enough. A channel goes no step from
    where it has come no nearer."""
    best, now = bias.astype(np.float64), bias.astype(np.float64)
    least = np.full(len(bias), np.inf)
    for _ in range(1 if limits == UNLIMITED else STEPS):
        mean, share = measure(now, limits)
        off = wanted - mean
        nearer = np.abs(off) < least
        best, least = np.where(nearer, now, best), np.where(nearer, np.abs(off), least)
        movable = nearer & (share > LEAST_SHARE)
        now = np.where(movable, now + off / step / np.maximum(share, LEAST_SHARE), best)
    return now
