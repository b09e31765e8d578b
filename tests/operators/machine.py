"""A model quantized by given ranges, compiled, and run on the simulator from integers to integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from tvm import relax

from npu.harness import run_artefact
from operators.exact import Q, Tensor
from qaccel.dialect import operators as dialect
from qaccel.dialect.quantized import QuantizedModel
from qaccel.frontend.import_onnx import import_onnx
from qaccel.machine.hw import load_config
from qaccel.npu.codegen import compile_subgraph
from qaccel.npu.partition.partition import partition, subgraph_functions
from qaccel.options import BitWidths
from qaccel.quant.calibrate.ranges import Ranges
from qaccel.quant.quantize import quantize

Span = tuple[float, float]


def quantized_model(model: onnx.ModelProto, spans: Mapping[str, Span], bits: BitWidths) -> QuantizedModel:
    """The model with the range that ``spans`` has for each input and tensor; nothing of it may stay in float."""
    imported = import_onnx(model)
    last = list(spans.values())[-1]
    values = {spec.name: spans[spec.name] for spec in imported.inputs}
    # Nodes that the import made around one have its range.
    values |= {node.name: spans.get(node.outputs[0], last) for node in imported.operators}
    q = quantize(imported, Ranges(values, "given", 1, exact=True), bits)
    assert q.unquantized == ()
    return q


@dataclass(frozen=True)
class _Value:
    """An array in the order of the float tensor or of the integers, and what it means where that is known."""

    array: np.ndarray
    q: Q | None = None


def run_on_machine(
    q: QuantizedModel, inputs: Mapping[str, Tensor], config: str, mode: str = "functional"
) -> dict[str, Tensor]:
    """Integers of every graph output, in ONNX's order of axes. ``inputs``: the integers that the module must quantize to."""
    hw = load_config(config)
    parts = partition(q.mod, hw, q.unquantized)
    assert parts.rejections == ()
    compiled = {symbol: compile_subgraph(f, symbol, hw) for symbol, f in subgraph_functions(parts.mod).items()}
    symbols = {
        var: str(f.attrs["global_symbol"]) for var, f in parts.mod.functions.items() if "Codegen" in (f.attrs or {})
    }
    main = parts.mod["main"]
    specs = zip(main.params, q.model.inputs, strict=True)
    values = {param: _Value(inputs[spec.name].values, inputs[spec.name].q) for param, spec in specs}

    def value_of(expr: relax.Expr):
        if isinstance(expr, relax.Var):
            return values[expr]
        if isinstance(expr, relax.Tuple):
            return [value_of(field) for field in expr.fields]
        assert isinstance(expr, relax.TupleGetItem), expr
        return value_of(expr.tuple_value)[expr.index]

    for binding in (b for block in main.body.blocks for b in block.bindings):
        call = binding.value
        if not isinstance(call, relax.Call):
            values[binding.var] = value_of(call)
        elif dialect.is_quantized(call):
            attrs = dialect.read(call)
            given = value_of(call.args[0])
            if isinstance(attrs, dialect.QuantizeAttrs):
                meaning = Q(attrs.result.bits, attrs.result.scale, attrs.result.zero_point)
                assert given.q == meaning, (given.q, meaning)
                values[binding.var] = _Value(given.array.transpose(attrs.axes).reshape(attrs.shape))
            else:
                assert isinstance(attrs, dialect.DequantizeAttrs)
                meaning = Q(attrs.source.bits, attrs.source.scale, attrs.source.zero_point)
                values[binding.var] = _Value(given.array.reshape(attrs.shape).transpose(attrs.axes), meaning)
        elif call.op in symbols:
            made = _run(compiled[symbols[call.op]].artefact, [value_of(arg).array for arg in call.args], mode)
            values[binding.var] = made[0] if len(made) == 1 else made
        else:
            assert call.op.name == "relax.reshape", call.op
            given = value_of(call.args[0])
            values[binding.var] = _Value(given.array.reshape(dialect.static_shape(call)), given.q)
    result = value_of(main.body.body)
    results = result if isinstance(result, list) else [result]
    return {s.name: Tensor(v.array.astype(np.int64), v.q) for s, v in zip(q.model.outputs, results, strict=True)}


def _run(artefact, arguments: list[np.ndarray], mode: str) -> list[_Value]:
    samples = [run_artefact(artefact, [a[n] for a in arguments], mode)[0] for n in range(len(arguments[0]))]
    return [_Value(np.stack(parts)) for parts in zip(*samples, strict=True)]
