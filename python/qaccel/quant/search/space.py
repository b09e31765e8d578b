"""What can be chosen: the widths of each layer's weights, and those of each group of tensors that must share one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tvm import relax

from ...dialect import names, operators
from ...dialect.operators import ConvAttrs, DequantizeAttrs, IntegerAttrs, Quantization, QuantizeAttrs, RequantizeAttrs
from ...dialect.plan_cost import PlanCost
from ...dialect.quantized import QuantizedModel
from ...options import DEFAULT_BITS, WIDTHS, Bits, BitWidths
from ...relax_tools import bindings, variables


@dataclass(frozen=True)
class Layer:
    """A layer with weights. ``group``: that of what it reads; ``widths``: what its weights can have."""

    name: str
    group: int
    weight_count: int
    widths: tuple[int, ...] = WIDTHS


@dataclass(frozen=True)
class Group:
    """Tensors of one width: what integer operations without weights read and write, and what several layers read.

    ``tensors``: inputs and nodes, by which the float network's values go; ``nodes``: the operations without weights among them;
    ``ends``: those whose results no operation on integers reads, so that a plan must name them. ``outer``: some of its tensors
    enter or leave the integers.
    """

    tensors: tuple[str, ...]
    nodes: tuple[str, ...]
    ends: tuple[str, ...]
    outer: bool = False


@dataclass(frozen=True)
class Choice:
    """Bits of each layer's weights and of each group, in the order of the space."""

    weights: tuple[int, ...]
    activations: tuple[int, ...]

    def with_weight(self, layer: int, bits: int) -> Choice:
        """The same but for one layer's weights."""
        return replace(self, weights=(*self.weights[:layer], bits, *self.weights[layer + 1 :]))

    def with_activation(self, group: int, bits: int) -> Choice:
        """The same but for one group."""
        return replace(self, activations=(*self.activations[:group], bits, *self.activations[group + 1 :]))


@dataclass(frozen=True)
class Space:
    """All that can be chosen of one network."""

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]

    def uniform(self, widths: BitWidths) -> Choice:
        """One pair for the whole network; layers that came with integer weights keep theirs."""
        weights = (widths.weight_bits if widths.weight_bits in each.widths else each.widths[0] for each in self.layers)
        return Choice(tuple(weights), (widths.activation_bits,) * len(self.groups))

    def bits(self, choice: Choice) -> Bits:
        """The choice as the quantizer takes it: a pair where it is uniform, else by node."""
        pairs = {*zip(choice.weights, (choice.activations[each.group] for each in self.layers), strict=True)}
        if len(pairs) == 1 and len({*choice.activations}) == 1:
            return BitWidths(*pairs.pop())
        return self.plan(choice)

    def plan(self, choice: Choice) -> dict[str, BitWidths]:
        """The choice by node, that of a uniform one, too."""
        plan = {
            layer.name: BitWidths(weight, choice.activations[layer.group])
            for layer, weight in zip(self.layers, choice.weights, strict=True)
        }
        for group, activation in zip(self.groups, choice.activations, strict=True):
            plan |= {name: BitWidths(DEFAULT_BITS.weight_bits, activation) for name in group.ends}
        return plan

    def mean_weight_bits(self, choice: Choice) -> float:
        """By weights."""
        total = sum(each.weight_count for each in self.layers)
        return sum(b * each.weight_count for b, each in zip(choice.weights, self.layers, strict=True)) / max(1, total)

    def mean_stream_bits(self, cost: PlanCost) -> float:
        """What a weight takes in its stream, by weights."""
        total = sum(each.weight_count for each in self.layers)
        return 8 * sum(each.stream_bytes for each in cost.layers) / max(1, total)


def space_of(quantized: QuantizedModel) -> Space:
    """The space of a network, from how it is quantized at one width everywhere."""
    known = known_names(quantized)
    owner: dict[relax.Var, relax.Var] = {}

    def find(var: relax.Var) -> relax.Var:
        while owner.setdefault(var, var) is not var:
            var = owner[var]
        return var

    calls = [
        (binding.var, operators.read(binding.value), binding.value)
        for binding in bindings(quantized.mod["main"])
        if operators.is_quantized(binding.value)
    ]
    read = {var for _, attrs, call in calls if not isinstance(attrs, DequantizeAttrs) for var in variables(call)}
    weighted: dict[str, tuple[relax.Var, int]] = {}
    for var, attrs, call in calls:
        if isinstance(attrs, QuantizeAttrs | DequantizeAttrs):
            continue
        base, source = base_name(attrs.name, known), variables(call)[0]
        if isinstance(attrs, ConvAttrs) and base in quantized.plan:
            count = weighted.get(base, (source, 0))[1]
            weighted[base] = source, count + int(operators.constant(call.args[1]).size)
            if var not in read:
                owner[find(var)] = find(source)  # its result has the width that the layer is given
        else:
            for each in variables(call):
                owner[find(each)] = find(var)
    roots: dict[relax.Var, int] = {}
    for source, _ in weighted.values():
        roots.setdefault(find(source), len(roots))
    for var, attrs, _ in calls:
        if isinstance(attrs, IntegerAttrs) and not (isinstance(attrs, ConvAttrs) and attrs.name in quantized.plan):
            roots.setdefault(find(var), len(roots))
    tensors: list[dict[str, None]] = [{} for _ in roots]
    nodes: list[dict[str, None]] = [{} for _ in roots]
    ends: list[dict[str, None]] = [{} for _ in roots]
    for var, attrs, _ in calls:
        name = base_name(attrs.name, known)
        if isinstance(attrs, DequantizeAttrs) or find(var) not in roots:
            continue
        group = roots[find(var)]
        tensors[group][quantized.fused.get(name, (name,))[-1]] = None
        if isinstance(attrs, IntegerAttrs) and name not in quantized.plan:
            nodes[group][name] = None
            if var not in read and name in known:
                ends[group][name] = None
    crossed = [var for var, attrs, _ in calls if isinstance(attrs, QuantizeAttrs)]
    crossed += [variables(call)[0] for _, attrs, call in calls if isinstance(attrs, DequantizeAttrs)]
    outer = {roots.get(find(var)) for var in crossed}
    used = {roots[find(source)] for source, _ in weighted.values()} | {k for k, each in enumerate(ends) if each}
    number = {old: new for new, old in enumerate(sorted(used))}
    given = {} if quantized.model.given is None else quantized.model.given.weights
    layers = (
        Layer(name, number[roots[find(source)]], count, (given[name].bits,) if name in given else WIDTHS)
        for name, (source, count) in weighted.items()
    )
    groups = (Group(tuple(tensors[k]), tuple(nodes[k]), tuple(ends[k]), k in outer) for k in number)
    return Space(tuple(layers), tuple(groups))


def tensor_quantizations(quantized: QuantizedModel) -> Mapping[str, Quantization]:
    """How each tensor is quantized in a network of one width, by input or node, as the float network's values go."""
    known = known_names(quantized)
    found = {}
    for binding in bindings(quantized.mod["main"]):
        if operators.is_quantized(binding.value):
            attrs = operators.read(binding.value)
            made = operators.output_of(attrs)
            copied = isinstance(attrs, RequantizeAttrs) and attrs.name not in known
            if made is not None and not copied:
                name = base_name(attrs.name, known)
                found[quantized.fused.get(name, (name,))[-1]] = made
    return found


def known_names(quantized: QuantizedModel) -> set[str]:
    """Names of the model's operators and inputs."""
    return {each.name for each in quantized.model.operators} | {spec.name for spec in quantized.model.inputs}


def base_name(name: str, known: set[str]) -> str:
    """The node that a step of it is named after."""
    head, _, which = name.rpartition(".")
    return name if name in known or not head else head if head in known or names.phase_of(which) else name
