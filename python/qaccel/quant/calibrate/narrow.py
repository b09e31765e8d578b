"""Ranges of tensors of few bits, searched on what their rounding does to the outputs of the layers that read them.

At 8 bits the least and greatest values of the samples are good ends; of 16 steps none should be spent on a few far values.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

import numpy as np
from tvm import relax

from ...dialect import operators
from ...dialect.quantized import QuantizedModel
from ...evaluate.executor import execute
from ...relax_tools import bindings
from .calibration import Calibration
from .channel_means import passes_of
from .ranges import BINS, SEARCHES, Cut, Histogram, binned
from .runs import first_runs

FEW_BITS = 4  # and fewer are searched


def narrowed(q: QuantizedModel, calibration: Calibration, method: str | None) -> Calibration:
    """The calibration with other ranges for the tensors that ``q`` holds in few bits, if there are any.

    ``method``: what the user asked for; one that is judged by its loss at so many levels is searched again at the tensor's own.
    None takes the expected squared error of the layers that read the tensor, from its values and their weights, channel by channel.
    """
    widths = _few_bits(q, calibration.ranges.values)
    if method not in (None, *SEARCHES) or not widths or not calibration.measured:
        return calibration
    values, model = dict(calibration.ranges.values), q.model
    counts = {name: np.zeros(BINS) for name in widths if values[name][0] < values[name][1]}
    importance = _importance(q) if method is None else {}

    def count(name: str, value: np.ndarray) -> None:
        if name not in counts:
            return
        lo, hi = values[name]
        value = np.clip(value, lo, hi)
        each = importance.get(name)
        if each is None or value.ndim != 4 or value.shape[1] != len(each):
            counts[name] += binned(value, lo, hi)
            return
        for channel, weight in enumerate(each):
            counts[name] += weight * binned(value[:, channel], lo, hi)

    execute(model, first_runs(model, calibration.samples, passes_of(model)), count)
    cuts = dict(calibration.ranges.cuts)
    for name, found in counts.items():
        histogram = Histogram(found, *values[name])
        values[name] = SEARCHES[method or "mse"](histogram, 1 << widths[name])
        share = histogram.share_beyond(*values[name])
        if share:
            cuts[name] = Cut(share, histogram.lo, histogram.hi)
    return replace(calibration, ranges=replace(calibration.ranges, values=values, cuts=cuts))


def _few_bits(q: QuantizedModel, known: Container[str]) -> dict[str, int]:
    """The bits of tensors that are held in few, by the name of their range, if it is ``known``: steps of a node have none."""
    widths = {}
    for binding in bindings(q.mod["main"]):
        attrs = operators.read(binding.value) if operators.is_quantized(binding.value) else None
        made = operators.output_of(attrs) if attrs is not None else None
        if attrs is not None and made is not None and made.bits <= FEW_BITS:
            held = q.held.get(attrs.name)  # of steps of a node there is none
            if held is not None and held.tensor in known:
                widths[held.tensor] = made.bits
    return widths


def _importance(q: QuantizedModel) -> Mapping[str, np.ndarray]:
    """By the name of a tensor's range, how much an error of each channel counts: the squares of all weights that multiply it.

    Only of tensors that layers alone read.
    """
    makers: dict[relax.Var, str] = {}
    found: dict[str, np.ndarray] = {}
    others: set[str] = set()
    for binding in bindings(q.mod["main"]):
        if not operators.is_quantized(binding.value):
            continue
        attrs = operators.read(binding.value)
        makers[binding.var] = q.fused.get(attrs.name, (attrs.name,))[-1]
        for arg in binding.value.args:
            name = makers.get(arg) if isinstance(arg, relax.Var) else None
            if name is None:
                continue
            if isinstance(attrs, operators.ConvAttrs) and attrs.name in q.real:
                weight = np.square(q.real[attrs.name].weight, dtype=np.float64)
                grouped = weight.reshape(attrs.groups, -1, *weight.shape[1:]).sum(axis=(1, 2, 3)).reshape(-1)
                found[name] = found.get(name, 0.0) + grouped
            else:
                others.add(name)
    return {name: each / max(each.mean(), 1e-300) for name, each in found.items() if name not in others}
