"""Fast float evaluation of canonical Relax: NumPy for the usual operators, TVM for the one that has no rule.

This is what calibration, sensitivities and accuracy checks run; an unscheduled TVM convolution would be 30 to 60 times
slower than a library's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import tvm
from tvm import relax

from qaccel.errors import QaccelError
from qaccel.frontend.import_onnx import ImportedModel, node_name
from qaccel.quant.float_rules import RULES, keeps_samples_apart

Observer = Callable[[str, np.ndarray], None]
Load = Callable[[dict[int, Any]], Any]


@dataclass(frozen=True)
class Step:
    """One binding: `run` on the values of `loads` goes to slot `out`; slots in `dead` are freed afterwards.

    `node` is set on the last binding of an ONNX node. `in_place` marks a bias addition whose left operand nobody else
    sees.
    """

    run: Callable[..., Any]
    loads: tuple[Load, ...]
    out: int
    dead: tuple[int, ...]
    node: str
    in_place: bool


@dataclass(frozen=True)
class Plan:
    """A module ready to run. `batchable`: axis 0 may have another size than at import."""

    steps: tuple[Step, ...]
    results: tuple[Load, ...]
    batchable: bool


def execute(
    model: ImportedModel, inputs: Mapping[str, np.ndarray], observe: Observer | None = None
) -> dict[str, np.ndarray]:
    """Runs the model; `inputs` and the result go by ONNX name.

    Shapes are those of the model; axis 0 may be any multiple of the model's own batch, which runs in one pass where
    the model keeps samples apart and sample by sample where it does not.
    `observe(name, value)` is called for every input and for the final value of every node, with activations in NCHW
    shape (several times with one name for a node with several outputs, or where samples run one by one). The value
    must not be modified.
    """
    arrays = {}
    factor = None
    for spec in model.inputs:
        if spec.name not in inputs:
            raise QaccelError(f"input '{spec.name}' is missing; the model has {', '.join(s.name for s in model.inputs)}")
        value = np.asarray(inputs[spec.name])
        if value.dtype != np.dtype(spec.dtype):
            value = value.astype(spec.dtype)
        own = spec.shape[0] if spec.shape else 1
        good = value.shape[1:] == spec.shape[1:] and value.ndim == len(spec.shape)
        times = (value.shape[0] // own if value.shape[0] % own == 0 else 0) if good and spec.shape else int(good)
        if times < 1 or factor not in (None, times):
            raise QaccelError(
                f"input '{spec.name}' has shape {list(value.shape)}; needed is {list(spec.shape)}, or a multiple of it "
                "along axis 0 common to all inputs"
            )
        factor = times
        arrays[spec.name] = value
    plan = plan_of(model)
    if factor in (None, 1) or plan.batchable:
        return _run(plan, model, arrays, observe)
    pieces = []
    for k in range(factor):
        sample = {s.name: arrays[s.name][k * s.shape[0] : (k + 1) * s.shape[0]] for s in model.inputs}
        pieces.append(_run(plan, model, sample, observe))
    return {name: np.concatenate([np.atleast_1d(p[name]) for p in pieces]) for name in pieces[0]}


def _run(
    plan: Plan, model: ImportedModel, arrays: Mapping[str, np.ndarray], observe: Observer | None
) -> dict[str, np.ndarray]:
    slots: dict[int, Any] = {}
    for position, spec in enumerate(model.inputs):
        slots[position] = arrays[spec.name]
        if observe is not None:
            observe(spec.name, arrays[spec.name])
    with np.errstate(all="ignore"):
        for step in plan.steps:
            operands = [load(slots) for load in step.loads]
            if step.in_place and operands[0].flags.writeable and operands[0].dtype == operands[1].dtype:
                value = step.run(*operands, out=operands[0])
            else:
                value = step.run(*operands)
            slots[step.out] = value
            if observe is not None and step.node:
                for each in value if isinstance(value, (tuple, list)) else (value,):
                    observe(step.node, each)
            for slot in step.dead:
                del slots[slot]
    results = (load(slots) for load in plan.results)
    return {spec.name: np.ascontiguousarray(v).reshape(v.shape) for spec, v in zip(model.outputs, results, strict=True)}


@lru_cache(maxsize=4)
def plan_of(model: ImportedModel) -> Plan:
    """The steps of a model, kept for the last few models (they hold converted weights)."""
    function = model.mod["main"]
    slot_of: dict[relax.Var, int] = {p: k for k, p in enumerate(function.params)}
    batched: dict[relax.Var, bool] = {p: True for p in function.params}
    bindings = [b for block in function.body.blocks for b in block.bindings]
    names = [_name_of(b.value) for b in bindings]
    last_use: dict[int, int] = {}
    batchable = all(spec.shape for spec in model.inputs) and len({spec.shape[0] for spec in model.inputs}) == 1
    drafts = []
    for k, binding in enumerate(bindings):
        loads, read = _loads(binding.value, slot_of)
        for slot in read:
            last_use[slot] = k
        run, safe = _runner(binding.value, model.mod, batched)
        batchable = batchable and safe
        slot_of[binding.var] = len(slot_of)
        batched[binding.var] = any(_is_batched(v, batched) for v in _operands(binding.value))
        drafts.append((run, loads, slot_of[binding.var], read))
    final = function.body.body
    results, kept = _results(final, slot_of, bindings)
    uses = _use_counts(bindings)
    steps = []
    for k, ((run, loads, out, read), binding, name) in enumerate(zip(drafts, bindings, names, strict=True)):
        dead = [s for s in sorted(set(read)) if last_use[s] == k and s >= len(function.params) and s not in kept]
        if out not in last_use and out not in kept:
            dead.append(out)
        is_last = bool(name) and (k + 1 == len(names) or names[k + 1] != name)
        steps.append(Step(run, loads, out, tuple(dead), name if is_last else "", _adds_bias(k, bindings, names, uses)))
    batchable = batchable and all(spec.shape and spec.shape[0] == model.inputs[0].shape[0] for spec in model.outputs)
    return Plan(tuple(steps), results, batchable)


def _name_of(value: relax.Expr) -> str:
    return node_name(value) if isinstance(value, relax.Call) else ""


def _operands(value: relax.Expr) -> list[relax.Expr]:
    if isinstance(value, relax.Call):
        return [a for arg in value.args for a in (arg.fields if isinstance(arg, relax.Tuple) else [arg])]
    if isinstance(value, relax.TupleGetItem):
        return [value.tuple_value]
    return list(value.fields) if isinstance(value, relax.Tuple) else [value]


def _is_batched(value: relax.Expr, batched: Mapping[relax.Var, bool]) -> bool:
    if isinstance(value, relax.Tuple):
        return all(_is_batched(field, batched) for field in value.fields)
    return isinstance(value, relax.Var) and batched.get(value, False)


def _use_counts(bindings: list[relax.Binding]) -> dict[relax.Var, int]:
    counts: dict[relax.Var, int] = {}
    for binding in bindings:
        for operand in _operands(binding.value):
            if isinstance(operand, relax.Var):
                counts[operand] = counts.get(operand, 0) + 1
    return counts


def _adds_bias(k: int, bindings: list[relax.Binding], names: list[str], uses: Mapping[relax.Var, int]) -> bool:
    """Whether binding k adds a constant to the convolution or product of its own node, seen by nobody else."""
    value = bindings[k].value
    if k == 0 or not names[k] or names[k] != names[k - 1] or value.op.name != "relax.add":
        return False
    before = bindings[k - 1]
    layer = isinstance(before.value, relax.Call) and getattr(before.value.op, "name", "") in ("relax.nn.conv2d", "relax.matmul")
    alone = before.var.same_as(value.args[0]) and uses[before.var] == 1
    return layer and alone and isinstance(value.args[1], tvm.ir.GenericConst)


def _loads(value: relax.Expr, slot_of: Mapping[relax.Var, int]) -> tuple[tuple[Load, ...], list[int]]:
    """How to fetch the operands of a binding, and the slots they come from."""
    read: list[int] = []

    def load(expr: relax.Expr) -> Load:
        if isinstance(expr, relax.Var):
            slot = slot_of[expr]
            read.append(slot)
            return lambda slots: slots[slot]
        if isinstance(expr, relax.Tuple):
            fields = [load(field) for field in expr.fields]
            return lambda slots: tuple(field(slots) for field in fields)
        constant = _constant(expr)
        return lambda slots: constant

    if isinstance(value, relax.Call):
        if getattr(value.op, "name", "") in RULES:
            return tuple(load(arg) for arg in value.args if not isinstance(arg, relax.ShapeExpr)), read
        return tuple(load(arg) for arg in _operands(value) if _is_tensor(arg)), read
    if isinstance(value, relax.TupleGetItem):
        return (load(value.tuple_value),), read
    return (load(value),), read


def _is_tensor(expr: relax.Expr) -> bool:
    return isinstance(getattr(expr, "ty", None), (relax.TensorType, relax.TupleType)) and not isinstance(expr, tvm.ir.GlobalVar)


def _constant(expr: relax.Expr) -> Any:
    if isinstance(expr, tvm.ir.GenericConst):
        return expr.value.numpy()
    return getattr(expr, "value", None)  # a scalar argument; rules read it from the call


def _results(
    final: relax.Expr, slot_of: Mapping[relax.Var, int], bindings: list[relax.Binding]
) -> tuple[tuple[Load, ...], set[int]]:
    """How to fetch the outputs, and the slots that must live to the end."""
    bound = {b.var: b.value for b in bindings}
    expr = final
    while isinstance(expr, relax.Var) and isinstance(bound.get(expr), relax.Tuple):
        expr = bound[expr]
    fields = list(expr.fields) if isinstance(expr, relax.Tuple) else [expr]
    loads, kept = [], set()
    for field in fields:
        one, read = _loads(field, slot_of)
        loads += one
        kept |= set(read)
    return tuple(loads), kept


def _runner(value: relax.Expr, mod: tvm.IRModule, batched: Mapping[relax.Var, bool]) -> tuple[Callable[..., Any], bool]:
    """The function of a binding, and whether it holds for other batch sizes."""
    if isinstance(value, relax.TupleGetItem):
        index = int(value.index)
        return (lambda fields: fields[index]), True
    if not isinstance(value, relax.Call):
        return (lambda x: x), True
    flags = [_is_batched(arg, batched) for arg in value.args]
    if not any(_is_batched(arg, batched) for arg in _operands(value)):
        flags_safe = True
    else:
        name = getattr(value.op, "name", "")
        flags_safe = name in RULES and keeps_samples_apart(name, value, flags)
    rule = RULES.get(getattr(value.op, "name", ""))
    kernel = rule(value) if rule is not None else None
    if kernel is None:
        return _TvmOperator(value, mod), False
    return kernel, flags_safe


class _TvmOperator:
    """One Relax call compiled for the CPU by TVM at its first use."""

    def __init__(self, call: relax.Call, mod: tvm.IRModule) -> None:
        self.call, self.mod = call, mod
        self.machine: relax.VirtualMachine | None = None

    def __call__(self, *operands: Any) -> Any:
        if self.machine is None:
            self.machine = relax.VirtualMachine(_compiled(self.call, self.mod), tvm.cpu())
        flat = [part for o in operands for part in (o if isinstance(o, (tuple, list)) else (o,))]
        result = self.machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(o).reshape(o.shape)) for o in flat])
        return result.numpy() if hasattr(result, "numpy") else tuple(part.numpy() for part in result)


def _compiled(call: relax.Call, mod: tvm.IRModule) -> relax.VMExecutable:
    """A module with this call alone; its tensor operands become parameters."""
    params: list[relax.Var] = []

    def parameter(expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([parameter(field) for field in expr.fields])
        if not isinstance(expr.ty, relax.TensorType) or isinstance(expr, tvm.ir.GlobalVar):
            return expr
        params.append(relax.Var(f"x{len(params)}", expr.ty))
        return params[-1]

    builder = relax.BlockBuilder(tvm.IRModule({g: f for g, f in mod.functions.items() if g.name_hint != "main"}))
    args = [parameter(arg) for arg in call.args]
    with builder.function("main", params=params):
        with builder.dataflow():
            out = builder.emit_output(relax.Call(call.op, args, call.attrs, call.ty_args))
        builder.emit_func_output(out)
    return tvm.compile(builder.get(), target=tvm.target.Target("llvm"))
