"""A module for the CPU alone gives the integers that the accelerator gives: whole networks, all nine pairs of widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import qaccel
from networks import data
from qaccel import api
from qaccel.options import BitWidths, CompileOptions, parse_target
from qaccel.pipeline import compile_model
from qaccel.stages import Stages
from quant.layers import PAIRS, model, node

TARGETS = ("llvm", "llvm -mcpu=native")


@pytest.mark.parametrize("pair", PAIRS)
def test_networks_give_the_simulators_integers(network_path: Path, pair: tuple[int, int]):
    images = {data.INPUT_NAME: data.load("calibration", 4)["images"]}
    sample = {data.INPUT_NAME: data.load("test", 1)["images"]}
    quantized = qaccel.quantize(network_path, images, bits=pair)
    expected = qaccel.compile(quantized).run(sample)
    target = TARGETS[PAIRS.index(pair) % 2]
    options = CompileOptions(parse_target(target), calibration_data=images, bits=BitWidths(*pair))
    compiled = compile_model(network_path, options, "network", Stages())
    assert compiled.report is None
    got = api.Module(compiled).run(sample)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values)
        np.testing.assert_array_equal(quantized.run(sample)[name], values)
        assert np.ptp(values) > 0


def test_float_operators_between_integers():
    """Softmax stays in floating point, what is around it does not."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(6, 4, 3, 3)).astype(np.float32), "m": rng.normal(size=(36, 5)).astype(np.float32)}
    nodes = [
        node("Conv", "conv", ["x", "w"]), node("Softmax", "soft", ["conv"], axis=1), node("Flatten", "flat", ["soft"]),
        node("Gemm", "fc", ["flat", "m"]),
    ]  # fmt: skip
    weights["m"] = rng.normal(size=(6 * 36, 5)).astype(np.float32)
    made = model(nodes, {"x": (1, 4, 8, 8)}, ["fc"], weights)
    images = {"x": rng.normal(size=(4, 4, 8, 8)).astype(np.float32)}
    options = CompileOptions(parse_target("llvm -mcpu=native"), calibration_data=images, bits=BitWidths(8, 8))
    compiled = compile_model(made, options, "network", Stages())
    assert compiled.quantized is not None
    got, expected = api.Module(compiled).run(images)["fc"], compiled.quantized.run(images)["fc"]
    # Softmax in another order of additions may fall on the other side of a tie.
    step = next(entry["scale"] for entry in compiled.metadata["outputs"])
    assert np.abs(got - expected).max() <= step * 1.01


def test_a_folder_of_modules_for_another_cpu(tmp_path: Path):
    """Cross-compiled, as an archive that needs no compiler of that machine here."""
    options = CompileOptions(
        parse_target("llvm -mtriple=aarch64-linux-gnu -mattr=+neon,+dotprod"), input_range=(-1, 1), bits=BitWidths(8, 8)
    )
    weight = np.random.default_rng(1).normal(size=(8, 3, 3, 3)).astype(np.float32)
    made = model([node("Conv", "conv", ["x", "w"])], {"x": (1, 3, 9, 9)}, ["conv"], {"w": weight})
    onnx.checker.check_model(made)
    path = api.Module(compile_model(made, options, "network", Stages())).export_library(tmp_path / "arm.tar")
    assert path.stat().st_size > 0
