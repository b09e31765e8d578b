"""What is fetched ahead, records and streams: exact integers, what it saves, and plans that are wrong."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import qaccel
from golden import estimates, table
from npu.cascade_cases import random_chain
from npu.harness import run_artefact
from npu.layer_cases import WIDTHS, random_params, values
from npu.oracle import run_graph
from qaccel.errors import CompilerFault
from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.isa import decode
from qaccel.npu import codegen
from qaccel.npu.check.program import check_program
from qaccel.npu.emit.encode import build_artefact
from qaccel.npu.emit.instructions import emit_program
from qaccel.npu.emit.stocks import _Shelf
from qaccel.npu.emit.weights import compress, weight_tiles
from qaccel.npu.layers import ConvLayer, ConvPart, FeatureMap, LayerGraph, PoolLayer, Window
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
    return counters | {
        "instructions": decode(artefact.program),
        "ops": [ins.op for ins in decode(artefact.program)],
        "constants": len(artefact.constants),
        "streams": program.stream_bytes,
    }


def test_random_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact, never slower by more than 1%, no byte more from DRAM, and where records are merged there are fewer loads."""
    merged = several = 0
    for index in range(CASES):
        graph, hw, inputs = case(index)
        allocation = allocate(graph, hw)
        found = check(graph, hw, allocation, inputs)
        with monkeypatch.context() as patch:
            patch.setattr(planned, "merge_records", lambda graph, units, taken, hw: ((), taken))
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


def test_records_come_in_the_order_of_their_layers() -> None:
    """With twice the columns, the few records that are wanted first must not wait for the many that are wanted later."""
    hw = load_config("qaccel-256")
    hw = replace(hw, name="more", cols=2 * hw.cols)
    quantized = qaccel.quantize(table.model_of("resnet"), table.data_of("resnet"), bits="W4A8", effort="fast")
    (graph,) = estimates.subgraphs(quantized, hw)
    _, allocation = codegen.planned(graph, hw)
    steps = [records.step for records in sorted(allocation.records, key=lambda records: min(records.offsets))]
    assert len(steps) > 1 and steps == sorted(steps)


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


OUT = 2048


def waiting(sram_bytes: int) -> tuple[LayerGraph, HwConfig, list[np.ndarray]]:
    """Two convolutions that compute for long, a maximum, and a product that waits for its weights."""
    rng = np.random.default_rng(SEED)
    maps = tuple(
        FeatureMap(name, size, size, channels, 8, int(zero))
        for name, size, channels, zero in zip("xabpy", (24, 24, 24, 1, 1), (32, 32, 32, 32, OUT), (3, -5, 7, 7, 0), strict=True)
    )  # fmt: skip

    def conv(number: int, kernel: int) -> ConvLayer:
        x, y = maps[number], maps[number + 1]
        weights = np.clip(np.rint(rng.laplace(0, 20, (y.c, kernel, kernel, x.c))), -127, 127).astype(np.int32)
        part = ConvPart(0, 0, weights.transpose(1, 2, 3, 0))
        window = Window(
            kernel, kernel, pad_top=kernel // 2, pad_left=kernel // 2, pad_bottom=kernel // 2, pad_right=kernel // 2
        )
        params = random_params(rng, y.c, 7 + np.log2(weights[0].size) / 2)
        return ConvLayer(
            f"conv{number}", "Conv", (number,), number + 1, -128, 127, window, 8, (part,), params, weights, 0
        )

    pool = PoolLayer("pool", "MaxPool", (2,), 3, -128, 127, Window(24, 24), "max", False, {1: (1 << 30, 30)})
    layers = (conv(0, 3), conv(1, 3), pool, conv(3, 1))
    hw = replace(load_config("qaccel-256"), name="waiting", sram_bytes=sram_bytes, weight_buffer_bytes=8192)
    return LayerGraph("main", maps, layers, (0,), (4,)), hw, [values(rng, (24, 24, 32), 8)]


def plain_allocation(monkeypatch: pytest.MonkeyPatch, graph: LayerGraph, hw: HwConfig) -> Allocation:
    with monkeypatch.context() as patch:
        patch.setattr(planned, "stock_streams", lambda *_: ())
        return allocate(graph, hw)


@pytest.mark.parametrize(("sram_bytes", "refilled"), [(81920, False), (98304, False), (524288, True)])
def test_streams_wait_in_sram(monkeypatch: pytest.MonkeyPatch, sram_bytes: int, refilled: bool) -> None:
    """Exact and quicker, the same streams once each; where the LOAD engine is free, what is decoded makes room for others."""
    graph, hw, inputs = waiting(sram_bytes)
    allocation = allocate(graph, hw)
    found = check(graph, hw, allocation, inputs)
    plain = check(graph, hw, plain_allocation(monkeypatch, graph, hw), inputs)
    assert found["streams"] == plain["streams"] and found["constants"] == plain["constants"]
    assert found["dram_bytes"]["weights"] == plain["dram_bytes"]["weights"]
    (stock,) = allocation.stocks
    decoded = sum(ins["stream_bytes"] for ins in found["instructions"] if ins.op == "LOADW" and ins["source"] == "sram")
    room = sum(size for _, _, size in stock.pieces)
    assert stock.refilled == refilled and 0 < decoded <= found["streams"][3]
    assert (decoded > room) == refilled
    first = next(i for i, ins in enumerate(found["instructions"]) if ins.engine == "COMPUTE" and ins["layer"] == 3)
    ahead = [ins for ins in found["instructions"][:first] if ins.op == "LOAD_RAW" and ins["layer"] == 3]
    saved = sum(ins["bytes"] for ins in ahead) / hw.dram_bytes_per_cycle
    assert plain["cycles"] - found["cycles"] > 0.3 * saved > 1000


def test_a_stock_in_the_way_of_a_map_is_refused() -> None:
    graph, hw, inputs = waiting(98304)
    allocation = allocate(graph, hw)
    (stock,) = allocation.stocks
    (step, _, size), *others = stock.pieces
    wrong = replace(stock, pieces=((step, allocation.sram_addr[2], size), *others))
    with pytest.raises(CompilerFault, match="program check"):
        check(graph, hw, replace(allocation, stocks=(wrong,)), inputs)


def test_a_stream_over_one_that_still_waits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, hw, inputs = waiting(98304)
    allocation = allocate(graph, hw)

    def first_place(shelf: _Shelf, size: int, step: int) -> int:
        return shelf.stock.pieces[0][1]

    monkeypatch.setattr(_Shelf, "place", first_place)
    with pytest.raises(CompilerFault, match="program check"):
        check(graph, hw, allocation, inputs)
