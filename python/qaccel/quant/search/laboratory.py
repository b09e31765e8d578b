"""Where plans are tried: quantized with all passes, compiled for their price, run on held-out samples beside the float network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from ...dialect.chosen import Drop
from ...dialect.plan_cost import PlanCost, Price
from ...dialect.quantized import QuantizedModel
from ...emulate.executor import execute
from ...emulate.integers import run_model
from ...emulate.steps import plan_of
from ...errors import UserError
from ...model import Model
from ...options import DEFAULT_BITS, WIDTHS, Bits, BitWidths
from ..calibrate.calibration import Calibration
from ..calibrate.runs import first_runs, runs_of
from .losses import Estimate, Part, Points, Sums, parts_of, points_of
from .sensitivity import Sensitivities, measure_sensitivities, rounding_losses
from .space import Choice, Space, base_name, known_names, space_of, tensor_quantizations
from .tables import Tables, Trial

Rounded = tuple[QuantizedModel, Calibration]  # before the passes, and what is known with ranges for those bits
UNIFORM = tuple(BitWidths(w, a) for w in WIDTHS for a in WIDTHS)
MOST_HELD = 128  # runs of the network that a plan is judged on
MOST_FLOAT = 1024  # runs of a small float network, to learn what a point is


class Laboratory:
    """Tries the plans of one network. ``quantize`` rounds it to bits, ``improve`` runs the passes on that, which pay for bits at
    rates by layer, ``price`` compiles.

    ``narrow_ends``: the module is to have 8-bit inputs and outputs.
    """

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        quantize: Callable[[Bits | None], Rounded],
        improve: Callable[[Rounded, Mapping[str, float]], QuantizedModel],
        price: Price,
        narrow_ends: bool,
    ) -> None:
        self.narrow_ends = narrow_ends
        self.model, self.calibration = model, calibration
        self._quantize, self._improve, self.price = quantize, improve, price
        self.held_out = bool(calibration.held)
        self.trials: dict[Choice, Trial] = {}
        self._uniform: dict[BitWidths | None, Rounded] = {}
        self._planned: tuple[Bits, Rounded] | None = None  # of the last plan

    def make(self, bits: Bits | None, rate: float = 0.0, paying: Collection[str] | None = None) -> QuantizedModel:
        """The network at these bits with all passes; ``rate``: the loss of the network's worst part that a bit is worth in the
        layers ``paying``, None for all."""
        losses = self.rounding_losses if rate else {}
        rates = {n: rate / loss for n, loss in losses.items() if paying is None or n in paying}
        return self._improve(self._rounded(bits), rates)

    def plain(self, widths: BitWidths) -> QuantizedModel:
        """The network at one pair of widths, without passes."""
        return self._rounded(widths)[0]

    def _rounded(self, bits: Bits | None) -> Rounded:
        """The network without passes; at a uniform pair of bits it is made once, by a plan that comes again and again, too."""
        if bits is not None and not isinstance(bits, BitWidths):
            if self._planned is None or self._planned[0] != bits:
                self._planned = bits, self._quantize(bits)
            return self._planned[1]
        if bits not in self._uniform:
            self._uniform[bits] = self._quantize(bits)
        return self._uniform[bits]

    @cached_property
    def held(self) -> Mapping[str, np.ndarray]:
        """What plans are judged on."""
        return first_runs(self.model, self.calibration.held or self.calibration.samples, MOST_HELD)

    @cached_property
    def space(self) -> Space:
        """What can be chosen."""
        return space_of(self.plain(DEFAULT_BITS))

    @cached_property
    def reference(self) -> Mapping[str, np.ndarray]:
        """The float network's outputs on the held-out samples."""
        return execute(self.model, self.held)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What is judged by itself."""
        return parts_of(self.model, self.reference)

    @cached_property
    def sensitivities(self) -> Sensitivities:
        """What each width alone loses."""
        tensors = {bits: tensor_quantizations(self.plain(BitWidths(8, bits))) for bits in WIDTHS}
        return measure_sensitivities(self.model, self.space, tensors, self.calibration.samples, self.parts)

    @cached_property
    def rounding_losses(self) -> Mapping[str, float]:
        """By layer, what the worst part loses by 4-bit weights rounded to nearest."""
        names = [each.name for each in self.space.layers]
        return rounding_losses(self.model, names, self.calibration.samples, self.parts)

    @cached_property
    def points(self) -> Points:
        """From losses to points, learnt from all samples."""
        return self.points_on(self.reference, MOST_HELD if plan_of(self.model).compiled else MOST_FLOAT)

    def points_on(self, reference: Mapping[str, np.ndarray], most: int) -> Points:
        """From losses on held-out samples to points: the float network gives ``reference`` on those, and at most ``most`` others
        say with them what a point is."""
        parts = parts_of(self.model, reference)
        if not self.held_out or not any(part.scores for part in parts):
            return points_of(parts, reference)
        own = execute(self.model, first_runs(self.model, self.calibration.samples, most))
        both = {name: np.concatenate([np.atleast_1d(own[name]), np.atleast_1d(x)]) for name, x in reference.items()}
        return points_of(parts, both, reference)

    @cached_property
    def prices(self) -> Mapping[BitWidths, PlanCost]:
        """What the uniform plans cost, without passes; those that the machine takes."""
        found = {widths: self._price(self.plain(widths)) for widths in UNIFORM}
        priced = {widths: cost for widths, cost in found.items() if cost is not None}
        if not priced:
            self.price(self.plain(DEFAULT_BITS))  # says why
        return priced

    @cached_property
    def least_fallback(self) -> int:
        """Multiply-adds that stay on the CPU whatever is chosen: a plan that leaves more there is none."""
        return min(cost.fallback_macs for cost in self.prices.values())

    def _price(self, quantized: QuantizedModel) -> PlanCost | None:
        try:
            return self.price(quantized)
        except UserError:
            return None  # a layer fits the machine at other widths

    def trial(self, choice: Choice) -> Trial:
        """The choice tried; known ones are not tried again."""
        if choice not in self.trials:
            self.trials[choice] = self.paid_trial(choice, 0.0)
        return self.trials[choice]

    def paid_trial(self, choice: Choice, rate: float, paying: Collection[str] | None = None) -> Trial:
        """The choice tried with rounding that pays for bits, as `make` takes it."""
        quantized = self.make(self.space.bits(choice), rate, paying)
        cost = self._price(quantized)
        if cost is not None and cost.fallback_macs > self.least_fallback:
            cost = None
        return Trial(choice, quantized, cost, self.judge(quantized), rate)

    def waiting(self, cost: PlanCost) -> set[str]:
        """The layers that wait for their weights, which fewer bytes would make faster."""
        known = known_names(self.plain(DEFAULT_BITS))
        return {base_name(each.name, known) for each in cost.layers if each.waits_for_weights}

    def judge(self, quantized: QuantizedModel) -> Estimate:
        """What a quantized network loses on the held-out samples."""
        return self.points.estimate(losses_of(quantized, self.held, self.parts, self.reference).losses())

    def drop(self, estimate: Estimate) -> Drop:
        """An estimate as the report has it."""
        return drop_of(self.points, estimate, runs_of(self.model, self.held), self.held_out)

    def tables(self) -> Tables:
        """The first tables: each layer's cost from the uniform plans, each loss from the sensitivities."""
        layer_cycles: dict[tuple[int, int, int], float] = {}
        group_cycles: dict[tuple[int, int], list[int]] = {}
        layer_bytes: dict[tuple[int, int], list[int]] = {}
        for widths, cost in self.prices.items():
            w, a = widths.weight_bits, widths.activation_bits
            own, size, of_groups = self.shares(cost)
            layer_cycles |= {(k, w, a): float(each) for k, each in own.items()}
            for k, each in size.items():
                layer_bytes.setdefault((k, w), []).append(each)
            for k, each in of_groups.items():
                group_cycles.setdefault((k, a), []).append(each)
        on_machine = {k for k, _, _ in layer_cycles}
        for k, layer in enumerate(self.space.layers):
            for w, a in itertools.product(WIDTHS, WIDTHS):
                if w not in layer.widths:
                    layer_cycles.pop((k, w, a), None)
                elif k not in on_machine:
                    layer_cycles[k, w, a] = 0.0  # on the CPU in any case
        sens = self.sensitivities
        keys = [(k, w) for k, _ in enumerate(self.space.layers) for w in WIDTHS]
        made = Tables(
            layer_cycles, {key: float(np.mean(each)) for key, each in group_cycles.items()},
            {key: float(np.mean(layer_bytes.get(key, [0]))) for key in keys}, 0.0, 0.0,
            {key: np.array([x.value for x in losses]) for key, losses in sens.weights.items()},
            {key: np.array([x.value for x in losses]) for key, losses in sens.activations.items()},
            np.zeros(len(self.parts)),
        )  # fmt: skip
        widths, cost = min(self.prices.items(), key=lambda each: each[1].bytes)
        return self._balanced(made, self.space.uniform(widths), cost)

    def corrected(self, tables: Tables, trial: Trial) -> Tables:
        """The tables with what a trial's layers really cost in the place of what they had for the widths that it chose."""
        if trial.cost is None:
            return tables
        own, size, of_groups = self.shares(trial.cost)
        weights, activations = trial.choice.weights, trial.choice.activations
        cycles, bytes_, group_cycles = dict(tables.layer_cycles), dict(tables.layer_bytes), dict(tables.group_cycles)
        for k, each in own.items():
            cycles[k, weights[k], activations[self.space.layers[k].group]] = float(each)
            bytes_[k, weights[k]] = float(size[k])
        group_cycles |= {(k, activations[k]): float(each) for k, each in of_groups.items()}
        made = replace(tables, layer_cycles=cycles, layer_bytes=bytes_, group_cycles=group_cycles)
        return self._balanced(made, trial.choice, trial.cost)

    def _balanced(self, tables: Tables, choice: Choice, cost: PlanCost) -> Tables:
        """The tables with a rest that makes the sums of a choice what it costs."""
        return replace(
            tables,
            rest_cycles=tables.rest_cycles + cost.cycles - tables.cycles(self.space, choice),
            rest_bytes=tables.rest_bytes + cost.bytes - tables.bytes(choice),
        )

    def shares(self, cost: PlanCost) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """Cycles and stream bytes by layer, and cycles of the operations without weights by group."""
        known = known_names(self.plain(DEFAULT_BITS))
        layers = {layer.name: k for k, layer in enumerate(self.space.layers)}
        groups = {name: k for k, group in enumerate(self.space.groups) for name in group.nodes}
        own, size, of_groups = dict[int, int](), dict[int, int](), dict[int, int]()
        for each in cost.layers:
            name = base_name(each.name, known)
            if name in layers:
                at = layers[name]
                own[at] = own.get(at, 0) + each.cycles
                size[at] = size.get(at, 0) + each.stream_bytes
            elif name in groups:
                of_groups[groups[name]] = of_groups.get(groups[name], 0) + each.cycles
        return own, size, of_groups


def losses_of(
    quantized: QuantizedModel, samples: Mapping[str, np.ndarray], parts: tuple[Part, ...], reference: Mapping[str, np.ndarray]
) -> Sums:  # fmt: skip
    """What a quantized network loses on samples, on which the float one gives ``reference``."""
    sums = Sums(parts)
    sums.add(reference, run_model(quantized, samples))
    return sums


def drop_of(points: Points, estimate: Estimate, samples: int, held_out: bool) -> Drop:
    """An estimate as the report has it."""
    named = list(zip(points.parts, estimate.losses, strict=True))
    return Drop(
        estimate.points, estimate.error, samples, held_out,
        {part.name: loss.value for part, loss in named},
        {part.name: loss.changed for part, loss in named if part.scores},
    )  # fmt: skip
