"""Replaces convolutions and matrix products by functions of ``schedules.floating``, and packs their weights for them."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax, te

from ..schedules.floating.computations import Computation, ConvGeometry, conv2d, conv2d_transpose, matmul, product
from ..schedules.host import Host, host_of
from .nhwc import is_constant, name_of, offloaded, shape_of, static_shape, values

_FUSABLE = 4  # TVM's operator pattern "output can take element-wise operations"


@tvm.transform.module_pass(opt_level=0, name="PackWeights")
class PackWeights:
    """Rewrites float32 conv2d, conv2d_transpose and matmul as ``call_tir``, in all functions that no accelerator takes.

    The weights of a convolution must be constant; those of a matmul may be, or they are packed when it runs.
    """

    def __init__(self, target: tvm.target.Target) -> None:
        self.host = host_of(target)
        # Filled by the pass: the packed weights of each layer, and the variable that its result was bound to.
        self.layers: list[tuple[relax.Expr, str]] = []

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Returns the rewritten module. Calls that cannot be rewritten are left to TVM's own legalization."""
        mutator = _Mutator(mod)
        mutator.host, mutator.layers = self.host, self.layers
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function) and not offloaded(function):
                mutator.builder_.update_func(var, mutator.visit_expr(function))
        return mutator.builder_.get()


@relax.expr_functor.mutator
class _Mutator(relax.PyExprMutator):
    host: Host
    layers: list[tuple[relax.Expr, str]]
    name = ""  # the variable whose binding is being visited

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.name = binding.var.name
        super().visit_var_binding_(binding)

    def visit_function_(self, function: relax.Function) -> relax.Expr:
        return function if offloaded(function) else super().visit_function_(function)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        make = _COMPUTATIONS.get(name_of(call))
        if make is None or any(static_shape(arg) is None for arg in call.args):
            return call
        if any(str(arg.ty.dtype) != "float32" for arg in call.args) or str(call.ty.dtype) != "float32":
            return call
        computation = make(call, self.host)
        if computation is None:
            return call
        function = te.create_prim_func(
            [*computation.data, *(tensor for tensor, _ in computation.constants), computation.output], "int64"
        )
        function = function.with_attr("op_pattern", _FUSABLE).without_attr("global_symbol")
        constants = [relax.const(array, str(array.dtype)) for _, array in computation.constants]
        self.layers += [(constant, self.name) for constant in constants[:1]]
        name = name_of(call).removeprefix("nn.")
        return relax.call_tir(
            self.builder_.add_func(function, name), [*call.args[: len(computation.data)], *constants], call.ty
        )


def _conv2d(call: relax.Call, host: Host) -> Computation | None:
    attrs, shape = call.attrs, shape_of(call.args[0])
    if not is_constant(call.args[1]):
        return None
    if attrs.data_layout not in ("NHWC", "NCHW") or (attrs.kernel_layout, attrs.out_layout) != ("OIHW", "NHWC"):
        return None
    return conv2d(shape, attrs.data_layout, values(call.args[1]), _geometry(attrs), int(attrs.groups), host)


def _conv2d_transpose(call: relax.Call, host: Host) -> Computation | None:
    attrs, shape = call.attrs, shape_of(call.args[0])
    if not is_constant(call.args[1]):
        return None
    if (attrs.data_layout, attrs.kernel_layout, attrs.out_layout) != ("NHWC", "IOHW", "NHWC"):
        return None
    extra = (int(attrs.output_padding[0]), int(attrs.output_padding[1]))
    return conv2d_transpose(shape, values(call.args[1]), _geometry(attrs), extra, int(attrs.groups), host)


def _matmul(call: relax.Call, host: Host) -> Computation | None:
    left, right = shape_of(call.args[0]), shape_of(call.args[1])
    if is_constant(call.args[1]) and len(left) >= 2 and len(right) == 2:
        return matmul(left, values(call.args[1]), host)
    if len(left) >= 2 and (len(right) == 2 or left[:-2] == right[:-2]) and left[-2] > 1:
        return product(left, right, host)
    return None


def _geometry(attrs: relax.op.op_attrs.Conv2DAttrs) -> ConvGeometry:
    (sh, sw), (dh, dw) = attrs.strides, attrs.dilation
    top, left, bottom, right = (int(v) for v in attrs.padding)
    return ConvGeometry((int(sh), int(sw)), (top, left, bottom, right), (int(dh), int(dw)))


_COMPUTATIONS: dict[str, Callable[[relax.Call, Host], Computation | None]] = {
    "nn.conv2d": _conv2d, "nn.conv2d_transpose": _conv2d_transpose, "matmul": _matmul,
}  # fmt: skip
