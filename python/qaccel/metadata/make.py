"""What a module says of itself, made where it is compiled: its model, inputs and outputs, versions and report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ..dialect import operators
from ..dialect.quantized import HeldTensor, InputSeen, QuantizedModel
from ..machine.isa import isa
from ..model import Model, TensorSpec
from ..quant.io_dtype import IntegerEnds
from ..quant.quantize import attributes
from ..relax_tools import bindings, known_shape, node_name, results, variables
from ..version import __version__
from .read import FORMAT

_LAYOUTS = {3: "NCW", 4: "NCHW", 5: "NCDHW"}  # ONNX's


def make_metadata(
    name: str,
    target: str,
    model: Model,
    quantized: QuantizedModel | None,
    report: dict[str, Any] | None,
    integers: IntegerEnds | None = None,
) -> dict[str, Any]:
    """The dictionary that `link.link` embeds. ``report`` and the quantization of tensors are absent for the CPU alone."""
    ends: tuple[list[operators.Quantization | None], list[operators.Quantization | None]] = (
        _ends(quantized.mod, False)
        if quantized is not None
        else ([None] * len(model.inputs), [None] * len(model.outputs))
    )
    inputs, outputs = model.inputs, model.outputs
    if integers is not None:
        ends = _where_known(integers.inputs, ends[0]), _where_known(integers.outputs, ends[1])
        inputs, outputs = (
            tuple(replace(spec, dtype=dtype) for spec, dtype in zip(specs, types, strict=True))
            for specs, types in ((inputs, integers.input_types), (outputs, integers.output_types))
        )
    return {
        "format": FORMAT,
        "qaccel": __version__,
        "tvm": tvm.__version__,
        "isa_version": isa().version,
        "model": name,
        "target": target,
        "inputs": [_tensor(spec, q) for spec, q in zip(inputs, ends[0], strict=True)],
        "outputs": [_tensor(spec, q) for spec, q in zip(outputs, ends[1], strict=True)],
        "came_quantized": _came_quantized(model),
        "preprocess": None if quantized is None else quantized.preprocess,
        "calibration": [] if quantized is None else seen_entries(quantized.seen),
        "tensors": {} if quantized is None else _tensors_inside(quantized),
        "fixed_inputs": {each: value.tolist() for each, value in model.fixed.items()},
        "report": report,
    }


def seen_entries(seen: Iterable[InputSeen]) -> list[dict[str, Any]]:
    """What calibration saw of each input as plain values, as report.json and the metadata have it."""
    keys = ("lo", "hi", "mean", "deviation")
    return [
        {
            "name": each.name,
            "samples": each.samples,
            **{key: getattr(each, key) for key in keys},
            "channels": [dict(zip(keys, channel, strict=True)) for channel in each.channels],
        }
        for each in seen
    ]


def _tensors_inside(quantized: QuantizedModel) -> dict[str, Any]:
    """By call, what the integers between layers mean, and which tensor of the float model they stand for."""
    found: dict[str, Any] = {}
    for name, attrs in attributes(quantized.mod).items():
        q, held = operators.output_of(attrs), quantized.held.get(name)
        if q is not None and held is not None:
            found[name] = {
                "bits": q.bits, "scale": q.scale, "zero_point": q.zero_point, "tensor": held.tensor,
                "view": list(held.view), "axes": list(held.axes),
            }  # fmt: skip
    if quantized.model.factors:
        floats = _shapes(quantized.model.mod)
        for name, nhwc in _shapes(quantized.mod).items():
            factors = quantized.model.factors.get(quantized.held[name].tensor) if name in found else None
            if factors is not None:
                whole = _in_place(factors, floats[quantized.held[name].tensor], quantized.held[name], nhwc)
                found[name]["factors"] = whole.tolist()
    return found


def _shapes(mod: tvm.IRModule) -> dict[str, tuple[int, ...]]:
    """By node, the shape of the last value that it makes."""
    calls = [b for b in bindings(mod["main"]) if isinstance(b.value, relax.Call)]
    named = {
        operators.read(b.value).name if operators.is_quantized(b.value) else node_name(b.value): b.var for b in calls
    }
    return {name: known_shape(var) or () for name, var in named.items()}


def _in_place(factors: np.ndarray, shape: tuple[int, ...], held: HeldTensor, nhwc: tuple[int, ...]) -> np.ndarray:
    """What the real values of integers [n, h, w, c] are times to be those of the source's tensor, which has this ``shape``: one for
    each value of the last axis, or for each value where those of a channel do not all lie there."""
    whole = held.arranged(np.broadcast_to(factors.reshape(-1, *(1,) * (len(shape) - 2)), shape), nhwc)
    rows = whole.reshape(-1, nhwc[3])
    return rows[0] if (rows == rows[0]).all() else whole.reshape(-1)


def _where_known(
    own: list[operators.Quantization | None], otherwise: list[operators.Quantization | None]
) -> list[operators.Quantization | None]:
    return [mine if mine is not None else theirs for mine, theirs in zip(own, otherwise, strict=True)]


def _came_quantized(model: Model) -> list[dict[str, Any]]:
    """Scale, zero point and integers of each tensor, and the scales of weights, as the file of a quantized model has them."""
    if model.given is None:
        return []
    calls = [binding.value for binding in bindings(model.mod["main"]) if operators.is_quantized(binding.value)]
    tensors: list[dict[str, Any]] = []
    for attrs in (operators.read(call) for call in calls):
        assert isinstance(attrs, operators.RoundedAttrs)
        limits = [attrs.lo + attrs.shift, attrs.hi + attrs.shift]
        zero_point = attrs.zero_point + attrs.shift
        tensors.append({"name": attrs.name, "scale": attrs.scale, "zero_point": zero_point, "integers": limits})
    weights = model.given.weights.items()
    return tensors + [{"name": name, "weight_bits": w.bits, "weight_scales": w.scale.tolist()} for name, w in weights]


@dataclass(frozen=True)
class Boundary:
    """The network's own input and output: bytes of one batch at the width in which the accelerator sees them.

    ``batch``: samples; ``runs``: how often each subgraph's program runs for them, in the order of the subgraphs.
    """

    batch: int
    input_bytes: int
    output_bytes: int
    runs: tuple[int, ...] = ()


def boundary(mod: tvm.IRModule, subgraphs: Iterable[relax.Function]) -> Boundary:
    """Bytes of the network's inputs and outputs at the accelerator's width; tensors that it never sees count as float.

    What the runtime loops over is axis 0 of each subgraph. The batch is the longest of those loops: a recurrent network's steps
    are none of it.
    """
    function = mod["main"]
    inputs, outputs = _ends(mod, True)
    returned = results(function)
    shapes = [[operators.static_shape(param) for param in each.params] for each in subgraphs]
    runs = tuple(max((shape[0] for shape in each if shape), default=1) for each in shapes)
    first = operators.static_shape(function.params[0]) if function.params else ()
    return Boundary(
        batch=max(runs, default=first[0] if first else 1),
        input_bytes=sum(_bytes(param, q) for param, q in zip(function.params, inputs, strict=True)),
        output_bytes=sum(_bytes(result, q) for result, q in zip(returned, outputs, strict=True)),
        runs=runs,
    )


def _bytes(var: relax.Var, quantization: operators.Quantization | None) -> int:
    bits = quantization.bits if quantization is not None else tvm.DataType(str(var.ty.dtype)).bits
    return -(-math.prod(operators.static_shape(var)) * bits // 8)


def _tensor(spec: TensorSpec, quantization: operators.Quantization | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}
    entry["layout"] = _LAYOUTS.get(len(spec.shape), "")
    if quantization is not None:
        entry |= {"bits": quantization.bits, "scale": quantization.scale, "zero_point": quantization.zero_point}
    return entry


def _ends(
    mod: tvm.IRModule, through_float: bool
) -> tuple[list[operators.Quantization | None], list[operators.Quantization | None]]:
    """How each input and output is quantized: by the quantize that reads it, the dequantize that it comes from.

    ``through_float``: also where float operators such as Softmax lie between the dequantize and the output.
    """
    function = mod["main"]
    values = {binding.var: binding.value for binding in bindings(function)}
    reads: dict[relax.Var, operators.Quantization] = {}
    for value in values.values():
        if operators.is_quantized(value):
            attrs = operators.read(value)
            if isinstance(attrs, operators.QuantizeAttrs) and isinstance(value.args[0], relax.Var):
                reads.setdefault(value.args[0], attrs.result)
    return [reads.get(param) for param in function.params], [
        _made_by(result, values, through_float) for result in results(function)
    ]


def _made_by(
    expr: relax.Expr | None, values: dict[relax.Var, relax.Expr], through_float: bool
) -> operators.Quantization | None:
    while isinstance(expr, relax.Var) and expr in values:
        expr = values[expr]
        if operators.is_quantized(expr):
            attrs = operators.read(expr)
            if isinstance(attrs, operators.DequantizeAttrs):
                return attrs.source
            return None
        if isinstance(expr, relax.Call) and through_float:
            arguments = variables(expr)
            expr = arguments[0] if arguments else None
    return None
