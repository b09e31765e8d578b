"""Relax modules with relax.quantize and relax.dequantize keep their integers: partitioned, and through the pipeline."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

import qaccel
from qaccel.backend import register
from qaccel.errors import UserError
from qaccel.npu.partition.partition import subgraph_functions

RNG = np.random.default_rng(21)
WEIGHT, VECTOR = RNG.integers(-127, 128, (6, 4, 3, 3)), RNG.integers(-127, 128, (6, 5))
SCALES, UNIT = RNG.uniform(0.002, 0.004, 6).astype("f4"), np.float32(0.003)
BIAS = RNG.integers(-2000, 2000, 6)
X, Y, Z = (
    np.float32(0.05),
    np.float32(0.04),
    np.float32(0.03),
)  # steps of input, convolution and product; around 3, -128 and 0


def constant(values: np.ndarray, dtype: str = "int8") -> relax.Expr:
    return relax.const(values.astype(dtype))


def border(of, value: relax.Expr, scale: object, zero: int, **attributes: object) -> relax.Expr:
    return of(value, relax.const(scale), relax.const(np.int32(zero)), **attributes)


def network(ends: str) -> tvm.IRModule:
    """conv by channel with an int32 bias, clipped integers, global average, product: x [1, 4, 8, 8] to [1, 5]."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 8, 8), ends))
    with builder.function("main", [x]):
        with builder.dataflow():
            integers = x if ends == "int8" else builder.emit(border(op.quantize, x, X, 3, out_dtype="int8"))
            value = builder.emit(border(op.dequantize, integers, X, 3))
            weight = builder.emit(border(op.dequantize, constant(WEIGHT), SCALES, 0, axis=0))
            value = builder.emit(op.nn.conv2d(value, weight))
            bias = builder.emit(border(op.dequantize, constant(BIAS, "int32"), X * SCALES, 0, axis=0))
            value = builder.emit(op.add(value, builder.emit(op.reshape(bias, (1, 6, 1, 1)))))
            value = builder.emit(
                op.clip(builder.emit(border(op.quantize, value, Y, -128, out_dtype="int8")), -120, 100)
            )
            pooled = builder.emit(op.nn.max_pool2d(value, (6, 6), (6, 6)))
            row = builder.emit(op.reshape(builder.emit(border(op.dequantize, pooled, Y, -128)), (1, 6)))
            matrix = builder.emit(border(op.dequantize, constant(VECTOR), UNIT, 0))
            out = builder.emit(border(op.quantize, builder.emit(op.matmul(row, matrix)), Z, 0, out_dtype="int8"))
            out = builder.emit_output(out if ends == "int8" else border(op.dequantize, out, Z, 0))
        builder.emit_func_output(out)
    return builder.get()


def exact(x: np.ndarray) -> np.ndarray:
    """The integers of the output, from exact sums that are rounded once."""
    view = np.lib.stride_tricks.sliding_window_view(x.astype("i8") - 3, (3, 3), (2, 3))
    sums = np.einsum("nchwij,ocij->nohw", view, WEIGHT) + BIAS.reshape(-1, 1, 1)
    ratio = (X * SCALES / Y).astype("f8").reshape(-1, 1, 1)
    pooled = np.clip(np.rint(sums * ratio) - 128, -120, 100).max((2, 3)) + 128
    return np.clip(np.rint(pooled @ VECTOR * np.float64(Y * UNIT / Z)), -128, 127)


@pytest.mark.parametrize("ends", ["int8", "float32"])
def test_all_of_it_runs_on_the_accelerator(ends: str) -> None:
    """The signature stays, and integers come out as exact arithmetic gives them."""
    register()
    mod = network(ends)
    parts = qaccel.partition_for_qaccel(mod, "qaccel-64")
    assert len(subgraph_functions(parts)) == 1
    (param,) = parts["main"].params
    assert (param.name, str(param.ty.dtype)) == ("x", ends) and str(parts["main"].ret_ty.dtype) == ends
    integers = RNG.integers(-128, 128, (1, 4, 8, 8)).astype("i1")
    feed = integers if ends == "int8" else ((integers.astype("f8") - 3) * X).astype("f4")
    finish = tvm.transform.Sequential(
        [relax.get_pipeline("qaccel"), relax.transform.ToNonDataflow(), relax.transform.VMShapeLower()]
    )
    executable = relax.build(mod, tvm.target.Target({"kind": "llvm"}), relax_pipeline=finish)
    got = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(feed)).numpy()
    assert np.array_equal(got if ends == "int8" else np.rint(got / Z), exact(integers))


def test_what_cannot_be_read_is_named() -> None:
    """An average of integers, which Relax cuts: nothing is quantized a second time."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4, 8, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            q = builder.emit(op.astype(builder.emit(border(op.quantize, x, X, 3, out_dtype="int8")), "int32"))
            mean = builder.emit(op.astype(builder.emit(op.nn.avg_pool2d(q, (2, 2), (2, 2))), "int8"))
            out = builder.emit_output(border(op.dequantize, mean, X, 3))
        builder.emit_func_output(out)
    with pytest.raises(UserError, match="came quantized.*relax.nn.avg_pool2d"):
        qaccel.partition_for_qaccel(builder.get())
    with pytest.raises(UserError, match="keeps its own bits"):
        qaccel.partition_for_qaccel(network("int8"), bits=4)
