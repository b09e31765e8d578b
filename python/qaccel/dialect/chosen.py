"""How the bits of a network were chosen, and what it is estimated to lose: what the search says and the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..options import BitWidths


@dataclass(frozen=True)
class Drop:
    """What a network loses against the float one, estimated, in points; ``error``: the estimate's standard error.

    ``samples``: how many it is judged on; ``held_out``: they took no part in rounding and the search for ranges.
    ``losses``: by part of the outputs, mean divergence in nats of class scores, noise over power of every other.
    ``changed``: by part, share of first classes that are others.

    """

    points: float
    error: float
    samples: int
    held_out: bool
    losses: Mapping[str, float]
    changed: Mapping[str, float]


@dataclass(frozen=True)
class Width:
    """One width of one thing, all else as chosen: estimated points of the whole network, cycles and bytes by the tables."""

    bits: int
    points: float
    cycles: float
    bytes: float


@dataclass(frozen=True)
class Decision:
    """What was chosen for a layer's weights, or for tensors that share a width; ``widths``: all that could have been.

    ``name``: the layer, or the first of the ``tensors``. ``why``: a sentence.
    """

    name: str
    what: str  # "weights" or "activations"
    tensors: tuple[str, ...]
    bits: int
    widths: tuple[Width, ...]
    why: str


@dataclass(frozen=True)
class CurvePoint:
    """A plan: what it costs and loses. ``measured``: compiled, simulated and judged; else estimated by the tables."""

    name: str
    cycles: float
    bytes: float
    points: float
    measured: bool
    chosen: bool = False


@dataclass(frozen=True)
class Chosen:
    """The outcome of a search. ``plan``: by node; ``minimize``: what was to be least, within ``limits``, by flag.

    ``rounds``: relative difference of estimated and simulated cost in each round. ``objective``: of the chosen plan; of a drop,
    loss over that of one point. ``bound``: the least that it, or a plan that was not tried, can have by the last tables.
    ``gap``: of the integer program's solution to its bound, relative. ``trials``: how many plans were quantized, compiled and
    judged. ``mean_weight_bits``: of the numbers, by weights; ``mean_stream_bits``: what a weight takes in its stream.
    ``rate``: what rounding paid for a bit, a loss of the worst part; 0 for rounding that does not pay.
    ``curve``: the Pareto curve by the tables. ``plans``: those that were measured, and the uniform ones.
    """

    plan: Mapping[str, BitWidths]
    minimize: str
    limits: Mapping[str, float]
    drop: Drop
    cycles: int
    bytes: int
    mean_weight_bits: float
    mean_stream_bits: float
    rounds: tuple[float, ...]
    objective: float
    bound: float
    gap: float
    trials: int
    sensitivity_samples: int
    decisions: tuple[Decision, ...]
    curve: tuple[CurvePoint, ...]
    plans: tuple[CurvePoint, ...]
    rate: float = 0.0
