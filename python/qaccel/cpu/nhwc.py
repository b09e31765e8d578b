"""Brings the float operators of the CPU into one layout, NHWC.

A convolution computes in NHWC, and a transposition back to NCHW follows it. Each operator after it is rewritten to compute in
NHWC too, which moves the transposition behind that operator, until it meets its inverse or the network's output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)

_UNARY = {
    *("abs", "ceil", "clip", "cos", "erf", "exp", "floor", "log", "negative", "round", "rsqrt", "sigmoid", "sign"),
    *("sin", "sqrt", "square", "tanh", "astype"),
    *("nn.relu", "nn.relu6", "nn.leakyrelu", "nn.gelu", "nn.gelu_tanh", "nn.selu", "nn.silu", "nn.softplus"),
}
_BROADCAST = {
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "less", "greater", "equal", "where"),
}
_REDUCED = {"mean", "sum", "max", "min"}
_POOLS = {"nn.max_pool2d", "nn.avg_pool2d"}


@tvm.transform.module_pass(opt_level=0, name="ToNHWC")
class ToNHWC:
    """Lets convolutions and the operators after them compute in NHWC. A convolution may read an NCHW tensor.

    A transposition back to NCHW stays only before an operator that cannot be rewritten here, and before the network's outputs.
    Functions that an accelerator takes are left as they are.
    """

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Returns the rewritten module, which computes the same. Parameters and results of functions keep their layouts."""
        mutator = _Mutator(mod)
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function) and not offloaded(function):
                mutator.builder_.update_func(var, mutator.visit_expr(function))
        return mutator.builder_.get()


def offloaded(function: relax.Function) -> bool:
    """Whether an accelerator takes the function."""
    return bool(function.attrs) and any(key in function.attrs for key in ("Codegen", "Composite"))


def static_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """The shape of a tensor, None if a size is not known at compile time."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None or not hasattr(shape, "values"):
        return None
    values = list(shape.values)
    return tuple(int(v) for v in values) if all(isinstance(v, tvm.tirx.IntImm) for v in values) else None


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """The shape of a tensor whose sizes are all known."""
    shape = static_shape(expr)
    assert shape is not None
    return shape


def name_of(call: relax.Call) -> str:
    """The operator of a call without the prefix ``relax.``, as in ``nn.conv2d``; empty if it calls no operator."""
    return call.op.name.removeprefix("relax.") if isinstance(call.op, tvm.ir.Op) else ""


def is_constant(expr: relax.Expr) -> bool:
    """Whether the tensor is a constant."""
    return isinstance(expr, tvm.ir.GenericConst)


def values(expr: relax.Expr) -> np.ndarray:
    """The values of a constant."""
    return expr.value.numpy()


@relax.expr_functor.mutator
class _Mutator(relax.PyExprMutator):
    name = ""  # the variable whose binding is being visited

    def visit_function_(self, function: relax.Function) -> relax.Expr:
        return function if offloaded(function) else super().visit_function_(function)

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.name = binding.var.name
        super().visit_var_binding_(binding)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        rewrite = _REWRITES.get(name_of(call))
        if rewrite is None or isinstance(call.ty, relax.TupleType):
            return call
        turned = rewrite(self, call)
        return call if turned is None else turned

    def nhwc(self, expr: relax.Expr) -> relax.Expr | None:
        """The NHWC tensor of which ``expr`` is the transposition to NCHW, None if it is no such transposition."""
        if not isinstance(expr, relax.Var):
            return None
        value = self.lookup_binding(expr)
        if isinstance(value, relax.Call) and name_of(value) == "permute_dims" and len(value.args[0].ty.shape) == 4:
            axes = tuple(int(axis) for axis in value.attrs.axes)
            return value.args[0] if axes == TO_NCHW else None
        return None

    def turned(self, expr: relax.Expr) -> relax.Expr:
        """The NCHW tensor ``expr`` in NHWC; adds a transposition if there is no NHWC tensor yet."""
        known = self.nhwc(expr)
        if known is not None:
            return known
        if is_constant(expr):
            return relax.const(np.ascontiguousarray(values(expr).transpose(TO_NHWC)))
        return self.builder_.emit(relax.op.permute_dims(expr, list(TO_NHWC)))

    def back(self, nhwc: relax.Expr) -> relax.Expr:
        """Binds the NHWC value under the layer's name and returns its transposition to NCHW, to be bound in its place."""
        return relax.op.permute_dims(self.builder_.emit(nhwc, self.name), list(TO_NCHW))


# Rewrites a call so that it computes in NHWC; None if that is not possible.
_Rewrite = Callable[[_Mutator, relax.Call], "relax.Expr | None"]


def _conv2d(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    attrs = call.attrs
    if (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "OIHW") or not is_constant(call.args[1]):
        return None
    data, layout = self.nhwc(call.args[0]), "NHWC"
    if data is None and int(attrs.groups) == 1:
        data, layout = call.args[0], "NCHW"
    elif data is None:
        data = self.turned(call.args[0])
    return self.back(
        relax.op.nn.conv2d(
            data, call.args[1], list(attrs.strides), list(attrs.padding), list(attrs.dilation), int(attrs.groups),
            layout, "OIHW", "NHWC",
        )
    )  # fmt: skip


def _conv2d_transpose(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    attrs = call.attrs
    if (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "IOHW") or not is_constant(call.args[1]):
        return None
    return self.back(
        relax.op.nn.conv2d_transpose(
            self.turned(call.args[0]), call.args[1], list(attrs.strides), list(attrs.padding),
            list(attrs.output_padding), list(attrs.dilation), int(attrs.groups), "NHWC", "IOHW", "NHWC",
        )
    )  # fmt: skip


def _pool(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    data, attrs = self.nhwc(call.args[0]), call.attrs
    if data is None or attrs.layout != "NCHW":
        return None
    op = relax.op.nn.max_pool2d if name_of(call) == "nn.max_pool2d" else relax.op.nn.avg_pool2d
    return self.back(
        op(
            data, list(attrs.pool_size), list(attrs.strides), list(attrs.padding), list(attrs.dilation),
            bool(attrs.ceil_mode), bool(attrs.count_include_pad), "NHWC",
        )
    )  # fmt: skip


def _adaptive(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    data, attrs = self.nhwc(call.args[0]), call.attrs
    if data is None or attrs.layout != "NCHW":
        return None
    size = None if attrs.output_size is None else [int(v) for v in attrs.output_size]
    return self.back(relax.op.nn.adaptive_avg_pool2d(data, size, "NHWC"))


def _unary(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    data = self.nhwc(call.args[0])
    return None if data is None else self.back(relax.Call(call.op, [data, *call.args[1:]], call.attrs))


def _broadcast(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    if all(self.nhwc(arg) is None for arg in call.args) or len(call.ty.shape) != 4:
        return None
    operands = []
    for arg in call.args:
        shape = static_shape(arg)
        if shape is None:
            return None
        if len(shape) == 0 or (len(shape) < 4 and all(size == 1 for size in shape)):
            operands.append(arg)
        elif len(shape) == 4:
            operands.append(self.turned(arg))
        elif is_constant(arg):
            operands.append(self.turned(relax.const(values(arg).reshape((1,) * (4 - len(shape)) + shape))))
        else:
            return None
    return self.back(relax.Call(call.op, operands, call.attrs))


def _concat(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    if not isinstance(call.args[0], relax.Tuple) and not isinstance(call.args[0], relax.Var):
        return None
    fields = call.args[0]
    fields = self.lookup_binding(fields) if isinstance(fields, relax.Var) else fields
    if not isinstance(fields, relax.Tuple) or all(self.nhwc(field) is None for field in fields.fields):
        return None
    axis = int(call.attrs.axis) % 4
    return self.back(relax.op.concat([self.turned(field) for field in fields.fields], TO_NHWC.index(axis)))


def _resize(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    data, attrs = self.nhwc(call.args[0]), call.attrs
    if data is None or attrs.layout != "NCHW":
        return None
    return self.back(
        relax.op.image.resize2d(
            data, call.args[1], [float(v) for v in attrs.roi], "NHWC", attrs.method,
            attrs.coordinate_transformation_mode, attrs.rounding_method, float(attrs.cubic_alpha),
            int(attrs.cubic_exclude), float(attrs.extrapolation_value),
        )
    )  # fmt: skip


def _take(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    """Indices along one axis, as a nearest-neighbour resize is spelled."""
    data, index = self.nhwc(call.args[0]), static_shape(call.args[1])
    if data is None or index is None or len(index) != 1 or call.attrs.axis is None:
        return None
    axis = TO_NHWC.index(int(call.attrs.axis) % 4)
    return self.back(relax.op.take(data, call.args[1], axis, str(call.attrs.mode)))


def _reduced(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    data, attrs = self.nhwc(call.args[0]), call.attrs
    if data is None or attrs.axis is None:
        return None
    axes = sorted(int(axis) % 4 for axis in attrs.axis)
    op = getattr(relax.op, name_of(call))
    if attrs.keepdims:
        return self.back(op(data, [TO_NHWC.index(axis) for axis in axes], True))
    # Without the reduced axes, NHWC and NCHW are the same order, unless both the channels and a side of the plane are left.
    return op(data, [TO_NHWC.index(axis) for axis in axes], False) if 1 in axes or axes[-2:] == [2, 3] else None


def _softmax(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    data = self.nhwc(call.args[0])
    if data is None:
        return None
    op = relax.op.nn.softmax if name_of(call) == "nn.softmax" else relax.op.nn.log_softmax
    return self.back(op(data, TO_NHWC.index(int(call.attrs.axis) % 4)))


def _pad(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    data = self.nhwc(call.args[0])
    if data is None:
        return None
    width = [int(v) for v in call.attrs.pad_width]
    turned = [side for axis in TO_NHWC for side in width[2 * axis : 2 * axis + 2]]
    return self.back(relax.op.nn.pad(data, turned, call.attrs.pad_mode, float(call.attrs.pad_value)))


def _reshape(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    """Only of a plane of one pixel, whose values have the same order in both layouts."""
    data = self.nhwc(call.args[0])
    shape = static_shape(data) if data is not None else None
    if shape is None or shape[1] * shape[2] != 1:
        return None
    return relax.op.reshape(data, call.args[1])


def _permute(self: _Mutator, call: relax.Call) -> relax.Expr | None:
    data = self.nhwc(call.args[0])
    if data is None or call.attrs.axes is None:
        return None
    axes = [TO_NCHW[int(axis)] for axis in call.attrs.axes]
    return data if axes == sorted(axes) else relax.op.permute_dims(data, axes)


def _each(names: Sequence[str] | set[str], rewrite: _Rewrite) -> dict[str, _Rewrite]:
    return dict.fromkeys(names, rewrite)


_REWRITES: dict[str, _Rewrite] = {
    **_each(_UNARY, _unary), **_each(_BROADCAST, _broadcast), **_each(_POOLS, _pool), **_each(_REDUCED, _reduced),
    "nn.conv2d": _conv2d, "nn.conv2d_transpose": _conv2d_transpose, "nn.adaptive_avg_pool2d": _adaptive,
    "concat": _concat, "image.resize2d": _resize, "nn.softmax": _softmax, "nn.log_softmax": _softmax,
    "nn.pad": _pad, "take": _take, "reshape": _reshape, "permute_dims": _permute,
}  # fmt: skip
