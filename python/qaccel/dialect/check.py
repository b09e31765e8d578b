"""The form that quantized Relax has at the stage's end; everything after relies on it."""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from ..errors import CompilerFault
from ..machine.numerics import activation_limits
from . import operators
from .operators import Quantization
from .pieces import positions, unflattened

_CLAMPED = (
    operators.ConvAttrs, operators.PoolAttrs, operators.EltwiseAttrs, operators.RequantizeAttrs, operators.MoveAttrs,
)  # fmt: skip


def check_quantized(mod: tvm.IRModule) -> None:
    """Checks ``main``: bits, scales, zero points, clamps, carriers, constants, and that readers agree with writers.

    Raises CompilerFault naming the node and what is wrong with it.
    """
    meaning: dict[relax.Var, Quantization] = {}
    function = mod["main"]
    for block in function.body.blocks:
        for binding in block.bindings:
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
    """One call: its attributes by themselves, then against its operands."""
    read = operators.inputs_of(attrs)
    made = operators.output_of(attrs)
    for q in (*read, made) if made is not None else read:
        _check_quantization(attrs.name, q)
    for operand, q in zip(call.args, read, strict=False):
        dtype = str(operand.ty.dtype)
        if dtype != operators.carrier(q.bits):
            raise CompilerFault(f"{attrs.name}: an operand of {q.bits} bits is carried in {dtype}")
        if len(operators.static_shape(operand)) != 4:
            raise CompilerFault(f"{attrs.name}: an operand has the shape {operand.ty.shape}; NHWC is needed")
        if isinstance(operand, relax.Var) and operand in meaning and meaning[operand] != q:
            raise CompilerFault(f"{attrs.name}: reads an operand as {q}, but it was made as {meaning[operand]}")
    if made is not None and isinstance(attrs, _CLAMPED):
        lo, hi = activation_limits(made.bits)
        if not lo <= attrs.clamp_lo <= attrs.clamp_hi <= hi:
            raise CompilerFault(f"{attrs.name}: clamps to {attrs.clamp_lo}..{attrs.clamp_hi}, outside {made.bits} bits")
    if isinstance(attrs, operators.QuantizeAttrs | operators.DequantizeAttrs):
        _check_border(call, attrs)
    if isinstance(attrs, operators.ConvAttrs):
        _check_conv(call, attrs)
    if isinstance(attrs, operators.MoveAttrs):
        _check_move(call, attrs)
    if isinstance(attrs, operators.PoolAttrs) and attrs.kind not in operators.POOL_KINDS:
        raise CompilerFault(f"{attrs.name}: unknown kind of pooling {attrs.kind!r}")
    if isinstance(attrs, operators.EltwiseAttrs) and attrs.kind not in operators.ELTWISE_KINDS:
        raise CompilerFault(f"{attrs.name}: unknown kind of element-wise operation {attrs.kind!r}")


def _check_border(call: relax.Call, attrs: operators.QuantizeAttrs | operators.DequantizeAttrs) -> None:
    operand = operators.static_shape(call.args[0])
    rank = len(operand if isinstance(attrs, operators.QuantizeAttrs) else attrs.shape)
    if sorted(attrs.axes) != list(range(rank)):
        raise CompilerFault(f"{attrs.name}: axes {list(attrs.axes)} are not a permutation of {rank} dimensions")
    if math.prod(operand) != math.prod(attrs.shape):
        raise CompilerFault(f"{attrs.name}: shape {list(attrs.shape)} does not hold the operand's {list(operand)}")


def _check_quantization(name: str, q: Quantization) -> None:
    if q.bits not in operators.BITS:
        raise CompilerFault(f"{name}: {q.bits} bits; the machine has 4, 8 and 16")
    if not (math.isfinite(q.scale) and q.scale > 0 and float(np.float32(q.scale)) == q.scale):
        raise CompilerFault(f"{name}: scale {q.scale!r} is not a positive float32")
    lo, hi = activation_limits(q.bits)
    if not lo <= q.zero_point <= hi or (q.bits == 16 and q.zero_point != 0):
        raise CompilerFault(f"{name}: zero point {q.zero_point} of a tensor of {q.bits} bits")


def _check_conv(call: relax.Call, attrs: operators.ConvAttrs) -> None:
    weight, bias, scale = (operators.constant(arg) for arg in call.args[1:])
    channels = operators.static_shape(call.args[0])[3]
    if attrs.weight_bits not in operators.BITS or str(weight.dtype) != operators.carrier(attrs.weight_bits):
        raise CompilerFault(f"{attrs.name}: weights of {attrs.weight_bits} bits carried in {weight.dtype}")
    if weight.ndim != 4 or weight.shape[3] * attrs.groups != channels or weight.shape[0] % attrs.groups:
        raise CompilerFault(
            f"{attrs.name}: weights {list(weight.shape)} (OHWI) do not fit {channels} channels in {attrs.groups} groups"
        )
    # The hardware takes the most negative value too; models that come quantized may hold it.
    lo, hi = activation_limits(attrs.weight_bits)
    if weight.size and not (lo <= int(weight.min()) and int(weight.max()) <= hi):
        raise CompilerFault(f"{attrs.name}: a weight is outside {attrs.weight_bits} bits")
    if bias.dtype != np.int32 or bias.shape != weight.shape[:1]:
        raise CompilerFault(f"{attrs.name}: bias {bias.dtype} {list(bias.shape)}; int32 [{len(weight)}] is needed")
    if scale.dtype != np.float32 or scale.shape != weight.shape[:1] or not (np.isfinite(scale) & (scale > 0)).all():
        raise CompilerFault(f"{attrs.name}: weight scales must be {len(weight)} positive float32 values")


def _check_move(call: relax.Call, attrs: operators.MoveAttrs) -> None:
    """Every value of the output is written by exactly one piece, from inside of its source."""
    sizes = [operators.static_shape(arg) for arg in call.args]
    if len(sizes) != len(attrs.in_bits):
        raise CompilerFault(f"{attrs.name}: {len(sizes)} operands, attributes of {len(attrs.in_bits)}")
    _, height, width, channels = attrs.shape
    written = np.zeros((height * width, channels), np.uint8)
    lo, hi = activation_limits(attrs.out_bits)
    if any(not lo <= fill <= hi for fill in attrs.fills):
        raise CompilerFault(f"{attrs.name}: a fill is outside {attrs.out_bits} bits")
    for piece in unflattened(attrs.pieces):
        limits = [(height * width, channels, False)]
        if piece.source < len(sizes):
            _, h, w, c = sizes[piece.source]
            limits.append((h * w, c, True))
        elif piece.source >= len(sizes) + len(attrs.fills):
            raise CompilerFault(f"{attrs.name}: a piece reads operand {piece.source} of {len(sizes)}")
        for pixels, depth, source in limits:
            pixel, channel = positions(piece, source)
            inside = pixel.min() >= 0 and pixel.max() < pixels
            if not (inside and channel.min() >= 0 and channel.max() + piece.channels <= depth):
                raise CompilerFault(f"{attrs.name}: a piece leaves its {'source' if source else 'output'}: {piece}")
        pixel, channel = positions(piece, source=False)
        written[pixel[..., None], channel[..., None] + np.arange(piece.channels)] += 1
    if (written != 1).any():
        raise CompilerFault(f"{attrs.name}: {int((written != 1).sum())} values are not written exactly once")


def _no_integers(call: relax.Call, meaning: dict[relax.Var, Quantization]) -> None:
    for operand in call.args:
        fields = operand.fields if isinstance(operand, relax.Tuple) else [operand]
        if any(isinstance(field, relax.Var) and field in meaning for field in fields):
            raise CompilerFault(f"{call.op}: reads integers of the quantized dialect without a dequantize")
