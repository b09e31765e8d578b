"""Replaces operators by functions of ``schedules.floating``: softmax, sums, means and extremes of neighbours,
resizes, transpositions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax

from ..schedules.floating.resize import linear, neighbours, repeated, taken
from ..schedules.floating.rows import REDUCTIONS, Rows, reduction, softmax
from ..schedules.floating.transpose import transposition
from ..schedules.host import Host, host_of
from .nhwc import is_constant, name_of, offloaded, shape_of, static_shape, values

_MOST_REPEATED = 8  # times, which are written out
_FEWEST = 1024  # values of a part of a row, if one row is divided among the cores


def trailing(shape: Sequence[int], axes: Sequence[int]) -> int:
    """How many neighbouring values these axes have together, which must be the last but for sizes of 1; 0 if they are not."""
    axes = [axis % len(shape) for axis in axes]
    first: int = min((axis for axis in axes if shape[axis] > 1), default=len(shape))
    if any(axis not in axes and shape[axis] > 1 for axis in range(first, len(shape))):
        return 0
    return math.prod(shape[first:])


def rows_of(shape: tuple[int, ...], axes: Sequence[int]) -> Rows | None:
    """The tensor as rows along these axes; None if they are not the last, or a row has one value or none."""
    columns = trailing(shape, axes)
    return Rows(shape, columns) if columns > 1 and 0 not in shape else None


@tvm.transform.module_pass(opt_level=0, name="RowFunctions")
class RowFunctions:
    """Rewrites as ``call_tir``: float32 softmax, log_softmax, mean, sum, max and min along neighbours, resizes of planes,
    takes of constant places, transpositions of matrices."""

    def __init__(self, target: tvm.target.Target) -> None:
        self.host = host_of(target)

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Returns the rewritten module. What runs along other axes is left to TVM's own legalization."""
        mutator = _Mutator(mod)
        mutator.host, mutator.takes = self.host, {}
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function) and not offloaded(function):
                mutator.builder_.update_func(var, mutator.visit_expr(function))
        return mutator.builder_.get()


@relax.expr_functor.mutator
class _Mutator(relax.PyExprMutator):
    host: Host
    takes: dict[str, int]  # by the name of a function that takes places along an axis: the axis

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

    def called(
        self, function: tvm.tirx.PrimFunc, name: str, data: relax.Expr, shape: Sequence[int], *constants: np.ndarray
    ) -> relax.Expr:
        """A call of a function of one tensor and constants."""
        var = self.builder_.add_func(function, name)
        tables = [relax.const(array, str(array.dtype)) for array in constants]
        return relax.call_tir(var, [data, *tables], relax.TensorType(list(shape), "float32"))

    def rows_repeated(self, expr: relax.Expr, axis: int) -> tuple[relax.Expr, int]:
        """What a take along an axis that is rewritten already repeats, and how many times; else the expression itself, once."""
        call = self.lookup_binding(expr) if isinstance(expr, relax.Var) else None
        if (
            not isinstance(call, relax.Call)
            or name_of(call) != "call_tir"
            or self.takes.get(call.args[0].name_hint) != axis
        ):
            return expr, 1
        data, places = call.args[1].fields
        times = _times(values(places), shape_of(data)[axis])
        return (data, times) if times else (expr, 1)

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


def pools_planes(call: relax.Call) -> bool:
    """Whether a pool takes whole planes of NCHW, each to one value."""
    attrs, shape = call.attrs, static_shape(call.args[0])
    if shape is None or attrs.layout != "NCHW" or shape_of(call)[2:] != (1, 1):
        return False
    if name_of(call) == "nn.adaptive_avg_pool2d":
        return True
    plain = not any(int(v) for v in attrs.padding) and all(int(v) == 1 for v in attrs.dilation)
    return plain and tuple(int(v) for v in attrs.pool_size) == shape[2:]


def _pool(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    """An average or a maximum of whole planes."""
    kind = "max" if name_of(call) == "nn.max_pool2d" else "mean"
    return self.reduced(kind, call.args[0], (2, 3), shape_of(call)) if pools_planes(call) else None


def _resize(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    """Linear, where the tables are known."""
    attrs, shape, out = call.attrs, shape_of(call.args[0]), shape_of(call)
    if attrs.method != "linear" or attrs.layout not in ("NCHW", "NHWC"):
        return None
    first = attrs.layout.index("H")
    rows, columns = (
        neighbours(shape[axis], out[axis], str(attrs.coordinate_transformation_mode)) for axis in (first, first + 1)
    )
    if rows is None or columns is None:
        return None
    function, constants = linear(shape, str(attrs.layout), rows, columns, self.host)
    return self.called(function, "resize", call.args[0], out, *constants)


def _take(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    """Constant places along an axis. Repeated columns after repeated rows, as a resize has them, are one function."""
    shape, out = shape_of(call.args[0]), shape_of(call)
    if not is_constant(call.args[1]) or values(call.args[1]).ndim != 1 or call.attrs.axis is None or 0 in out:
        return None
    axis, index = int(call.attrs.axis) % len(shape), values(call.args[1])
    if index.min() < -shape[axis] or index.max() >= shape[axis]:
        return None
    columns = _times(index, shape[axis])
    if axis == len(shape) - 1 > 0 and columns:
        data, rows = self.rows_repeated(call.args[0], axis - 1)
        return self.called(repeated(shape_of(data), rows, columns, self.host), "repeat", data, out)
    function, constants = taken(shape, axis, index, self.host)
    made = self.called(function, "take", call.args[0], out, *constants)
    self.takes[made.args[0].name_hint] = axis
    return made


def _times(index: np.ndarray, length: int) -> int:
    """How many times indices repeat each of ``length`` places, one after the other; 0 if they do anything else."""
    times = len(index) // max(length, 1)
    same = 1 <= times <= _MOST_REPEATED and np.array_equal(index, np.repeat(np.arange(length), times))
    return times if same else 0


def _permute(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    """As between NCHW and NHWC."""
    shape = shape_of(call.args[0])
    axes = range(len(shape))[::-1] if call.attrs.axes is None else [int(axis) % len(shape) for axis in call.attrs.axes]
    function = transposition(shape, axes, self.host)
    return None if function is None else self.called(function, "transpose", call.args[0], shape_of(call))


_REWRITES: dict[str, _Rewrite] = {
    "permute_dims": _permute,
    "image.resize2d": _resize, "take": _take,
    "nn.softmax": _softmax, "nn.log_softmax": _softmax, **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("nn.avg_pool2d", "nn.max_pool2d", "nn.adaptive_avg_pool2d"), _pool),
}  # fmt: skip
