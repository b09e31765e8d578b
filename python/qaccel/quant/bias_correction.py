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

from ..frontend.import_onnx import ImportedModel
from ..hw import WIDE_ACCUMULATOR_BITS
from ..numerics import accumulator_width, activation_limits
from . import operators
from .float_executor import execute
from .interpret import BATCH, run_quantized
from .quantize import QuantizedModel

WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}  # which axis their channels are
SAMPLES = BATCH  # all in one pass
_INT32 = np.iinfo(np.int32)


class ChannelMeans:
    """Means of every channel that a layer with weights gives in the float model; it is called with what each node gives."""

    def __init__(self, model: ImportedModel) -> None:
        nodes = model.onnx_model.graph.node
        self._axes = {n.name: WEIGHTED[n.op_type] for n in nodes if n.op_type in WEIGHTED}
        products = {n.output[0] for n in nodes if n.op_type == "MatMul"}
        self._axes |= {n.name: -1 for n in nodes if n.op_type == "Add" and products & set(n.input)}  # their biases
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, name: str, value: np.ndarray) -> None:
        if name in self._axes and value.ndim >= 2:
            channels = self._axes[name] % value.ndim
            total = value.sum(axis=tuple(k for k in range(value.ndim) if k != channels), dtype=np.float64)
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0) + value.size // value.shape[channels]

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The means [channels] by node, of all that it was called with."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}


def correct_biases(
    q: QuantizedModel, data: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray] | None = None
) -> QuantizedModel:
    """The model with corrected biases, from up to SAMPLES samples of ``data`` (arrays by input name, samples along axis 0).

    ``means``: those of the float model's channels on the same samples, where they are known. A channel keeps its bias where
    the corrected one would leave int32 or could overflow the accumulator, and where it has no weights.
    """
    samples = {name: value[:SAMPLES] for name, value in data.items()}
    if not means:
        watch = ChannelMeans(q.model)
        execute(q.model, samples, watch)
        means = watch.values
    corrected: dict[str, np.ndarray] = {}

    def correct(
        attrs: operators.ConvAttrs, sums: np.ndarray, weight: np.ndarray, bias: np.ndarray, weight_scale: np.ndarray
    ) -> np.ndarray:
        node = q.added.get(attrs.name, attrs.name)
        if node not in means or attrs.name not in q.plan:
            return bias
        step = float(attrs.in_scale) * weight_scale.astype(np.float64)
        got = (sums.mean(axis=(0, 1, 2), dtype=np.float64) + bias) * step
        wanted = bias + np.rint((means[node] - got) / step)
        flat = np.abs(weight.reshape(len(weight), -1).astype(np.int64))
        lo, hi = activation_limits(attrs.activation_bits)
        reach = max(hi - attrs.in_zero_point, attrs.in_zero_point - lo)
        width = accumulator_width(attrs.weight_bits, attrs.activation_bits, WIDE_ACCUMULATOR_BITS)
        room = float(2 ** (width - 1) - 1) - flat.sum(axis=1) * reach
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
