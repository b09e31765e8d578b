"""Neighbouring shapes take about as long: sweeps of products in cycles of the machine, over the bound of multipliers and DRAM."""

from itertools import pairwise

import numpy as np
import pytest

from npu.harness import run_artefact
from npu.layer_cases import values
from qaccel.machine.hw import HwConfig, config_names, load_config
from qaccel.machine.isa import isa
from qaccel.npu.codegen import compile_layers
from qaccel.npu.layers import ChannelParams, ConvLayer, FeatureMap, LayerGraph, Window
from qaccel.npu.lower.groups import group_parts

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
