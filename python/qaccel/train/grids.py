"""Which tensors of a PyTorch program become integers, and of how many bits: what the compiler itself does with the program.

Nothing here knows a pattern of operators. The float program goes through the import and the quantizer, with ranges that are all
different, and what comes out is read: two tensors that then have the same scale share one whatever the real ranges will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm import relax

from ..dialect import kinds, operators
from ..dialect.operators import Attrs, MoveAttrs, PoolAttrs, Quantization, QuantizeAttrs, RequantizeAttrs
from ..dialect.quantized import QuantizedModel
from ..frontend.import_torch import origin_of
from ..model import Model
from ..options import Bits
from ..quant.calibrate.ranges import Ranges
from ..quant.quantize import quantize
from ..relax_tools import bindings

# By which each range is wider than the one before. All stay alike, so that no join is taken apart.
_STEP_OF_RANGE = 2.0**-12


@dataclass(frozen=True)
class Grids:
    """By the names of a program's nodes and inputs.

    ``inputs``: the inputs in order. ``tensors``: the bits of each tensor that has a scale of its own. ``same``: tensors that are
    rounded once more to the scale of another. ``reads``: (tensor, the node that reads it) -> bits, where the node reads a copy of
    other bits. ``weights``: the bits of the weights of each layer.
    """

    inputs: tuple[str, ...]
    tensors: Mapping[str, int]
    same: Mapping[str, str]
    reads: Mapping[tuple[str, str], int]
    weights: Mapping[str, int]


def grids_of(model: Model, bits: Bits) -> Grids:
    """The grids that the compiler puts the tensors of a float model on. Raises UserError for a plan that names no node of it."""
    names = [spec.name for spec in model.inputs] + [each.name for each in model.operators]
    ranges = {name: (-1 - k * _STEP_OF_RANGE, 1 + k * _STEP_OF_RANGE) for k, name in enumerate(names)}
    quantized = quantize(model, Ranges(ranges, "structure", 1, exact=True), bits)
    return _read(quantized)


def _read(quantized: QuantizedModel) -> Grids:
    model = quantized.model
    made_by = {each.name: origin_of(each.outputs[0]) for each in model.operators}
    made_by |= {spec.name: spec.name for spec in model.inputs}
    tensors: dict[str, int] = {}
    same: dict[str, str] = {}
    reads: dict[tuple[str, str], int] = {}
    held: dict[relax.Var, str] = {}
    copies: dict[relax.Var, tuple[str, int]] = {}
    for binding in bindings(quantized.mod["main"]):
        if not operators.is_quantized(binding.value):
            continue
        attrs = operators.read(binding.value)
        node, _, step = (attrs.name, "", "") if attrs.name in made_by else attrs.name.rpartition(".")
        sources = [arg for arg in binding.value.args if isinstance(arg, relax.Var)]
        if isinstance(attrs, QuantizeAttrs):
            tensors.setdefault(made_by[node], attrs.result.bits)
            held[binding.var] = made_by[node]
        elif isinstance(attrs, RequantizeAttrs) and step:
            copies[binding.var] = made_by[node], attrs.result.bits
            held[binding.var] = made_by[node]
            continue
        elif not step and (own := _own_scale(attrs)) is not None:
            last = (node, *quantized.fused.get(node, ()))[-1]
            tensors[made_by[last]] = own.bits
            held[binding.var] = made_by[last]
        elif sources[0] in held:
            held[binding.var] = held[sources[0]]
            # Between values of an operand there are none beyond them, so that its range is theirs.
            if not step and isinstance(attrs, MoveAttrs) and attrs.op == kinds.RESIZE.op:
                same[made_by[node]] = held[sources[0]]
        for source in sources:
            if source in copies and _passes(attrs, step):
                copies[binding.var] = copies[source]
            elif source in copies:
                tensor, width = copies[source]
                reads[tensor, origin_of(node)] = width
    weights = {origin_of(name): width.weight_bits for name, width in quantized.plan.items()}
    return Grids(tuple(spec.name for spec in model.inputs), tensors, same, reads, weights)


def _own_scale(attrs: Attrs) -> Quantization | None:
    """What the result's integers mean where they are not on the operand's scale; None where they are, or there are none."""
    made = operators.output_of(attrs)
    keeps = isinstance(attrs, MoveAttrs | PoolAttrs) and all(q == made for q in operators.inputs_of(attrs))
    return None if keeps else made


def _passes(attrs: Attrs, step: str) -> bool:
    """Whether a call only brings its operand into another order for the node that asks for it."""
    return isinstance(attrs, MoveAttrs) and bool(step)
