"""Rows that a cascade loads from DRAM while COMPUTE waits for them: how many of them the estimate knows, against the simulator."""

import numpy as np
import pytest

from npu.harness import run_artefact
from npu.layer_cases import random_scale, values
from npu.oracle import run_graph
from qaccel.machine.hw import load_config
from qaccel.npu.codegen import compile_layers, planned
from qaccel.npu.layers import FeatureMap, LayerGraph, PoolLayer, Window
from qaccel.npu.plan.estimate import planned_cycles
from qaccel.npu.plan.stripes import Cascade, Ring
from qaccel.options.schedule import CascadeChoice, Schedule, SubgraphSchedule

SEED = 20261202
HW = load_config("qaccel-256")
SIDE, ROWS = 96, 8


def pools(*kernels: int) -> LayerGraph:
    """Maxima of some rows and pixels around each of 96 x 96 x 32 values, one behind the other."""
    rng = np.random.default_rng(SEED)
    layers = tuple(
        PoolLayer(
            f"pool{i}", "MaxPool", (i,), i + 1, -128, 127, Window(k, k, 1, 1, 1, 1, *[k // 2] * 4), "max", True,
            {1: random_scale(rng, 0)},
        )
        for i, k in enumerate(kernels)
    )  # fmt: skip
    maps = tuple(FeatureMap(f"m{i}", SIDE, SIDE, 32, 8, 0) for i in range(len(kernels) + 1))
    return LayerGraph("main", maps, layers, (0,), (len(kernels),))


def in_stripes(graph: LayerGraph, ring_rows: int | None) -> tuple[int, int, Cascade]:
    """Estimate and count of a cascade of stripes of 8 rows, its input with a ring of so many. The integers are compared, too."""
    first, last = graph.layers[0].name, graph.layers[-1].name
    rings = None if ring_rows is None else {f"input of {first}": ring_rows}
    choice = CascadeChoice(first, last, stripe_rows=ROWS, rings=rings)
    asked = Schedule(HW.name, {"main": SubgraphSchedule(cascades=(choice,))})
    compiled = compile_layers(graph, HW, schedule=asked)
    x = values(np.random.default_rng(SEED), (SIDE, SIDE, 32), 8)
    outputs, counters = run_artefact(compiled.artefact, [x], "cycle")
    np.testing.assert_array_equal(outputs[0], run_graph(graph, [x])[graph.outputs[0]])
    whole, allocation = planned(graph, HW, asked)
    estimate = sum(cycles for _, cycles in planned_cycles(whole, allocation, HW))
    return estimate, int(counters["cycles"]), allocation.cascades[0]


@pytest.mark.parametrize("kernels", [(3,), (7,), (7, 1)])
def test_rows_that_come_while_compute_waits_are_known(kernels: tuple[int, ...]) -> None:
    """A ring of one stripe and its halo has each load behind the stripe before, one of more rows one of several, or none."""
    counts = []
    for more in (0, ROWS, 3 * ROWS):
        estimate, count, _ = in_stripes(pools(*kernels), ROWS + kernels[0] - 1 + more)
        counts.append(count)
        assert abs(estimate - count) <= 0.06 * count, (more, estimate, count)
    assert counts[0] > 1.08 * counts[2]


def test_a_ring_has_room_to_load_into() -> None:
    """Where a schedule says nothing of rings, none of the loads are waited for."""
    for kernel in (1, 3, 7):
        _, count, cascade = in_stripes(pools(kernel), None)
        assert cascade.work.exposed_loads == 0
        assert count < in_stripes(pools(kernel), ROWS + kernel - 1)[1]


def test_what_other_layers_make_meanwhile_hides_a_load() -> None:
    """A ring of two stripes whose halo has been copied before: the second layer is made while the first one's rows are loaded."""
    stripes = SIDE // ROWS - 1
    both, alone = in_stripes(pools(7, 1), 2 * ROWS + 6), in_stripes(pools(7), 2 * ROWS + 6)
    assert both[2].work.exposed_loads < alone[2].work.exposed_loads < stripes
    assert in_stripes(pools(7, 1), ROWS + 6)[2].work.exposed_loads == stripes


def test_an_estimate_that_knows_none_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ring, "late_stripes", lambda _: [])
    estimate, count, _ = in_stripes(pools(7, 1), ROWS + 6)
    assert estimate < 0.9 * count
