"""The quantized dialect: calls, attributes, inferred shapes, and the check of the form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import relax

from qaccel.dialect import operators as o
from qaccel.dialect.check import check_quantized
from qaccel.errors import CompilerFault, UserError

SCALE = float(np.float32(0.1))
QUANTIZE = o.QuantizeAttrs("x", SCALE, 3, 8, (0, 2, 3, 1), (1, 8, 6, 4))
CONV = o.ConvAttrs(
    name="conv", op="Conv", strides=(2, 1), padding=(1, 0, 0, 2), dilation=(1, 2), groups=2, weight_bits=4,
    activation_bits=8, in_scale=SCALE, in_zero_point=3, out_bits=16, out_scale=0.5, out_zero_point=0,
    clamp_lo=0, clamp_hi=32767,
)  # fmt: skip
POOL = o.PoolAttrs(
    name="pool", op="AveragePool", kind="avg", kernel=(2, 2), strides=(2, 2), padding=(0, 1, 0, 0), dilation=(1, 1),
    count_include_pad=True, activation_bits=16, in_scale=0.5, in_zero_point=0, out_bits=8, out_scale=0.25,
    out_zero_point=-5, clamp_lo=-128, clamp_hi=100,
)  # fmt: skip
ADD = o.EltwiseAttrs("add", "Add", "add", 8, 0.25, -5, 8, 0.25, -5, 4, 2.0, 1, -8, 7)
COPY = o.RequantizeAttrs("copy", "Requantize", 4, 2.0, 1, 8, 0.125, 0, -128, 127)
TABLE = o.TableAttrs("table", "Sigmoid", 8, 0.125, 0, 8, 0.25, 0)
DEQUANTIZE = o.DequantizeAttrs("y", 0.25, 0, 8, (0, 3, 1, 2), (1, 2, 4, 6))
ALL = (QUANTIZE, CONV, POOL, ADD, COPY, TABLE, DEQUANTIZE)


def calls(mod: tvm.IRModule) -> list[relax.Call]:
    return [b.value for b in mod["main"].body.blocks[0].bindings if o.is_quantized(b.value)]


@pytest.fixture(scope="module")
def mod() -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 8, 6), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            q = builder.emit(o.quantize(x, QUANTIZE))
            q = builder.emit(o.conv2d(q, np.full((6, 2, 1, 2), 7), np.arange(6), np.full(6, 0.5), CONV))
            q = builder.emit(o.pool2d(q, POOL))
            q = builder.emit(o.eltwise(q, q, ADD))
            q = builder.emit(o.requantize(q, COPY))
            q = builder.emit(o.table(q, np.arange(256) - 128, TABLE))
            y = builder.emit_output(o.dequantize(q, DEQUANTIZE))
        builder.emit_func_output(y)
    return builder.get()


def test_attributes_come_back(mod):
    assert tuple(o.read(call) for call in calls(mod)) == ALL


def test_json_keeps_everything(mod):
    again = tvm.ir.load_json(tvm.ir.save_json(mod))
    tvm.ir.assert_structural_equal(mod, again)
    assert tuple(o.read(call) for call in calls(again)) == ALL
    assert [o.constant(arg).dtype.name for arg in calls(again)[1].args[1:]] == ["int8", "int32", "float32"]


def test_passes_keep_the_calls(mod):
    passes = [
        relax.transform.FoldConstant(),
        relax.transform.EliminateCommonSubexpr(),
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(), relax.transform.ConvertToDataflow(),
    ]  # fmt: skip
    after = tvm.ir.transform.Sequential(passes)(mod)
    assert tuple(o.read(call) for call in calls(after)) == ALL


def test_shapes_and_carriers(mod):
    found = [(o.static_shape(call), str(call.ty.dtype)) for call in calls(mod)]
    pooled = ((1, 2, 4, 6), "int8")
    first = [((1, 8, 6, 4), "int8"), ((1, 4, 8, 6), "int16")]
    assert found == [*first, pooled, pooled, pooled, pooled, ((1, 6, 2, 4), "float32")]


def test_check_accepts(mod):
    check_quantized(mod)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", {"bits": 5}, "5 bits"),
        ("x", {"zero_point": 200}, "zero point 200"),
        ("x", {"scale": 0.1}, "not a positive float32"),
        ("conv", {"in_zero_point": 4}, "reads an operand as"),
        ("conv", {"out_zero_point": 1}, "zero point 1"),
        ("conv", {"weight_bits": 8, "clamp_hi": 40000}, "clamps to"),
        ("conv", {"groups": 4}, "do not fit"),
        ("pool", {"activation_bits": 8, "in_zero_point": 1}, "carried in int16"),
        ("pool", {"kind": "sum"}, "unknown kind of pooling"),
        ("add", {"kind": "pow"}, "unknown kind of element-wise"),
        ("add", {"b_scale": 0.5}, "reads an operand as"),
        ("copy", {"in_bits": 8}, "reads an operand as"),
        ("y", {"scale": 0.5}, "reads an operand as"),
        ("y", {"shape": (1, 2, 4, 7)}, "does not hold"),
        ("x", {"axes": (0, 1, 1, 2)}, "not a permutation"),
    ],
)
def test_check_names_the_node(mod, name, change, message):
    changed = {attrs.name: dataclasses.replace(attrs, **change) for attrs in ALL if attrs.name == name}
    with pytest.raises(CompilerFault, match=f"^internal error: {name}: .*{message}"):
        check_quantized(rebuilt(mod, changed))


def test_check_finds_a_weight_out_of_range(mod):
    with pytest.raises(CompilerFault, match="^internal error: conv: a weight is outside 4 bits"):
        check_quantized(rebuilt(mod, {}, weight=8))


def rebuilt(mod: tvm.IRModule, changed: dict[str, o.Attrs], weight: int = 7) -> tvm.IRModule:
    """The module with other attributes for some calls, types as they were."""
    bindings = []
    for binding in mod["main"].body.blocks[0].bindings:
        value = binding.value
        if o.is_quantized(value):
            attrs = o.read(value)
            args = [relax.const(np.full((6, 2, 1, 2), weight, "int8")) if k == 1 and attrs.name == "conv" else arg
                    for k, arg in enumerate(value.args)]  # fmt: skip
            call = o.call(changed.get(attrs.name, attrs), *args)
            relax.expr._update_type(call, value.ty)
            value = call
        bindings.append(relax.VarBinding(binding.var, value))
    function = mod["main"]
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], function.body.body)
    relax.expr._update_type(body, function.body.ty)
    return tvm.IRModule({"main": relax.Function(function.params, body, function.ret_ty)})


def test_read_refuses_other_calls():
    x = relax.Var("x", relax.TensorType((1,), "float32"))
    with pytest.raises(CompilerFault, match="not an operator of the quantized dialect"):
        o.read(relax.op.nn.relu(x))


def test_symbolic_shapes_are_refused():
    n = tvm.tirx.Var("n", "int64")
    with pytest.raises(UserError, match="symbolic shape"):
        o.static_shape(relax.Var("x", relax.TensorType((n, 2), "float32")))


def test_registering_again_changes_nothing():
    o.register()


def test_multipliers_of_mul_and_add():
    assert ADD.multipliers() == (1 << 30, 1 << 30, 33)
    assert dataclasses.replace(ADD, kind="mul").multipliers() == (1 << 30, 0, 35)
