"""Functions whose sizes are arguments: compiled once for a CPU, called with arrays of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

Expr = Any  # a TIR expression
Body = Callable[..., None]


def function(buffers: Sequence[str], scalars: Sequence[str], body: Body) -> tirx.PrimFunc:
    """A PrimFunc of flat buffers of these dtypes and scalars of those; ``body`` gets them all, in that order.

    The buffers may lie anywhere in memory, and none overlaps another.
    """
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
            flat = [
                T.arg(f"t{k}", T.buffer((tirx.Var(f"n{k}", "int32"),), dtype, align=1))
                for k, dtype in enumerate(buffers)
            ]
            values = [T.arg(f"s{k}", tirx.Var(f"s{k}", dtype)) for k, dtype in enumerate(scalars)]
            with T.sblock("root"):
                T.reads()
                T.writes()
                body(*flat, *values)
        return builder.get()


def compiled(made: tirx.PrimFunc, target: tvm.target.Target) -> Callable[..., None]:
    """The function for this CPU; it takes arrays by DLPack, and numbers."""
    return tvm.compile(tvm.IRModule({"main": made}), target=target).jit()["main"]


def variable(dtype: str = "int32") -> Any:
    """A number that changes: a buffer of one element. Unlike a bound expression it is opaque to TVM's simplifier."""
    return T.alloc_buffer((1,), dtype)


def fma(dtype: str, first: Expr, second: Expr, third: Expr) -> Expr:
    """``first * second + third``, rounded once."""
    return tirx.call_llvm_pure_intrin(dtype, "llvm.fma", first, second, third)
