"""The constants of layers with weights: what of them the machine can hold, and a module with others in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ...dialect import operators
from ...machine.hw import WIDE_ACCUMULATOR_BITS
from ...machine.numerics import accumulator_width

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class LayerConstants:
    """``weight`` OHWI and ``bias`` [OC], whole numbers, ``scale`` float32 [OC]."""

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray

    def where(self, own: np.ndarray, others: LayerConstants) -> LayerConstants:
        """These of the channels ``own`` (bool [OC]), the others' of the rest, in these dtypes."""
        return LayerConstants(
            np.where(own[:, None, None, None], self.weight, others.weight).astype(self.weight.dtype),
            np.where(own, self.bias, others.bias).astype(self.bias.dtype),
            np.where(own, self.scale, others.scale).astype(self.scale.dtype),
        )


def fits_machine(attrs: operators.ConvAttrs, made: LayerConstants) -> np.ndarray:
    """bool [OC]: the bias is an int32, and no sum of products with it can leave the accumulator."""
    flat = np.abs(made.weight.reshape(len(made.weight), -1).astype(np.int64))
    width = accumulator_width(attrs.weight_bits, attrs.source.bits, WIDE_ACCUMULATOR_BITS)
    room = float(2 ** (width - 1) - 1) - flat.sum(axis=1) * attrs.source.reach
    return np.abs(made.bias) <= np.minimum(room, _INT32.max)


def with_constants(mod: tvm.IRModule, made: Mapping[str, LayerConstants]) -> tvm.IRModule:
    """The module with other constants in the layers named."""

    @mutator
    class Rewriter(PyExprMutator):
        def visit_call_(self, call: relax.Call) -> relax.Expr:
            call = super().visit_call_(call)
            if operators.is_quantized(call):
                attrs = operators.read(call)
                if isinstance(attrs, operators.ConvAttrs) and attrs.name in made:
                    new = made[attrs.name]
                    return attrs.call(call.args[0], new.weight, new.bias, new.scale)
            return call

    result = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    result["main"] = Rewriter(mod).visit_expr(mod["main"])
    return result
