"""Convolutions with kernels of more than 255 taps: folded or split, the same function, on the accelerator."""

import numpy as np
import pytest

import qaccel
from frontend.checks import assert_equals_onnx_runtime, f
from frontend.onnx_models import model, node


@pytest.mark.parametrize("row", [False, True])
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "pads", "group", "length"),
    [
        (1, 256, 128, (0, 0), 1, 576),
        (1, 400, 160, (200, 200), 1, 1600),
        (4, 300, 7, (5, 0), 2, 700),
        (2, 257, 2, (0, 3), 1, 600),
    ],
)
def test_equals_onnx_runtime_and_runs_on_the_accelerator(row, channels, kernel, stride, pads, group, length):
    consts = {"w": f(6, channels // group, kernel), "b": f(6)}
    conv = node("Conv", ["x", "w", "b"], ["y"], name="stft", strides=[stride], pads=list(pads), group=group)
    shape = (1, channels, length)
    if row:  # a plane of one row, as TensorFlow's exports have them
        shape, consts["w"] = (1, channels, 1, length), consts["w"][:, :, None]
        conv = node(
            "Conv", ["x", "w", "b"], ["y"], name="stft", strides=[1, stride], pads=[0, pads[0], 0, pads[1]], group=group
        )
    proto = model([conv], consts, shape)
    imported = assert_equals_onnx_runtime(proto, 2e-5)
    convs = [n for n in imported.onnx_model.graph.node if n.op_type == "Conv"]
    assert [n.name for n in convs] == ["stft"]
    data = {"x": np.random.default_rng(1).standard_normal((4, *shape[1:])).astype(np.float32)}
    module = qaccel.compile(proto, calibration_data=data)
    assert module.report["fallback"] == [] and module.report["subgraphs"] == 1


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "dilation", "pads", "group", "shape"),
    [
        (1, (256,), 1, 1, (0, 0), 1, (600,)),
        (2, (511,), 1, 1, (255, 255), 1, (700,)),
        (4, (300,), 1, 2, (5, 0), 2, (900,)),
        (3, (800,), 1, 1, (0, 100), 3, (900,)),
        (2, (257,), 3, 2, (0, 7), 1, (900,)),
        (2, (1, 300), 1, 1, (0, 9, 0, 0), 1, (1, 400)),
        (2, (3, 260), 1, 1, (1, 4, 1, 4), 1, (4, 300)),
        (2, (260, 2), 1, 1, (0, 0, 3, 1), 2, (300, 4)),
    ],
)
def test_without_a_stride_to_fold(channels, kernel, stride, dilation, pads, group, shape):
    consts = {"w": f(6, channels // group, *kernel), "b": f(6)}
    conv = node(
        "Conv", ["x", "w", "b"], ["y"], name="filter", strides=[stride] * len(kernel), dilations=[dilation] * len(kernel),
        pads=list(pads), group=group,
    )  # fmt: skip
    proto = model([conv], consts, (1, channels, *shape))
    imported = assert_equals_onnx_runtime(proto, 2e-4)
    convs = [n for n in imported.onnx_model.graph.node if n.op_type == "Conv"]
    assert [n.name for n in convs] == ["filter"]
    data = {"x": np.random.default_rng(1).standard_normal((4, channels, *shape)).astype(np.float32)}
    module = qaccel.compile(proto, calibration_data=data)
    assert module.report["fallback"] == []
