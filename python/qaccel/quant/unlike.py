"""Parts that lose most of their values to a scale they share: found inside a quantized network, measured, and named.

A Concat or Add inside the network has one scale. A part of a small share of its range keeps few of its steps, and no figure of the
whole tensor shows it. More bits cure it: where no width was asked for they are taken, else a note and the report say which line of
a plan.json takes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from ..dialect import operators
from ..dialect.operators import Attrs, ConvAttrs, EltwiseAttrs, IntegerAttrs, MoveAttrs, Quantization, QuantizeAttrs
from ..dialect.quantized import QuantizedModel, UnlikePart
from ..emulate.executor import execute
from ..machine.numerics import activation_limits
from ..model import Model
from ..options import BITS_WITHOUT_DATA, DEFAULT_BITS, Bits, BitWidths
from ..relax_tools import bindings, variables
from .calibrate.calibration import Calibration
from .calibrate.runs import first_runs
from .quantize import quantize

SHARE = 1 / 16  # of the joined range: less is named
FEWEST_STEPS = 16  # of the joined scale: a part that has them at 16 bits is no loss
WIDE = 16
RUNS = 8  # of the network, that SQNRs are measured on
_NAMED = 4  # parts that the note spells out


def quantize_measured(model: Model, calibration: Calibration, bits: Bits | None) -> QuantizedModel:
    """The quantized model, with what a shared scale costs its parts in ``unlike`` and in a note; ``bits`` None: not asked for.

    Layers behind joins of unlike parts take 16-bit activations where their width is not asked for. Errors as `quantize`.
    """
    quantized = quantize(
        model, calibration.ranges, bits or (DEFAULT_BITS if calibration.measured else BITS_WITHOUT_DATA)
    )
    found = list(_joined(quantized, calibration.ranges.values))
    if not found:
        return quantized
    given = bits if isinstance(bits, Mapping) else {}
    free = bits is None and calibration.measured or isinstance(bits, Mapping)
    sqnrs = _sqnrs(model, calibration, found) if calibration.measured else {}
    parts, wider = [], dict[str, BitWidths]()
    for each in found:
        taken = free and each.moved and not any(name in given for name in each.cure)
        wider |= each.cure if taken else {}
        measured = sqnrs.get((each.join, each.observed))
        parts.append(UnlikePart(each.join, each.part, each.share, each.q.bits, measured, each.cure, taken))
    if wider:
        quantized = quantize(model, calibration.ranges, {**given, **wider})
    return replace(quantized, unlike=tuple(parts), notes=(*quantized.notes, _note(parts)))


@dataclass(frozen=True)
class _Joined:
    """An `UnlikePart` in the making. ``observed``: the node whose values are the part's; ``moved``: joined as it is, not added."""

    join: str
    part: str
    observed: str
    share: float
    q: Quantization
    cure: Mapping[str, BitWidths]
    moved: bool


def _joined(quantized: QuantizedModel, ranges: Mapping[str, tuple[float, float]]) -> Iterator[_Joined]:
    """The parts of less than SHARE of what they are joined in, in order."""
    calls = {
        binding.var: (operators.read(binding.value), binding.value)
        for binding in bindings(quantized.mod["main"])
        if operators.is_quantized(binding.value)
    }
    readers: dict[relax.Var, list[relax.Var]] = {}
    for var, (_, call) in calls.items():
        for read in dict.fromkeys(variables(call)):
            readers.setdefault(read, []).append(var)
    known = {each.name for each in quantized.model.operators} | {spec.name for spec in quantized.model.inputs}
    for var, (attrs, call) in calls.items():
        operands = list(dict.fromkeys(variables(call)))
        moved = isinstance(attrs, MoveAttrs) and len(operands) > 1
        if not moved and not (isinstance(attrs, EltwiseAttrs) and attrs.kind in ("add", "sub")):
            continue
        assert isinstance(attrs, IntegerAttrs)
        q = attrs.result
        least, most = activation_limits(q.bits)
        for operand in operands:
            part = _named(operand, calls, known)
            observed = quantized.fused.get(part, (part,))[-1]
            lo, hi = ranges.get(observed, (0.0, 0.0))
            extent = max(hi, 0.0) - min(lo, 0.0)
            own = operators.output_of(calls[operand][0]) if operand in calls else None
            if own is not None and own.bits == q.bits:  # a bounded function's is more than the samples showed
                extent = max(extent, own.scale * (most - least))
            share = extent / (q.scale * (most - least))
            if 0 < share < min(SHARE, FEWEST_STEPS / (most - least)):
                cure = {
                    name: BitWidths(_weight_bits(name, quantized), WIDE) for name in _ends(var, calls, readers, known)
                }
                yield _Joined(_base(attrs.name, known), part, observed, share, q, cure, moved)


Calls = Mapping[relax.Var, tuple[Attrs, relax.Call]]


def _named(var: relax.Var, calls: Calls, known: set[str]) -> str:
    """The node or input whose values these are, through copies that the compiler made."""
    while var in calls:
        attrs, call = calls[var]
        if attrs.name in known or isinstance(attrs, QuantizeAttrs) or not isinstance(call.args[0], relax.Var):
            return attrs.name
        var = call.args[0]
    return str(var.name)


def _base(name: str, known: set[str]) -> str:
    """The node that a step of it is named after."""
    return name if name in known else name.rpartition(".")[0] or name


def _ends(var: relax.Var, calls: Calls, readers: Mapping[relax.Var, list[relax.Var]], known: set[str]) -> list[str]:
    """The nodes that the joined values reach, first of all the layers with weights: 16 bits asked for there reach the join."""
    found: dict[str, None] = {}
    pending, seen = [var], {var}
    while pending:
        here = pending.pop()
        after = [each for each in readers.get(here, []) if isinstance(calls[each][0], IntegerAttrs)]
        if not after:
            found[_base(calls[here][0].name, known)] = None
        for each in after:
            attrs = calls[each][0]
            two = isinstance(attrs, EltwiseAttrs) and len(variables(calls[each][1])) > 1
            if isinstance(attrs, ConvAttrs) or two:
                found[_base(attrs.name, known)] = None
            elif each not in seen:
                seen.add(each)
                pending.append(each)
    return list(found)


def _weight_bits(name: str, quantized: QuantizedModel) -> int:
    return quantized.plan[name].weight_bits if name in quantized.plan else DEFAULT_BITS.weight_bits


def _sqnrs(model: Model, calibration: Calibration, found: list[_Joined]) -> dict[tuple[str, str], float]:
    """Signal to error in dB of each part on its joined scale, by join and observed node, over RUNS runs of the float model."""
    samples = first_runs(model, calibration.samples, RUNS)
    sums = {(each.join, each.observed): np.zeros(2) for each in found}

    def observe(name: str, value: np.ndarray) -> None:
        for each in found:
            if each.observed == name:
                lo, hi = activation_limits(each.q.bits)
                real = value.astype(np.float64)
                steps = np.clip(np.rint(real / each.q.scale) + each.q.zero_point, lo, hi) - each.q.zero_point
                sums[each.join, name] += (real**2).sum(), ((real - steps * each.q.scale) ** 2).sum()

    execute(model, samples, observe)
    return {key: 10 * math.log10(max(signal, 1e-30) / max(error, 1e-30)) for key, (signal, error) in sums.items()}


def _note(parts: list[UnlikePart]) -> str:
    """One line of all parts: what they lose, and what was done or can be."""
    halves = []
    for taken in (True, False):
        these = [each for each in parts if each.taken == taken]
        if not these:
            continue
        said = ", ".join(
            f"'{each.part}' in '{each.join}' ({each.share:.2g} of its range"
            + ("" if each.sqnr_db is None else f", {each.sqnr_db:.0f} dB at {each.bits} bits") + ")"
            for each in these[:_NAMED]
        )  # fmt: skip
        more = f" and {len(these) - _NAMED} more in the report" if len(these) > _NAMED else ""
        spelled_out = these if taken else these[:_NAMED]
        cure = {name: widths for each in spelled_out for name, widths in each.cure.items()}
        if taken:
            halves.append(f"{said}{more}; activations of 16 bits are taken for {', '.join(map(repr, cure))}")
        else:
            lines = ", ".join(
                f'"{name}": {{"weight_bits": {each.weight_bits}, "activation_bits": {each.activation_bits}}}'
                for name, each in cure.items()
            )
            halves.append(f"{said}{more}; plan.json cures it: {lines}")
    return f"parts of unlike range share a scale: {'; '.join(halves)}"
