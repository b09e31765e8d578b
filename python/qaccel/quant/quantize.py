"""Float Relax, ranges and bits -> quantized Relax: the `quantize` arrow.

Nodes are taken in order. What has a rule (`QUANT_RULES`) becomes an operation on integers, everything else stays as it
is, between a dequantize and a quantize. From here on the bits live in the IR.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import gcd
from typing import Any

import tvm
from tvm import ir, relax

from ..dialect import kinds, operators
from ..dialect.check import check_quantized
from ..dialect.kinds import WEIGHTED, Kind
from ..dialect.quantized import HeldTensor, QuantizedModel
from ..errors import UserError, did_you_mean, shown
from ..model import Given, Model, TensorSpec
from ..options import DEFAULT_BITS, Bits, BitWidths
from ..relax_tools import bindings, main_function, use_counts, variables
from .calibrate.masks import Masks
from .calibrate.ranges import Ranges
from .order import in_reading_order
from .rules.eltwise import ELTWISE_RULES
from .rules.emitter import Emitter
from .rules.given import rounding_of
from .rules.joins import Joins, joins_of
from .rules.layers import LAYER_RULES, Rule
from .rules.match import Node, NodeBits, fuse_biases, fuse_clamps, fuse_roundings, nodes_of, renames
from .rules.moves import MOVE_RULES
from .rules.normalization import keep_normalizations
from .rules.spans.spans import Spans, fit_spans
from .rules.steep.find import Levels, is_steep, keep_steep, steep_tables, wide_reads
from .rules.steep.ladder import emit_levels
from .rules.tables import fuse_tables
from .rules.weights import NotQuantizable

QUANT_RULES: dict[Kind, Rule] = {**LAYER_RULES, **ELTWISE_RULES, **MOVE_RULES}
FLOAT_READER_BITS = 8  # least width of a tensor that float operators or the user read


def quantize(model: Model, ranges: Ranges, bits: Bits = DEFAULT_BITS) -> QuantizedModel:
    """Quantizes every node that has a rule.

    A model that came quantized with its activations keeps its integers: a node becomes one of integers where its inputs and its
    output are given, and stays in float where they are not; ``ranges`` and ``bits`` then say nothing.

    `bits` is one pair for all layers, or pairs by node name; a layer with weights that is not named gets 8 and 8, other
    operations the widest that their readers ask for. A tensor has the width of its widest reader; readers that want
    less get a requantizing copy. A tensor that float operators or the user read has at least 8 bits.
    Raises UserError for a name in `bits` that no node has, and for a missing range.
    """
    source = model.mod["main"]
    op_types = {each.name: each.op_type for each in model.operators}
    uses = use_counts(source)
    given = model.given is not None and model.given.activations
    masks = Masks(model) if not given else None
    nodes = nodes_of(source, op_types)
    nodes = nodes if masks is None else _keep_masks(keep_normalizations(nodes), masks.made)
    nodes = fuse_tables(nodes, uses)
    nodes = fuse_roundings(fuse_clamps(fuse_biases(nodes, uses), uses), uses, QUANT_RULES.keys() - {kinds.ROUNDED})
    if masks is None:
        return _quantized(model, ranges, bits, nodes, masks, {})[0]
    _check_names(bits, nodes)
    steep = steep_tables(nodes, ranges.values)
    while True:
        q, failed = _quantized(model, ranges, bits, nodes, masks, steep)
        if not failed:
            return q
        nodes = keep_steep(nodes, steep, failed, uses)
        steep = {var: levels for var, levels in steep.items() if var not in failed}


def _quantized(
    model: Model, ranges: Ranges, bits: Bits, nodes: list[Node], masks: Masks | None, steep: Mapping[relax.Var, Levels]
) -> tuple[QuantizedModel, set[relax.Var]]:
    """The quantized model, and the ``steep`` functions whose operand cannot be had at several scales."""
    source = model.mod["main"]
    results = variables(source.body.body)
    inputs = dict(zip(source.params, model.inputs, strict=True))
    measured = {node.output: ranges.values[node.range_name] for node in nodes if node.range_name in ranges.values}
    measured |= {var: ranges.values[spec.name] for var, spec in inputs.items() if spec.name in ranges.values}
    joins = joins_of(nodes, measured, results) if masks is not None else Joins()
    if masks is None:
        widths, demands, spans = _given_widths(nodes, model.given), dict[relax.Var, int](), Spans({}, {}, 1.0)
    else:
        widths, demands = plan_widths(nodes, bits, results, joins, wide_reads(steep, bits))
        widths = _of_given_weights(nodes, widths, model.given)
        spans = fit_spans(nodes, inputs, results, widths, ranges, steep)
    builder = relax.BlockBuilder()
    batch = gcd(*(spec.shape[0] for spec in model.inputs if spec.shape))
    masked = set() if masks is None else masks.names
    emitter = Emitter(builder, spans, nodes, demands, batch, masked, joins, model.given)
    params = [relax.Var(param.name, param.ty) for param in source.params]
    for old, new, spec in zip(source.params, params, model.inputs, strict=True):
        emitter.name_input(old, spec.name, new)
    with main_function(builder, params):
        with builder.dataflow():
            failed: set[relax.Var] = set()
            for node in nodes:
                _emit(node, widths, emitter, steep.get(node.output), failed)
            result = builder.emit_output(emitter.result(source.body.body))
        builder.emit_func_output(result)
    mod = tvm.IRModule(dict(model.mod.functions_items()), attrs=model.mod.attrs)
    mod["main"] = builder.get()["main"]
    mod = relax.transform.DeadCodeElimination(["main"])(mod)
    mod["main"] = in_reading_order(mod["main"])
    check_quantized(mod)
    ops = {each.name: each.op for node in nodes for each in node.all_nodes if each.op}
    quantized = {node.name: node for node in nodes if node.output in emitter.held and node.name not in emitter.in_float}
    made = QuantizedModel(
        mod=mod,
        model=model,
        plan={n: _plan_of(x, widths[x.output], emitter) for n, x in quantized.items() if x.kind.weights},
        notes=tuple(emitter.notes),
        unquantized=tuple((name, ops.get(name, ""), reason) for name, reason in emitter.in_float.items()),
        fused={n: tuple(each.name for each in x.joined) for n, x in quantized.items() if x.joined},
        added={n: x.added[0].name for n, x in quantized.items() if x.added},
        inner={n: tuple(each.name for each in x.inner) for n, x in quantized.items() if x.inner},
        held=_held(nodes, inputs, emitter, mod["main"]),
        spans=emitter.table_spans,
        real=emitter.layers,
        apart={x.name: measured[x.output] for x in nodes if x.output in measured and emitter.joined_later(x.output)},
        undone=frozenset(x.name for x in nodes if x.output in joins.undone),
        levels=emitter.levels,
        orders=emitter.orders,
    )
    return made, failed


def _held(
    nodes: list[Node], inputs: Mapping[relax.Var, TensorSpec], emitter: Emitter, made: relax.Function
) -> dict[str, HeldTensor]:
    """What `QuantizedModel.held` is; what only renames is left to the node that makes the integers."""
    names = {b.var: operators.read(b.value).name for b in bindings(made) if operators.is_quantized(b.value)}
    tensors = {var: spec.name for var, spec in inputs.items()}
    tensors |= {node.output: node.range_name for node in nodes if not renames(node)}
    held: dict[str, HeldTensor] = {}
    for var, tensor in tensors.items():
        own = emitter.held.get(var)
        if own is not None and own.var in names:
            held.setdefault(names[own.var], HeldTensor(tensor, own.layout.view, own.layout.axes))
    return held


def plan_widths(
    nodes: list[Node], bits: Bits, results: list[relax.Var], joins: Joins, wide: Collection[relax.Var] = ()
) -> tuple[dict[relax.Var, NodeBits], dict[relax.Var, int]]:
    """Widths of each node by its output, and the widest that integer operations ask for of each tensor.

    A join that no operation on integers reads, and what is exact behind it, has none: it is made in float. ``wide``: results of
    what reads its operands at 16 bits in any case.
    """
    asked: dict[relax.Var, int] = {}
    in_float = set(results)
    widths: dict[relax.Var, NodeBits] = {}
    for node in reversed(nodes):
        if renames(node):
            asked[node.inputs[0]] = max(asked.get(node.inputs[0], 0), asked.get(node.output, 0))
            if node.output in in_float:
                in_float.add(node.inputs[0])
        elif node.kind not in QUANT_RULES:
            in_float.update(node.inputs)
        elif node.output in joins.apart and not asked.get(node.output):
            in_float.update(node.inputs if node.output in in_float else ())
        else:
            in_float.update(node.inputs if node.output in joins.apart & in_float else ())
            own = _bits_of(node, bits, asked.get(node.output, 0), node.output in in_float)
            widths[node.output] = own = replace(own, activation=16) if node.output in wide else own
            for var in joins.reads(node):
                asked[var] = max(asked.get(var, 0), own.activation)
    return widths, {var: width for var, width in asked.items() if width}


def _bits_of(node: Node, bits: Bits, asked: int, read_in_float: bool) -> NodeBits:
    """Widths of one node, from the width that its readers ask for (0: none of them works on integers)."""
    out = max(asked, FLOAT_READER_BITS if read_in_float or not asked else 0)
    given = bits if isinstance(bits, BitWidths) else bits.get(node.name)
    if given is None:
        given = DEFAULT_BITS if node.kind.weights else BitWidths(out, out)
    if read_in_float or not asked:
        out = max(out, given.activation_bits)
    if node.kind.keeps and not node.clamps and len(set(node.inputs)) == 1:
        out = given.activation_bits
    return NodeBits(given.weight_bits, given.activation_bits, out)


def _emit(
    node: Node, all_widths: Mapping[relax.Var, NodeBits], emitter: Emitter, levels: Levels | None,
    failed: set[relax.Var],
) -> None:  # fmt: skip
    value, widths = node.bindings[-1].value, all_widths.get(node.output)
    if isinstance(value, relax.Tuple):
        emitter.tuples[node.output] = value
    elif isinstance(value, relax.Var):
        emitter.same[node.output] = value
        if value in emitter.held:
            emitter.held[node.output] = emitter.held[value]
    elif node.kind.renames:
        emitter.rename(node)
    elif widths is not None or node.output not in emitter.joins.apart:
        reason = _computed_weights(node, emitter) or node.kind.reason
        if widths is not None and _is_steep_of_floats(node, emitter):
            failed.add(node.output)
        elif widths is not None:
            try:
                if 0 in operators.static_shape(node.output):
                    raise NotQuantizable("its result holds no values")
                if levels is not None and widths.out == 16:
                    emit_levels(node, widths, levels, emitter, QUANT_RULES, all_widths)
                else:
                    QUANT_RULES[node.kind](node, widths, emitter)
                return
            except NotQuantizable as error:
                reason = _computed_weights(node, emitter) or str(error)
                if levels is not None:
                    failed.add(node.output)
        if isinstance(value, relax.Call):
            for each in node.all_nodes:
                emitter.in_float[each.name] = reason
        emitter.copy(node)


def _is_steep_of_floats(node: Node, emitter: Emitter) -> bool:
    """Whether a function is steep near zero of what a node in float makes: rounding that would lose what is there."""
    source = emitter.maker(node.inputs[0]) if node.kind is kinds.TABLE and not emitter.given.activations else None
    if source is None or source.name not in emitter.in_float:
        return False
    return is_steep(node, emitter.spans.of(source.range_name), emitter.spans.expected)


def _computed_weights(node: Node, emitter: Emitter) -> str:
    """Why a layer whose weights or bias are no constants stays in float; empty for every other node."""
    for binding in node.bindings:
        call = binding.value
        name = call.op.name if isinstance(call, relax.Call) and isinstance(call.op, ir.Op) else ""
        if name not in WEIGHTED and not (name == "relax.add" and _follows_product(call, node)):
            continue
        weight = call.args[1]
        what, are = ("bias", "is") if name == "relax.add" else ("weights", "are")
        if not isinstance(weight, relax.Var):
            continue
        within = {each.var: each.value for each in node.bindings}
        while isinstance(within.get(weight), relax.Call):  # a bias that its own node brings into shape
            weight = within[weight].args[0]
        if not isinstance(weight, relax.Var):
            continue
        maker = emitter.maker(weight)
        if maker is None:
            return f"its {what} {are} an input of the model, not constant"
        if name != "relax.matmul":
            return f"its {what} {are} computed by node '{maker.name}' ({maker.op}), not constant"
    return ""


def _follows_product(call: relax.Call, node: Node) -> bool:
    first = node.bindings[0].value
    weighted = isinstance(first, relax.Call) and isinstance(first.op, ir.Op) and first.op.name in WEIGHTED
    return weighted and call.args[0] in {each.var for each in node.bindings}


def _keep_masks(nodes: list[Node], masks: set[str]) -> list[Node]:
    """The nodes, with those that make masks set to a kind that no rule takes: a rounding of 1 - mask would be one of 10000s."""
    return [replace(node, kind=kinds.MASK) if node.name in masks else node for node in nodes]


def _check_names(bits: Bits, nodes: list[Node]) -> None:
    if isinstance(bits, BitWidths):
        return
    known = {each.name for node in nodes for each in node.all_nodes}
    for name in bits:
        if name not in known:
            near = did_you_mean(str(name), known) or "; the report names the layers"
            raise UserError(f"bits are given for {shown(name)}, but the model has no such node{near}")


def _given_widths(nodes: list[Node], given: Given | None) -> dict[relax.Var, NodeBits]:
    """Widths of each node that came quantized, by its output; those of its inputs are theirs."""
    widths = {}
    for node in nodes:
        if node.kind in QUANT_RULES and given is not None:
            weights = given.weights.get(node.name)
            out = rounding_of(node.rounded[0]).bits if node.rounded else DEFAULT_BITS.activation_bits
            widths[node.output] = NodeBits(weights.bits if weights else DEFAULT_BITS.weight_bits, out, out)
    return widths


def _of_given_weights(
    nodes: list[Node], widths: dict[relax.Var, NodeBits], given: Given | None
) -> dict[relax.Var, NodeBits]:  # fmt: skip
    """The widths, those of weights that came as integers as they are."""
    weights = given.weights if given is not None else {}
    own = {node.output: weights[node.name].bits for node in nodes if node.name in weights}
    return {var: replace(each, weight=own.get(var, each.weight)) for var, each in widths.items()}


def _plan_of(node: Node, widths: NodeBits, emitter: Emitter) -> BitWidths:
    """The bits of a layer with weights; those of what it reads are its activations'."""
    held = emitter.held.get(node.inputs[0])
    given = emitter.given.activations and held is not None
    return BitWidths(widths.weight, held.q.bits if given and held is not None else widths.activation)


def attributes(mod: tvm.IRModule) -> dict[str, Any]:
    """Attributes of every operation in ``main`` by its name, in order; a dequantize is named after what it reads."""
    result: dict[str, Any] = {}
    for binding in bindings(mod["main"]):
        if operators.is_quantized(binding.value):
            attrs = operators.read(binding.value)
            result.setdefault(attrs.name, attrs)
    return result
