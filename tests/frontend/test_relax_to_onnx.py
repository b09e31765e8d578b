"""Relax as TVM's frontends write it, through ONNX and back: the same numbers as the module itself gives on TVM's VM."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

from qaccel.emulate.executor import execute
from qaccel.frontend.from_relax.to_onnx import NotTranslated, relax_to_onnx
from qaccel.frontend.import_model import import_frontend_module
from qaccel.frontend.import_relax import prepare
from qaccel.qdq.forms import QUANTIZED
from tiers import wide_after

RNG = np.random.default_rng(12)
LLVM = tvm.target.Target("llvm")


def f(*shape: int) -> relax.Expr:
    return relax.const(RNG.standard_normal(shape).astype(np.float32))


def module(shape: tuple[int, ...], build) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(build(builder, x))
        builder.emit_func_output(out)
    return builder.get()


def same(mod: tvm.IRModule, tolerance: float = 1e-5):
    """The module's own results on TVM's VM; gives the import."""
    shape = [int(v) for v in mod["main"].params[0].ty.shape]
    x = RNG.standard_normal(shape).astype(np.float32)
    machine = relax.VirtualMachine(tvm.compile(mod, LLVM), tvm.cpu())
    results = machine["main"](tvm.runtime.tensor(x))
    expected = [results.numpy()] if hasattr(results, "numpy") else [r.numpy() for r in results]
    imported = import_frontend_module(mod)
    for got, wanted in zip(execute(imported, {"x": x}).values(), expected, strict=True):
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= tolerance * max(1, np.abs(wanted).max())
    return imported


def kinds(imported) -> list[str]:
    return [n.op_type for n in imported.operators]


def test_nhwc_networks_become_nchw_with_one_transpose_at_the_border():
    def build(b, x):
        y = b.emit(
            op.nn.conv2d(x, f(3, 3, 3, 8), padding=[0, 0, 1, 1], strides=2, data_layout="NHWC", kernel_layout="HWIO")
        )
        y = b.emit(op.nn.relu(b.emit(op.add(y, f(8)))))
        # depthwise: TFLite's frontend writes one filter per group
        d = b.emit(op.nn.conv2d(y, f(3, 3, 1, 8), padding=1, groups=8, data_layout="NHWC", kernel_layout="HWIO"))
        d = b.emit(op.clip(b.emit(op.add(d, f(8))), 0, 6))
        s = b.emit(op.add(d, y))
        p = b.emit(op.nn.max_pool2d(s, pool_size=2, strides=2, layout="NHWC"))
        wide = b.emit(op.nn.pad(p, [0, 0, 0, 0, 0, 0, 0, 8]))
        u = b.emit(
            op.image.resize2d(wide, (8, 8), layout="NHWC", method="linear", coordinate_transformation_mode="half_pixel")
        )
        m = b.emit(op.mean(u, axis=[1, 2]))
        return op.nn.softmax(b.emit(op.add(b.emit(op.matmul(m, f(16, 5))), f(5))))

    imported = same(module((1, 16, 16, 3), build))
    assert kinds(imported).count("Transpose") == 1 and kinds(imported)[0] == "Transpose"
    assert "Gemm" in kinds(imported)


def test_slopes_that_were_flattened_are_one_per_channel_again():
    def build(b, x):
        y = b.emit(op.nn.conv2d(x, f(1, 1, 4, 6), data_layout="NHWC", kernel_layout="HWIO"))
        slopes = b.emit(op.reshape(b.emit(op.broadcast_to(f(1, 1, 6), [1, 5, 5, 6])), [150]))
        flat = b.emit(op.nn.prelu(b.emit(op.reshape(y, [150])), slopes, axis=0))
        return op.reshape(flat, [1, 5, 5, 6])

    imported = same(module((1, 5, 5, 4), build))
    assert kinds(imported) == ["Transpose", "Conv", "PRelu", "Transpose"]
    slopes = imported.onnx_model.graph.node[2].input[1]
    assert [list(t.dims) for t in imported.onnx_model.graph.initializer if t.name == slopes] == [[1, 6, 1, 1]]


def test_weights_that_are_dequantized_are_weights():
    def build(b, x):
        integers = relax.const(RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8))
        scales = relax.const(np.array([0.01, 0.02, 0.03, 0.04], np.float32))
        w = b.emit(op.dequantize(integers, scales, relax.const(np.zeros(4, np.int32)), axis=0))
        y = b.emit(op.nn.conv2d(x, w, padding=1))
        q = b.emit(op.quantize(y, relax.const(np.float32(0.05)), relax.const(np.int32(3)), axis=0, out_dtype="int8"))
        pooled = b.emit(op.nn.max_pool2d(q, pool_size=2, strides=2))
        return op.dequantize(pooled, relax.const(np.float32(0.05)), relax.const(np.int32(3)), axis=0)

    mod = module((1, 3, 8, 8), build)
    assert kinds(same(mod, 1e-4)) == ["DequantizeLinear", "Conv", "QuantizeLinear", "MaxPool", "DequantizeLinear"]
    read = import_frontend_module(mod, QUANTIZED)
    assert [each.op_type for each in read.operators] == ["Conv", "QuantizeLinear", "MaxPool"]
    (given,) = read.given.weights.values()
    assert given.bits == 8 and given.scale.tolist() == [np.float32(v) for v in (0.01, 0.02, 0.03, 0.04)]


@pytest.mark.parametrize(
    "build",
    wide_after(
        10,
        [
            lambda b, x: op.strided_slice(x, [1, 3], [1, 0], [4, 8], [2, 3]),
            lambda b, x: op.take(x, relax.const(np.array([2, 0], np.int64)), axis=1),
            lambda b, x: op.nn.layer_norm(x, f(8), f(8), axes=[-1]),
            lambda b, x: op.nn.gelu(x),
            lambda b, x: op.nn.silu(x),
            lambda b, x: op.rsqrt(b.emit(op.add(b.emit(op.multiply(x, x)), relax.const(np.float32(1))))),
            lambda b, x: op.nn.attention(*[b.emit(op.permute_dims(x, [0, 2, 1, 3]))] * 3),
            lambda b, x: op.nn.adaptive_avg_pool2d(x, [2, 2]),
            lambda b, x: op.nn.conv2d_transpose(x, f(4, 5, 3, 3), strides=2, padding=1, output_padding=1),
            lambda b, x: op.nn.avg_pool2d(x, pool_size=3, strides=2, padding=1, count_include_pad=True),
            lambda b, x: op.nn.prelu(x, f(4), axis=1),
            lambda b, x: op.max(x, axis=[1], keepdims=True),
            lambda b, x: op.image.resize2d(
                x, (16, 24), method="nearest_neighbor", coordinate_transformation_mode="asymmetric"
            ),
            lambda b, x: op.nn.group_norm(x, f(4), f(4), num_groups=2, channel_axis=1, axes=[2, 3]),
            lambda b, x: op.nn.instance_norm(x, f(4), f(4), channel_axis=1, axes=[2, 3]),
            lambda b, x: op.nn.softplus(x),
            lambda b, x: op.std(x, axis=[2, 3]),
            lambda b, x: op.add(x, b.emit(op.full([8], relax.const(np.float32(0.5)), "float32"))),
            lambda b, x: op.tile(x, (1, 1, 2, 1)),
            lambda b, x: op.stack([x, x], axis=2),
            lambda b, x: op.concat([x, b.emit(op.negative(x))], axis=1),
        ],
    ),
)
def test_operators_in_nchw(build):
    same(module((1, 4, 8, 8), build))


def test_several_outputs_and_a_split():
    def build(b, x):
        parts = b.emit(op.split(x, [1, 3], axis=1))
        first, last = (b.emit(relax.TupleGetItem(parts, k)) for k in (0, 2))
        return relax.Tuple([b.emit(op.nn.relu(last)), b.emit(op.sigmoid(first))])

    assert [s.shape for s in same(module((1, 4, 3, 3), build)).outputs] == [(1, 1, 3, 3), (1, 1, 3, 3)]


def test_largest_values():
    def build(b, x):
        both = b.emit(op.topk(x, k=2, axis=1, ret_type="both", dtype="int64"))
        return b.emit(relax.TupleGetItem(both, 0))

    assert "TopK" in kinds(same(module((1, 6, 3, 3), build)))


def test_what_has_no_translation_is_taken_as_it_is():
    mod = module((1, 4, 3, 3), lambda b, x: op.cumsum(b.emit(op.nn.relu(x)), axis=1))
    with pytest.raises(NotTranslated, match=r"relax\.cumsum"):
        relax_to_onnx(prepare(mod))
    assert [s.shape for s in import_frontend_module(mod).outputs] == [(1, 4, 3, 3)]


def test_several_outputs_of_what_has_no_translation():
    def build(b, x):
        y = b.emit(op.nn.conv2d(x, f(5, 4, 1, 1)))
        return relax.Tuple([b.emit(op.nn.relu(y)), b.emit(op.max(y, axis=[2, 3])), b.emit(op.cumsum(y, axis=1))])

    assert len(same(module((1, 4, 6, 6), build)).outputs) == 3
