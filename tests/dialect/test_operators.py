"""The quantized dialect: calls, attributes, inferred shapes, and the check of the form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import relax

from qaccel.dialect import operators as o
from qaccel.dialect.attributes import register
from qaccel.dialect.check import check_quantized
from qaccel.dialect.operators import Quantization as Q
from qaccel.dialect.pieces import Piece, flattened
from qaccel.errors import CompilerFault, UserError

SCALE = float(np.float32(0.1))
ENTRY = Q(8, SCALE, 3)
WIDE = Q(16, 0.5, 0)
POOLED = Q(8, 0.25, -5)
NARROW = Q(4, 2.0, 1)
COPIED = Q(8, 0.125, 0)
LAST = Q(8, 0.25, 0)
QUANTIZE = o.QuantizeAttrs("x", ENTRY, (0, 2, 3, 1), (1, 8, 6, 4))
CONV = o.ConvAttrs(
    name="conv", op="Conv", result=WIDE, clamp=o.Clamp(0, 32767), source=ENTRY, strides=(2, 1), padding=(1, 0, 0, 2),
    dilation=(1, 2), groups=2, weight_bits=4,
)  # fmt: skip
POOL = o.PoolAttrs(
    name="pool", op="AveragePool", result=POOLED, clamp=o.Clamp(-128, 100), source=WIDE, kind="avg", kernel=(2, 2),
    strides=(2, 2), padding=(0, 1, 0, 0), dilation=(1, 1), count_include_pad=True,
)  # fmt: skip
ADD = o.EltwiseAttrs("add", "Add", NARROW, o.Clamp.whole(4), "add", POOLED, POOLED)
COPY = o.RequantizeAttrs("copy", "Requantize", COPIED, o.Clamp.whole(8), NARROW)
TABLE = o.TableAttrs("table", "Sigmoid", LAST, COPIED)
MOVE = o.MoveAttrs(
    "move", "Concat", LAST, o.Clamp.whole(8), (1, 2, 4, 12), (LAST, LAST), (),
    flattened([Piece(k, 1, 8, 6, 0, 0, 0, 0, 1, 0, 0, 6 * k, 0, 0, 1, 0) for k in (0, 1)]),
)  # fmt: skip
DEQUANTIZE = o.DequantizeAttrs("y", LAST, (0, 3, 1, 2), (1, 2, 4, 12))
ALL = (QUANTIZE, CONV, POOL, ADD, COPY, TABLE, MOVE, DEQUANTIZE)


def calls(mod: tvm.IRModule) -> list[relax.Call]:
    return [b.value for b in mod["main"].body.blocks[0].bindings if o.is_quantized(b.value)]


@pytest.fixture(scope="module")
def mod() -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 8, 6), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            q = builder.emit(QUANTIZE.call(x))
            q = builder.emit(CONV.call(q, np.full((6, 2, 1, 2), 7), np.arange(6), np.full(6, 0.5)))
            q = builder.emit(POOL.call(q))
            q = builder.emit(ADD.call(q, q))
            q = builder.emit(COPY.call(q))
            q = builder.emit(TABLE.call(q, np.arange(256) - 128))
            q = builder.emit(MOVE.call(q, q))
            y = builder.emit_output(DEQUANTIZE.call(q))
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
    assert found == [*first, pooled, pooled, pooled, pooled, ((1, 2, 4, 12), "int8"), ((1, 12, 2, 4), "float32")]


def test_check_accepts(mod):
    check_quantized(mod)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", {"result": Q(5, SCALE, 3)}, "5 bits"),
        ("x", {"result": Q(8, SCALE, 200)}, "zero point 200"),
        ("x", {"result": Q(8, 0.1, 3)}, "not a positive float32"),
        ("conv", {"source": Q(8, SCALE, 4)}, "reads an operand as"),
        ("conv", {"result": Q(16, 0.5, 1)}, "zero point 1"),
        ("conv", {"weight_bits": 8, "clamp": o.Clamp(0, 40000)}, "clamps to"),
        ("conv", {"groups": 4}, "do not fit"),
        ("pool", {"source": Q(8, 0.5, 1)}, "carried in int16"),
        ("pool", {"kind": "sum"}, "unknown kind of pooling"),
        ("add", {"kind": "pow"}, "unknown kind of element-wise"),
        ("add", {"b": Q(8, 0.5, -5)}, "reads an operand as"),
        ("add", {"lesser": (1,)}, "the smaller of two in channels"),
        ("copy", {"source": Q(8, 2.0, 1)}, "reads an operand as"),
        ("table", {"source": Q(4, 0.125, 0), "result": LAST}, "reads an operand as"),
        ("move", {"sources": (LAST,)}, "2 operands, attributes of 1"),
        ("move", {"fills": (200,)}, "a fill is outside"),
        ("move", {"pieces": MOVE.pieces[:16]}, "not written exactly once"),
        ("y", {"source": Q(8, 0.5, 0)}, "reads an operand as"),
        ("y", {"shape": (1, 2, 4, 7)}, "does not hold"),
        ("x", {"axes": (0, 1, 1, 2)}, "not a permutation"),
    ],
)
def test_check_names_the_node(mod, name, change, message):
    changed = {attrs.name: dataclasses.replace(attrs, **change) for attrs in ALL if attrs.name == name}
    with pytest.raises(CompilerFault, match=f"^internal error: {name}: .*{message}"):
        check_quantized(rebuilt(mod, changed))


def test_check_finds_a_table_of_another_size(mod):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 8, 6), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            q = builder.emit(QUANTIZE.call(x))
            q = builder.emit(o.TableAttrs("table", "Sigmoid", LAST, ENTRY).call(q, np.arange(255)))
            y = builder.emit_output(o.DequantizeAttrs("y", LAST, (0, 3, 1, 2), (1, 8, 6, 4)).call(q))
        builder.emit_func_output(y)
    with pytest.raises(
        CompilerFault, match=r"^internal error: table: a table of \[255\] entries; sources of 8 bits take 256"
    ):
        check_quantized(builder.get())


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
            call = changed.get(attrs.name, attrs).call(*args)
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
    before = list(tvm.ir.Op.list_op_names())
    for cls in o.OPERATORS:
        register(cls)
    assert list(tvm.ir.Op.list_op_names()) == before


def test_multipliers_of_mul_and_add():
    assert ADD.multipliers() == (1 << 30, 1 << 30, 33)
    assert dataclasses.replace(ADD, kind="mul").multipliers() == (1 << 30, 0, 35)
