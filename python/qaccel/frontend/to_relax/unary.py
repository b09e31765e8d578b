"""Converters of element-wise ONNX functions of one tensor to plain Relax calls with scalar constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper
from tvm import relax

from .node import Converter, Node, const

ROOT_HALF = 0.5**0.5


class _Scalars:
    """Calls on one node's tensors in which plain numbers stand for scalar constants of the tensor's type."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.dtype = helper.tensor_dtype_to_np_dtype(node.graph.types[node.proto.input[0]][1])

    def __call__(self, op: Callable[..., relax.Expr], *operands: Any) -> relax.Var:
        """`op` on expressions and numbers, bound."""
        exprs = [const(np.asarray(v, self.dtype)) if isinstance(v, (int, float)) else v for v in operands]
        return self.node.emit(op(*exprs))


def _plain(op: Callable[[relax.Expr], relax.Expr]) -> Converter:
    return lambda node: op(node.args[0])


def _floats(formula: Callable[[_Scalars, relax.Expr, dict[str, Any]], relax.Expr]) -> Converter:
    """A converter from a formula of (scalar calls, operand, attributes)."""

    def convert(node: Node) -> relax.Expr | None:
        if node.out_dtype not in ("float16", "float32", "float64"):
            return None
        return formula(_Scalars(node), node.args[0], node.attrs())

    return convert


op = relax.op


def _hard_sigmoid(do: _Scalars, x: relax.Expr, alpha: float, beta: float) -> relax.Expr:
    return op.clip(do(op.add, do(op.multiply, x, alpha), beta), 0.0, 1.0)


def _exp_minus_one(do: _Scalars, x: relax.Expr) -> relax.Expr:
    """exp(min(x, 0)) - 1."""
    return do(op.add, do(op.exp, do(op.minimum, x, 0.0)), -1.0)


def _elu(do: _Scalars, x: relax.Expr, attrs: dict[str, Any]) -> relax.Expr:
    return op.add(do(op.nn.relu, x), do(op.multiply, _exp_minus_one(do, x), attrs.get("alpha", 1.0)))


def _selu(do: _Scalars, x: relax.Expr, attrs: dict[str, Any]) -> relax.Expr:
    alpha, gamma = attrs.get("alpha", 1.67326319217681884765625), attrs.get("gamma", 1.05070102214813232421875)
    positive = do(op.multiply, do(op.nn.relu, x), gamma)
    return op.add(positive, do(op.multiply, _exp_minus_one(do, x), alpha * gamma))


def _celu(do: _Scalars, x: relax.Expr, attrs: dict[str, Any]) -> relax.Expr:
    alpha = float(attrs.get("alpha", 1.0))
    return op.add(do(op.nn.relu, x), do(op.multiply, _exp_minus_one(do, do(op.multiply, x, 1.0 / alpha)), alpha))


def _softplus(do: _Scalars, x: relax.Expr) -> relax.Expr:
    """relu(x) + log(1 + exp(-|x|)), which does not overflow."""
    small = do(op.exp, do(op.negative, do(op.abs, x)))
    return do(op.add, do(op.nn.relu, x), do(op.log, do(op.add, small, 1.0)))


def _mish(do: _Scalars, x: relax.Expr, attrs: dict[str, Any]) -> relax.Expr:
    """x * tanh(log(1 + e)) with e = exp(x), which is x * n / (n + 2) with n = e * (e + 2); it is x from 20 on."""
    e = do(op.exp, do(op.minimum, x, 20.0))
    n = do(op.multiply, e, do(op.add, e, 2.0))
    return op.multiply(x, do(op.divide, n, do(op.add, n, 2.0)))


def _softsign(do: _Scalars, x: relax.Expr, attrs: dict[str, Any]) -> relax.Expr:
    return op.divide(x, do(op.add, do(op.abs, x), 1.0))


def _thresholded_relu(do: _Scalars, x: relax.Expr, attrs: dict[str, Any]) -> relax.Expr:
    above = do(op.nn.relu, do(op.add, x, -float(attrs.get("alpha", 1.0))))
    return op.multiply(x, do(op.sign, above))


def _swish(do: _Scalars, x: relax.Expr, attrs: dict[str, Any]) -> relax.Expr:
    alpha = float(attrs.get("alpha", 1.0))
    return op.multiply(x, do(op.sigmoid, x if alpha == 1 else do(op.multiply, x, alpha)))


def _gelu(do: _Scalars, x: relax.Expr, attrs: dict[str, Any]) -> relax.Expr:
    if attrs.get("approximate", "none") == "tanh":
        cube = do(op.multiply, do(op.multiply, x, x), x)
        inner = do(op.add, x, do(op.multiply, cube, 0.044715))
        gate = do(op.tanh, do(op.multiply, inner, (2 / np.pi) ** 0.5))
    else:
        gate = do(op.erf, do(op.multiply, x, ROOT_HALF))
    return op.multiply(do(op.multiply, x, 0.5), do(op.add, gate, 1.0))


def _pow(node: Node) -> relax.Expr | None:
    """Pow with a constant scalar exponent; squares and cubes as products."""
    value = node.value(1)
    if node.out_dtype not in ("float16", "float32", "float64"):
        return None
    if value is None or value.size != 1 or value.ndim > len(node.shape()):
        exponents = node.args[1]
        assert exponents is not None
        if str(exponents.ty.dtype) != node.out_dtype:
            exponents = node.emit(op.astype(exponents, node.out_dtype))
        return op.power(node.args[0], exponents)
    do, x, exponent = _Scalars(node), node.args[0], float(value.reshape(-1)[0])
    if exponent == 2:
        return op.multiply(x, x)
    if exponent == 3:
        return op.multiply(do(op.multiply, x, x), x)
    if exponent == 0.5:
        return op.sqrt(x)
    return op.power(x, const(np.asarray(exponent, do.dtype)))


def _prelu(node: Node) -> relax.Expr | None:
    """One slope: leakyrelu. One per channel: nn.prelu over axis 1. Others: relu(x) + min(x, 0) * slope."""
    if node.out_dtype not in ("float16", "float32", "float64"):
        return None
    slope, shape = node.value(1), node.shape()
    if slope is not None and slope.size == 1 and slope.ndim <= len(shape):
        return op.nn.leakyrelu(node.args[0], float(slope.reshape(-1)[0]))
    if slope is not None and len(shape) >= 2 and slope.ndim <= len(shape):
        full = (1,) * (len(shape) - slope.ndim) + slope.shape
        if all(size == 1 or axis == 1 for axis, size in enumerate(full)):
            return op.nn.prelu(node.args[0], const(slope.reshape(-1)), 1)
    do, x = _Scalars(node), node.args[0]
    return op.add(do(op.nn.relu, x), do(op.multiply, do(op.minimum, x, 0.0), node.args[1]))


def _is_infinite(node: Node) -> relax.Expr:
    """IsInf; TVM's importer does not know that one sign alone may be meant."""
    positive, negative = bool(node.attr("detect_positive", 1)), bool(node.attr("detect_negative", 1))
    x = node.args[0]
    if positive and negative:
        return op.isinf(x)
    if not positive and not negative:
        return op.zeros(node.out_shape, "bool")
    return op.equal(x, const(np.asarray(np.inf if positive else -np.inf, node.dtype)))


UNARY: dict[str, Converter] = {
    "Relu": _plain(op.nn.relu),
    "Sigmoid": _plain(op.sigmoid),
    "Tanh": _plain(op.tanh),
    "Erf": _plain(op.erf),
    "Exp": _plain(op.exp),
    "Log": _plain(op.log),
    "Sqrt": _plain(op.sqrt),
    "Abs": _plain(op.abs),
    "Neg": _plain(op.negative),
    "Floor": _plain(op.floor),
    "Ceil": _plain(op.ceil),
    "Sign": _plain(op.sign),
    "Sin": _plain(op.sin),
    "Cos": _plain(op.cos),
    "Round": _plain(op.round),
    "Reciprocal": _floats(lambda do, x, attrs: op.divide(const(np.asarray(1, do.dtype)), x)),
    "LeakyRelu": _floats(lambda do, x, attrs: op.nn.leakyrelu(x, attrs.get("alpha", 0.01))),
    "HardSigmoid": _floats(lambda do, x, a: _hard_sigmoid(do, x, a.get("alpha", 0.2), a.get("beta", 0.5))),
    "HardSwish": _floats(lambda do, x, attrs: op.multiply(x, do(lambda v: _hard_sigmoid(do, v, 1 / 6, 0.5), x))),
    "Swish": _floats(_swish),
    "Gelu": _floats(_gelu),
    "Elu": _floats(_elu),
    "Selu": _floats(_selu),
    "Celu": _floats(_celu),
    "Softplus": _floats(lambda do, x, attrs: _softplus(do, x)),
    "Softsign": _floats(_softsign),
    "Mish": _floats(_mish),
    "ThresholdedRelu": _floats(_thresholded_relu),
    "IsInf": _is_infinite,
    "Pow": _pow,
    "PRelu": _prelu,
}
