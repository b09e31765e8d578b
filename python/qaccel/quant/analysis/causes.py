"""Why a tensor loses what it loses, what would cure it, and what that would gain: from `losses` to findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...dialect.operators import BITS
from ...dialect.quantized import QuantizedModel
from ...options import BitWidths
from ..calibrate.narrow import FEW_BITS
from .losses import TensorLoss

DB_PER_BIT = 20 * math.log10(2)  # of uniform rounding: a bit halves the step
WEIGHTS, ACTIVATIONS = "weights", "activations"
ROUNDING, CUT, OUTLIER, SHARED, TABLE = "rounding", "range cut", "outlier channel", "shared scale", "16-bit table"
OUTLIER_RATIO = 4.0  # of a channel's reach to the median's, from which it counts as an outlier
OUTLIER_GAIN_DB = 6.0  # what a scale of its own would have to give the median channel
TABLE_LOSS_DB = 6.0  # that a table loses beside rounding its result
CUT_SHARE = 0.5  # of a tensor's error, from which its range is the cause
LEAST_GAIN_DB = 1.0  # a remedy that gives less is none


@dataclass(frozen=True)
class Finding:
    """One source of error. ``what``: `WEIGHTS` or `ACTIVATIONS` of ``node``; ``db``: signal to this error alone.

    ``cause``: one of this file's words for them; ``detail``: what was seen, in words. ``remedy``: what to change, empty where
    nothing would help; ``plan``: the lines of a plan.json that do it; ``gain_db``: by how much ``db`` would rise.
    """

    node: str
    what: str
    bits: int
    db: float
    cause: str
    detail: str
    remedy: str
    plan: Mapping[str, BitWidths]
    gain_db: float


def findings(q: QuantizedModel, losses: Sequence[TensorLoss]) -> tuple[Finding, ...]:
    """The sources of error of a network, in the order of its nodes: one for each tensor that is rounded, one for its weights."""
    readers: dict[str, list[TensorLoss]] = {}
    for loss in losses:
        for read in loss.reads:
            readers.setdefault(read, []).append(loss)
    found = []
    for loss in losses:
        if loss.weights_db is not None and loss.weight_bits is not None:
            found.append(_of_weights(q, loss, loss.weights_db, loss.weight_bits))
        found.append(_of_activations(q, loss, readers))
    return tuple(found)


def _of_weights(q: QuantizedModel, loss: TensorLoss, db: float, bits: int) -> Finding:
    wider = _wider(bits)
    plan = {loss.node: replace(q.plan[loss.node], weight_bits=wider)} if wider > bits and loss.node in q.plan else {}
    remedy = f"weights at {wider} bits" if plan else ""
    gain = DB_PER_BIT * (wider - bits) if plan else 0.0
    return Finding(loss.node, WEIGHTS, bits, db, ROUNDING, f"{bits}-bit weights", remedy, plan, gain)


def _of_activations(q: QuantizedModel, loss: TensorLoss, readers: Mapping[str, Sequence[TensorLoss]]) -> Finding:
    bits = loss.q.bits
    names = _readers_with_a_width(loss, readers, q)
    wider = _wider(bits)
    plan: dict[str, BitWidths] = {}
    if wider > bits:
        plan = {name: replace(q.plan[name], activation_bits=wider) for name in names}
    wider_gain = loss.wider_db - loss.rounded_db if plan else 0.0
    remedy = f"activations at {wider} bits" if wider_gain >= LEAST_GAIN_DB else ""
    cause, detail, gain = ROUNDING, f"{bits}-bit steps of {loss.q.scale:.3g}", wider_gain
    shared = next((each for each in q.unlike if each.part == loss.node), None)
    if shared is not None:
        cause = SHARED
        detail = f"{shared.share:.2g} of the range that it shares in '{shared.join}'"
        plan = dict(shared.cure)
    elif loss.channel_ratio >= OUTLIER_RATIO and loss.channels_gain_db >= OUTLIER_GAIN_DB:
        cause = OUTLIER
        detail = f"channel {loss.channel} reaches {loss.channel_ratio:.3g} times as far as the median of them"
    elif bits > FEW_BITS and loss.cut_share >= CUT_SHARE and loss.uncut_db - loss.rounded_db >= LEAST_GAIN_DB:
        cause, detail = CUT, f"{loss.cut_share:.0%} of its error lies beyond the range's ends"
        remedy, plan, gain = "--calibration minmax", {}, loss.uncut_db - loss.rounded_db
    elif loss.table_db is not None and loss.table_db < loss.rounded_db - TABLE_LOSS_DB:
        cause, detail, remedy, plan, gain = TABLE, f"{loss.table_db:.1f} dB on the float input", "", {}, 0.0
    return Finding(loss.node, ACTIVATIONS, bits, loss.rounded_db, cause, detail, remedy, plan, gain)


def _wider(bits: int) -> int:
    return next((each for each in BITS if each > bits), bits)


def _readers_with_a_width(
    loss: TensorLoss, readers: Mapping[str, Sequence[TensorLoss]], q: QuantizedModel
) -> list[str]:  # fmt: skip
    """The layers whose activation bits are this tensor's: those that read it, through what has no width of its own."""
    found: dict[str, None] = {}
    pending, seen = [loss.node], {loss.node}
    while pending:
        here = pending.pop(0)
        after = readers.get(here, ())
        if not after and here in q.plan:
            found[here] = None
        for each in after:
            if each.node in q.plan:
                found[each.node] = None
            elif each.node not in seen:
                seen.add(each.node)
                pending.append(each.node)
    return list(found)
