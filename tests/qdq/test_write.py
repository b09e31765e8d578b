"""The QDQ file: the integers of the Relax module, ONNX's checker, and ONNX Runtime's results."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tvm import relax

from qaccel.dialect import operators as o
from qaccel.emulate.integers import run_model
from qaccel.errors import QaccelError
from qaccel.frontend.import_onnx import import_onnx
from qaccel.frontend.import_relax import import_relax
from qaccel.options import BitWidths
from qaccel.qdq.write import emit_qdq, qdq_model
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.quantize import attributes, quantize
from quant.layers import PAIRS, conv_model, model, node, prepared
from tiers import wide_after

PER_MILLION = 20


def session(made: onnx.ModelProto, optimized: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Without this, kernels for CPUs that have no dot product of bytes saturate sums of two products at 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def single_layers(made: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """For each Conv and Gemm its integer input and output tensors: DQ -> layer -> clamps -> Q."""
    producer = {output: each for each in made.graph.node for output in each.output}
    reader = {each.input[0]: each for each in made.graph.node}
    result = {}
    for each in made.graph.node:
        if each.op_type in ("Conv", "Gemm"):
            after = each
            while after.op_type != "QuantizeLinear":
                after = reader[after.output[0]]
            result[each.name] = producer[each.input[0]].input[0], after.output[0]
    return result


def exact(call, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers NHWC of a quantized convolution, and how far from a tie each was before rounding, relative to its size.

    In object arithmetic only where it matters: the products of accumulator and multiplier have up to 62 bits.
    """
    attrs = o.read(call)
    weight, bias, scale = (o.constant(arg) for arg in call.args[1:])
    acc = attrs.sums(q, weight).astype(np.int64) + bias
    multipliers, shifts = attrs.multipliers(scale)
    value = acc * (multipliers / 2.0**shifts)
    from_tie = np.abs(np.abs(value - np.floor(value)) - 0.5) / np.maximum(np.abs(value), 1)
    product = acc.astype(object) * multipliers.astype(object)
    rounded = np.vectorize(_rhe, otypes=[np.int64])(product, shifts.astype(object))
    return np.clip(rounded + attrs.result.zero_point, attrs.clamp.lo, attrs.clamp.hi), from_tie


def _rhe(product: int, shift: int) -> int:
    floor, rest = product >> shift, product & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    return floor + int(rest > half or (rest == half and floor % 2 == 1))


def compared(off: np.ndarray, from_tie: np.ndarray) -> int:
    """How many values differ; each by one, and within float32's rounding distance of a tie."""
    differs = off != 0
    assert np.abs(off).max(initial=0) <= 1
    assert from_tie[differs].max(initial=0) < 2.0**-20
    return int(differs.sum())


@pytest.mark.parametrize("network", wide_after(1, ["resnet", "mobilenet"]))
def test_onnxruntime_gives_the_same_integers(network, repo_root, calibration_data):
    """Every Conv and Gemm of a trained network, in ONNX Runtime's integer kernels, from the same integer inputs."""
    imported = import_onnx(repo_root / "tests" / "networks" / f"{network}.onnx")
    q = quantize(imported, calibrate(imported, calibration_data), BitWidths(8, 8))
    seen: dict[str, np.ndarray] = {}
    run_model(q, {name: value[:6] for name, value in calibration_data.items()}, lambda n, v: seen.__setitem__(n, v))
    made = qdq_model(q)
    bindings = [b for b in q.mod["main"].body.blocks[0].bindings if o.is_quantized(b.value)]
    value_of = {b.var: seen.get(o.read(b.value).name) for b in bindings}
    layers = single_layers(made)
    assert len(layers) == sum(isinstance(o.read(b.value), o.ConvAttrs) for b in bindings)
    extractor = onnx.utils.Extractor(_with_types(made))
    total = wrong = 0
    for binding in bindings:
        attrs = o.read(binding.value)
        if not isinstance(attrs, o.ConvAttrs):
            continue
        source, target = layers[attrs.name]
        run = session(extractor.extract_model([source], [target]))
        data = value_of[binding.value.args[0]]
        expected, from_tie = exact(binding.value, data)
        gemm = attrs.op == "Gemm"
        outputs = [run.run(None, {source: v[None, 0, 0] if gemm else v[None].transpose(0, 3, 1, 2)})[0] for v in data]
        result = np.concatenate(outputs)
        result = result[:, None, None] if gemm else result.transpose(0, 2, 3, 1)
        wrong += compared(result.astype(np.int64) - expected, from_tie)
        total += result.size
    assert total > 100_000
    assert wrong <= max(1, total * PER_MILLION // 1_000_000), f"{wrong} of {total}"


def _with_types(made: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(made)


def test_random_convolutions_in_onnxruntime():
    rng = np.random.default_rng(11)
    total = wrong = 0
    for k in range(30):
        imported, ranges, data = prepared(conv_model(rng, ("", "Relu", "Clip")[k % 3], size=24), seed=k, samples=8)
        q = quantize(imported, ranges, BitWidths(8, 8))
        seen: dict[str, np.ndarray] = {}
        run_model(q, data, lambda n, v, seen=seen: seen.__setitem__(n, v))
        call = next(b.value for b in q.mod["main"].body.blocks[0].bindings if b.value.op.name == "qaccel.conv2d")
        expected, from_tie = exact(call, seen["x"])
        np.testing.assert_array_equal(seen["conv"], expected)
        attrs = o.read(call)
        run = session(qdq_model(q))
        real = np.concatenate([run.run(None, {"x": v[None]})[0] for v in data["x"]]).transpose(0, 2, 3, 1)
        result = np.rint(real / np.float32(attrs.result.scale)).astype(np.int64) + attrs.result.zero_point
        wrong += compared(result - expected, from_tie)
        total += result.size
    assert wrong <= max(1, total * PER_MILLION // 1_000_000), f"{wrong} of {total}"


@pytest.mark.parametrize(("weight_bits", "activation_bits"), wide_after(3, PAIRS))
def test_every_pair_loads_and_is_near(weight_bits, activation_bits, tmp_path, resnet_path, calibration_data):
    imported = import_onnx(resnet_path)
    q = quantize(imported, calibrate(imported, calibration_data), BitWidths(weight_bits, activation_bits))
    path = tmp_path / "model.onnx"
    emit_qdq(q, path)
    made = onnx.load(path)
    onnx.checker.check_model(made, full_check=True)
    opset = max(each.version for each in made.opset_import)
    assert opset == (18 if (weight_bits, activation_bits) == (8, 8) else 21)
    data = {name: value[:4] for name, value in calibration_data.items()}
    run = session(made, optimized=False)
    result = np.concatenate([run.run(None, {"image": v[None]})[0] for v in data["image"]])
    step = next(a for a in attributes(q.mod).values() if a.name == "/classifier/Gemm").result.scale
    # Where 16 bits meet long sums, ONNX Runtime computes in float: it drifts by a few steps.
    assert np.abs(result - run_model(q, data)["scores"]).max() <= step * (8 if activation_bits == 16 else 2)


def test_the_integers_are_those_of_the_module():
    rng = np.random.default_rng(2)
    for weight_bits in (4, 8, 16):
        imported, ranges, _ = prepared(conv_model(rng))
        q = quantize(imported, ranges, BitWidths(weight_bits, 8))
        call = next(b.value for b in q.mod["main"].body.blocks[0].bindings if b.value.op.name == "qaccel.conv2d")
        weight, bias, scale = (o.constant(arg) for arg in call.args[1:])
        made = {value.name: numpy_helper.to_array(value) for value in qdq_model(q).graph.initializer}
        np.testing.assert_array_equal(made["conv_weight"].astype(np.int64), weight.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(made["conv_bias"], bias)
        np.testing.assert_array_equal(made["conv_weight_scale"], scale)
        unit = np.float32(o.read(call).source.scale) * scale
        np.testing.assert_array_equal(made["conv_bias_scale"], unit)


def near(nodes, constants, shape, bits, steps=1.01):
    """ONNX Runtime without optimisations and the quantized model, within ``steps`` of the last tensor's scale."""
    imported, ranges, data = prepared(model(nodes, {"x": shape}, [nodes[-1].output[0]], constants))
    q = quantize(imported, ranges, bits)
    made = qdq_model(q)
    run = session(made, optimized=False)
    result = np.concatenate([run.run(None, {"x": v[None]})[0] for v in data["x"]])
    value = run_model(q, data)[nodes[-1].output[0]]
    step = [a for a in attributes(q.mod).values() if hasattr(a, "result")][-1].result.scale
    assert np.abs(result - value).max() <= steps * step
    return made


def test_flatten_and_copies_and_float_operators():
    rng = np.random.default_rng(5)
    weight, matrix = rng.normal(size=(4, 4, 3, 3)), rng.normal(size=(4 * 6 * 6, 5))
    constants = {"w": weight.astype(np.float32), "m": matrix.astype(np.float32)}
    nodes = [
        node("Conv", "a", ["x", "w"], pads=[1, 1, 1, 1]), node("Conv", "b", ["a", "w"], pads=[1, 1, 1, 1]),
        node("Add", "sum", ["a", "b"]), node("Sigmoid", "gate", ["sum"]), node("Relu", "relu", ["gate"]),
        node("Flatten", "flat", ["relu"]), node("MatMul", "fc", ["flat", "m"]),
    ]  # fmt: skip
    bits = {"a": BitWidths(8, 8), "b": BitWidths(4, 4), "fc": BitWidths(8, 8)}
    made = near(nodes, constants, (1, 4, 6, 6), bits, steps=2.01)
    assert [each.op_type for each in made.graph.node if "Linear" not in each.op_type] == [
        "Conv", "Conv", "Add", "Sigmoid", "Relu", "Reshape", "MatMul",
    ]  # fmt: skip


@pytest.mark.parametrize(("mean", "scale"), [(127.5, 127.5), (127.5, 63.75), (128, 128), (0, 255)])
def test_every_pixel_is_rounded_as_in_the_file(mean, scale):
    """Around a mean of 127.5 each of the 256 pixels lies between two integers of the input's scale."""
    made = model(
        [node("Conv", "y", ["x", "w"])], {"x": (1, 1, 16, 16)}, ["y"], {"w": np.ones((1, 1, 1, 1), np.float32)}
    )
    x = ((np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16) - np.float32(mean)) / np.float32(scale)).astype(
        np.float32
    )
    imported = import_onnx(made)
    q = quantize(imported, calibrate(imported, {"x": x}), BitWidths(8, 8))
    np.testing.assert_array_equal(
        run_model(q, {"x": x})["y"], session(qdq_model(q), optimized=False).run(None, {"x": x})[0]
    )


def test_a_matmul_with_a_folded_constant_gets_its_bias():
    matrix = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    nodes = [node("Gemm", "fc", ["x", "m", "b"], alpha=0.5, beta=2.0)]
    near(nodes, {"m": matrix, "b": np.array([1, -2, 3], np.float32)}, (1, 6), BitWidths(8, 8))


def test_an_old_model_is_brought_up():
    weight = np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(np.float32)
    made = model([node("Conv", "conv", ["x", "w"])], {"x": (1, 4, 3, 3)}, ["conv"], {"w": weight}, opset=11)
    imported, ranges, data = prepared(made)
    result = qdq_model(quantize(imported, ranges, BitWidths(4, 8)))
    assert result.opset_import[0].version == 21
    assert session(result).run(None, {"x": data["x"][:1]})[0].shape == (1, 4, 3, 3)


def test_the_file_is_whole_or_absent(tmp_path, monkeypatch):
    imported, ranges, _ = prepared(conv_model(np.random.default_rng(0)))
    q = quantize(imported, ranges, BitWidths(8, 8))
    with pytest.raises(QaccelError, match="cannot write"):
        emit_qdq(q, tmp_path / "absent" / "model.onnx")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(QaccelError, match="No space left on device"):
        emit_qdq(q, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_onnx_cannot_say_is_refused_in_one_line(tmp_path):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 4), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.nn.relu(x))
        builder.emit_func_output(out)
    imported = import_relax(builder.get())
    q = quantize(imported, calibrate(imported, {"x": np.ones((2, 4), np.float32)}))
    with pytest.raises(QaccelError, match="no QDQ model can be written") as refused:
        emit_qdq(q, tmp_path / "model.onnx")
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []
