"""Replaces operators along neighbouring values by functions of ``schedules.floating``: softmax, sums, means, extremes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tvm
from tvm import relax

from ..schedules.floating.rows import REDUCTIONS, Rows, reduction, softmax
from ..schedules.host import Host, host_of
from .nhwc import name_of, offloaded, shape_of, static_shape

_FEWEST = 1024  # values of a part of a row, if one row is divided among the cores


def trailing(shape: Sequence[int], axes: Sequence[int]) -> int:
    """How many neighbouring values these axes have together, which must be the last but for sizes of 1; 0 if they are not."""
    axes = [axis % len(shape) for axis in axes]
    first = min((axis for axis in axes if shape[axis] > 1), default=len(shape))
    if any(axis not in axes and shape[axis] > 1 for axis in range(first, len(shape))):
        return 0
    return math.prod(shape[first:])


def rows_of(shape: tuple[int, ...], axes: Sequence[int]) -> Rows | None:
    """The tensor as rows along these axes; None if they are not the last, or a row has one value or none."""
    columns = trailing(shape, axes)
    return Rows(shape, columns) if columns > 1 and math.prod(shape) else None


@tvm.transform.module_pass(opt_level=0, name="RowFunctions")
class RowFunctions:
    """Rewrites float32 softmax, log_softmax, mean, sum, max and min along neighbouring values as ``call_tir``."""

    def __init__(self, target: tvm.target.Target) -> None:
        self.host = host_of(target)

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Returns the rewritten module. What runs along other axes is left to TVM's own legalization."""
        mutator = _Mutator(mod)
        mutator.host = self.host
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function) and not offloaded(function):
                mutator.builder_.update_func(var, mutator.visit_expr(function))
        return mutator.builder_.get()


@relax.expr_functor.mutator
class _Mutator(relax.PyExprMutator):
    host: Host

    def visit_function_(self, function: relax.Function) -> relax.Expr:
        return function if offloaded(function) else super().visit_function_(function)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        rewrite = _REWRITES.get(name_of(call))
        if rewrite is None or static_shape(call.args[0]) is None or static_shape(call) is None:
            return call
        if str(call.args[0].ty.dtype) != "float32" or str(call.ty.dtype) != "float32":
            return call
        made = rewrite(self, call)
        return call if made is None else made

    def called(self, function: tvm.tirx.PrimFunc, name: str, data: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """A call of a function of one tensor."""
        var = self.builder_.add_func(function, name)
        return relax.call_tir(var, [data], relax.TensorType(list(shape), "float32"))

    def reduced(self, kind: str, data: relax.Expr, axes: Sequence[int], out: tuple[int, ...]) -> relax.Expr | None:
        """A reduction whose last axes are neighbours; what else it reduces follows, in TVM's way."""
        shape = shape_of(data)
        axes = sorted(axis % len(shape) for axis in axes)
        last = max((k for k in range(len(shape)) if shape[k] > 1), default=-1)
        inner = [axis for axis in axes if all(k in axes or shape[k] == 1 for k in range(axis, last + 1))]
        rows = rows_of(shape, inner) if inner else None
        if rows is None:
            return None
        rest = [axis for axis in axes if axis not in inner and shape[axis] > 1]
        if rest:
            middle = tuple(1 if axis in inner else size for axis, size in enumerate(shape))
            found = self.builder_.emit(self.called(reduction(kind, rows, middle, self.host), kind, data, middle))
            whole = self.builder_.emit(getattr(relax.op, kind)(found, rest, True))
            return relax.op.reshape(whole, out)
        parts = _parts(rows, self.host)
        if parts > 1:
            divided = Rows(shape, rows.columns // parts), (rows.rows, parts)
            data = self.builder_.emit(self.called(reduction(kind, *divided, self.host), kind, data, divided[1]))
            rows = Rows(divided[1], parts)
        return self.called(reduction(kind, rows, out, self.host), kind, data, out)


def _parts(rows: Rows, host: Host) -> int:
    """Into how many parts to divide each row, so that every core has a part: a divisor of its columns."""
    wanted = max(1, min(8 * host.cores // rows.rows, rows.columns // _FEWEST))
    return next(parts for parts in range(wanted, 0, -1) if rows.columns % parts == 0)


_Rewrite = Callable[[_Mutator, relax.Call], "relax.Expr | None"]


def _softmax(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    rows = rows_of(shape_of(call), [int(call.attrs.axis)])
    if rows is None:
        return None
    log = name_of(call) == "nn.log_softmax"
    name = "log_softmax" if log else "softmax"
    return self.called(softmax(rows, self.host, log), name, call.args[0], rows.shape)


def _reduction(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    axes = call.attrs.axis
    axes = range(len(shape_of(call.args[0]))) if axes is None else [int(axis) for axis in axes]
    return self.reduced(name_of(call), call.args[0], axes, shape_of(call))


def _pool(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    """An average or a maximum of whole planes."""
    attrs, shape = call.attrs, shape_of(call.args[0])
    if attrs.layout != "NCHW" or shape_of(call)[2:] != (1, 1):
        return None
    if name_of(call) != "nn.adaptive_avg_pool2d":
        size = [int(v) for v in attrs.pool_size]
        if tuple(size) != shape[2:] or any(int(v) for v in attrs.padding) or any(int(v) != 1 for v in attrs.dilation):
            return None
    kind = "max" if name_of(call) == "nn.max_pool2d" else "mean"
    return self.reduced(kind, call.args[0], (2, 3), shape_of(call))


_REWRITES: dict[str, _Rewrite] = {
    "nn.softmax": _softmax, "nn.log_softmax": _softmax, **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("nn.avg_pool2d", "nn.max_pool2d", "nn.adaptive_avg_pool2d"), _pool),
}  # fmt: skip
