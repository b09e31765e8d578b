"""Inputs and outputs of a quantized module as integers, instead of float32: all of them as the user asks for, or those that were
integers in a model that came quantized.

What quantize and dequantize said of a tensor is then the caller's: ``tvmc inspect`` shows scale and zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import ir, relax

from ..dialect import operators
from ..dialect.operators import Clamp, DequantizeAttrs, Quantization, QuantizeAttrs, RequantizeAttrs
from ..dialect.quantized import QuantizedModel
from ..errors import UserError
from ..machine.numerics import activation_limits
from ..model import TensorSpec
from ..relax_tools import bindings, main_function, node_name, renewed, results, variables
from .rules.weights import activation_quantization

# Of the caller's integers over those of the machine.
OFFSET = {"int8": 0, "uint8": 128, "int16": 0, "uint16": 1 << 15}
_FLOAT = "float32"
_STAYS = ""  # in the place of a type: the model's own, whatever it is
Meaning = Quantization | None
_MOVES = {
    "relax.reshape", "relax.permute_dims", "relax.expand_dims", "relax.squeeze", "relax.flatten", "relax.concat",
    "relax.strided_slice", "relax.take", "relax.tile", "relax.repeat", "relax.flip", "relax.broadcast_to",
}  # fmt: skip


@dataclass(frozen=True)
class IntegerEnds:
    """Types of a module's inputs and outputs, and what those that are integers mean, in order; None for float ones.

    ``notes``: for the user.
    """

    input_types: list[str]
    output_types: list[str]
    inputs: list[Meaning]
    outputs: list[Meaning]
    notes: tuple[str, ...]


def with_ends(model: QuantizedModel, io_dtype: str) -> tuple[tvm.IRModule, IntegerEnds | None]:
    """The quantized module with inputs and outputs of ``io_dtype``, and what they mean if they are integers.

    "float32" leaves those as they are that were no integers in the model; what is not float32 in the model (indices, say)
    stays as it is. Errors as `with_integer_ends`.
    """
    given = model.model.given.ends if model.model.given is not None else {}
    ends = model.model.inputs, model.model.outputs
    types = [
        [given.get(spec.name, io_dtype if spec.dtype == _FLOAT else _STAYS) for spec in specs] for specs in ends
    ]  # fmt: skip
    if not set(types[0] + types[1]) & OFFSET.keys():
        return model.mod, None
    mod, made = with_integer_ends(model.mod, types[0], types[1], *ends, model.apart)
    kept = [] if io_dtype == _FLOAT else [spec for specs in ends for spec in specs if spec.dtype != _FLOAT]
    notes = (
        f"'{spec.name}' stays {spec.dtype}: --io-dtype {io_dtype} is for float32 inputs and outputs" for spec in kept
    )
    return mod, replace(made, notes=(*made.notes, *notes))


def with_integer_ends(
    mod: tvm.IRModule, input_types: list[str], output_types: list[str], inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...], apart: Mapping[str, tuple[float, float]],
) -> tuple[tvm.IRModule, IntegerEnds]:  # fmt: skip
    """``main`` with inputs and outputs in these types (those of OFFSET, else they stay), and what their integers mean, in order.

    ``apart``: ranges of joined tensors by node. Shapes and order of axes stay the model's. Raises UserError naming an input that
    is not quantized to as many bits by what reads it first, or an output that is not such an integer before it is dequantized.
    """
    function = mod["main"]
    reads = _reads(bindings(function))
    builder = relax.BlockBuilder()
    values: dict[relax.Var, relax.Expr] = {}
    params: list[relax.Var] = []
    meanings: list[Meaning] = []
    for param, spec, dtype in zip(function.params, inputs, input_types, strict=True):
        attrs = reads.get(param)
        if dtype not in OFFSET:
            params.append(param)
            meanings.append(None)
            continue
        if attrs is None or attrs.result.bits != np.dtype(dtype).itemsize * 8:
            width = f"has {attrs.result.bits} bits" if attrs is not None else "is read in floating point"
            raise UserError(
                f"--io-dtype {dtype}: input '{spec.name}' {width} in this module; choose 8-bit activations for what "
                "reads it, or --io-dtype float32"
            )
        params.append(relax.Var(param.name, relax.TensorType(operators.static_shape(param), dtype)))
        meanings.append(attrs.result)
    others = {var: fn for var, fn in mod.functions_items() if var.name_hint != "main"}
    with main_function(builder, params):
        with builder.dataflow():
            integers = {
                param: _shifted(builder, new, -OFFSET[dtype], operators.carrier(q.bits))
                for param, new, dtype, q in zip(function.params, params, input_types, meanings, strict=True)
                if q is not None
            }
            means = dict(zip(function.params, meanings, strict=True))
            for param, q in means.items():
                if q is not None and _read_otherwise(param, q, bindings(function)):
                    values[param] = _real(builder, integers[param], q)
            made = {binding.var: binding.value for binding in bindings(function)}
            for binding in bindings(function):
                call = binding.value
                entry = operators.read(call) if operators.is_quantized(call) else None
                if isinstance(entry, QuantizeAttrs):
                    source = call.args[0]
                    if source in integers and entry.result == means[source]:
                        values[binding.var] = _laid_out(builder, integers[source], entry)
                        continue
                values[binding.var] = builder.emit(renewed(call, values))
            ends: list[relax.Expr] = []
            out_meanings: list[Meaning] = []
            notes: list[str] = []
            for result, spec, dtype in zip(results(function), outputs, output_types, strict=True):
                if dtype not in OFFSET:
                    ends.append(renewed(result, values))
                    out_meanings.append(None)
                    continue
                expr, q, parts = _integers_of(builder, result, made, values, spec, dtype, apart)
                notes += [note] if (note := _cost(spec, dtype, q, parts)) else []
                ends.append(_shifted(builder, expr, OFFSET[dtype], dtype))
                out_meanings.append(q)
            out = builder.emit_output(ends[0] if len(ends) == 1 else relax.Tuple(ends))
        builder.emit_func_output(out)
    result_mod = tvm.IRModule({**others, "main": builder.get()["main"]}, attrs=mod.attrs)
    return relax.transform.DeadCodeElimination(["main"])(result_mod), IntegerEnds(
        [dtype or spec.dtype for dtype, spec in zip(input_types, inputs, strict=True)],
        [dtype or spec.dtype for dtype, spec in zip(output_types, outputs, strict=True)],
        [_as_shown(q, dtype) for q, dtype in zip(meanings, input_types, strict=True)],
        [_as_shown(q, dtype) for q, dtype in zip(out_meanings, output_types, strict=True)],
        tuple(notes),
    )


def _as_shown(q: Meaning, dtype: str) -> Meaning:
    return None if q is None else replace(q, zero_point=q.zero_point + OFFSET[dtype])


def _reads(bindings: list[relax.Binding]) -> dict[relax.Var, QuantizeAttrs]:
    """How each variable is quantized first."""
    found: dict[relax.Var, QuantizeAttrs] = {}
    for binding in bindings:
        if operators.is_quantized(binding.value):
            attrs = operators.read(binding.value)
            if isinstance(attrs, QuantizeAttrs) and isinstance(binding.value.args[0], relax.Var):
                found.setdefault(binding.value.args[0], attrs)
    return found


def _read_otherwise(param: relax.Var, q: Quantization, bindings: list[relax.Binding]) -> bool:
    """Whether anything but a quantize of this meaning reads an input."""
    for binding in bindings:
        call = binding.value
        fields = list(call.args) if isinstance(call, relax.Call) else [call]
        fields += [f for field in fields if isinstance(field, relax.Tuple) for f in field.fields]
        if any(isinstance(f, relax.Var) and f.same_as(param) for f in fields):
            attrs = operators.read(call) if operators.is_quantized(call) else None
            if not isinstance(attrs, QuantizeAttrs) or attrs.result != q:
                return True
    return False


def _shifted(builder: relax.BlockBuilder, expr: relax.Expr, shift: int, dtype: str) -> relax.Expr:
    if not shift:
        return expr
    wide = builder.emit(relax.op.astype(expr, "int32"))
    moved = builder.emit(relax.op.add(wide, relax.const(np.asarray(shift, np.int32))))
    return builder.emit(relax.op.astype(moved, dtype))


def _real(builder: relax.BlockBuilder, expr: relax.Expr, q: Quantization) -> relax.Expr:
    steps = builder.emit(relax.op.astype(expr, "float32"))
    centred = builder.emit(relax.op.subtract(steps, relax.const(np.asarray(q.zero_point, np.float32))))
    return builder.emit(relax.op.multiply(centred, relax.const(np.asarray(q.scale, np.float32))))


def _laid_out(builder: relax.BlockBuilder, expr: relax.Expr, attrs: QuantizeAttrs) -> relax.Expr:
    """The integers in the order that quantize would have given them."""
    turned = expr
    if attrs.axes != tuple(range(len(attrs.axes))):
        turned = builder.emit(relax.op.permute_dims(expr, list(attrs.axes)))
    return builder.emit(relax.op.reshape(turned, attrs.shape))


def _integers_of(
    builder: relax.BlockBuilder, result: relax.Expr, made: dict[relax.Var, relax.Expr],
    values: dict[relax.Var, relax.Expr], spec: TensorSpec, dtype: str, apart: Mapping[str, tuple[float, float]],
) -> tuple[relax.Expr, Quantization, dict[str, Quantization | None]]:  # fmt: skip
    """The integers that an output is dequantized from, in the output's shape, what they mean, and its parts by name.

    An output that is joined from parts with scales of their own is joined from their integers on one scale instead.
    """
    bits = np.dtype(dtype).itemsize * 8
    parts, floats, spans = dict[str, Quantization | None](), set[relax.Expr](), list[tuple[float, float]]()

    def look(expr: relax.Expr) -> None:
        call = made.get(expr) if isinstance(expr, relax.Var) else None
        attrs = operators.read(call) if operators.is_quantized(call) else None
        if isinstance(call, relax.Call) and node_name(call) in apart:
            spans.append(apart[node_name(call)])
        if isinstance(attrs, DequantizeAttrs):
            parts[attrs.name] = attrs.source
        elif isinstance(call, relax.Var):
            look(call)
        elif isinstance(call, relax.Call) and isinstance(call.op, ir.Op) and call.op.name in _MOVES:
            for var in variables(call):
                look(var)
        else:
            floats.add(expr)
            parts[node_name(call) if isinstance(call, relax.Call) else spec.name] = None

    look(result)
    meanings = set(parts.values())
    only = next(iter(meanings)) if len(meanings) == 1 else None
    if not spans and (only is None or only.bits != bits):
        raise UserError(
            f"--io-dtype {dtype}: output '{spec.name}' is no {bits}-bit integer on the accelerator (a float operator such as "
            "Softmax makes it, or it has other bits); remove that operator from the model, choose 8-bit activations, or "
            "--io-dtype float32"
        )
    q = only if only is not None and not spans else activation_quantization(*spans[0], bits)

    def integers(expr: relax.Expr) -> relax.Expr:
        if expr in floats:
            return _rounded(builder, renewed(expr, values), q)
        call = made[expr]
        attrs = operators.read(call) if operators.is_quantized(call) else None
        if isinstance(attrs, DequantizeAttrs):
            held = renewed(call.args[0], values)
            if attrs.source != q:
                one = RequantizeAttrs(f"{attrs.name}.joined", operators.COPY, q, Clamp.whole(bits), attrs.source)
                held = builder.emit(one.call(held))
            shaped = builder.emit(relax.op.reshape(held, attrs.shape))
            return builder.emit(relax.op.permute_dims(shaped, list(attrs.axes)))
        if isinstance(call, relax.Var):
            return integers(call)
        moved = {var: integers(var) for var in dict.fromkeys(variables(call))}
        arguments = [renewed(argument, moved) for argument in call.args]
        return builder.emit(relax.Call(call.op, arguments, call.attrs, call.ty_args, call.span))

    return builder.emit(relax.op.reshape(integers(result), spec.shape)), q, parts


def _rounded(builder: relax.BlockBuilder, expr: relax.Expr, q: Quantization) -> relax.Expr:
    """A float tensor as int8."""
    steps = builder.emit(relax.op.divide(expr, relax.const(np.float32(q.scale))))
    placed = builder.emit(relax.op.add(relax.op.round(steps), relax.const(np.float32(q.zero_point))))
    return builder.emit(relax.op.astype(relax.op.clip(placed, *activation_limits(q.bits)), "int8"))


def _cost(spec: TensorSpec, dtype: str, q: Quantization, parts: Mapping[str, Quantization | None]) -> str:
    """What it costs that an output has one scale, as a note; empty where nothing. ``parts`` in float are None."""
    costs, bits = [], np.dtype(dtype).itemsize * 8
    for name, part in parts.items():
        if part is None:
            costs.append(f"'{name}' is rounded to them")
        elif part.scale * (1 << part.bits) < q.scale * (1 << bits) / 2:
            costs.append(f"'{name}' spans {part.scale * (1 << part.bits) / q.scale:.2g} of them")
    if not costs:
        return ""
    return (
        f"output '{spec.name}' has one scale with --io-dtype {dtype}, {1 << bits} steps of {q.scale:.3g}: {', '.join(costs)}; "
        "--io-dtype float32 keeps a scale for each part"
    )
