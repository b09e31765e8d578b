"""The operators that take a float network's time, compiled; in the form of `float_operators.RULES`.

They take and give NCHW arrays that are channels-last in memory, as the NumPy rules do.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import ir, relax

from ..dialect.kernels import channels_last
from ..relax_tools import static_shape
from . import compiled
from .float_operators import RULES as NUMPY
from .float_operators import Kernel, convolution_of

_FUNCTIONS = ("sigmoid", "tanh", "exp", "erf", "nn.silu")


def _conv2d(call: relax.Call) -> Kernel | None:
    found = convolution_of(call)
    if found is None or not isinstance(call.args[1], ir.GenericConst):
        return None
    layer = compiled.Convolution(call.args[1].value.numpy(), *found, "float32")
    return lambda x, _weight: layer(channels_last(x)).transpose(0, 3, 1, 2)


def _matmul(call: relax.Call) -> Kernel | None:
    weight = call.args[1]
    if not isinstance(weight, ir.GenericConst) or len(static_shape(weight)) != 2 or len(static_shape(call.args[0])) < 2:
        return None
    layer = compiled.product(weight.value.numpy())
    return lambda x, _weight: layer(x.reshape(1, 1, -1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _of_one_value(call: relax.Call) -> Kernel | None:
    name = call.op.name
    numpy = NUMPY[name](call)
    function = compiled.elementwise(name.removeprefix("relax."))
    assert numpy is not None
    return lambda x: function(x) if compiled.fits(x) else numpy(x)


_RULES: dict[str, Callable[[relax.Call], Kernel | None]] = {
    "relax.nn.conv2d": _conv2d, "relax.matmul": _matmul, **{f"relax.{name}": _of_one_value for name in _FUNCTIONS},
}  # fmt: skip


def rule_of(call: relax.Call) -> Kernel | None:
    """The compiled function of a call's operands, where all of them are float32; None for what has none."""
    rule = _RULES.get(call.op.name) if isinstance(call.op, ir.Op) else None
    if rule is None or any(str(getattr(each.ty, "dtype", "")) != "float32" for each in (call, *call.args)):
        return None
    return rule(call)
