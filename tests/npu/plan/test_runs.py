"""A tile's transfers are priced by what the DRAM channel spends on them: short runs cost a whole beat each."""

import dataclasses

import numpy as np
import pytest

from npu.harness import run_artefact
from npu.layer_cases import values
from qaccel.machine import cost
from qaccel.machine.hw import load_config
from qaccel.npu.codegen import compile_layers
from qaccel.npu.layers import ChannelParams, DepthwiseLayer, FeatureMap, LayerGraph, Window

SEED = 20261130
HW = load_config("qaccel-256")


def test_beats_of_a_box_are_counted_byte_by_byte() -> None:
    """Against a count of the bus words that each run of bytes touches; runs that touch each other are one."""
    rng = np.random.default_rng(SEED)
    for _ in range(300):
        bus = int(rng.choice([1, 4, 8, 10, 16]))
        rows, pixels, size = (int(v) for v in rng.integers(1, (6, 7, 40)))
        pixel_stride = size + int(rng.choice([0, 1, 5, 24]))
        row_stride = pixels * pixel_stride + int(rng.choice([0, 0, 3, 16]))
        touched = {
            row * row_stride + p * pixel_stride + b for row in range(rows) for p in range(pixels) for b in range(size)
        }
        runs, word = 0, None
        for byte in sorted(touched):  # a new word, or the same one after a gap
            if byte // bus != word or byte - 1 not in touched:
                runs += 1
            word = byte // bus
        hw = dataclasses.replace(HW, dram_bytes_per_cycle=bus)
        assert cost.box_beats(rows, row_stride, pixels, pixel_stride, size, hw) == runs


@pytest.mark.parametrize(("config", "most"), [("qaccel-64", 1.1), ("qaccel-256", 1.1), ("qaccel-1024", 1.1)])
def test_a_layer_between_maps_in_dram_takes_long_runs(config: str, most: float) -> None:
    """A depthwise layer of 96 channels on a map too large for SRAM, over the time that its bytes take on the channel.

    Priced by bytes, the planner took 4 channels at a time: runs of 4 bytes, each a whole beat.
    """
    hw = load_config(config)
    channels, side = 96, 112
    rng = np.random.default_rng([SEED, channels])
    weights = rng.integers(-127, 128, (3, 3, channels)).astype(np.int32)
    x, y = (FeatureMap(name, side, side, channels, 8, 0) for name in "xy")
    params = ChannelParams(*(np.full(channels, value) for value in (0, 1 << 30, 40)))
    window = Window(3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    macs = side * side * weights.size
    layer = DepthwiseLayer("depthwise", "Conv", (0,), 1, -128, 127, window, 8, params, weights, macs)
    compiled = compile_layers(LayerGraph("main", (x, y), (layer,), (0,), (1,)), hw)
    _, counters = run_artefact(compiled.artefact, [values(rng, (side, side, channels), 8)], "cycle")
    least = 2 * side * side * channels / hw.dram_bytes_per_cycle
    assert counters["cycles"] / max(least, macs / (hw.rows * hw.cols)) < most
