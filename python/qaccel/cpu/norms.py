"""Finds normalizations that are spelled in single operators, and makes each a function of ``schedules.floating``.

Layer, instance and group normalization are the same: rows of neighbours are normalized, and gains and biases belong to runs of
values in turn. Exporters write them as mean, difference, square, mean, square root and quotient.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from ..schedules.floating.rows import Affine, Norm, Rows, normalization
from ..schedules.host import Host, host_of
from .nhwc import is_constant, name_of, offloaded, shape_of, static_shape, values
from .rows import pools_planes, trailing


@tvm.transform.module_pass(opt_level=0, name="ExpandVariance")
class ExpandVariance:
    """Writes a variance as the mean of squared differences, which every later pass knows."""

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Returns the rewritten module."""
        mutator = _Variances(mod)
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function) and not offloaded(function):
                mutator.builder_.update_func(var, mutator.visit_expr(function))
        return mutator.builder_.get()


@relax.expr_functor.mutator
class _Variances(relax.PyExprMutator):
    def visit_function_(self, function: relax.Function) -> relax.Expr:
        return function if offloaded(function) else super().visit_function_(function)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if name_of(call) != "variance":
            return call
        emit, data, axes = self.builder_.emit, call.args[0], call.attrs.axis
        axes = list(range(len(data.ty.shape))) if axes is None else [int(axis) for axis in axes]
        centred = emit(relax.op.subtract(data, emit(relax.op.mean(data, axes, True))))
        return relax.op.mean(emit(relax.op.multiply(centred, centred)), axes, bool(call.attrs.keepdims))


@tvm.transform.module_pass(opt_level=0, name="JoinNorms")
class JoinNorms:
    """Rewrites layer_norm and what is spelled so as ``call_tir``, with the gain and bias behind it where they are constant."""

    def __init__(self, target: tvm.target.Target) -> None:
        self.host = host_of(target)

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Returns the rewritten module. What nobody reads any more stays in it."""
        mutator = _Norms(mod)
        mutator.host, mutator.found = self.host, {}
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function) and not offloaded(function):
                mutator.builder_.update_func(var, mutator.visit_expr(function))
        return mutator.builder_.get()


@relax.expr_functor.mutator
class _Norms(relax.PyExprMutator):
    host: Host
    found: dict[str, tuple[Norm, int]]  # by the function's name: what it computes, and the columns of its rows

    def visit_function_(self, function: relax.Function) -> relax.Expr:
        return function if offloaded(function) else super().visit_function_(function)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        name = name_of(call)
        if name not in ("nn.layer_norm", "divide", "multiply", "add", "reshape") or static_shape(call) is None:
            return call
        if str(call.ty.dtype) != "float32" or any(static_shape(arg) is None for arg in call.args[:1]):
            return call
        made: relax.Expr | None
        if name == "nn.layer_norm":
            made = self.layer_norm(call)
        elif name == "reshape":
            made = self.reshaped(call)
        else:
            made = self.with_constant(call, name)
            if made is None and name != "add":
                made = self.spelled(call, name)
        return call if made is None else made

    def layer_norm(self, call: relax.Call) -> relax.Expr | None:
        """The operator of Relax."""
        columns = trailing(shape_of(call.args[0]), [int(axis) for axis in call.attrs.axes])
        if not columns or not (call.attrs.scale and call.attrs.center):
            return None
        if any(static_shape(arg) is None or math.prod(shape_of(arg)) != columns for arg in call.args[1:]):
            return None
        tables = [arg if len(shape_of(arg)) == 1 else relax.op.reshape(arg, [columns]) for arg in call.args[1:]]
        norm = Norm(float(call.attrs.epsilon), Affine(columns, 1), True, True)
        return self.emitted(norm, columns, call.args[0], tables, shape_of(call))

    def value(self, expr: relax.Expr) -> relax.Expr:
        """What an expression is bound to in the end."""
        while isinstance(expr, relax.Var) and (bound := self.lookup_binding(expr)) is not None:
            expr = bound
        return expr

    def call_of(self, expr: relax.Expr, *names: str) -> relax.Call | None:
        """The call that an expression is bound to, if it is of one of these operators."""
        call = self.value(expr)
        return call if isinstance(call, relax.Call) and name_of(call) in names else None

    def spelled(self, call: relax.Call, name: str) -> relax.Expr | None:
        """``(x - mean) / sqrt(mean((x - mean)**2) + epsilon)``, or times rsqrt, or times 1 / sqrt."""
        for top, bottom in ((0, 1), (1, 0)) if name == "multiply" else ((0, 1),):
            centred, root = self.centred(call.args[top]), call.args[bottom]
            if centred is None:
                continue
            if name == "multiply":
                inverse = self.call_of(root, "divide")
                if inverse is not None:
                    root = inverse.args[1] if self.number(inverse.args[0]) == 1 else None
                    under = None if root is None else self.call_of(root, "sqrt")
                else:
                    under = self.call_of(root, "rsqrt")
            else:
                under = self.call_of(root, "sqrt")
            added = None if under is None else self.call_of(under.args[0], "add")
            if added is None:
                continue
            for one, other in ((0, 1), (1, 0)):
                epsilon = self.number(added.args[one])
                if epsilon is not None and self.is_variance(added.args[other], *centred):
                    columns = trailing(shape_of(call), list(centred[1]))
                    if columns and shape_of(centred[0]) == shape_of(call):
                        return self.emitted(Norm(epsilon), columns, centred[0], [], shape_of(call))
        return None

    def centred(self, expr: relax.Expr) -> tuple[relax.Expr, tuple[int, ...]] | None:
        """(x, axes) of ``x - mean(x, axes)``."""
        difference = self.call_of(expr, "subtract")
        mean = None if difference is None else self.mean(difference.args[1])
        if difference is None or mean is None or not mean[0].same_as(difference.args[0]):
            return None
        return mean

    def mean(self, expr: relax.Expr) -> tuple[relax.Expr, tuple[int, ...]] | None:
        """(x, axes) of a mean that keeps its axes, which are counted from the first; a pool of whole planes is one, too."""
        call = self.call_of(expr, "mean", "nn.avg_pool2d", "nn.adaptive_avg_pool2d")
        shape = None if call is None else static_shape(call.args[0])
        if call is None or shape is None:
            return None
        if name_of(call) != "mean":
            return (call.args[0], (2, 3)) if pools_planes(call) else None
        given = call.attrs.axis
        axes = tuple(sorted(int(a) % len(shape) for a in (given if given is not None else range(len(shape)))))
        return (call.args[0], axes) if call.attrs.keepdims else None

    def is_variance(self, expr: relax.Expr, x: relax.Expr, axes: tuple[int, ...]) -> bool:
        """Whether a value is ``mean((x - mean(x))**2)`` over these axes."""
        mean = self.mean(expr)
        square = None if mean is None else self.call_of(mean[0], "multiply", "power", "square")
        if mean is None or square is None or mean[1] != axes:
            return False
        if name_of(square) == "power" and self.number(square.args[1]) != 2:
            return False
        operands = square.args if name_of(square) == "multiply" else square.args[:1]
        found = [self.centred(operand) for operand in operands]
        return all(each is not None and each[0].same_as(x) and each[1] == axes for each in found)

    def number(self, expr: relax.Expr) -> float | None:
        """The value of a constant of one value."""
        array = self.array(expr)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def array(self, expr: relax.Expr) -> np.ndarray | None:
        """The values of a constant, maybe reshaped."""
        value = self.value(expr)
        if is_constant(value):
            return values(value)
        if isinstance(value, relax.Call) and name_of(value) == "reshape" and static_shape(value) is not None:
            array = self.array(value.args[0])
            return None if array is None else array.reshape(shape_of(value))
        return None

    def norm_of(self, expr: relax.Expr) -> tuple[Norm, int, relax.Call] | None:
        """What a normalization of ours that an expression is bound to computes, the columns of its rows, and its call."""
        call = self.call_of(expr, "call_tir")
        known = None if call is None else self.found.get(call.args[0].name_hint)
        return None if call is None or known is None else (*known, call)

    def reshaped(self, call: relax.Call) -> relax.Expr | None:
        """A normalization whose result has another shape from the beginning."""
        found = self.norm_of(call.args[0])
        if found is None:
            return None
        norm, columns, made = found
        data, *tables = made.args[1].fields
        return self.emitted(norm, columns, data, tables, shape_of(call))

    def with_constant(self, call: relax.Call, name: str) -> relax.Expr | None:
        """A gain or a bias behind a normalization; one that changes nothing is left out."""
        if name == "divide":
            return None
        for one, other in ((0, 1), (1, 0)):
            found, array = self.norm_of(call.args[one]), self.array(call.args[other])
            if found is None or array is None or shape_of(call.args[one]) != shape_of(call):
                continue
            if np.all(array == (1 if name == "multiply" else 0)):
                return call.args[one]
            norm, columns, made = found
            affine = _affine(array.shape, shape_of(call), columns)
            if affine is None or norm.bias or name == "multiply" and norm.gain or norm.affine not in (None, affine):
                return None
            data, *tables = made.args[1].fields
            wider = replace(norm, affine=affine, **{"gain" if name == "multiply" else "bias": True})
            return self.emitted(wider, columns, data, [*tables, relax.const(array.reshape(-1))], shape_of(call))
        return None

    def emitted(
        self, norm: Norm, columns: int, data: relax.Expr, tables: list[relax.Expr], shape: tuple[int, ...]
    ) -> relax.Expr:
        """The call of the function."""
        function = normalization(norm, Rows(shape_of(data), columns), shape, self.host)
        var = self.builder_.add_func(function, "normalization")
        self.found[var.name_hint] = norm, columns
        tables = [
            table if isinstance(table, relax.Var) or is_constant(table) else self.builder_.emit(table)
            for table in tables
        ]
        return relax.call_tir(var, [data, *tables], relax.TensorType(shape, "float32"))


def _affine(array: tuple[int, ...], shape: tuple[int, ...], columns: int) -> Affine | None:
    """How the values of an array broadcast to ``shape`` belong to its values in rows of ``columns``; None if they do not."""
    sizes = [1] * (len(shape) - len(array)) + list(array)
    if len(array) > len(shape):
        return None
    run = 1
    while sizes and sizes[-1] == 1:
        run *= shape[len(sizes) - 1]
        sizes.pop()
    count = 1
    while sizes and sizes[-1] == shape[len(sizes) - 1]:
        count *= sizes.pop()
    if any(size != 1 for size in sizes):
        return None
    fits = count == columns if run == 1 else columns % run == 0
    return Affine(count, run) if fits else None
