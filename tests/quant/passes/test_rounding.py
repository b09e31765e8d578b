"""Rounding in closed form against the float model, on samples that it has not seen; integers stay what the machine takes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from networks import data
from qaccel.dialect import operators
from qaccel.emulate.executor import execute
from qaccel.emulate.integers import run_model, run_quantized
from qaccel.frontend.import_onnx import import_onnx
from qaccel.options import BitWidths
from qaccel.quant.calibrate.calibration import Calibration
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.passes import rounding, run_passes
from qaccel.quant.passes.bias_correction import correct_biases
from qaccel.quant.passes.rounding import round_to_outputs
from qaccel.quant.passes.rows import Rows
from qaccel.quant.quantize import quantize
from qaccel.relax_tools import bindings
from quant.layers import conv_model, model, node, prepared


def convs(mod) -> dict[str, tuple[operators.ConvAttrs, list[np.ndarray]]]:
    """Attributes, weight, bias and scale of every convolution by name."""
    calls = [b.value for b in bindings(mod["main"]) if operators.is_quantized(b.value)]
    calls = [call for call in calls if call.op.name == "qaccel.conv2d"]
    return {operators.read(c).name: (operators.read(c), [operators.constant(a) for a in c.args[1:]]) for c in calls}


def error(q, samples) -> float:
    """Mean squared error of all outputs against the float model."""
    wanted = execute(q.model, samples)
    return float(np.mean([np.square(v - wanted[k]).mean() for k, v in run_model(q, samples).items()]))


@pytest.mark.wide
@pytest.mark.parametrize("bits", [BitWidths(4, 8), BitWidths(8, 8)])
def test_outputs_move_towards_the_float_model(network_path: Path, bits: BitWidths) -> None:
    """At 8 bits most of the error is the activations', and little is left to gain."""
    imported = import_onnx(network_path)
    name = imported.inputs[0].name
    samples = {name: data.load("calibration", 64)["images"]}
    unseen = {name: data.load("test", 200)["images"]}
    ranges = calibrate(imported, samples)
    calibration = Calibration(ranges, samples, measured=True)
    plain = quantize(imported, ranges, bits)
    corrected = correct_biases(plain, calibration)
    rounded = correct_biases(round_to_outputs(plain, calibration), calibration)
    errors = [error(q, unseen) for q in (plain, corrected, rounded)]
    assert errors[2] < (0.5 if bits.weight_bits == 4 else 1.1) * min(errors[:2])


@pytest.mark.parametrize("seed", range(12))
def test_random_convolutions_at_four_bits(seed: int) -> None:
    """Dense, grouped and depthwise, with any stride, dilation and padding: less error, and integers that the machine takes.

    Three weights in a channel leave nothing to choose.
    """
    made = conv_model(np.random.default_rng(seed))
    imported, ranges, samples = prepared(made, seed, samples=16)
    plain = quantize(imported, ranges, BitWidths(4, 16))
    rounded = round_to_outputs(plain, Calibration(ranges, samples, measured=True))
    ((attrs, (weight, bias, scale)),) = convs(rounded.mod).values()
    assert attrs == convs(plain.mod)["conv"][0]
    assert np.abs(weight).max() <= 7 and bias.dtype == np.int32 and (scale > 0).all()
    assert error(rounded, samples) < (0.96 if weight[0].size > 6 else 1.02) * error(plain, samples)


@pytest.mark.parametrize("turned", [False, True])
def test_products_of_three_dimensions_know_their_rows(turned: bool) -> None:
    """A product behind a Transpose, whose rows lie in another order than the float output's, is not fitted to wrong ones."""
    rng = np.random.default_rng(5)
    nodes = [node("Transpose", "turned", ["x"], perm=[0, 2, 1])] if turned else []
    nodes += [node("MatMul", "first", ["turned" if turned else "x", "w"]), node("Relu", "relu", ["first"])]
    shape = (1, 24, 7) if turned else (1, 7, 24)
    nodes.append(node("MatMul", "second", ["relu", "v"]))
    constants = {"w": rng.normal(size=(24, 16)).astype(np.float32), "v": rng.normal(size=(16, 8)).astype(np.float32)}
    imported, ranges, samples = prepared(model(nodes, {"x": shape}, ["second"], constants), samples=64)
    plain = quantize(imported, ranges, BitWidths(4, 8))
    assert error(round_to_outputs(plain, Calibration(ranges, samples, measured=True)), samples) < 0.7 * error(
        plain, samples
    )


def test_float_outputs_and_integers_of_a_row_belong_together() -> None:
    """The float layer on the dequantized inputs of each row is its float output, but for the rounding of the input."""
    imported, ranges, samples = prepared(conv_model(np.random.default_rng(3)), 3, samples=8)
    plain = quantize(imported, ranges, BitWidths(8, 16))
    (real,) = plain.real.values()
    rows = Rows(real, 8, 4096, seed=0)
    execute(
        imported, samples, lambda name, value: rows.add(real.outputs(value)) if name == real.output.tensor else None
    )
    ((attrs, (weight, bias, scale)),) = convs(plain.mod).values()
    seen = []
    params = plain.mod["main"].params
    run_quantized(
        plain.mod, {params[0].name: samples["x"]}, reweigh=lambda _a, given, *own: (seen.extend(given), own)[1]
    )
    patches, outputs = rows.patches(attrs, weight.shape[1:3], seen) * attrs.source.scale, rows.outputs(attrs.groups)
    made = real.weight.reshape(attrs.groups, -1, patches.shape[1]) @ patches
    made += (bias * scale * attrs.source.scale).reshape(attrs.groups, -1, 1)
    np.testing.assert_allclose(made, outputs, atol=1e-2 * np.abs(outputs).max())


def test_wide_weights_and_given_ones_stay(mobilenet_path: Path) -> None:
    imported = import_onnx(mobilenet_path)
    samples = {imported.inputs[0].name: data.load("calibration", 4)["images"]}
    ranges = calibrate(imported, samples)
    plain = quantize(imported, ranges, BitWidths(16, 8))
    assert round_to_outputs(plain, Calibration(ranges, samples, measured=True)) is plain


def test_the_same_twice() -> None:
    imported, ranges, samples = prepared(conv_model(np.random.default_rng(4)), 4, samples=8)
    plain = quantize(imported, ranges, BitWidths(4, 8))
    first, second = (convs(round_to_outputs(plain, Calibration(ranges, samples, measured=True)).mod) for _ in range(2))
    for one, other in zip(first["conv"][1], second["conv"][1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_layers_without_float_outputs_stay(monkeypatch) -> None:
    """What the float executor computes as a whole with others is not seen; parts of a node at several scales are no output at all."""
    imported, ranges, samples = prepared(conv_model(np.random.default_rng(4)), 4, samples=8)
    plain = quantize(imported, ranges, BitWidths(4, 8))
    calibration = Calibration(ranges, samples, measured=True)
    assert round_to_outputs(replace(plain, plan={}), calibration).mod.same_as(plain.mod)
    monkeypatch.setattr(rounding, "execute", lambda *_: {})
    same = round_to_outputs(plain, calibration)
    for one, other in zip(convs(plain.mod)["conv"][1], convs(same.mod)["conv"][1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("bits", "inputs", "changes"), [
    (4, 3, (True, True)), (8, 3, (True, True)), (8, 24, (False, True)), (16, 3, (False, False)),
])  # fmt: skip
def test_many_weights_of_8_bits_are_rounded_at_best_effort(bits: int, inputs: int, changes: tuple[bool, bool]) -> None:
    """A channel has 27 weights, or 216: the first kind is rounded at any effort that rounds."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(8, inputs, 3, 3)).astype(np.float32)
    made = model(
        [node("Conv", "conv", ["x", "w"], kernel_shape=[3, 3])], {"x": (1, inputs, 9, 9)}, ["conv"], {"w": weight}
    )
    imported, ranges, samples = prepared(made, 3, samples=32)
    calibration = Calibration(ranges, samples, measured=True)
    plain = quantize(imported, ranges, BitWidths(bits, 8))
    ((_, before),) = convs(plain.mod).values()
    for effort, changed in zip(("default", "best"), changes, strict=True):
        ((_, after),) = convs(run_passes(plain, calibration, effort=effort).mod).values()
        assert (before[0] != after[0]).any() == changed
