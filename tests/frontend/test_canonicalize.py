"""Canonicalisation: function unchanged against ONNX Runtime, the form as promised, errors of one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from frontend.onnx_models import model, node, ort_run, worst
from qaccel.emulate.executor import execute
from qaccel.errors import QaccelError
from qaccel.frontend.import_onnx import import_onnx

RNG = np.random.default_rng(21)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ops(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in import_onnx(proto).operators]


def assert_same(
    proto: onnx.ModelProto, shape: tuple[int, ...], tolerance: float = 1e-5, rng: np.random.Generator = RNG
) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    imported = import_onnx(proto)
    expected = ort_run(proto, {"x": x})
    assert worst(execute(imported, {"x": x}), expected) < tolerance
    assert worst(ort_run(imported.onnx_model, {"x": x}), expected) < tolerance


def batch_norm(channels: int) -> dict[str, np.ndarray]:
    return {"g": weights(channels), "bb": weights(channels), "m": weights(channels), "v": weights(channels) ** 2 + 0.1}


BN = ["g", "bb", "m", "v"]


@pytest.mark.parametrize(
    ("layer", "extra", "shape"),
    [
        (node("Conv", ["x", "w"], ["a"], group=2), {"w": weights(6, 2, 3, 3)}, (1, 4, 7, 8)),
        (node("Conv", ["x", "w", "b"], ["a"]), {"w": weights(6, 4, 3, 3), "b": weights(6)}, (1, 4, 7, 8)),
        (node("ConvTranspose", ["x", "w"], ["a"], group=2), {"w": weights(4, 3, 3, 3)}, (1, 4, 5, 5)),
        (
            node("Gemm", ["x", "w", "b"], ["a"], transB=1, alpha=0.5, beta=3.0),
            {"w": weights(6, 4), "b": weights(6)},
            (3, 4),
        ),
        (node("MatMul", ["x", "w"], ["a"]), {"w": weights(4, 6)}, (3, 4)),
    ],
)
def test_batch_norm_folds_into_the_layer_before(layer: onnx.NodeProto, extra: dict, shape: tuple[int, ...]) -> None:
    proto = model([layer, node("BatchNormalization", ["a", *BN], ["y"])], {**extra, **batch_norm(6)}, shape)
    assert len(ops(proto)) == 1
    assert_same(proto, shape)


def test_batch_norm_elsewhere_is_mul_and_add() -> None:
    after_relu = model(
        [node("Relu", ["x"], ["a"]), node("BatchNormalization", ["a", *BN], ["y"], name="bn")],
        batch_norm(4),
        (1, 4, 3, 3),
    )
    assert ops(after_relu) == ["Relu", "Mul", "Add"]
    assert [n.name for n in import_onnx(after_relu).operators][-1] == "bn"
    assert_same(after_relu, (1, 4, 3, 3))
    shared = model(
        [
            node("Conv", ["x", "w"], ["a"]),
            node("BatchNormalization", ["a", *BN], ["b"]),
            node("Add", ["a", "b"], ["y"]),
        ],
        {"w": weights(4, 4, 1, 1), **batch_norm(4)},
        (1, 4, 3, 3),
    )
    assert ops(shared) == ["Conv", "Mul", "Add", "Add"]  # the convolution has another reader
    assert_same(shared, (1, 4, 3, 3))


def test_spelled_out_bias_and_scale_fold() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["a"]),
            node("Add", ["a", "b"], ["c"]),
            node("Mul", ["s", "c"], ["d"]),
            node("Sub", ["b", "d"], ["e"]),
            node("Div", ["e", "s"], ["y"]),
        ],
        {"w": weights(5, 4, 1, 1), "b": weights(1, 5, 1, 1), "s": weights(5, 1, 1)},
        (1, 4, 3, 3),
    )
    assert ops(proto) == ["Conv"]
    assert_same(proto, (1, 4, 3, 3), 1e-4)


def test_a_constant_that_is_not_per_channel_stays() -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["y"])],
        {"w": weights(5, 4, 1, 1), "b": weights(1, 1, 1, 5)},
        (1, 4, 5, 5),
    )
    assert ops(proto) == ["Conv", "Add"]
    assert_same(proto, (1, 4, 5, 5))


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 17, 21])
def test_opsets(opset: int) -> None:
    """Pad, Clip, Softmax, Squeeze and Dropout, whose operands moved between attributes and inputs."""
    consts: dict[str, np.ndarray] = {"w": weights(4, 3, 3, 3)}
    if opset < 11:
        pad, clip = (
            node("Pad", ["x"], ["p"], pads=[0, 0, 1, 2, 0, 0, 1, 0]),
            node("Clip", ["c"], ["r"], min=-1.0, max=1.0),
        )
    else:
        consts |= {"pads": np.array([0, 0, 1, 2, 0, 0, 1, 0], np.int64), "lo": np.float32(-1), "hi": np.float32(1)}
        pad, clip = node("Pad", ["x", "pads"], ["p"]), node("Clip", ["c", "lo", "hi"], ["r"])
    if opset < 13:
        squeeze = node("Squeeze", ["q"], ["s"], axes=[3])
    else:
        consts["axes"] = np.array([3], np.int64)
        squeeze = node("Squeeze", ["q", "axes"], ["s"])
    nodes = [
        pad,
        node("Conv", ["p", "w"], ["c"]),
        clip,
        node("MaxPool", ["r"], ["q"], kernel_shape=[1, 7]),
        squeeze,
        node("Dropout", ["s"], ["d"]),
        node("Softmax", ["d"], ["y"]),
    ]
    proto = model(nodes, consts, (1, 3, 6, 7), opset=opset)
    assert "Pad" not in ops(proto) and "Dropout" not in ops(proto)
    assert_same(proto, (1, 3, 6, 7))


@pytest.mark.parametrize("opset", [12, 13, 22])
def test_the_mask_of_a_dropout_is_constant(opset: int) -> None:
    """At inference nothing is dropped."""
    nodes = [
        node("Dropout", ["x"], ["d", "mask"]), node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        node("Mul", ["x", "m"], ["p"]), node("Add", ["p", "d"], ["y"]),
    ]  # fmt: skip
    proto = model(nodes, {}, (2, 3), opset=opset)
    assert ops(proto) == ["Add"]
    assert_same(proto, (2, 3))


def test_shape_arithmetic_folds() -> None:
    """What PyTorch exports for x.view(x.size(0), -1), with a symbolic batch."""
    proto = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"], axis=0),
            node("Unsqueeze", ["n", "axes"], ["n1"]),
            node("Constant", [], ["minus"], value_ints=[-1]),
            node("Concat", ["n1", "minus"], ["t"], axis=0),
            node("Cast", ["t"], ["t64"], to=TensorProto.INT64),
            node("Reshape", ["x", "t64"], ["r"]),
            node("Identity", ["r"], ["y"]),
        ],
        {"zero": np.int64(0), "axes": np.array([0], np.int64)},
        ("batch", 3, 4, 5),
    )
    assert ops(proto) == ["Reshape"]
    assert import_onnx(proto).outputs[0].name == "y"
    assert_same(proto, (1, 3, 4, 5))


def test_constant_condition_selects_its_branch() -> None:
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    then = helper.make_graph([node("Relu", ["x"], ["b"])], "then", [], [value])
    other = helper.make_graph([node("Neg", ["x"], ["t"]), node("Neg", ["t"], ["b"])], "else", [], [value])
    for condition, expected in ((True, ["Relu"]), (False, ["Neg", "Neg"])):
        proto = model(
            [node("If", ["c"], ["y"], then_branch=then, else_branch=other)], {"c": np.array(condition)}, (1, 4)
        )
        assert ops(proto) == expected
        assert_same(proto, (1, 4))


def test_huge_constant_is_not_stored() -> None:
    proto = model(
        [
            node("ConstantOfShape", ["s"], ["k"]),
            node("ReduceSum", ["k"], ["t"], keepdims=0),
            node("Add", ["x", "t"], ["y"]),
        ],
        {"s": np.array([1000, 1000, 100], np.int64)},
        (1, 4),
    )
    assert import_onnx(proto).onnx_model.ByteSize() < 10_000


def test_transposes_cancel_and_become_reshapes() -> None:
    there, back = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}
    proto = model(
        [
            node("Transpose", ["x"], ["a"], **there),
            node("Relu", ["a"], ["b"]),
            node("Transpose", ["b"], ["c"], **back),
            node("GlobalAveragePool", ["c"], ["p"]),
            node("Transpose", ["p"], ["q"], **there),
            node("Flatten", ["q"], ["y"]),
        ],
        {},
        (1, 4, 5, 6),
    )
    assert ops(proto) == ["Relu", "GlobalAveragePool", "Reshape"]
    assert_same(proto, (1, 4, 5, 6))
    kept = model(
        [node("Transpose", ["x"], ["a"], **back), node("Conv", ["a", "w"], ["y"])],
        {"w": weights(2, 4, 1, 1)},
        (1, 5, 6, 4),
    )
    assert ops(kept) == ["Transpose", "Conv"]
    assert_same(kept, (1, 5, 6, 4))


@pytest.mark.parametrize("value", [0.0, 1.0, -np.inf])
@pytest.mark.parametrize("reader", ["Conv", "AveragePool", "MaxPool", "ReluMaxPool"])
def test_pad_merges_only_where_its_value_fits(reader: str, value: float) -> None:
    first = [node("Relu", ["x"], ["a"])] if reader == "ReluMaxPool" else [node("Neg", ["x"], ["a"])]
    tail = (
        node("Conv", ["p", "w"], ["y"])
        if reader == "Conv"
        else node(reader[-7:] if "Max" in reader else reader, ["p"], ["y"], kernel_shape=[3, 3])
    )
    proto = model(
        [*first, node("Pad", ["a", "pads", "v"], ["p"]), tail],
        {"w": weights(4, 4, 3, 3), "pads": np.array([0, 0, 1, 1, 0, 0, 2, 1], np.int64), "v": np.float32(value)},
        (1, 4, 6, 6),
    )
    fits = {"Conv": [0.0], "AveragePool": [0.0], "MaxPool": [-np.inf], "ReluMaxPool": [0.0, -np.inf]}
    assert ("Pad" not in ops(proto)) == (value in fits[reader])
    if np.isfinite(value) or "Max" in reader:
        assert_same(proto, (1, 4, 6, 6))


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_windows_equal_onnx_runtime(data: st.DataObject) -> None:
    """Kernel, stride, dilation, pads, auto_pad, ceil_mode, groups of convolutions and pools."""
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    op = draw(st.sampled_from(["Conv", "MaxPool", "AveragePool"]))
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    mode = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    same = mode.startswith("SAME")  # where ONNX Runtime has no dilation, and fails for kernels smaller than the stride
    dilations = [1 if op == "AveragePool" or same else draw(st.integers(1, 2)) for _ in range(2)]
    assume(not same or all(k >= s for k, s in zip(kernel, strides, strict=True)))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    size = [s + draw(st.integers(0, 9)) for s in spans]
    attrs: dict = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    if op == "AveragePool":
        del attrs["dilations"]
        attrs["count_include_pad"] = draw(st.integers(0, 1))
    if mode == "NOTSET":
        attrs["pads"] = [draw(st.integers(0, kernel[k % 2] - 1)) for k in range(4)]
        if op != "Conv" and dilations == [1, 1]:
            attrs["ceil_mode"] = draw(st.integers(0, 1))
    else:
        attrs["auto_pad"] = mode
    groups = draw(st.sampled_from([1, 2, 4]))
    consts = {}
    inputs = ["x"]
    if op == "Conv":
        shape = (groups * draw(st.integers(1, 3)), 4 // groups, *kernel)
        consts = {"w": rng.standard_normal(shape).astype(np.float32)}
        inputs, attrs["group"] = ["x", "w"], groups
    proto = model([node(op, inputs, ["y"], **attrs)], consts, (1, 4, *size))
    assert_same(proto, (1, 4, *size), rng=rng)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(QaccelError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_files_that_are_no_models(tmp_path: Path) -> None:
    good = model([node("Relu", ["x"], ["y"])], {}, (1, 4)).SerializeToString()
    for name, content in {"empty": b"", "text": b"hello world\n" * 9, "cut": good[:-7], "zeros": bytes(100)}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        assert name in refusal(lambda path=path: import_onnx(path))
    assert "No such file" in refusal(lambda: import_onnx(tmp_path / "missing.onnx"))
    assert "not a file" in refusal(lambda: import_onnx(tmp_path))


def test_every_truncation_is_refused_or_imports(tmp_path: Path) -> None:
    good = model([node("Gemm", ["x", "w"], ["y"])], {"w": weights(4, 3)}, (1, 4)).SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(good), 3):
        path.write_bytes(good[:length])
        refusal(lambda: import_onnx(path))


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_imports(tmp_path: Path, position: int, value: int) -> None:
    damaged = bytearray(
        model([node("Gemm", ["x", "w"], ["y"])], {"w": np.ones((4, 3), np.float32)}, (1, 4)).SerializeToString()
    )
    damaged[position % len(damaged)] = value
    path = tmp_path / "damaged.onnx"
    path.write_bytes(damaged)
    try:
        import_onnx(path)
    except QaccelError as err:
        assert "\n" not in str(err)


def test_external_data(tmp_path: Path) -> None:
    proto = model([node("Gemm", ["x", "w"], ["y"])], {"w": weights(64, 32)}, (1, 64))
    x = weights(1, 64)
    expected = ort_run(proto, {"x": x})
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    assert worst(execute(import_onnx(path), {"x": x}), expected) < 1e-5
    (tmp_path / "m.bin").write_bytes(b"short")
    assert "m.bin" in refusal(lambda: import_onnx(path))
    (tmp_path / "m.bin").unlink()
    message = refusal(lambda: import_onnx(path))
    assert "'w'" in message and "m.bin" in message


def test_two_gigabytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    proto = model([node("Gemm", ["x", "w"], ["y"])], {"w": weights(2, 2)}, (1, 2))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [1 << 16, 1 << 14]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "big.onnx").write_bytes(proto.SerializeToString())
    assert "2 GB" in refusal(lambda: import_onnx(tmp_path / "big.onnx"))


def test_input_shape_errors() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {}, ("n", 3, "h", "w"))
    assert '--input-shapes "x:[1,3,224,224]"' in refusal(lambda: import_onnx(proto))
    assert "'z'" in refusal(lambda: import_onnx(proto, {"z": (1, 3, 4, 4)}))
    assert "3 dimensions" in refusal(lambda: import_onnx(proto, {"x": (1, 3, 4)}))
    assert import_onnx(proto, {"x": (1, 4, 4, 4)}).outputs[0].shape == (1, 4, 4, 4)  # no node of it needs 3 channels
    conv = model([node("Conv", ["x", "w"], ["y"], name="c")], {"w": np.ones((4, 3, 1, 1), np.float32)}, (1, 3, 4, 4))
    said = refusal(lambda: import_onnx(conv, {"x": (1, 5, 4, 4)}))
    assert "changes 'x' from [1, 3, 4, 4] to [1, 5, 4, 4], and the model does not allow it: node 'c'" in said
    assert "at least 1" in refusal(lambda: import_onnx(proto, {"x": (1, 3, 0, 4)}))


def test_unsupported_models() -> None:
    unknown = node("Fancy", ["x"], ["y"], name="f", domain="com.example")
    proto = model([unknown], {}, (1, 4))
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    assert "'f'" in refusal(lambda: import_onnx(proto)) and "com.example" in refusal(lambda: import_onnx(proto))
    not_in_tvm = model([node("Det", ["x"], ["y"], name="d")], {}, (2, 2))
    assert "'d'" in refusal(lambda: import_onnx(not_in_tvm)) and "Det" in refusal(lambda: import_onnx(not_in_tvm))
    assert "opset 99" in refusal(lambda: import_onnx(model([node("Relu", ["x"], ["y"])], {}, (1,), opset=99)))
    assert "opset 0" in refusal(lambda: import_onnx(model([node("Relu", ["x"], ["y"])], {}, (1,), opset=0)))
    dynamic = model([node("NonZero", ["x"], ["i"], name="nz"), node("Cast", ["i"], ["y"], to=1)], {}, (1, 4))
    assert "'nz'" in refusal(lambda: import_onnx(dynamic))
    mismatch = model([node("Gemm", ["x", "w"], ["y"], name="g")], {"w": weights(5, 3)}, (1, 4))
    assert "'g'" in refusal(lambda: import_onnx(mismatch))
    empty = model([], {}, (1, 4), outputs=("x",))
    assert "empty" in refusal(lambda: import_onnx(empty))


def test_branches_within_branches_read_what_is_outside() -> None:
    """If by a constant within If by a constant; the inner branch reads a tensor of the outer branch, which gets a new name."""

    def branch(nodes: list[onnx.NodeProto], out: str) -> onnx.GraphProto:
        return helper.make_graph(nodes, out, [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, (1, 4))])

    inner = branch([node("Neg", ["a"], ["c"])], "c")
    outer = branch([node("Relu", ["x"], ["a"]), node("If", ["yes"], ["d"], then_branch=inner, else_branch=inner)], "d")
    nodes = [
        node("If", ["yes"], ["p"], then_branch=outer, else_branch=outer),
        node("If", ["yes"], ["q"], then_branch=outer, else_branch=outer),
        node("Add", ["p", "q"], ["y"]),
    ]
    proto = model(nodes, {"yes": np.array(True)}, (1, 4))
    x = weights(1, 4)
    assert worst(execute(import_onnx(proto), {"x": x}), {"y": -2 * np.maximum(x, 0)}) < 1e-6
