"""Steps of activations: which of them a block may change, and a module with others in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from typing import Any

import tvm
from tvm import relax

from ....dialect import operators
from ....dialect.operators import ConvAttrs, EltwiseAttrs, PoolAttrs, Quantization, RequantizeAttrs
from ....relax_tools import bindings, variables
from ...calibrate.narrow import FEW_BITS
from .blocks import attrs_of

_RESCALING = ConvAttrs | EltwiseAttrs | PoolAttrs | RequantizeAttrs


def learnable(function: relax.Function, inside: Container[relax.Var]) -> dict[relax.Var, str]:
    """The names of the calls whose results' steps can change by themselves, by the results.

    They have at most FEW_BITS, what makes them rounds to them, and all that reads them rescales and gives one of ``inside``: a
    table has its operand's step in its entries, and a move or a maximum may hand it on.
    """
    found: dict[relax.Var, str] = {}
    for step in bindings(function):
        attrs = attrs_of(step)
        rescales = isinstance(attrs, _RESCALING) and not _hands_on(attrs) and step.var in inside
        for var in variables(step.value):
            if var in found and not rescales:
                del found[var]
        if isinstance(attrs, _RESCALING) and rescales and attrs.result.bits <= FEW_BITS:
            found[step.var] = attrs.name
    return found


def _hands_on(attrs: operators.ClampedAttrs) -> bool:
    return isinstance(attrs, PoolAttrs) and attrs.result == attrs.source


def with_grids(mod: tvm.IRModule, grids: Mapping[str, Quantization]) -> tvm.IRModule:
    """The module with other scales and zero points where the calls named make integers, and where those are read."""
    function = mod["main"]
    builder = relax.BlockBuilder()
    new: dict[relax.Var, Quantization] = {}

    def renewed(step: relax.Binding) -> relax.Binding:
        attrs = attrs_of(step)
        if attrs is None:
            return step
        fields: dict[str, Any] = {}
        names = ("a", "b") if isinstance(attrs, EltwiseAttrs) else ("source",)
        for name, arg in zip(names, step.value.args, strict=False):
            if arg in new:
                fields[name] = new[arg]
        if attrs.name in grids and operators.output_of(attrs) is not None:
            fields["result"] = new[step.var] = grids[attrs.name]
        if not fields:
            return step
        return relax.VarBinding(
            step.var, builder.normalize(dataclasses.replace(attrs, **fields).call(*step.value.args))
        )

    blocks = [type(block)([renewed(step) for step in block.bindings]) for block in function.body.blocks]
    result = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    body = builder.normalize(relax.SeqExpr(blocks, function.body.body))
    result["main"] = relax.Function(function.params, body, function.ret_ty, attrs=function.attrs)
    return result
