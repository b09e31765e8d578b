"""A canonical Relax module as a list of steps on arrays: which NumPy rule runs each binding, and what lives how long.

An ONNX node with a binding that no NumPy rule covers is compiled as a whole by TVM for the CPU, at its first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ..cpu.nhwc import offloaded
from ..dialect import kinds
from ..errors import UserError
from ..model import Model
from ..relax_tools import bindings, known_shape, node_name, renewed, results, static_shape
from .compiled import WORTH_MACS
from .compiled_operators import rule_of
from .float_operators import RULES, keeps_samples_apart

Load = Callable[[dict[int, Any]], Any]
Run = Callable[..., Any]

COMFORTABLE_ELEMENTS = 2 << 20  # values of the largest activation in one pass


@dataclass(frozen=True)
class Step:
    """`run` on the values of `loads` fills the slots `outs`; the slots in `dead` are freed afterwards.

    `node` is the ONNX node whose value this is, empty for intermediate values. `in_place` marks a bias addition whose
    left operand nobody else sees. `reads`: the slots that the loads read. `layer`: the call of a layer with
    constant weights.
    """

    run: Run
    loads: tuple[Load, ...]
    outs: tuple[int, ...]
    dead: tuple[int, ...]
    node: str
    in_place: bool
    reads: tuple[int, ...] = ()
    layer: relax.Call | None = None


@dataclass(frozen=True)
class Plan:
    """A module ready to run.

    `batchable`: axis 0 may have another size than at import. `comfortable`: the multiple of the model's batch at which
    the largest activation still fits in the cache; beyond it every value costs page faults. `compiled`: the network is so
    large that its heavy steps are compiled. `macs`: of its layers, for one sample.
    """

    steps: tuple[Step, ...]
    results: tuple[Load, ...]
    batchable: bool
    comfortable: int
    compiled: bool
    macs: int


@dataclass(frozen=True)
class _Piece:
    """A step before slots are assigned: operands and results are Relax expressions."""

    run: Run
    operands: tuple[relax.Expr, ...]
    results: tuple[relax.Var, ...]
    node: str
    in_place: bool
    layer: relax.Call | None = None


@lru_cache(maxsize=4)
def plan_of(model: Model) -> Plan:
    """The steps of a model, kept for the last few models (they hold converted weights)."""
    function = model.mod["main"]
    outputs = results(function)
    computed = [b for b in bindings(function) if not _gathers_outputs(b, function)]
    groups = _by_node(computed)
    readers = _readers(groups, outputs)
    batched: dict[relax.Var, bool] = dict.fromkeys(function.params, True)
    specs = model.inputs + model.outputs
    batchable = all(spec.shape and spec.shape[0] == specs[0].shape[0] for spec in specs)
    macs = sum(_macs(binding.value) for binding in computed) // max(1, (specs[0].shape or (1,))[0])
    compiled = macs >= WORTH_MACS
    pieces: list[_Piece] = []
    for number, (name, group) in enumerate(groups):
        outside = tuple(b.var for b in group if readers.get(b.var, set()) - {number}) or (group[-1].var,)
        kernels = [
            (rule_of(b.value) if compiled and isinstance(b.value, relax.Call) else None) or _kernel(b) for b in group
        ]
        for binding in group:
            batchable = batchable and _holds_for_batches(binding.value, batched)
            batched[binding.var] = any(_is_batched(v, batched) for v in _operands(binding.value))
        if None in kernels:
            node = TvmNode(name, group, outside, model.mod)
            pieces.append(_Piece(node, node.operands, outside, name, False))
            batchable = batchable and not any(batched[v] for v in outside)
            continue
        for k, (binding, kernel) in enumerate(zip(group, kernels, strict=True)):
            assert kernel is not None
            in_place = k > 0 and _adds_bias(binding.value, group[k - 1]) and group[k - 1].var not in outside
            seen = name if binding.var in outside else ""
            layer = binding.value if has_weights(binding.value) else None
            pieces.append(_Piece(kernel, _arguments(binding.value), (binding.var,), seen, in_place, layer))
    largest = max([math.prod(known_shape(b.var) or ()) for b in computed], default=1)
    comfortable = max(1, COMFORTABLE_ELEMENTS // max(1, largest))
    steps, loads = _assigned(pieces, list(function.params), outputs)
    return Plan(steps, loads, batchable, comfortable, compiled, macs)


def _macs(value: relax.Expr) -> int:
    """Multiply-adds of a convolution or a product with constant weights, in all samples of the model's batch."""
    if not has_weights(value):
        return 0
    weight = static_shape(value.args[1])
    gemm = value.op.name == "relax.matmul"
    return math.prod(known_shape(value) or ()) * math.prod(weight[:-1] if gemm else weight[1:])


def has_weights(value: relax.Expr) -> bool:
    """Whether a binding is a convolution or a product with constant weights."""
    name = getattr(value.op, "name", "") if isinstance(value, relax.Call) else ""
    return name in kinds.WEIGHTED and isinstance(value.args[1], tvm.ir.GenericConst)


def with_weights(step: Step, weight: np.ndarray, compiled: bool) -> Run:
    """The function of a layer's step with other weights, float32 of the same shape; it takes what ``step.run`` takes.

    ``compiled``: as in the plan that the step is of.
    """
    assert step.layer is not None
    call = step.layer
    other = relax.BlockBuilder().normalize(
        relax.Call(call.op, [call.args[0], relax.const(weight), *call.args[2:]], call.attrs, call.ty_args, call.span)
    )
    kernel = rule_of(other) if compiled else None
    if kernel is not None:
        return kernel
    run = step.run
    return lambda x, _: run(x, weight)


def _assigned(
    pieces: list[_Piece], params: list[relax.Var], outputs: list[relax.Expr]
) -> tuple[tuple[Step, ...], tuple[Load, ...]]:
    """Slots and lifetimes for the pieces; parameters take the first slots and live to the end, as do outputs."""
    slot_of = {var: k for k, var in enumerate([*params, *(r for piece in pieces for r in piece.results)])}
    results, kept = _loads(outputs, slot_of)
    forever = set(kept) | set(range(len(params)))
    loads = [_loads(piece.operands, slot_of) for piece in pieces]
    last_use = {slot: k for k, (_, read) in enumerate(loads) for slot in read}
    steps = []
    for k, (piece, (load, read)) in enumerate(zip(pieces, loads, strict=True)):
        outs = tuple(slot_of[r] for r in piece.results)
        dead = {s for s in read if last_use[s] == k} | {s for s in outs if s not in last_use}
        freed = tuple(sorted(dead - forever))
        steps.append(Step(piece.run, load, outs, freed, piece.node, piece.in_place, tuple(read), piece.layer))
    return tuple(steps), results


def _gathers_outputs(binding: relax.Binding, function: relax.Function) -> bool:
    """Whether a binding is the tuple of the outputs, which nothing else reads."""
    return isinstance(binding.value, relax.Tuple) and binding.var.same_as(function.body.body)


def _by_node(bindings: list[relax.Binding]) -> list[tuple[str, list[relax.Binding]]]:
    """Runs of bindings of one ONNX node; taking an item of a tuple belongs to the node before it."""
    groups: list[tuple[str, list[relax.Binding]]] = []
    for binding in bindings:
        name = node_name(binding.value) if isinstance(binding.value, relax.Call) else ""
        joins = groups and (isinstance(binding.value, relax.TupleGetItem) or name and name == groups[-1][0])
        if joins:
            groups[-1][1].append(binding)
        else:
            groups.append((name, [binding]))
    return groups


def _readers(groups: list[tuple[str, list[relax.Binding]]], outputs: list[relax.Expr]) -> dict[relax.Var, set[int]]:
    """The groups that read each variable; -1 stands for the caller."""
    readers: dict[relax.Var, set[int]] = {}
    for number, (_, group) in enumerate(groups):
        for binding in group:
            for var in _variables(_operands(binding.value)):
                readers.setdefault(var, set()).add(number)
    for var in _variables(outputs):
        readers.setdefault(var, set()).add(-1)
    return readers


def _variables(exprs: Iterable[relax.Expr]) -> list[relax.Var]:
    found: list[relax.Var] = []
    for expr in exprs:
        if isinstance(expr, relax.Tuple):
            found += _variables(expr.fields)
        elif isinstance(expr, relax.Var):
            found.append(expr)
    return found


def _operands(value: relax.Expr) -> list[relax.Expr]:
    """All operands of a binding's value, tuples kept as they are."""
    if isinstance(value, relax.Call):
        return list(value.args)
    if isinstance(value, relax.TupleGetItem):
        return [value.tuple_value]
    return [value]


def _arguments(value: relax.Expr) -> tuple[relax.Expr, ...]:
    """The operands that a NumPy rule takes: tensors and tuples, not shapes and scalars, which it read from the call."""
    return tuple(a for a in _operands(value) if holds_tensors(a))


def holds_tensors(expr: relax.Expr) -> bool:
    """Whether an operand is a tensor or a tuple of them: no shape, no scalar, no tuple of bounds."""
    if isinstance(expr.ty, relax.TupleType):
        return all(isinstance(field, relax.TensorType) for field in expr.ty.fields)
    return isinstance(expr.ty, relax.TensorType)


def _is_batched(value: relax.Expr, batched: Mapping[relax.Var, bool]) -> bool:
    if isinstance(value, relax.Tuple):
        return bool(value.fields) and all(_is_batched(field, batched) for field in value.fields)
    return isinstance(value, relax.Var) and batched.get(value, False)


def _holds_for_batches(value: relax.Expr, batched: Mapping[relax.Var, bool]) -> bool:
    """Whether a binding computes the same for every sample of a larger batch."""
    if isinstance(value, relax.Tuple):
        return False
    if not isinstance(value, relax.Call):
        return True
    flags = [_is_batched(arg, batched) for arg in value.args]
    if not any(batched.get(v, False) for v in _variables(value.args)):
        return True
    return any(flags) and keeps_samples_apart(getattr(value.op, "name", ""), value, flags)


def _adds_bias(value: relax.Expr, before: relax.Binding) -> bool:
    """Whether a binding adds a constant to the convolution or product bound just before it."""
    names = [getattr(v.op, "name", "") if isinstance(v, relax.Call) else "" for v in (before.value, value)]
    if names[0] not in kinds.WEIGHTED or names[1] != "relax.add":
        return False
    return before.var.same_as(value.args[0]) and isinstance(value.args[1], tvm.ir.GenericConst)


def _loads(exprs: Sequence[relax.Expr], slot_of: Mapping[relax.Var, int]) -> tuple[tuple[Load, ...], list[int]]:
    """How to fetch each expression, and the slots that this reads."""
    read = [slot_of[var] for var in _variables(exprs)]

    def load(expr: relax.Expr) -> Load:
        if isinstance(expr, relax.Var):
            slot = slot_of[expr]
            return lambda slots: slots[slot]
        if isinstance(expr, relax.Tuple):
            fields = [load(field) for field in expr.fields]
            return lambda slots: tuple(field(slots) for field in fields)
        constant = expr.value.numpy()
        constant.flags.writeable = False
        return lambda slots: constant

    return tuple(load(expr) for expr in exprs), read


def _kernel(binding: relax.Binding) -> Run | None:
    """The NumPy function of a binding, or None."""
    value = binding.value
    if isinstance(value, relax.TupleGetItem):
        index = int(value.index)
        return lambda fields: fields[index]
    if isinstance(value, relax.Tuple):
        return lambda fields: fields
    if not isinstance(value, relax.Call):
        return lambda x: x
    rule = RULES.get(getattr(value.op, "name", ""))
    return rule(value) if rule is not None else None


class TvmNode:
    """The bindings of one ONNX node compiled for the CPU by TVM at the first call.

    `operands` are the variables that it reads; a call takes their arrays and returns the array of the result, or a
    tuple where there are several.
    """

    def __init__(
        self, name: str, group: list[relax.Binding], results: tuple[relax.Var, ...], mod: tvm.IRModule
    ) -> None:
        own = {binding.var for binding in group}
        read = _variables(operand for binding in group for operand in _operands(binding.value))
        self.operands = tuple(dict.fromkeys(var for var in read if var not in own))
        self.name, self.group, self.results, self.mod = name, group, results, mod
        self.machine: relax.VirtualMachine | None = None
        self.busy = Lock()  # TVM's virtual machine runs one call at a time

    def __call__(self, *arrays: np.ndarray) -> Any:
        with self.busy:
            return self._result(arrays)

    def _result(self, arrays: Sequence[np.ndarray]) -> Any:
        try:
            if self.machine is None:
                executable = tvm.compile(self._module(), target=tvm.target.Target("llvm"))
                self.machine = relax.VirtualMachine(executable, tvm.cpu())
            result = self.machine["main"](
                *[tvm.runtime.tensor(np.ascontiguousarray(a).reshape(a.shape)) for a in arrays]
            )
            return result.numpy() if len(self.results) == 1 else tuple(part.numpy() for part in result)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, AssertionError) as err:
            reason = (" ".join(str(err).split()) or type(err).__name__)[:200]
            raise UserError(f"node '{self.name}' cannot be evaluated: TVM says: {reason}") from err

    def _module(self) -> tvm.IRModule:
        """A module with these bindings alone; the variables that they read are its parameters."""
        now: dict[relax.Var, relax.Expr] = {v: relax.Var(f"x{k}", v.ty) for k, v in enumerate(self.operands)}
        others = {v: fn for v, fn in self.mod.functions.items() if v.name_hint != "main" and not offloaded(fn)}
        builder = relax.BlockBuilder(tvm.IRModule(others))
        with builder.function("main", params=[now[v] for v in self.operands]):
            with builder.dataflow():
                for binding in self.group:
                    value = renewed(binding.value, now)
                    cast = isinstance(binding, relax.MatchCast)
                    now[binding.var] = builder.match_cast(value, binding.ty) if cast else builder.emit(value)
                made = [now[v] for v in self.results]
                out = builder.emit_output(made[0] if len(made) == 1 else relax.Tuple(made))
            builder.emit_func_output(out)
        return builder.get()
