"""Bias correction: what rounding shifts a channel's mean by goes back into its bias (arXiv 1906.04721, section 4.2).

Layers are corrected in order, each on what the corrected integer layers before it deliver, against the means of the
float model on the same samples. Nothing changes but int32 constants, so it costs nothing at run time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ...dialect import operators
from ...dialect.quantized import QuantizedModel
from ...evaluate.integers import run_quantized
from ...machine.hw import WIDE_ACCUMULATOR_BITS
from ...machine.numerics import accumulator_width
from ..calibrate.calibration import Calibration
from ..calibrate.channel_means import passes_of

_INT32 = np.iinfo(np.int32)


def correct_biases(q: QuantizedModel, calibration: Calibration) -> QuantizedModel:
    """The model with corrected biases, from the first `passes_of` runs of the calibration's samples.

    A channel keeps its bias where the corrected one would leave int32 or could overflow the accumulator, and where it has no
    weights.
    """
    means = calibration.ranges.means
    own = {spec.name: spec.shape[0] for spec in q.model.inputs if spec.shape}
    passes = passes_of(q.model)
    samples = {
        name: value[: passes * own[name]] if name in own else value for name, value in calibration.samples.items()
    }
    corrected: dict[str, np.ndarray] = {}

    def correct(
        attrs: operators.ConvAttrs,
        delivered: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray,
        weight_scale: np.ndarray,
    ) -> np.ndarray:
        node = q.added.get(attrs.name, attrs.name)
        if node not in means or attrs.name not in q.plan:
            return bias
        step = float(attrs.source.scale) * weight_scale.astype(np.float64)
        got = (delivered + bias) * step
        wanted = bias + np.rint((means[node] - got) / step)
        flat = np.abs(weight.reshape(len(weight), -1).astype(np.int64))
        width = accumulator_width(attrs.weight_bits, attrs.source.bits, WIDE_ACCUMULATOR_BITS)
        room = float(2 ** (width - 1) - 1) - flat.sum(axis=1) * attrs.source.reach
        fits = (np.abs(wanted) <= np.minimum(room, _INT32.max)) & flat.any(axis=1)
        corrected[attrs.name] = np.where(fits, wanted, bias).astype(np.int32)
        return corrected[attrs.name]

    params = q.mod["main"].params
    inputs = {param.name: samples[spec.name] for param, spec in zip(params, q.model.inputs, strict=True)}
    run_quantized(q.mod, inputs, correct=correct)
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
