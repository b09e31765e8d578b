"""Partitioning: before, after, structurally equal; and what is rejected, with its reason."""

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.ir import assert_structural_equal

import small_models
from qaccel.dialect import operators as ops
from qaccel.frontend.import_onnx import import_onnx
from qaccel.machine.hw import load_config
from qaccel.npu.partition.partition import conv_macs, float_macs, hw_of, partition, subgraph_functions
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.quantize import quantize

HW = load_config("qaccel-256")
SHAPE = (1, 8, 8, 4)
SCALE = 0.125
Q, WHOLE = ops.Quantization(8, SCALE, 0), ops.Clamp.whole(8)


def conv(q: relax.Expr, name: str, padding: int = 1) -> relax.Call:
    attrs = ops.ConvAttrs(name, "Conv", Q, WHOLE, Q, (1, 1), (padding,) * 4, (1, 1), 1, 8)
    weight = np.arange(4 * 3 * 3 * 4).reshape(4, 3, 3, 4) % 5
    return attrs.call(q, weight, np.arange(4), np.full(4, SCALE))


def add(a: relax.Expr, b: relax.Expr, name: str) -> relax.Call:
    return ops.EltwiseAttrs(name, "Add", Q, WHOLE, "add", Q, Q).call(a, b)


def quantized(x: relax.Expr, name: str) -> relax.Call:
    return ops.QuantizeAttrs(name, Q, (0, 1, 2, 3), SHAPE).call(x)


def real(q: relax.Expr, name: str) -> relax.Call:
    return ops.DequantizeAttrs(name, Q, (0, 1, 2, 3), SHAPE).call(q)


def module(build, inputs: int = 1) -> tvm.IRModule:
    """``main`` whose dataflow block ``build(emit, *inputs)`` fills; it gives the results."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{k}", relax.TensorType(SHAPE, "float32")) for k in range(inputs)]
    with builder.function("main", params):
        with builder.dataflow():
            results = build(builder.emit, *params)
            out = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        builder.emit_func_output(out)
    return builder.get()


def after(build_main, subgraphs, inputs: int = 1) -> tvm.IRModule:
    """The expected module: each of ``subgraphs`` is (build, number of inputs), ``build_main`` gets their variables first."""
    builder = relax.BlockBuilder()
    called = []
    config = partition_config()
    for index, (build, count) in enumerate(subgraphs):
        params = [relax.Var(f"p{k}", relax.TensorType(SHAPE, "int8")) for k in range(count)]
        symbol = f"qaccel_{index}"
        attrs = {"Codegen": "qaccel", "global_symbol": symbol, "qaccel_hw": config}
        with builder.function(symbol, params, attrs=attrs):
            with builder.dataflow():
                results = build(builder.emit, *params)
                out = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
            called.append(builder.emit_func_output(out))
    params = [relax.Var(f"x{k}", relax.TensorType(SHAPE, "float32")) for k in range(inputs)]
    with builder.function("main", params):
        with builder.dataflow():
            results = build_main(builder.emit, called, *params)
            out = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        builder.emit_func_output(out)
    return builder.get()


def partition_config() -> str:
    import json

    return json.dumps(HW.to_dict(), sort_keys=True)


def check(mod: tvm.IRModule, expected: tvm.IRModule, count: int) -> None:
    result = partition(mod, HW)
    assert result.subgraphs == tuple(f"qaccel_{k}" for k in range(count))
    assert result.rejections == ()
    relax.analysis.well_formed(result.mod)
    assert_structural_equal(result.mod, expected)


def test_a_chain_is_one_subgraph():
    def before(emit, x):
        q = emit(quantized(x, "x"))
        a = emit(conv(q, "a"))
        b = emit(conv(a, "b"))
        return [emit(real(b, "b"))]

    def inside(emit, p):
        a = emit(conv(p, "a"))
        return [emit(conv(a, "b"))]

    def main(emit, called, x):
        q = emit(quantized(x, "x"))
        return [emit(real(emit(relax.Call(called[0], [q])), "b"))]

    check(module(before), after(main, [(inside, 1)]), 1)


def test_a_residual_is_one_subgraph():
    def body(emit, q):
        a = emit(conv(q, "a"))
        return [emit(add(emit(conv(a, "b")), q, "sum"))]

    def before(emit, x):
        (s,) = body(emit, emit(quantized(x, "x")))
        return [emit(real(s, "sum"))]

    def main(emit, called, x):
        q = emit(quantized(x, "x"))
        return [emit(real(emit(relax.Call(called[0], [q])), "sum"))]

    check(module(before), after(main, [(body, 1)]), 1)


def test_a_value_that_the_cpu_reads_too_becomes_an_output_and_regions_are_convex():
    """a -> softmax -> sum, and a -> sum: one region would wait for the softmax that waits for it."""

    def before(emit, x):
        a = emit(conv(emit(quantized(x, "x")), "a"))
        soft = emit(relax.op.nn.softmax(emit(real(a, "a"))))
        s = emit(add(emit(quantized(soft, "soft")), a, "sum"))
        return [emit(real(s, "sum"))]

    def main(emit, called, x):
        a = emit(relax.Call(called[0], [emit(quantized(x, "x"))]))
        soft = emit(relax.op.nn.softmax(emit(real(a, "a"))))
        s = emit(relax.Call(called[1], [emit(quantized(soft, "soft")), a]))
        return [emit(real(s, "sum"))]

    subgraphs = [
        (lambda emit, p: [emit(conv(p, "a"))], 1),
        (lambda emit, p, r: [emit(add(p, r, "sum"))], 2),
    ]
    check(module(before), after(main, subgraphs), 2)


def test_two_inputs_and_two_outputs():
    mod = module(
        lambda emit, x, y: [
            emit(real(a := emit(conv(emit(quantized(x, "x")), "a")), "a")),
            emit(real(emit(add(a, emit(quantized(y, "y")), "sum")), "sum")),
        ],
        2,
    )
    result = partition(mod, HW)
    (function,) = subgraph_functions(result.mod).values()
    assert len(function.params) == 2
    assert len(function.ret_ty.fields) == 2
    assert hw_of(function) == HW
    calls = [b.value for b in function.body.blocks[0].bindings if isinstance(b.value, relax.Call)]
    assert [ops.read(call).name for call in calls] == ["a", "sum"]
    relax.analysis.well_formed(result.mod)


def test_the_same_operand_twice():
    result = partition(
        module(lambda emit, x: [emit(real(emit(add(q := emit(quantized(x, "x")), q, "twice")), "twice"))]), HW
    )
    (function,) = subgraph_functions(result.mod).values()
    assert len(function.params) == 1


def test_a_constant_operand_goes_inside():
    one = relax.const(np.ones((1, 1, 1, 4), np.int8))
    result = partition(module(lambda emit, x: [emit(real(emit(add(emit(quantized(x, "x")), one, "one")), "one"))]), HW)
    (function,) = subgraph_functions(result.mod).values()
    assert len(function.params) == 1
    (call,) = [b.value for b in function.body.blocks[0].bindings if isinstance(b.value, relax.Call)]
    np.testing.assert_array_equal(ops.constant(call.args[1]), ops.constant(one))


def test_a_rejected_operation_stays_with_its_reason():
    """Padding as wide as the kernel is not in the instruction set; what is around it still runs on the accelerator."""

    def before(emit, x):
        a = emit(conv(emit(quantized(x, "x")), "a"))
        b = emit(conv(a, "wide", padding=3))
        return [b]

    result = partition(module(before), HW)
    (rejection,) = result.rejections
    assert (rejection.name, rejection.op, rejection.macs) == ("wide", "Conv", 12 * 12 * 4 * 3 * 3 * 4)
    assert "padding" in rejection.reason
    assert rejection.fix == "change the layer in the model to stay within the limit"
    assert not rejection.too_large
    assert (rejection.weight_bits, rejection.activation_bits) == (8, 8)
    assert result.subgraphs == ("qaccel_0",)
    left = [b.value for b in result.mod["main"].body.blocks[0].bindings if ops.is_quantized(b.value)]
    assert [ops.read(call).name for call in left] == ["x", "wide"]


def test_a_config_that_is_too_small_is_the_reason():
    small = dataclasses.replace(HW, name="tiny", line_buffer_bytes=1)
    attrs = ops.PoolAttrs("pool", "MaxPool", Q, WHOLE, Q, (2, 2), (0, 0, 0, 0), (1, 1), "max", (2, 2), False)
    (rejection,) = partition(module(lambda emit, x: [emit(attrs.call(emit(quantized(x, "x"))))]), small).rejections
    assert rejection.too_large
    assert "tiny" in rejection.reason
    assert rejection.fix == "choose a larger config"


def test_a_layer_that_no_width_brings_to_the_accelerator_names_another_way_out():
    left = [("c", "Conv", "three dimensions"), ("e", "Erf", "it has no integer form")]
    fixes = [each.fix for each in partition(module(lambda emit, x: [emit(quantized(x, "x"))]), HW, left).rejections]
    assert fixes == [
        "change the layer as the reason says, or leave it to the CPU",
        "replace Erf by operators that the accelerator has, or leave it to the CPU",
    ]


def test_nothing_to_partition():
    mod = module(lambda emit, x: [emit(relax.op.nn.softmax(x))])
    result = partition(mod, HW)
    assert result.subgraphs == ()
    assert_structural_equal(result.mod, mod)


@pytest.mark.parametrize("name", ["chain", "interrupted", "several"])
def test_networks(name: str):
    """Every call of the dialect is in exactly one place, and all but the boundary is on the accelerator."""
    onnx_model = getattr(small_models, name)()
    model = import_onnx(onnx_model)
    q = quantize(model, calibrate(model, small_models.samples(onnx_model)))
    result = partition(q.mod, HW, q.unquantized, float_macs(model.mod))
    names = [
        ops.read(binding.value).name
        for function in subgraph_functions(result.mod).values()
        for binding in function.body.blocks[0].bindings
        if isinstance(binding.value, relax.Call)
    ]
    wanted = [
        (attrs.name)
        for binding in q.mod["main"].body.blocks[0].bindings
        if ops.is_quantized(binding.value)
        and not isinstance(attrs := ops.read(binding.value), ops.QuantizeAttrs | ops.DequantizeAttrs)
    ]
    assert sorted(names) == sorted(wanted)
    assert [r.name for r in result.rejections] == (["softmax"] if name == "interrupted" else [])
    assert len(result.subgraphs) == (2 if name == "interrupted" else 1)


def test_macs_of_float_and_integer_convolutions_agree():
    onnx_model = small_models.chain(batch=2)
    model = import_onnx(onnx_model)
    in_float = float_macs(model.mod)
    q = quantize(model, calibrate(model, small_models.samples(onnx_model)))
    convs = [b.value for b in q.mod["main"].body.blocks[0].bindings if ops.is_quantized(b.value)]
    found = {ops.read(c).name: conv_macs(c) for c in convs if isinstance(ops.read(c), ops.ConvAttrs)}
    expected = {"conv1": 2 * 16 * 16 * 8 * 27, "conv2": 2 * 8 * 8 * 16 * 72, "classifier": 2 * 160}
    assert found == expected
    assert {name: in_float[name] for name in expected} == expected
