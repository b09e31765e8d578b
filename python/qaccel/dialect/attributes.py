"""What every operator of the quantized dialect has: its attributes, how a call carries them, and what its class says.

An operator is one class in `ops`: its fields are the attributes, its docstring describes it, and its methods give the
shape of the result, the exact meaning in NumPy and what a call of it must hold to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np
from tvm import ir, relax
from tvm.ir import _ffi_api

from ..errors import CompilerFault
from ..machine.isa import isa
from ..machine.numerics import activation_limits
from ..relax_tools import node_span, static_shape
from .kernels import SlidingWindow
from .rescale import Ending

BITS = isa().widths
Shape = tuple[int, ...]
_TYPES: dict[type, dict[str, Any]] = {}  # what `_types` found


def carrier(bits: int) -> str:
    """The dtype that carries values of that many bits."""
    return "int16" if bits == 16 else "int8"


@dataclass(frozen=True)
class Quantization:
    """What the integers q of one tensor mean: ``scale * (q - zero_point)``; the scale is exactly a float32."""

    bits: int
    scale: float
    zero_point: int

    @property
    def reach(self) -> int:
        """The largest distance of an integer from the zero point."""
        lo, hi = activation_limits(self.bits)
        return max(hi - self.zero_point, self.zero_point - lo)

    def ratio(self, result: Quantization) -> float:
        """This scale over that of ``result``, divided in float32."""
        return float(np.float32(self.scale) / np.float32(result.scale))


@dataclass(frozen=True)
class Clamp:
    """Least and greatest integer of a result; a Relu or Clip behind an operator narrows them."""

    lo: int
    hi: int

    @classmethod
    def whole(cls, bits: int) -> Clamp:
        """The limits of that many bits: nothing is cut off but what the integers cannot hold."""
        return cls(*activation_limits(bits))


@dataclass(frozen=True)
class Attrs:
    """Any operator. ``name`` is the source node, or the node and a step of it; `names` says which steps there are.

    Fields of type Quantization say how the operands are read, in their order; the field ``result`` what the call makes.
    """

    operator: ClassVar[str]
    name: str

    def call(self, *operands: relax.Expr | np.ndarray) -> relax.Call:
        """A call of the operator, its span named after the node; arrays become constants of `constant_dtypes`."""
        dtypes = iter(self.constant_dtypes)
        args = [
            relax.const(np.ascontiguousarray(each.astype(next(dtypes)))) if isinstance(each, np.ndarray) else each
            for each in operands
        ]
        node = ir.make_node("ir.DictAttrs", **dict(_flattened(self)))
        span = node_span(self.name)
        return relax.Call(ir.Op.get(self.operator), args, node, span=span)

    @property
    def constant_dtypes(self) -> tuple[str, ...]:
        """The dtypes of the constant operands, which follow the activations; none unless the operator says so."""
        return ()

    def output_shape(self, *operands: Shape) -> Shape:
        """The result's shape from those of all operands; the first one's unless the operator says otherwise."""
        return operands[0]

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """The result's integers (float32 for dequantize), exactly: an oracle that shares no code with the machine.

        Activations NHWC in their carriers; the batch may be any multiple of the call's own.
        """
        raise NotImplementedError(self.operator)

    def check(self, call: relax.Call) -> None:
        """Raises CompilerFault where a call breaks what this operator asks for, beyond what `check_quantized` asks of all."""


@dataclass(frozen=True)
class IntegerAttrs(Attrs):
    """An operator from integers to integers, NHWC. ``op`` is the ONNX operator that it was."""

    op: str
    result: Quantization


@dataclass(frozen=True)
class ClampedAttrs(IntegerAttrs):
    """An operator whose result is rescaled and clamped."""

    clamp: Clamp

    @property
    def ending(self) -> Ending:
        """What `rescale.requantize` ends with: zero point, clamp, dtype of the result."""
        return self.result.zero_point, self.clamp.lo, self.clamp.hi, carrier(self.result.bits)


@dataclass(frozen=True)
class WindowAttrs(ClampedAttrs):
    """An operator on windows of one tensor: steps (rows, pixels), padding (top, left, bottom, right)."""

    source: Quantization
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]

    def window(self, kernel: tuple[int, int]) -> SlidingWindow:
        """The window of that many (rows, pixels)."""
        return SlidingWindow(kernel, self.strides, self.dilation, self.padding)


def inputs_of(attrs: Attrs) -> tuple[Quantization, ...]:
    """What the quantized activation operands of a call are read as, in their order; none for quantize."""
    found: list[Quantization] = []
    for name, kind in _types(type(attrs)).items():
        if kind is Quantization and name != "result":
            found.append(getattr(attrs, name))
        elif kind == tuple[Quantization, ...]:
            found += getattr(attrs, name)
    return tuple(found)


def output_of(attrs: Attrs) -> Quantization | None:
    """What the result's integers mean; None for dequantize."""
    return getattr(attrs, "result", None)


def _types(cls: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass and their types, in order."""
    if cls not in _TYPES:
        hints = get_type_hints(cls)
        _TYPES[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _TYPES[cls]


def _flattened(attrs: Attrs) -> Iterator[tuple[str, Any]]:
    """The attributes as a call carries them: a quantization or clamp as ``field_part``, tuples as lists."""
    for name, kind in _types(type(attrs)).items():
        value = getattr(attrs, name)
        if kind in (Quantization, Clamp):
            yield from ((f"{name}_{part}", getattr(value, part)) for part in _types(kind))
        elif kind == tuple[Quantization, ...]:
            yield from ((f"{name}_{part}", [getattr(q, part) for q in value]) for part in _types(Quantization))
        else:
            yield name, list(value) if isinstance(value, tuple) else value


def unflattened(cls: type[Attrs], call: relax.Call) -> Attrs:
    """The attributes of a call of the operator ``cls``. Raises CompilerFault where one is missing."""
    if call.attrs is None:
        raise CompilerFault(f"{call.op.name}: its attributes are missing")
    return _unflattened(cls, call.attrs)  # type: ignore[arg-type]  # a class is hashable, its ClassVar misleads mypy


# A call is read a dozen times on its way; TVM's objects are equal where they are the same object, which never changes.
@lru_cache(maxsize=4096)
def _unflattened(cls: type[Attrs], attrs: ir.Attrs) -> Attrs:
    def get(name: str) -> Any:
        if name not in attrs:
            raise CompilerFault(f"{cls.operator}: attribute {name} is missing")
        return attrs[name]

    values: dict[str, Any] = {}
    for name, kind in _types(cls).items():
        if kind in (Quantization, Clamp):
            values[name] = kind(*(of(get(f"{name}_{part}")) for part, of in _types(kind).items()))
        elif kind == tuple[Quantization, ...]:
            columns = [[of(item) for item in get(f"{name}_{part}")] for part, of in _types(Quantization).items()]
            values[name] = tuple(Quantization(*row) for row in zip(*columns, strict=True))
        elif get_args(kind):
            values[name] = tuple(get_args(kind)[0](item) for item in get(name))
        else:
            values[name] = kind(get(name))
    return cls(**values)


def constant(expr: relax.Expr) -> np.ndarray:
    """The array of a constant operand. Raises CompilerFault if it is none."""
    if not isinstance(expr, ir.GenericConst):
        raise CompilerFault(f"an operand that must be a constant is {type(expr).__name__}")
    return expr.value.numpy()


def register(cls: type[Attrs]) -> None:
    """Makes the operator known to TVM; doing it again changes nothing."""
    if cls.operator in set(ir.Op.list_op_names()):
        return

    def infer(call: relax.Call, _builder: object) -> relax.TensorType:
        attrs = unflattened(cls, call)
        made = output_of(attrs)
        shape = attrs.output_shape(*(static_shape(arg) for arg in call.args))
        return relax.TensorType(shape, "float32" if made is None else carrier(made.bits))

    _ffi_api.RegisterOp(cls.operator, (cls.__doc__ or "").split("\n")[0])
    ir.register_op_attr(cls.operator, "FInferType", infer)
    ir.register_op_attr(cls.operator, "FPurity", True)
