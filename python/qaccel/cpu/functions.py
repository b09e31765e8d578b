"""exp, tanh, erf and the functions made of them, as float32 polynomials with a relative error of at most 4e-7.

LLVM computes them in vectors. The C library's functions, which TVM would call, take one value at a time. Where a result is
beyond the range of float32, these give a finite value near the end of that range, not infinity or zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te, tirx, topi

_Function = Callable[[te.Tensor], te.Tensor]


def legalizations() -> dict[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]]:
    """What ``LegalizeOps`` is to use for these operators, by their names. Calls of other types than float32 stay TVM's."""
    return {f"relax.{name}": _legalization(function) for name, function in FUNCTIONS.items()} | {
        f"relax.nn.{name}": _along_axis(function) for name, function in _ALONG_AXIS.items()
    }


def _legalization(function: _Function) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if str(call.ty.dtype) != "float32":
            return _default(builder, call)
        return builder.call_te(function, call.args[0], primfunc_name_hint=call.op.name.split(".")[-1])

    return legalize


def _along_axis(function: Callable[[te.Tensor, int], te.Tensor]) -> Any:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if str(call.ty.dtype) != "float32":
            return _default(builder, call)
        return builder.call_te(function, call.args[0], int(call.attrs.axis))

    return legalize


def _default(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return call.op.get_attr("FLegalize")(builder, call)


def _sigmoid(x: te.Tensor) -> te.Tensor:
    return _computed(topi.fast_exp(topi.negative(x)), lambda e: 1.0 / (1.0 + e), "sigmoid")


def _silu(x: te.Tensor) -> te.Tensor:
    return topi.multiply(x, _sigmoid(x))


def _gelu(x: te.Tensor) -> te.Tensor:
    erf = topi.fast_erf(topi.multiply(x, tirx.const(0.5**0.5, "float32")))
    return topi.multiply(x, _computed(erf, lambda e: 0.5 * e + 0.5, "gelu"))


def _gelu_tanh(x: te.Tensor) -> te.Tensor:
    inner = _computed(x, lambda v: 0.7978845608028654 * v * (1.0 + 0.044715 * v * v), "cubic")
    return topi.multiply(x, _computed(topi.fast_tanh(inner), lambda e: 0.5 * e + 0.5, "gelu"))


def _computed(x: te.Tensor, function: Callable[[Any], Any], name: str) -> te.Tensor:
    return te.compute(x.shape, lambda *index: function(x(*index)), name)


# By the operator's name without "relax.".
FUNCTIONS: dict[str, _Function] = {
    "exp": topi.fast_exp, "tanh": topi.fast_tanh, "erf": topi.fast_erf, "sigmoid": _sigmoid,
    "nn.silu": _silu, "nn.gelu": _gelu, "nn.gelu_tanh": _gelu_tanh,
}  # fmt: skip
_ALONG_AXIS = {"softmax": topi.nn.fast_softmax}
