"""What of the quantized dialect stays on the CPU becomes exact integer TIR: same results as `numerics.requantize`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, s_tir, te, tirx

from ..dialect import operators
from ..dialect.pieces import positions, unflattened
from ..machine.numerics import activation_limits
from ..schedules.database import Records
from ..schedules.floating.choose import Choice
from ..schedules.integer.arithmetic import carried, centred, clamped, rounded
from ..schedules.integer.border import dequantize, quantize
from ..schedules.integer.conv import conv2d
from ..schedules.integer.depthwise import depthwise, is_depthwise
from ..schedules.integer.elementwise import eltwise, requantize, table
from ..schedules.integer.loops import OPAQUE
from ..schedules.integer.move import move
from ..schedules.integer.pool import pool2d
from ..schedules.integer.vectors import Vectors, vectors_of
from ..schedules.kernels import IntegerKernel, PlannedKernel

Expr = Any  # a TIR expression
Indices = tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Planned:
    """A kernel that has several plans, in the network: the ``function`` of ``layer``, made by ``plan``, which is a record's or the
    rule's."""

    function: str
    layer: str
    kernel: PlannedKernel
    plan: Any
    recorded: bool

    def choice(self) -> Choice:
        """How it is scheduled."""
        return Choice(self.function, "record" if self.recorded else "rule", str(self.plan), (self.layer,))


@tvm.transform.module_pass(opt_level=0, name="LegalizeQuantized")
class LegalizeQuantized:
    """Every call of the dialect in functions that no accelerator takes, as call_tir of a scheduled PrimFunc.

    ``records``: plans of kernels; the first that knows a kernel decides, and others get the rule's plan.
    """

    def __init__(self, records: Sequence[Records] = ()) -> None:
        self.records = records
        self.planned: list[Planned] = []  # filled by the pass, in the program's order

    def transform_module(self, mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Functions with a ``Codegen`` or ``Composite`` attribute are left as they are."""
        target = tvm.target.Target.current(allow_none=True)
        mutator = _Mutator(mod, vectors_of(target) if target is not None else Vectors.anywhere())
        mutator.records, mutator.planned = self.records, self.planned
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function) and not _offloaded(function):
                mutator.builder_.update_func(var, mutator.visit_expr(function))
        return mutator.builder_.get()


def _offloaded(function: relax.Function) -> bool:
    return bool(function.attrs) and any(key in function.attrs for key in ("Codegen", "Composite"))


@relax.expr_functor.mutator
class _Mutator(relax.PyExprMutator):
    """Replaces calls, one PrimFunc each; the module is being rewritten in ``builder_``."""

    records: Sequence[Records]
    planned: list[Planned]

    def __init__(self, mod: tvm.IRModule, isa: Vectors) -> None:
        super().__init__(mod)
        self.isa = isa

    def visit_function_(self, function: relax.Function) -> relax.Expr:
        """Nested functions that an accelerator takes stay as they are."""
        return function if _offloaded(function) else super().visit_function_(function)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A call of the dialect becomes call_tir; any other stays."""
        result = call.ty
        call = self.visit_expr_post_order(call)
        if not operators.is_quantized(call):
            return call
        attrs = operators.read(call)
        operands = _operands(attrs, call)
        kernel, plan, recorded = _kernel(attrs, operands, self.isa), None, False
        if isinstance(kernel, PlannedKernel):
            plan, recorded = kernel.chosen(self.records)
        function, args = primitive(attrs, operands, kernel.build(plan) if isinstance(kernel, PlannedKernel) else kernel)
        node = re.sub(r"\W+", "_", attrs.name).strip("_")
        name = f"{attrs.operator.removeprefix('qaccel.')}_{node}"
        var = self.builder_.add_func(function, name)
        if isinstance(kernel, PlannedKernel):
            self.planned.append(Planned(var.name_hint, attrs.name, kernel, plan, recorded))
        return relax.call_tir(var, args, result)


@dataclass(frozen=True, eq=False)
class _Operands:
    """Of a call: the activations that it reads, their shapes, and its constants."""

    data: list[relax.Expr]
    shapes: list[tuple[int, ...]]
    constants: list[np.ndarray]


def _operands(attrs: operators.Attrs, call: relax.Call) -> _Operands:
    count = len(operators.inputs_of(attrs)) or 1  # quantize reads one float
    data = list(call.args[:count])
    constants = [operators.constant(arg) for arg in call.args[count:]]
    return _Operands(data, [operators.static_shape(arg) for arg in data], constants)


def _kernel(attrs: operators.Attrs, operands: _Operands, isa: Vectors) -> IntegerKernel | PlannedKernel | None:
    return _KERNELS[type(attrs)](isa, attrs, *operands.shapes, *operands.constants)


def primitive(
    attrs: operators.Attrs, operands: _Operands, kernel: IntegerKernel | None
) -> tuple[tirx.PrimFunc, list[relax.Expr]]:
    """The scheduled PrimFunc of a call, and the operands that it takes: activations, then constants. ``kernel``: the function in
    vectors, if there is one."""
    if kernel is not None:
        return kernel[0], [*operands.data, *(relax.const(array, str(array.dtype)) for array in kernel[1])]
    inputs = [
        te.placeholder(shape, str(arg.ty.dtype), f"q{k}")
        for k, (arg, shape) in enumerate(zip(operands.data, operands.shapes, strict=True))
    ]
    result, constants = _STAGES[type(attrs)](attrs, inputs)
    values = [relax.const(array, str(array.dtype)) for _, array in constants]
    function = te.create_prim_func([*inputs, *(placeholder for placeholder, _ in constants), result])
    function = function.with_attr("op_pattern", OPAQUE)
    return _scheduled(function), [*operands.data, *values]


def _convolution(
    isa: Vectors, attrs: operators.ConvAttrs, shape: tuple[int, ...], weight: np.ndarray, *rest: np.ndarray
) -> PlannedKernel:
    build = depthwise if is_depthwise(attrs, shape, weight) else conv2d
    return build(isa, attrs, shape, weight, *rest)


# The functions in vectors, from the CPU's vectors, the attributes, the shapes of the activations and the constants. They give
# None for what they have no form of: rare transpositions, moves of very many pieces.
_KERNELS: dict[type, Callable[..., IntegerKernel | PlannedKernel | None]] = {
    operators.QuantizeAttrs: quantize,
    operators.DequantizeAttrs: dequantize,
    operators.ConvAttrs: _convolution,
    operators.PoolAttrs: pool2d,
    operators.EltwiseAttrs: eltwise,
    operators.RequantizeAttrs: requantize,
    operators.TableAttrs: table,
    operators.MoveAttrs: move,
}

Stage = tuple[te.Tensor, list[tuple[te.Tensor, np.ndarray]]]


def _constant(array: np.ndarray, name: str) -> tuple[te.Tensor, np.ndarray]:
    return te.placeholder(array.shape, str(array.dtype), name), np.ascontiguousarray(array)


def _quantize(attrs: operators.QuantizeAttrs, inputs: list[te.Tensor]) -> Stage:
    source = inputs[0]
    shape = tuple(int(dim) for dim in source.shape)
    turned = tuple(shape[axis] for axis in attrs.axes)
    lo, hi = (
        tirx.const(float(limit - attrs.result.zero_point), "float32") for limit in activation_limits(attrs.result.bits)
    )

    def value(*nhwc: Expr) -> Expr:
        moved = _reindexed(nhwc, attrs.shape, turned)
        x = source(*(moved[attrs.axes.index(axis)] for axis in range(len(shape))))
        steps = tirx.nearbyint(x / tirx.const(attrs.result.scale, "float32"))
        held = tirx.Select(tirx.isnan(x), tirx.const(0.0, "float32"), tirx.max(tirx.min(steps, hi), lo))
        return carried(held.astype("int32") + attrs.result.zero_point, attrs.result.bits)

    return te.compute(attrs.shape, value, "quantized"), []


def _dequantize(attrs: operators.DequantizeAttrs, inputs: list[te.Tensor]) -> Stage:
    source = inputs[0]
    nhwc = tuple(int(dim) for dim in source.shape)

    def value(*out: Expr) -> Expr:
        before = tuple(out[attrs.axes.index(axis)] for axis in range(len(attrs.shape)))
        q = source(*_reindexed(before, attrs.shape, nhwc)).astype("int32") - attrs.source.zero_point
        return q.astype("float32") * tirx.const(attrs.source.scale, "float32")

    return te.compute(tuple(attrs.shape[axis] for axis in attrs.axes), value, "real"), []


def _reindexed(indices: Indices, shape: tuple[int, ...], target: tuple[int, ...]) -> Indices:
    """Where the element at ``indices`` of ``shape`` lies in the same values reshaped to ``target``."""
    if shape == target:
        return tuple(indices)
    flat: Expr = tirx.const(0, "int32")
    for index, size in zip(indices, shape, strict=True):
        flat = flat * size + (index if size > 1 else 0)
    result: list[Expr] = []
    for size in reversed(target):
        result.insert(0, tirx.floormod(flat, size))
        flat = tirx.floordiv(flat, size)
    return tuple(result)


def _move(attrs: operators.MoveAttrs, inputs: list[te.Tensor]) -> Stage:
    """Every value by tables that say its source and its place there; fills are a last source."""
    _, height, width, channels = attrs.shape
    source = np.zeros((height * width, channels), np.int32)
    place = np.zeros_like(source)
    for piece in unflattened(attrs.pieces):
        run = np.arange(piece.channels)
        pixel, channel = positions(piece, source=False)
        from_pixel, from_channel = positions(piece, source=True)
        at = pixel[..., None], channel[..., None] + run
        source[at] = min(piece.source, len(inputs))
        if piece.source < len(inputs):
            place[at] = from_pixel[..., None] * int(inputs[piece.source].shape[3]) + from_channel[..., None] + run
        else:
            place[at] = attrs.fills[piece.source - len(inputs)]
    sources, places = (
        _constant(source.reshape(attrs.shape[1:]), "source"),
        _constant(place.reshape(attrs.shape[1:]), "place"),
    )

    def value(b: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
        where = places[0](y, x, c)
        result = where.astype("int32")
        for k, ((multiplier, shift), of) in enumerate(zip(attrs.multipliers(), attrs.sources, strict=True)):
            nhwc = tuple(int(dim) for dim in inputs[k].shape)
            # Read inside the tensor even where another source is taken.
            held = tirx.Select(sources[0](y, x, c) == k, where, tirx.const(0, "int32"))
            q = centred(inputs[k](b, *_reindexed((held,), (math.prod(nhwc[1:]),), nhwc[1:])), of.zero_point, "int64")
            moved = clamped(rounded(q * _int64(multiplier), _int64(shift)), attrs).astype("int32")
            result = tirx.Select(sources[0](y, x, c) == k, moved, result)
        return carried(result, attrs.result.bits)

    return te.compute(attrs.shape, value, "output"), [sources, places]


def _int64(value: int) -> Expr:
    return tirx.const(value, "int64")


_STAGES: dict[type, Callable[..., Stage]] = {
    operators.QuantizeAttrs: _quantize,
    operators.DequantizeAttrs: _dequantize,
    operators.MoveAttrs: _move,
}


def _scheduled(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The outer loops in parallel."""
    schedule = s_tir.Schedule(function)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        outer = schedule.get_loops(block)[:2]
        schedule.parallel(schedule.fuse(*outer) if len(outer) > 1 else outer[0])
    return schedule.mod["main"].without_attr("global_symbol")
