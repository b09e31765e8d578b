"""Whether bits that were given, or are the default, lose too much: judged on samples, said, and for the default mended.

The samples that judge took no part in rounding, bias correction and the search for ranges; least and greatest values are of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...dialect import operators
from ...dialect.quantized import QuantizedModel
from ...emulate.executor import execute
from ...emulate.steps import plan_of
from ...options import DEFAULT_BITS, WIDTHS, Bits, BitWidths, Limits
from ...options.limits import DEFAULT_MAX_DROP
from ...relax_tools import bindings
from ..calibrate.calibration import FEWEST_TO_HOLD_OUT, HELD_OUT
from ..calibrate.runs import first_runs, runs_of
from ..passes.rounding import MOST_RUNS
from .laboratory import Laboratory, drop_of, losses_of
from .losses import Estimate, Loss, Points
from .sensitivity import Sensitivities, measure_sensitivities
from .space import Choice, Space, tensor_quantizations

MOST_JUDGED = 32  # runs of a small network
MOST_JUDGED_LARGE = 16
NAMED = 3  # layers to blame
WIDENINGS = 4  # sets of layers at 16 bits that are tried


@dataclass(frozen=True, eq=False)
class _Judge:
    """What a network of one model is judged by."""

    lab: Laboratory
    limits: Limits
    samples: Mapping[str, np.ndarray]
    reference: Mapping[str, np.ndarray]
    points: Points

    def estimate(self, quantized: QuantizedModel) -> Estimate:
        return self.points.estimate(losses_of(quantized, self.samples, self.points.parts, self.reference).losses())

    def told(self, quantized: QuantizedModel, estimate: Estimate, *notes: str) -> QuantizedModel:
        """The network with its estimate, and with notes."""
        drop = drop_of(self.points, estimate, runs_of(self.lab.model, self.samples), self.lab.held_out)
        return replace(quantized, drop=drop, notes=(*notes, *quantized.notes))

    def kindly(self, quantized: QuantizedModel, estimate: Estimate) -> QuantizedModel:
        """The network with an estimate that is too kind to act on, and with a note that says so."""
        runs = runs_of(self.lab.model, self.samples)
        over = f", more than --max-drop {self.limits.max_points:g}," if self.fails(estimate) else ""
        return self.told(
            quantized, estimate,
            f"estimated drop {_said(estimate)}{over} on the {runs} samples that calibrated it; of fewer than {FEWEST_TO_HOLD_OUT} "
            "that says little: give more",
        )  # fmt: skip

    def fails(self, estimate: Estimate) -> bool:
        """Whether an estimate is above the limit by more than its own standard error."""
        return estimate.points - estimate.error > self.limits.max_points


def judged(quantized: QuantizedModel, lab: Laboratory, bits: Bits | None, limits: Limits) -> QuantizedModel:
    """The network with what it is estimated to lose; ``bits`` None: the default, which takes 16 bits where 8 lose too much.

    Where there are fewer runs' samples than FEWEST_TO_HOLD_OUT, a note says so, and nothing is widened.
    """
    model = lab.model
    limits = limits if limits.max_drop_holds else replace(limits, max_drop=DEFAULT_MAX_DROP)
    if not lab.calibration.measured or not _on_integers(quantized):
        return quantized
    few = not lab.calibration.held
    most = MOST_JUDGED_LARGE if plan_of(model).compiled else MOST_JUDGED
    samples = first_runs(model, lab.calibration.held or lab.calibration.samples, most)
    reference = execute(model, samples)
    points = lab.points_on(reference, (HELD_OUT - 1) * most)
    judge = _Judge(lab, limits, samples, reference, points)
    estimate = judge.estimate(quantized)
    if few:
        return judge.kindly(quantized, estimate)
    if not judge.fails(estimate):
        return judge.told(quantized, estimate)
    space = lab.space
    if bits is None:
        return _widened(judge, quantized, estimate, space)
    choice = space.uniform(bits) if isinstance(bits, BitWidths) else _choice(space, quantized, bits)
    found = _alone(judge, space, choice)
    note = (
        f"warning: --bits {bits if isinstance(bits, BitWidths) else 'as planned'}: an estimated drop of {_said(estimate)}, "
        f"more than --max-drop {limits.max_points:g}; to blame: {_blamed(judge, space, choice, found)}"
        f"{_remedy_of_samples(judge, quantized, estimate)}"
    )
    return judge.told(quantized, estimate, note)


def _said(estimate: Estimate) -> str:
    return f"{estimate.points:.2f} +- {estimate.error:.2f} points"


def _on_integers(quantized: QuantizedModel) -> bool:
    """Whether anything was quantized: networks without weights have no plan."""
    return any(operators.is_quantized(binding.value) for binding in bindings(quantized.mod["main"]))


def _choice(space: Space, quantized: QuantizedModel, bits: Mapping[str, BitWidths]) -> Choice:
    """The widths that a network has by a plan, of tensors that copies read in fewer bits the fewest."""
    plan = quantized.plan
    weights = tuple(plan[x.name].weight_bits if x.name in plan else x.widths[0] for x in space.layers)
    activations = []
    for k, group in enumerate(space.groups):
        read = [plan[x.name].activation_bits for x in space.layers if x.group == k and x.name in plan]
        read = read or [bits[name].activation_bits for name in group.nodes if name in bits]
        activations.append(min(read, default=DEFAULT_BITS.activation_bits))
    return Choice(weights, tuple(activations))


def _alone(judge: _Judge, space: Space, choice: Choice) -> Sensitivities:
    """What each of the chosen widths alone loses."""
    tensors = {bits: tensor_quantizations(judge.lab.plain(BitWidths(8, bits))) for bits in {*choice.activations}}
    return measure_sensitivities(
        judge.lab.model, space, tensors, judge.lab.calibration.samples, judge.points.parts, (choice,)
    )  # fmt: skip


def _points(judge: _Judge, losses: tuple[Loss, ...]) -> float:
    return judge.points.estimate(losses).points


def _blamed(judge: _Judge, space: Space, choice: Choice, found: Sensitivities) -> str:
    """The layers and tensors that lose most by themselves."""
    lost = [
        (_points(judge, found.weights[k, bits]), f"weights of '{space.layers[k].name}' at {bits} bits")
        for k, bits in enumerate(choice.weights)
    ]
    lost += [
        (_points(judge, found.activations[k, bits]), f"activations of {_tensors(space, k)} at {bits} bits")
        for k, bits in enumerate(choice.activations)
    ]
    lost.sort(key=lambda each: -each[0])
    return ", ".join(f"{what} (alone {points:.2f})" for points, what in lost[:NAMED])


def _remedy_of_samples(judge: _Judge, quantized: QuantizedModel, estimate: Estimate) -> str:
    """What to say where the network loses less on the samples that calibrated it: few bits were fitted to these alone."""
    lab = judge.lab
    if runs_of(lab.model, lab.calibration.samples) >= MOST_RUNS:
        return ""  # rounding looks at no more
    runs = runs_of(lab.model, judge.samples)
    learned = first_runs(lab.model, lab.calibration.samples, runs)
    reference = execute(lab.model, learned)
    own = judge.points.estimate(losses_of(quantized, learned, judge.points.parts, reference).losses())
    if own.points + own.error >= estimate.points - estimate.error:
        return ""
    return f"; {runs} samples that calibrated it lose {_said(own)}: give more of them, and others come nearer to that"


def _tensors(space: Space, group: int) -> str:
    names = space.groups[group].tensors
    more = f" and {len(names) - 1} that share its width" if len(names) > 1 else ""
    return f"'{names[0]}'{more}" if names else "what stays in float"


def _widened(
    judge: _Judge, quantized: QuantizedModel, estimate: Estimate, space: Space
) -> QuantizedModel:  # fmt: skip
    """The network with 16 bits for what loses most, as little of it as keeps the limit; else the best that was tried."""
    narrow = space.uniform(DEFAULT_BITS)
    found = _alone(judge, space, narrow)
    budget = judge.points.budget(judge.limits.max_points)
    gains = [(float((np.array([x.value for x in found.weights[k, 8]]) / budget).max()), "weights", k)
             for k, layer in enumerate(space.layers) if WIDTHS[-1] in layer.widths]  # fmt: skip
    gains += [(float((np.array([x.value for x in found.activations[k, 8]]) / budget).max()), "activations", k)
              for k, group in enumerate(space.groups) if not (group.outer and judge.lab.narrow_ends)]  # fmt: skip
    gains.sort(key=lambda each: (-each[0], each[1:]))
    total = sum(gain for gain, _, _ in gains)
    best, least, chosen = quantized, estimate, narrow
    left = 0.5 * total / max(1.0, float((np.array([x.value for x in estimate.losses]) / budget).max()))
    for number in range(WIDENINGS):
        wide, kept = narrow, total
        for gain, what, k in gains:
            if kept <= left and number < WIDENINGS - 1:
                break
            wide = wide.with_weight(k, 16) if what == "weights" else wide.with_activation(k, 16)
            kept -= gain
        made = judge.lab.make(space.bits(wide))
        own = judge.estimate(made)
        if own.points < least.points:
            best, least, chosen = made, own, wide
        if not judge.fails(own):
            break
        left /= 4
    failed = judge.fails(least)
    names = [f"weights of '{space.layers[k].name}'" for k, bits in enumerate(chosen.weights) if bits == 16]
    names += [f"activations of {_tensors(space, k)}" for k, bits in enumerate(chosen.activations) if bits == 16]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    lost = f"8 bits lose an estimated {_said(estimate)}, more than --max-drop {judge.limits.max_points:g}"
    taken = f"; 16 bits are taken for {', '.join(names[:NAMED])}{more}" if names else "; 16 bits lose no less"
    end = ", and no plan of 8 and 16 bits that was tried loses less than" if failed else ", which loses"
    return judge.told(best, least, f"{'warning: ' if failed else ''}{lost}{taken}{end} {_said(least)}")
