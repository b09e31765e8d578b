"""What is fetched ahead: random chains against exact integers, what it saves, and plans that are wrong."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from npu.cascade_cases import random_chain
from npu.harness import run_artefact
from npu.layer_cases import WIDTHS, values
from npu.oracle import run_graph
from qaccel.errors import CompilerFault
from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.isa import decode
from qaccel.npu.check.program import check_program
from qaccel.npu.emit.encode import build_artefact
from qaccel.npu.emit.instructions import emit_program
from qaccel.npu.emit.weights import compress, weight_tiles
from qaccel.npu.layers import LayerGraph
from qaccel.npu.plan import allocate as planned
from qaccel.npu.plan.ahead import Records
from qaccel.npu.plan.allocate import Allocation, allocate

SEED = 20261130
CASES = 36


def case(index: int) -> tuple[LayerGraph, HwConfig, list[np.ndarray]]:
    """A chain with SRAM for all its maps, for a half of them, or as little as cascades need."""
    rng = np.random.default_rng([SEED, index])
    graph, tight = random_chain(rng, WIDTHS[index % 3], WIDTHS[index // 3 % 3])
    maps_bytes = sum(m.total_bytes for m in graph.maps)
    sram_bytes = (2 * maps_bytes + 65536, maps_bytes // 32 * 16 + tight.sram_bytes, tight.sram_bytes)[index % 3]
    hw = replace(load_config("qaccel-256"), sram_bytes=sram_bytes, weight_buffer_bytes=tight.weight_buffer_bytes)
    return graph, hw, [values(rng, (m.h, m.w, m.c), m.bits) for m in (graph.maps[i] for i in graph.inputs)]


def check(graph: LayerGraph, hw: HwConfig, allocation: Allocation, inputs: list[np.ndarray]) -> dict:
    """Proven, and exact in both modes; gives the counters, with the ops of the program and the size of its constants."""
    program = emit_program(graph, allocation, compress(weight_tiles(graph, allocation), hw), hw)
    artefact = build_artefact(graph, allocation, program, hw)
    check_program(artefact, program.intent)
    expected = run_graph(graph, inputs)
    for mode in ("functional", "cycle"):
        outputs, counters = run_artefact(artefact, inputs, mode)
        for got, index_of in zip(outputs, graph.outputs, strict=True):
            np.testing.assert_array_equal(got, expected[index_of])
    return counters | {"ops": [ins.op for ins in decode(artefact.program)], "constants": len(artefact.constants)}


def test_random_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact, never slower by more than 1%, no byte more from DRAM, and where records are merged there are fewer loads."""
    merged = several = 0
    for index in range(CASES):
        graph, hw, inputs = case(index)
        allocation = allocate(graph, hw)
        found = check(graph, hw, allocation, inputs)
        with monkeypatch.context() as patch:
            patch.setattr(planned, "merge_records", lambda *_: ())
            plain = check(graph, hw, allocate(graph, hw), inputs)
        assert found["cycles"] <= 1.01 * plain["cycles"], index
        assert found["constants"] == plain["constants"]
        assert found["dram_bytes"]["weights"] <= plain["dram_bytes"]["weights"]
        fewer = plain["ops"].count("LOAD_RAW") - found["ops"].count("LOAD_RAW")
        assert fewer >= sum(len(each.offsets) - 1 for each in allocation.records)
        merged += len(allocation.records)
        several += sum(len(each.offsets) > 1 for each in allocation.records)
    assert merged >= CASES / 2 and several > CASES / 6


@pytest.fixture(scope="module")
def chain() -> tuple[LayerGraph, HwConfig, list[np.ndarray], Allocation]:
    """A chain with records of several layers that come together."""
    for index in range(0, CASES, 3):
        graph, hw, inputs = case(index)
        allocation = allocate(graph, hw)
        of_several = [each for each in allocation.records if len(each.offsets) > 1]
        if of_several and graph.layers[min(of_several[0].offsets)].output in allocation.sram_addr:
            return graph, hw, inputs, allocation
    raise AssertionError("no chain with merged records")


def _changed(allocation: Allocation, change: Callable[[Records], Records]) -> Allocation:
    at = next(i for i, each in enumerate(allocation.records) if len(each.offsets) > 1)
    records = list(allocation.records)
    records[at] = change(records[at])
    return replace(allocation, records=tuple(records))


def test_records_of_another_layer_are_seen(chain: tuple) -> None:
    graph, hw, inputs, allocation = chain

    def swapped(records: Records) -> Records:
        first, second, *_ = records.offsets
        return replace(records, offsets=records.offsets | {second: records.offsets[first]})

    with pytest.raises((AssertionError, CompilerFault)):
        check(graph, hw, _changed(allocation, swapped), inputs)


def test_records_in_the_way_of_a_map_are_refused(chain: tuple) -> None:
    graph, hw, inputs, allocation = chain

    def on_a_map(records: Records) -> Records:
        return replace(records, addr=allocation.sram_addr[graph.layers[min(records.offsets)].output])

    with pytest.raises(CompilerFault, match="program check"):
        check(graph, hw, _changed(allocation, on_a_map), inputs)
