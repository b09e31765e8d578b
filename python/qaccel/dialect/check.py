"""The form that quantized Relax has at the stage's end; everything after relies on it."""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from ..errors import CompilerFault
from ..machine.numerics import activation_limits
from ..relax_tools import bindings
from . import operators
from .operators import Quantization


def check_quantized(mod: tvm.IRModule) -> None:
    """Checks ``main``: bits, scales, zero points, clamps, carriers, constants, and that readers agree with writers.

    What one operator alone asks for is said by the ``check`` of its class. Raises CompilerFault naming the node and what is
    wrong with it.
    """
    meaning: dict[relax.Var, Quantization] = {}
    function = mod["main"]
    for binding in bindings(function):
        value = binding.value
        if isinstance(value, relax.Var) and value in meaning:
            meaning[binding.var] = meaning[value]
        elif operators.is_quantized(value):
            attrs = operators.read(value)
            _check_call(value, attrs, meaning)
            made = operators.output_of(attrs)
            if made is not None:
                meaning[binding.var] = made
        elif isinstance(value, relax.Call):
            _no_integers(value, meaning)


def _check_call(call: relax.Call, attrs: operators.Attrs, meaning: dict[relax.Var, Quantization]) -> None:
    """One call: its attributes by themselves, then against its operands, then what its operator asks for."""
    read = operators.inputs_of(attrs)
    made = operators.output_of(attrs)
    # Into and out of float any zero point may lead: so a model that came quantized rounds a tensor on the CPU.
    any_zero_point = isinstance(attrs, operators.QuantizeAttrs | operators.DequantizeAttrs)
    for q in (*read, made) if made is not None else read:
        _check_quantization(attrs.name, q, any_zero_point)
    for operand, q in zip(call.args, read, strict=False):
        dtype = str(operand.ty.dtype)
        if dtype != operators.carrier(q.bits):
            raise CompilerFault(f"{attrs.name}: an operand of {q.bits} bits is carried in {dtype}")
        if len(operators.static_shape(operand)) != 4:
            raise CompilerFault(f"{attrs.name}: an operand has the shape {operand.ty.shape}; NHWC is needed")
        if isinstance(operand, relax.Var) and operand in meaning and meaning[operand] != q:
            raise CompilerFault(f"{attrs.name}: reads an operand as {q}, but it was made as {meaning[operand]}")
    if isinstance(attrs, operators.ClampedAttrs):
        lo, hi = activation_limits(attrs.result.bits)
        if not lo <= attrs.clamp.lo <= attrs.clamp.hi <= hi:
            clamp = f"{attrs.clamp.lo}..{attrs.clamp.hi}"
            raise CompilerFault(f"{attrs.name}: clamps to {clamp}, outside {attrs.result.bits} bits")
    attrs.check(call)


def _check_quantization(name: str, q: Quantization, any_zero_point: bool) -> None:
    if q.bits not in operators.BITS:
        raise CompilerFault(f"{name}: {q.bits} bits; the machine has 4, 8 and 16")
    if not (math.isfinite(q.scale) and q.scale > 0 and float(np.float32(q.scale)) == q.scale):
        raise CompilerFault(f"{name}: scale {q.scale!r} is not a positive float32")
    lo, hi = activation_limits(q.bits)
    if not lo <= q.zero_point <= hi or (q.bits == 16 and q.zero_point != 0 and not any_zero_point):
        raise CompilerFault(f"{name}: zero point {q.zero_point} of a tensor of {q.bits} bits")


def _no_integers(call: relax.Call, meaning: dict[relax.Var, Quantization]) -> None:
    for operand in call.args:
        fields = operand.fields if isinstance(operand, relax.Tuple) else [operand]
        if any(isinstance(field, relax.Var) and field in meaning for field in fields):
            raise CompilerFault(f"{call.op}: reads integers of the quantized dialect without a dequantize")
