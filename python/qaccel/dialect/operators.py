"""The quantized dialect: our own Relax operators, the attributes they carry, and how to read them back.

All tensors between ``qaccel.quantize`` and ``qaccel.dequantize`` are rank 4, NHWC. Carriers are int8 for values of 4
and 8 bits and int16 for 16 bits; the bits, scales and zero points are attributes of the calls that make and use a
tensor, so they live in the IR and survive passes and JSON. A real value is ``scale * (q - zero_point)``; every scale is
exactly a float32. Importing this module registers the operators.
"""

from __future__ import annotations

from tvm import ir, relax

from ..errors import CompilerFault
from ..relax_tools import bindings
from ..relax_tools import static_shape as static_shape
from .attributes import BITS as BITS
from .attributes import Attrs as Attrs
from .attributes import Clamp as Clamp
from .attributes import ClampedAttrs as ClampedAttrs
from .attributes import IntegerAttrs as IntegerAttrs
from .attributes import Quantization as Quantization
from .attributes import WindowAttrs as WindowAttrs
from .attributes import carrier as carrier
from .attributes import constant as constant
from .attributes import inputs_of as inputs_of
from .attributes import output_of as output_of
from .attributes import register, unflattened
from .ops.border import DequantizeAttrs as DequantizeAttrs
from .ops.border import QuantizeAttrs as QuantizeAttrs
from .ops.conv2d import ConvAttrs as ConvAttrs
from .ops.eltwise import EltwiseAttrs as EltwiseAttrs
from .ops.move import MoveAttrs as MoveAttrs
from .ops.pool2d import PoolAttrs as PoolAttrs
from .ops.requantize import COPY as COPY
from .ops.requantize import RequantizeAttrs as RequantizeAttrs
from .ops.rounded import RoundedAttrs as RoundedAttrs
from .ops.table import TableAttrs as TableAttrs

OPERATORS: tuple[type[Attrs], ...] = (
    QuantizeAttrs, DequantizeAttrs, ConvAttrs, PoolAttrs, EltwiseAttrs, RequantizeAttrs, TableAttrs, MoveAttrs,
    RoundedAttrs,
)  # fmt: skip
_BY_NAME = {cls.operator: cls for cls in OPERATORS}

for _cls in OPERATORS:
    register(_cls)


def works_on_integers(function: relax.Function) -> bool:
    """Whether a function has a call of the dialect."""
    return any(is_quantized(binding.value) for binding in bindings(function))


def is_quantized(expr: object) -> bool:
    """Whether ``expr`` is a call of one of this dialect's operators."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op) and expr.op.name in _BY_NAME


def read(call: relax.Call) -> Attrs:
    """The attributes of a call of this dialect. Raises CompilerFault if it is not one, or an attribute is missing."""
    if not is_quantized(call):
        raise CompilerFault(f"{getattr(call, 'op', call)} is not an operator of the quantized dialect")
    return unflattened(_BY_NAME[call.op.name], call)
