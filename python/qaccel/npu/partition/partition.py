"""Partitioning: quantized Relax -> accelerator subgraphs + CPU rest, each rejection with its reason.

TVM's FuseOpsByPattern and MergeCompositeFunctions work on the quantized dialect as they are: a pattern per operator,
`constraints` as their check, and regions that never wait for an operator outside that waits for them. Every shared
value has one quantized form (there is no DequantizeLinear between two integer layers), so the trouble that QDQ graphs
have with shared dequantizes does not arise. What they leave is tidied: the code generator wants plain functions
without the composites inside, and short names in the order of execution.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.dpl import is_op, wildcard

from ...dialect import operators
from ...errors import UserError
from ...machine.hw import HwConfig
from ...machine.streams import entropy_bits
from ...relax_tools import bindings, node_name, renewed
from .constraints import Verdict, check_call

log = logging.getLogger(__name__)

CODEGEN = "qaccel"
_GIVEN_FIX = "quantize the model as the reason says, or let --requantize take it as the float model that it stands for"
HW_ATTR = "qaccel_hw"  # the config of a subgraph as JSON: what the constraints were checked against


@dataclass(frozen=True)
class Rejection:
    """A node that stays on the CPU; ``macs`` are those of a batch.

    ``weight_bits`` and ``entropy_bits`` are 0 for a node without weights, both widths for one in float. ``too_large``: only
    the config is in the way.
    """

    name: str
    op: str
    macs: int
    reason: str
    fix: str
    weight_bits: int = 0
    activation_bits: int = 0
    entropy_bits: float = 0.0
    too_large: bool = False


@dataclass(frozen=True, eq=False)
class Partitioned:
    """``mod``: ``main`` calls the functions ``subgraphs``, which have the attributes Codegen and qaccel_hw."""

    mod: tvm.IRModule
    subgraphs: tuple[str, ...]
    rejections: tuple[Rejection, ...]

    def __repr__(self) -> str:
        return f"<Partitioned: {len(self.subgraphs)} accelerator subgraphs, {len(self.rejections)} nodes on the CPU>"


def partition(
    mod: tvm.IRModule,
    hw: HwConfig,
    unquantized: Iterable[tuple[str, str, str]] = (),
    float_macs: Mapping[str, int] | None = None,
    came_quantized: bool = False,
) -> Partitioned:
    """Accelerator subgraphs of a module in the quantized dialect (``main``, dataflow blocks, static shapes).

    ``unquantized`` are (node, op, reason) of what was left in float, ``float_macs`` their MACs by node name;
    ``came_quantized``: whether the model's own scales kept them there. A region is maximal and convex; it may have several
    inputs and outputs. Raises UserError if there is no ``main``.
    """
    if "main" not in {var.name_hint for var in mod.get_global_vars()}:
        raise UserError("the module has no function 'main' to partition")
    verdicts = {}

    def accepted(context: relax.transform.PatternCheckContext) -> bool:
        return check_call(context.matched_expr, hw).ok

    for call in _dialect_calls(mod["main"]):
        verdict = check_call(call, hw)
        attrs = operators.read(call)
        if not verdict.ok and not isinstance(attrs, operators.QuantizeAttrs | operators.DequantizeAttrs):
            verdicts[attrs.name] = _rejection(call, verdict)
    floats = [
        Rejection(name, op, (float_macs or {}).get(name, 0), reason, _GIVEN_FIX if came_quantized else _float_fix(op))
        for name, op, reason in unquantized
    ]
    # A pattern has a fixed number of operands: one for each number that the module's calls of an operator have.
    counts = {(call.op.name, len(call.args)) for call in _dialect_calls(mod["main"])}
    patterns: list[Any] = [
        (f"{CODEGEN}.{name.removeprefix('qaccel.')}", is_op(name)(*(wildcard() for _ in range(count))), {}, accepted)
        for name in (cls.operator for cls in operators.OPERATORS if issubclass(cls, operators.IntegerAttrs))
        for count in sorted(number for of, number in counts if of == name)
    ]
    mod = relax.transform.FuseOpsByPattern(patterns, bind_constants=True, annotate_codegen=False)(mod)
    mod = relax.transform.MergeCompositeFunctions()(mod)
    mod, symbols = _tidy(mod, hw)
    rejections = (*verdicts.values(), *floats)
    for each in rejections:
        log.debug("%s (%s) runs on the CPU: %s", each.name, each.op, each.reason)
    log.info("%d accelerator subgraphs, %d nodes on the CPU", len(symbols), len(rejections))
    return Partitioned(mod, symbols, rejections)


def cpu_notes(partitioned: Partitioned) -> tuple[str, ...]:
    """What to say where layers with MACs stay on the CPU, or everything does: how much, and the reason of the largest."""
    kept = sorted(partitioned.rejections, key=lambda each: -each.macs)
    layers = [each for each in kept if each.macs]
    if partitioned.subgraphs and not layers:
        return ()
    what = f"{sum(each.macs for each in layers):,} MACs run on the CPU"
    if not partitioned.subgraphs:
        what = "no operator runs on the accelerator; the whole network is on the CPU"
    others = len(layers if layers else kept) - 1
    more = f"; and {others} more, which the report names" if others > 0 else ""
    why = f": node '{kept[0].name}' ({kept[0].op}): {kept[0].reason}; {kept[0].fix}{more}" if kept else ""
    return (what + why,)


def subgraph_functions(mod: tvm.IRModule) -> dict[str, relax.Function]:
    """The accelerator's functions of a partitioned module by symbol."""
    return {
        str(function.attrs["global_symbol"]): function
        for function in mod.functions.values()
        if isinstance(function, relax.Function) and function.attrs and function.attrs.get("Codegen") == CODEGEN
    }


def hw_of(function: relax.Function) -> HwConfig:
    """The config that a subgraph was partitioned for."""
    from ...machine.hw import config_from_dict

    return config_from_dict(json.loads(str(function.attrs[HW_ATTR])), "accelerator subgraph")


def conv_macs(call: relax.Call) -> int:
    """MACs of a ``qaccel.conv2d``, padding taps counted."""
    n, h, w, _ = operators.static_shape(call)
    return n * h * w * int(np.prod(operators.static_shape(call.args[1])))


def float_macs(mod: tvm.IRModule) -> dict[str, int]:
    """MACs of the float convolutions and matrix products of ``main`` by the node that their span names."""
    macs: dict[str, int] = {}
    for binding in bindings(mod["main"]):
        call = binding.value
        if isinstance(call, relax.Call) and node_name(call) and isinstance(call.op, tvm.ir.Op):
            macs[node_name(call)] = macs.get(node_name(call), 0) + _macs_of(call)
    return macs


def _macs_of(call: relax.Call) -> int:
    if call.op.name == "relax.matmul":
        return int(np.prod(operators.static_shape(call))) * operators.static_shape(call.args[0])[-1]
    if call.op.name in ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d"):
        weight = operators.static_shape(call.args[1])
        return int(np.prod(operators.static_shape(call))) * int(np.prod(weight)) // weight[0]
    if call.op.name in ("relax.nn.conv1d_transpose", "relax.nn.conv2d_transpose", "relax.nn.conv3d_transpose"):
        weight = operators.static_shape(call.args[1])
        return int(np.prod(operators.static_shape(call.args[0]))) * int(np.prod(weight)) // weight[0]
    return 0


def _dialect_calls(function: relax.Function) -> list[relax.Call]:
    return [binding.value for binding in bindings(function) if operators.is_quantized(binding.value)]


def _rejection(call: relax.Call, verdict: Verdict) -> Rejection:
    attrs = operators.read(call)
    reason, too_large = verdict.reason, verdict.too_large
    fix = "choose a larger config" if too_large else "change the layer in the model to stay within the limit"
    op = str(getattr(attrs, "op", attrs.operator))
    if not isinstance(attrs, operators.ConvAttrs):
        return Rejection(
            attrs.name, op, 0, reason, fix, activation_bits=operators.inputs_of(attrs)[0].bits, too_large=too_large
        )
    entropy = entropy_bits(operators.constant(call.args[1]))
    widths = attrs.weight_bits, attrs.source.bits
    return Rejection(attrs.name, op, conv_macs(call), reason, fix, *widths, entropy, too_large)


def _float_fix(op: str) -> str:
    if op in ("Conv", "Gemm", "MatMul"):
        return "change the layer as the reason says, or leave it to the CPU"
    if op == "Concat":
        return "leave it to the CPU, or make its operands outputs of their own"
    return f"replace {op} by operators that the accelerator has, or leave it to the CPU"


def _tidy(mod: tvm.IRModule, hw: HwConfig) -> tuple[tvm.IRModule, tuple[str, ...]]:
    """Subgraph functions flattened, named qaccel_0, qaccel_1, ... in the order of their calls, with their config."""
    ours, config = _codegen_names(mod), json.dumps(hw.to_dict(), sort_keys=True)
    functions = {var: function for var, function in mod.functions.items() if var.name_hint not in ours}
    main, blocks = mod["main"], []
    symbols: list[str] = []
    for block in main.body.blocks:
        kept = []
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.GlobalVar) and call.op.name_hint in ours:
                symbol = f"{CODEGEN}_{len(symbols)}"
                symbols.append(symbol)
                function = _flattened(mod[call.op]).with_attr("global_symbol", symbol).with_attr(HW_ATTR, config)
                var = tvm.ir.GlobalVar(symbol)
                relax.expr._update_type(var, call.op.ty)
                functions[var] = function
                renamed = relax.Call(var, call.args, call.attrs, call.ty_args, call.span)
                relax.expr._update_type(renamed, call.ty)
                binding = relax.VarBinding(binding.var, renamed)
            kept.append(binding)
        blocks.append(type(block)(kept))
    body = relax.SeqExpr(blocks, main.body.body)
    relax.expr._update_type(body, main.body.ty)
    functions[mod.get_global_var("main")] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return tvm.IRModule(functions, attrs=mod.attrs), tuple(symbols)


def _codegen_names(mod: tvm.IRModule) -> set[str]:
    return {
        var.name_hint
        for var, function in mod.functions.items()
        if isinstance(function, relax.Function) and function.attrs and function.attrs.get("Codegen") == CODEGEN
    }


def _flattened(function: relax.Function) -> relax.Function:
    """The same function with the bodies of its local composite functions in place of their calls."""
    value_of: dict[relax.Var, relax.Expr] = {param: param for param in function.params}
    composites: dict[relax.Var, relax.Function] = {}
    builder = relax.BlockBuilder()

    def result(body_of: relax.Function, values: dict[relax.Var, relax.Expr]) -> relax.Expr:
        for binding in bindings(body_of):
            value = binding.value
            if isinstance(value, relax.Function):
                composites[binding.var] = value
            elif isinstance(value, relax.Call) and value.op in composites:
                inner = composites[value.op]
                arguments = [renewed(argument, values) for argument in value.args]
                values[binding.var] = result(inner, dict(zip(inner.params, arguments, strict=True)))
            elif isinstance(value, relax.Var | relax.Tuple | relax.TupleGetItem):
                values[binding.var] = _item(renewed(value, values))
            else:
                values[binding.var] = builder.emit(renewed(value, values))
        return renewed(body_of.body.body, values)

    with builder.function("subgraph", params=list(function.params), attrs=dict(function.attrs.items())):
        with builder.dataflow():
            out = builder.emit_output(result(function, value_of))
        builder.emit_func_output(out)
    return builder.get()["subgraph"]


def check_fits(partitioned: Partitioned, hw: HwConfig) -> None:
    """Raises UserError for a node that only the config keeps from the accelerator.

    Tiles make any layer fit any sensible config: one that a layer does not fit is a mistake, not a reason for the CPU.
    """
    for rejection in partitioned.rejections:
        if rejection.too_large:
            raise UserError(
                f"config {hw.name} is too small for node '{rejection.name}' ({rejection.op}): {rejection.reason}; {rejection.fix}"
            )


def _item(expr: relax.Expr) -> relax.Expr:
    """A field of a literal tuple is the field itself."""
    if isinstance(expr, relax.TupleGetItem) and isinstance(expr.tuple_value, relax.Tuple):
        return expr.tuple_value.fields[expr.index]
    return expr
