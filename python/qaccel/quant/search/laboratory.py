"""Where plans are tried: quantized with all passes, compiled for their price, run on held-out samples beside the float network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...dialect.chosen import Drop
from ...dialect.plan_cost import PlanCost, Price
from ...dialect.quantized import QuantizedModel
from ...errors import UserError
from ...evaluate.executor import execute
from ...evaluate.integers import run_model
from ...model import Model
from ...options import WIDTHS, Bits, BitWidths
from ..calibrate.calibration import Calibration
from .losses import Estimate, Part, Points, Sums, parts_of, points_of
from .sensitivity import Sensitivities, measure_sensitivities
from .space import Choice, Space, base_name, known_names, space_of, tensor_quantizations
from .tables import Tables, Trial

Make = Callable[[Bits], QuantizedModel]
UNIFORM = tuple(BitWidths(w, a) for w in WIDTHS for a in WIDTHS)
MOST_HELD = 128  # runs of the network that a plan is judged on


class Laboratory:
    """Tries the plans of one network. ``make`` quantizes with all passes, ``plain`` without any."""

    def __init__(self, model: Model, calibration: Calibration, make: Make, plain: Make, price: Price) -> None:
        self.model, self.calibration = model, calibration
        self.make, self.price = make, price
        self.plain = {widths: plain(widths) for widths in UNIFORM}
        self.held_out = bool(calibration.held)
        self.held = first_runs(model, calibration.held or calibration.samples, MOST_HELD)
        self.trials: dict[Choice, Trial] = {}

    @cached_property
    def space(self) -> Space:
        """What can be chosen."""
        return space_of(self.plain[BitWidths(8, 8)])

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
        tensors = {bits: tensor_quantizations(self.plain[BitWidths(8, bits)]) for bits in WIDTHS}
        return measure_sensitivities(self.model, self.space, tensors, self.calibration.samples, self.parts)

    @cached_property
    def points(self) -> Points:
        """From losses to points."""
        return points_of(self.parts, self.reference, self.sensitivities.all)

    @cached_property
    def prices(self) -> Mapping[BitWidths, PlanCost]:
        """What the uniform plans cost, without passes; those that the machine takes."""
        found = {widths: self._price(quantized) for widths, quantized in self.plain.items()}
        priced = {widths: cost for widths, cost in found.items() if cost is not None}
        if not priced:
            self.price(self.plain[BitWidths(8, 8)])  # says why
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
            quantized = self.make(self.space.bits(choice))
            cost = self._price(quantized)
            if cost is not None and cost.fallback_macs > self.least_fallback:
                cost = None
            self.trials[choice] = Trial(choice, quantized, cost, self.judge(quantized))
        return self.trials[choice]

    def judge(self, quantized: QuantizedModel) -> Estimate:
        """What a quantized network loses on the held-out samples."""
        return self.points.estimate(losses_of(quantized, self.held, self.parts, self.reference).losses())

    def drop(self, estimate: Estimate) -> Drop:
        """An estimate as the report has it."""
        return drop_of(self.points, estimate, runs_of(self.model, self.held), self.held_out)

    def tables(self) -> Tables:
        """The first tables: each layer's cost from the uniform plans, each loss from the sensitivities."""
        known = known_names(self.plain[BitWidths(8, 8)])
        numbers = {layer.name: k for k, layer in enumerate(self.space.layers)}
        groups = {name: k for k, group in enumerate(self.space.groups) for name in group.nodes}
        layer_cycles: dict[tuple[int, int, int], float] = {}
        group_cycles: dict[tuple[int, int], float] = {}
        layer_bytes: dict[tuple[int, int], list[float]] = {}
        rests: list[tuple[float, float]] = []
        for widths, cost in self.prices.items():
            w, a = widths.weight_bits, widths.activation_bits
            rest = float(cost.bytes), 0.0
            for layer in cost.layers:
                name = base_name(layer.name, known)
                if name in numbers:
                    at = numbers[name]
                    layer_cycles[at, w, a] = layer_cycles.get((at, w, a), 0.0) + layer.cycles
                    sizes = layer_bytes.setdefault((at, w), [])
                    if layer.stream_bytes:
                        sizes.append(layer.stream_bytes)
                    rest = rest[0] - layer.stream_bytes, rest[1]
                elif name in groups:
                    at_group = groups[name], a
                    group_cycles[at_group] = group_cycles.get(at_group, 0.0) + layer.cycles / len(
                        [each for each in self.prices if each.activation_bits == a]
                    )
                else:
                    rest = rest[0], rest[1] + layer.cycles
            rests.append(rest)
        on_machine = {k for k, _, _ in layer_cycles}
        for k, layer in enumerate(self.space.layers):
            for w in WIDTHS:
                for a in WIDTHS:
                    if w not in layer.widths:
                        layer_cycles.pop((k, w, a), None)
                    elif k not in on_machine:
                        layer_cycles[k, w, a] = 0.0  # on the CPU in any case
        sens = self.sensitivities
        return Tables(
            layer_cycles, group_cycles,
            {(k, w): float(np.mean(layer_bytes.get((k, w)) or [0.0])) for k, _ in enumerate(self.space.layers) for w in WIDTHS},
            min((cycles for _, cycles in rests), default=0.0), min(bytes_ for bytes_, _ in rests),
            {key: np.array([x.value for x in losses]) for key, losses in sens.weights.items()},
            {key: np.array([x.value for x in losses]) for key, losses in sens.activations.items()},
            np.zeros(len(self.parts)),
        )  # fmt: skip

    def corrected(self, tables: Tables, trial: Trial) -> Tables:
        """The tables with what a trial's layers really cost in the place of what they had for the widths that it chose."""
        if trial.cost is None:
            return tables
        known = known_names(trial.quantized)
        numbers = {layer.name: k for k, layer in enumerate(self.space.layers)}
        groups = {name: k for k, group in enumerate(self.space.groups) for name in group.nodes}
        cycles, bytes_ = dict(tables.layer_cycles), dict(tables.layer_bytes)
        own, size, of_groups = dict[int, float](), dict[int, float](), dict[int, float]()
        for layer in trial.cost.layers:
            name = base_name(layer.name, known)
            name = name if name in numbers or name in groups else layer.name.rpartition(".")[0]
            if name in numbers:
                own[numbers[name]] = own.get(numbers[name], 0.0) + layer.cycles
                size[numbers[name]] = size.get(numbers[name], 0.0) + layer.stream_bytes
            elif name in groups:
                of_groups[groups[name]] = of_groups.get(groups[name], 0.0) + layer.cycles
        for k, each in own.items():
            cycles[k, trial.choice.weights[k], trial.choice.activations[self.space.layers[k].group]] = each
            bytes_[k, trial.choice.weights[k]] = size[k]
        group_cycles = {**tables.group_cycles, **{(k, trial.choice.activations[k]): v for k, v in of_groups.items()}}
        made = replace(tables, layer_cycles=cycles, layer_bytes=bytes_, group_cycles=group_cycles)
        return replace(
            made,
            rest_cycles=made.rest_cycles + trial.cost.cycles - made.cycles(self.space, trial.choice),
            rest_bytes=made.rest_bytes + trial.cost.bytes - made.bytes(trial.choice),
        )


def runs_of(model: Model, samples: Mapping[str, np.ndarray]) -> int:
    """How many runs of the network the samples are for."""
    own = {spec.name: spec.shape[0] for spec in model.inputs if spec.shape}
    return min((len(samples[name]) // size for name, size in own.items()), default=1)


def first_runs(model: Model, samples: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """The samples of the first runs."""
    own = {spec.name: spec.shape[0] for spec in model.inputs if spec.shape}
    return {name: value[: most * own[name]] if name in own else value for name, value in samples.items()}


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
