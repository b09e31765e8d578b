"""Neighbouring shapes take about as long: sweeps of products in cycles of the machine, over the bound of multipliers and DRAM. And more
SRAM does not make a plan fall apart."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import qaccel
from golden import estimates
from networks import data
from npu.harness import run_artefact
from npu.layer_cases import values
from qaccel.errors import UserError
from qaccel.machine.hw import HwConfig, changed_config, config_names, load_config
from qaccel.machine.isa import isa
from qaccel.npu import codegen
from qaccel.npu.codegen import compile_layers
from qaccel.npu.layers import ChannelParams, ConvLayer, FeatureMap, LayerGraph, Window
from qaccel.npu.lower.groups import group_parts
from qaccel.npu.plan.allocate import allocate
from qaccel.options.schedule import Schedule
from qaccel.run.program import profile

SEED = 20261129
ROWS = (700, 1000, 1024, 1088, 1500, 2048, 2112, 2500, 3136, 3264, 4096)


def over_bound(in_channels: int, out_channels: int, hw: HwConfig) -> float:
    """Cycles of a product of one row at W8A8 over what its multipliers and its bytes in DRAM take."""
    rng = np.random.default_rng([SEED, in_channels, out_channels])
    weights = np.clip(np.rint(rng.laplace(0, 16, (out_channels, 1, 1, in_channels))), -127, 127).astype(np.int32)
    x, y = FeatureMap("x", 1, 1, in_channels, 8, 0), FeatureMap("y", 1, 1, out_channels, 8, 0)
    params = ChannelParams(*(np.full(out_channels, value) for value in (0, 1 << 30, 44)))
    parts = group_parts(weights, 1, 8, x, y, hw)
    layer = ConvLayer("product", "MatMul", (0,), 1, -128, 127, Window(), 8, parts, params, weights, weights.size)
    compiled = compile_layers(LayerGraph("main", (x, y), (layer,), (0,), (1,)), hw)
    _, counters = run_artefact(compiled.artefact, [values(rng, (1, 1, in_channels), 8)], "cycle")
    record_bytes = out_channels * isa().params_bytes
    dram_bytes = compiled.layers[0].stream_bytes + record_bytes + in_channels + out_channels
    return counters["cycles"] / max(weights.size / (hw.rows * hw.cols), dram_bytes / hw.dram_bytes_per_cycle)


@pytest.mark.parametrize("config", config_names())
def test_products_have_no_cliffs(config: str) -> None:
    """From one number of rows to the next no product gets worse by more than a tenth, and none is far from its bound."""
    found = [(rows, over_bound(rows, 128, load_config(config))) for rows in ROWS]
    assert all(over < 1.15 for _, over in found), found
    for (_, before), (rows, after) in pairwise(found):
        assert after < 1.1 * before, (rows, before, after)


@pytest.fixture(scope="module")
def mobilenet() -> LayerGraph:
    images = data.load("calibration", 16)["images"]
    network = qaccel.quantize(data.HERE / "mobilenet.onnx", {data.INPUT_NAME: images}, bits="W8A8", effort="fast")
    [graph] = estimates.subgraphs(network, load_config("qaccel-64"))
    return graph


def cycles(graph: LayerGraph, hw: HwConfig) -> int:
    return int(profile(compile_layers(graph, hw).artefact, trace=False)["cycles"])


@pytest.mark.parametrize("sram_bytes", [11776, 23040, 27136, 33792])
def test_cascades_that_find_no_place_are_not_the_end(sram_bytes: int, mobilenet: LayerGraph) -> None:
    """Where what is chosen for all of SRAM cannot lie in it, what is chosen for less of it can."""
    hw = changed_config(load_config("qaccel-64"), "small", {"sram_bytes": sram_bytes})
    planned = cycles(mobilenet, hw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codegen, "quickest_plan", allocate)
        assert planned < 0.97 * cycles(mobilenet, hw)


@pytest.mark.parametrize("sram_bytes", [8192, 8704, 27136, 33792])
def test_a_plan_for_less_sram_is_read_back(sram_bytes: int, mobilenet: LayerGraph) -> None:
    hw = changed_config(load_config("qaccel-64"), "small", {"sram_bytes": sram_bytes})
    first = compile_layers(mobilenet, hw)
    assert first.schedule.sram_bytes in {sram_bytes * part // 16 for part in (15, 14, 12)}
    schedule = Schedule(hw.name, {mobilenet.symbol: first.schedule})
    assert compile_layers(mobilenet, hw, schedule=schedule).artefact == first.artefact
    more = Schedule(hw.name, {mobilenet.symbol: replace(first.schedule, sram_bytes=sram_bytes + 64)})
    with pytest.raises(UserError, match=f"sram_bytes {sram_bytes + 64} must be from 1 to the {sram_bytes} of small"):
        compile_layers(mobilenet, hw, schedule=more)
