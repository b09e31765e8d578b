"""Bias correction: what rounding shifts a channel's mean by goes back into its bias (arXiv 1906.04721, section 4.2).

Layers are corrected in order, each on what the corrected integer layers before it deliver, against the means of the
float model on the same samples. Nothing changes but int32 constants, so it costs nothing at run time.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ...dialect import operators
from ...dialect.quantized import QuantizedModel
from ...evaluate.integers import run_quantized
from ..calibrate.calibration import Calibration
from ..calibrate.channel_means import passes_of
from ..calibrate.runs import first_runs
from .constants import LayerConstants, fits_machine, with_constants


def correct_biases(q: QuantizedModel, calibration: Calibration) -> QuantizedModel:
    """The model with corrected biases, from the first `passes_of` runs of the calibration's samples.

    A channel keeps its bias where the corrected one would leave int32 or could overflow the accumulator, and where it has no
    weights.
    """
    means = calibration.ranges.means
    samples = first_runs(q.model, calibration.samples, passes_of(q.model))
    corrected: dict[str, LayerConstants] = {}

    def correct(
        attrs: operators.ConvAttrs,
        delivered: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray,
        weight_scale: np.ndarray,
    ) -> np.ndarray:
        node = q.added.get(attrs.name, attrs.name)
        if node not in means or attrs.name not in q.plan:
            return bias
        step = float(attrs.source.scale) * weight_scale.astype(np.float64)
        got = (delivered + bias) * step
        wanted = bias + np.rint((means[node] - got) / step)
        before = LayerConstants(weight, bias, weight_scale)
        after = LayerConstants(weight, wanted, weight_scale)
        keeps = ~fits_machine(attrs, after) | ~weight.reshape(len(weight), -1).any(axis=1)
        corrected[attrs.name] = before.where(keeps, after)
        return corrected[attrs.name].bias

    params = q.mod["main"].params
    inputs = {param.name: samples[spec.name] for param, spec in zip(params, q.model.inputs, strict=True)}
    run_quantized(q.mod, inputs, correct=correct)
    return dataclasses.replace(q, mod=with_constants(q.mod, corrected))
