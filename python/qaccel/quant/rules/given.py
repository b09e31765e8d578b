"""What a model that came quantized says of its tensors and weights, as the rules take it: data, not advice."""

from __future__ import annotations

import numpy as np

from ...dialect import operators
from ...dialect.operators import Clamp, Quantization, RoundedAttrs
from ...machine.hw import WIDE_ACCUMULATOR_BITS
from ...machine.numerics import MULTIPLIER_BITS, accumulator_width, activation_limits
from ...model import GivenWeights
from .match import Node
from .weights import INT32_MAX, NotQuantizable, QuantizedWeights

WHOLE = 2.0**-7  # how far a real weight over its scale may be from a whole number, being rounded to float32 twice


def rounding_of(node: Node) -> RoundedAttrs:
    """What a ROUNDED node says."""
    attrs = operators.read(node.call)
    assert isinstance(attrs, RoundedAttrs)
    return attrs


def check_on_machine(attrs: RoundedAttrs) -> None:
    """Raises NotQuantizable for 16-bit integers around another zero point than the machine has."""
    if not attrs.on_machine:
        given, wanted = attrs.zero_point + attrs.shift, attrs.shift
        kind = "uint16" if attrs.shift else "int16"
        raise NotQuantizable(
            f"'{attrs.name}' quantizes to {kind} with zero point {given}, and the machine has {wanted} there: quantize activations "
            "symmetrically (ActivationSymmetric in ONNX Runtime)"
        )


def reach_of(q: Quantization) -> tuple[float, float]:
    """Least and greatest real value that integers stand for."""
    lo, hi = activation_limits(q.bits)
    return (lo - q.zero_point) * q.scale, (hi - q.zero_point) * q.scale


def given_output(node: Node, otherwise: Quantization | None) -> tuple[Quantization, Clamp]:
    """What a node's output integers mean and which there are: as its rounding says, or ``otherwise``, that of its input, which
    it keeps. Raises NotQuantizable where there is neither."""
    if node.rounded:
        attrs = rounding_of(node.rounded[0])
        check_on_machine(attrs)
        return attrs.q, attrs.clamp
    if otherwise is None:
        raise NotQuantizable("its output is not quantized: no QuantizeLinear alone reads it")
    return otherwise, Clamp.whole(otherwise.bits)


def given_weights(
    weight: np.ndarray, bias: np.ndarray, given: GivenWeights, source: Quantization, out_scale: float
) -> QuantizedWeights:
    """The integers that real ``weight`` OHWI is made of, on the scales that it came with; ``bias`` [OC] rounded to its unit.

    Raises NotQuantizable where the machine cannot hold them.
    """
    if given.refused:
        raise NotQuantizable(given.refused)
    flat = np.ascontiguousarray(weight, np.float64).reshape(len(weight), -1)
    try:
        scale = np.broadcast_to(given.scale.astype(np.float32), len(flat)).copy()
    except ValueError:
        raise NotQuantizable(f"it has {len(flat)} output channels and {given.scale.size} weight scales") from None
    steps = flat / scale.astype(np.float64)[:, None]
    integers = np.rint(steps)
    if np.abs(steps - integers).max(initial=0.0) > WHOLE:
        raise NotQuantizable("its weights were changed after they were quantized (alpha of a Gemm, or a factor)")
    integers = integers.astype(np.int64)
    unit = (np.float32(source.scale) * scale).astype(np.float64)
    with np.errstate(all="ignore"):
        constant = np.rint(np.asarray(bias, np.float64) / unit)
        ratio = np.float32(source.scale) * scale / np.float32(out_scale)
    if not (np.abs(constant) <= INT32_MAX + 1).all():
        raise NotQuantizable(
            "its bias over the scales of input and weights does not fit 32 bits; use larger weight scales"
        )
    constant = constant.astype(np.int64)
    room = (1 << (accumulator_width(given.bits, source.bits, WIDE_ACCUMULATOR_BITS) - 1)) - 1
    largest = np.abs(integers).sum(axis=1) * source.reach + np.abs(constant)
    if (largest > room).any() or (constant > INT32_MAX).any():
        raise NotQuantizable(
            f"its sums reach {int(largest.max())}, the accumulators {room}; quantize its weights coarser"
        )
    if not (np.isfinite(ratio) & (ratio > 0) & (ratio < 2.0**MULTIPLIER_BITS)).all():
        raise NotQuantizable(
            f"its products are {float(ratio.max()):.3g} output steps each; the machine takes above 0 and below 2^{MULTIPLIER_BITS}"
        )
    return QuantizedWeights(integers.reshape(weight.shape), constant, scale, (), ())


def given_constant(value: np.ndarray, scale: float) -> np.ndarray | None:
    """The integers of a constant operand on the scale that it came with; None where they do not fit the machine's 16 bits."""
    steps = np.asarray(value, np.float64) / scale
    integers = np.rint(steps)
    lo, hi = activation_limits(16)
    fits = (
        np.abs(steps - integers).max(initial=0.0) <= WHOLE
        and lo <= integers.min(initial=0)
        and integers.max(initial=0) <= hi
    )
    return integers.astype(np.int16) if fits else None
