"""Networks through ONNX Runtime's own quantizer, in each of its forms: on the accelerator by their own scales."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from breadth.generator import network
from cases.nets import decibels
from qaccel.emulate.integers import run_model
from qaccel.npu.partition.partition import float_macs
from qaccel.options import TargetOptions, options_of
from qaccel.pipeline import quantize_model
from qaccel.stages import Stages
from qdq.networks import every_tensor
from tiers import wide_after

quantization = pytest.importorskip("onnxruntime.quantization")

S8, U8, S16 = (getattr(quantization.QuantType, name) for name in ("QInt8", "QUInt8", "QInt16"))
SYMMETRIC = {"extra_options": {"ActivationSymmetric": True}}
QOPERATOR = {"quant_format": quantization.QuantFormat.QOperator, "reduce_range": True}  # no kernel saturates
# What to quantize with, the least share of MACs in integers, the least decibels beside ONNX Runtime.
MODES = {
    "u8s8": ({"activation_type": U8, "weight_type": S8, "per_channel": True}, 1.0, 60),
    "s8": ({"activation_type": S8, "weight_type": S8}, 1.0, 60),
    "s16 symmetric": ({"activation_type": S16, "weight_type": S8, "per_channel": True, **SYMMETRIC}, 1.0, 60),
    "s16": ({"activation_type": S16, "weight_type": S8, "per_channel": True}, 0.0, 60),
    "int4 weights": ({"activation_type": U8, "weight_type": quantization.QuantType.QInt4, "per_channel": True}, 1.0, 60),
    "QOperator": ({"activation_type": U8, "weight_type": S8, "per_channel": True, **QOPERATOR}, 1.0, 60),
    "dynamic": (None, 1.0, 20),
}  # fmt: skip


class _Samples(quantization.CalibrationDataReader):
    def __init__(self, samples: np.ndarray) -> None:
        self.left = iter([{"x": sample} for sample in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def quantized(model: onnx.ModelProto, how: dict | None, samples: np.ndarray, folder: Path) -> onnx.ModelProto:
    before, after = (os.fspath(folder / name) for name in ("before.onnx", "after.onnx"))
    onnx.save(model, before)
    quantization.shape_inference.quant_pre_process(before, before, skip_symbolic_shape=True)
    if how is not None and how["weight_type"] is quantization.QuantType.QInt4:
        onnx.save(onnx.version_converter.convert_version(onnx.load(before), 21), before)
    if how is None:
        quantization.quantize_dynamic(before, after, weight_type=S8)
    else:
        form = {"quant_format": quantization.QuantFormat.QDQ, **how}
        quantization.quantize_static(before, after, _Samples(samples), **form)
    return onnx.load(after)


# Networks 0 and 3 have no ConvTranspose, whose weights ONNX Runtime leaves in float in QOperator models.
@pytest.mark.parametrize("mode", wide_after(1, MODES))
@pytest.mark.parametrize("seed", [0, 3])
def test_quantized_by_onnxruntime(seed: int, mode: str, tmp_path: Path) -> None:
    how, share, floor = MODES[mode]
    model = network(seed)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    samples = np.random.default_rng(seed).normal(size=(4, *shape)).astype(np.float32)
    made = quantized(model, how, samples, tmp_path)
    data = {} if how is not None else {"calibration_data": {"x": samples.reshape(-1, *shape[1:])}}
    q = quantize_model(made, options_of(TargetOptions(), **data), Stages())
    macs = float_macs(q.model.mod)
    in_float = {name: reason for name, _, reason in q.unquantized}
    assert sum(n for name, n in macs.items() if name not in in_float) >= share * sum(macs.values()), in_float
    if mode == "s16":
        layers = {name: in_float[name] for name, n in macs.items() if n}
        assert all("zero point" in reason and "ActivationSymmetric" in reason for reason in layers.values()), layers
    wanted, got = every_tensor(made, samples[0]), run_model(q, {"x": samples[0]})
    assert min(decibels(wanted[name], value) for name, value in got.items()) >= floor
