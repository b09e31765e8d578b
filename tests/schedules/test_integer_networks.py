"""A module for the CPU alone gives the integers that the accelerator gives: whole networks, all nine pairs of widths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import qaccel
from networks import data
from qaccel import api
from qaccel.emulate.integers import run_model
from qaccel.options import BitWidths, CompileOptions, parse_target
from qaccel.pipeline import Compiled, compile_model, compile_quantized
from qaccel.stages import Stages
from quant.layers import PAIRS, model, node

TARGETS = ("llvm", "llvm -mcpu=native")


def _cases():
    """Every pair on one of the networks in turn; on both in the slow tests."""
    for k, pair in enumerate(PAIRS):
        for n, name in enumerate(("mobilenet", "resnet")):
            yield pytest.param(name, pair, marks=pytest.mark.wide if k % 2 == n else pytest.mark.slow)


@pytest.mark.parametrize(("name", "pair"), list(_cases()))
def test_networks_give_the_simulators_integers(name: str, pair: tuple[int, int]):
    sample = {data.INPUT_NAME: data.load("test", 1)["images"]}
    images = {data.INPUT_NAME: data.load("calibration", 4)["images"]}
    quantized = qaccel.quantize(data.HERE / f"{name}.onnx", images, bits=pair)
    expected = qaccel.compile(quantized).run(sample)
    compiled = for_cpu(quantized, TARGETS[PAIRS.index(pair) % 2])
    assert compiled.report is None
    got = api.Module(compiled).run(sample)
    for output, values in expected.items():
        np.testing.assert_array_equal(got[output], values)
        assert np.ptp(values) > 0


def for_cpu(quantized: qaccel.QuantizedNetwork, target: str) -> Compiled:
    """The same quantized model for the CPU alone."""
    options = replace(quantized.options, target=parse_target(target))
    return compile_quantized(quantized.quantized, options, quantized.name, Stages())


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
    got, expected = api.Module(compiled).run(images)["fc"], run_model(compiled.quantized, images)["fc"]
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
