"""Ranges of tensors at their own widths, by search: steps that a few far values take are missed by all others.

At 16 bits the least and greatest values of the samples are good ends. At 8 bits the search is for the least squared error of the
tensor itself; of the 16 steps of 4 bits none is to spare, and what the layers that read the tensor make of each error decides.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

import numpy as np
from tvm import relax

from ...dialect import operators
from ...dialect.names import copy_of_width
from ...dialect.quantized import QuantizedModel
from ...emulate.executor import execute
from ...relax_tools import bindings
from .calibration import FEWEST_TO_HOLD_OUT, Calibration
from .channel_means import passes_of
from .ranges import BINS, SEARCHES, Cut, Histogram, binned
from .runs import batch_of, first_runs, runs_of

SEARCHED_BITS = 8  # and fewer are searched
FEW_BITS = 4  # and fewer: errors are weighed by the layers that read them


def narrowed(q: QuantizedModel, calibration: Calibration, method: str | None) -> Calibration:
    """The calibration with other ranges for the tensors, and the copies of tensors, that are held in 8 bits or fewer.

    ``method``: what the user asked for; one that is judged by its loss at so many levels is searched again at 4 bits' own levels.
    None takes the expected squared error: at 4 bits of the layers that read the tensor, from its values and their weights, channel
    by channel; at 8 bits of the tensor itself. Values come from the first samples, and from all of them the ends of each channel.
    At 8 bits the network's inputs and outputs keep their ends; so do all tensors where samples are few, or hold outliers.
    """
    whole, model = calibration.ranges.values, q.model
    runs = runs_of(model, calibration.samples) + (runs_of(model, calibration.held) if calibration.held else 0)
    few = calibration.holds_outliers or runs * batch_of(model) < FEWEST_TO_HOLD_OUT
    searched = _searched(q, whole, FEW_BITS if method is not None or few else SEARCHED_BITS)
    if method not in (None, *SEARCHES) or not searched or not calibration.measured:
        return calibration
    counts = {name: np.zeros(BINS) for name, (tensor, _) in searched.items() if whole[tensor][0] < whole[tensor][1]}
    weighed = _importance(q) if method is None else {}
    importance = {name: weighed[name] for name in counts if searched[name][1] <= FEW_BITS and name in weighed}

    def count(observed: str, value: np.ndarray) -> None:
        for name in counts:
            if searched[name][0] == observed:
                counts[name] += _weighted(np.clip(value, *whole[observed]), whole[observed], importance.get(name))

    execute(model, first_runs(model, calibration.samples, passes_of(model)), count)
    values, copies, cuts = dict(whole), dict[str, tuple[float, float]](), dict(calibration.ranges.cuts)
    for name, found in counts.items():
        tensor, bits = searched[name]
        if bits > FEW_BITS:
            found = found + binned(_ends(calibration, tensor), *whole[tensor])
        histogram = Histogram(found, *whole[tensor])
        span = SEARCHES[method or "mse"](histogram, 1 << bits)
        if name != tensor:
            copies[name] = span
            continue
        values[name] = span
        share = histogram.share_beyond(*span)
        if share:
            cuts[name] = Cut(share, histogram.lo, histogram.hi)
    return replace(calibration, ranges=replace(calibration.ranges, values=values, cuts=cuts, copies=copies))


def _ends(calibration: Calibration, tensor: str) -> np.ndarray:
    """The least and greatest value of each channel over all samples; of the whole tensor where channels are not known."""
    channels = calibration.ranges.channels.get(tensor)
    both = calibration.ranges.values[tensor] if channels is None else np.concatenate([channels.lo, channels.hi])
    return np.clip(np.asarray(both), *calibration.ranges.values[tensor])


def _weighted(value: np.ndarray, span: tuple[float, float], importance: np.ndarray | None) -> np.ndarray:
    """Counts of NCHW values by bin, those of each channel times its importance."""
    if importance is None or value.ndim != 4 or value.shape[1] != len(importance):
        return binned(value, *span)
    parts = [weight * binned(value[:, channel], *span) for channel, weight in enumerate(importance)]
    return np.asarray(sum(parts))


def _searched(q: QuantizedModel, known: Container[str], most_bits: int) -> dict[str, tuple[str, int]]:
    """Tensors that are held in at most so many bits, with these, by name, if their range is ``known``; copies by their own name.

    Other steps of a node have no range. Inputs and outputs of the network are among them in FEW_BITS alone.
    """
    found = {}
    ends = _network_ends(q)
    for binding in bindings(q.mod["main"]):
        attrs = operators.read(binding.value) if operators.is_quantized(binding.value) else None
        made = operators.output_of(attrs) if attrs is not None else None
        if attrs is not None and made is not None and made.bits <= most_bits:
            held = q.held.get(attrs.name)
            tensor = attrs.name.rpartition(".")[0] if held is None else held.tensor
            copy = isinstance(attrs, operators.RequantizeAttrs) and attrs.name == copy_of_width(tensor, made.bits)
            inner = made.bits <= FEW_BITS or tensor not in ends
            if tensor in known and inner and (held is not None or copy):
                found[tensor if held is not None else attrs.name] = tensor, made.bits
    return found


def _network_ends(q: QuantizedModel) -> set[str]:
    """Names of the network's inputs, and of the tensors that its outputs are made of."""
    makers: dict[relax.Var, str] = {}
    found = {spec.name for spec in q.model.inputs}
    for binding in bindings(q.mod["main"]):
        call = binding.value
        attrs = operators.read(call) if operators.is_quantized(call) else None
        if attrs is None or operators.output_of(attrs) is None:  # what is read by no operator of ours is real again
            found |= {makers[arg] for arg in getattr(call, "args", ()) if isinstance(arg, relax.Var) and arg in makers}
        else:
            held = q.held.get(attrs.name)
            makers[binding.var] = attrs.name if held is None else held.tensor
    return found


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
