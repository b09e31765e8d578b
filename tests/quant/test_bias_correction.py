"""Bias correction against the float model, on images that it has not seen."""

from pathlib import Path

import numpy as np
import pytest

from networks import data
from qaccel.frontend.import_onnx import import_onnx
from qaccel.quant import operators
from qaccel.quant.bias_correction import correct_biases
from qaccel.quant.calibrate import calibrate
from qaccel.quant.float_executor import execute
from qaccel.quant.quantize import LayerBits, quantize


@pytest.mark.parametrize("bits", [LayerBits(4, 8), LayerBits(8, 8)])
def test_means_move_towards_the_float_model(network_path: Path, bits: LayerBits) -> None:
    model = import_onnx(network_path)
    name, output = model.inputs[0].name, model.outputs[0].name
    samples = {name: data.load("calibration", 64)["images"]}
    unseen = {name: data.load("test", 200)["images"]}
    plain = quantize(model, calibrate(model, samples), bits)
    corrected = correct_biases(plain, samples)
    wanted = execute(model, unseen)[output]
    errors = [np.square(q.run(unseen)[output] - wanted).mean() for q in (plain, corrected)]
    if bits.weight_bits == 4:
        assert errors[1] < 0.9 * errors[0]
    shifts = [
        np.abs((q.run(samples)[output] - execute(model, samples)[output]).mean(axis=0)).max()
        for q in (plain, corrected)
    ]
    assert shifts[1] < shifts[0]


def test_only_biases_change(mobilenet_path: Path) -> None:
    model = import_onnx(mobilenet_path)
    samples = {model.inputs[0].name: data.load("calibration", 8)["images"]}
    plain = quantize(model, calibrate(model, samples))
    corrected = correct_biases(plain, samples)
    for before, after in zip(_convs(plain.mod), _convs(corrected.mod), strict=True):
        assert operators.read(before) == operators.read(after)
        for position in (1, 3):
            np.testing.assert_array_equal(
                operators.constant(before.args[position]), operators.constant(after.args[position])
            )
        assert operators.constant(after.args[2]).dtype == np.int32


def _convs(mod) -> list:
    calls = [b.value for block in mod["main"].body.blocks for b in block.bindings if operators.is_quantized(b.value)]
    return [call for call in calls if call.op.name == "qaccel.conv2d"]
