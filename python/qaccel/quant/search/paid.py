"""Rounding that pays for bits: how much a bit must be worth to keep a limit on bytes, and how much it may be.

A rate is the loss of the network's worst part that a bit is worth; each layer has its own by what few bits cost there.
Every try is a whole network: rounded at a rate (`passes.priced`), compiled, and its bytes counted, streams as LOADW fetches them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ...dialect.plan_cost import PlanCost
from ...dialect.quantized import QuantizedModel
from ...options import Bits
from .laboratory import Laboratory
from .tables import Trial

FIRST_RATE = 5e-4  # over the number of all weights: little more than what 8 bits lose in any case
STEP = 8.0  # between rates until one is on the other side of the limit
MOST_STEPS = 6
NEAR = 0.995  # of a limit on bytes is near enough
MOST_TRIES = 8
# Tries between a rate that loses too much and one that does not, of a large network and of a small one.
CLOSER, CLOSER_SMALL = 2, 4
WANTED = 0.97  # of the drop that may be, where those aim


@dataclass(frozen=True, eq=False)
class Paid:
    """A network whose rounding paid ``rate`` for a bit, and what it costs; a rate of 0 is rounding that does not pay."""

    rate: float
    quantized: QuantizedModel
    cost: PlanCost


def within_bytes(lab: Laboratory, bits: Bits | None, most_bytes: int) -> Paid:
    """The network at these bits with the least rate that was found to keep its bytes within ``most_bytes``, near to them.

    Where no rate keeps them it is the network of the fewest bytes that were reached.
    """
    dear = cheap = _tried(lab, bits, 0.0)
    rate = first_rate(lab)
    for _ in range(MOST_STEPS):
        if dear.cost.bytes <= most_bytes:
            break
        cheap, dear = dear, _tried(lab, bits, rate)
        rate *= STEP
    if cheap is dear or dear.cost.bytes > most_bytes:
        return min(cheap, dear, key=lambda each: each.cost.bytes)
    for _ in range(MOST_TRIES):
        if dear.cost.bytes >= NEAR * most_bytes:
            break
        each = _tried(lab, bits, _between(cheap, dear, most_bytes * (1 + NEAR) / 2))
        cheap, dear = (cheap, each) if each.cost.bytes <= most_bytes else (each, dear)
    return dear


def most_paid(
    lab: Laboratory,
    tried: Callable[[float], Trial],
    keeps: Callable[[Trial], bool],
    objective: Callable[[Trial], float],
    used: Callable[[Trial], float],
    closer: int,
) -> Trial | None:
    """Of the trials at rates up to the highest that ``keeps`` the limits the one of least ``objective``; None where none does.

    ``tried``: the network at a rate; ``used``: the share of the drop that may be. Low rates may gain nothing where steps are
    coarse, so rates grow until a limit is passed, then ``closer`` tries come nearer to it.
    """
    found: list[Trial] = []
    low, high = first_rate(lab) / STEP, first_rate(lab)
    below = above = 0.0
    for _ in range(MOST_STEPS):
        trial = tried(high)
        if not keeps(trial):
            above = used(trial)
            break
        found.append(trial)
        below, low, high = used(trial), high, high * STEP
    for _ in range(closer):
        middle = low * (high / low) ** _way(below, above)
        trial = tried(middle)
        if keeps(trial):
            found.append(trial)
            below, low = used(trial), middle
        else:
            above, high = used(trial), middle
    return min(found, key=objective, default=None)


def _way(below: float, above: float) -> float:
    """How far from a rate that uses ``below`` of the drop to one that uses ``above``, by logarithms, WANTED of it is used, not
    within a quarter of the way to an end; half where the drop is not what is passed."""
    if not 0 < below < WANTED < above < math.inf:
        return 0.5
    return min(max(math.log(WANTED / below) / math.log(above / below), 0.25), 0.75)


def first_rate(lab: Laboratory) -> float:
    """A low one."""
    return FIRST_RATE / max(1, sum(each.weight_count for each in lab.space.layers))


def _tried(lab: Laboratory, bits: Bits | None, rate: float) -> Paid:
    quantized = lab.make(bits, rate)
    return Paid(rate, quantized, lab.price(quantized))


def _between(cheap: Paid, dear: Paid, wanted: float) -> float:
    """The rate that gives so many bytes if they fall as its logarithm grows; not within a tenth of the way to an end."""
    share = (cheap.cost.bytes - wanted) / max(1, cheap.cost.bytes - dear.cost.bytes)
    low = cheap.rate or dear.rate / STEP**2
    return low * (dear.rate / low) ** min(max(share, 0.1), 0.9)
