"""Plans where SRAM is only just enough, and the rows of stripes for all of a map at once."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from npu import test_cascades
from npu.cascade_cases import random_chain
from npu.harness import run_artefact
from npu.layer_cases import WIDTHS, values
from npu.oracle import run_graph
from qaccel.errors import UserError
from qaccel.machine.hw import HwConfig
from qaccel.npu import codegen
from qaccel.npu.check.program import check_program
from qaccel.npu.emit.encode import build_artefact
from qaccel.npu.extents import all_rows_read
from qaccel.npu.layers import LayerGraph
from qaccel.npu.plan.allocate import Allocation, allocate
from qaccel.npu.plan.tiles.tile import fitting_working_bytes

SEED = 1
LEAST_SRAM_BYTES = 1024  # of any machine


def tight(seed: int, index: int) -> tuple[LayerGraph, HwConfig, np.random.Generator]:
    """A random chain, and a machine with as much SRAM as the layer that takes most needs where it runs alone."""
    rng = np.random.default_rng([seed, index])
    graph, hw = random_chain(rng, WIDTHS[index % 3], WIDTHS[index // 3 % 3])
    sizes = [fitting_working_bytes(layer, graph.maps, replace(hw, sram_bytes=16)) for layer in graph.layers]
    return graph, replace(hw, sram_bytes=max(LEAST_SRAM_BYTES, -(-max(size or 0 for size in sizes) // 16) * 16)), rng


def check(graph: LayerGraph, allocation: Allocation, hw: HwConfig, rng: np.random.Generator) -> None:
    program = test_cascades.emitted(graph, allocation, hw)
    artefact = build_artefact(graph, allocation, program, hw)
    check_program(artefact, program.intent)
    inputs = [values(rng, (m.h, m.w, m.c), m.bits) for m in (graph.maps[i] for i in graph.inputs)]
    outputs, _ = run_artefact(artefact, inputs, "cycle")
    expected = run_graph(graph, inputs)
    for got, index in zip(outputs, graph.outputs, strict=True):
        np.testing.assert_array_equal(got, expected[index])


@pytest.mark.parametrize("index", [4, 17, 36, 46, 51, 52, 53, 91, 98, 106, 134])
def test_what_fits_layer_by_layer_has_a_plan(index: int) -> None:
    graph, hw, rng = tight(SEED, index)
    check(graph, allocate(graph, hw), hw, rng)


def test_a_layer_that_was_made_too_small_gets_all_sram_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table's place stands in the way of the layer before it, and the table has no smaller tile."""
    monkeypatch.setattr(test_cascades, "SEED", 2026113012)
    graph, hw, inputs = test_cascades.case(1446)
    check(graph, allocate(graph, hw), hw, np.random.default_rng(SEED))


def test_rows_of_all_stripes() -> None:
    """Against the rows from the first to the last tap of each output row."""
    seen = 0
    for index in range(40):
        graph, _ = random_chain(np.random.default_rng([SEED, index]), 8, 8)
        for layer in graph.layers:
            window = getattr(layer, "window", None)
            if window is None:
                continue
            x, y = graph.maps[layer.inputs[0]], graph.maps[layer.output]
            read = all_rows_read(layer, 0, graph.maps)
            tops = [row * window.stride_h - window.pad_top for row in range(y.h)]
            reach = (window.kernel_h - 1) * window.dilation_h + 1
            under = [[row for row in range(top, top + reach) if 0 <= row < x.h] for top in tops]
            for row, rows in enumerate(under):
                if rows:
                    assert read.first[row] == rows[0]
                    assert read.end[row + 1] == rows[-1] + 1
                    seen += 1
    assert seen > 200


def test_garbage_is_collected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, hw, _ = test_cascades.case(0)
    collects = []
    monkeypatch.setattr(codegen, "order_channels", lambda graph: collects.append(gc.isenabled()) or graph)
    codegen.compile_layers(graph, hw)
    with pytest.raises(UserError):
        codegen.compile_layers(graph, replace(hw, sram_bytes=16))
    assert collects == [False, False] and gc.isenabled()
