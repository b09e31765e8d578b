"""The CPU's form of the quantized dialect against NumPy's exact integers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tvm
from tvm import relax

import qaccel
from qaccel.cpu.legalize import LegalizeQuantized
from qaccel.dialect import operators as o
from qaccel.dialect import pieces
from qaccel.dialect.kinds import ELTWISE_KINDS
from qaccel.dialect.operators import Quantization as Q
from qaccel.emulate.integers import run_model, run_quantized
from qaccel.machine import numerics
from qaccel.options import BitWidths
from qaccel.quant.quantize import quantize
from qaccel.schedules.integer.move import MOST_PIECES
from quant.layers import conv_model, model, node, prepared
from schedules.kernels import CPUS, runs_here, target
from tiers import wide_after

OFTEN = ("icelake-server", "plain")  # the others in the slow tests
FAST = next(cpu for cpu in OFTEN if runs_here(cpu))


def _kinds():
    for cpu in CPUS:
        marks = [pytest.mark.skipif(not runs_here(cpu), reason="not this machine")]
        if cpu != FAST:
            marks.append(pytest.mark.wide if cpu in OFTEN else pytest.mark.slow)
        yield pytest.param(cpu, marks=marks)


@pytest.fixture(params=list(_kinds()), autouse=True)
def cpu(request: pytest.FixtureRequest) -> Iterator[tvm.target.Target]:
    """What `compiled` compiles for; "plain" knows of no target, as where someone calls the pass by itself."""
    if request.param == "plain":
        yield target("plain")
        return
    with target(request.param) as chosen:
        yield chosen


def compiled(mod: tvm.IRModule) -> relax.VirtualMachine:
    chosen = tvm.target.Target.current(allow_none=True) or target("plain")
    return relax.VirtualMachine(relax.build(LegalizeQuantized()(mod), target=chosen), tvm.cpu())


def outputs(mod: tvm.IRModule, *arrays: np.ndarray) -> list[np.ndarray]:
    result = compiled(mod)["main"](*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays))
    return [each.numpy() for each in result] if not hasattr(result, "numpy") else [result.numpy()]


def module(shapes: list[tuple[tuple[int, ...], str]], *makers) -> tvm.IRModule:
    """Calls side by side on the same inputs; the results as a tuple."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{k}", relax.TensorType(shape, dtype)) for k, (shape, dtype) in enumerate(shapes)]
    with builder.function("main", params):
        with builder.dataflow():
            made = builder.emit_output(relax.Tuple([builder.emit(make(*params)) for make in makers]))
        builder.emit_func_output(made)
    return builder.get()


def agree(mod: tvm.IRModule, *arrays: np.ndarray) -> None:
    names = [param.name for param in mod["main"].params]
    expected = run_quantized(mod, dict(zip(names, arrays, strict=True)))
    for got, want in zip(outputs(mod, *arrays), expected.values(), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def integers(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> np.ndarray:
    lo, hi = numerics.activation_limits(bits)
    return rng.integers(lo, hi + 1, shape).astype(o.carrier(bits))


@pytest.mark.parametrize("bits", wide_after(1, [8, 4, 16]))
def test_pooling_and_copies(bits):
    rng = np.random.default_rng(bits)
    zero = 0 if bits == 16 else 3
    makers = []
    for kind, include, out_bits in (("max", False, bits), ("avg", False, 8), ("avg", True, 16), ("avg", True, 4)):
        result = Q(out_bits, 0.5 if kind == "max" else 0.3, zero if out_bits == bits else 0)
        attrs = o.PoolAttrs(
            "pool", "Pool", result, o.Clamp.whole(out_bits), Q(bits, 0.5, zero), (2, 1), (2, 1, 1, 0), (1, 2), kind, (3, 2),
            include,
        )  # fmt: skip
        makers.append(attrs.call)
    for out_bits, scale in ((4, 8.0), (8, 0.5), (16, 0.001)):
        lo, hi = numerics.activation_limits(out_bits)
        clamp = o.Clamp(max(lo, 0), hi)
        makers.append(o.RequantizeAttrs("copy", "Relu", Q(out_bits, scale, 0), clamp, Q(bits, 0.5, zero)).call)
    shape = (1, 7, 6, 5)
    agree(module([(shape, o.carrier(bits))], *makers), integers(rng, shape, bits))


@pytest.mark.wide
def test_many_values():
    """So many that tasks are divided among threads, and a rest is left: copies, tables, sums, pools, the whole plane."""
    rng = np.random.default_rng(9)
    shape = (1, 29, 31, 70)
    entries = integers(rng, (256,), 8)
    source, result, whole = Q(8, 0.5, 3), Q(8, 0.25, 1), o.Clamp.whole(8)
    total = o.EltwiseAttrs("sum", "Add", result, whole, "add", source, Q(8, 0.125, 3))
    makers = [
        o.RequantizeAttrs("copy", "Clip", result, whole, source).call,
        o.RequantizeAttrs("same", "Clip", result, o.Clamp(-100, 99), result).call,
        lambda q: o.TableAttrs("table", "Tanh", result, source).call(q, entries),
        lambda q: total.call(q, q),
        o.DequantizeAttrs("real", source, (0, 3, 1, 2), shape).call,
    ]
    for kind, kernel, strides in (("max", (3, 2), (2, 2)), ("avg", (2, 3), (1, 1)), ("avg", (29, 31), (1, 1))):
        attrs = o.PoolAttrs(
            "pool", "Pool", result, whole, source, strides, (0, 0, 0, 0), (1, 1), kind, kernel, True
        )  # fmt: skip
        makers.append(attrs.call)
    agree(module([(shape, "int8")], *makers), integers(rng, shape, 8))


@pytest.mark.parametrize("kind", wide_after(3, ELTWISE_KINDS.values()))
def test_element_wise(kind):
    """All widths; the second operand whole, one pixel, one value."""
    rng = np.random.default_rng(len(kind))
    shape = (1, 4, 3, 6)
    cases = [(4, 8, shape), (8, 8, (1, 1, 1, 6)), (16, 16, (1, 1, 1, 1)), (8, 16, shape)]
    for a_bits, b_bits, small in cases:
        makers = []
        for out_bits, scale in ((8, 1.7), (16, 0.0123)):
            out_scale = float(np.float32(scale))
            zeros = [0 if bits == 16 else z for bits, z in ((a_bits, 5), (b_bits, -3))]
            operands = Q(a_bits, 0.5, zeros[0]), Q(b_bits, 0.03125, zeros[1])
            result = Q(out_bits, out_scale, 0)
            makers.append(o.EltwiseAttrs("e", "Add", result, o.Clamp.whole(out_bits), kind, *operands).call)
        mod = module([(shape, o.carrier(a_bits)), (small, o.carrier(b_bits))], *makers)
        agree(mod, integers(rng, shape, a_bits), integers(rng, small, b_bits))


@pytest.mark.parametrize(("in_bits", "out_bits"), [(a, b) for a in (4, 8, 16) for b in (4, 8, 16)])
def test_tables(in_bits, out_bits):
    rng = np.random.default_rng(in_bits + out_bits)
    entries = integers(rng, (513 if in_bits == 16 else 2**in_bits,), out_bits)
    attrs = o.TableAttrs("t", "Sigmoid", Q(out_bits, 0.1, 0), Q(in_bits, 0.1, 0))
    shape = (1, 8, 8, 16)
    mod = module([(shape, o.carrier(in_bits))], lambda q: attrs.call(q, entries))
    agree(mod, integers(rng, shape, in_bits))


@pytest.mark.parametrize(("origin", "out_bits"), [(0, 16), (-77, 8), (32767, 16), (-32768, 4)])
def test_tables_of_octaves(origin, out_bits):
    """Every 16-bit integer."""
    entries = integers(np.random.default_rng(out_bits), (770,), out_bits)
    attrs = o.TableAttrs("t", "Sqrt", Q(out_bits, 0.1, 0), Q(16, 0.1, 0), "octaves", origin)
    mod = module([((1, 64, 64, 16), "int16")], lambda q: attrs.call(q, entries))
    agree(mod, np.arange(-(1 << 15), 1 << 15, dtype=np.int16).reshape(1, 64, 64, 16))


@pytest.mark.parametrize("bits", wide_after(1, [8, 4, 16]))
def test_quantize_and_dequantize(bits):
    """Ties, saturation, infinities, NaN, negative zero and denormals; planes, rows and reshapes."""
    rng = np.random.default_rng(bits)
    scale = float(np.float32(0.037))
    zero = 0 if bits == 16 else -2
    x = rng.normal(0, 3, (2, 3, 4, 5)).astype(np.float32)
    x.reshape(-1)[:9] = [np.inf, -np.inf, np.nan, -0.0, 1e-42, 3e38, -3e38, 2.5 * scale, -1.5 * scale]
    borders = [((0, 2, 3, 1), (2, 4, 5, 3)), ((0, 1, 2, 3), (2, 3, 4, 5)), ((0, 1, 2, 3), (2, 1, 1, 60))]
    makers = [o.QuantizeAttrs("x", Q(bits, scale, zero), axes, shape).call for axes, shape in borders]
    agree(module([(x.shape, "float32")], *makers), x)
    q = integers(rng, (2, 4, 5, 3), bits)
    ends = [((0, 3, 1, 2), (2, 4, 5, 3)), ((0, 1), (2, 60)), ((0, 2, 1), (2, 20, 3))]
    makers = [o.DequantizeAttrs("y", Q(bits, scale, zero), axes, shape).call for axes, shape in ends]
    agree(module([(q.shape, o.carrier(bits))], *makers), q)


@pytest.mark.parametrize("out_bits", wide_after(1, [8, 4, 16]))
def test_moves(out_bits):
    """Concatenation with fills around it, every other pixel, and a permutation of too many pieces for loops of their own."""
    rng = np.random.default_rng(out_bits)
    sizes, bits, scales, zeros = [(4, 6, 3), (4, 6, 5)], (8, 16), (0.5, 0.001), (-3, 0)
    lo, hi = numerics.activation_limits(out_bits)
    fills = (lo, hi)
    plans = []
    source = np.full((6, 8, 10), 2)  # the first fill
    source[1:5, 1:7, :3], source[1:5, 1:7, 3:8] = 0, 1
    y, x, c = np.meshgrid(range(4), range(6), range(8), indexing="ij")
    pixel, channel = np.zeros((6, 8, 10), np.int64), np.zeros((6, 8, 10), np.int64)
    pixel[1:5, 1:7, :8], channel[1:5, 1:7, :8] = y * 6 + x, np.where(c < 3, c, c - 3)
    plans.append((source, pixel, channel))
    y, x, c = np.meshgrid(range(2), range(3), range(5), indexing="ij")
    plans.append((np.ones((2, 3, 5), np.int64), 2 * y * 6 + 2 * x, c))
    shuffled = rng.permutation(4 * 6 * 5).reshape(4, 6, 5)
    plans.append((np.ones((4, 6, 5), np.int64), shuffled // 5, shuffled % 5))
    makers, counts = [], []
    for source, pixel, channel in plans:
        found = pieces.pieces_of(source, pixel, channel)
        assert found is not None
        counts.append(len(found))
        attrs = o.MoveAttrs(
            "m", "Concat", Q(out_bits, 0.25, 0 if out_bits == 16 else 1), o.Clamp(lo, hi - 1), (2, *source.shape),
            tuple(map(Q, bits, scales, zeros)), fills, pieces.flattened(found),
        )  # fmt: skip
        makers.append(attrs.call)
    assert max(counts[:2]) <= MOST_PIECES < counts[2]
    shapes = [((2, *size), o.carrier(width)) for size, width in zip(sizes, bits, strict=True)]
    inputs = [integers(rng, shape, width) for (shape, _), width in zip(shapes, bits, strict=True)]
    agree(module(shapes, *makers), *inputs)


def test_quantize_is_onnx_quantize_linear():
    """Against ONNX Runtime, on values around every tie."""
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import InferenceSession

    scale, zero = np.float32(0.0371), 7
    x = (np.arange(-300, 300, dtype=np.float32) / 2 * scale).reshape(1, 4, 10, 15)
    x = np.concatenate([np.nextafter(x, np.float32(9e9)), x, np.nextafter(x, np.float32(-9e9))])
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])], "q",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT8, x.shape)],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(np.array(zero, np.int8), "z")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    expected = InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]
    attrs = o.QuantizeAttrs("x", Q(8, float(scale), zero), (0, 2, 3, 1), (3, 10, 15, 4))
    got = outputs(module([(x.shape, "float32")], attrs.call), x)[0]
    np.testing.assert_array_equal(got, expected.transpose(0, 2, 3, 1))


@pytest.mark.wide
@pytest.mark.parametrize("pair", [(8, 8), (4, 16)])
def test_models_run_the_same_compiled(pair):
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(4 * 4 * 4, 5)).astype(np.float32)
    weight = rng.normal(size=(4, 4, 3, 3)).astype(np.float32)
    nodes = [
        node("Conv", "conv", ["x", "w"], pads=[1, 1, 1, 1]), node("Add", "sum", ["conv", "x"]),
        node("Relu", "relu", ["sum"]), node("MaxPool", "pool", ["relu"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Sigmoid", "gate", ["pool"]), node("Flatten", "flat", ["gate"]), node("MatMul", "fc", ["flat", "m"]),
    ]  # fmt: skip
    imported, ranges, data = prepared(model(nodes, {"x": (1, 4, 8, 8)}, ["fc"], {"w": weight, "m": matrix}), samples=1)
    q = quantize(imported, ranges, BitWidths(*pair))
    assert np.abs(outputs(q.mod, data["x"])[0] - run_model(q, data)["fc"]).max() <= 1e-4


def test_calls_for_an_accelerator_are_left_alone():
    imported, ranges, _ = prepared(conv_model(np.random.default_rng(0)))
    mod = quantize(imported, ranges).mod
    mod["main"] = mod["main"].with_attr("Codegen", "qaccel")
    tvm.ir.assert_structural_equal(LegalizeQuantized()(mod), mod)


def test_a_border_of_many_dimensions():
    """A shuffled plane leaves in six dimensions, as the pixel shuffle that made it has them."""
    nodes = [
        node("Conv", "conv", ["x", "w"]), node("DepthToSpace", "out", ["conv"], blocksize=2, mode="CRD"),
    ]  # fmt: skip
    weights = {"w": np.random.default_rng(0).normal(0, 0.5, (8, 3, 3, 3)).astype(np.float32)}
    made = model(nodes, {"x": (1, 3, 8, 8)}, ["out"], weights)
    data = {"x": np.random.default_rng(1).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)}
    network = qaccel.quantize(made, data, bits=8)
    np.testing.assert_array_equal(qaccel.compile(network).run(data)["out"], network.run(data)["out"])
