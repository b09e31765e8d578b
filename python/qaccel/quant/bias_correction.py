"""Bias correction: what rounding shifts a channel's mean by goes back into its bias (arXiv 1906.04721, section 4.2).

Layers are corrected in order, each on what the corrected integer layers before it deliver, against the means of the
float model on the same samples. Nothing changes but int32 constants, so it costs nothing at run time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..hw import WIDE_ACCUMULATOR_BITS
from ..numerics import accumulator_width, activation_limits
from . import operators
from .float_executor import execute
from .interpret import BATCH, accumulate, run_quantized
from .quantize import QuantizedModel, attributes

PRODUCTS = ("Gemm", "MatMul")  # their channels are the last axis, those of a convolution axis 1
_INT32 = np.iinfo(np.int32)


def correct_biases(q: QuantizedModel, data: Mapping[str, np.ndarray]) -> QuantizedModel:
    """The model with corrected biases, from up to 64 samples of ``data`` (arrays by input name, samples along axis 0).

    A channel keeps its bias where the corrected one would leave int32 or could overflow the accumulator, and where it has
    no weights.
    """
    own = {spec.name: spec.shape[0] for spec in q.model.inputs if spec.shape}
    passes = max(1, BATCH // max(own.values(), default=1))
    samples = {name: value[: passes * own[name]] if name in own else value for name, value in data.items()}
    ops = {attrs.name: attrs.op for attrs in attributes(q.mod).values() if isinstance(attrs, operators.ConvAttrs)}
    means: dict[str, np.ndarray] = {}

    def note_mean(name: str, value: np.ndarray) -> None:
        if name in q.plan and value.ndim >= 2:
            channels = value.ndim - 1 if ops.get(name) in PRODUCTS else 1
            means[name] = value.mean(axis=tuple(k for k in range(value.ndim) if k != channels), dtype=np.float64)

    execute(q.model, samples, note_mean)
    corrected: dict[str, np.ndarray] = {}

    def correct(attrs: Any, operands: list[Any]) -> list[Any]:
        if not isinstance(attrs, operators.ConvAttrs) or attrs.name not in means:
            return operands
        integers, weight, bias, weight_scale = operands
        step = float(attrs.in_scale) * weight_scale.astype(np.float64)
        got = accumulate(attrs, integers, weight, bias).mean(axis=(0, 1, 2)) * step
        wanted = bias + np.rint((means[attrs.name] - got) / step)
        flat = np.abs(weight.reshape(len(weight), -1).astype(np.int64))
        lo, hi = activation_limits(attrs.activation_bits)
        reach = max(hi - attrs.in_zero_point, attrs.in_zero_point - lo)
        width = accumulator_width(attrs.weight_bits, attrs.activation_bits, WIDE_ACCUMULATOR_BITS)
        room = float(2 ** (width - 1) - 1) - flat.sum(axis=1) * reach
        fits = (np.abs(wanted) <= np.minimum(room, _INT32.max)) & flat.any(axis=1)
        corrected[attrs.name] = np.where(fits, wanted, bias).astype(np.int32)
        return [integers, weight, corrected[attrs.name], weight_scale]

    params = q.mod["main"].params
    inputs = {param.name: samples[spec.name] for param, spec in zip(params, q.model.inputs, strict=True)}
    run_quantized(q.mod, inputs, adjust=correct)
    return dataclasses.replace(q, mod=_with_biases(q.mod, corrected))


def _with_biases(mod: tvm.IRModule, biases: Mapping[str, np.ndarray]) -> tvm.IRModule:
    @mutator
    class Rewriter(PyExprMutator):
        def visit_call_(self, call: relax.Call) -> relax.Expr:
            call = super().visit_call_(call)
            if operators.is_quantized(call):
                attrs = operators.read(call)
                if isinstance(attrs, operators.ConvAttrs) and attrs.name in biases:
                    q, weight, _, scale = call.args
                    return relax.Call(
                        call.op, [q, weight, relax.const(biases[attrs.name]), scale], call.attrs, span=call.span
                    )
            return call

    result = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    result["main"] = Rewriter(mod).visit_expr(mod["main"])
    return result
